"""Confidence intervals: a ratio over clusters, a proportion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError
from stillproof.stats.limits import check_counts, check_share

Reals = NDArray[np.float64]

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
    check_share(confidence, "confidence")
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

    check_share(confidence, "confidence")
    check_counts(successes, n)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(successes / n, low, high, confidence, n, "clopper_pearson")
