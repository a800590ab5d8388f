"""The memory of a case, and the check of what was computed in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

import trunkline as tl

from .shapes import Batch, Case

_CHUNK_PAGES = 1 << 14  # of random numbers drawn at once


class Problem:
    """Queries, KV pages and, for those who take no pages, each request's KV in one piece.

    Slots that hold no request's token are NaN.

    Parameters
    ----------
    batch : Batch
    device : torch.device
    seed : int
    """

    def __init__(self, batch: Batch, device: torch.device, seed: int = 1) -> None:
        case = batch.case
        self.case, self.batch, self.device = case, batch, device
        self.dtype = getattr(torch, case.dtype)
        generator = torch.Generator(device).manual_seed(seed)
        heads, kv_heads = case.heads
        self.pages = torch.empty(
            batch.num_pages, 2, case.page_size, kv_heads, case.head_dim, dtype=self.dtype, device=device
        )
        for part in self.pages.split(_CHUNK_PAGES):
            part.normal_(generator=generator)
        slots = torch.arange(case.page_size, device=device)
        unused = slots >= torch.from_numpy(batch.page_tokens).to(device)[:, None]
        partly = unused.any(1).nonzero().flatten()
        self.pages[partly] = self.pages[partly].masked_fill(unused[partly][:, None, :, None, None], torch.nan)
        self.kv = tl.KvCache.interleaved(self.pages)
        tokens = case.num_requests * case.qo_len
        self.q = torch.randn(tokens, heads, case.head_dim, generator=generator, dtype=self.dtype, device=device)
        self.out = torch.empty_like(self.q)

    @staticmethod
    def num_bytes(batch: Batch) -> int:
        """Of the pages."""
        return batch.num_pages * batch.case.page_size * kv_bytes_per_token(batch.case)

    @staticmethod
    def dense_bytes(case: Case) -> int:
        """Of each request's KV in one piece."""
        return case.num_requests * case.seq_len * kv_bytes_per_token(case)

    @cached_property
    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of each request in one piece, ``[requests, num_kv_heads, seq_len, head_dim]``, contiguous."""
        case = self.case
        shape = (case.num_requests, case.heads[1], case.seq_len, case.head_dim)
        planes = torch.empty(2, *shape, dtype=self.dtype, device=self.device)
        tables = torch.from_numpy(self.batch.tables).to(self.device)
        for request, table in enumerate(tables):
            tokens = self.pages[table].transpose(0, 1).flatten(1, 2)[:, : case.seq_len]
            planes[:, request] = tokens.transpose(1, 2)
        return planes[0], planes[1]


def kv_bytes_per_token(case: Case) -> int:
    return int(2 * case.heads[1] * case.head_dim * getattr(torch, case.dtype).itemsize)


@dataclass
class Accuracy:
    """Errors in units of the reference's bound; the worst one, and how many rows were held against it."""

    worst: float = 0.0
    max_error: float = 0.0
    error_bound: float = 0.0
    rows: int = 0


class SampledCheck:
    """Holds sampled rows against the double-precision reference, and every element against NaN.

    Parameters
    ----------
    problem : Problem
    num_rows : int
        At least as many (query token, head) rows, all of some (request, KV head) pairs.
    seed : int
    """

    def __init__(self, problem: Problem, num_rows: int = 16, seed: int = 1) -> None:
        case, tables = problem.case, problem.batch.tables
        group = case.heads[0] // case.heads[1]
        pairs = case.num_requests * case.heads[1]
        count = min(pairs, max(2, math.ceil(num_rows / (group * case.qo_len))))
        chosen = np.random.default_rng(seed).choice(pairs, count, replace=False)
        chosen[0] = pairs - 1  # the last row ends every range
        self._rows: list[tuple[slice, slice]] = []
        self._references: list[tl.Reference] = []
        for request, head in (divmod(int(pair), case.heads[1]) for pair in chosen):
            rows = slice(request * case.qo_len, (request + 1) * case.qo_len)
            heads = slice(head * group, (head + 1) * group)
            table = torch.from_numpy(tables[request]).to(problem.device)
            kv = problem.pages[table][:, :, :, head : head + 1].cpu()
            pages = np.arange(len(kv), dtype=np.int32)[None]
            reference = tl.reference_attention(
                problem.q[rows, heads].cpu(), tl.KvCache.interleaved(kv), pages, [case.seq_len], [case.qo_len]
            )
            self._rows.append((rows, heads))
            self._references.append(reference)

    def compare(self, out: torch.Tensor) -> Accuracy:
        """``out`` is ``[tokens, num_qo_heads, head_dim]``."""
        accuracy = Accuracy(rows=sum(reference.lse.size for reference in self._references))
        if not bool(torch.isfinite(out).all()):
            accuracy.worst = accuracy.max_error = math.inf
            return accuracy
        for index, reference in zip(self._rows, self._references):
            error = np.abs(out[index].double().cpu().numpy() - reference.out)
            ratio = error / np.maximum(reference.bound, np.finfo(float).tiny)
            at = np.unravel_index(ratio.argmax(), ratio.shape)
            if ratio[at] >= accuracy.worst:
                accuracy.worst, accuracy.max_error = float(ratio[at]), float(error[at])
                accuracy.error_bound = float(reference.bound[at])
        return accuracy
