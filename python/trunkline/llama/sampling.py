"""From logits to tokens."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..checks import integer, integers
from .transfer import to_device


@dataclass(frozen=True)
class SamplingParams:
    """How a prompt is continued.

    Parameters
    ----------
    max_new_tokens : int
    temperature : float
        0 takes the most likely token.
    top_p : float
        Sample among the fewest most likely tokens whose probabilities reach this sum.
    n : int
        Samples of the prompt; they share its KV.
    stop_tokens : iterable of int
        A sample ends with the first of these. Kept as a tuple.

    Raises
    ------
    ValueError
        Naming the parameter.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    stop_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "n"):
            object.__setattr__(self, name, integer(name, getattr(self, name), least=1))
        for name, bound, good in (
            ("temperature", "a number of at least 0", lambda value: value >= 0),
            ("top_p", "a number within (0, 1]", lambda value: 0 < value <= 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not good(value):
                raise ValueError(f"{name}: expected {bound}, got {value!r}")
        object.__setattr__(self, "stop_tokens", tuple(integers("stop_tokens", self.stop_tokens)))


def sample(logits: torch.Tensor, params: Sequence[SamplingParams], generator: torch.Generator | None) -> torch.Tensor:
    """One token per row of ``logits`` (f32 ``[rows, vocab_size]``), by that row's parameters; int64 ``[rows]``."""
    temperatures, top_ps = (
        np.array([getattr(p, name) for p in params], np.float32) for name in ("temperature", "top_p")
    )
    return sample_rows(logits, temperatures, top_ps, generator)


def sample_rows(
    logits: torch.Tensor, temperatures: np.ndarray, top_ps: np.ndarray, generator: torch.Generator | None
) -> torch.Tensor:
    """The same with the parameters as float32 ``[rows]``. The host does not wait for the device."""
    if not temperatures.any():
        return logits.argmax(dim=-1)
    temperature = to_device(temperatures[:, None], logits.device)
    probabilities = torch.softmax(logits / temperature.clamp_min(1e-6), dim=-1)
    if (top_ps < 1).any():
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered  # the most likely token is always kept
        kept = torch.where(before < to_device(top_ps[:, None], logits.device), ordered, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(1, order, kept)
    # The first of exponential clocks with these rates to ring; torch.multinomial would have the host look at its input.
    clocks = torch.empty_like(probabilities).exponential_(generator=generator)
    sampled = probabilities.div_(clocks).argmax(dim=-1)
    return torch.where(temperature.squeeze(1) == 0, logits.argmax(dim=-1), sampled)
