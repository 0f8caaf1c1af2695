"""The fingerprint index: sketches of known models, so that a suspect is matched without keeping their weights.

A sketch keeps, of each layer, the first rows of up and gate (at most UNITS of them) under one fixed random projection
to WIDTH numbers, in 8 bits, and the layer's sketch of localisation.py. That is enough to match the suspect's hidden
units to the known model's, and so for the exact law of matching.py: a match has a p-value, not a score, and the chance
of any false match is at most alpha over the whole index (Holm over its models). It is blind where units were
relabelled or the residual stream rotated: compare with the weights themselves then.

One file a model, an .npz of plain arrays that is read without pickle. The weights cannot be restored from it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import InputError, OutputExistsError, SchemaError
from stillproof.finding import Finding, decide, holm
from stillproof.trace.weights import localisation
from stillproof.trace.weights.judging import CLAIM, EXACT_NULL
from stillproof.trace.weights.layers import Model, Units, model_of
from stillproof.trace.weights.matching import assign_smaller, cosines, fixed_points, fixed_points_log10_p
from stillproof.trace.weights.reading import Reals, read_model

SCHEMA = "weights-sketch/1"
SUFFIX = ".sketch.npz"
UNITS = 384
WIDTH = 24
GRAM = 24
MAX_BYTES = 50_000_000
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
class Match:
    """One known model against the suspect."""

    name: str
    finding: Finding
    placed: tuple[tuple[int, int, int], ...]
    """(layer of the known model, layer of the suspect, fixed points)."""


def sketch_model(path: Path, name: str) -> Sketch:
    """Raises InputError for what is no model, or has no layers that hold numbers."""
    return sketch_of(model_of(read_model(path)), name, UNITS)


def sketch_of(model: Model, name: str, keep: int) -> Sketch:
    """`keep`: units of a layer at most. Layers that hold NaN are left out."""
    finite: list[tuple[int, Units]] = []
    for number in model.numbers:
        if not model.experts and model.units(number).finite:
            finite.append((number, model.units(number)))
    if not finite:
        raise InputError("no MLP layers of a known architecture that hold numbers", str(model.stored.path))
    hidden = finite[0][1].up.shape[1]
    p, gram_p = _row_projection(hidden), localisation.projection(hidden, GRAM)
    sizes = np.array([len(units.up) for _, units in finite])
    rows = np.zeros((len(finite), min(keep, int(sizes.max())), 2 * WIDTH), np.int8)
    for i, (_, units) in enumerate(finite):
        kept = _projected(units, p, keep)
        rows[i, : kept.shape[0], : kept.shape[1]] = kept
    grams = np.stack([localisation.sketch(units, gram_p) for _, units in finite]).astype(np.float16)
    return Sketch(name, hidden, sizes, np.array([number for number, _ in finite]), rows, grams)


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


def match(suspect: Path, known: Sequence[Sketch], *, alpha: float = 1e-6, seed: int = 0) -> list[Match]:
    """The suspect against every sketch, the surest first. H0: EXACT_NULL, for each.

    alpha: chance of any false match over the whole index. Models of another hidden size are inconclusive. Raises
    InputError for a suspect that is no model, or an empty index.
    """
    if not known:
        raise InputError("an index without sketches", remedy="add known models to it first")
    model = model_of(read_model(suspect))
    whole = sketch_of(model, "suspect", max(model.shape(n)[0] for n in model.numbers) if model.numbers else 1)
    found = [_one(whole, other, alpha, seed) for other in known]
    paid = holm([finding for finding, _ in found])
    matches = [Match(s.name, f, p) for s, f, (_, p) in zip(known, paid, found, strict=True)]
    return sorted(matches, key=lambda m: 1.0 if m.finding.log10_p is None else m.finding.log10_p)


def _one(suspect: Sketch, known: Sketch, alpha: float, seed: int) -> tuple[Finding, tuple[tuple[int, int, int], ...]]:
    placed: list[tuple[int, int, int]] = []
    count, rate, units = 0, 0.0, 0
    comparable = suspect.hidden == known.hidden and suspect.grams.shape[1] == known.grams.shape[1]
    if comparable:
        grams = (known.grams.astype(np.float32), suspect.grams.astype(np.float32))
        alike = localisation.likenesses(*grams)
        for pair in localisation.place(alike, range(len(known.rows)), range(len(suspect.rows))):
            fixed, kept, of = _matched(known, suspect, (pair.layer_a, pair.layer_b), seed)
            placed.append((int(known.numbers[pair.layer_a]), int(suspect.numbers[pair.layer_b]), fixed))
            count, rate, units = count + fixed, rate + kept / of, units + kept
    log10_p = fixed_points_log10_p(count, rate) if comparable else None
    finding = Finding(
        claim=f"{CLAIM}, where A is the model sketched as {known.name!r}",
        verb="trace",
        test="unit_labels_sketched",
        kind="design_based",
        null=EXACT_NULL,
        statistic=float(count) if comparable else None,
        n=units,
        n_unit="units",
        decision="inconclusive" if log10_p is None else decide(log10_p, alpha),
        alpha=alpha,
        log10_p=log10_p,
    )
    return finding, tuple(placed)


def _matched(known: Sketch, suspect: Sketch, at: tuple[int, int], seed: int) -> tuple[int, int, int]:
    """(fixed points, units of the smaller side, units of the larger side) of one pair of layers."""
    n_known = min(int(known.units[at[0]]), known.rows.shape[1])
    a = known.rows[at[0], :n_known].astype(np.float32)
    b = suspect.rows[at[1], : int(suspect.units[at[1]])].astype(np.float32)
    alike = cosines(a[:, :WIDTH], b[:, :WIDTH]) + cosines(a[:, WIDTH:], b[:, WIDTH:])
    matching, _ = assign_smaller(alike, seed + at[1])
    return fixed_points(matching), min(len(a), len(b)), max(len(a), len(b))


# --- on disk --------------------------------------------------------------------------------------------------


def add(index: Path, sketch: Sketch) -> Path:
    """The sketch's file in the folder `index`. Raises OutputExistsError where that name is taken."""
    index.mkdir(parents=True, exist_ok=True)
    path = index / f"{hashlib.sha256(sketch.name.encode()).hexdigest()[:24]}{SUFFIX}"
    if path.exists():
        raise OutputExistsError(
            f"the index knows {sketch.name!r}", str(path), "choose another name, or remove the file"
        )
    head = json.dumps({"schema": SCHEMA, "name": sketch.name, "hidden": sketch.hidden}).encode()
    buffer = io.BytesIO()
    arrays = {"units": sketch.units, "numbers": sketch.numbers, "rows": sketch.rows, "grams": sketch.grams}
    np.savez_compressed(buffer, head=np.frombuffer(head, np.uint8), **arrays)
    path.write_bytes(buffer.getvalue())
    return path


def read_index(index: Path) -> list[Sketch]:
    """Raises InputError for a file that is no sketch, SchemaError for another version's."""
    return [_read(path) for path in sorted(index.glob(f"*{SUFFIX}"))]


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
    sketch = Sketch(str(head.get("name")), _count(head.get("hidden")), **arrays)
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
