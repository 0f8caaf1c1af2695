"""Where the parts of a campaign's drawings lie: timeline, account graph, waterfall. Numbers in, coordinates out.

Every drawing is 640 wide. Nothing here is random, and nothing is text for a page but labels, which the page escapes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from typing import Any

from stillproof.report.campaigns import Signal, finite
from stillproof.report.terminal import said
from stillproof.report.text import number

MAX_BARS = 190
MAX_UNITS = 60
MAX_FINGERPRINTS = 40
_LABEL = 24
"""Characters of an id beside a dot; the whole id is its tooltip."""

_LEFT, _RIGHT = 50.0, 630.0
_BITS_LEFT, _BITS_RIGHT = 175.0, 570.0
_SILENT_BITS = 0.05
"""Below it, a bar would be written as 0.0."""
_SWEEPS = 6
_PITCH = 12
_NAMES = ("kind", "fp", "unit")
"""Parts of a node's name, in order; the rest of it are numbers."""
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
        "has_linking": frozen is not None and first < frozen,
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

    Lines between accounts themselves would be a full mesh wherever all share one fingerprint: here accounts that share
    one meet in its dot. An account's dot has the area of its exchanges, a fingerprint's that of its accounts. The
    accounts with most exchanges are drawn, then the fingerprints with most accounts; the rest are counted. Both columns
    are ordered by barycentre, so that lines cross little. None where there is no line.
    """
    units, prints = _named(given.get("units")), _named(given.get("fingerprints"))
    left_places, right_places = _places(units), _places(prints)
    edges = [e for row in given.get("edges") or () if (e := _edge(row, left_places, right_places)) is not None]
    if not edges:
        return None
    left, right, edges = _selected(edges)
    left, right = _untangled(left, right, edges)
    rows = max(len(left), len(right))
    height = _PITCH * rows + 34
    left_y, right_y = _spread(left, height), _spread(right, height)
    top = max(math.log1p(n) for _, _, n in edges) or 1.0
    volume, holders = _sizes(given.get("units"), "n"), _sizes(given.get("fingerprints"), "n_units")
    most_n, most_units = max(volume.values(), default=0.0), max(holders.values(), default=0.0)
    n_units, n_prints = _total(given.get("n_units"), units), _total(given.get("n_fingerprints"), prints)
    return {
        "height": height,
        "units": [_dot(units[u], left_y[u], volume.get(u), most_n, "exchanges") for u in left],
        "fingerprints": [_dot(prints[f], right_y[f], holders.get(f), most_units, "accounts") for f in right],
        "edges": [
            {
                "y1": left_y[u],
                "y2": right_y[f],
                "width": round(0.4 + 1.6 * math.log1p(n) / top, 2),
                "said": f"{units[u]} used {prints[f]} in {number(int(n))} exchanges",
            }
            for u, f, n in edges
        ],
        "n_units": n_units,
        "n_fingerprints": n_prints,
        "n_units_left_out": n_units - len(left),
        "n_fingerprints_left_out": n_prints - len(right),
    }


def _named(given: object) -> list[str]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        return []
    return [
        " ".join(_id(item[part]) for part in _NAMES if part in item) if isinstance(item, Mapping) else _id(item)
        for item in given
    ]


def _sizes(given: object, key: str) -> dict[int, float]:
    """How large each dot is to be, by place; those without a number have no size of their own."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        return {}
    counts = ((place, finite(item.get(key))) for place, item in enumerate(given) if isinstance(item, Mapping))
    return {place: n for place, n in counts if n is not None and n > 0}


def _total(given: object, listed: Sequence[str]) -> int:
    """How many there are, those not listed included."""
    return max(given, len(listed)) if type(given) is int else len(listed)


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


def _dot(name: str, y: float, size: float | None, most: float, of_what: str) -> Drawing:
    """A dot whose area grows with `size`, the largest just as high as a row."""
    radius = 3.0 if size is None or not most else max(1.5, 5.5 * math.sqrt(size / most))
    counted = "" if size is None else f": {number(int(size))} {of_what}"
    return {"y": y, "r": round(radius, 1), "label": _cut(name, _LABEL), "said": f"{name}{counted}"}


# --- waterfall ------------------------------------------------------------------------------------------------


def waterfall(signals: Sequence[Signal]) -> Drawing | None:
    """Bars of bits from zero to the score, largest first, as the score adds them up. None where there is no signal.

    A signal that is added has a bar of its own. Signals of a group that are averaged have one bar, their arithmetic
    mean, and are listed under it. Those that add nothing have no bar: `silent` names them.
    """
    if not signals:
        return None
    steps = sorted(_steps(signals), key=lambda step: (-step[1], step[0]))
    silent = [label for label, bits, _ in steps if abs(bits) < _SILENT_BITS]
    steps = [step for step in steps if abs(step[1]) >= _SILENT_BITS]
    ends = [0.0, *accumulate(bits for _, bits, _ in steps)]
    low, high = min(ends), max(ends)

    def across(bits: float) -> float:
        return round(_BITS_LEFT + (_BITS_RIGHT - _BITS_LEFT) * (bits - low) / ((high - low) or 1.0), 1)

    bars: list[Drawing] = []
    y = 8
    for (label, bits, parts), (begin, end) in zip(steps, pairwise(ends), strict=True):
        bars.append(
            {
                "label": _cut(label, 30),
                "drawn": "against" if bits < 0 else "averaged" if parts else "added",
                "y": y,
                "x": min(across(begin), across(end)),
                "width": max(round(abs(across(end) - across(begin)), 1), 1.0),
                "end": max(across(begin), across(end)) + 5,
                "said": f"{bits:+.1f} bit",
                "parts": _cut(f"mean of {len(parts)}: {', '.join(parts)}", 72) if parts else "",
                "parts_whole": ", ".join(parts),
            }
        )
        y += 36 if parts else 22
    return {
        "has_averaged": any(parts for _, _, parts in steps),
        "height": y + 18,
        "zero": across(0.0),
        "bars": bars,
        "silent": ", ".join(silent),
        "sum": f"{ends[-1]:.1f}",
        "sum_at": across(ends[-1]),
    }


def _steps(signals: Sequence[Signal]) -> list[tuple[str, float, list[str]]]:
    """What is added: label, bits, and the signals that were averaged for it."""
    steps: list[tuple[str, float, list[str]]] = []
    for group in dict.fromkeys(signal.group for signal in signals):
        members = [signal for signal in signals if signal.group == group]
        averaged = sorted((s for s in members if s.combined == "averaged"), key=lambda s: (-s.bits, s.name))
        if averaged:
            mean = math.fsum(signal.bits for signal in averaged) / len(averaged)
            steps.append((group, mean, [f"{signal.name} {signal.bits:.1f}" for signal in averaged]))
        steps += [(signal.name, signal.bits, []) for signal in members if signal.combined != "averaged"]
    return steps


def _cut(text: str, n: int) -> str:
    return text if len(text) <= n else f"{text[: n - 1]}…"
