#!/usr/bin/env python3
"""Turns result files of `trunkline bench` and `trunkline replay` into one self-contained HTML page."""

import argparse
import html
import json
import pathlib
import sys

EXIT_BAD_INPUT = 2
EXIT_WITHOUT_MATPLOTLIB = 3  # `trunkline report` then tries another Python

try:
    import figures
except ImportError:
    sys.exit(EXIT_WITHOUT_MATPLOTLIB)

import page


def bench_rows(result):
    """Rows with `group`, the name under which the bars of a shape stand together."""
    rows = result["rows"]
    varying = [field for field in ("dtype", "page_size", "kv_layout", "threads", "kernel")
               if len({str(row.get(field)) for row in rows}) > 1]
    for row in rows:
        heads = row["case"].get("heads")
        parts = [row.get("label", "")] + ([f"{heads[0]}/{heads[1]}"] if heads else [])
        row["group"] = "  ".join(parts + [str(row.get(field)) for field in varying])
    return rows


def speedups(rows, microseconds):
    """Rows of other strategies than `unshared`, with their speed-up over it on the same shape."""
    unshared = {row["group"]: microseconds(row) for row in rows if row["strategy"] == "unshared"}
    return [dict(row, speedup=unshared[row["group"]] / microseconds(row)) for row in rows
            if row["strategy"] != "unshared" and row["group"] in unshared and microseconds(row) > 0]


def latency_figure(name, rows, field, title, caption):
    def sample(row, key):
        return row[field][key]

    unit, factor = figures.seconds_scale(max(sample(row, "p90") for row in rows))
    spread = max(sample(row, "median") for row in rows) > 30 * min(max(sample(row, "median"), 1e-9) for row in rows)
    svg = figures.bars(name, rows, lambda row: sample(row, "median") * factor, f"time ({unit})",
                       low=lambda row: sample(row, "p10") * factor, high=lambda row: sample(row, "p90") * factor,
                       log=spread, text=lambda v: f"{v:.3g}")
    return page.figure(title, caption, svg)


def bench_section(result):
    rows = bench_rows(result)
    if not rows:
        return page.section("Benchmark", page.note("No case was measured."))
    blocks = [page.figures([
        page.figure("Ratio to the floor", "Median time with cold caches over the least time the work can take on this "
                    "machine. Lower is better; 1 is the floor.",
                    figures.bars("ratio", rows, lambda row: row["ratio"], "time over floor",
                                 lines=((1, "floor"), (1.3, "1.3")))),
        latency_figure("cold", rows, "cold_us", "Time per run", "Median with cold caches; the line spans the 10th to "
                       "the 90th percentile."),
    ])]
    faster = speedups(rows, lambda row: row["cold_us"]["median"])
    more = []
    if faster:
        more.append(page.figure("Speed-up over plain decode", "Median time of `unshared` over that of the strategy, on "
                                "the same shape.",
                                figures.bars("speedup", faster, lambda row: row["speedup"], "times faster than unshared",
                                             lines=((1, "unshared"),), log=max(r["speedup"] for r in faster) > 8,
                                             text=lambda v: f"{v:.2f}×")))
    more.append(error_figure(rows))
    blocks.append(page.figures(more))
    blocks.append(page.bench_table(rows))
    if result.get("skipped"):
        blocks.append(page.note("Skipped, because their KV did not fit: "
                                + "; ".join(entry["label"] for entry in result["skipped"]) + "."))
    return page.section("Benchmark", page.bench_tiles(rows), *blocks, note=grid_names(rows))


def grid_names(rows):
    return ", ".join(dict.fromkeys(row.get("grid", "") for row in rows))


def error_figure(rows):
    return page.figure("Error against its bound", "Worst element of the sampled rows over the error it may have, against "
                       "double precision. Up to 1 is right.",
                       figures.bars("error", rows, lambda row: row["error_ratio"], "error over bound",
                                    lines=((1, "bound"),)))


def replay_section(result):
    series, rows = result.get("series", {}), result["rows"]
    for row in rows:
        row["group"] = row["strategy"]
    pictures = []
    if series.get("time_s"):
        pictures += [
            page.figure("Share", "Tokens counted per request over distinct tokens, per decode step: the ideal reduction "
                        "of KV reads.", figures.share_over_time(series), wide=False),
            page.figure("KV memory of the running batch", "The gap is what plain decode reads again and again.",
                        figures.kv_bytes_over_time(series), wide=False),
            page.figure("Batch", "Requests that decode together.", figures.batch_over_time(series), wide=False),
            page.figure("Page pool", "Pages in use, those the cache keeps included.", figures.pool_over_time(series),
                        wide=False),
        ]
    if any(v is not None for values in series.get("strategy_us", {}).values() for v in values):
        pictures.append(page.figure("Attention over time", "One layer, measured on the sampled steps.",
                                    figures.latency_over_time(series)))
    field = "cold_us" if rows and "cold_us" in rows[0] else "warm_us"
    if rows and all(field in row for row in rows):
        for row in rows:
            row["group"] = ""
        pictures.append(latency_figure("latency", rows, field, "Time per strategy", "Median over the sampled steps; the "
                                       "line spans the 10th to the 90th percentile."))
        faster = speedups(rows, lambda row: row[field]["median"])
        if faster:
            pictures.append(page.figure("Speed-up over plain decode", "Median time of `unshared` over that of the "
                                        "strategy.",
                                        figures.bars("speedup-replay", faster, lambda row: row["speedup"],
                                                     "times faster than unshared", lines=((1, "unshared"),),
                                                     text=lambda v: f"{v:.2f}×")))
    if result.get("forest", {}).get("nodes"):
        forest = result["forest"]
        step = f"Decode step {forest['step']:,}: " if "step" in forest else ""
        pictures.append(page.figure("The forest of a step", f"{step}{forest['num_requests']:,} requests side by side, "
                                    "their tokens from the top down. A wide box is read once for all requests below it; "
                                    f"share {forest['share']:.2f}.", figures.forest(forest)))
    if rows and all("error_ratio" in row for row in rows):
        pictures.append(error_figure(rows))
    return page.section("Replay", page.replay_tiles(result), page.figures(pictures), page.summary(result),
                        page.replay_table(rows), note=result.get("trace", ""))


def build(results, title):
    sections = []
    for result in results:
        draw = replay_section if result.get("kind") == "replay" else bench_section
        sections.append(draw(result) + page.provenance(result))
    return page.document(title, results, sections)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", "-o", type=pathlib.Path, required=True)
    parser.add_argument("--title", default="Trunkline report")
    arguments = parser.parse_args()
    results = []
    for path in arguments.results:
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return EXIT_BAD_INPUT
    try:
        text = build(results, html.escape(arguments.title))
    except (KeyError, TypeError) as error:
        print(f"not a complete result of bench or replay: {type(error).__name__} {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    arguments.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
