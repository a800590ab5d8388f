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
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        size = 1 << (max_batch_size - 1).bit_length()
        self._inputs = torch.zeros(3 * size, dtype=torch.int64, device=model.device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of a planned decode step, f32 ``[tokens, vocab_size]``, valid until the next.

        ``inputs`` holds token, position and slot of each request's new token, int64 ``[3, tokens]`` on the host.
        """
        num_tokens = inputs.shape[1]
        size = 1 << (num_tokens - 1).bit_length()
        padded = torch.zeros(3, size, dtype=torch.int64, pin_memory=True)
        padded[:, :num_tokens] = inputs
        padded[2, num_tokens:] = -1
        self._inputs[: 3 * size].copy_(padded.flatten(), non_blocking=True)
        if size not in self._graphs:
            self._graphs[size] = self._capture(size)
        graph, logits = self._graphs[size]
        graph.replay()
        return logits[:num_tokens]

    def _step(self, size: int) -> torch.Tensor:
        tokens, positions, slots = self._inputs[: 3 * size].view(3, size)
        self._attention.set_slots(slots)
        hidden = self._model.hidden_states(tokens, positions, self._attention)
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
