"""Prompt pools: texts from files of any kind, or from the built-in generator in `wording`.

A finite file, drawn from many thousand times, would make strangers share whole sentences, which real traffic does not.
`Pools.draw` therefore edits what it draws; `Pools.exact` gives the items as they stand, as a benchmark does.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.errors import InputError

if TYPE_CHECKING:
    import numpy as np

COLUMNS = ("prompt", "instruction", "question", "query", "text", "input", "turns", "content", "messages", "utterance")
VERBATIM = 0.01
"""Share of drawn file items that are sent as they stand: people do paste the same sentence."""
EDITS_PER_WORD = 0.14
MAX_EDITED_WORDS = 400


class Pools:
    """Named lists of prompts; without any, the built-in generator."""

    def __init__(self, lists: Mapping[str, list[str]] | None = None) -> None:
        self.lists = {name: items for name, items in (lists or {}).items() if items}
        self._pieces: dict[str, tuple[list[list[str]], list[str]]] = {}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Pools:
        """Pools of `name -> path` or `path#column`. Raises InputError where a file holds no text."""
        return cls({name: read_prompts(source) for name, source in files.items()})

    @property
    def names(self) -> list[str]:
        return list(self.lists)

    def draw(self, rng: np.random.Generator, n: int, name: str | None = None) -> list[str]:
        """n natural prompts, mostly unique. `name` picks a pool; None, or a name not here, draws over all."""
        if not self.lists:
            from stillproof.guard.traffic import wording

            return wording.prompts(rng, n)
        pieces, vocabulary = self._split(name)
        picks = rng.integers(0, len(pieces), n).tolist()
        joins = rng.integers(0, len(pieces), n).tolist()
        chance = rng.random((n, 3)).tolist()
        numbers = rng.integers(0, 2**31, (n, 6)).tolist()
        edits = (1 + rng.poisson(1.0, n)).tolist()
        out: list[str] = []
        for pick, join, (asis, opener, spliced), dice, count in zip(picks, joins, chance, numbers, edits, strict=True):
            words = pieces[pick]
            if asis < VERBATIM:
                out.append(" ".join(words))
                continue
            words = words[: len(words) // 2] + pieces[join][len(pieces[join]) // 2 :] if spliced < 0.3 else words[:]
            length = len(words)
            state = dice[0]
            for _ in range(count + min(int(length * EDITS_PER_WORD), 8)):
                # Words move by a small linear congruence: a Generator call for each would cost more than the prompt.
                state = (state * 1_103_515_245 + 12_345) & 0x7FFFFFFF
                words[(state >> 8) % length] = vocabulary[(state >> 4) % len(vocabulary)]
            if opener < 0.85:
                head = (OPENERS[dice[1] % len(OPENERS)], vocabulary[dice[2] % len(vocabulary)])
                words = [*head, vocabulary[dice[3] % len(vocabulary)], str(dice[4] % 997) + ":", *words]
            if opener > 0.3:
                words += [CLOSERS[dice[5] % len(CLOSERS)], vocabulary[dice[4] % len(vocabulary)], str(dice[5] % 9973)]
            out.append(" ".join(words))
        return out

    def exact(self, rng: np.random.Generator, n: int, name: str | None = None) -> list[str]:
        """n items as they stand, without repeats as long as the pool lasts."""
        items = self._items(name)
        if items is None:
            from stillproof.guard.traffic import wording

            return wording.prompts(rng, n)
        order = rng.permutation(len(items)).tolist()
        return [items[order[place % len(order)]] for place in range(n)]

    def _items(self, name: str | None) -> list[str] | None:
        if name is not None and name in self.lists:
            return self.lists[name]
        return [item for items in self.lists.values() for item in items] if self.lists else None

    def _split(self, name: str | None) -> tuple[list[list[str]], list[str]]:
        key = name if name in self.lists and name is not None else ""
        if key not in self._pieces:
            pieces = [words for item in self._items(key or None) or [] if (words := item.split()[:MAX_EDITED_WORDS])]
            self._pieces[key] = (pieces, sorted({word for words in pieces for word in words}))
        return self._pieces[key]


OPENERS = ("Re", "About", "For", "On", "From", "Project", "Note", "Quick one,", "Hi,", "Question on", "Update", "Case")
CLOSERS = ("for", "by", "see", "with", "ref", "using", "before", "after", "near", "like", "item", "within")


def read_prompts(source: str) -> list[str]:
    """The texts of one file: .txt lines, .jsonl, .json, .csv, .tsv or .parquet, `path#column` naming the column.

    Without a column the first of `COLUMNS` that the rows have is taken, else the one with the longest texts.
    Raises InputError where the file cannot be read or holds no text.
    """
    name, _, column = source.partition("#")
    path = Path(name)
    try:
        items = _texts(_rows(path), column)
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise InputError(f"a prompt file cannot be read: {error}", name, "give .txt, .jsonl, .json or .csv") from None
    if not items:
        raise InputError("a prompt file holds no texts", source, "name its text column: path#column")
    return items


def _rows(path: Path) -> list[Any]:
    """The records of a file, each a text, a list or an object."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8-sig")
    if kind == ".json":
        return list(_leaves(json.loads(text)))
    lines = [line for line in text.splitlines() if line.strip()]
    if kind in (".jsonl", ".ndjson"):
        return [row for line in lines if (row := _parsed(line)) is not None]
    if kind in (".csv", ".tsv"):
        return list(csv.DictReader(text.splitlines(keepends=True), delimiter="\t" if kind == ".tsv" else ","))
    return lines


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _leaves(value: Any) -> Iterable[Any]:
    """The records inside a JSON document: lists are opened until their entries are records."""
    if isinstance(value, dict) and value and all(isinstance(entry, list) for entry in value.values()):
        for entry in value.values():
            yield from _leaves(entry)
    elif isinstance(value, list) and value and not all(isinstance(entry, str) for entry in value):
        for entry in value:
            if isinstance(entry, list) and entry and all(isinstance(part, str) for part in entry):
                yield entry
            elif isinstance(entry, list):
                yield from _leaves(entry)
            else:
                yield entry
    elif isinstance(value, list):
        yield from value
    else:
        yield value


def _text(value: Any) -> str:
    """A cell as one text: of a list the first entry, of a message its content."""
    if isinstance(value, list):
        return _text(value[0]) if value else ""
    if isinstance(value, dict):
        return _text(value.get("content", ""))
    return value.strip() if isinstance(value, str) else ""


def _texts(rows: list[Any], column: str) -> list[str]:
    objects = [row for row in rows if isinstance(row, dict)]
    chosen = column or _choose(objects)
    values = (row.get(chosen) if isinstance(row, dict) else row for row in rows)
    return list(dict.fromkeys(text for value in values if (text := _text(value))))


def _choose(rows: list[dict[str, Any]]) -> str:
    lengths: dict[str, int] = {}
    for row in rows[:200]:
        for key, value in row.items():
            if key:
                lengths[key] = lengths.get(key, 0) + len(_text(value))
    named = {key.lower(): key for key, length in lengths.items() if length}
    for name in COLUMNS:
        if name in named:
            return named[name]
    return max(lengths, key=lambda key: lengths[key], default="")
