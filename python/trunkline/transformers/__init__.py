"""Trunkline under Hugging Face Transformers (tested with 5.23).

Importing this module registers the attention implementation ``"trunkline"``. It is used in one of two ways:

- ``generate`` with a :class:`PagedCache` made from the prompt;
- continuous batching through :func:`init_continuous_batching`.

Layers with a sliding window, attention sinks, soft-capped scores or a bias are refused by name.
"""

from .attention import register, trunkline_attention, trunkline_mask
from .batching import init_continuous_batching
from .cache import PagedCache

register()

__all__ = ["PagedCache", "init_continuous_batching", "register", "trunkline_attention", "trunkline_mask"]
