"""What is measured: Trunkline's strategies, and other attentions as they are installed.

Each takes a problem's pages or, where it cannot, a copy of every request's KV in one piece, and leaves out what it does
not support by raising :class:`Unsupported`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

import trunkline as tl

from .problem import Problem, kv_bytes_per_token

TRUNKLINE_STRATEGIES = ("auto", "unshared", "two_phase", "hydragen")


class Unsupported(Exception):
    """A contender cannot take this case."""


class Contender(Protocol):
    kernel: str  # "torch/sdpa-flash"
    strategy: str  # how it meets the sharing: Trunkline's strategies, or the layout that it reads
    read_bytes: int  # of KV that it has to read

    def plan(self) -> None:
        """What the host does once per step."""
        ...

    def run(self) -> torch.Tensor:
        """One layer, as it is timed."""
        ...

    def rows(self, out: torch.Tensor) -> torch.Tensor:
        """What `run` returned as ``[tokens, num_qo_heads, head_dim]``."""
        ...


@dataclass
class Entry:
    """A contender that may be measured. ``module`` is what has to be installed for it."""

    system: str
    make: Callable[[Problem], Contender] = field(repr=False)
    module: str = "torch"

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


def entries(
    systems: Sequence[str], strategies: Sequence[str], kernels: Sequence[str], device: torch.device, num_threads: int
) -> list[Entry]:
    """All contenders of the systems, in the order in which tables show them."""
    chosen: list[Entry] = []
    for kernel in kernels:
        for strategy in strategies:
            make = partial(Trunkline, strategy=strategy, kernel=kernel, num_threads=num_threads)
            chosen.append(Entry("trunkline", make))
    backends = ["flash", "cudnn"] if device.type == "cuda" else ["flash"]
    for backend in backends:
        for packed in (False, True):
            chosen.append(Entry("torch", partial(Sdpa, backend=backend, packed=packed)))
    chosen.append(Entry("flex", Flex))
    chosen.append(Entry("flashinfer", FlashInferDecode, "flashinfer"))
    chosen.append(Entry("flashinfer", FlashInferCascade, "flashinfer"))
    chosen.append(Entry("flash-attn", FlashAttention2, "flash_attn"))
    chosen.append(Entry("flash-attn", FlashAttention3, "flash_attn_interface"))
    return [entry for entry in chosen if entry.system in systems]


class Trunkline:
    """A strategy of Trunkline on a kernel ("": the best one)."""

    def __init__(self, problem: Problem, strategy: str, kernel: str, num_threads: int) -> None:
        case, self._problem = problem.case, problem
        config = tl.AttentionConfig(
            *case.heads, case.head_dim, case.page_size, dtype=case.dtype, strategy=strategy
        )  # fmt: skip
        try:
            self.attention = tl.Attention(
                config,
                max_requests=case.num_requests,
                max_query_tokens=case.num_requests * case.qo_len,
                max_table_width=max(1, problem.batch.tables.shape[1]),
                device=str(problem.device),
                num_threads=num_threads if problem.device.type == "cpu" else 1,
                kernel=kernel,
            )
        except RuntimeError as error:
            raise Unsupported(str(error)) from None
        self.kernel, self.strategy = self.attention.kernel, strategy
        self.read_bytes = problem.batch.distinct_tokens * kv_bytes_per_token(case)
        self.forest = problem.batch.forest()
        self.plan()

    def plan(self) -> None:
        self._plan = self.attention.plan(self.forest)

    def run(self) -> torch.Tensor:
        return self.attention.run(self._problem.q, self._problem.kv, self._problem.out)

    def rows(self, out: torch.Tensor) -> torch.Tensor:
        return out

    @property
    def model_seconds(self) -> float:
        return float(self._plan.statistics()["model_seconds"])


class _Dense:
    """Base of those that read each request's KV in one piece; nothing to plan."""

    strategy = "contiguous"

    def __init__(self, problem: Problem, dtypes: Sequence[torch.dtype] = (torch.float16, torch.bfloat16)) -> None:
        case = problem.case
        if problem.dtype not in dtypes:
            raise Unsupported(f"takes no {case.dtype}")
        self.case = case
        self.read_bytes = problem.dense_bytes(case)
        self.k, self.v = problem.dense
        heads, queries = case.heads[0], (case.num_requests, case.qo_len)
        self.q = problem.q.view(*queries, heads, case.head_dim).transpose(1, 2)  # [requests, heads, qo_len, head_dim]

    def plan(self) -> None:
        pass

    def rows(self, out: torch.Tensor) -> torch.Tensor:
        return out.transpose(1, 2).reshape(-1, self.case.heads[0], self.case.head_dim)


class Sdpa(_Dense):
    """PyTorch's ``scaled_dot_product_attention`` on one backend.

    ``packed`` takes the query heads that share a KV head as query rows, so that KV is read once for all of them.
    """

    def __init__(self, problem: Problem, backend: str, packed: bool) -> None:
        from torch.nn.attention import SDPBackend

        case = problem.case
        if packed and case.heads[0] == case.heads[1]:
            raise Unsupported("")  # the same as contiguous
        if case.qo_len > 1 and (packed or backend == "cudnn"):
            raise Unsupported("qo_len above 1 needs a mask")
        any_float = (torch.float16, torch.bfloat16, torch.float32)
        super().__init__(problem, any_float if problem.device.type == "cpu" else any_float[:2])
        self._backend = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}[backend]
        self.kernel = f"torch/sdpa-{backend}"
        self._mask: Any = None
        if case.qo_len > 1:
            self._mask = self._causal_mask(problem.device)
        if packed:
            self.strategy = "packed"
            shape = (case.num_requests, case.heads[1], case.heads[0] // case.heads[1], case.head_dim)
            self.q = problem.q.view(shape)

    def _causal_mask(self, device: torch.device) -> Any:
        if device.type == "cuda":
            from torch.nn.attention.bias import causal_lower_right

            return causal_lower_right(self.case.qo_len, self.case.seq_len)
        positions = torch.arange(self.case.seq_len)
        return positions <= positions[-self.case.qo_len :, None]

    def run(self) -> torch.Tensor:
        from torch.nn.attention import sdpa_kernel

        with sdpa_kernel(self._backend):
            return F.scaled_dot_product_attention(
                self.q, self.k, self.v, self._mask, enable_gqa=self.q.shape[1] != self.k.shape[1]
            )

    def rows(self, out: torch.Tensor) -> torch.Tensor:
        if self.strategy != "packed":
            return super().rows(out)
        return out.reshape(-1, self.case.heads[0], self.case.head_dim)


class Flex(_Dense):
    """PyTorch's FlexAttention, compiled for the shape."""

    kernel = "torch/flex"

    def __init__(self, problem: Problem) -> None:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        any_float = (torch.float16, torch.bfloat16, torch.float32)
        super().__init__(problem, any_float)
        self._mask = None
        if self.case.qo_len > 1:
            before = self.case.seq_len - self.case.qo_len

            def causal(batch: Any, head: Any, query: Any, token: Any) -> Any:
                return token <= query + before

            self._mask = create_block_mask(
                causal, None, None, self.case.qo_len, self.case.seq_len, device=str(problem.device)
            )
        self._attend: Any = torch.compile(flex_attention, dynamic=False)

    def run(self) -> torch.Tensor:
        grouped = self.q.shape[1] != self.k.shape[1]
        out: torch.Tensor = self._attend(self.q, self.k, self.v, block_mask=self._mask, enable_gqa=grouped)
        return out


class FlashAttention2(_Dense):
    """flash-attn 2. Its pages would have to be of 256 tokens."""

    kernel = "flash-attn/2"

    def __init__(self, problem: Problem) -> None:
        from flash_attn import flash_attn_with_kvcache

        super().__init__(problem)
        self._attend = flash_attn_with_kvcache
        self._lengths = torch.from_numpy(problem.batch.seq_lens).to(problem.device)
        self.q, self.k, self.v = (x.transpose(1, 2) for x in (self.q, self.k, self.v))

    def run(self) -> torch.Tensor:
        return self._attend(self.q, self.k, self.v, cache_seqlens=self._lengths, causal=True)

    def rows(self, out: torch.Tensor) -> torch.Tensor:
        return out.flatten(0, 1)


class FlashAttention3:
    """FlashAttention 3 over the pages."""

    kernel, strategy = "flash-attn/3", "paged"

    def __init__(self, problem: Problem) -> None:
        from flash_attn_interface import flash_attn_with_kvcache

        case = problem.case
        if problem.dtype not in (torch.float16, torch.bfloat16):
            raise Unsupported(f"takes no {case.dtype}")
        self._attend = flash_attn_with_kvcache
        self.read_bytes = problem.dense_bytes(case)
        self._q = problem.q.view(case.num_requests, case.qo_len, *problem.q.shape[1:])
        self._k, self._v = problem.pages[:, 0], problem.pages[:, 1]
        self._tables, self._lengths = (
            torch.from_numpy(x).to(problem.device) for x in (problem.batch.tables, problem.batch.seq_lens)
        )

    def plan(self) -> None:
        pass

    def run(self) -> torch.Tensor:
        return self._attend(
            self._q, self._k, self._v, cache_seqlens=self._lengths, page_table=self._tables, causal=True
        )  # fmt: skip

    def rows(self, out: torch.Tensor) -> torch.Tensor:
        return out.flatten(0, 1)


class _FlashInfer:
    """Base of FlashInfer's wrappers: decode only."""

    def __init__(self, problem: Problem) -> None:
        case, self._problem = problem.case, problem
        if problem.dtype not in (torch.float16, torch.bfloat16):
            raise Unsupported(f"takes no {case.dtype}")
        if case.qo_len > 1 or case.seq_len == 0:
            raise Unsupported("is asked for one query token of each request")
        self._workspace = torch.zeros(128 << 20, dtype=torch.uint8, device=problem.device)
        self._sizes = (*case.heads, case.head_dim, case.page_size)
        self._tables = torch.from_numpy(problem.batch.tables).to(problem.device)

    def rows(self, out: torch.Tensor) -> torch.Tensor:
        return out

    def _int32(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int32, device=self._problem.device)


class FlashInferDecode(_FlashInfer):
    """FlashInfer's paged decode: every request on its own."""

    kernel, strategy = "flashinfer/decode", "paged"

    def __init__(self, problem: Problem) -> None:
        import flashinfer

        super().__init__(problem)
        case = problem.case
        self.read_bytes = problem.dense_bytes(case)
        self._wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace, "NHD", use_tensor_cores=case.heads[0] // case.heads[1] >= 4
        )
        width = self._tables.shape[1]
        self._lists = (
            self._int32(range(0, (case.num_requests + 1) * width, width)),
            self._tables.flatten(),
            self._int32([(case.seq_len - 1) % case.page_size + 1] * case.num_requests),
        )
        self._out = torch.empty_like(problem.q)
        self.plan()

    def plan(self) -> None:
        dtype = self._problem.dtype
        self._wrapper.plan(*self._lists, *self._sizes, q_data_type=dtype, kv_data_type=dtype)

    def run(self) -> torch.Tensor:
        return self._wrapper.run(self._problem.q, self._problem.pages, out=self._out)


class FlashInferCascade(_FlashInfer):
    """FlashInfer's multi-level cascade, its levels declared as the case has them."""

    kernel, strategy = "flashinfer/cascade", "cascade"

    def __init__(self, problem: Problem) -> None:
        import flashinfer

        super().__init__(problem)
        case = problem.case
        levels = [level for level, (_, tokens) in enumerate(case.levels) if tokens > 0]
        if len(levels) < 2:
            raise Unsupported("has no use where one level is all")
        if any(case.levels[level][1] % case.page_size for level in levels[:-1]):
            raise Unsupported("shares whole pages only")
        self.read_bytes = problem.batch.distinct_tokens * kv_bytes_per_token(case)
        qo_indptr, indptr, indices, last = [], [], [], []
        column = 0
        for level in levels:
            nodes, tokens = case.levels[level]
            width = -(-tokens // case.page_size)
            first_requests = np.searchsorted(problem.batch.node_of_request(level), range(nodes + 1))
            qo_indptr.append(self._int32(first_requests))
            indptr.append(self._int32(range(0, (nodes + 1) * width, width)))
            rows = self._tables[torch.from_numpy(first_requests[:-1]).to(problem.device)]
            indices.append(rows[:, column : column + width].flatten())
            last.append(self._int32([(tokens - 1) % case.page_size + 1] * nodes))
            column += width
        self._lists = (qo_indptr, indptr, indices, last)
        self._wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(len(levels), self._workspace, "NHD")
        self.plan()

    def plan(self) -> None:
        dtype = self._problem.dtype
        self._wrapper.plan(*self._lists, *self._sizes, q_data_type=dtype, kv_data_type=dtype)

    def run(self) -> torch.Tensor:
        return self._wrapper.run(self._problem.q, self._problem.pages)
