"""Intervals and p-values, with their null hypotheses and assumptions. numpy; scipy is imported late.

Every p-value here is valid: under its null P(p <= a) <= a for every a, which `tests/calibration/` simulates. Every
interval's coverage is simulated there too, and where it is not exact the docstring says what it really is.

No global random state: functions that draw take `seed` and use the counter-based generator Philox, so the same seed
gives the same numbers on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError

Reals = NDArray[np.float64]

EXACT_FLIPS = 16
"""Up to this many non-zero differences all 2^m sign patterns are counted; beyond it they are sampled."""

_CELLS = 1 << 21
"""Resampling works in blocks of at most this many numbers (16 MB)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its two-sided confidence interval."""

    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    """Independent units: clusters, or trials."""
    method: str
    """'bootstrap_t', 'bootstrap_percentile', 'constant' or 'clopper_pearson'."""


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


def cluster_bootstrap(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Confidence interval of the ratio sum(numerators) / sum(denominators) over independent clusters.

    `numerators`, `denominators`: one number a cluster (document), shape [m]; denominators >= 0. A cluster with both
    zero carries nothing and is left out. `bounds` is the range the true ratio cannot leave, (0, 1) for a share: the
    interval is cut to it, which loses no coverage.

    Method: bootstrap-t with the linearised variance of a ratio estimator, clusters resampled whole (Efron, The
    jackknife, the bootstrap and other resampling plans, 1982, ch. 10; Hall, Annals of Statistics 16, 1988, p. 927;
    variance: Cochran, Sampling techniques, eq. 2.39).
    Assumes that clusters are independent draws from one population; nothing about the positions inside a cluster.

    Not exact. Simulated coverage of a nominal 95% (standard error 0.2-0.4%), cluster sizes and cluster means
    log-normal with sigmas a and b; beside it what the percentile and BCa intervals cover on the same data:

        clusters              30                  100                 300
        a 0.6, b 0.3   93.6 (92.1, 90.6)   94.3 (93.8, 93.1)   94.5 (94.7, 94.2)
        a 1.0, b 1.0   89.6 (84.3, 83.8)   91.5 (88.4, 88.3)   92.5 (91.6, 90.7)

    What is lost is lost on the side of the heavy tail. Below 30 clusters read it as a rough guide. For one trial a
    cluster use `proportion_interval`. `tests/calibration/test_interval_coverage.py` keeps these figures true.

    Where too many resamples have no variance for a t (nearly all clusters at one value), the percentile interval
    widened to a t distribution's tails takes its place and `method` says so. Where all clusters agree the data say
    nothing of their spread: the interval is the point, `method` 'constant'. Raises InputError for fewer than two
    clusters, or numbers that are not a ratio.
    """
    x, y = _clusters(numerators, denominators)
    _check_share(confidence, "confidence")
    m = x.size
    ratio = float(x.sum() / y.sum())
    error = _standard_error(x, y, ratio)
    if error <= 1e-12 * abs(ratio):
        return Interval(ratio, ratio, ratio, confidence, m, "constant")
    tail = (1 - confidence) / 2
    ratios, errors = _resampled(x, y, resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (ratios - ratio) / errors
    t[errors <= 1e-9 * error] = np.nan
    if np.count_nonzero(~np.isfinite(t)) <= 0.1 * tail * resamples:
        method = "bootstrap_t"
        below, above = np.quantile(t[np.isfinite(t)], [tail, 1 - tail])
        low, high = ratio - float(above) * error, ratio - float(below) * error
    else:
        method = "bootstrap_percentile"
        wide = _widened_tail(tail, m)
        finite = ratios[np.isfinite(ratios)]
        low, high = (float(value) for value in np.quantile(finite, [wide, 1 - wide]))
    low, high = max(min(low, ratio), bounds[0]), min(max(high, ratio), bounds[1])
    return Interval(ratio, low, high, confidence, m, method)


def _clusters(numerators: ArrayLike, denominators: ArrayLike) -> tuple[Reals, Reals]:
    x, y = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"clusters of shapes {x.shape} and {y.shape}", remedy="give two vectors of one length")
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or (y < 0).any():
        raise InputError("cluster sums must be finite, and denominators not negative")
    used = (x != 0) | (y != 0)
    x, y = x[used], y[used]
    if x.size < 2 or y.sum() <= 0:
        raise InputError(
            f"{x.size} cluster(s) with data", remedy="an interval needs two at least: hold out more documents"
        )
    return x, y


def _standard_error(x: Reals, y: Reals, ratio: float) -> float:
    m = x.size
    return math.sqrt(float(((x - ratio * y) ** 2).sum()) * m / (m - 1)) / float(y.sum())


def _resampled(x: Reals, y: Reals, resamples: int, seed: int) -> tuple[Reals, Reals]:
    """Ratio and its standard error in each resample, shapes [resamples]."""
    m = x.size
    columns = np.stack([x, y, x * x, x * y, y * y], axis=1)
    blocks = [counts @ columns for counts in _resample_counts(m, resamples, seed)]
    sx, sy, sxx, sxy, syy = np.concatenate(blocks).T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sx / sy
        squares = np.maximum(sxx - 2 * ratios * sxy + ratios**2 * syy, 0.0)
        return ratios, np.sqrt(squares * m / (m - 1)) / sy


def _resample_counts(m: int, resamples: int, seed: int) -> Iterator[Reals]:
    """How often each cluster is drawn: blocks [b, m], b * m bounded, `resamples` rows in all."""
    rng = np.random.Generator(np.random.Philox(seed))
    step = max(1, _CELLS // m)
    for start in range(0, resamples, step):
        b = min(step, resamples - start)
        drawn = rng.integers(0, m, size=(b, m)) + np.arange(b)[:, None] * m
        yield np.bincount(drawn.ravel(), minlength=b * m).reshape(b, m).astype(np.float64)


def _widened_tail(tail: float, m: int) -> float:
    """The tail at which a percentile interval of m clusters is as wide as Student's t (Hesterberg, 2015, sec. 3.3)."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(math.sqrt(m / (m - 1)) * stdtrit(m - 1, tail)))


def proportion_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a proportion: Clopper and Pearson, Biometrika 26 (1934), p. 404.

    Covers with at least `confidence` for every true proportion and every n; on average with more.
    Assumes `n` independent trials of one probability. Raises InputError unless 0 <= successes <= n and n >= 1.
    """
    from scipy.special import betaincinv

    _check_share(confidence, "confidence")
    _check_counts(successes, n)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(successes / n, low, high, confidence, n, "clopper_pearson")


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

    _check_counts(successes, n)
    _check_share(p, "p")
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


def _check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} is {value!r}", remedy="give a number between 0 and 1, both excluded")


def _check_counts(successes: int, n: int) -> None:
    if not (n >= 1 and 0 <= successes <= n):
        raise InputError(f"{successes} successes of {n} trials", remedy="give 0 <= successes <= n, n at least 1")
