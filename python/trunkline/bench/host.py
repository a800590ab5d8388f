"""Host time of a decode step's calls from Python; on a GPU they only enqueue, so its work is not in it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

import trunkline as tl

from . import results
from .attention import default_device
from .problem import Problem
from .results import Row, summarize
from .shapes import Batch, make_case

BURST = 50  # calls between two waits: a GPU's queue never fills up
STEPS = 200  # of decoding, each request one token longer


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, help="requests [256; 1 on the CPU, where the attention itself is timed]")
    parser.add_argument("--shared", type=int, help="tokens [4096; 1 on the CPU]")
    parser.add_argument("--unique", type=int, help="tokens [4096; 0 on the CPU]")
    parser.add_argument("--device", help="[cuda where there is one, else cpu]")


class Host:
    """A batch and the calls of its decode steps."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = default_device(args.device)
        on_cuda = self.device.type == "cuda"

        def size(given: int | None, cuda: int, cpu: int) -> int:
            return given if given is not None else cuda if on_cuda else cpu

        sizes: dict[str, Any] = {"heads": (32, 8), "head_dim": 128}
        if not on_cuda:
            sizes = {"heads": (1, 1), "head_dim": 16, "dtype": "float32"}
        shape = (size(args.batch, 256, 1), size(args.shared, 4096, 1), size(args.unique, 4096, 0))
        self.case = make_case(*shape, **sizes)
        new_pages = -(-STEPS // self.case.page_size) + 1  # of each request
        self.batch = Batch(self.case, unused_pages=new_pages * self.case.num_requests)
        self.problem = Problem(self.batch, self.device)
        self.attention = tl.Attention(
            tl.AttentionConfig(*self.case.heads, self.case.head_dim, self.case.page_size, dtype=self.case.dtype),
            max_requests=self.case.num_requests,
            max_table_width=self.batch.tables.shape[1] + new_pages,
            device=str(self.device),
        )
        self.forest = self.batch.forest()
        self.attention.plan(self.forest)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _each(self, call: Callable[[], Any], runs: int = 40, burst: int = BURST) -> dict[str, float]:
        """Microseconds of a call, over bursts of them."""
        call()
        samples = []
        for _ in range(runs):
            self._synchronize()
            begin = time.perf_counter()
            for _ in range(burst):
                call()
            samples.append((time.perf_counter() - begin) / burst)
        return summarize(samples, 1e6)

    def _steps(self) -> tuple[dict[str, float], dict[str, float]]:
        """Microseconds of `Forest.advance` and of `Attention.plan` in a decode step."""
        page_size, requests = self.case.page_size, range(self.case.num_requests)
        free = [int(page) for page in (self.batch.page_tokens == 0).nonzero()[0]]
        advances, plans = [], []
        for length in range(self.case.seq_len, self.case.seq_len + STEPS):
            starts_page = length % page_size == 0
            grow = [(request, 1, (free.pop(),) if starts_page else ()) for request in requests]
            self._synchronize()
            begin = time.perf_counter()
            self.forest.advance(grow=grow)
            advanced = time.perf_counter()
            self.attention.plan(self.forest)
            plans.append(time.perf_counter() - advanced)
            advances.append(advanced - begin)
        return summarize(advances, 1e6), summarize(plans, 1e6)

    def rows(self) -> list[Row]:
        problem, tokens = self.problem, self.case.num_requests
        q, kv, out = problem.q, problem.kv, problem.out
        lse = torch.empty(tokens, self.case.heads[0], device=self.device)
        k = torch.zeros(tokens, self.case.heads[1], self.case.head_dim, dtype=problem.dtype, device=self.device)
        slots = torch.full((tokens,), -1, dtype=torch.int64, device=self.device)
        times = {
            "run(q, kv, out)": self._each(lambda: self.attention.run(q, kv, out)),
            "run(q, kv, out, lse)": self._each(lambda: self.attention.run(q, kv, out, lse)),
            "run(q, kv)": self._each(lambda: self.attention.run(q, kv)),
            "append_kv": self._each(lambda: tl.append_kv(kv, k, k, slots)),
            "Forest.from_block_tables": self._each(self.batch.forest, 200, 1),
        }
        times["Forest.advance"], times["plan"] = self._steps()
        return [
            {
                "grid": "host",
                "call": name,
                "case": self.case.to_json(),
                "label": self.case.label,
                "backend": self.device.type,
                "kernel": self.attention.kernel,
                "host_us": host_us,
            }
            for name, host_us in times.items()
        ]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The result document."""
    torch.set_num_threads(1)
    host = Host(args)
    device: dict[str, Any] = {"backend": host.device.type, "threads": 1}
    if host.device.type == "cuda":
        device["gpu"] = results.gpu(host.device)
    result = results.document("host", device)
    result["rows"] = host.rows()
    return result


def table(result: dict[str, Any]) -> str:
    """A line per call, in Markdown."""
    lines = [
        [row["call"], row["label"], row["kernel"], *(f"{row['host_us'][p]:.2f}" for p in ("median", "p10", "p90"))]
        for row in result["rows"]
    ]
    return results.markdown_table(["call", "requests x tokens", "kernel", "host us", "p10", "p90"], lines)


def remarks(result: dict[str, Any]) -> list[str]:
    return []


def is_correct(result: dict[str, Any]) -> bool:
    return True
