"""Transformers' continuous batching on Trunkline."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching import ContinuousBatchingManager

import trunkline as tl

from ..paged_layers import StepAttention, check_options
from .attention import NAME, refuse_sliding_layers

_SESSIONS: weakref.WeakKeyDictionary[ContinuousBatchingManager, BatchSession] = weakref.WeakKeyDictionary()


def init_continuous_batching(
    model: PreTrainedModel,
    generation_config: GenerationConfig | None = None,
    continuous_batching_config: ContinuousBatchingConfig | None = None,
    *,
    strategy: str = "auto",
    num_threads: int | None = None,
) -> ContinuousBatchingManager:
    """A continuous-batching manager whose attention is Trunkline's; start and stop it as usual.

    Transformers 5.23 makes a manager only for implementations it knows by name (``switch_to_cb_friendly_attn`` raises
    for any other, with or without ``paged|``), but runs whatever the model has when the manager starts. So the manager
    is made under ``sdpa``, not switched to flash, and the model is set to ``trunkline`` after that. CUDA graphs,
    ``torch.compile`` and asynchronous batching are off: replaying a step would skip its planning.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Full-attention layers only; sliding-window layers are ring buffers there. It is left with the implementation
        ``"trunkline"``.
    generation_config : transformers.GenerationConfig, optional
    continuous_batching_config : transformers.ContinuousBatchingConfig, optional
        Copied. Asking it for graphs, compilation or asynchronous batching is an error.
    strategy : str
        ``"auto"``, ``"unshared"``, ``"two_phase"`` or ``"hydragen"``.
    num_threads : int, optional
        CPU threads; default PyTorch's.

    Raises
    ------
    ValueError
        For sliding-window layers, a setting named above, or another strategy or number of threads.
    """
    check_options(strategy, num_threads)
    refuse_sliding_layers(model.config.get_text_config(decoder=True))
    config = copy.copy(continuous_batching_config or ContinuousBatchingConfig())
    for name in ("use_cuda_graph", "use_async_batching", "varlen_compile_config", "decode_compile_config"):
        value = getattr(config, name)
        if value and value != (False, False):
            raise ValueError(f"{name}: expected none (a replayed step would skip its planning), got {value}")
    config.use_cuda_graph = (False, False)
    config.use_async_batching = False
    config.auto_switch_to_flash = False
    config.max_blocks_per_request = 0  # no block tables on the device: KV is written by write_index
    previous = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    init: Any = model.init_continuous_batching
    try:
        manager = init(generation_config, continuous_batching_config=config)
    except BaseException:
        model.set_attn_implementation(previous)
        raise
    model.set_attn_implementation(NAME)
    _SESSIONS[manager] = BatchSession(manager, strategy, num_threads)
    return manager


def session_of(paged_cache: Any) -> BatchSession:
    """The session whose manager owns this cache. Raises ValueError when there is none."""
    for manager, session in list(_SESSIONS.items()):
        processor = manager.batch_processor
        if processor is not None and processor.cache is paged_cache:
            return session
    raise ValueError("cache: expected continuous batching started by init_continuous_batching, got another manager's")


class BatchSession:
    """Plans the steps of one manager. The manager knows the batch on the host, so nothing is read back."""

    def __init__(self, manager: ContinuousBatchingManager, strategy: str, num_threads: int | None) -> None:
        self._manager = weakref.ref(manager)
        self._options: dict[str, Any] = {"strategy": strategy, "num_threads": num_threads}
        self._attention: StepAttention | None = None
        self._cache: Any = None
        self._kv: dict[int, tl.KvCache] = {}

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, write_index: list[torch.Tensor]) -> None:
        """Write the new tokens' KV of a layer, ``[1, num_kv_heads, tokens, head_dim]``, where the manager put them."""
        kv = self._bind(layer)
        slots = write_index[self._cache.layer_to_allocator[layer].index]
        tl.append_kv(kv, key[0].transpose(0, 1), value[0].transpose(0, 1), slots)

    def attend(self, layer: int, q: torch.Tensor, scale: float) -> torch.Tensor:
        """A layer's attention in the step under way, ``[1, tokens, num_qo_heads, head_dim]``."""
        kv = self._kv[layer]
        allocator = self._cache.layer_to_allocator[layer]
        if layer == allocator.layer_indices[0]:
            self._plan(allocator, kv, q, scale)
        assert self._attention is not None
        self._attention.check_scale(scale)
        return self._attention.run(q[0].transpose(0, 1), kv).unsqueeze(0)

    def _bind(self, layer: int) -> tl.KvCache:
        manager = self._manager()
        assert manager is not None and manager.batch_processor is not None
        cache = manager.batch_processor.cache
        if cache is not self._cache:  # a manager that was stopped and started again has another
            self._cache, self._kv = cache, {}
        if layer not in self._kv:
            # K and V of one layer lie apart; the pages of a block follow each other, layer by layer.
            self._kv[layer] = tl.KvCache(*cache.layer_to_allocator[layer].get_cache_for_block_table(layer))
        return self._kv[layer]

    def _plan(self, allocator: Any, kv: tl.KvCache, q: torch.Tensor, scale: float) -> None:
        manager = self._manager()
        assert manager is not None and manager.batch_processor is not None
        inputs: Any = manager.batch_processor.inputs_and_outputs
        batch = inputs.requests_in_batch
        page_size = allocator.tokens_per_page
        pages_per_block = allocator.block_physical_stride // page_size
        tables = []
        for future in batch:
            num_pages = -(-future.state.position_offset // page_size)
            blocks = allocator.block_table[future.state.request_id][:num_pages]
            tables.append(np.asarray(blocks, np.int32) * np.int32(pages_per_block))
        indptr = np.cumsum([0, *map(len, tables)], dtype=np.int32)
        forest = tl.Forest.from_block_tables(
            (indptr, np.concatenate(tables)),
            [future.state.position_offset for future in batch],  # the new tokens are counted already
            page_size,
            qo_lens=[future.query_length for future in batch],
            num_pages=kv.num_pages,
        )
        if forest.num_query_tokens != q.shape[2]:
            raise RuntimeError(f"q: expected {forest.num_query_tokens} tokens of the batch, got {q.shape[2]}")
        if self._attention is None:
            self._attention = StepAttention(
                q.shape[1], kv.num_kv_heads, kv.head_dim, page_size, q.dtype, q.device, sm_scale=scale, **self._options
            )
        self._attention.plan(forest)
