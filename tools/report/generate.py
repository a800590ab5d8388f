"""What a decode step of a whole model takes: results of `python -m trunkline.bench generate`."""

import page


def milliseconds(row, field):
    return page.duration(row[field] * 1e3 if field in row else None)


def step_rows(rows):
    """One row per loop, those of a batch side by side."""
    return [{"group": page.shape_label(row), "strategy": row["strategy"],
             "time_us": {name: row["step_ms"][name] * 1e3 for name in ("median", "p10", "p90")}} for row in rows]


def step_table(rows):
    return page.table([
        ("requests × (prefix + own)", True, page.shape_label),
        ("attention", True, lambda r: r["strategy"]),
        ("step", False, lambda r: page.duration(r["step_ms"]["median"] * 1e3)),
        ("90th percentile", False, lambda r: page.duration(r["step_ms"]["p90"] * 1e3)),
        ("tokens/s", False, lambda r: page.number(r["tokens_per_s"])),
        ("bound", False, lambda r: milliseconds(r, "bound_ms")),
        ("step / bound", False, lambda r: page.number(r.get("ratio"))),
        ("bound of SDPA", False, lambda r: milliseconds(r, "sdpa_bound_ms")),
        ("prefill", False, lambda r: page.duration(r["prefill_s"] * 1e6)),
    ], rows)
