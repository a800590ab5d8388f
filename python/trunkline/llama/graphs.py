"""Decode steps as CUDA graphs: one per batch size, powers of two."""

from __future__ import annotations

import numpy as np
import torch

from .attention import AttentionBackend
from .model import Llama


def forward(model: Llama, attention: AttentionBackend, inputs: torch.Tensor, sampled: torch.Tensor) -> torch.Tensor:
    """The hidden states of a planned step.

    Parameters
    ----------
    model : Llama
    attention : AttentionBackend
    inputs : torch.Tensor
        Token, position and slot of each new token, int64 ``[3, tokens]``. A token below 0 is ``~i``: what lies in
        ``sampled[i]``, which the host need not know.
    sampled : torch.Tensor
        int64, what the step before sampled.
    """
    tokens, positions, slots = inputs
    attention.set_slots(slots)
    tokens = torch.where(tokens < 0, sampled[(~tokens).clamp_min(0)], tokens)
    return model.hidden_states(tokens, positions, attention)


class DecodeGraphs:
    """Captures a decode step per batch size and replays it for whatever the attention is planned for.

    The graphs hold the launches of all layers; the plan lives in the attention's workspace and is made anew before each
    replay. A batch is padded to the next captured size: padding has no slot and is in no plan, so its rows are neither
    written to the cache nor read by the attention. Whoever leaves or joins only moves the padding.

    Parameters
    ----------
    model : Llama
        On a CUDA device.
    attention : AttentionBackend
    sampled : torch.Tensor
        int64, where the tokens of the step before lie at each replay.
    max_batch_size : int
    """

    def __init__(self, model: Llama, attention: AttentionBackend, sampled: torch.Tensor, max_batch_size: int) -> None:
        self._model = model
        self._attention = attention
        self._sampled = sampled
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        size = 1 << (max_batch_size - 1).bit_length()
        self._inputs = torch.zeros(3 * size, dtype=torch.int64, device=model.device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, inputs: np.ndarray) -> torch.Tensor:
        """Logits of a planned decode step, f32 ``[tokens, vocab_size]``, valid until the next.

        ``inputs`` as :func:`forward` takes them, on the host. The host waits for nothing.
        """
        num_tokens = inputs.shape[1]
        size = 1 << (num_tokens - 1).bit_length()
        padded = np.zeros((3, size), np.int64)
        padded[:, :num_tokens] = inputs
        padded[2, num_tokens:] = -1
        self._send(torch.from_numpy(padded))
        if size not in self._graphs:
            self._graphs[size] = self._capture(size)
        graph, logits = self._graphs[size]
        graph.replay()
        return logits[:num_tokens]

    def _send(self, inputs: torch.Tensor) -> None:
        self._inputs[: inputs.numel()].copy_(inputs.flatten().pin_memory(), non_blocking=True)

    def _step(self, size: int) -> torch.Tensor:
        inputs = self._inputs[: 3 * size].view(3, size)
        return self._model.logits(forward(self._model, self._attention, inputs, self._sampled))

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
