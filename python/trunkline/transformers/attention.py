"""The attention function and the mask function that Transformers calls."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "trunkline"

# PagedCache.update marks the keys it returns with itself: the attention function is called next with these keys, and
# the models do not pass it their cache.
CACHE_MARK = "_trunkline_cache"

# What a layer may ask of an attention function beside softmax(q k) v, and is not built.
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias", "alibi", "head_mask")


class PagedStep(Protocol):
    """What can compute a layer's attention in the step under way."""

    def attend(self, layer: int, q: torch.Tensor, scale: float) -> torch.Tensor:
        """Attention of ``q`` ``[batch, num_qo_heads, tokens, head_dim]``, as ``[batch, tokens, num_qo_heads,
        head_dim]``."""
        ...


def refuse_sliding_layers(config: Any) -> None:
    """Raise ValueError when a layer of the model has a sliding window (or is no plain attention layer)."""
    types = getattr(config, "layer_types", None)
    if types is None:
        window = getattr(config, "sliding_window", None)
        if window is not None and getattr(config, "use_sliding_window", True):
            raise ValueError(f"sliding_window: expected None (windows are not supported), got {window}")
        return
    for layer, kind in enumerate(types):
        if kind != "full_attention":
            raise ValueError(f"layer_types[{layer}]: expected 'full_attention', got '{kind}' (not supported)")


def refuse_gradients(states: torch.Tensor) -> None:
    """Raise ValueError for states of which a gradient is wanted: there is no backward pass."""
    if states.requires_grad:
        raise ValueError("model: expected a call under torch.no_grad() ('trunkline' attention has no gradient)")


def trunkline_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over paged KV, for ``AttentionInterface``.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer; its ``layer_idx`` names its pages.
    query, key, value : torch.Tensor
        ``[batch, heads, tokens, head_dim]``; key and value hold the new tokens only.
    attention_mask : torch.Tensor, optional
        Must be None: causality and padding are known to the cache.
    scaling : float, optional
        Factor of the scores; default ``head_dim ** -0.5``.
    dropout : float
        Must be 0.

    Returns
    -------
    tuple
        Output ``[batch, tokens, heads, head_dim]`` and None for the weights, which are never formed.

    Raises
    ------
    ValueError
        Without a :class:`PagedCache` or continuous batching, with a mask, dropout or gradients, or for a feature that
        is not built.
    """
    for name in _UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise ValueError(f"{name}: expected None (not supported by 'trunkline' attention), got {kwargs[name]}")
    if dropout:
        raise ValueError(f"dropout: expected 0, got {dropout}")
    if attention_mask is not None:
        raise ValueError(f"attention_mask: expected None, got a mask of shape {tuple(attention_mask.shape)}")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    refuse_gradients(query)
    paged = kwargs.get("cache")
    step: PagedStep | None
    if paged is not None:
        from .batching import session_of

        session = session_of(paged)
        session.write(module.layer_idx, key, value, kwargs["write_index"])
        step = session
    else:
        step = getattr(key, CACHE_MARK, None)
    if step is None:
        raise ValueError(
            "past_key_values: expected a trunkline.transformers.PagedCache, or continuous batching started by "
            "trunkline.transformers.init_continuous_batching, got neither"
        )
    return step.attend(module.layer_idx, query, scale), None


def trunkline_mask(*args: Any, **kwargs: Any) -> None:
    """The mask function: none is needed, since the plan knows causality, lengths and padding."""
    return None


def register() -> None:
    """Register the attention and the mask function under the name ``"trunkline"``. Importing does it."""
    AttentionInterface.register(NAME, trunkline_attention)
    AttentionMaskInterface.register(NAME, trunkline_mask)
