"""The fingerprint index: sketches of known models, so that a suspect is matched without keeping their weights.

A sketch keeps, of each layer, the first rows of up and gate (at most UNITS of them) under one fixed random projection
to WIDTH numbers, in 8 bits, and the layer's sketch of localisation.py. That is enough to match the suspect's hidden
units to the known model's, and so for the exact law of matching.py: a match has a p-value, not a score, and the chance
of any false match is at most alpha over the whole index (Holm over its models). It is blind where units were
relabelled or the residual stream rotated: compare with the weights themselves then.

Of many models only the MATCHED most alike have their units matched; the others are inconclusive at p = 1. Alike is
judged by the sketches of localisation.py, which no relabelling changes, so the choice says nothing about labels and
costs nothing: a p-value of 1 in place of a valid one is valid.

One file a model, an .npz of plain arrays that is read without pickle. The weights cannot be restored from it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import InputError, OutputExistsError, SchemaError
from stillproof.finding import Check, Finding, decide, holm
from stillproof.progress import OnEvent, ignore
from stillproof.trace.weights import localisation
from stillproof.trace.weights.comparing import told
from stillproof.trace.weights.judging import CLAIM, EXACT_ASSUMES, EXACT_NULL
from stillproof.trace.weights.layers import Model, Units, model_of
from stillproof.trace.weights.matching import assign_smaller, cosines, fixed_points, fixed_points_log10_p
from stillproof.trace.weights.reading import Reals, read_model

SCHEMA = "weights-sketch/1"
SUFFIX = ".sketch.npz"
UNITS = 384
WIDTH = 24
GRAM = 24
MATCHED = 32
"""Models of the index whose units are matched, at most."""
MAX_BYTES = 50_000_000
MAX_NAME = 200
_ROWS_SEED = 20_260_502


@dataclass(frozen=True, slots=True)
class Sketch:
    """A known model, or a suspect, in little."""

    name: str
    """As its owner calls it; free text."""
    hidden: int
    units: NDArray[np.int64]
    """[layers]: hidden units of each layer, of which the first are kept."""
    numbers: NDArray[np.int64]
    """[layers]"""
    rows: NDArray[np.int8]
    """[layers, kept units, parts * WIDTH], each part of a row scaled to its largest; a short layer ends in zeros."""
    grams: NDArray[np.float16]
    """[layers, parts, values]"""


@dataclass(frozen=True, slots=True)
class Place:
    """One pair of layers of a known model and the suspect, numbered from 0."""

    layer_known: int
    layer_suspect: int
    fixed_points: int
    units: int
    """Units that were matched."""
    rate: float
    """Fixed points expected by chance."""

    @property
    def log10_p(self) -> float:
        return fixed_points_log10_p(self.fixed_points, self.rate)


@dataclass(frozen=True, slots=True)
class Match:
    """One known model against the suspect."""

    name: str
    finding: Finding
    placed: tuple[Place, ...]


def sketch_model(path: Path, name: str, on_event: OnEvent = ignore) -> Sketch:
    """Raises InputError for what is no model, has no layers that hold numbers, or a name that is none."""
    if not 0 < len(name.strip()) <= len(name) <= MAX_NAME:
        raise InputError(f"not a name of 1 to {MAX_NAME} characters", repr(name[:80]), "choose another")
    return sketch_of(model_of(read_model(path)), name, UNITS, on_event)


def sketch_of(model: Model, name: str, keep: int, on_event: OnEvent = ignore) -> Sketch:
    """`keep`: units of a layer at most. Layers that hold NaN are left out. One layer is in memory at a time."""
    where = str(model.stored.path)
    numbers: list[int] = []
    sizes: list[int] = []
    rows: list[NDArray[np.int8]] = []
    grams: list[Reals] = []
    for number in told(() if model.experts else model.numbers, "sketch", "layers", on_event):
        units = model.units(number)
        if not units.finite:
            continue
        hidden = units.up.shape[1]
        numbers.append(number)
        sizes.append(len(units.up))
        rows.append(_projected(units, _row_projection(hidden), keep))
        grams.append(localisation.sketch(units, localisation.projection(hidden, GRAM)))
    if not numbers:
        raise InputError("no MLP layers of a known architecture that hold numbers", where)
    if len({model.shape(number)[1] for number in numbers}) > 1 or len({len(gram) for gram in grams}) > 1:
        raise InputError("layers of different hidden sizes or kinds", where, "fetch it again")
    padded = np.zeros((len(numbers), max(map(len, rows)), 2 * WIDTH), np.int8)
    for i, kept in enumerate(rows):
        padded[i, : kept.shape[0], : kept.shape[1]] = kept
    hidden = model.shape(numbers[0])[1]
    return Sketch(name, hidden, np.array(sizes), np.array(numbers), padded, np.stack(grams).astype(np.float16))


def _row_projection(hidden: int) -> Reals:
    generator = np.random.Generator(np.random.Philox([_ROWS_SEED, hidden]))
    return generator.standard_normal((hidden, WIDTH)).astype(np.float32)


def _projected(units: Units, p: Reals, keep: int) -> NDArray[np.int8]:
    """[kept units, parts * WIDTH]: up, then gate where there is one."""
    parts = [units.up] if units.gate is None else [units.up, units.gate]
    small: list[NDArray[np.int8]] = []
    for part in parts:
        values = part[:keep] @ p
        top = np.abs(values).max(axis=1, keepdims=True)
        small.append(np.round(127 * np.divide(values, top, out=np.zeros_like(values), where=top > 0)).astype(np.int8))
    return np.concatenate(small, axis=1)


def match(
    suspect: Path, known: Sequence[Sketch], *, alpha: float = 1e-6, seed: int = 0, on_event: OnEvent = ignore
) -> list[Match]:
    """The suspect against every sketch, the surest first. H0: EXACT_NULL, for each.

    alpha: chance of any false match over the whole index. Models of another hidden size are inconclusive. Raises
    InputError for a suspect that is no model, or an empty index.
    """
    if not known:
        raise InputError("an index without sketches", remedy="add known models to it first")
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}", remedy="choose a level between 0 and 1")
    model = model_of(read_model(suspect))
    keep = max((model.shape(n)[0] for n in model.numbers), default=1)
    whole = sketch_of(model, "suspect", keep, on_event)
    paired = [_paired(other, whole) for other in known]
    chosen = sorted((i for i, pairs in enumerate(paired) if pairs), key=lambda i: -_likeness(paired[i]))[:MATCHED]
    placed: dict[int, tuple[Place, ...]] = {}
    for i in told(chosen, "match", "models", on_event):
        placed[i] = tuple(_matched(known[i], whole, pair, seed) for pair in paired[i])
    found = [_finding(other.name, bool(paired[i]), placed.get(i), alpha) for i, other in enumerate(known)]
    matches = [Match(s.name, f, placed.get(i, ())) for i, (s, f) in enumerate(zip(known, holm(found), strict=True))]
    return sorted(matches, key=lambda m: 1.0 if m.finding.log10_p is None else m.finding.log10_p)


def _paired(known: Sketch, suspect: Sketch) -> list[localisation.Placed]:
    """Layers by their place in the two sketches; none where hidden size or kind of MLP differ."""
    if suspect.hidden != known.hidden or suspect.grams.shape[1:] != known.grams.shape[1:]:
        return []
    alike = localisation.likenesses(known.grams.astype(np.float32), suspect.grams.astype(np.float32))
    return localisation.place(alike, range(len(known.rows)), range(len(suspect.rows)))


def _likeness(pairs: Sequence[localisation.Placed]) -> float:
    """Mean over the layers that were placed, so that a short model is not held back."""
    return sum(pair.likeness for pair in pairs) / len(pairs)


def _finding(name: str, comparable: bool, placed: Sequence[Place] | None, alpha: float) -> Finding:
    """`placed` None: not among the most alike; where comparable its p-value is 1, and it decides nothing."""
    count = None if placed is None else sum(place.fixed_points for place in placed)
    log10_p: float | None = None
    detail = "another hidden size, or gated beside ungated MLP"
    if comparable and placed is None:
        log10_p, detail = 0.0, f"not among the {MATCHED} most alike by sketches of layers: units not matched, p = 1"
    elif placed is not None and count is not None:
        log10_p, detail = fixed_points_log10_p(count, sum(place.rate for place in placed)), f"{len(placed)} layers"
    return Finding(
        claim=f"{CLAIM}, where A is the model sketched as {name!r}",
        verb="trace",
        test="unit_labels_sketched",
        kind="design_based",
        null=EXACT_NULL,
        statistic=None if count is None else float(count),
        n=sum(place.units for place in placed or ()),
        n_unit="units",
        decision="inconclusive" if log10_p is None or placed is None else decide(log10_p, alpha),
        alpha=alpha,
        log10_p=log10_p,
        assumptions=EXACT_ASSUMES,
        checks=(Check("units_matched", placed is not None, detail),),
    )


def _matched(known: Sketch, suspect: Sketch, pair: localisation.Placed, seed: int) -> Place:
    """One pair of layers, by their place in the sketches."""
    i, j = pair.layer_a, pair.layer_b
    a = known.rows[i, : min(int(known.units[i]), known.rows.shape[1])].astype(np.float32)
    b = suspect.rows[j, : int(suspect.units[j])].astype(np.float32)
    alike = cosines(a[:, :WIDTH], b[:, :WIDTH]) + cosines(a[:, WIDTH:], b[:, WIDTH:])
    matching, _ = assign_smaller(alike, seed + j)
    smaller, larger = sorted((len(a), len(b)))
    return Place(int(known.numbers[i]), int(suspect.numbers[j]), fixed_points(matching), smaller, smaller / larger)


# --- on disk --------------------------------------------------------------------------------------------------


def refuse_known(index: Path, name: str) -> Path:
    """The file of a model of that name. Raises OutputExistsError where it is there: before the work, not after."""
    path = index / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}{SUFFIX}"
    if path.exists():
        raise OutputExistsError(f"the index knows {name!r}", str(path), "choose another name, or remove the file")
    return path


def add(index: Path, sketch: Sketch) -> Path:
    """The sketch's file in the folder `index`. Raises OutputExistsError where that name is taken."""
    path = refuse_known(index, sketch.name)
    index.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"schema": SCHEMA, "name": sketch.name, "hidden": sketch.hidden}).encode()
    buffer = io.BytesIO()
    arrays = {"units": sketch.units, "numbers": sketch.numbers, "rows": sketch.rows, "grams": sketch.grams}
    np.savez_compressed(buffer, head=np.frombuffer(head, np.uint8), **arrays)
    beside = path.with_suffix(f".{os.getpid()}.part")
    beside.write_bytes(buffer.getvalue())
    beside.replace(path)  # whole or not at all
    return path


def read_index(index: Path) -> list[Sketch]:
    """The sketches, by name. Raises InputError for no folder or a file that is no sketch, SchemaError for another
    version's."""
    if not index.is_dir():
        raise InputError("no index here", str(index), "make one with `stillproof trace index add`")
    return sorted((_read(path) for path in index.glob(f"*{SUFFIX}")), key=lambda sketch: sketch.name)


def _read(path: Path) -> Sketch:
    remedy = "remove it, and sketch the model again"
    if path.stat().st_size > MAX_BYTES:
        raise InputError("a sketch of more than 50 MB", str(path), remedy)
    try:
        with np.load(path, allow_pickle=False) as stored:
            if sum(info.file_size for info in stored.zip.infolist()) > 4 * MAX_BYTES:
                raise InputError("a sketch that swells beyond bounds", str(path), remedy)
            head = json.loads(bytes(stored["head"]))
            arrays = {name: stored[name] for name in ("units", "numbers", "rows", "grams")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not a sketch: {error}", str(path), remedy) from error
    if not isinstance(head, dict) or head.get("schema") != SCHEMA:
        raise SchemaError(f"not a sketch of schema {SCHEMA!r}", str(path), remedy)
    sketch = Sketch(str(head.get("name"))[:MAX_NAME], _count(head.get("hidden")), **arrays)
    if not _is_whole(sketch):
        raise InputError("a sketch whose arrays do not fit together", str(path), remedy)
    return sketch


def _count(value: Any) -> int:
    return value if type(value) is int else -1


def _is_whole(s: Sketch) -> bool:
    kinds = ((s.units, "i", 1), (s.numbers, "i", 1), (s.rows, "i", 3), (s.grams, "f", 3))
    if not all(a.dtype.kind == kind and a.ndim == dimensions for a, kind, dimensions in kinds):
        return False
    n = len(s.units)
    fits = len(s.numbers) == len(s.rows) == len(s.grams) == n and s.rows.shape[2] == 2 * WIDTH and s.hidden > 0
    return bool(n and fits and (s.units > 0).all() and math.isfinite(float(np.abs(s.grams.astype(np.float32)).sum())))
