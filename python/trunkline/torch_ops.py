"""Trunkline as PyTorch operators, so that ``torch.compile`` and CUDA graphs work over it.

Three custom operators with fake kernels: ``trunkline::run``, ``trunkline::run_with_lse`` and ``trunkline::append_kv``.
Planning is host work and stays outside of compiled code: plan, then call the compiled step. The KV cache is an argument
of every operator, so a compiler sees that attention reads what appending wrote.

Examples
--------
>>> import numpy as np, torch, trunkline as tl
>>> from trunkline.torch_ops import TorchAttention, append_kv
>>> config = tl.AttentionConfig(num_qo_heads=2, num_kv_heads=1, head_dim=8, page_size=4, dtype=torch.float32)
>>> attention = TorchAttention(tl.Attention(config, max_requests=2, max_table_width=2))
>>> k_cache, v_cache = torch.zeros(3, 4, 1, 8), torch.zeros(3, 4, 1, 8)
>>> def layer(q, k, v, slots):
...     append_kv(k_cache, v_cache, k, v, slots)
...     return attention(q, k_cache, v_cache)
>>> attention.plan(tl.Forest.from_block_tables(np.array([[0, 1], [0, 2]], np.int32), [5, 5], page_size=4))
>>> layer(torch.randn(2, 2, 8), torch.randn(2, 1, 8), torch.ones(2, 1, 8), torch.tensor([4, 8])).shape
torch.Size([2, 2, 8])
"""

from __future__ import annotations

import itertools
import weakref

import torch

import trunkline as tl

_counter = itertools.count()
_attentions: weakref.WeakValueDictionary[int, TorchAttention] = weakref.WeakValueDictionary()


class TorchAttention:
    """An :class:`trunkline.Attention` that can be called inside compiled code.

    Parameters
    ----------
    attention : trunkline.Attention
        Planned through :meth:`plan`, into its own workspace.
    """

    def __init__(self, attention: tl.Attention) -> None:
        self.attention = attention
        self._handle = next(_counter)  # operators take numbers and tensors only
        _attentions[self._handle] = self

    def plan(self, forest: tl.Forest) -> None:
        """Plan the step that the next calls compute; not inside compiled or captured code."""
        self.attention.plan(forest)

    @property
    def handle(self) -> int:
        """What names this attention as an operator's argument, as long as it lives."""
        return self._handle

    def __call__(self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> torch.Tensor:
        """Attention of the planned step, ``[tokens, num_qo_heads, head_dim]`` like ``q``; caches are NHD,
        ``[pages, page_size, num_kv_heads, head_dim]``."""
        return run(q, k_cache, v_cache, self._handle)

    def with_lse(
        self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and the natural-log log-sum-exp, f32 ``[tokens, num_qo_heads]``."""
        return run_with_lse(q, k_cache, v_cache, self._handle)


def _attention(handle: int) -> tl.Attention:
    found = _attentions.get(handle)
    if found is None:
        raise ValueError(f"attention: expected the handle of a living TorchAttention, got {handle}")
    return found.attention


@torch.library.custom_op("trunkline::run", mutates_args=())
def run(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, attention: int) -> torch.Tensor:
    """``Attention.run`` of the attention named by the handle."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _attention(attention).run(q, tl.KvCache(k_cache, v_cache), out)
    return out


@run.register_fake
def _(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, attention: int) -> torch.Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@torch.library.custom_op("trunkline::run_with_lse", mutates_args=())
def run_with_lse(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, attention: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``Attention.run`` with the log-sum-exp."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    _attention(attention).run(q, tl.KvCache(k_cache, v_cache), out, lse)
    return out, lse


@run_with_lse.register_fake
def _(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, attention: int
) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    return out, torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)


@torch.library.custom_op("trunkline::append_kv", mutates_args=("k_cache", "v_cache"))
def append_kv(
    k_cache: torch.Tensor, v_cache: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor
) -> None:
    """``trunkline.append_kv`` into NHD caches: ``k`` and ``v`` ``[tokens, num_kv_heads, head_dim]`` into the int64
    ``slots`` ``page * page_size + token`` on the same device; a negative slot is skipped."""
    tl.append_kv(tl.KvCache(k_cache, v_cache), k, v, slots)


@append_kv.register_fake
def _(k_cache: torch.Tensor, v_cache: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
    return None
