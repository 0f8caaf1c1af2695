"""Drawings of a whole story: retention bars, p-values of several students on one axis, a lineage tree.

Numbers in, coordinates out, 640 wide, as everywhere on our pages; labels are escaped by the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillproof.report.frame import write_html
from stillproof.report.text import number

Drawing = dict[str, Any]

_LEFT, _RIGHT = 150.0, 590.0
_ROW = 26
_MARKS = {"radioactivity": "square", "twins": "circle", "cards": "diamond"}


def p_axis(trace: Mapping[str, Mapping[str, Any]], tests: Sequence[str], alpha: float) -> Drawing:
    """Each student a row, each test a mark at its adjusted log10 p. Larger evidence lies to the right, on a scale of
    log10(1 - log10 p), so that 1e-3 and 1e-300 both have a place."""
    values = [_adjusted(row.get(test)) for row in trace.values() for test in tests]
    most = max([3.0, *(-value for value in values if value is not None)])
    top = math.log10(1 + most)

    def across(log10_p: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * math.log10(1 + max(0.0, -log10_p)) / top, 1)

    rows: list[Drawing] = []
    for place, (name, row) in enumerate(trace.items()):
        y = 40 + 44 * place
        marks: list[Drawing] = []
        missing: list[str] = []
        for shift, test in enumerate(tests):
            value = _adjusted(row.get(test))
            if value is None:
                missing.append(test)
            else:
                marks.append(
                    {
                        "shape": _MARKS.get(test, "circle"),
                        "x": across(value),
                        "y": y - 8 + 8 * shift,
                        "said": f"{name}, {test}: adjusted log10 p {number(value, 4)}",
                    }
                )
        rows.append({"name": name, "y": y, "marks": marks, "missing": ", ".join(missing)})
    ticks = [exponent for exponent in (0, 1, 3, 10, 30, 100, 300, 1000) if exponent <= most]
    return {
        "height": 40 + 44 * len(rows) + 22,
        "rows": rows,
        "ticks": [
            {"x": across(-exponent), "said": "p = 1" if not exponent else f"1e-{exponent}"} for exponent in ticks
        ],
        "threshold": across(math.log10(alpha)),
        "alpha": f"{alpha:g}",
        "legend": [{"test": test, "shape": _MARKS.get(test, "circle")} for test in tests],
    }


def _adjusted(row: Any) -> float | None:
    value = row.get("log10_p_adjusted") if isinstance(row, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def bars(values: Sequence[tuple[str, float | None, str]], top: float | None = None) -> Drawing:
    """Horizontal bars from zero: (label, value, what is said of it); None has no bar and says so."""
    known = [value for _, value, _ in values if value is not None and math.isfinite(value)]
    most = top if top is not None else max([0.0, *known])
    rows = [
        {
            "label": label,
            "y": _ROW * place,
            "width": 0.0 if value is None else round((_RIGHT - _LEFT) * min(max(value / (most or 1.0), 0.0), 1.0), 1),
            "said": said if value is not None else f"{said} (not measured)",
        }
        for place, (label, value, said) in enumerate(values)
    ]
    return {"height": _ROW * len(rows) + 6, "rows": rows}


def tree(nodes: Sequence[tuple[str, int]], edges: Sequence[tuple[str, str, str, str]]) -> Drawing:
    """Models in levels, top down, and edges (child, parent, kind, what is said). Kinds: 'declared', 'tested',
    'undeclared'; a node is (name, level)."""
    levels: dict[int, list[str]] = {}
    for name, level in nodes:
        levels.setdefault(level, []).append(name)
    place = {
        name: (round(640 * (index + 0.5) / len(names), 1), 34 + 120 * level)
        for level, names in sorted(levels.items())
        for index, name in enumerate(names)
    }
    drawn: list[Drawing] = []
    for child, parent, kind, said in edges:
        if child in place and parent in place:
            (x1, y1), (x2, y2) = place[parent], place[child]
            drawn.append({"x1": x1, "y1": y1 + 14, "x2": x2, "y2": y2 - 14, "kind": kind, "said": said})
    return {
        "height": 34 + 120 * max(levels, default=0) + 34,
        "nodes": [{"name": name, "x": x, "y": y} for name, (x, y) in place.items()],
        "edges": drawn,
    }


def write_story(values: Mapping[str, Any], path: Path) -> None:
    """The page of a story at `path`, whole or not at all. `values` are those that story.html.jinja names."""
    write_html("stillproof.report", "story.html.jinja", values, path)
