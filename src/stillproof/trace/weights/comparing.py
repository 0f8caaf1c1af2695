"""Measuring two models against one another: numbers only, no p-values that need a reference."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from stillproof.errors import InputError
from stillproof.finding import Check
from stillproof.progress import Event, OnEvent, ignore
from stillproof.trace.weights import localisation, similarity
from stillproof.trace.weights.layers import Model, Units
from stillproof.trace.weights.matching import Matched, assign_smaller, fixed_points, spearman
from stillproof.trace.weights.reading import Reals

_Item = TypeVar("_Item")

MIN_ROWS_PER_AXIS = 2
"""Shared tokens for each axis of the residual stream, without which a rotation fits anything."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One pair of layers, matched by input and by output weights after the best rotation."""

    layer_a: int
    layer_b: int
    agreeing: int
    units: int


@dataclass(slots=True)
class Measured:
    """What two models' weights say of one another. Absent where it could not be measured; `checks` says why."""

    matched: list[Matched] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    embedding_rotation: float | None = None
    embedding_cka: float | None = None
    likeness: dict[tuple[int, int], float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def unit_agreement(self) -> float | None:
        """Share of units, beyond what chance gives, whose two matchings agree."""
        units = sum(pair.units for pair in self.agreements)
        if not units:
            return None
        return (sum(pair.agreeing for pair in self.agreements) - len(self.agreements)) / units

    @property
    def layer_agreement(self) -> float | None:
        return max(((pair.agreeing - 1) / pair.units for pair in self.agreements), default=None)


def told(items: Sequence[_Item], stage: str, unit: str, on_event: OnEvent) -> Iterator[_Item]:
    """The items, each told before it is worked on, with the time left at the pace so far."""
    started_s, n = time.monotonic(), len(items)
    for done, item in enumerate(items):
        left_s = (time.monotonic() - started_s) / done * (n - done) if done else None
        on_event(Event(stage, done, n, unit, eta_s=left_s))
        yield item
    if n:
        on_event(Event(stage, n, n, unit))


def measure(a: Model, b: Model, seed: int = 0, on_event: OnEvent = ignore) -> Measured:
    """Every comparison that these two models allow. `seed` breaks ties between units.

    Each layer is read twice: to be sketched, and to be matched. Raises InputError for a file that cannot be read as
    what it claims to be.
    """
    out = Measured()
    if not all([_has_layers(a, "A", out.checks), _has_layers(b, "B", out.checks)]):
        return out
    hidden = a.shape(a.numbers[0])[1]
    if not _comparable(a, b, hidden, out.checks):
        return out
    p = localisation.projection(hidden)
    turn = _embeddings(a, b, hidden, out)
    of_a = _sketches(a, "A", [p], out.checks, on_event)
    # Turning the projection is turning the layers, and cheaper.
    of_b = _sketches(b, "B", [p] if turn is None else [p, turn @ p], out.checks, on_event)
    if not of_a.numbers or not of_b.numbers:
        return out
    plain, turned = (_placed(of_a, of_b, which) for which in (0, -1))
    out.likeness = {(pair.layer_a, pair.layer_b): pair.likeness for pair in plain}
    wanted = sorted({*_pairs(plain), *(_pairs(turned) if turn is not None else ())}, key=lambda pair: pair[::-1])
    for layers in told(wanted, "match", "pairs of layers", on_event):
        units = a.units(layers[0]), b.units(layers[1])
        if layers in _pairs(plain):
            out.matched.append(_matched(layers, units, seed))
        if turn is not None and layers in _pairs(turned):
            counts = similarity.agreement(*units, turn, seed + 2 * layers[1])
            out.agreements.append(Agreement(*layers, *counts))
    return out


@dataclass(frozen=True, slots=True)
class _Sketches:
    numbers: list[int]
    """Layers that hold numbers throughout."""
    values: list[Reals]
    """[layers, parts, values], under each projection."""


def _sketches(
    model: Model, side: str, projections: Sequence[Reals], checks: list[Check], on_event: OnEvent
) -> _Sketches:
    numbers: list[int] = []
    rows: list[list[Reals]] = [[] for _ in projections]
    for number in told(model.numbers, f"sketch {side}", "layers", on_event):
        units = model.units(number)
        if not units.finite:
            continue
        numbers.append(number)
        for kept, p in zip(rows, projections, strict=True):
            kept.append(localisation.sketch(units, p))
    left_out = sorted(set(model.numbers) - set(numbers))
    detail = f"{len(numbers)} of {len(model.numbers)} layers of {side}"
    detail += f"; layers {left_out[:8]} hold NaN or infinity and are left out" if left_out else ""
    checks.append(Check(f"layers_of_{side.lower()}", not left_out, detail))
    return _Sketches(numbers, [np.stack(kept) for kept in rows] if numbers else [])


def _placed(a: _Sketches, b: _Sketches, which: int) -> list[localisation.Placed]:
    return localisation.place(localisation.likenesses(a.values[0], b.values[which]), a.numbers, b.numbers)


def _pairs(placed: Sequence[localisation.Placed]) -> set[tuple[int, int]]:
    return {(pair.layer_a, pair.layer_b) for pair in placed}


def _matched(layers: tuple[int, int], units: tuple[Units, Units], seed: int) -> Matched:
    """The matching of the exact tests: axes of the residual stream as they are."""
    alike = similarity.unit_cosines(*units)
    matching, turned = assign_smaller(alike, seed + 2 * layers[1])
    whole = alike.T if turned else alike
    mean = float(whole[np.arange(matching.size), matching].mean())
    return Matched(*layers, alike.shape[0], alike.shape[1], fixed_points(matching), spearman(matching), mean)


def _has_layers(model: Model, side: str, checks: list[Check]) -> bool:
    why = ""
    if model.experts:
        why = f"{side} is a mixture of experts, whose layers are not compared"
    elif not model.numbers:
        why = f"no MLP layers of a known architecture in {side}"
    if why:
        checks.append(Check(f"layers_of_{side.lower()}", False, why))
        return False
    sizes = {model.shape(n)[1] for n in model.numbers}
    if len(sizes) > 1:
        raise InputError(f"layers of hidden sizes {sorted(sizes)[:5]}", str(model.stored.path), "fetch it again")
    return True


def _comparable(a: Model, b: Model, hidden: int, checks: list[Check]) -> bool:
    of_b = b.shape(b.numbers[0])[1]
    checks.append(Check("same_hidden_size", hidden == of_b, f"{hidden} in A, {of_b} in B"))
    alike = len(a.gated | b.gated) == 1
    checks.append(Check("same_kind_of_mlp", alike, f"gated: {sorted(a.gated)} in A, {sorted(b.gated)} in B"))
    return hidden == of_b and alike


def _embeddings(a: Model, b: Model, hidden: int, out: Measured) -> Reals | None:
    """Measures the embeddings; the rotation that brings B's residual stream to A's, None where it cannot be known."""
    of_a, of_b = a.embedding(), b.embedding()
    if of_a is None or of_b is None or of_a.shape[1] != hidden or of_b.shape[1] != hidden:
        out.checks.append(Check("embeddings", None, "no embedding of the hidden size on both sides"))
        return None
    rows = similarity.shared_rows(len(of_a), len(of_b), a.stored.tokens, b.stored.tokens)
    by = (
        "token strings"
        if a.stored.tokens is not None and b.stored.tokens is not None
        else "ids, no tokenizer beside both"
    )
    kept = np.isfinite(of_a[rows[0]]).all(axis=1) & np.isfinite(of_b[rows[1]]).all(axis=1)
    rows = rows[:, kept]
    detail = f"{rows.shape[1]} shared tokens compared, by {by}; {len(of_a)} rows in A, {len(of_b)} in B"
    enough = rows.shape[1] >= max(8, 2 * MIN_ROWS_PER_AXIS * hidden)
    out.checks.append(Check("embeddings", enough, detail))
    if not enough:
        return None
    of_a, of_b = of_a[rows[0]], of_b[rows[1]]
    out.embedding_rotation = similarity.aligned_cosine(of_a, of_b)
    out.embedding_cka = similarity.cka(of_a, of_b)
    return similarity.rotation(of_a, of_b)
