"""KV pages of a model's layers and the attention over them, in PyTorch tensors.

What the Transformers integration and :mod:`trunkline.llama` have in common: an attention that is planned once per step
and grows with the batches it meets, and storage for every layer's KV that grows with the pages in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

import trunkline as tl

from .checks import integer


def _next_power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def default_num_threads(device: torch.device) -> int:
    """Threads for a CPU attention: as many as PyTorch computes with; 1 on other devices, where it is not used."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def check_options(strategy: str, num_threads: int | None, page_size: int = 1) -> None:
    """Raise ValueError for what a :class:`StepAttention` would refuse only when its first step comes."""
    integer("page_size", page_size, least=1)
    tl.AttentionConfig(1, 1, 1, page_size, strategy=strategy)
    if num_threads is not None:
        integer("num_threads", num_threads, least=1)


class StepAttention:
    """An :class:`trunkline.Attention` that is planned once per step and replaced by a larger one when a step needs it.

    Parameters
    ----------
    num_qo_heads, num_kv_heads, head_dim, page_size : int
    dtype : torch.dtype
        Of queries, output and KV.
    device : torch.device
    sm_scale : float, optional
        Factor of the scores; default ``head_dim ** -0.5``.
    strategy : str
        ``"auto"``, ``"unshared"``, ``"two_phase"`` or ``"hydragen"``.
    num_threads : int, optional
        CPU threads; default PyTorch's.
    """

    def __init__(
        self,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        sm_scale: float | None = None,
        strategy: str = "auto",
        num_threads: int | None = None,
    ) -> None:
        self.config = tl.AttentionConfig(
            num_qo_heads, num_kv_heads, head_dim, page_size, dtype=dtype, sm_scale=sm_scale, strategy=strategy
        )
        self._sm_scale = head_dim**-0.5 if sm_scale is None else sm_scale
        self._page_size = page_size
        self._device = device
        self._num_threads = default_num_threads(device) if num_threads is None else num_threads
        self._capacity: tuple[int, ...] = (0, 0, 0)  # requests, query tokens, table width
        self._attention: tl.Attention | None = None

    def reserve(self, num_requests: int, num_query_tokens: int, table_width: int) -> None:
        """Make room for such steps, so that planning them allocates nothing. A new attention has no plan yet.

        Raises
        ------
        MemoryError
            When their workspace does not fit. The attention, its plan and its room stay as they are.
        """
        need = (num_requests, num_query_tokens, table_width)
        if all(n <= have for n, have in zip(need, self._capacity)):
            return
        capacity = tuple(max(have, _next_power_of_two(n)) for n, have in zip(need, self._capacity))
        attention = tl.Attention(
            self.config,
            max_requests=capacity[0],
            max_query_tokens=capacity[1],
            max_table_width=capacity[2],
            device=str(self._device),
            num_threads=self._num_threads,
        )
        _ = attention.workspace  # allocated here, not by the first plan
        if self._attention is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the old workspace must outlive the runs under way
        self._attention, self._capacity = attention, capacity

    def plan(self, forest: tl.Forest) -> tl.Plan:
        """Plan the step; every :meth:`run` until the next plan is of this forest."""
        longest = int(forest.seq_lens.max(initial=0))
        width = -(-longest // self._page_size)
        self.reserve(max(1, forest.num_requests), max(1, forest.num_query_tokens), max(1, width))
        assert self._attention is not None
        return self._attention.plan(forest)

    def check_scale(self, sm_scale: float) -> None:
        """Raise ValueError for a layer that asks for another scale than the one all layers are planned with."""
        if sm_scale != self._sm_scale:
            raise ValueError(f"scaling: expected {self._sm_scale} in every layer, got {sm_scale}")

    def run(self, q: torch.Tensor, kv: tl.KvCache, out: torch.Tensor | None = None) -> torch.Tensor:
        """Attention of the planned step, ``[tokens, num_qo_heads, head_dim]`` like ``q``."""
        if self._attention is None:
            raise RuntimeError("run: expected a plan of this step, got none")
        return self._attention.run(q, kv, out)


class KvPages:
    """K and V of every layer, ``[pages, page_size, num_kv_heads, head_dim]`` each, as many pages as are in use.

    Parameters
    ----------
    num_layers, page_size, num_kv_heads, head_dim : int
    dtype : torch.dtype
    device : torch.device
    num_pages : int
        Room from the start; :meth:`reserve` doubles it as often as needed.
    """

    def __init__(
        self,
        num_layers: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        num_pages: int = 1,
    ) -> None:
        self.num_layers = num_layers
        self.num_pages = num_pages
        self._dtype = dtype
        self._device = device
        self._page_shape = (page_size, num_kv_heads, head_dim)
        self._tensors = [self._allocate(num_pages) for _ in range(num_layers)]
        self._bind()

    def _allocate(self, num_pages: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (num_pages, *self._page_shape)
        k, v = (torch.empty(shape, dtype=self._dtype, device=self._device) for _ in range(2))
        return k, v

    def _bind(self) -> None:
        self._bound = [tl.KvCache(k, v) for k, v in self._tensors]

    def __getitem__(self, layer: int) -> tl.KvCache:
        return self._bound[layer]

    def tensors(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of a layer; another pair after :meth:`reserve` grew them."""
        return self._tensors[layer]

    @property
    def nbytes(self) -> int:
        return sum(k.nbytes + v.nbytes for k, v in self._tensors)

    def reserve(self, num_pages: int) -> bool:
        """Make room for pages ``0 .. num_pages - 1``, keeping what is written. Returns whether it grew."""
        if num_pages <= self.num_pages:
            return False
        grown = max(num_pages, 2 * self.num_pages)
        tensors = [self._allocate(grown) for _ in self._tensors]
        for old, new in zip(self._tensors, tensors):
            for source, target in zip(old, new):
                target[: self.num_pages] = source
        self._tensors, self.num_pages = tensors, grown
        self._bind()
        return True

    def write(self, layer: int, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        """New tokens' KV, ``[tokens, num_kv_heads, head_dim]``, into int64 ``slots``; a negative slot is skipped."""
        tl.append_kv(self._bound[layer], k, v, slots)

    def copy(self, copies: Sequence[tl.PageCopy]) -> None:
        """Carry out page copies in every layer."""
        if copies:
            for kv in self._bound:
                tl.copy_kv(kv, copies)
