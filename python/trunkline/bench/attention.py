"""One layer's attention over shapes: times of every contender, cold and warm, against the floor of the machine."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import trunkline as tl

from . import contenders as who
from . import results
from .meters import Call, Meter, Samples, make_meter
from .problem import Accuracy, Problem, SampledCheck, kv_bytes_per_token
from .results import Row, summarize
from .shapes import Batch, Case, choose, load_grid, make_case

SYSTEMS = ("trunkline", "torch", "flex", "flashinfer", "flash-attn")


class Runner:
    """A contender under way: what is timed in its place, and its samples."""

    def __init__(self, contender: who.Contender, meter: Meter, check: SampledCheck, problem: Problem) -> None:
        self.contender = contender
        problem.out.fill_(torch.nan)
        self.accuracy = check.compare(contender.rows(contender.run()))
        self.call, result = meter.prepare(contender.run)
        if result is not None:  # what is timed is what was checked: the prepared call, over poison
            result.fill_(torch.nan)
            self.call()
            again = check.compare(contender.rows(result))
            self.accuracy = max(self.accuracy, again, key=lambda accuracy: accuracy.worst)
        self.plan: Samples = []
        self.cold: Samples = []
        self.warm: Samples = []


@dataclass
class Reading:
    """A way to read the distinct pages once, and its samples."""

    call: Call
    cold: Samples = field(default_factory=list)
    warm: Samples = field(default_factory=list)


class CaseMeasurement:
    """A case with its memory and its contenders, measured in turn with the floor.

    Parameters
    ----------
    case : Case
    batch : Batch
    entries : sequence of Entry
    meter : Meter
    device : torch.device
    room : int
        Bytes that may be taken beside the pages.
    check_rows, seed : int
    """

    def __init__(
        self,
        case: Case,
        batch: Batch,
        entries: Sequence[who.Entry],
        meter: Meter,
        device: torch.device,
        room: int,
        check_rows: int,
        seed: int,
    ) -> None:
        self.case, self.batch, self.meter = case, batch, meter
        self.problem = Problem(batch, device, seed)
        self.share = batch.forest().share
        self.skipped: list[Row] = []
        self.runners: list[Runner] = []
        check = SampledCheck(self.problem, check_rows, seed)
        too_large = Problem.dense_bytes(case) > room
        for entry in entries:
            name = entry.system
            try:
                if entry.system not in ("trunkline", "flashinfer") and too_large:
                    raise who.Unsupported("each request's KV in one piece takes more memory than there is")
                contender = entry.make(self.problem)
                name = f"{contender.kernel} {contender.strategy}"
                self.runners.append(Runner(contender, meter, check, self.problem))
            except who.Unsupported as reason:
                self._skip(name, str(reason))
            except Exception as error:  # of somebody else's code: one of them must not end the others' measurement
                if entry.system == "trunkline":
                    raise
                self._skip(name, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
        readers = meter.readers(self.problem.pages, batch.page_tokens)
        self._reads = {name: Reading(meter.prepare(read)[0]) for name, read in readers.items()}
        self._empty: tuple[Samples, Samples] = ([], [])
        self._rates: list[float] = []

    def _skip(self, contender: str, reason: str) -> None:
        if reason:
            self.skipped.append(
                {"case": self.case.to_json(), "label": self.case.label, "contender": contender, "reason": reason}
            )

    def time(self, repeats: int) -> None:
        """Floor and contenders in turn, each after everybody else in turn."""
        for _ in range(min(repeats, 9)):
            for runner in self.runners:
                begin = time.perf_counter()
                runner.contender.plan()
                runner.plan.append(time.perf_counter() - begin)
                self.meter.collect()
        one = torch.zeros((), device=self.problem.device)
        empty, _ = self.meter.prepare(lambda: one.add_(1))
        order = list(self.runners)
        for _ in range(repeats):
            self._rates.append(self.meter.matrix_rate())
            for reading in self._reads.values():
                self.meter.cold(reading.call, reading.cold)
                self.meter.warm(reading.call, reading.warm)
            self.meter.cold(empty, self._empty[0])
            self.meter.warm(empty, self._empty[1])
            for runner in order:
                self.meter.cold(runner.call, runner.cold)
                self.meter.warm(runner.call, runner.warm)
            self.meter.collect()
            order = order[1:] + order[:1]

    def _floor(self, warm: bool) -> tuple[float, str, str]:
        """Seconds, what bounds them, and the reader."""
        medians = {name: summarize(r.warm if warm else r.cold)["median"] for name, r in self._reads.items()}
        reader = min(medians, key=lambda name: medians[name])
        operations = self.case.operations / summarize(self._rates)["median"] + summarize(self._empty[warm])["median"]
        bound = "bytes" if medians[reader] >= operations else "operations"
        return max(medians[reader], operations), bound, reader

    def rows(self, grid: str, backend: str) -> list[Row]:
        return [self._row(runner, grid, backend) for runner in self.runners]

    def _row(self, runner: Runner, grid: str, backend: str) -> Row:
        case, contender = self.case, runner.contender
        (floor, bound, reader), (warm_floor, _, _) = self._floor(False), self._floor(True)
        cold, warm = summarize(runner.cold), summarize(runner.warm)
        distinct_bytes = self.batch.distinct_tokens * kv_bytes_per_token(case)
        model = getattr(contender, "model_seconds", None)
        accuracy: Accuracy = runner.accuracy
        row: Row = {
            "grid": grid,
            "case": case.to_json(),
            "label": case.label,
            "backend": backend,
            "kernel": contender.kernel,
            "strategy": contender.strategy,
            "dtype": case.dtype,
            "page_size": case.page_size,
            "page_order": "random",
            "kv_layout": "nhd",
            "cold_us": summarize(runner.cold, 1e6),
            "warm_us": summarize(runner.warm, 1e6),
            "floor_us": floor * 1e6,
            "floor_bound": bound,
            "reader": reader,
            "read_us": summarize(self._reads[reader].cold, 1e6),
            "empty_us": summarize(self._empty[0], 1e6),
            "ratio": cold["median"] / floor,
            "warm_floor_us": warm_floor * 1e6,
            "warm_ratio": warm["median"] / warm_floor,
            "distinct_bytes": distinct_bytes,
            "read_bytes": contender.read_bytes,
            "operations": case.operations,
            "gbps": distinct_bytes / cold["median"] * 1e-9,
            "tflops": case.operations / cold["median"] * 1e-12,
            "matrix_tflops": summarize(self._rates)["median"] * 1e-12,
            "share": self.share,
            "plan_us": summarize(runner.plan)["median"] * 1e6,
            "max_error": accuracy.max_error if math.isfinite(accuracy.worst) else None,
            "error_bound": accuracy.error_bound,
            "error_ratio": accuracy.worst if math.isfinite(accuracy.worst) else None,
            "checked_rows": accuracy.rows,
        }
        if model is not None:
            row.update(model_us=model * 1e6, model_ratio=model / cold["median"])
        return row


def free_bytes(device: torch.device) -> int:
    """What a case may take: half of a processor's free memory, a GPU's less 3 GiB for workspaces."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return max(0, torch.cuda.mem_get_info(device)[0] - (3 << 30))
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024 // 2


def add_options(parser: argparse.ArgumentParser) -> None:
    shape = parser.add_argument_group("shape")
    shape.add_argument("--grid", action="append", help="a grid file; several times for several", metavar="FILE")
    shape.add_argument("--cases", help="of the grid, by number from 1: 1,3,5-8 [all]")
    shape.add_argument("--batch", type=int, default=32, help="requests [32]")
    shape.add_argument("--shared", type=int, default=4096, help="tokens that all requests have [4096]")
    shape.add_argument("--unique", type=int, default=0, help="tokens of each request's own [0]")
    shape.add_argument("--heads", help="query heads / KV heads [32/8]")
    shape.add_argument("--head-dim", type=int)
    shape.add_argument("--page-size", type=int, help="[16]")
    shape.add_argument("--qo-len", type=int, help="new query tokens of each request [1]")
    shape.add_argument("--dtype", help="float32, float16 or bfloat16 [bfloat16]")
    parser.add_argument("--device", help="[cuda where there is one, else cpu]")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of everybody on the CPU")
    parser.add_argument("--systems", default="all", help=f"several of {', '.join(SYSTEMS)} [all]")
    parser.add_argument("--strategy", default="all", help="of Trunkline: auto, unshared, two_phase, hydragen [all]")
    parser.add_argument("--kernel", default="", help="of Trunkline: sm90,sm80 [the best]")
    parser.add_argument("--runs", type=int, help="of each [9; 50 on a GPU]")
    parser.add_argument("--time-limit", type=float, help="seconds after which no further case is begun")
    parser.add_argument("--check-rows", type=int, default=16, help="held against the reference [16]")
    parser.add_argument("--seed", type=int, default=1)


def _names(text: str, known: Sequence[str], option: str) -> list[str]:
    names = list(known) if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            raise ValueError(f"{option}: expected {', '.join(known)} or all, got '{name}'")
    return names


def default_device(name: str | None) -> torch.device:
    if name:
        return torch.device(name)
    cuda = torch.cuda.is_available() and any(b.name == "cuda" and b.available for b in tl.backends())
    return torch.device("cuda" if cuda else "cpu")


def cases_of(args: argparse.Namespace) -> list[tuple[str, Case]]:
    """(grid, case) of the options."""
    heads = tuple(int(n) for n in args.heads.split("/")) if args.heads else None
    overrides = {
        "heads": heads, "head_dim": args.head_dim, "page_size": args.page_size, "qo_len": args.qo_len,
        "dtype": args.dtype,
    }  # fmt: skip
    if args.grid:
        return [
            (Path(grid).stem, case) for grid in args.grid for case in choose(load_grid(grid, **overrides), args.cases)
        ]
    given = {name: value for name, value in overrides.items() if value is not None}
    return [("command line", make_case(args.batch, args.shared, args.unique, **given))]


def _measure_case(
    case: Case,
    batch: Batch,
    grid: str,
    entries: Sequence[who.Entry],
    meter: Meter,
    device: torch.device,
    room: int,
    runs: int,
    args: argparse.Namespace,
    result: dict[str, Any],
) -> None:
    """Add a case to the result; its memory is free afterwards."""
    measurement = CaseMeasurement(case, batch, entries, meter, device, room, args.check_rows, args.seed)
    measurement.time(runs)
    result["rows"].extend(measurement.rows(grid, device.type))
    result["skipped"].extend(measurement.skipped)
    for runner in measurement.runners:
        if isinstance(runner.contender, who.Trunkline):
            attention = runner.contender.attention
            result["device"].update(kernel=attention.kernel, spec=results.spec_json(attention.device_spec))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The result document; tables are printed by the caller."""
    device = default_device(args.device)
    systems = _names(args.systems, SYSTEMS, "systems")
    strategies = _names(args.strategy, who.TRUNKLINE_STRATEGIES, "strategy")
    cases = cases_of(args)
    runs = args.runs or (50 if device.type == "cuda" else 9)
    meter = make_meter(device, args.threads)
    entries = who.entries(systems, strategies, args.kernel.split(","), device, args.threads)
    absent = sorted({entry.module for entry in entries if not entry.installed})
    entries = [entry for entry in entries if entry.installed]
    result = results.document("bench", {"backend": device.type, "threads": args.threads})
    if device.type == "cuda":
        result["device"]["gpu"] = results.gpu(device)
    result["flush"] = {"bytes": meter.flush_bytes}
    result["not_installed"], result["skipped"] = absent, []
    begin = time.perf_counter()
    for number, (grid, case) in enumerate(cases, 1):
        batch = Batch(case, args.seed)
        room = free_bytes(device) - Problem.num_bytes(batch)
        late = args.time_limit is not None and time.perf_counter() - begin > args.time_limit
        if room < 0 or late:
            reason = "the time limit was reached" if late else "its KV takes more memory than there is"
            entry = {"case": case.to_json(), "label": case.label, "contender": "all", "reason": reason}
            result["skipped"].append(entry)
            continue
        print(f"[{number}/{len(cases)}] {case.label}", flush=True)
        _measure_case(case, batch, grid, entries, meter, device, room, runs, args, result)
        results.write_json(args.json, result)
        torch.compiler.reset()  # FlexAttention is compiled for each case
    return result


def table(result: dict[str, Any]) -> str:
    """A line per row, in Markdown."""
    header = [
        "requests x tokens", "heads", "dtype", "attention", "floor us", "of", "cold us", "ratio", "warm us", "GB/s",
        "TFLOP/s", "plan us", "error / bound",
    ]  # fmt: skip
    lines = []
    for row in result["rows"]:
        qo_len, error = row["case"]["qo_len"], row["error_ratio"]
        lines.append([
            row["label"] + (f", {qo_len} queries each" if qo_len > 1 else ""),
            "/".join(map(str, row["case"]["heads"])),
            row["dtype"],
            f"{row['kernel']} {row['strategy']}",
            f"{row['floor_us']:.1f}",
            row["floor_bound"],
            f"{row['cold_us']['median']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['warm_us']['median']:.1f}",
            f"{row['gbps']:.1f}",
            f"{row['tflops']:.3g}",
            f"{row['plan_us']:.1f}",
            "FAILED" if error is None or error > 1 else f"{error:.2f}",
        ])  # fmt: skip
    return results.markdown_table(header, lines)


def remarks(result: dict[str, Any]) -> list[str]:
    """What the table does not say."""
    lines = [f"not installed: {module}" for module in result["not_installed"]]
    for entry in result["skipped"]:
        heads = "/".join(map(str, entry["case"]["heads"]))
        lines.append(f"skipped: {entry['label']} heads {heads}: {entry['contender']}: {entry['reason']}")
    return lines


def is_correct(result: dict[str, Any]) -> bool:
    """Of Trunkline's rows; others' errors are shown only."""
    ours = (row for row in result["rows"] if not row["kernel"].startswith(("torch/", "flash")))
    return all(row["error_ratio"] is not None and row["error_ratio"] <= 1 for row in ours)
