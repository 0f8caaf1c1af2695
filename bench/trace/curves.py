"""Line charts as SVG text, for the docs: lines over a logarithmic axis, labelled, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 200, 40, 50
COLOURS = ("#0b5fa5", "#c4541a", "#2f7d32", "#8a3ab9", "#a3841a", "#4a4a4a", "#0a8f8f")


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    x: str
    y: str
    line_at: float | None = None
    """A level to draw across: what has to be reached."""
    floor: float = -40.0
    """Values below are drawn on it."""
    log_y: bool = False


def svg(chart: Chart, lines: Mapping[str, Points]) -> str:
    """One line a name; dashed where the name ends in a star. Raises ValueError where there is nothing to draw."""
    every = [(math.log10(x), _y(chart, y)) for points in lines.values() for x, y in points]
    if not every:
        raise ValueError(f"no points for {chart.title}")
    x_low, x_high = math.floor(min(x for x, _ in every)), math.ceil(max(x for x, _ in every))
    x_high = max(x_high, x_low + 1)
    values = [y for _, y in every] + ([] if chart.line_at is None else [_y(chart, chart.line_at)])
    y_low, y_high = math.floor(min(values)), math.ceil(max(*values, min(values) + 1))

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 22, chart.title, 'font-size="14" font-weight="bold"'),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, chart.x, 'text-anchor="middle"'),
        _text(
            16,
            (TOP + HEIGHT - BOTTOM) / 2,
            chart.y,
            f'text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2 - 5})"',
        ),
    ]
    for x in range(x_low, x_high + 1):
        parts.append(_rule(place(x, y_low), place(x, y_high)))
        at = place(x, y_low).split(",")
        parts.append(_text(float(at[0]), float(at[1]) + 16, _count(10**x), 'text-anchor="middle"'))
    step = max(1, math.ceil((y_high - y_low) / 8))
    for y in range(y_high, y_low - 1, -step):
        parts.append(_rule(place(x_low, y), place(x_high, y)))
        at = place(x_low, y).split(",")
        parts.append(
            _text(float(at[0]) - 6, float(at[1]) + 4, f"1e{y}" if chart.log_y else str(y), 'text-anchor="end"')
        )
    if chart.line_at is not None:
        a, b = place(x_low, _y(chart, chart.line_at)), place(x_high, _y(chart, chart.line_at))
        parts.append(_rule(a, b, "#c00", 'stroke-dasharray="2 3"'))
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(place(math.log10(x), _y(chart, y)) for x, y in points)
        dashes = ' stroke-dasharray="7 4"' if name.endswith("*") else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts.append(_text(WIDTH - RIGHT + 12, TOP + 16 * number + 10, name, f'fill="{colour}"'))
    return "\n".join([*parts, "</svg>\n"])


def _y(chart: Chart, value: float) -> float:
    return math.log10(max(value, 1e-12)) if chart.log_y else max(value, chart.floor)


def _count(value: float) -> str:
    return f"{value:.0f}" if value < 1000 else f"{value / 1000:.0f}k" if value < 1e6 else f"{value / 1e6:.0f}M"


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def _rule(a: str, b: str, colour: str = "#ddd", more: str = "") -> str:
    (x1, y1), (x2, y2) = a.split(","), b.split(",")
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" {more}/>'
