"""Where each measured number of a page is from: bench/figures.json, and what tells that page and files agree.

An entry of the list `figures`:

    text      a piece of the page, word for word and there once: a table's row, or a sentence
    keys      one for each number in it, in order: a dotted path into `file`, or null for a number that is no
              measurement (a goal, a level, a year). A path may end in "*100" (a share told in percent without its sign)
              or "~100" (rounded to hundreds), and may be a quotient "a / b"
    file      JSON that `command` wrote
    command   a make target: make bench-..., make calibrate or make demo

A number of the page followed by % is a share in the file. A number agrees where rounding the file's value to the digits
printed gives it. What must be covered stands between `<!-- measured: begin -->` and `<!-- measured: end -->`, except
what is in backticks, comments and rules of tables.

    python -m bench.figures README.md      # the numbers that no entry covers, and the entries that do not agree
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "bench" / "figures.json"
TARGETS = re.compile(r"make (bench-[a-z]+|calibrate|demo)\b")

_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?(?!\d|[A-Za-wyz])%?")
"""A number that runs on in letters is part of a name (135M), but for a factor (1.04x)."""
_SKIPPED = re.compile(r"`[^`\n]*`|<!--.*?-->|\]\([^)]*\)", re.DOTALL)
_BLOCK = re.compile(r"<!-- measured: begin -->(.*?)<!-- measured: end -->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Figure:
    """One entry; see the module."""

    text: str
    keys: tuple[str | None, ...]
    file: str
    command: str


def read_figures(path: Path = FIGURES) -> list[Figure]:
    rows = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return [Figure(row["text"], tuple(row["keys"]), row["file"], row["command"]) for row in rows]


def numbers(text: str) -> Iterator[re.Match[str]]:
    """Every number outside of code, links and comments."""
    hidden = [found.span() for found in _SKIPPED.finditer(text)]
    for found in _NUMBER.finditer(text):
        if not any(start <= found.start() < end for start, end in hidden):
            yield found


def agrees(printed: str, value: float, *, step: float | None = None) -> bool:
    """Whether a value, rounded to the digits printed or to multiples of `step`, is what is printed."""
    plain = printed.rstrip("%").replace(",", "")
    exponent = Decimal(plain).as_tuple().exponent
    assert isinstance(exponent, int)
    quantum = Decimal(step) if step is not None else Decimal(1).scaleb(exponent)
    told = Decimal(repr(value)) * (100 if printed.endswith("%") else 1)
    return abs(told - Decimal(plain)) <= quantum / 2 + abs(told) * Decimal("1e-12")


def looked_up(data: Any, key: str) -> tuple[float, float | None]:
    """(the value behind a key, the step it is rounded to). Raises KeyError that names the key where there is none."""
    path, _, step = key.partition("~")
    above, slash, below = path.partition(" / ")
    value = _walk(data, above) / _walk(data, below) if slash else _walk(data, above)
    return value, float(step) if step else None


def _walk(data: Any, key: str) -> float:
    path, star, factor = key.strip().partition("*")
    value, parts = data, path.strip().split(".")
    while parts:
        # Names may have dots of their own (x0.8): the longest one that is there is meant.
        lengths = range(len(parts), 0, -1) if isinstance(value, dict) else (1,)
        n = next((n for n in lengths if not isinstance(value, dict) or ".".join(parts[:n]) in value), 1)
        part, parts = ".".join(parts[:n]), parts[n:]
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(f"{key}: no {part!r} there") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise KeyError(f"{key}: {value!r} is no number")
    return value * float(factor) if star else value


def faults_of(figure: Figure, page: str, files: Mapping[str, Any]) -> list[str]:
    """What is wrong with an entry; nothing where page and file agree."""
    where = figure.text.strip()[:60]
    if page.count(figure.text) != 1:
        return [f"{where!r}: stands {page.count(figure.text)} times on the page, not once"]
    found = [match[0] for match in numbers(figure.text)]
    if len(found) != len(figure.keys):
        return [f"{where!r}: {len(found)} numbers, {len(figure.keys)} keys"]
    faults = [] if TARGETS.match(figure.command) else [f"{where!r}: {figure.command!r} is no target that measures"]
    for printed, key in zip(found, figure.keys, strict=True):
        if key is None:
            continue
        try:
            value, step = looked_up(files[figure.file], key)
        except KeyError as error:
            faults.append(f"{where!r}: {figure.file}: {error.args[0]}")
            continue
        if not agrees(printed, value, step=step):
            faults.append(f"{where!r}: {printed} on the page, {value!r} at {key} of {figure.file}")
    return faults


def uncovered(page: str, figures: Sequence[Figure]) -> list[str]:
    """Numbers of the measured blocks that no entry covers, each with its line."""
    spans = [(at, at + len(figure.text)) for figure in figures if (at := page.find(figure.text)) >= 0]
    loose: list[str] = []
    for block in _BLOCK.finditer(page):
        for found in numbers(block[1]):
            place = block.start(1) + found.start()
            if not any(start <= place < end for start, end in spans):
                line = page[: page.find("\n", place)].rpartition("\n")[2]
                loose.append(f"{found[0]} in {line.strip()[:100]!r}")
    return loose


def measured_blocks(page: str) -> int:
    return len(_BLOCK.findall(page))


def load_files(figures: Sequence[Figure], root: Path = ROOT) -> dict[str, Any]:
    """The JSON of every file that is named. Raises FileNotFoundError for one that is not there."""
    return {name: json.loads((root / name).read_text(encoding="utf-8")) for name in {f.file for f in figures}}


def main(words: Sequence[str]) -> int:
    page = Path(words[0] if words else ROOT / "README.md").read_text(encoding="utf-8")
    figures = read_figures()
    files = load_files(figures)
    faults = [fault for figure in figures for fault in faults_of(figure, page, files)]
    for line in [*faults, *(f"not covered: {loose}" for loose in uncovered(page, figures))]:
        print(line)
    return 1 if faults or uncovered(page, figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
