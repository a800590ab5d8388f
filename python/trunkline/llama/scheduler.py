"""Which tokens a step computes: continuous batching over a prefix tree."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

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
    """One sample under way. ``tokens[: num_done]`` have their KV in pages."""

    generation: Generation
    tokens: list[int]
    num_samples: int  # that it stands for: n until its first new token, then 1
    request: int = -1  # the tree's name; -1 while waiting
    num_done: int = 0
    array: np.ndarray = field(init=False)  # tokens when it came to wait

    def __post_init__(self) -> None:
        self.array = np.asarray(self.tokens, np.int32)

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.generation.prompt) :]

    @property
    def finished(self) -> bool:
        params, num_generated = self.generation.params, len(self.tokens) - len(self.generation.prompt)
        return num_generated >= params.max_new_tokens or (num_generated > 0 and self.tokens[-1] in params.stop_tokens)


@dataclass
class Turn:
    """A sequence's part of a step: its tokens ``[begin, end)`` are computed."""

    sequence: Sequence
    begin: int
    end: int
    appended: tl.Appended | None  # None: they were inserted

    @property
    def has_next(self) -> bool:
        return self.end == len(self.sequence.tokens)


class Scheduler:
    """Sequences waiting and running, and their pages.

    A prompt waits while another one that is being prefilled shares more with it than the cache does, so shared prefixes
    are computed once, at any depth. When pages run out, the youngest sequence waits again; its tokens stay cached.

    Parameters
    ----------
    tree : trunkline.PrefixTree
    max_requests : int
        Sequences in a step.
    max_prefill_tokens : int
        Prompt tokens in a step, beside one token of each sequence that decodes.
    """

    def __init__(self, tree: tl.PrefixTree, max_requests: int, max_prefill_tokens: int) -> None:
        self.num_preemptions = 0
        self._tree = tree
        self._max_requests = max_requests
        self._max_prefill_tokens = max_prefill_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # the oldest first

    @property
    def num_unfinished(self) -> int:
        """Sequences waiting or running; a prompt that waits counts once."""
        return len(self._waiting) + len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def next_step(self) -> tuple[list[Turn], list[tl.PageCopy]]:
        """The step's turns, and the page copies to carry out before. The turns' tokens have slots in the tree; commit
        them when their KV is written."""
        turns: list[Turn] = []
        copies: list[tl.PageCopy] = []
        budget = self._max_prefill_tokens
        for sequence in list(self._running):
            if sequence.request < 0:  # preempted by an older one
                continue
            begin = sequence.num_done
            end = min(len(sequence.tokens), begin + max(1, budget))
            appended = self._append(sequence, sequence.tokens[begin:end])
            if appended is None:
                continue
            if appended.copy is not None:
                copies.append(appended.copy)
            turns.append(Turn(sequence, begin, end, appended))
            if len(sequence.tokens) - begin > 1:
                budget -= end - begin
        self._admit(turns, copies, budget)
        if not turns:
            raise RuntimeError("step: expected a prompt, got none")
        return turns, copies

    def _admit(self, turns: list[Turn], copies: list[tl.PageCopy], budget: int) -> None:
        """Let waiting sequences in, in order, while there are pages, requests and prefill tokens left."""
        under_way = [turn.sequence.array for turn in turns if turn.end - turn.begin > 1]
        taken = sum(sequence.num_samples for sequence in self._running)
        delayed: list[Sequence] = []
        while self._waiting and budget > 0 and taken + self._waiting[0].num_samples <= self._max_requests:
            sequence = self._waiting[0]
            tokens = sequence.array
            num_cached = self._tree.match_length(tokens[:-1])
            if any(_common_prefix(tokens[:-1], other) > num_cached for other in under_way):
                delayed.append(self._waiting.popleft())
                continue
            end = min(len(tokens), num_cached + budget)
            try:
                # The last token is computed even when it is cached, for its logits.
                inserted = self._tree.insert(tokens[:end], max_cached_tokens=min(end, len(tokens) - 1))
            except MemoryError:
                if not turns:
                    raise
                break
            self._running.append(self._waiting.popleft())
            sequence.request = inserted.request
            if inserted.copy is not None:
                copies.append(inserted.copy)
            turns.append(Turn(sequence, inserted.num_cached_tokens, end, None))
            under_way.append(tokens)
            taken += sequence.num_samples
            budget -= end - inserted.num_cached_tokens
        self._waiting.extendleft(reversed(delayed))

    def _append(self, sequence: Sequence, tokens: list[int]) -> tl.Appended | None:
        """Append to a running sequence; while pages lack, the youngest one goes back to the queue (None: this one)."""
        while True:
            try:
                return self._tree.append(sequence.request, tokens)
            except MemoryError:
                if len(self._running) == 1:
                    raise
                youngest = self._running.pop()
                self._preempt(youngest)
                if youngest is sequence:
                    return None

    def _preempt(self, sequence: Sequence) -> None:
        self._tree.remove(sequence.request)
        sequence.request, sequence.num_done = -1, 0
        sequence.array = np.asarray(sequence.tokens, np.int32)
        self._waiting.appendleft(sequence)
        self.num_preemptions += 1

    def fork(self, sequence: Sequence) -> Sequence:
        """Another sequence with the same tokens, all committed, in the same pages."""
        request = self._tree.fork(sequence.request)
        fork = Sequence(sequence.generation, list(sequence.tokens), 1, request, sequence.num_done)
        self._running.append(fork)
        return fork

    def finish(self, sequence: Sequence) -> None:
        """Record a running sequence's tokens and let its pages go; they stay cached."""
        sequence.generation.samples.append(sequence.generated)
        self._tree.remove(sequence.request)
        self._running.remove(sequence)


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
