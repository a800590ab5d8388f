"""The HTML of a report."""

import html
import math
import pathlib
import re


def inline(text):
    """Escapes, and sets `words in backquotes` as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def section(title, *blocks, note=""):
    small = f" <small>{html.escape(note)}</small>" if note else ""
    return f"<h2>{html.escape(title)}{small}</h2>\n" + "\n".join(blocks)


def figure(title, caption, svg, wide=True):
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}><h3>{inline(title)}</h3><figcaption>{inline(caption)}</figcaption>{svg}</figure>"


def figures(blocks):
    return '<div class="figures" style="margin-top:16px">' + "\n".join(blocks) + "</div>" if blocks else ""


def note(text):
    return f'<p style="color:var(--soft);font-size:13px">{inline(text)}</p>'


def tiles(entries):
    """entries: (value, what it is, whether it is bad)."""
    cells = [f'<div class="tile{" bad" if bad else ""}"><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>'
             for value, what, bad in entries]
    return f'<div class="tiles">{"".join(cells)}</div>' if cells else ""


def number(value):
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def size(value):
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = 0
    while value >= 1024 and power + 1 < len(units):
        value, power = value / 1024, power + 1
    return f"{value:.3g} {units[power]}"


def duration(microseconds):
    if microseconds is None:
        return number(None)
    if microseconds < 1000:
        return f"{microseconds:.3g} µs"
    if microseconds < 1e6:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds / 1e6:.3g} s"


def table(columns, rows):
    """columns: (title, whether it is text, cell of a row); a cell is a string or (string, css class)."""
    head = "".join(f'<th class="text">{t}</th>' if text else f"<th>{t}</th>" for t, text, _ in columns)
    body, last_group = [], None
    for row in rows:
        cells = []
        for _, text, cell in columns:
            content = cell(row)
            content, kind = content if isinstance(content, tuple) else (content, "")
            kind = " ".join(filter(None, ("text" if text else "", kind)))
            cells.append(f'<td class="{kind}">{html.escape(content)}</td>' if kind else f"<td>{html.escape(content)}</td>")
        new_group = last_group is not None and row.get("group") != last_group
        last_group = row.get("group")
        body.append(f'<tr class="first">{"".join(cells)}</tr>' if new_group else f'<tr>{"".join(cells)}</tr>')
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def shape_label(row):
    return row.get("label", "").replace(" x ", " × ")


def error_cell(row):
    ratio = row["error_ratio"]
    return (f"{ratio:.2f}" if ratio is not None else "not finite", "" if ratio is not None and ratio <= 1 else "bad")


def bench_table(rows):
    """What is the same in every row stands in the section's heading, and what is the same in a group in its first row."""
    first = {id(row) for row, before in zip(rows, [{}] + rows) if row["group"] != before.get("group")}
    columns = [("requests × tokens", lambda r: shape_label(r)),
               ("heads", lambda r: "/".join(map(str, r["case"].get("heads", [])))),
               ("kernel", lambda r: r["kernel"]),
               ("dtype", lambda r: r["dtype"]),
               ("page", lambda r: number(r["page_size"]))]
    varying = [(title, cell) for title, cell in columns if title in ("requests × tokens", "heads")
               or len({cell(row) for row in rows}) > 1]
    return table([
        *[(title, True, lambda r, cell=cell: cell(r) if id(r) in first else "") for title, cell in varying],
        ("strategy", True, lambda r: r["strategy"]),
        ("share", False, lambda r: f"{r['share']:.2f}"),
        ("distinct KV", False, lambda r: size(r["distinct_bytes"])),
        ("floor", False, lambda r: duration(r["floor_us"])),
        ("bound by", True, lambda r: r.get("floor_bound", "")),
        ("cold", False, lambda r: duration(r["cold_us"]["median"])),
        ("ratio", False, lambda r: f"{r['ratio']:.2f}"),
        ("warm", False, lambda r: duration(r["warm_us"]["median"])),
        ("GB/s", False, lambda r: f"{r['gbps']:.1f}"),
        ("GFLOP/s", False, lambda r: f"{r['tflops'] * 1e3:.0f}"),
        ("plan", False, lambda r: duration(r["plan_us"])),
        ("model", False, lambda r: duration(r.get("model_us"))),
        ("error / bound", False, error_cell),
    ], rows)


def replay_table(rows):
    columns = [
        ("strategy", True, lambda r: r["strategy"]),
        ("kernel", True, lambda r: r["kernel"]),
        ("median", False, lambda r: duration(r["cold_us"]["median"])),
        ("p10", False, lambda r: duration(r["cold_us"]["p10"])),
        ("p90", False, lambda r: duration(r["cold_us"]["p90"])),
        ("runs", False, lambda r: number(r["cold_us"]["runs"])),
        ("speed-up", False, lambda r: f"{r['speedup']:.2f}×" if "speedup" in r else "–"),
        ("floor", False, lambda r: duration(r["floor_us"])),
        ("ratio", False, lambda r: f"{r['ratio']:.2f}"),
        ("KV read", False, lambda r: size(r["kv_bytes_read"]) if "kv_bytes_read" in r else "–"),
        ("distinct KV", False, lambda r: size(r["distinct_bytes"])),
        ("GB/s", False, lambda r: f"{r['gbps']:.1f}"),
        ("plan", False, lambda r: duration(r["plan_us"])),
        ("model", False, lambda r: duration(r["model_us"])),
        ("error / bound", False, error_cell),
    ]
    return table(columns, rows) if rows else ""


def bench_tiles(rows):
    best = {}
    for row in rows:
        best.setdefault(row["group"], []).append(row["ratio"])
    autos = [row["ratio"] for row in rows if row["strategy"] == "auto"] or [min(v) for v in best.values()]
    mean = math.exp(sum(math.log(max(v, 1e-9)) for v in autos) / len(autos))
    errors = [row["error_ratio"] if row["error_ratio"] is not None else math.inf for row in rows]
    of = "auto" if any(row["strategy"] == "auto" for row in rows) else "best strategy"
    return tiles([
        (number(len(best)), "shapes", False),
        (f"{mean:.2f}", f"ratio to the floor, {of}, geometric mean", False),
        (f"{max(autos):.2f}", f"largest ratio, {of}", False),
        (f"{max(row['gbps'] for row in rows):.1f} GB/s", "most distinct KV bytes per second", False),
        (f"{max(row['tflops'] for row in rows) * 1e3:.0f} GFLOP/s", "most arithmetic", False),
        (f"{max(errors):.2f}", "worst error over its bound", max(errors) > 1),
    ])


def replay_tiles(result):
    summary, rows = result.get("summary", {}), result["rows"]
    entries = []
    if "requests" in summary:
        entries.append((number(summary["requests"]), "requests", False))
    if "hit_rate" in summary:
        entries.append((f"{100 * summary['hit_rate']:.1f} %", "prompt tokens found in the cache", False))
    share = result.get("series", {}).get("share")
    if share:
        entries.append((f"{sum(share) / len(share):.2f}", "mean share of a decode step", False))
    auto = next((row for row in rows if row["strategy"] == "auto"), {})
    if "speedup" in auto:
        entries.append((f"{auto['speedup']:.2f}×", "speed-up of auto over plain decode", False))
    if auto:
        entries.append((duration(auto["cold_us"]["median"]), "attention of one layer, auto, median", False))
    errors = [row["error_ratio"] if row["error_ratio"] is not None else math.inf for row in rows if "error_ratio" in row]
    if errors:
        entries.append((f"{max(errors):.2f}", "worst error over its bound", max(errors) > 1))
    return tiles(entries)


def summary(result):
    cells = []
    for name, value in result.get("summary", {}).items():
        if isinstance(value, (dict, list)):
            continue
        what, text = fact(name, value)
        cells.append(f"<div><span>{html.escape(what)}</span><b>{html.escape(text)}</b></div>")
    return f'<div class="table pair">{"".join(cells)}</div>' if cells else ""


def fact(name, value):
    """A field's name and value in words: its suffix is its unit."""
    for suffix, form in (("_per_s", lambda v: f"{number(v)} /s"), ("_us", duration), ("_bytes", size),
                         ("_s", lambda v: duration(v * 1e6) if v < 600 else f"{v / 60:,.1f} min"),
                         ("_rate", lambda v: f"{100 * v:.1f} %")):
        if name.endswith(suffix):
            stem = name if suffix == "_rate" else name.removesuffix(suffix)
            return words(stem), form(value)
    return words(name), number(value)


def words(name):
    return " ".join("KV" if word == "kv" else word for word in name.split("_"))


def provenance(result):
    machine, device = result.get("machine", {}), result.get("device", {})
    facts = [
        ("machine", ", ".join(filter(None, [machine.get("cpu"), f"{machine.get('cores', '?')} cores",
                                            size(machine.get("memory_bytes", 0)), machine.get("system")]))),
        ("kernel", f"{device.get('kernel', '?')}, {device.get('threads', '?')} threads"),
        ("planned for", device.get("spec", {}).get("name", "?")),
        ("commit", result.get("commit", "?")),
    ]
    flush = result.get("flush")
    if flush:
        cache = flush.get("last_level_cache_bytes", machine.get("last_level_cache_bytes", 0))
        facts.append(("cold caches", f"{size(flush['bytes'])} read before each run; last-level cache {size(cache)}"))
    items = "".join(f"<dt>{k}</dt><dd>{html.escape(v)}</dd>" for k, v in facts)
    command = html.escape(result.get("command", ""))
    return f"<footer><dl>{items}<dt>command</dt><dd><code>{command}</code></dd></dl></footer>"


def document(title, results, sections):
    css = (pathlib.Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    machines = list(dict.fromkeys(r.get("machine", {}).get("cpu", "") for r in results))
    kernels = list(dict.fromkeys(r.get("device", {}).get("kernel", "") for r in results))
    commits = list(dict.fromkeys(r.get("commit", "") for r in results))
    facts = " · ".join(html.escape(", ".join(filter(None, part))) for part in (machines, kernels, commits) if any(part))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<main>
<header><h1>{title}</h1><p>{facts}</p></header>
{"".join(sections)}
</main>
</body>
</html>
"""
