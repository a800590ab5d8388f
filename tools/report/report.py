#!/usr/bin/env python3
"""Turns result files of `trunkline bench`, `trunkline replay`, `python -m trunkline.bench` and the Google Benchmark
programs into one self-contained HTML page."""

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

import generate
import host
import page


def bench_rows(result):
    """Rows with `group`, the name under which the bars of a shape stand together."""
    rows = result["rows"]
    varying = [field for field in ("dtype", "page_size", "kv_layout", "threads", "kernel")
               if len({str(row.get(field)) for row in rows}) > 1]
    for row in rows:
        heads = row["case"].get("heads")
        parts = [page.shape_label(row)] + ([f"{heads[0]}/{heads[1]}"] if heads else [])
        row["group"] = ", ".join(parts + [str(row.get(field)) for field in varying])
    return rows


def speedups(rows):
    """Rows of other strategies than `unshared`, with their speed-up over it on the same shape."""
    unshared = {row["group"]: row["cold_us"]["median"] for row in rows if row["strategy"] == "unshared"}
    return [dict(row, speedup=unshared[row["group"]] / row["cold_us"]["median"]) for row in rows
            if row["strategy"] != "unshared" and row["group"] in unshared]


def worst_errors(rows):
    """The worst row of each dtype and strategy."""
    worst = {}
    for row in rows:
        key = (row["dtype"], row["strategy"])
        if key not in worst or row["error_ratio"] is None or (worst[key]["error_ratio"] or 0) < row["error_ratio"]:
            worst[key] = dict(row, group=row["dtype"])
    return [worst[key] for key in sorted(worst, key=lambda key: key[0])]


def latency_figure(name, rows, field, caption, wide=True, title="Time per strategy"):
    unit, factor = figures.seconds_scale(max(row[field]["p90"] for row in rows))
    svg = figures.bars(name, rows, lambda row: row[field]["median"] * factor, f"time ({unit})",
                       low=lambda row: row[field]["p10"] * factor, high=lambda row: row[field]["p90"] * factor,
                       text=lambda v: f"{v:.3g}", width=figures.FULL if wide else figures.HALF)
    return page.figure(title, caption, svg, wide)


def speedup_figure(name, rows, wide=True):
    svg = figures.bars(name, rows, lambda row: row["speedup"], "times faster than unshared", lines=((1, "unshared"),),
                       text=lambda v: f"{v:.2f}×", width=figures.FULL if wide else figures.HALF)
    return page.figure("Speed-up over plain decode", "Median time of `unshared` over that of the strategy, on the same "
                       "batches.", svg, wide)


def ratio_figure(name, rows, wide=True):
    svg = figures.bars(name, rows, lambda row: row["ratio"], "time over floor", lines=((1, "floor"), (1.3, "1.3")),
                       width=figures.FULL if wide else figures.HALF)
    return page.figure("Ratio to the floor", "Median time with cold caches over the least time the work can take on this "
                       "machine. Lower is better.", svg, wide)


def error_figure(name, rows, wide=True):
    rows = [dict(row, error_ratio=row["error_ratio"] if row["error_ratio"] is not None else 1e9) for row in rows]
    svg = figures.bars(name, rows, lambda row: row["error_ratio"], "error over bound", lines=((1, "bound"),),
                       width=figures.FULL if wide else figures.HALF)
    return page.figure("Error against its bound", "Worst element of the sampled rows against double precision, over the "
                       "error it may have. Up to 1 is right.", svg, wide)


def skipped_notes(result):
    """A note per reason, with what was left out for it."""
    left_out = {}
    for entry in result.get("skipped", []):
        parts = [page.shape_label(entry) or f"{entry['batch']} × {entry['prefix']}"]
        heads = entry.get("case", {}).get("heads")
        parts += ["/".join(map(str, heads))] if heads else []
        by_whom = entry.get("contender", entry.get("strategy", "all"))
        parts += [by_whom] if by_whom != "all" else []
        left_out.setdefault(entry["reason"], []).append(", ".join(parts))
    return [page.note(f"Skipped, {reason}: {'; '.join(labels)}.") for reason, labels in left_out.items()]


def bench_section(result):
    rows = bench_rows(result)
    if not rows:
        return page.section("Benchmark", page.note("No case was measured."), *skipped_notes(result))
    pictures = [ratio_figure("ratio", rows),
                latency_figure("cold", rows, "cold_us", "Median with cold caches; the line spans the 10th to the 90th "
                               "percentile.")]
    faster = speedups(rows)
    if faster:
        pictures.append(speedup_figure("speedup", faster))
    pictures.append(error_figure("error", worst_errors(rows)))
    blocks = [page.bench_tiles(rows), page.figures(pictures), page.bench_table(rows), *skipped_notes(result)]
    facts = [", ".join(dict.fromkeys(str(row.get(field, "")) for row in rows)) for field in ("grid", "dtype", "page_size")]
    return page.section("Benchmark", *blocks, note="{}, {}, pages of {} tokens".format(*facts))


def series_figures(series):
    return [
        page.figure("Share", "Tokens counted per request over distinct tokens, per decode step: the ideal reduction of KV "
                    "reads.", figures.share_over_time(series), wide=False),
        page.figure("KV memory of the running batch", "The gap is what plain decode reads again and again.",
                    figures.kv_bytes_over_time(series), wide=False),
        page.figure("Batch", "Requests at each decode step.", figures.batch_over_time(series), wide=False),
        page.figure("Page pool", "Pages in use.", figures.pool_over_time(series), wide=False),
    ]


def strategy_figures(rows):
    pictures = [latency_figure("latency", rows, "cold_us", "Median over the sampled steps; the line spans the 10th to the "
                               "90th percentile.", wide=False)]
    faster = [row for row in rows if row["strategy"] != "unshared" and "speedup" in row]
    pictures.append(speedup_figure("speedup-replay", faster, wide=False) if faster else "")
    pictures.append(ratio_figure("ratio-replay", rows, wide=False))
    pictures.append(error_figure("error-replay", rows, wide=False))
    return list(filter(None, pictures))


def replay_section(result):
    series, rows = result.get("series", {}), result["rows"]
    for row in rows:
        row["group"] = ""
    pictures = series_figures(series) if series.get("time_s") else []
    if any(v is not None for values in series.get("strategy_us", {}).values() for v in values):
        pictures.append(page.figure("Attention over time", "One layer with cold caches, measured on the sampled steps.",
                                    figures.latency_over_time(series)))
    if rows:
        pictures += strategy_figures(rows)
    forest = result.get("forest")
    if forest and forest["nodes"]:
        step = f"Decode step {forest['step']:,}: " if "step" in forest else ""
        pictures.append(page.figure("The forest of a step", f"{step}{forest['num_requests']:,} requests side by side, "
                                    "their tokens from the top down. A wide box is read once for all requests below it; "
                                    f"share {forest['share']:.2f}.", figures.forest(forest)))
    trace = result.get("summary", {}).get("trace", "")
    return page.section("Replay", page.replay_tiles(result), page.figures(pictures), page.replay_table(rows),
                        page.summary(result), note=trace)


def host_section(result):
    if any("call" in row for row in result["rows"]):
        return host_calls_section(result)
    picture = latency_figure("host", host.step_rows(result), "time_us", "Median per decode step; the line spans the 10th "
                             "to the 90th percentile.", title="Time per part")
    return page.section("Host time of a step", page.figures([picture]), host.step_table(result["rows"]))


def host_calls_section(result):
    picture = latency_figure("host", host.call_rows(result), "time_us", "Median per call; the line spans the 10th to the "
                             "90th percentile.", title="Time per call")
    return page.section("Host time of calls", page.figures([picture]), host.call_table(result["rows"]))


def generate_section(result):
    rows = result["rows"]
    if not rows:
        return page.section("Generation", page.note("No loop was measured."), *skipped_notes(result))
    picture = latency_figure("generate", generate.step_rows(rows), "time_us", "Median per decode step of the whole model; "
                             "the line spans the 10th to the 90th percentile.", title="Time of a decode step")
    return page.section("Generation", page.figures([picture]), generate.step_table(rows), *skipped_notes(result),
                        note=result.get("model", {}).get("name", ""))


def program_section(result):
    rows = host.program_rows(result)
    picture = latency_figure("program", rows, "time_us", "Median; the line spans a standard deviation to either "
                             "side.", title="Time per benchmark")
    return page.section("Host work", page.figures([picture]), host.program_table(rows))


SECTIONS = {"bench": bench_section, "replay": replay_section, "host": host_section, "generate": generate_section}


def draw(result):
    """The part of the page that one result file makes."""
    if "benchmarks" in result:
        return program_section(result) + host.program_provenance(result)
    return SECTIONS[result["kind"]](result) + page.provenance(result)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", "-o", type=pathlib.Path, required=True)
    parser.add_argument("--title", default="Trunkline report")
    arguments = parser.parse_args()
    results, sections = [], []
    for path in arguments.results:
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
            sections.append(draw(results[-1]))
        except (KeyError, TypeError, AttributeError) as error:
            print(f"{path}: not a complete result: {type(error).__name__} {error}", file=sys.stderr)
            return EXIT_BAD_INPUT
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return EXIT_BAD_INPUT
    text = page.document(html.escape(arguments.title), results, sections)
    arguments.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
