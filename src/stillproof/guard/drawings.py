"""Where the parts of a campaign's drawings lie: timeline, account graph, waterfall. Numbers in, coordinates out.

Every drawing is 640 wide. Nothing here is random, and nothing is text for a page but labels, which the page escapes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from stillproof.report.campaigns import Signal, finite
from stillproof.report.terminal import said
from stillproof.report.text import number

MAX_BARS = 190
MAX_UNITS = 60
MAX_FINGERPRINTS = 40
_LABEL = 18
"""Characters of an id beside a dot; the whole id is its tooltip."""

_LEFT, _RIGHT = 50.0, 630.0
_BITS_LEFT, _BITS_RIGHT = 210.0, 525.0
_SWEEPS = 6
_FIRST_YEAR, _LAST_YEAR = 1971, 9000  # beyond them, a bar's end may be no date at all

Drawing = dict[str, Any]
_Edges = list[tuple[int, int, float]]


# --- timeline -------------------------------------------------------------------------------------------------


def timeline(rows: Iterable[object], frozen_iso: object) -> Drawing | None:
    """Bars of exchanges over time, and the moment from which on they are evidence. None where no row has a time."""
    points = sorted(
        (at, n)
        for row in rows
        if isinstance(row, Mapping)
        and (at := _seconds(row.get("time_iso"))) is not None
        and (n := finite(row.get("n"))) is not None
    )
    if not points:
        return None
    step = min((b - a for (a, _), (b, _) in pairwise(points) if b > a), default=3600.0)
    frozen = _seconds(frozen_iso)
    first, last = points[0][0], points[-1][0]
    step *= max(1, math.ceil(((last - first) / step + 1) / MAX_BARS))
    bins: defaultdict[int, float] = defaultdict(float)
    for at, n in points:
        bins[int((at - first) // step)] += n
    end = first + (max(bins) + 1) * step
    low, high = (min(first, frozen), max(end, frozen)) if frozen is not None else (first, end)
    top = max(bins.values()) or 1

    def across(at: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (at - low) / (high - low)

    width = across(low + step) - _LEFT
    return {
        "bars": [
            {
                "x": round(across(first + place * step), 1),
                "y": round(140 - 115 * n / top, 1),
                "width": round(max(width * 0.9, 0.5), 2),
                "height": round(115 * n / top, 1),
                "counts": "evidence" if frozen is not None and first + place * step >= frozen else "linking",
                "said": f"{_day(first + place * step)}: {number(int(n))} exchanges",
            }
            for place, n in sorted(bins.items())
        ],
        "frozen": None if frozen is None else round(across(frozen), 1),
        "frozen_anchor": "end" if frozen is not None and across(frozen) > 400 else "start",
        "top": number(int(top)),
        "first": _day(low),
        "last": _day(high),
        "step": f"{number(step / 3600, 3)} h",
    }


def _seconds(iso: object) -> float | None:
    """Seconds since 1970; a time without an offset is UTC."""
    if not isinstance(iso, str):
        return None
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return None
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


# --- account graph --------------------------------------------------------------------------------------------


def graph(given: Mapping[str, Any]) -> Drawing | None:
    """Accounts left, fingerprints right, a line for each that an account used, as strong as its log count.

    The accounts with most exchanges are drawn, then the fingerprints with most accounts; the rest are counted. Both
    columns are ordered by barycentre, so that lines cross little. None where there is no line.
    """
    units, prints = _named(given.get("units")), _named(given.get("fingerprints"))
    left_places, right_places = _places(units), _places(prints)
    edges = [e for row in given.get("edges") or () if (e := _edge(row, left_places, right_places)) is not None]
    if not edges:
        return None
    left, right, edges = _selected(edges)
    left, right = _untangled(left, right, edges)
    rows = max(len(left), len(right))
    height = 12 * rows + 34
    left_y, right_y = _spread(left, height), _spread(right, height)
    top = max(math.log1p(n) for _, _, n in edges) or 1.0
    return {
        "height": height,
        "units": [_dot(units[u], left_y[u]) for u in left],
        "fingerprints": [_dot(prints[f], right_y[f]) for f in right],
        "edges": [
            {
                "y1": left_y[u],
                "y2": right_y[f],
                "width": round(0.4 + 1.6 * math.log1p(n) / top, 2),
                "said": f"{units[u]} used {prints[f]} in {number(int(n))} exchanges",
            }
            for u, f, n in edges
        ],
        "n_units": len(units),
        "n_fingerprints": len(prints),
        "n_units_left_out": len(units) - len(left),
        "n_fingerprints_left_out": len(prints) - len(right),
    }


def _named(given: object) -> list[str]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        return []
    return [
        " ".join(said(part) for part in item.values()) if isinstance(item, Mapping) else _id(item) for item in given
    ]


def _id(value: object) -> str:
    """A whole number is an id here, not an amount."""
    return str(value) if isinstance(value, int) else said(value)


def _places(names: Sequence[str]) -> dict[object, int]:
    """Where an id stands; a place stands for itself, unless it is an id."""
    return {**{place: place for place in range(len(names))}, **{name: place for place, name in enumerate(names)}}


def _edge(row: object, units: Mapping[object, int], prints: Mapping[object, int]) -> tuple[int, int, float] | None:
    """Places of both ends, each given as the id that the list holds or as a place in it, and the count."""
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != 3:
        return None
    unit, fingerprint, n = _place(row[0], units), _place(row[1], prints), finite(row[2])
    return None if unit is None or fingerprint is None or n is None or n <= 0 else (unit, fingerprint, n)


def _place(value: object, places: Mapping[object, int]) -> int | None:
    by_name = places.get(_id(value))
    return places.get(value) if by_name is None and type(value) is int else by_name


def _selected(edges: _Edges) -> tuple[list[int], list[int], _Edges]:
    weight: defaultdict[int, float] = defaultdict(float)
    for unit, _, n in edges:
        weight[unit] += n
    left = sorted(weight, key=lambda unit: (-weight[unit], unit))[:MAX_UNITS]
    kept = set(left)
    degree = Counter(fingerprint for unit, fingerprint, _ in edges if unit in kept)
    right = sorted(degree, key=lambda fingerprint: (-degree[fingerprint], fingerprint))[:MAX_FINGERPRINTS]
    drawn = set(right)
    return left, right, [edge for edge in edges if edge[0] in kept and edge[1] in drawn]


def _untangled(left: list[int], right: list[int], edges: _Edges) -> tuple[list[int], list[int]]:
    for _ in range(_SWEEPS):
        right = _by_barycentre(right, left, [(f, u, n) for u, f, n in edges])
        left = _by_barycentre(left, right, edges)
    return left, right


def _by_barycentre(moved: list[int], fixed: list[int], edges: _Edges) -> list[int]:
    place = {node: index for index, node in enumerate(fixed)}
    total: dict[int, list[int]] = {node: [] for node in moved}
    for node, other, _ in edges:
        total[node].append(place[other])
    centre = {node: sum(places) / len(places) if places else math.inf for node, places in total.items()}
    return sorted(moved, key=lambda node: (centre[node], node))


def _spread(nodes: Sequence[Hashable], height: float) -> dict[Any, float]:
    """Heights of a column's dots, evenly over the drawing."""
    room = (height - 34) / max(len(nodes), 1)
    return {node: round(28 + room * (index + 0.5), 1) for index, node in enumerate(nodes)}


def _dot(name: str, y: float) -> Drawing:
    return {"y": y, "label": name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…", "said": name}


# --- waterfall ------------------------------------------------------------------------------------------------


def waterfall(signals: Sequence[Signal], total_bits: float | None, threshold_bits: float | None) -> Drawing | None:
    """Bits of evidence from zero to the e-value, one bar a signal and, where e-values were averaged, one a group.

    An averaged signal is drawn hollow, for it does not move the sum: its group's mean e-value does. Where the bars do
    not end at the finding's e-value, the drawing says so.
    """
    if not signals:
        return None
    rows: list[tuple[str, str, float, float]] = []  # label, how, from, to
    at = 0.0
    for group in dict.fromkeys(signal.group for signal in signals):
        members = [signal for signal in signals if signal.group == group]
        averaged = [signal for signal in members if signal.combined == "averaged"]
        rows += [(signal.name, "averaged", at, at + signal.bits) for signal in averaged]
        if averaged:
            mean = _mean_bits([signal.bits for signal in averaged])
            rows.append((f"{group} (mean of {len(averaged)})", "added", at, at + mean))
            at += mean
        for signal in members:
            if signal.combined != "averaged":
                rows.append((signal.name, "added", at, at + signal.bits))
                at += signal.bits
    marks = [0.0, at, *(bits for bits in (total_bits, threshold_bits) if bits is not None)]
    low = min(*marks, *(end for _, _, _, end in rows))
    high = max(*marks, *(end for _, _, _, end in rows))

    def across(bits: float) -> float:
        return round(_BITS_LEFT + (_BITS_RIGHT - _BITS_LEFT) * (bits - low) / ((high - low) or 1.0), 1)

    return {
        "height": 22 * len(rows) + 52,
        "zero": across(0.0),
        "threshold": None if threshold_bits is None else across(threshold_bits),
        "threshold_said": "" if threshold_bits is None else f"needed: {threshold_bits:.1f} bit",
        "bars": [
            {
                "label": label if len(label) <= 30 else f"{label[:29]}…",
                "how": how,
                "drawn": "against" if how == "added" and end < begin else how,
                "y": 30 + 22 * place,
                "x": min(across(begin), across(end)),
                "width": max(round(abs(across(end) - across(begin)), 1), 1.0),
                "end": max(across(begin), across(end)) + 5,
                "said": f"{end - begin:+.1f} bit, {how}",
            }
            for place, (label, how, begin, end) in enumerate(rows)
        ],
        "sum": f"{at:.1f}",
        "total": None if total_bits is None else f"{total_bits:.1f}",
        "agrees": total_bits is None or abs(total_bits - at) <= 0.05 + 1e-3 * abs(at),
    }


def _mean_bits(bits: Sequence[float]) -> float:
    """log2 of the mean of 2^bits, without overflow."""
    top = max(bits)
    return top + math.log2(sum(2.0 ** (b - top) for b in bits) / len(bits))
