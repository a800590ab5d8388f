"""Which tokens a step computes: continuous batching over a prefix tree, a step ahead of the tokens that it samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import trunkline as tl

from .step import ROW, Sequence, Step


@dataclass
class _Draft:
    """A step being made: as in Step, and its tokens and slots in parts."""

    replaced: list[tuple[int, int, Iterable[int]]]
    copies: list[tl.PageCopy] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)
    slots: list[np.ndarray] = field(default_factory=list)


class Scheduler:
    """Sequences waiting and running, and their pages.

    A step is made before the tokens of the step before are known: a sequence that decodes takes a slot for a token that
    the tree learns later, and one that stops at a token is found out a step too late. What its last step then computes
    is dropped.

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
        self.num_unfinished = 0  # sequences; a prompt that waits counts once
        self._tree = tree
        self._max_requests = max_requests
        self._max_prefill_tokens = max_prefill_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # the oldest first
        self._rows = np.empty(0, ROW)  # of the running ones
        self._replaced: list[tuple[int, int, Iterable[int]]] = []  # by commits since the last step
        self._last_taken = np.empty(0, np.int32)  # tokens
        self._stopped: list[int] = []  # requests that these ended, of which the step under way does not know

    @property
    def has_work(self) -> bool:
        """Whether there is anything to make a step of."""
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)
        self.num_unfinished += 1

    def may_run_short(self) -> bool:
        """Whether the next step could want more pages than there are, to the best of what is known. Then all sampled
        tokens must be taken before it: sequences that are preempted must be known whole, and those that end give."""
        if not self._running:
            return True  # whoever comes next finds what others leave
        num_prefilling = np.count_nonzero(self._rows["end"] < self._rows["num_known"])
        pages = len(self._running) + num_prefilling  # where tokens begin and end within pages
        if num_prefilling:
            pages += self._max_prefill_tokens // self._tree.page_size
        return bool(pages > self._tree.num_available_pages)

    def next_step(self) -> Step:
        """The next step; hand it back to :meth:`launched` when the device has it."""
        draft = _Draft(self._replaced)
        self._replaced = []
        self._admit(draft, self._grow(draft))
        rows = self._rows.copy()
        num_new = rows["end"] - rows["begin"]
        ends = num_new.cumsum()
        inputs = np.empty((3, ends[-1]), np.int64)
        np.concatenate(draft.tokens, out=inputs[0])
        inputs[1] = np.arange(ends[-1]) + np.repeat(rows["end"] - ends, num_new)
        np.concatenate(draft.slots, out=inputs[2])
        return Step(self._running.copy(), rows, inputs, draft.copies, draft.replaced)

    def _grow(self, draft: _Draft) -> int:
        """A token more for every running sequence, or a piece of its prompt. Returns how many more prompt tokens may
        join the step."""
        rows, budget = self._rows, self._max_prefill_tokens
        rows["begin"] = rows["end"]
        rows["end"] += 1
        prefilling = np.flatnonzero(rows["begin"] < rows["num_known"]).tolist()
        for index in prefilling:
            begin, num_left = rows["begin"][index], rows["num_known"][index] - rows["begin"][index]
            size = min(num_left, max(1, budget))
            rows["end"][index] = begin + size
            budget -= size if num_left > 1 else 0
        num_new = rows["end"] - rows["begin"]
        ends = num_new.cumsum()
        inputs = np.repeat(~rows["source"], num_new)
        for index in prefilling:
            begin, end = rows["begin"][index], rows["end"][index]
            inputs[ends[index] - num_new[index] : ends[index]] = self._running[index].known[begin:end]
        named = np.maximum(inputs, 0)  # 0 stands for a token that is not known yet
        done = 0
        while done < len(self._running):
            part = slice(done, len(self._running))
            of_part = slice(ends[done] - num_new[done], ends[len(self._running) - 1])
            requests = np.ascontiguousarray(rows["request"][part])
            try:
                made = self._tree.append_each(requests, num_new[part], named[of_part])
            except MemoryError:
                self._preempt_youngest()
                continue
            for index, copy in made.copies:
                begin = rows["begin"][done + index].item()
                draft.copies.append(copy)
                draft.replaced.append((int(requests[index]), begin // self._tree.page_size, (copy.dst,)))
            draft.slots.append(made.slots)
            done += made.num_requests
        if not done:
            return self._max_prefill_tokens
        draft.tokens.append(inputs[: ends[done - 1]])
        return budget

    def _preempt_youngest(self) -> None:
        sequence = self._running.pop()
        self._rows = self._rows[:-1]
        self._tree.remove(sequence.request)
        sequence.request = -1
        sequence.known = np.asarray(sequence.tokens, np.int32)
        self._waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _admit(self, draft: _Draft, budget: int) -> None:
        """Let waiting sequences in, in order, while there are pages, requests and prefill tokens left."""
        if not self._waiting:
            return
        num_new = self._rows["end"] - self._rows["begin"]
        under_way = [self._running[row].known for row in np.flatnonzero(num_new > 1)]
        taken = int(self._rows["num_samples"].sum())
        delayed: list[Sequence] = []
        rows: list[tuple[Any, ...]] = []
        while self._waiting and budget > 0 and taken + self._waiting[0].num_samples <= self._max_requests:
            sequence = self._waiting[0]
            known = sequence.known
            num_cached = self._tree.match_length(known[:-1])
            if any(_common_prefix(known[:-1], other) > num_cached for other in under_way):
                delayed.append(self._waiting.popleft())
                continue
            end = min(len(known), num_cached + budget)
            try:
                # The last token is computed even when it is cached, for its logits.
                inserted = self._tree.insert(known[:end], max_cached_tokens=min(end, len(known) - 1))
            except MemoryError:
                if self._running:
                    break
                # The oldest sequence may want what its own cached prefix takes where that was copied often: without it.
                if not self._tree.evict(self._tree.pool.num_pages) or not self._fits(known):
                    # Somebody holds pages in the tree. Whoever waits behind may fit.
                    self._waiting.popleft()
                    self.num_unfinished -= 1
                    raise
                continue
            self._running.append(self._waiting.popleft())
            sequence.request, begin = inserted.request, inserted.num_cached_tokens
            if inserted.copy is not None:
                draft.copies.append(inserted.copy)
            rows.append(sequence.row(begin, end))
            draft.tokens.append(known[begin:end])
            draft.slots.append(self._tree.slots(inserted.request, begin, end))
            under_way.append(known)
            taken += sequence.num_samples
            budget -= end - begin
        self._waiting.extendleft(reversed(delayed))
        if rows:
            self._rows = np.concatenate([self._rows, np.array(rows, ROW)])

    def _fits(self, known: np.ndarray) -> bool:
        """Whether there are pages for all these tokens and not for a first piece only, when nothing can be evicted."""
        page_size = self._tree.page_size
        num_pages = -(-len(known) // page_size) - self._tree.match_length(known) // page_size
        return bool(num_pages <= self._tree.num_available_pages)

    def launched(self, step: Step) -> None:
        """The device has the step: what it computes of prompts is anybody's from now on, a prompt with n samples parts
        into n sequences, and whoever samples its last token runs no more."""
        rows = self._rows
        for index in np.flatnonzero(rows["begin"] < rows["num_known"]).tolist():
            request = rows["request"][index].item()
            committed = self._tree.commit(request, rows["end"][index].item())
            if len(committed.pages):
                self._replaced.append((request, committed.first_page, committed.pages))
        sampled = np.flatnonzero(step.is_sampled)
        num_samples = rows["num_samples"][sampled]
        rows["source"][sampled] = num_samples.cumsum() - num_samples
        rows["num_samples"][sampled] = 1
        step.drawn_from = np.repeat(sampled, num_samples)
        step.samples = [step.sequences[index] for index in step.drawn_from.tolist()]
        for index in sampled[num_samples > 1].tolist():
            first = rows["source"][index].item()
            for sample in range(first + 1, first + step.sequences[index].num_samples):
                step.samples[sample] = self._fork(index, sample)
            step.sequences[index].num_samples = 1
        self._keep((self._rows["end"] < self._rows["num_known"]) | (self._rows["end"] + 1 < self._rows["max_tokens"]))

    def _fork(self, index: int, source: int) -> Sequence:
        """Another sequence with the same tokens, all committed, in the same pages, but with a next one of its own."""
        sequence = self._running[index]
        fork = Sequence(sequence.generation, sequence.tokens.copy(), 1, self._tree.fork(sequence.request))
        row = self._rows[index : index + 1].copy()
        row["request"], row["source"] = fork.request, source
        self._running.append(fork)
        self._rows = np.concatenate([self._rows, row])
        self.num_unfinished += 1
        return fork

    def _keep(self, stays: np.ndarray) -> None:
        """Only these go on running."""
        if not stays.all():
            self._rows = self._rows[stays]
            self._running = [sequence for sequence, stay in zip(self._running, stays.tolist()) if stay]

    def take(self, step: Step, tokens: list[int]) -> int:
        """The tokens of a step's samples. Returns how many of them count: those of sequences that stopped before do
        not."""
        rows = step.rows
        decoded, num_surplus = rows["begin"] >= rows["num_known"], 0
        if self._stopped:
            surplus = np.isin(rows["request"], self._stopped)
            decoded &= ~surplus
            num_surplus = np.count_nonzero(surplus)
            self._stopped = []
        if decoded.any():
            self._replaced += self._tree.commit_each(
                rows["request"][decoded], rows["end"][decoded], self._last_taken[rows["source"][decoded]]
            )
        self._last_taken = np.array(tokens, np.int32)
        for sequence, token in zip(step.samples, tokens):
            sequence.tokens.append(token)
        ends = (rows["end"] + 1 >= rows["max_tokens"])[step.drawn_from]
        for index in np.flatnonzero(rows["may_stop"][step.drawn_from]).tolist():
            if tokens[index] in step.samples[index].generation.params.stop_tokens:
                ends[index] = True
        for index in np.flatnonzero(ends).tolist():
            self._finish(step.samples[index])
        if self._stopped:
            self._keep(np.array([sequence.request >= 0 for sequence in self._running], bool))
        return len(tokens) - num_surplus

    def _finish(self, sequence: Sequence) -> None:
        """Record a sequence's tokens and let its pages go; they stay cached."""
        generation = sequence.generation
        if sequence.request < 0:  # it stopped a step before
            return
        generation.samples.append(sequence.tokens[len(generation.prompt) :])
        if len(generation.samples[-1]) < generation.params.max_new_tokens:
            self._stopped.append(sequence.request)
        self._tree.remove(sequence.request)
        sequence.request = -1
        self.num_unfinished -= 1


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
