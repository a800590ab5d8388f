"""What the host's own work takes: results of `trunkline bench --host`, of `python -m trunkline.bench host`, and of the
Google Benchmark programs."""

import page

MICROSECONDS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}


def step_rows(result):
    """One row per part of a step, those of a shape, kernel and strategy side by side."""
    rows = result["rows"]
    varying = [field for field in ("kernel", "strategy") if len({row[field] for row in rows}) > 1]
    return [{"group": ", ".join([page.shape_label(row)] + [row[field] for field in varying]), "strategy": part,
             "time_us": row[field]}
            for row in rows
            for part, field in (("advance", "advance_us"), ("plan and copies", "plan_us"), ("both", "host_us"))]


def step_table(rows):
    return page.table([
        ("requests × tokens", True, page.shape_label),
        ("kernel", True, lambda r: r["kernel"]),
        ("strategy", True, lambda r: r["strategy"]),
        ("advance", False, lambda r: page.duration(r["advance_us"]["median"])),
        ("plan and copies", False, lambda r: page.duration(r["plan_us"]["median"])),
        ("both", False, lambda r: page.duration(r["host_us"]["median"])),
        ("90th percentile", False, lambda r: page.duration(r["host_us"]["p90"])),
        ("layers", False, lambda r: page.number(r["layers"])),
        ("step", False, lambda r: page.duration(r["step_us"])),
        ("without planning", False, lambda r: page.duration(r["step_without_planning_us"])),
    ], rows)


def call_rows(result):
    """One row per call from Python, the calls of a shape and kernel side by side."""
    rows = result["rows"]
    varying = len({(row["label"], row["kernel"]) for row in rows}) > 1
    return [{"group": f"{row['call']}, {page.shape_label(row)}, {row['kernel']}" if varying else row["call"],
             "strategy": "time", "time_us": row["host_us"]} for row in rows]


def call_table(rows):
    return page.table([
        ("call", True, lambda r: r["call"]),
        ("requests × tokens", True, page.shape_label),
        ("kernel", True, lambda r: r["kernel"]),
        ("median", False, lambda r: page.duration(r["host_us"]["median"])),
        ("10th percentile", False, lambda r: page.duration(r["host_us"]["p10"])),
        ("90th percentile", False, lambda r: page.duration(r["host_us"]["p90"])),
    ], rows)


def program_rows(result):
    """Medians where a program repeated its measurements, else every run of it."""
    times, spreads = {}, {}
    for entry in result["benchmarks"]:
        kind, name = entry.get("aggregate_name"), entry.get("run_name", entry["name"])
        if kind in (None, "median", "stddev"):
            (spreads if kind == "stddev" else times)[name] = entry["real_time"] * MICROSECONDS[entry["time_unit"]]
    return [{"group": name, "strategy": "time",
             "time_us": {"median": time, "p10": max(time - spreads.get(name, 0), time / 2), "p90": time + spreads.get(name, 0)}}
            for name, time in times.items()]


def program_table(rows):
    return page.table([("benchmark", True, lambda r: r["group"]),
                       ("median", False, lambda r: page.duration(r["time_us"]["median"]))], rows)


def program_provenance(result):
    context = result.get("context", {})
    facts = [context.get("executable"), f"{context.get('num_cpus', '?')} cores", context.get("date")]
    return f"<footer><p>{page.inline(', '.join(filter(None, facts)))}</p></footer>"
