"""The pictures of a report, drawn by Matplotlib and returned as inline SVG."""

import io
import math
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

INK, SOFT, LINE, LIMIT = "#1d2733", "#5d6b7a", "#e3e7ec", "#b3412f"
BLUE, PALE = "#2458a6", "#c3d2e8"
STRATEGY_COLOURS = {"auto": BLUE, "unshared": "#9aa5b1", "two_phase": "#d98c2b", "hydragen": "#3f9a84"}
OTHER_COLOURS = ["#7b5ea7", "#a8554e", "#5b7f3a"]
SHARING = LinearSegmentedColormap.from_list("sharing", ["#e9edf2", "#b9cde8", "#5f8fcb", "#2458a6", "#12305f"])
FULL, HALF = 1048, 500  # widths in CSS pixels of a figure across the page and of one in a pair

plt.rcParams.update({
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's own typeface
    "font.family": [name for name in ("Liberation Sans", "Arial", "Helvetica", "DejaVu Sans")
                    if name in {font.name for font in font_manager.fontManager.ttflist}][:1] or ["sans-serif"],
    "font.size": 8.6,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 8.6,
    "axes.edgecolor": "#b8c1cb",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": "#b8c1cb",
    "ytick.color": "#b8c1cb",
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.1,
    "legend.borderaxespad": 0,
})


def strategy_colour(strategy):
    if strategy in STRATEGY_COLOURS:
        return STRATEGY_COLOURS[strategy]
    return OTHER_COLOURS[sum(map(ord, strategy)) % len(OTHER_COLOURS)]


def new_figure(width, height):
    """Sizes in CSS pixels."""
    return plt.subplots(figsize=(width / 96, height / 96), layout="constrained")


def to_svg(figure, name):
    """Inline SVG without prolog, metadata or any address; ids are this figure's own."""
    plt.rcParams["svg.hashsalt"] = name
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True)
    plt.close(figure)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', lambda found: found.group(1) + name + "-", svg)
    return f'<svg role="img" aria-label="{name}"' + svg[len("<svg"):]


def compact(value, _=None):
    """1234567 -> 1.23 M; for ticks and labels."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            scaled = value / (1e3 if unit == " k" else limit)
            return f"{scaled:.3g}{unit}"
    return f"{value:,.4g}" if value != int(value) else f"{int(value):,}"


def seconds_scale(microseconds):
    """The unit for times up to this many microseconds."""
    for limit, unit, factor in ((1e3, "µs", 1), (1e6, "ms", 1e-3)):
        if microseconds < limit:
            return unit, factor
    return "s", 1e-6


def bytes_scale(largest):
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if largest >= 1024**power:
            return unit, 1 / 1024**power
    return "bytes", 1


def thin(values, most=700):
    """Means of equal runs of a long series, so that a picture has about a point per pixel."""
    if len(values) <= most:
        return list(values)
    edges = [round(i * len(values) / most) for i in range(most + 1)]
    means = []
    for begin, end in zip(edges, edges[1:]):
        known = [v for v in values[begin:end] if v is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def legend_above(axes, handles=None, labels=None, offset=4):
    """A legend in one line over the axes, `offset` points above them."""
    if handles is None:
        handles, labels = axes.get_legend_handles_labels()
    above = ScaledTranslation(0, offset / 72, axes.figure.dpi_scale_trans)
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), bbox_transform=axes.transAxes + above,
                ncols=len(labels), columnspacing=1.4, handletextpad=0.5)


def over_time(series, width, height):
    """Axes over simulated time, and its values thinned and in the axis' unit."""
    figure, axes = new_figure(width, height)
    seconds = series["time_s"]
    unit, factor = ("h", 1 / 3600) if seconds[-1] > 3 * 3600 else ("min", 1 / 60) if seconds[-1] > 300 else ("s", 1)
    axes.set_xlabel(f"simulated time ({unit})")
    axes.margins(x=0)
    if seconds[0] < 0.05 * seconds[-1]:
        axes.set_xlim(0, seconds[-1] * factor)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes, [t * factor for t in seconds]


def from_zero(axes):
    axes.set_ylim(bottom=0)


def share_over_time(series):
    figure, axes, x = over_time(series, HALF, 250)
    x, y = thin(x), thin(series["share"])
    axes.plot(x, y, color=BLUE, linewidth=1.3)
    axes.fill_between(x, 1, y, color=PALE, alpha=0.55, linewidth=0)
    axes.set_ylabel("tokens per distinct token")
    axes.set_ylim(1, max(1 + (max(y) - 1) * 1.08, 1.1))
    return to_svg(figure, "share")


def kv_bytes_over_time(series):
    figure, axes, x = over_time(series, HALF, 250)
    unit, factor = bytes_scale(max(series["total_kv_bytes"]))
    x = thin(x)
    total = [v * factor for v in thin(series["total_kv_bytes"])]
    distinct = [v * factor for v in thin(series["distinct_kv_bytes"])]
    axes.fill_between(x, 0, distinct, color=PALE, linewidth=0)
    axes.fill_between(x, distinct, total, color="#eef1f5", linewidth=0)
    axes.plot(x, total, color=STRATEGY_COLOURS["unshared"], linewidth=1.1, label="counted per request")
    axes.plot(x, distinct, color=BLUE, linewidth=1.3, label="distinct")
    axes.set_ylabel(f"KV of one layer ({unit})")
    from_zero(axes)
    legend_above(axes)
    return to_svg(figure, "kv-bytes")


def batch_over_time(series):
    figure, axes, x = over_time(series, HALF, 220)
    x = thin(x)
    axes.plot(x, thin(series["batch"]), color=BLUE, linewidth=1.2, label="decoding")
    if max(series.get("waiting") or [0]) > 0:
        axes.plot(x, thin(series["waiting"]), color=STRATEGY_COLOURS["two_phase"], linewidth=1.1, label="waiting")
        legend_above(axes)
    axes.set_ylabel("requests")
    from_zero(axes)
    return to_svg(figure, "batch")


def pool_over_time(series):
    figure, axes, x = over_time(series, HALF, 220)
    x = thin(x)
    total = max(max(series["pool_pages_total"]), 1)
    running = [100 * v / total for v in thin(series["pool_pages_used"])]
    axes.fill_between(x, 0, running, color=PALE, linewidth=0)
    axes.plot(x, running, color=BLUE, linewidth=1.2, label="held by running requests")
    if "pool_pages_cached" in series:
        held = [r + 100 * v / total for r, v in zip(running, thin(series["pool_pages_cached"]))]
        axes.fill_between(x, running, held, color="#eef1f5", linewidth=0)
        axes.plot(x, held, color=STRATEGY_COLOURS["unshared"], linewidth=1.1, label="with those the cache keeps")
        legend_above(axes)
    axes.set_ylabel(f"of {total:,} pages (%)")
    axes.set_ylim(0, 104)
    return to_svg(figure, "pool")


def latency_over_time(series):
    figure, axes, times = over_time(series, FULL, 270)
    known = [v for values in series["strategy_us"].values() for v in values if v is not None]
    unit, factor = seconds_scale(max(known, default=1))
    for strategy, values in series["strategy_us"].items():
        points = [(t, v * factor) for t, v in zip(times, values) if v is not None]
        if not points:
            continue
        x, y = zip(*points)
        dots = {"marker": "o", "markersize": 2.6} if len(points) <= 150 else {}
        axes.plot(x, y, color=strategy_colour(strategy), linewidth=1.1, label=strategy,
                  zorder=3 if strategy == "auto" else 2, **dots)
    axes.set_ylabel(f"one layer ({unit})")
    from_zero(axes)
    legend_above(axes)
    return to_svg(figure, "latency-over-time")


def place(rows):
    """Where horizontal bars stand: [(y, row)], [(y of a name, name)], height. Rows of a group stand together under its
    name; a single group's bars carry the names of their strategies."""
    bars_at, names, at, group = [], [], 0.0, None
    for row in rows:
        if group is not None and row["group"] != group:
            at += 0.55
        group = row["group"]
        bars_at.append((at, row))
        at += 1
    groups = list(dict.fromkeys(row["group"] for row in rows))
    if len(groups) == 1:
        names = [(y, row["strategy"]) for y, row in bars_at]
    else:
        for name in groups:
            members = [y for y, row in bars_at if row["group"] == name]
            names.append((sum(members) / len(members), name))
    return bars_at, names, at


def log_axis(axes, low, high):
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.xaxis.set_major_locator(FixedLocator([s * 10.0**p for p in powers for s in steps]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def bars(name, rows, value, label, *, low=None, high=None, lines=(), text=lambda v: f"{v:.2f}", width=FULL):
    """Horizontal bars of value(row), a whisker from low(row) to high(row), and named limits as dashed lines. Values that
    differ by more than a factor of 12 stand as dots on a logarithmic axis."""
    bars_at, names, height = place(rows)
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    with_legend = len(strategies) > 1 and len(names) < len(rows)
    figure, axes = new_figure(width, 52 + (22 if with_legend else 0) + (12 if lines else 0) + 17 * height)
    values = [value(row) for row in rows]
    ends = [max(high(row), value(row)) if high else value(row) for row in rows]
    starts = [low(row) for row in rows] if low else values
    smallest = min([v for v in starts if v > 0] + [x for x, _ in lines], default=1)
    largest = max(ends + [x for x, _ in lines] + [1e-12])
    log = largest > 12 * smallest
    base = smallest / 1.6 if log else 0
    for y, row in bars_at:
        v = value(row)
        colour = strategy_colour(row["strategy"])
        if log:  # the length of a bar would mean nothing
            axes.plot([base, v], [y, y], color=colour, linewidth=1.6, alpha=0.4, solid_capstyle="butt")
            axes.plot([v], [y], color=colour, marker="o", markersize=5, zorder=5)
        else:
            axes.barh(y, v, height=0.8, color=colour, linewidth=0)
        if low and high:
            axes.plot([low(row), high(row)], [y, y], color=colour if log else INK, linewidth=1.0, solid_capstyle="butt")
        axes.annotate(text(v), (max(v, high(row)) if high else v, y), xytext=(6 if log else 4, 0),
                      textcoords="offset points", va="center", fontsize=8, color=INK, zorder=6,
                      bbox={"facecolor": "white", "linewidth": 0, "pad": 0.8})
    for i, (x, limit) in enumerate(lines):
        axes.axvline(x, color=LIMIT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=4)
        # Two limits may lie close to each other: their names stand to the outside of both.
        side = "center" if len(lines) == 1 else "right" if i == 0 else "left"
        axes.annotate(limit, (x, 1), xycoords=("data", "axes fraction"), xytext=({"right": 2, "left": -2}.get(side, 0), 4),
                      textcoords="offset points", ha=side, fontsize=8, color=LIMIT)
    axes.set_yticks([y for y, _ in names], [text_of for _, text_of in names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(height - 0.25, -0.75)
    if log:
        log_axis(axes, base, largest * 1.5)
    else:
        axes.set_xlim(0, largest * (1.12 if width == FULL else 1.2))
        axes.xaxis.set_major_locator(MaxNLocator(7 if width == FULL else 5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(compact))
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    if with_legend:
        handles = [Rectangle((0, 0), 1, 1, color=strategy_colour(s)) for s in strategies]
        legend_above(axes, handles, strategies, offset=18 if lines else 4)
    return to_svg(figure, name)


def forest(data):
    """An icicle: requests side by side, tokens from the top down, one rectangle per node."""
    nodes = data["nodes"]
    figure, axes = new_figure(FULL, 430)
    requests = max(data["num_requests"], 1)
    depth = max((n["first_token"] + n["num_tokens"] for n in nodes), default=1)
    boxes = [Rectangle((n["request_begin"], n["first_token"]), n["request_end"] - n["request_begin"], n["num_tokens"])
             for n in nodes]
    counts = [n["request_end"] - n["request_begin"] for n in nodes]
    norm = LogNorm(1, max(max(counts, default=1), 2))
    # Thousands of rectangles would make a page of many megabytes: then the picture is a bitmap inside the SVG.
    collection = PatchCollection(boxes, cmap=SHARING, norm=norm, edgecolor="white", rasterized=len(nodes) > 3000,
                                 linewidth=0.8 if requests <= 160 else 0.25)
    collection.set_array(counts)
    axes.add_collection(collection)
    axes.set_xlim(0, requests)
    axes.set_ylim(depth, 0)
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(compact))
    axes.set_xlabel("requests, in the forest's order")
    axes.set_ylabel("token position")
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    pixels_x, pixels_y = 880 / requests, 360 / depth
    for node, count in zip(nodes, counts):
        width, height = count * pixels_x, node["num_tokens"] * pixels_y
        if count < 2 or height < 13:
            continue
        long, short = f"{count} requests · {node['num_tokens']:,} tokens", f"{count} × {node['num_tokens']:,}"
        text = long if width > 6.2 * len(long) else short if width > 6.4 * len(short) else ""
        if text:
            dark = norm(count) > 0.45
            axes.text(node["request_begin"] + count / 2, node["first_token"] + node["num_tokens"] / 2, text,
                      ha="center", va="center", fontsize=8.2, color="white" if dark else INK)
    bar = figure.colorbar(collection, ax=axes, pad=0.01, aspect=34, fraction=0.03)
    bar.outline.set_visible(False)
    most = max(counts, default=2)
    bar.set_ticks(sorted({2**i for i in range(0, 20, 2) if 2**i < most} | {max(most, 2)}))
    bar.ax.minorticks_off()
    bar.ax.yaxis.set_major_formatter(FuncFormatter(compact))
    bar.set_label("requests that share a node")
    return to_svg(figure, "forest")
