"""Attention backends of the Llama: Trunkline, and what it is compared with."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

import trunkline as tl

from ..paged_layers import KvPages, StepAttention
from .transfer import to_device


class AttentionBackend(Protocol):
    """One step at a time: planned once, then called by every layer in turn."""

    def plan(self, forest: tl.Forest) -> None:
        """Prepare the step of this batch: its requests in order, their last ``qo_lens`` tokens new."""
        ...

    def set_slots(self, slots: torch.Tensor) -> None:
        """Where the new tokens' KV goes: int64 ``[tokens]`` on the device, negative for none."""
        ...

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Write the new KV, then attend: ``[tokens, heads, head_dim]`` each, the result like ``q``."""
        ...


class TrunklineAttention:
    """Trunkline with any strategy: ``"unshared"`` is plain paged decode on the same pages."""

    def __init__(self, pages: KvPages, step: StepAttention) -> None:
        self._pages = pages
        self._step = step

    def plan(self, forest: tl.Forest) -> None:
        self._step.plan(forest)

    def set_slots(self, slots: torch.Tensor) -> None:
        self._slots = slots

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self._pages.write(layer, k, v, self._slots)
        return self._step.run(q, self._pages[layer])


class DenseSdpaAttention:
    """PyTorch's own attention over a dense copy of each request's KV, as a decode loop without pages would keep it.

    Every request has a row of ``[num_kv_heads, max_seq_len, head_dim]``. When it joins, what the cache knew of it is
    copied there; the pages are written too, for those who join later. Decode is one batched call; a prompt is one each.

    Parameters
    ----------
    pages : KvPages
    tree : trunkline.PrefixTree
    max_requests, max_seq_len : int
    """

    def __init__(self, pages: KvPages, tree: tl.PrefixTree, max_requests: int, max_seq_len: int) -> None:
        self._pages = pages
        self._tree = tree
        keys, _ = pages.tensors(0)
        shape = (max_requests, keys.shape[2], max_seq_len, keys.shape[3])
        self._dense = [(keys.new_zeros(shape), keys.new_zeros(shape)) for _ in range(pages.num_layers)]
        self._device = keys.device
        self._row_of: dict[int, int] = {}

    def plan(self, forest: tl.Forest) -> None:
        requests = [int(request) for request in forest.request_ids]
        lengths, counts = [int(n) for n in forest.seq_lens], [int(n) for n in forest.qo_lens]
        self._row_of = {request: self._row_of[request] for request in requests if request in self._row_of}
        free = iter(sorted(set(range(len(self._dense[0][0]))) - set(self._row_of.values())))
        for request, length, count in zip(requests, lengths, counts):
            if request not in self._row_of:
                self._row_of[request] = next(free)
                self._join(request, length - count)
        rows = [self._row_of[request] for request in requests]
        self._spans = list(zip(rows, lengths, counts))
        self._decodes = all(count == 1 for count in counts)
        # Row and position of every new token, and what each row of a decode sees.
        self._row_index = to_device(np.repeat(rows, counts), self._device)
        positions = np.concatenate([np.arange(length - n, length) for _, length, n in self._spans])
        self._position_index = to_device(positions, self._device)
        self._num_rows, self._longest = max(rows) + 1, max(lengths)
        seen = np.ones((self._num_rows, 1, 1, 1), np.int64)  # a row of nobody sees one token, for a softmax needs one
        seen[rows, 0, 0, 0] = lengths
        self._visible = torch.arange(self._longest, device=self._device) < to_device(seen, self._device)

    def _join(self, request: int, num_cached: int) -> None:
        if num_cached == 0:
            return
        table = torch.as_tensor(self._tree.block_table(request)).long().to(self._device)
        row = self._row_of[request]
        for layer, dense in enumerate(self._dense):
            for paged, target in zip(self._pages.tensors(layer), dense):
                page_size = paged.shape[1]
                cached = paged[table[: -(-num_cached // page_size)]].flatten(0, 1)[:num_cached]
                target[row, :, :num_cached] = cached.transpose(0, 1)

    def set_slots(self, slots: torch.Tensor) -> None:
        self._slots = slots

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self._pages.write(layer, k, v, self._slots)
        keys, values = self._dense[layer]
        keys[self._row_index, :, self._position_index] = k
        values[self._row_index, :, self._position_index] = v
        if self._decodes:
            batched = q.new_zeros(self._num_rows, q.shape[1], 1, q.shape[2])
            batched[self._row_index, :, 0] = q
            k_all, v_all = (x[: self._num_rows, :, : self._longest] for x in (keys, values))
            out = F.scaled_dot_product_attention(batched, k_all, v_all, attn_mask=self._visible, enable_gqa=True)
            return out[self._row_index, :, 0]
        out, begin = torch.empty_like(q), 0
        for row, length, count in self._spans:
            end = begin + count
            out[begin:end] = _causal(q[begin:end], keys[row, :, :length], values[row, :, :length])
            begin = end
        return out


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``[tokens, heads, head_dim]``, the last tokens of k and v ``[kv_heads, seq_len, head_dim]``."""
    seq_len, num_new = k.shape[1], q.shape[0]
    positions = torch.arange(seq_len, device=q.device)
    visible = positions <= positions[seq_len - num_new :, None]
    out = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None], attn_mask=visible, enable_gqa=True)
    return out[0].transpose(0, 1)


class NoAttention:
    """Leaves the attention out: the bound of what any attention can reach. Its tokens mean nothing."""

    def plan(self, forest: tl.Forest) -> None:
        pass

    def set_slots(self, slots: torch.Tensor) -> None:
        pass

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return q
