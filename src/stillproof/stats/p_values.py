"""p-values by design: sign flips and binomial tails; Holm and Benjamini-Hochberg over several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError
from stillproof.stats.limits import check_counts, check_share

Reals = NDArray[np.float64]

EXACT_FLIPS = 16
"""Up to this many non-zero differences all 2^m sign patterns are counted; beyond it they are sampled."""

_CELLS = 1 << 21
"""Resampling works in blocks of at most this many numbers (16 MB)."""


@dataclass(frozen=True, slots=True)
class PValue:
    """A p-value and what it was ranked among."""

    p: float
    statistic: float
    n: int
    """Independent units of evidence."""
    n_null: int
    """Null draws, or enumerated null values, other than the observed one."""
    floor: float
    """The smallest p that these data could have given."""
    exact: bool
    """True where the null was enumerated, False where it was sampled (valid all the same)."""

    @property
    def log10_p(self) -> float:
        return math.log10(self.p)


def paired_sign_flip(differences: ArrayLike, *, seed: int, n_flips: int = 9999) -> PValue:
    """One-sided p-value that paired differences tend to be greater than zero: Fisher's sign-flip test.

    H0: the distribution of the differences, shape [m], does not change when any of them change sign (each is
    symmetric about 0). Statistic: their sum. Assumes independent pairs (or, design-based, a fair coin for each).
    Zeros change nothing and are left out. Ties with the observed sum count against the claim.

    Up to EXACT_FLIPS non-zero differences all 2^m sign patterns are counted and p = count / 2^m; else
    p = (1 + count) / (1 + n_flips) over random patterns, which is valid too, with floor 1 / (1 + n_flips)
    (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010, eq. 2). The floor is in the result; with no
    non-zero difference p is 1. Source: Fisher, The design of experiments, 1935, sec. 21.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not np.isfinite(d).all():
        raise InputError(f"differences of shape {d.shape}", remedy="give one vector of finite numbers")
    used = d[d != 0]
    statistic = float(d.sum())
    # A pattern's sum is at least the observed one exactly where the differences it flips sum to zero or less.
    slack = 1e-12 * float(np.abs(used).sum())
    if used.size <= EXACT_FLIPS:
        flipped = np.zeros(1)
        for value in used:
            flipped = np.concatenate([flipped, flipped + value])
        p = np.count_nonzero(flipped <= slack) / flipped.size
        return PValue(p, statistic, d.size, flipped.size - 1, 1 / flipped.size, True)
    count = sum(int(np.count_nonzero(sums <= slack)) for sums in _flipped_sums(used, n_flips, seed))
    floor = 1 / (1 + n_flips)
    return PValue((1 + count) * floor, statistic, d.size, n_flips, floor, False)


def _flipped_sums(d: Reals, n_flips: int, seed: int) -> Iterator[Reals]:
    rng = np.random.Generator(np.random.Philox(seed))
    step = max(1, _CELLS // d.size)
    for start in range(0, n_flips, step):
        size = (min(step, n_flips - start), d.size)
        yield rng.integers(0, 2, size=size, dtype=np.int8).astype(np.float64) @ d


def binomial_log10_p(successes: int, n: int, p: float) -> float:
    """log10 of the exact upper tail P(X >= successes), X ~ Binomial(n, p), however small it is.

    H0: each of `n` independent trials succeeds with probability `p` at most (0 < p < 1). The regularised incomplete
    beta function gives the tail (Abramowitz and Stegun, eq. 26.5.24); where that underflows, the terms are summed
    from the largest on, in units of it. Raises InputError for counts or a probability out of range.
    """
    from scipy.special import betainc

    check_counts(successes, n)
    check_share(p, "p")
    if successes == 0:
        return 0.0
    tail = float(betainc(successes, n - successes + 1, p))
    if tail > 1e-280:
        return min(0.0, math.log10(tail))
    return (_binomial_log_term(successes, n, p) + math.log(_tail_in_first_terms(successes, n, p))) / math.log(10)


def _binomial_log_term(k: int, n: int, p: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p)


def _tail_in_first_terms(k: int, n: int, p: float) -> float:
    """P(X >= k) / P(X = k) for k above the mean, where each term is smaller than the one before."""
    total, term, start, odds = 1.0, 1.0, k, p / (1 - p)
    while start < n and term > 1e-17 * total:
        j = np.arange(start, min(n, start + 4096), dtype=np.float64)
        terms = term * np.cumprod((n - j) / (j + 1) * odds)
        total, term, start = total + float(terms.sum()), float(terms[-1]), start + j.size
    return total


def holm(p: ArrayLike) -> Reals:
    """Holm's adjusted p-values, in the order given, shape [k].

    Rejecting those at most `a` keeps the chance of any false rejection at `a`, whatever the dependence (Holm,
    Scandinavian Journal of Statistics 6, 1979, p. 65). H0 of each: its own. Raises InputError for a p outside [0, 1].
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError("Holm's method takes a vector of p-values between 0 and 1")
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1)))
    return _in_order(stepped, order)


def holm_log10(log10_p: ArrayLike) -> Reals:
    """`holm` on log10 p-values, for p-values that underflow: log10 adjusted, in the order given."""
    values = np.asarray(log10_p, dtype=np.float64)
    if values.ndim != 1 or not (values <= 0).all():
        raise InputError("Holm's method takes a vector of log10 p-values, none above 0")
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(0.0, np.maximum.accumulate(values[order] + np.log10(np.arange(values.size, 0, -1))))
    return _in_order(stepped, order)


def _in_order(stepped: Reals, order: NDArray[np.intp]) -> Reals:
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted
