"""The forest of a batch that changes a little from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trunkline as tl


@dataclass
class Advance:
    """A request's part of a step: ``num_new`` new tokens, appended to the tree or, when None, inserted with it."""

    request: int
    num_new: int
    appended: tl.Appended | None


class BatchForest:
    """Keeps a forest up to date at a cost that follows the changes, not the lengths.

    Requests stay in the order in which they joined. Every request of a step is named in it; who is not, has left.

    Parameters
    ----------
    tree : trunkline.PrefixTree
    page_size : int
    """

    def __init__(self, tree: tl.PrefixTree, page_size: int) -> None:
        self._tree = tree
        self._page_size = page_size
        self._forest: tl.Forest | None = None
        self._num_new: dict[int, int] = {}  # of the last step, by request
        self._replaced: list[tuple[int, int, Sequence[int]]] = []

    def commit(self, request: int, num_tokens: int) -> None:
        """``tree.commit``, whose exchange of pages the next step takes over."""
        committed = self._tree.commit(request, num_tokens)
        if len(committed.pages):
            self._replaced.append((request, committed.first_page, list(committed.pages)))

    def step(self, batch: Sequence[Advance]) -> tl.Forest:
        """The forest of this step."""
        known, self._num_new = self._num_new, {advance.request: advance.num_new for advance in batch}
        if self._forest is None or not known:
            self._forest = tl.Forest.from_tree(self._tree, list(self._num_new), list(self._num_new.values()))
            self._replaced = []
            return self._forest
        replace = [entry for entry in self._replaced if entry[0] in known and entry[0] in self._num_new]
        grow, join, qo_lens = [], [], []
        for advance in batch:
            request, num_new, appended = advance.request, advance.num_new, advance.appended
            if request not in known or appended is None:
                join.append((request, self._tree.seq_len(request), num_new, self._tree.block_table(request)))
                continue
            seq_len = self._tree.seq_len(request)
            if appended.copy is not None:
                replace.append((request, (seq_len - num_new) // self._page_size, (appended.copy.dst,)))
            # Most tokens need no new page, and a list is passed on faster than an array.
            starts_page = (seq_len - 1) % self._page_size < num_new
            grow.append((request, num_new, appended.new_pages.tolist() if starts_page else ()))
            if known[request] != num_new:
                qo_lens.append((request, num_new))
        leave = [request for request in known if request not in self._num_new]
        self._forest.advance(leave=leave, replace=replace, grow=grow, qo_lens=qo_lens, join=join)
        self._replaced = []
        return self._forest
