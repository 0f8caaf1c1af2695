"""Which of two related models was there first: hints in the weights, never proof.

Each hint is a loss that is not undone by accident: zeros that pruning left, a grid that rounding left, layers, units or
tokens that only one of the two has. Where hints are absent or contradict one another the direction is 'unknown'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stillproof.trace.weights.layers import Model
from stillproof.trace.weights.reading import Reals

Direction = Literal["a_to_b", "b_to_a", "unknown"]

_ZEROS = 0.05
"""Difference in the share of exact zeros that pruning must have made."""
_GRID = 4.0
"""How many times fewer distinct values a row has, where it was rounded."""
_ROWS = 64


@dataclass(frozen=True, slots=True)
class Hint:
    name: str
    says: Direction
    detail: str


@dataclass(frozen=True, slots=True)
class Traces:
    """What one model's weights show of their past."""

    n_layers: int
    units: int
    vocabulary: int
    zeros: float
    """Share of weights that are exactly 0."""
    distinct: float
    """Share of distinct values in a row, mean over rows."""


def traces(model: Model, layers: Sequence[int]) -> Traces:
    """Reads the first rows of each layer's up weights, as stored."""
    zeros: list[float] = []
    distinct: list[float] = []
    for number in layers:
        rows = _sample(model, number)
        zeros.append(float((rows == 0).mean()))
        distinct.extend(np.unique(np.abs(row)).size / row.size for row in rows)
    units, _ = model.shape(layers[0])
    embedding = model.embedding_tensor
    vocabulary = embedding.shape[0] if embedding is not None and embedding.shape else 0
    return Traces(len(model.numbers), units, vocabulary, float(np.mean(zeros)), float(np.mean(distinct)))


def _sample(model: Model, layer: int) -> Reals:
    parts = model.by_layer[layer]
    name = next(name for name in ("up", "gate_up", "up_turned") if name in parts)
    values = parts[name].load()
    return (values.T if name == "up_turned" else values)[:_ROWS]


def hints(a: Traces, b: Traces) -> list[Hint]:
    """Every hint there is, in a fixed order."""
    found: list[Hint] = []
    counts = (("layers", a.n_layers, b.n_layers), ("units", a.units, b.units))
    for name, of_a, of_b in counts:
        if of_a != of_b:
            found.append(Hint(name, _fewer(of_a, of_b), f"{of_a} {name} in A, {of_b} in B"))
    if a.vocabulary != b.vocabulary:
        # Vocabularies are extended far more often than cut.
        says = _fewer(b.vocabulary, a.vocabulary)
        found.append(Hint("vocabulary", says, f"{a.vocabulary} rows in A, {b.vocabulary} in B"))
    if abs(a.zeros - b.zeros) > _ZEROS:
        found.append(Hint("zeros", _fewer(b.zeros, a.zeros), f"{a.zeros:.1%} zeros in A, {b.zeros:.1%} in B"))
    # Zeros lower the number of distinct values too, and are one trace, not two.
    elif max(a.distinct, b.distinct) > _GRID * min(a.distinct, b.distinct):
        detail = f"{a.distinct:.1%} of a row's values are distinct in A, {b.distinct:.1%} in B"
        found.append(Hint("grid", _fewer(a.distinct, b.distinct), detail))
    return found


def _fewer(of_a: float, of_b: float) -> Direction:
    """The one that has less comes later."""
    return "a_to_b" if of_b < of_a else "b_to_a"


def direction(found: Sequence[Hint]) -> Direction:
    """What all hints agree on, else 'unknown'."""
    said = {hint.says for hint in found}
    return said.pop() if len(said) == 1 else "unknown"
