"""The page docs/benchmarks/hopper.md and its extract in README.md, from hopper_*.json and peers.json."""

import math

from tables import heads, load, table

GRIDS = {
    "never_slower": "Where sharing should not pay",
    "chunk_attention": "ChunkAttention's grid",
    "tk_port": "The ThunderKittens port's grid",
    "hydragen": "Hydragen's grid",
    "fasttree": "FastTree's grid",
    "pat": "PAT's grid",
}
STRATEGIES = ["unshared", "two_phase", "hydragen", "auto"]


def us(value):
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def cold(row):
    return row["cold_us"]["median"]


def case_key(row):
    return (row["label"], heads(row["case"]), row["case"].get("qo_len", 1))


def by_case(rows):
    """Case -> (kernel, strategy) -> row, in the order of the file."""
    cases = {}
    for row in rows:
        cases.setdefault(case_key(row), {})[(row["kernel"].split("/")[-1], row["strategy"])] = row
    return cases


def best_kernel(rows):
    """The kernel that the figures of a grid are about: sm90 where it ran."""
    kernels = [row["kernel"].split("/")[-1] for row in rows]
    return "sm90" if "sm90" in kernels else kernels[0]


def geometric_mean(ratios):
    return math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))


def best_peer(peers, case):
    """(system's name, us) of the fastest peer on a case, or None."""
    for entry in peers["decode"]:
        if all(entry[field] == case.get(field) for field in ("batch", "shared", "unique", "heads")):
            system = min(entry["cold_us"], key=entry["cold_us"].get)
            return peers["systems"][system]["name"], entry["cold_us"][system]
    return None


def peer_line(rows, peers):
    kernel = best_kernel(rows)
    pairs = [(row, best_peer(peers, row["case"])) for row in rows
             if row["kernel"].endswith(kernel) and row["strategy"] == "auto"]
    speedups = [peer[1] / cold(row) for row, peer in pairs if peer]
    faster = sum(speedup > 1 for speedup in speedups)
    return (f"Faster than the best peer on {faster} of {len(speedups)} shapes, {geometric_mean(speedups):.2f} times in "
            "the geometric mean.") if speedups else ""


def error(row):
    return f"{row['error_ratio']:.2f}" if row["error_ratio"] is not None else "FAILED"


def decode_table(rows, peers):
    header = ["requests x (shared + own)", "heads", "floor us", "bound by", "cold us", "p10", "p90", "cold / floor",
              "warm us", "best peer us", "peer", "speed-up", "TB/s", "TFLOP/s", "plan us", "model us", "model / cold",
              "error / bound"]
    kernel, lines = best_kernel(rows), []
    for (label, head, _), variants in by_case(rows).items():
        row = variants.get((kernel, "auto"))
        if row is None:
            continue
        peer = best_peer(peers, row["case"])
        lines.append([label, head, us(row["floor_us"]), row["floor_bound"], us(cold(row)), us(row["cold_us"]["p10"]),
                      us(row["cold_us"]["p90"]), f"{row['ratio']:.2f}", us(row["warm_us"]["median"]),
                      us(peer[1]) if peer else "", peer[0] if peer else "",
                      f"{peer[1] / cold(row):.2f}" if peer else "", f"{row['gbps'] / 1000:.2f}",
                      f"{row['tflops']:.0f}", us(row["plan_us"]), us(row["model_us"]), f"{row['model_ratio']:.2f}",
                      error(row)])
    return table(header, lines)


def kernels_table(rows):
    """Every kernel and strategy of one run side by side: what the kernels bring to the published methods."""
    variants_of_any = {variant for variants in by_case(rows).values() for variant in variants}
    columns = [(kernel, strategy) for kernel in ("sm80", "sm90") for strategy in STRATEGIES
               if (kernel, strategy) in variants_of_any]
    header = ["requests x (shared + own)", "heads", "floor us"] + [f"{k} {s}" for k, s in columns]
    lines = []
    for (label, head, _), variants in by_case(rows).items():
        some = next(iter(variants.values()))
        lines.append([label, head, us(some["floor_us"])] +
                     [us(cold(variants[column])) if column in variants else "" for column in columns])
    return table(header, lines)


def grid_table(rows):
    header = ["requests x tokens", "heads", "dtype", "floor us", "bound by", "cold us", "cold / floor", "warm us",
              "warm / floor", "unshared us", "speed-up", "TB/s", "TFLOP/s", "plan us", "model / cold", "error / bound"]
    kernel, lines = best_kernel(rows), []
    for (label, head, _), variants in by_case(rows).items():
        row, unshared = variants.get((kernel, "auto")), variants.get((kernel, "unshared"))
        if row is None:
            continue
        lines.append([label, head, row["dtype"], us(row["floor_us"]), row["floor_bound"], us(cold(row)),
                      f"{row['ratio']:.2f}", us(row["warm_us"]["median"]), f"{row['warm_ratio']:.2f}",
                      us(cold(unshared)) if unshared else "",
                      f"{cold(unshared) / cold(row):.2f}" if unshared else "", f"{row['gbps'] / 1000:.2f}",
                      f"{row['tflops']:.0f}", us(row["plan_us"]), f"{row['model_ratio']:.2f}", error(row)])
    return table(header, lines)


def prefill_table(rows):
    header = ["requests x (shared + own)", "query tokens each", "in all", "heads", "floor us", "cold us",
              "cold / floor", "TFLOP/s", "error / bound"]
    kernel, lines = best_kernel(rows), []
    for (label, head, qo_len), variants in by_case(rows).items():
        row = variants.get((kernel, "auto"))
        if row is None:
            continue
        lines.append([label, str(qo_len), str(qo_len * row["case"]["batch"]), head, us(row["floor_us"]), us(cold(row)),
                      f"{row['ratio']:.2f}", f"{row['tflops']:.0f}", error(row)])
    return table(header, lines)


def layers_table(rows):
    header = ["requests x (shared + own)", "kernel", "strategy", "layers", "us per layer",
              "one warm layer, less the launch", "us per layer, own KV each"]
    lines = []
    for row in rows:
        layers = row["layers"]
        lines.append([row["label"], row["kernel"], row["strategy"], str(layers["count"]),
                      f"{layers['layer_us']['median']:.2f}", f"{layers['single_us']:.2f}",
                      f"{layers['own_kv_layer_us']['median']:.2f}"])
    return table(header, lines)


def host_table(rows):
    header = ["requests x tokens", "kernel", "strategy", "advance us", "plan and copies us", "both us", "p90",
              "layers in a step", "step us", "without planning"]
    lines = []
    for row in rows:
        lines.append([row["label"], row["kernel"], row["strategy"], us(row["advance_us"]["median"]),
                      us(row["plan_us"]["median"]), us(row["host_us"]["median"]), us(row["host_us"]["p90"]),
                      str(row["layers"]), us(row["step_us"]), us(row["step_without_planning_us"])])
    return table(header, lines)


def ratios_of(rows):
    kernel = best_kernel(rows)
    return [row["ratio"] for row in rows if row["kernel"].endswith(kernel) and row["strategy"] == "auto"]


def summary_line(rows):
    ratios = ratios_of(rows)
    return (f"Geometric mean of cold over floor: {geometric_mean(ratios):.3f} over {len(ratios)} shapes, "
            f"worst {max(ratios):.2f}.")


def never_slower_line(results):
    comparisons = [entry for result in results for entry in result["summary"]["never_slower"]]
    slower = [entry for entry in comparisons if entry["slower"]]
    if not comparisons:
        return ""
    text = (f"`auto` against `unshared`, interleaved: {len(comparisons)} comparisons, {len(slower)} where `auto` is "
            "slower by more than the larger of 3 % and 0.5 us")
    named = "; ".join(f"{e['label']} heads {e['heads']} on {e['kernel']}: {us(e['auto_us'])} against "
                      f"{us(e['unshared_us'])} us" for e in slower)
    return text + (f": {named}." if slower else ".")


def provenance(name, result):
    gpu = result["device"].get("gpu", {})
    return f"`hopper_{name}.json`: commit {result['commit']}, {gpu.get('name', '?')}, CUDA {gpu.get('cuda_runtime', '?')}"


def page(folder):
    results = {name: load(f"hopper_{name}", folder)
               for name in ["decode", *GRIDS, "prefill", "layers", "host"]}
    results = {name: result for name, result in results.items() if result}
    peers, decode = load("peers", folder), results["decode"]
    parts = [f"""# Hopper benchmarks

Made by `scripts/measure_cuda.sh`, which says every command; the JSON is beside this page, and this page is made from it
by `scripts/benchmark_tables.py`. {decode['device']['gpu']['name']}, cold: median of {decode['rows'][0]['cold_us']['runs']}
graph replays, each after a read of {decode['flush']['bytes'] >> 20} MiB; every time contains its launch (an empty
graph: {decode['rows'][0]['empty_us']['median']:.1f} us). Every row was held against the double-precision reference
first.

Floor: the longer of reading exactly the distinct pages once, by the fastest of three readers, and the operations at the
rate of a cuBLAS product of 8192 cubed (the fastest ten in a row, {decode['rows'][0]['matrix_tflops']:.0f} TFLOP/s in
this run) plus an empty graph. Floor and kernels take turns in one process.
Plans were made with the device facts that the JSON holds (`device.spec`).

## Decode, against the best of its peers

{decode_table(decode['rows'], peers)}

{peer_line(decode['rows'], peers)} {summary_line(decode['rows'])}

Peers: {peers['source']}. {'; '.join(f"{s['name']}: {s['what']}" for s in peers['systems'].values())}.

## Kernels and methods in one run

`sm80` is the plain CUDA kernel, `sm90` the Hopper kernel; cold us.

{kernels_table(decode['rows'])}"""]
    for name, title in GRIDS.items():
        if name in results:
            rows = results[name]["rows"]
            parts.append(f"## {title}\n\n{grid_table(rows)}\n\n{summary_line(rows)}")
    comparing = [result for name, result in results.items() if name == "decode" or name in GRIDS]
    if never_slower_line(comparing):
        parts.append(f"## Never slower\n\n{never_slower_line(comparing)}")
    if "prefill" in results:
        parts.append(f"## Chunked prefill over a shared prefix\n\n{prefill_table(results['prefill']['rows'])}")
    if "layers" in results:
        parts.append(f"## A chain of layers in one graph\n\n{layers_table(results['layers']['rows'])}")
    if "host" in results:
        parts.append("## The host's cost of a decode step\n\nEvery request grows by a token; a step runs its layers in one "
                     f"graph, after planning or without.\n\n{host_table(results['host']['rows'])}")
    parts.append("## Files\n\n" + "\n".join("- " + provenance(name, result) for name, result in results.items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def readme_results(folder):
    decode, peers = load("hopper_decode", folder), load("peers", folder)
    header = ["requests x (shared + own)", "heads", "floor us", "Trunkline us", "cold / floor", "best peer us", "peer"]
    kernel, lines = best_kernel(decode["rows"]), []
    for (label, head, _), variants in by_case(decode["rows"]).items():
        row = variants.get((kernel, "auto"))
        if row is None:
            continue
        peer = best_peer(peers, row["case"])
        lines.append([label, head, us(row["floor_us"]), us(cold(row)), f"{row['ratio']:.2f}",
                      us(peer[1]) if peer else "", peer[0] if peer else ""])
    return f"""On one {decode['device']['gpu']['name']} (bf16, head_dim 128, one layer, cold L2, launch included):

{table(header, lines)}

{peer_line(decode['rows'], peers)} {summary_line(decode['rows'])} The floor is measured in the same run: the longer of reading the distinct pages once and
the operations at cuBLAS' rate. Commit {decode['commit']}. All figures: [docs/benchmarks/hopper.md](docs/benchmarks/hopper.md)."""
