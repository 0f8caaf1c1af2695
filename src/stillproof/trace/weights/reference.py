"""Statistics of pairs of models that were trained independently: what a reference-based test ranks among.

The table that ships is of tiny models of one shape on the same data in the same order, of which only the seed differs
(`make bench-weights` makes it): the pairs most alike that strangers can be. A table of your own, of models nearer to
yours, is a file of the same form.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from stillproof.errors import InputError, SchemaError

SCHEMA = "weights-reference/1"
TESTS = ("unit_agreement", "embedding_rotation", "embedding_cka")
COLUMNS = (*TESTS, "layer_agreement")
"""`layer_agreement`: the largest share of agreeing units in any one layer."""
MAX_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Reference:
    """One row for each independent pair, columns COLUMNS."""

    rows: tuple[tuple[float, ...], ...]
    models: int
    about: str

    def column(self, name: str) -> list[float]:
        at = COLUMNS.index(name)
        return [row[at] for row in self.rows]

    def rank(self, name: str, value: float) -> int:
        """1 + independent pairs at or above the value."""
        return 1 + sum(other >= value for other in self.column(name))

    def log10_p(self, name: str, value: float) -> float:
        """Rank / (pairs + 1). H0: the pair is exchangeable with those of the table."""
        return math.log10(self.rank(name, value) / (len(self.rows) + 1))


def shipped() -> Reference:
    return _parsed(files("stillproof.data").joinpath("weights_reference.json").read_bytes(), "the shipped reference")


def read_reference(path: Path | None) -> Reference:
    """The shipped table for None. Raises InputError, SchemaError."""
    if path is None:
        return shipped()
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise InputError("no table of references here", str(path), "make one with `make bench-weights`")
    return _parsed(path.read_bytes(), str(path))


def to_json(rows: Sequence[Sequence[float]], models: int, about: str) -> str:
    """Numbers to five places, rounded up: a reference is never understated."""
    kept = [[math.ceil(value * 1e5) / 1e5 for value in row] for row in rows]
    head = {"schema": SCHEMA, "about": about, "models": models, "columns": list(COLUMNS)}
    lines = ",\n".join(json.dumps(row) for row in kept)
    return json.dumps(head)[:-1] + ', "pairs": [\n' + lines + "\n]}\n"


def _parsed(raw: bytes, which: str) -> Reference:
    remedy = "make one with `make bench-weights`"
    try:
        value = json.loads(raw)
        schema, columns = value["schema"], value["columns"]
        rows = tuple(tuple(float(number) for number in row) for row in value["pairs"])
        models, about = int(value["models"]), str(value["about"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"not a table of references: {error!r}", which, remedy) from error
    if schema != SCHEMA or columns != list(COLUMNS):
        raise SchemaError(f"reference schema {schema!r}, this version reads {SCHEMA!r}", which, remedy)
    if not rows or any(len(row) != len(COLUMNS) or not all(map(math.isfinite, row)) for row in rows):
        raise InputError("a table of references with rows that are not finite or not whole", which, remedy)
    return Reference(rows, models, about)
