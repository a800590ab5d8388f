"""The forest of a batch that changes a little from step to step."""

from __future__ import annotations

import numpy as np

import trunkline as tl

from .step import Step


class BatchForest:
    """Keeps a forest up to date at a cost that follows the changes, not the lengths.

    Requests stay in the order in which they joined. Every request of a step is named in it; who is not, has left.

    Parameters
    ----------
    tree : trunkline.PrefixTree
    """

    def __init__(self, tree: tl.PrefixTree) -> None:
        self._tree = tree
        self._forest: tl.Forest | None = None
        # Of the last step.
        self._requests = np.empty(0, np.int64)
        self._num_new = np.empty(0, np.int32)

    def step(self, step: Step) -> tl.Forest:
        """The forest of this step."""
        old_requests, self._requests = self._requests, np.ascontiguousarray(step.rows["request"])
        old_num_new, self._num_new = self._num_new, step.num_new
        if self._forest is None:
            self._forest = tl.Forest.from_tree(self._tree, self._requests, self._num_new)
            return self._forest
        if np.array_equal(old_requests, self._requests):
            leave = ()
        else:
            stay = np.isin(old_requests, self._requests, assume_unique=True)
            leave, old_requests, old_num_new = old_requests[~stay], old_requests[stay], old_num_new[stay]
        num_old = len(old_requests)
        changed = np.flatnonzero(old_num_new != self._num_new[:num_old]).tolist()
        known = set(old_requests.tolist()) if step.replaced else set()
        joined = step.rows[["request", "end"]][num_old:].tolist()
        self._forest.advance(
            leave=leave,
            replace=[entry for entry in step.replaced if entry[0] in known],
            grow_each=(old_requests, self._num_new[:num_old], *self._new_pages(step, num_old)),
            qo_lens=[(self._requests[row].item(), self._num_new[row].item()) for row in changed],
            join=[
                (request, end, num_new, self._tree.block_table(request))
                for (request, end), num_new in zip(joined, self._num_new[num_old:].tolist())
            ],
        )
        return self._forest

    def _new_pages(self, step: Step, num_requests: int) -> tuple[np.ndarray, np.ndarray]:
        """The pages that the first requests' new tokens begin: where each request's end and begin, and all of them."""
        page_size = self._tree.page_size
        rows, (_, positions, slots) = step.rows[:num_requests], step.inputs
        indptr = np.zeros(num_requests + 1, np.int32)
        np.cumsum(-(-rows["end"] // page_size) - -(-rows["begin"] // page_size), out=indptr[1:])
        pages = slots[positions % page_size == 0][: indptr[-1]] // page_size
        return indptr, pages.astype(np.int32)
