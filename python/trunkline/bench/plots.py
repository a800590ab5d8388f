"""Pictures of results, with Matplotlib alone: the documents' are drawn where nothing else is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

# A hue for each system; Trunkline's own is the one that stands out.
COLOURS = {
    "auto": "#d1495b", "unshared": "#edae49", "two_phase": "#c77d2e", "hydragen": "#8d6a9f", "none": "#b0b0b0",
    "sdpa": "#00798c", "transformers": "#30638e",
}  # fmt: skip
PEER_COLOURS = ("#00798c", "#66a182", "#30638e", "#7fb7be", "#4f5d75", "#2e4057", "#9ab87a")


def _name(row: Row) -> str:
    if "cold_us" not in row:
        strategy: str = row["strategy"]
        return {"none": "no attention", "auto": "Trunkline", "sdpa": "PyTorch SDPA"}.get(strategy, strategy)
    kernel: str = row["kernel"]
    system = "Trunkline" if kernel.startswith(("cpu/", "cuda/")) else kernel.removeprefix("torch/")
    return f"{system} {row['strategy']}"


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    peers = iter(PEER_COLOURS * len(rows))
    colours: dict[str, str] = {}
    for row in rows:
        if _name(row) not in colours:
            ours = "cold_us" not in row or row["kernel"].startswith(("cpu/", "cuda/"))
            colours[_name(row)] = COLOURS.get(row["strategy"], "#555555") if ours else next(peers)
    return colours


def draw(result: dict[str, Any], path: str) -> None:
    """Bars of every row, by case, over the floor or the bound; the format is the path's ending."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "trunkline"})  # text stays text; the same bits again
    rows = result["rows"]
    attention = result["kind"] == "bench"
    if not rows or result["kind"] not in ("bench", "generate"):
        raise ValueError(f"plot: expected rows of attention or generate, got {len(rows)} of '{result['kind']}'")

    def case_of(row: Row) -> str:
        heads = "/".join(map(str, row["case"]["heads"]))
        label = row["label"].replace(" x ", "\nx ", 1)  # beside its neighbours
        return f"{label}\n{heads}" if attention else label

    def height(row: Row) -> float:
        return float((row["cold_us"] if attention else row["step_ms"])["median"])

    colours = _colours(rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(case_of(row), []).append(row)
    widths = [max(len(group), 4) + 1 for group in groups.values()]  # in bars: a label has room below
    figure, axes = plt.subplots(figsize=(max(6.0, 1.2 + 0.22 * sum(widths)), 4.2), layout="constrained")
    ticks, end = [], 0.0
    for group, width in zip(groups.values(), widths):
        begin = end + (width - len(group)) / 2
        end += width
        for i, row in enumerate(group):
            axes.bar(begin + i, height(row), width=0.9, color=colours[_name(row)], label=_name(row))
        low = group[0]["floor_us"] if attention else group[0].get("bound_ms")
        if low:
            axes.hlines(low, begin - 0.5, begin + len(group) - 0.5, color="black", linewidth=1.2)
        ticks.append(begin + (len(group) - 1) / 2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xticks(ticks, list(groups), fontsize=8)
    axes.set_ylabel("us, cold (line: floor)" if attention else "ms per decode step (line: no attention + floor)")
    gpu = result["device"].get("gpu")
    where = gpu["name"] if gpu else f"{result['machine']['cpu']}, {result['device']['threads']} threads"
    axes.set_title(where, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    entries = dict(zip(*reversed(axes.get_legend_handles_labels())))
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.05), "ncols": 4, "fontsize": 8, "frameon": False}
    axes.legend(entries.values(), entries.keys(), **above)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.endswith(".svg") else None)
    plt.close(figure)
