"""Attention backends of the Llama: Trunkline, and what it is compared with."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

import trunkline as tl

from ..paged_layers import KvPages, StepAttention


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


class GatheredSdpaAttention:
    """PyTorch's own attention, request by request over KV gathered from the pages: a check, not a fast path."""

    def __init__(self, pages: KvPages, tree: tl.PrefixTree) -> None:
        self._pages = pages
        self._tree = tree

    def plan(self, forest: tl.Forest) -> None:
        tables = [self._tree.block_table(int(request)) for request in forest.request_ids]
        self._requests = list(zip(forest.seq_lens, forest.qo_lens, tables))

    def set_slots(self, slots: torch.Tensor) -> None:
        self._slots = slots

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self._pages.write(layer, k, v, self._slots)
        keys, values = self._pages.tensors(layer)
        out, begin = torch.empty_like(q), 0
        for seq_len, qo_len, table in self._requests:
            seq_len, end = int(seq_len), begin + int(qo_len)
            pages = torch.as_tensor(table, dtype=torch.int64, device=q.device)
            k_all, v_all = (x[pages].flatten(0, 1)[:seq_len].transpose(0, 1) for x in (keys, values))
            positions = torch.arange(seq_len, device=q.device)
            visible = positions <= positions[seq_len - int(qo_len) :, None]
            q_new = q[begin:end].transpose(0, 1)
            out[begin:end] = F.scaled_dot_product_attention(
                q_new[None], k_all[None], v_all[None], attn_mask=visible, enable_gqa=True
            )[0].transpose(0, 1)
            begin = end
        return out


class NoAttention:
    """Leaves the attention out: the bound of what any attention can reach. Its tokens mean nothing."""

    def plan(self, forest: tl.Forest) -> None:
        pass

    def set_slots(self, slots: torch.Tensor) -> None:
        pass

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return q
