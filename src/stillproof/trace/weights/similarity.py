"""How alike two models are where labels of units and axes of the residual stream may have been changed.

None of these numbers has a law of its own: models that learned one corpus independently have embeddings that are truly
alike. They are ranked among independent pairs (reference.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stillproof.trace.weights.layers import Units
from stillproof.trace.weights.matching import assign_smaller, cosines
from stillproof.trace.weights.reading import Reals

MAX_ROWS = 8_192
"""Rows of an embedding that are compared: more change nothing but the time."""
MAX_CKA_ROWS = 2_048
"""A square of so many is kept."""


def shared_rows(
    n_a: int, n_b: int, tokens_a: Mapping[str, int] | None, tokens_b: Mapping[str, int] | None
) -> NDArray[np.intp]:
    """[2, rows]: ids in A and in B of the same tokens, by their strings where both vocabularies are known, else by id.

    At most MAX_ROWS, spread evenly over A's ids.
    """
    if tokens_a is not None and tokens_b is not None:
        both = sorted((tokens_a[word], tokens_b[word]) for word in tokens_a.keys() & tokens_b.keys())
        pairs = np.array([(i, j) for i, j in both if i < n_a and j < n_b], dtype=np.intp).reshape(-1, 2).T
    else:
        pairs = np.tile(np.arange(min(n_a, n_b), dtype=np.intp), (2, 1))
    if pairs.shape[1] > MAX_ROWS:
        pairs = pairs[:, np.linspace(0, pairs.shape[1] - 1, MAX_ROWS).astype(np.intp)]
    return pairs


def rotation(a: Reals, b: Reals) -> Reals:
    """Q [hidden of B, hidden of A] of orthonormal rows or columns that makes `b @ Q` closest to `a` (Schonemann 1966).

    a, b: [tokens, hidden], of the same tokens. Orthogonal Procrustes: U V^T of the singular vectors of b^T a.
    """
    u, _, vt = np.linalg.svd(_centred(b).T.astype(np.float64) @ _centred(a), full_matrices=False)
    return (u @ vt).astype(np.float32)


def aligned_cosine(a: Reals, b: Reals) -> float:
    """Mean cosine of rows after the best rotation, -1 to 1: fitted on the even rows, measured on the odd ones."""
    a, b = _centred(a), _centred(b)
    turned = b[1::2] @ rotation(a[::2], b[::2])
    norms = np.linalg.norm(turned, axis=1) * np.linalg.norm(a[1::2], axis=1)
    dots = np.einsum("ij,ij->i", turned, a[1::2])
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).mean())


def cka(a: Reals, b: Reals) -> float:
    """Linear CKA with the debiased HSIC (Song et al. 2012, eq. 5; Kornblith et al. 2019), about 0 for strangers, 1 for
    one set of rows up to rotation and scale. a, b: [rows, hidden], of the same tokens; four rows or more."""
    step = -(-len(a) // MAX_CKA_ROWS)
    a, b = a[::step], b[::step]
    k, m = (np.asarray(x @ x.T, dtype=np.float64) for x in (_centred(a), _centred(b)))
    bottom = _hsic(k, k) * _hsic(m, m)
    return float(_hsic(k, m) / np.sqrt(bottom)) if bottom > 0 else 0.0


def _hsic(k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
    n = k.shape[0]
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    column_k, column_m = k.sum(axis=0), m.sum(axis=0)
    middle = column_k.sum() * column_m.sum() / ((n - 1) * (n - 2))
    return float(((k * m).sum() + middle - 2 / (n - 2) * (column_k @ column_m)) / (n * (n - 3)))


def agreement(a: Units, b: Units, turn: Reals, seed: int) -> tuple[int, int]:
    """(units whose partner is the same by their input weights as by their output weights, units of the smaller layer).

    Robust to any relabelling of units. `turn` [hidden of B, hidden of A] brings B's residual stream to A's. Where a
    model stems from the other, both matchings find the same truth; strangers agree by chance, and a little more,
    because units differ in size and direction in ways that both tensors show.
    """
    by_input, _ = assign_smaller(_input_cosines(a, b, turn), seed)
    by_output, _ = assign_smaller(cosines(a.down, b.down @ turn), seed + 1)
    return int((by_input == by_output).sum()), by_input.size


def _input_cosines(a: Units, b: Units, turn: Reals) -> Reals:
    similarity = cosines(a.up, b.up @ turn)
    if a.gate is not None and b.gate is not None:
        similarity = similarity + cosines(a.gate, b.gate @ turn)
    return similarity


def unit_cosines(a: Units, b: Units) -> Reals:
    """[units of A, units of B]: mean over tensors of the cosine of their rows."""
    of_a, of_b = a.parts(), b.parts()
    names = [name for name in of_a if name in of_b]
    total = cosines(of_a[names[0]], of_b[names[0]])
    for name in names[1:]:
        total += cosines(of_a[name], of_b[name])
    return total / np.float32(len(names))


def _centred(x: Reals) -> Reals:
    return x - x.mean(axis=0)
