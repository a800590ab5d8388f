"""What one layer's attention takes in a chain of layers: its launch left out, its KV not in any cache."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from . import contenders as who
from .meters import Call, Meter, Samples
from .problem import Problem, kv_bytes_per_token
from .results import summarize
from .shapes import Batch, Case

REPEATS = 15


def layer_facts(
    case: Case, meter: Meter, device: torch.device, num_threads: int, room: int, seed: int
) -> dict[str, Any]:
    """The floor of a case, and the times of Trunkline's ``auto`` and of PyTorch's SDPA, its fastest kind that runs.

    Parameters
    ----------
    case : Case
    meter : Meter
    device : torch.device
    num_threads : int
    room : int
        Bytes that each request's KV in one piece may take, without which there is no SDPA.
    seed : int
    """
    batch = Batch(case, seed)
    problem = Problem(batch, device, seed)
    one = torch.zeros((), device=device)
    kept: list[Any] = []  # whose memory captured calls use

    def prepared(call: Call) -> tuple[Call, Samples]:
        prepared_call, result = meter.prepare(call)
        kept.append((call, result))
        return prepared_call, []

    launch = prepared(lambda: one.add_(1))
    readers = [prepared(read) for read in meter.readers(problem.pages, batch.page_tokens).values()]
    runs = {"auto": [prepared(who.Trunkline(problem, "auto", "", num_threads).run)], "sdpa": []}
    if Problem.dense_bytes(case) <= room:
        backends = ("flash", "cudnn") if device.type == "cuda" else ("flash",)
        kinds = [partial(who.Sdpa, problem, backend, packed) for backend in backends for packed in (False, True)]
        for kind in kinds:
            try:
                runs["sdpa"].append(prepared(kind().run))
            except (who.Unsupported, RuntimeError):  # as `attention` says by name
                continue
    for _ in range(REPEATS):
        for call, samples in (launch, *readers, *runs["auto"], *runs["sdpa"]):
            meter.cold(call, samples)
        meter.collect()

    def fastest(calls: list[tuple[Call, Samples]]) -> float:
        """Seconds; infinite without any."""
        times = [max(0.0, summarize(samples)["median"] - summarize(launch[1])["median"]) for _, samples in calls]
        return min(times, default=math.inf)

    operations, reading = case.operations / meter.matrix_rate(), fastest(readers)
    facts: dict[str, Any] = {
        "attention_floor_us": max(reading, operations) * 1e6,
        "floor_bound": "bytes" if reading >= operations else "operations",
        "distinct_bytes": batch.distinct_tokens * kv_bytes_per_token(case),
        "share": batch.forest().share,
    }
    facts.update({f"{name}_layer_us": fastest(calls) * 1e6 for name, calls in runs.items() if calls})
    return facts
