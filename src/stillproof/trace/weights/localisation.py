"""Which layer of A stands where in B, from sketches that no relabelling of hidden units changes.

A layer's sketch is P^T W^T W P for each of its tensors W [units, hidden] and one fixed random P [hidden, k]: a sum over
units, whatever their order. So the choice of which layers to compare says nothing about units' labels, and the exact
tests need not pay for it. Each layer of either model is used once at most: the labels of two different layers are
independent draws, those of one layer compared twice would not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillproof.trace.weights.layers import Units
from stillproof.trace.weights.reading import Reals

SKETCH_SIZE = 48
_PROJECTION_SEED = 20_260_501


@dataclass(frozen=True, slots=True)
class Placed:
    """One pair of layers, and how alike their sketches are, -1 to 1."""

    layer_a: int
    layer_b: int
    likeness: float


def projection(hidden: int, k: int = SKETCH_SIZE) -> Reals:
    """P, [hidden, k], the same on every machine."""
    generator = np.random.Generator(np.random.Philox([_PROJECTION_SEED, hidden]))
    return generator.standard_normal((hidden, k)).astype(np.float32) / np.float32(np.sqrt(hidden))


def sketch(units: Units, p: Reals) -> Reals:
    """[parts, k (k + 1) / 2]: of each tensor the upper triangle of P^T W^T W P, without its mean diagonal, of norm 1.

    What every layer has, a multiple of the identity, is taken out, so that strangers have a likeness near 0.
    """
    upper = np.triu_indices(p.shape[1])
    floor = p.T @ p
    rows: list[Reals] = []
    for weight in units.parts().values():
        projected = weight @ p
        gram = projected.T @ projected
        gram = gram - floor * (np.vdot(gram, floor) / np.vdot(floor, floor))
        flat = gram[upper]
        rows.append(flat / max(float(np.linalg.norm(flat)), 1e-30))
    return np.stack(rows).astype(np.float32)


def likenesses(of_a: NDArray[np.float32], of_b: NDArray[np.float32]) -> Reals:
    """[layers of A, layers of B]: mean cosine of sketches [layers, parts, values]."""
    return np.asarray(np.einsum("apv,bpv->ab", of_a, of_b) / of_a.shape[1], dtype=np.float32)


def place(likeness: Reals, layers_a: Sequence[int], layers_b: Sequence[int]) -> list[Placed]:
    """The pairing of layers of greatest total likeness, in the order of B; each layer at most once."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(likeness, maximize=True)
    pairs = [Placed(layers_a[i], layers_b[j], float(likeness[i, j])) for i, j in zip(rows, columns, strict=True)]
    return sorted(pairs, key=lambda pair: pair.layer_b)
