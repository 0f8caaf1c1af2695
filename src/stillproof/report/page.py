"""A value as one HTML page that needs nothing but itself, charts as inline SVG; `frame.py` keeps it safe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stillproof.report.frame import write_html
from stillproof.report.terminal import finding_rows, is_finding, is_retention, said
from stillproof.report.text import MODELS, Cell, Measure, interval_text, retention_footnote, retention_rows

_BARS_PX = 400
"""Room for bars right of their labels; the page's drawings are 640 wide."""
_BARS_LEFT_PX = 160
_CURVE_POINTS = 400


def to_html(value: Mapping[str, Any], path: Path) -> None:
    """Write `value` as a page at `path`, whole or not at all.

    Drawn where they are present, in the value or in what it holds: a retention result (table, bars with intervals),
    findings, and `metrics`, rows with `step`, `loss` and optionally `model` ('student', 'control'). All other single
    values are listed.
    """
    retention = value if is_retention(value) else value.get("retention")
    findings = [value] if is_finding(value) else list((retention or {}).get("findings") or value.get("findings") or ())
    values = {
        "title": str(value.get("title") or value.get("name") or ("finding" if is_finding(value) else "retention")),
        "charts": [_chart(measure, cells) for measure, cells in retention_rows(retention)] if retention else [],
        "footnote": retention_footnote(retention) if retention else "",
        "findings": [{"decision": f.get("decision"), "rows": finding_rows(f)} for f in findings],
        "curve": _curve(value.get("metrics") or ()),
        "tables": [] if is_finding(value) or is_retention(value) else list(_tables(value)),
    }
    write_html("stillproof.report", "page.html.jinja", values, path)


# --- bars -----------------------------------------------------------------------------------------------------


def _chart(measure: Measure, cells: Sequence[Cell]) -> dict[str, Any]:
    """The row of the table and its bars, from zero on, scaled so that the longest whisker fits.

    The untrained student may be a thousand times worse, and would leave the others no length to compare: where it is
    more than ten times the longest other, its bar is cut and says so.
    """
    drawn = [c for c in cells if c.value is not None and math.isfinite(c.value)]
    top = max((_reach(c) for c in drawn), default=0.0)
    others = max((_reach(c) for c in drawn if c.model != "init"), default=0.0)
    if 0 < 10 * others < top:
        top = others
    bars = [_bar(measure, cell, place, top) for place, cell in enumerate(drawn)]
    return {
        "title": measure.title,
        "better": measure.better,
        "height": 26 * len(bars) + 4,
        "bars": bars,
        "cells": [
            {"title": c.title, "said": measure.say(c.value), "interval": interval_text(measure, c)} for c in cells
        ],
    }


def _reach(cell: Cell) -> float:
    return max(value for value in (cell.value, cell.high, 0.0) if value is not None and math.isfinite(value))


def _bar(measure: Measure, cell: Cell, place: int, top: float) -> dict[str, Any]:
    def at(value: float) -> float:
        return round(_BARS_LEFT_PX + _BARS_PX * min(max(value / (top or 1.0), 0.0), 1.0), 1)

    is_cut = cell.value is not None and cell.value > top
    end = at(cell.value or 0.0)
    low, high = (at(v) if v is not None and math.isfinite(v) else None for v in (cell.low, cell.high))
    if low is None or high is None or is_cut:
        low = high = None
    return {
        "model": cell.model,
        "title": cell.title,
        "y": 26 * place,
        "width": round(end - _BARS_LEFT_PX, 1),
        "low": low,
        "high": high,
        "label": (high or end) + 6,
        "said": measure.say(cell.value) + (" (bar cut)" if is_cut else ""),
    }


# --- loss curve -----------------------------------------------------------------------------------------------


def _curve(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Series of (step, loss), one a model; rows whose step or loss is no finite number are left out."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        step, loss = _finite(row.get("step")), _finite(row.get("loss"))
        if step is not None and loss is not None:
            series.setdefault(str(row.get("model", "student")), []).append((step, loss))
    points = [point for drawn in series.values() for point in drawn]
    if not points:
        return None
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    first, last, bottom, top = min(steps), max(steps), min(0.0, *losses), max(losses)
    titles = dict(MODELS)

    def place(step: float, loss: float) -> str:
        x = 50 + 570 * (step - first) / (last - first or 1.0)
        y = 200 - 190 * (loss - bottom) / (top - bottom or 1.0)
        return f"{x:.1f},{y:.1f}"

    return {
        "top": f"{top:.3g}",
        "bottom": f"{bottom:.3g}",
        "first": f"{first:g}",
        "last": f"{last:g}",
        "series": [
            {
                "model": name if name in titles else "other",
                "title": titles.get(name, name),
                "points": " ".join(place(*point) for point in drawn[:: max(1, len(drawn) // _CURVE_POINTS)]),
            }
            for name, drawn in series.items()
        ],
    }


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


# --- all other values -----------------------------------------------------------------------------------------


def _tables(value: Mapping[str, Any], title: str = "run") -> Iterator[dict[str, Any]]:
    """Single values first, then each mapping inside; what has its own place on the page is left out."""
    own_place = ("retention", "findings", "metrics", "title")
    inner = {k: v for k, v in value.items() if isinstance(v, Mapping) and k not in own_place}
    rows = [(k, said(v)) for k, v in value.items() if k not in own_place and k not in inner]
    if rows:
        yield {"title": title, "rows": rows}
    for name, mapping in inner.items():
        yield from _tables(mapping, name)
