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


def time_axis(axes, seconds):
    """Labels the x axis for simulated seconds; gives the factor to scale them by."""
    span = max(seconds, default=0) - min(seconds, default=0)
    unit, factor = ("h", 1 / 3600) if span > 3 * 3600 else ("min", 1 / 60) if span > 300 else ("s", 1)
    axes.set_xlabel(f"simulated time ({unit})")
    return factor


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


def from_zero(axes):
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def share_over_time(series):
    figure, axes = new_figure(HALF, 250)
    x = [t * time_axis(axes, series["time_s"]) for t in thin(series["time_s"])]
    y = thin(series["share"])
    axes.plot(x, y, color=BLUE, linewidth=1.3)
    axes.fill_between(x, 1, y, color=PALE, alpha=0.55, linewidth=0)
    axes.set_ylabel("tokens per distinct token")
    axes.margins(x=0)
    axes.set_ylim(1, max(max(y) * 1.06, 1.1))
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return to_svg(figure, "share")


def kv_bytes_over_time(series):
    figure, axes = new_figure(HALF, 250)
    x = [t * time_axis(axes, series["time_s"]) for t in thin(series["time_s"])]
    unit, factor = bytes_scale(max(series["total_kv_bytes"], default=0))
    total = [v * factor for v in thin(series["total_kv_bytes"])]
    distinct = [v * factor for v in thin(series["distinct_kv_bytes"])]
    axes.fill_between(x, 0, distinct, color=PALE, linewidth=0)
    axes.fill_between(x, distinct, total, color="#eef1f5", linewidth=0)
    axes.plot(x, total, color=STRATEGY_COLOURS["unshared"], linewidth=1.1, label="counted per request")
    axes.plot(x, distinct, color=BLUE, linewidth=1.3, label="distinct")
    axes.set_ylabel(f"KV of the batch, one layer ({unit})")
    from_zero(axes)
    legend_above(axes)
    return to_svg(figure, "kv-bytes")


def batch_over_time(series):
    figure, axes = new_figure(HALF, 220)
    x = [t * time_axis(axes, series["time_s"]) for t in thin(series["time_s"])]
    axes.plot(x, thin(series["batch"]), color=BLUE, linewidth=1.2)
    axes.set_ylabel("requests")
    from_zero(axes)
    return to_svg(figure, "batch")


def pool_over_time(series):
    figure, axes = new_figure(HALF, 220)
    x = [t * time_axis(axes, series["time_s"]) for t in thin(series["time_s"])]
    total = max(max(series["pool_pages_total"]), 1)
    used = [100 * v / total for v in thin(series["pool_pages_used"])]
    axes.fill_between(x, 0, used, color=PALE, linewidth=0)
    axes.plot(x, used, color=BLUE, linewidth=1.2)
    axes.set_ylabel(f"of {total:,} pages in use (%)")
    from_zero(axes)
    axes.set_ylim(0, 104)
    return to_svg(figure, "pool")


def latency_over_time(series):
    figure, axes = new_figure(FULL, 270)
    factor_x = time_axis(axes, series["time_s"])
    known = [v for values in series["strategy_us"].values() for v in values if v is not None]
    unit, factor = seconds_scale(max(known, default=1))
    for strategy, values in series["strategy_us"].items():
        points = [(t * factor_x, v * factor) for t, v in zip(series["time_s"], values) if v is not None]
        if not points:
            continue
        x, y = zip(*points)
        colour = strategy_colour(strategy)
        dots = {"marker": "o", "markersize": 2.6} if len(points) <= 150 else {}
        axes.plot(x, y, color=colour, linewidth=1.1, label=strategy, zorder=3 if strategy == "auto" else 2, **dots)
    axes.set_ylabel(f"attention of one layer ({unit})")
    from_zero(axes)
    legend_above(axes)
    return to_svg(figure, "latency-over-time")


def bars(figure_name, rows, value, label, *, low=None, high=None, lines=(), log=False, text=lambda v: f"{v:.2f}",
         width=FULL, colour=lambda row: strategy_colour(row["strategy"]), legend=True):
    """Horizontal bars in groups: rows with the same `group` stand together under one name."""
    groups = []
    for row in rows:
        if not groups or groups[-1][0] != row["group"]:
            groups.append((row["group"], []))
        groups[-1][1].append(row)
    bar, gap = 0.8, 0.55
    positions, at, ticks = [], 0.0, []
    for name, members in groups:
        ticks.append((at + (len(members) - 1) / 2, name))
        for row in members:
            positions.append((at, row))
            at += 1
        at += gap
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    with_legend = legend and len(strategies) > 1
    figure, axes = new_figure(width, 62 + (22 if with_legend else 0) + 17 * at)
    values = [value(row) for row in rows]
    ends = [high(row) for row in rows] if high else values
    base = 0
    if log:
        base = min([v for v in values if v > 0] + [line for line, _ in lines]) / 1.6
        axes.set_xscale("log")
    for y, row in positions:
        v = value(row)
        axes.barh(y, v - base, left=base, height=bar, color=colour(row), linewidth=0)
        end = v
        if low and high:
            end = max(high(row), v)
            axes.plot([low(row), end], [y, y], color=INK, linewidth=1.0, solid_capstyle="butt")
        axes.annotate(text(v), (end, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=INK)
    for x, name in lines:
        axes.axvline(x, color=LIMIT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=4)
        axes.annotate(name, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
                      ha="center", fontsize=8, color=LIMIT)
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(at - gap - 1 + 0.75, -0.75)
    largest = max(ends + [line for line, _ in lines] + [1e-12])
    if log:
        axes.set_xlim(base, largest * 1.45)
        decades = math.log10(largest / base)
        steps = (1, 2, 5) if decades < 3 else (1,)
        ticks_at = [s * 10.0**p for p in range(math.floor(math.log10(base)), math.ceil(math.log10(largest)) + 1)
                    for s in steps]
        axes.xaxis.set_major_locator(FixedLocator(ticks_at))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, largest * 1.1)
    axes.xaxis.set_major_formatter(FuncFormatter(compact))
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    if with_legend:
        handles = [Rectangle((0, 0), 1, 1, color=strategy_colour(s)) for s in strategies]
        legend_above(axes, handles, strategies, offset=18 if lines else 4)
    return to_svg(figure, figure_name)


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
