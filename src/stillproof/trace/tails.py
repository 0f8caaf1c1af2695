"""Upper tails of sums of scores, in log10, however small: exact where every tuple weighs one, else bounded above."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof import stats
from stillproof.errors import InputError
from stillproof.watermark import Law

Reals = NDArray[np.float64]


def gamma_log10_p(total: float, n: int) -> float:
    """log10 of the exact upper tail P(X >= total), X ~ Gamma(n, 1), however small it is.

    H0: the sum of `n` independent exponentials of mean 1. The tail is that of at most n - 1 points of a Poisson
    process up to `total`; above the mean its terms are summed from the largest on, in units of it. Raises InputError
    for a negative total or n < 1.
    """
    from scipy.special import gammaincc

    if n < 1 or not (math.isfinite(total) and total >= 0):
        raise InputError(f"a sum of {total!r} over {n} scores", remedy="give a sum of 0 or more, n at least 1")
    if total <= n:
        return min(0.0, math.log10(float(gammaincc(n, total))))
    largest = -total + (n - 1) * math.log(total) - math.lgamma(n)
    return min(0.0, (largest + math.log(_poisson_below(total, n))) / math.log(10))


def _poisson_below(total: float, n: int) -> float:
    """Sum over j < n of total^j / j!, in units of the last term; total > n, so each is smaller than the next."""
    added, term, k = 1.0, 1.0, n - 1
    while k > 0 and term > 1e-17 * added:
        j = np.arange(k, max(0, k - 4096), -1, dtype=np.float64)
        terms = term * np.cumprod(j / total)
        added, term, k = added + float(terms.sum()), float(terms[-1]), k - j.size
    return added


def weighted_log10_p(total: float, weights: ArrayLike, law: Law) -> float:
    """An upper bound on log10 P(X >= total), X = sum of weights [n] > 0 times independent scores of a law.

    Chernoff's bound: the smallest of sum_i kappa(theta w_i) - theta total over theta >= 0; any theta gives a valid
    p-value, so the search need not be exact. Larger than the tail by a factor of about z sqrt(2 pi). Raises InputError
    for weights of 0 or less.
    """
    from scipy.optimize import minimize_scalar

    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or not w.size or not (np.isfinite(w).all() and w.min() > 0):
        raise InputError(f"weights of shape {w.shape}, or not above 0", remedy="give one positive weight a tuple")
    if total <= law.mean * w.sum():
        return 0.0
    # Tilts beyond this pay nothing in floating point: exp(theta * w) of the largest weight overflows or diverges.
    most = min(law.max_tilt * (1 - 1e-9), 600.0) / float(w.max())

    def exponent(theta: float) -> float:
        return float(law.cumulant(theta * w).sum()) - theta * total

    best = minimize_scalar(exponent, bounds=(0.0, most), method="bounded", options={"xatol": 1e-9 * most})
    return min(0.0, float(best.fun) / math.log(10))


def log10_p_of(total: float, n: int, weights: Reals | None, law: Law) -> float:
    """log10 p of a sum of scores under its null: binomial, Gamma, or Chernoff's bound where tuples are weighted."""
    if weights is not None:
        return weighted_log10_p(total, weights, law)
    return stats.binomial_log10_p(round(total), n, law.mean) if law.kind == "green" else gamma_log10_p(total, n)
