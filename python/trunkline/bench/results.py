"""The result document that all benchmarks share, and its tables."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trunkline as tl

Row = dict[str, Any]


def summarize(samples: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Median, p10 and p90, times ``scale`` (1e6: from seconds to microseconds)."""
    if len(samples) == 0:
        return {"median": 0.0, "p10": 0.0, "p90": 0.0, "runs": 0}
    p10, median, p90 = (float(x) * scale for x in np.percentile(np.asarray(samples, float), (10, 50, 90)))
    return {"median": median, "p10": p10, "p90": p90, "runs": len(samples)}


def last_level_cache_bytes() -> int:
    """Of the processor; 0 where the system does not say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0))
    return max(sizes, default=0)


def _first_line_of(path: str, key: str) -> str:
    try:
        with open(path) as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(key)), "")
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    memory = _first_line_of("/proc/meminfo", "MemTotal").split()
    return {
        "cpu": _first_line_of("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": os.cpu_count(),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "memory_bytes": int(memory[0]) * 1024 if memory else 0,
        "system": " ".join(platform.uname()[i] for i in (0, 2, 4)),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def spec_json(spec: tl.DeviceSpec) -> dict[str, Any]:
    """A DeviceSpec's numbers by name."""
    values: dict[str, Any] = {}
    for name in (n for n in dir(type(spec)) if not n.startswith("_")):
        value = getattr(spec, name)
        if isinstance(value, (bool, int, float, str)):
            values[name] = value
        elif type(value).__name__ == "Lane":
            values[name] = {n: getattr(value, n) for n in dir(type(value)) if not n.startswith("_")}
    return values


def gpu(device: torch.device) -> dict[str, Any]:
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "compute_capability": f"{facts.major}.{facts.minor}",
        "sms": facts.multi_processor_count,
        "l2_bytes": facts.L2_cache_size,
        "memory_bytes": facts.total_memory,
        "cuda_runtime": torch.version.cuda,
    }


def commit() -> str:
    """Of the working tree that this file is tracked in; else what TRUNKLINE_COMMIT says, else unknown."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("TRUNKLINE_COMMIT", "unknown")


def document(kind: str, device: dict[str, Any]) -> dict[str, Any]:
    """A result without its rows."""
    return {
        "schema": 1,
        "kind": kind,
        "version": tl.__version__,
        "machine": machine(),
        "device": device,
        "commit": commit(),
        "command": shlex.join(["python", "-m", "trunkline.bench", *sys.argv[1:]]),
        "rows": [],
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, its columns aligned for a terminal."""
    widths = [max(len(str(line[i])) for line in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines
    )


def _flat(row: Row, prefix: str = "") -> Row:
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = "/".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return flat


def write_csv(path: str, rows: Sequence[Row]) -> None:
    """A line per row, nested fields by dotted names."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(flat)


def write_json(path: str | None, result: dict[str, Any]) -> None:
    """Where a path is given; after every case, for a run that is ended by force has measured all the same."""
    if path:
        Path(path).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
