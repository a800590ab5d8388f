#!/usr/bin/env python3
"""Writes docs/benchmarks/cpu.md, hopper.md and python.md and the results in README.md from docs/benchmarks/*.json.
Tables are made here, never by hand."""

import hopper_tables
import python_tables
from tables import FOLDER, ROOT, heads, load, replace_marked, table


def ms(us):
    return f"{us / 1000:.2f}"


def bench_table(name):
    header = ["requests x (shared + own)", "heads", "dtype", "strategy", "floor ms", "bound by", "cold ms", "ratio",
              "warm ms", "GB/s", "GFLOP/s", "error / bound"]
    rows = []
    for row in load(name)["rows"]:
        rows.append([row["label"], heads(row["case"]), row["dtype"], row["strategy"], ms(row["floor_us"]), row["floor_bound"],
                     ms(row["cold_us"]["median"]), f"{row['ratio']:.2f}", ms(row["warm_us"]["median"]),
                     f"{row['gbps']:.1f}", f"{row['tflops'] * 1000:.0f}", f"{row['error_ratio']:.2f}"])
    return table(header, rows)


def replay_table(names):
    header = ["trace", "strategy", "ms per step and layer (median)", "p10", "p90", "speed-up over unshared", "plan us",
              "error / bound"]
    rows = []
    for name in names:
        result = load(f"replay_{name}")
        if result is None:
            continue
        unshared = next(r for r in result["rows"] if r["strategy"] == "unshared")
        for row in result["rows"]:
            times = row["cold_us"]
            speed_up = unshared["cold_us"]["median"] / times["median"]
            plan = row["plan_us"]["median"] if isinstance(row["plan_us"], dict) else row["plan_us"]
            rows.append([name, row["strategy"], ms(times["median"]), ms(times["p10"]), ms(times["p90"]),
                         f"{speed_up:.2f}", f"{plan:.0f}", f"{row['error_ratio']:.2f}"])
    return table(header, rows)


def replay_facts(names):
    keys = None
    rows = []
    for name in names:
        result = load(f"replay_{name}")
        if result is None:
            continue
        summary = result["summary"]
        keys = keys or list(summary)
        rows.append([name] + [str(round(v, 4) if isinstance(v, float) else v) for v in
                              (summary.get(k, "") for k in keys)])
    return table(["trace"] + [k.replace("_", " ") for k in keys or []], rows)


def host_table(names):
    rows = []
    for name in names:
        for b in load(f"host_{name}")["benchmarks"]:
            if b.get("aggregate_name") != "median":
                continue
            counters = {k: v for k, v in b.items() if isinstance(v, float) and k not in ("real_time", "cpu_time")}
            extra = ", ".join(f"{k} {v:.4g}" for k, v in counters.items())
            rows.append([b["run_name"], f"{b['real_time']:.4g} {b['time_unit']}", f"{b['cpu_time']:.4g} {b['time_unit']}",
                         extra])
    return table(["benchmark", "wall, median of 9", "processor", "counters"], rows)


def readme_results():
    """The two goals and ChunkAttention's longest prefix: shared against unshared."""
    header = ["32 requests", "heads, dtype", "plain decode", "Trunkline", "floor", "speed-up"]
    picks = [("cpu_shared", "32 x (4096 + 64)"), ("cpu_chunk_attention", "32 x (2048 + 2112)"),
             ("cpu_unshared", "32 x 2048")]
    rows = []
    for name, label in picks:
        by_strategy = {r["strategy"]: r for r in load(name)["rows"] if r["label"] == label}
        auto, unshared = by_strategy["auto"], by_strategy["unshared"]
        speed_up = unshared["cold_us"]["median"] / auto["cold_us"]["median"]
        rows.append([label.removeprefix("32 x "), f"{heads(auto['case'])}, {auto['dtype']}", ms(unshared["cold_us"]["median"]) + " ms",
                     ms(auto["cold_us"]["median"]) + " ms", ms(auto["floor_us"]) + " ms", f"{speed_up:.1f}x"])
    machine = load(picks[0][0])["machine"]
    return f"""On the CPU ({machine['cores']} cores, AVX-512), tokens shared + own per request, one layer, cold caches:

{table(header, rows)}

Plain decode is `unshared` on the same kernels; the floor is the longer of reading the distinct KV once and the
operations at OpenBLAS' rate. Commit {load(picks[0][0])['commit']}. All figures: [docs/benchmarks/cpu.md](docs/benchmarks/cpu.md)."""


def write_cpu_page():
    head = load("cpu_unshared")
    machine, device = head["machine"], head["device"]
    traces = ["mooncake", "ragpulse", "deft_tot"]
    text = f"""# CPU and host benchmarks

Made by `scripts/measure_cpu.sh`, which says every command; the JSON is beside this page, and this page is made from it by
`scripts/benchmark_tables.py`. Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}; kernel
`{device['kernel']}`, {device['threads']} threads; commit {head['commit']}.

Floor: the longer of reading the distinct KV, q and out once with the same threads, and the operations at the rate of a
large OpenBLAS f32 product, both measured in the same run, interleaved with the kernel. Ratio: median cold time over floor.

## Goals

{bench_table('cpu_unshared')}

{bench_table('cpu_shared')}

## ChunkAttention's grid, f32

{bench_table('cpu_chunk_attention')}

## Replayed traces, one layer at sampled decode steps

{replay_table(traces)}

{replay_facts(traces)}

## Forest, plan and tree

{host_table(['forest', 'plan', 'tree'])}
"""
    (FOLDER / "cpu.md").write_text(text)


def main():
    write_cpu_page()
    readme = ROOT / "README.md"
    text = replace_marked(readme.read_text(), "results", readme_results())
    if load("hopper_decode"):
        (FOLDER / "hopper.md").write_text(hopper_tables.page(FOLDER))
        text = replace_marked(text, "Hopper results", hopper_tables.readme_results(FOLDER))
    if python_results := python_tables.readme_results(FOLDER):
        text = replace_marked(text, "Python results", python_results)
    readme.write_text(text)
    python_page = python_tables.page(FOLDER)
    if python_page:
        (FOLDER / "python.md").write_text(python_page)


if __name__ == "__main__":
    main()
