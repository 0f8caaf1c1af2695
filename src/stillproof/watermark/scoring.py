"""Sums of scores of (window, token) tuples under many keys at once, and their law under a key that the text knows not.

A tuple scores 1 where its token is green, or -ln(1 - u) under Gumbel marks: Bernoulli(gamma), or exponential with mean
1, independent over distinct tuples, under any key that had no part in making the text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError
from stillproof.watermark.keys import Scheme
from stillproof.watermark.prf import Lanes, Stream, Words, prf_words

Reals = NDArray[np.float64]

_BLOCK = 8192
"""Pairs hashed at a time: their words stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Law:
    """Of one tuple's score under the null: mean, variance, and ln E[exp(theta * score)]."""

    kind: str
    mean: float
    variance: float

    def cumulant(self, theta: ArrayLike) -> Reals:
        """ln E[exp(theta x)], any shape; infinite for theta of 1 or more under Gumbel marks."""
        t = np.asarray(theta, dtype=np.float64)
        if self.kind == "green":
            return np.log1p(self.mean * np.expm1(t))
        return np.where(t < 1, -np.log1p(-np.minimum(t, 1 - 1e-16)), np.inf)

    @property
    def max_tilt(self) -> float:
        """Tilts theta below this have a finite cumulant."""
        return math.inf if self.kind == "green" else 1.0


def law_of(scheme: Scheme) -> Law:
    """The law of a tuple's score under a scheme."""
    if scheme.kind == "green":
        gamma = scheme.green_below / 2**32
        return Law("green", gamma, gamma * (1 - gamma))
    return Law("gumbel", 1.0, 1.0)


def score_words(words: Words, scheme: Scheme) -> Reals:
    """The score of each word, any shape."""
    if scheme.kind == "green":
        return (words < scheme.green_below).astype(np.float64)
    # 1 - u, u in the middle of its cell, so that neither 0 nor 1 occurs.
    return -np.log((float(2**32) - 0.5 - words.astype(np.float64)) * 2.0**-32)


def score_lanes(
    lanes: Lanes, windows: NDArray[np.uint64], tokens: ArrayLike, scheme: Scheme, *, weights: Reals | None = None
) -> Reals:
    """Sum of the tuples' scores under each key: lanes [m, 4], windows [n], tokens [n], weights [n] or None -> [m].

    Raises InputError for shapes that do not fit.
    """
    keys, ids = np.atleast_2d(np.asarray(lanes, dtype=np.uint64)), np.asarray(tokens).astype(np.uint64)
    n = windows.size
    if keys.shape[1] != 4 or windows.ndim != 1 or ids.shape != (n,) or (weights is not None and weights.shape != (n,)):
        raise InputError(f"keys {keys.shape}, windows {windows.shape}, tokens {ids.shape}", remedy="give one of each")
    sums = np.zeros(keys.shape[0])
    columns = min(n, _BLOCK)
    rows = _BLOCK // columns if n else 1
    for start in range(0, n, _BLOCK):
        part = slice(start, start + _BLOCK)
        for first in range(0, keys.shape[0], rows):
            block = keys[first : first + rows]
            words = prf_words(block[:, None, :], windows[part], ids[part], int(Stream.MAIN))
            sums[first : first + rows] += _sums(words, scheme, None if weights is None else weights[part])
    return sums


def _sums(words: Words, scheme: Scheme, weights: Reals | None) -> Reals:
    if weights is None and scheme.kind == "green":
        return np.count_nonzero(words < scheme.green_below, axis=1).astype(np.float64)
    scores = score_words(words, scheme)
    return scores.sum(axis=1) if weights is None else scores @ weights
