"""Clocks: what a call takes cold and warm, and the two rates that the floor is made of."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from .results import last_level_cache_bytes

Samples = list[float]  # seconds
Call = Callable[[], Any]


class Meter(Protocol):
    """Times prepared calls. A cold call comes after the caches were filled with something else, a warm one after an
    untimed call."""

    flush_bytes: int

    def prepare(self, call: Call) -> tuple[Call, Any]:
        """What is timed in the place of ``call``, and the result that it leaves behind (None: each returns its own)."""
        ...

    def cold(self, call: Call, samples: Samples) -> None: ...

    def warm(self, call: Call, samples: Samples) -> None: ...

    def collect(self) -> None:
        """Wait for everything; samples are complete."""
        ...

    def readers(self, pages: torch.Tensor, page_tokens: np.ndarray) -> dict[str, Call]:
        """Ways to read the used slots of NHD pages ``[pages, 2, page_size, heads, head_dim]`` once, by name."""
        ...

    def matrix_rate(self) -> float:
        """Operations per second of a large product, measured now."""
        ...


class CpuMeter:
    """Wall-clock times, everything with the same number of threads."""

    def __init__(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._num_threads = num_threads
        self._threads = ThreadPoolExecutor(num_threads)
        cache = last_level_cache_bytes()
        self.flush_bytes = min(cache + cache // 8, 1 << 30) or 1 << 28
        self._flushed = torch.ones(self.flush_bytes, dtype=torch.uint8)
        size = 1536  # packing and edges are below 2 % of the product's time
        self._a, self._b, self._c = (torch.randn(size, size) for _ in range(3))
        self._compare = ctypes.CDLL(None).memcmp
        self._compare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def _read(self, data: torch.Tensor, num_bytes: int) -> None:
        """Compare memory with itself, which reads it from memory once."""
        begin, threads = data.data_ptr(), self._num_threads
        cuts = [begin + num_bytes * i // threads for i in range(threads + 1)]
        list(self._threads.map(lambda a, b: self._compare(a, a, b - a), cuts[:-1], cuts[1:]))

    def prepare(self, call: Call) -> tuple[Call, Any]:
        return call, None

    def cold(self, call: Call, samples: Samples) -> None:
        self._read(self._flushed, self.flush_bytes)
        self._timed(call, samples)

    def warm(self, call: Call, samples: Samples) -> None:
        call()
        self._timed(call, samples)

    def _timed(self, call: Call, samples: Samples) -> None:
        begin = time.perf_counter()
        call()
        samples.append(time.perf_counter() - begin)

    def collect(self) -> None:
        pass

    def readers(self, pages: torch.Tensor, page_tokens: np.ndarray) -> dict[str, Call]:
        # As many bytes in one run; where pages lie makes no difference to a processor.
        num_bytes = int(page_tokens.sum()) * pages[0, :, 0].nbytes
        numbers = pages.flatten().view(torch.float32)[: num_bytes // 4]
        return {"memcmp": lambda: self._read(pages, num_bytes), "sum": numbers.sum}

    def matrix_rate(self) -> float:
        begin = time.perf_counter()
        torch.mm(self._a, self._b, out=self._c)
        return 2.0 * len(self._a) ** 3 / (time.perf_counter() - begin)


class CudaMeter:
    """Replays of CUDA graphs between two events, launch included, one stream."""

    flush_bytes = 256 << 20

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flushed = torch.ones(self.flush_bytes // 4, dtype=torch.int32, device=device)
        self._sink = torch.zeros((), dtype=torch.int32, device=device)
        self._pending: list[tuple[Samples, torch.cuda.Event, torch.cuda.Event]] = []
        self._rate: float | None = None

    def prepare(self, call: Call) -> tuple[Call, Any]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()  # libraries set themselves up
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay(_of: Call = call) -> None:  # a graph does not keep the memory that its call was given
            graph.replay()

        return replay, result

    def cold(self, call: Call, samples: Samples) -> None:
        # Takes longer than the host needs to enqueue what follows.
        torch.amax(self._flushed, dim=0, out=self._sink)
        self._timed(call, samples)

    def warm(self, call: Call, samples: Samples) -> None:
        call()
        torch.cuda._sleep(60_000)  # clock cycles, 30 us: the host is ahead when the first event comes
        self._timed(call, samples)

    def _timed(self, call: Call, samples: Samples) -> None:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        self._pending.append((samples, begin, end))

    def collect(self) -> None:
        torch.cuda.synchronize(self._device)
        for samples, begin, end in self._pending:
            samples.append(begin.elapsed_time(end) * 1e-3)
        self._pending.clear()

    def readers(self, pages: torch.Tensor, page_tokens: np.ndarray) -> dict[str, Call]:
        words = pages.flatten().view(torch.int32)
        plane_words, row_words = pages[0, 0].nbytes // 4, pages[0, 0, 0].nbytes // 4
        num_words = int(page_tokens.sum()) * 2 * row_words
        found = {"amax": lambda: torch.amax(words[:num_words], dim=0, out=self._sink)}
        try:
            from .cuda_reader import make_reader
        except ImportError:  # no Triton
            return found
        return {"pages": make_reader(words, page_tokens, plane_words, row_words, self._sink), **found}

    def matrix_rate(self) -> float:
        """Of the fastest ten bf16 products of 8192 cubed in a row, measured once."""
        if self._rate is None:
            size, products, bursts = 8192, 10, 10
            a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=self._device) for _ in range(2))
            c = torch.empty_like(a)
            for _ in range(3):
                torch.mm(a, b, out=c)
            events = [torch.cuda.Event(enable_timing=True) for _ in range(bursts + 1)]
            events[0].record()
            for event in events[1:]:
                for _ in range(products):
                    torch.mm(a, b, out=c)
                event.record()
            torch.cuda.synchronize(self._device)
            fastest = min(x.elapsed_time(y) for x, y in zip(events, events[1:])) * 1e-3
            self._rate = 2.0 * size**3 * products / fastest
        return self._rate


def make_meter(device: torch.device, num_threads: int) -> Meter:
    return CudaMeter(device) if device.type == "cuda" else CpuMeter(num_threads)
