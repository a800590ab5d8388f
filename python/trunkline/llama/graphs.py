"""Decode steps as CUDA graphs: one per batch size, powers of two."""

from __future__ import annotations

import torch

from .attention import AttentionBackend
from .model import Llama


class DecodeGraphs:
    """Captures a decode step per batch size and replays it for whatever the attention is planned for.

    The graphs hold the launches of all layers; the plan lives in the attention's workspace and is made anew before each
    replay. A batch is padded to the next captured size: padding has no slot and is in no plan, so its rows are neither
    written to the cache nor read by the attention.

    Parameters
    ----------
    model : Llama
        On a CUDA device.
    attention : AttentionBackend
    max_batch_size : int
    """

    def __init__(self, model: Llama, attention: AttentionBackend, max_batch_size: int) -> None:
        self._model = model
        self._attention = attention
        size = 1 << (max_batch_size - 1).bit_length()
        self._tokens = torch.zeros(size, dtype=torch.int64, device=model.device)
        self._positions = torch.zeros_like(self._tokens)
        self._slots = torch.full_like(self._tokens, -1)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, tokens: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Logits of a planned decode step, f32 ``[tokens, vocab_size]``, valid until the next."""
        num_tokens = len(tokens)
        size = 1 << (num_tokens - 1).bit_length()
        self._tokens[:num_tokens] = tokens
        self._positions[:num_tokens] = positions
        self._slots[:num_tokens] = slots
        self._slots[num_tokens:size] = -1
        if size not in self._graphs:
            self._graphs[size] = self._capture(size)
        graph, logits = self._graphs[size]
        graph.replay()
        return logits[:num_tokens]

    def _step(self, size: int) -> torch.Tensor:
        self._attention.set_slots(self._slots[:size])
        hidden = self._model.hidden_states(self._tokens[:size], self._positions[:size], self._attention)
        return self._model.logits(hidden)

    def _capture(self, size: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        # Once before capturing, so that libraries set themselves up; it writes the same KV as the replay after it.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(size)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._step(size)
        return graph, logits
