"""The page docs/benchmarks/python.md and its pictures, from python_*.json, which `python -m trunkline.bench` wrote."""

import importlib.util

from tables import ROOT, heads, load, table

# Hydragen's own figures: CodeLlama-13B on eight A100, 1024 sequences of 128 tokens: thousands of tokens per second of its
# decoding and of the same with attention left out.
HYDRAGEN = {1024: (15.6, 18.5), 16384: (14.0, 18.5)}
OURS = ("cpu/", "cuda/")


def us(value):
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def draw(name, folder):
    """The picture beside a result's JSON, by the package's own drawing, which needs Matplotlib alone; its Markdown."""
    spec = importlib.util.spec_from_file_location("plots", ROOT / "python" / "trunkline" / "bench" / "plots.py")
    plots = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plots)
    plots.draw(load(name, folder), str(folder / f"{name}.svg"))
    return f"![{name}]({name}.svg)"


def where(result):
    gpu = result["device"].get("gpu")
    machine = result["machine"]
    place = gpu["name"] if gpu else f"{machine['cpu']}, {result['device']['threads']} threads"
    return f"{place}; PyTorch {machine['torch']}; commit {result['commit']}; `{result['command']}`"


def contender(row):
    return f"Trunkline {row['strategy']}" if row["kernel"].startswith(OURS) else f"{row['kernel']}, {row['strategy']}"


def attention_table(results):
    """A line per row, its time over that of `auto`, which may lie in another file of the same machine."""
    header = ["requests x (shared + own)", "heads", "dtype", "attention", "floor us", "bound by", "cold us", "cold / floor",
              "warm us", "times auto", "error / bound"]
    rows = [row for result in results if result for row in result["rows"]]

    def case(row):
        return row["label"], heads(row["case"]), row["dtype"], row["case"]["qo_len"]

    auto = {case(row): row["cold_us"]["median"] for row in rows if row["strategy"] == "auto"}
    lines = []
    for row in sorted(rows, key=lambda row: [case(r) for r in rows].index(case(row))):
        cold = row["cold_us"]["median"]
        error = row["error_ratio"]
        lines.append([row["label"], heads(row["case"]), row["dtype"], contender(row), us(row["floor_us"]), row["floor_bound"],
                      us(cold), f"{row['ratio']:.2f}", us(row["warm_us"]["median"]),
                      f"{cold / auto[case(row)]:.2f}" if case(row) in auto else "",
                      f"{error:.2f}" if error is not None else "FAILED"])
    return table(header, lines)


def skipped(*results):
    lines = []
    for result in results:
        for entry in result["skipped"] if result else []:
            who = entry.get("contender") or entry["strategy"]
            label = entry.get("label") or f"{entry['batch']} x {entry['prefix']}"
            lines.append(f"{label}: {who}: {entry['reason']}")
    names = sorted({module for result in results if result for module in result.get("not_installed", [])})
    absent = f"Not installed: {', '.join(names)}. " if names else ""
    return absent + (f"Left out: {'; '.join(dict.fromkeys(lines))}." if lines else "")


def generate_table(result):
    header = ["requests x (prefix + own)", "attention", "step ms", "p10", "p90", "tokens/s", "bound ms", "step / bound",
              "share of the no-attention bound", "times auto", "SDPA's bound ms", "CUDA graphs"]
    lines = []
    for row in result["rows"]:
        steps = row["step_ms"]

        def number(name, form):
            return format(row[name], form) if name in row else ""

        lines.append([row["label"], row["strategy"], f"{steps['median']:.2f}", f"{steps['p10']:.2f}", f"{steps['p90']:.2f}",
                      f"{row['tokens_per_s']:.0f}", number("bound_ms", ".2f"), number("ratio", ".2f"),
                      number("share_of_no_attention", ".0%"), number("times_auto", ".2f"), number("sdpa_bound_ms", ".2f"),
                      "yes" if row["cuda_graphs"] else "no"])
    return table(header, lines)


def hydragen_line():
    shares = [f"{rate / bound:.0%} at a prefix of {prefix // 1024}K ({rate} of {bound} thousand tokens/s)"
              for prefix, (rate, bound) in HYDRAGEN.items()]
    return ("The same share as Hydragen publishes it, for CodeLlama-13B on eight A100 with 1024 sequences of 128 tokens: "
            + " and ".join(shares) + ".")


def host_table(result, cpp):
    lines = [[row["call"], row["label"], us(row["host_us"]["median"]), us(row["host_us"]["p10"]), us(row["host_us"]["p90"])]
             for row in result["rows"]]
    for name, field in (("run in C++", "run_us"), ("plan in C++", "plan_us")):
        for row in cpp["rows"] if cpp else []:
            if field in row:
                lines.append([name, row["label"], *(us(row[field][p]) for p in ("median", "p10", "p90"))])
    return table(["call", "requests x tokens", "host us", "p10", "p90"], lines)


def readme_results(folder):
    """A decode step of the batch and prefix where sharing saves most, or None where nothing was measured."""
    result = load("python_generate", folder)
    if not result:
        return None
    auto = {row["label"]: row for row in result["rows"] if row["strategy"] == "auto"}
    others = [row for row in result["rows"] if row["strategy"] == "unshared" and row["label"] in auto]
    unshared = max(others, key=lambda row: row["times_auto"])
    shared, case, model = auto[unshared["label"]], unshared["case"], result["model"]
    return f"""On an {result['device']['gpu']['name'].removeprefix('NVIDIA ')} a decode step of a model of Llama 3 8B's shape \
({model['num_layers']} layers, {model['num_qo_heads']}/{model['num_kv_heads']} heads, {shared['dtype']}, random weights) takes
{shared['step_ms']['median']:.1f} ms for {case['batch']} requests that share {case['prefix'] // 1024} K tokens, {unshared['step_ms']['median']:.1f} ms with the same loop unshared (commit {result['commit']}):
[docs/benchmarks/python.md](docs/benchmarks/python.md)."""


def page(folder):
    """The Markdown, or None where nothing was measured."""
    gpu, flex = load("python_attention", folder), load("python_flex", folder)
    cpu = load("python_cpu_attention", folder)
    parts = []
    if gpu:
        parts.append(f"""## Attention on a GPU

{where(gpu)}

{draw('python_attention', folder)}

{attention_table([gpu, flex])}

{skipped(gpu, flex)}""")
    for name, title in (("python_generate", "Decode steps of a whole model on a GPU"),
                        ("python_transformers", "Beside Transformers' own generate"),
                        ("python_cpu_generate", "Decode steps of a small model on a CPU")):
        result = load(name, folder)
        if result:
            model = result["model"]
            parts.append(f"""## {title}

{model['num_layers']} layers, {model['num_qo_heads']}/{model['num_kv_heads']} heads, head_dim {model['head_dim']}, hidden size \
{model['hidden_size']}, random weights, {result['rows'][0]['dtype']}. {where(result)}

{draw(name, folder)}

{generate_table(result)}

{skipped(result)} {hydragen_line() if name == 'python_generate' else ''}""".rstrip())
    if cpu:
        parts.append(f"""## Attention on a CPU

{where(cpu)}

{draw('python_cpu_attention', folder)}

{attention_table([cpu])}

{skipped(cpu)}""")
    for name, cpp, title in (("python_host", "hopper_host", "The host's time on a GPU machine"),
                             ("python_cpu_host", None, "The host's time, the smallest problem on a CPU")):
        result = load(name, folder)
        if result:
            parts.append(f"## {title}\n\n{where(result)}\n\n{host_table(result, load(cpp, folder) if cpp else None)}")
    if not parts:
        return None
    return """# Python benchmarks

Made by `python -m trunkline.bench`, whose commands stand with each part (all of them: `scripts/measure_python.sh`); the JSON
is beside this page, and this page and its pictures are made from it by `scripts/benchmark_tables.py`.

**Attention.** One layer. Cold: after the caches were filled with other memory; on a GPU, medians of CUDA-graph replays,
launch included. The floor is measured in the same process: the longer of reading the distinct pages once and the operations
at the rate of a large product of PyTorch's. Everybody's rows are held against the double-precision reference. `contiguous`
reads a copy of every request's KV in one piece, `packed` the same with the query heads of a KV head as rows of one query.

**Decode steps.** `trunkline.llama` with its attention exchanged: `none` leaves it out, `sdpa` is PyTorch's over a dense copy of
each request's KV, with a mask and without CUDA graphs. The bound is the step without attention plus, for each layer, the
floor of the attention in the middle of the decoding, launch left out. SDPA's bound is the same with the measured time of
PyTorch's fastest SDPA on a dense copy of one layer's KV: no loop over SDPA is faster, so it is the fairer one to compare
with, and it does not need the memory of all layers.

""" + "\n\n".join(part.rstrip() for part in parts) + "\n"
