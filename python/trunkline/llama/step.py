"""What a step computes: the sequences in it, and a row of numbers for each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import trunkline as tl

from .sampling import SamplingParams


@dataclass
class Generation:
    """What became of one prompt: its samples, in the order in which they finished."""

    prompt: list[int]
    params: SamplingParams
    samples: list[list[int]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.samples) == self.params.n


@dataclass(eq=False)
class Sequence:
    """One sample under way."""

    generation: Generation
    tokens: list[int]  # known on the host; of a sequence that decodes, the last ones may still be on the device
    num_samples: int  # that it stands for: n until its first new token, then 1
    request: int = -1  # the tree's name; -1 while waiting and when finished
    known: np.ndarray = field(init=False)  # tokens when it came to wait

    def __post_init__(self) -> None:
        self.known = np.asarray(self.tokens, np.int32)

    def row(self, begin: int, end: int) -> tuple[Any, ...]:
        """Its numbers as a ROW, when it joins."""
        params = self.generation.params
        max_tokens = len(self.generation.prompt) + params.max_new_tokens
        return (
            self.request,
            begin,
            end,
            len(self.known),
            max_tokens,
            self.num_samples,
            -1,
            params.temperature,
            params.top_p,
            bool(params.stop_tokens),
        )


# A sequence's numbers. Its tokens [begin, end) are computed in the current step; end of them have slots in the tree.
ROW = np.dtype(
    [
        ("request", np.int64),
        ("begin", np.int32),
        ("end", np.int32),
        ("num_known", np.int32),  # tokens that were known when it joined; those from there on are sampled
        ("max_tokens", np.int32),
        ("num_samples", np.int32),
        ("source", np.int32),  # which of the last step's samples is its token begin, when that is a sampled one
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("may_stop", np.bool_),  # before max_tokens
    ],
    align=True,
)


@dataclass
class Step:
    """What the model computes at once, a row a sequence, the oldest first."""

    sequences: list[Sequence]
    rows: np.ndarray  # ROW [sequences]
    inputs: np.ndarray  # int64 [3, tokens]: token, or ~source when it is below 0; position; slot
    copies: list[tl.PageCopy]  # to carry out before
    replaced: list[tuple[int, int, Iterable[int]]]  # request, first page, pages: what became of tables since the last
    samples: list[Sequence] = field(default_factory=list)  # whose next tokens it samples
    drawn_from: np.ndarray = field(init=False)  # int64 [samples], the row of each

    @property
    def num_new(self) -> np.ndarray:
        """Tokens per row."""
        return self.rows["end"] - self.rows["begin"]

    @property
    def is_sampled(self) -> np.ndarray:
        """Which rows have a next token that is unknown."""
        return self.rows["end"] >= self.rows["num_known"]
