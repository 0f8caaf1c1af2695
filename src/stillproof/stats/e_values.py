"""e-values: evidence that may be averaged, stopped at any time, and selected under any dependence."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError
from stillproof.stats.limits import check_share

Reals = NDArray[np.float64]

LADDER = ((1, 0.70), (4, 0.15), (16, 0.10), (64, 0.05))
"""(rank r_j, weight w_j): most of the bet is on the very first rank; weights sum to 1."""

_SLACK = 1e-12
"""Relative. Ladder values meet thresholds exactly, and rounding must not decide."""


def rank_e(rank: ArrayLike, n: ArrayLike) -> Reals:
    """e-values of ranks among `n` reference rows: sum_j w_j (n + 1) / r_j where rank <= r_j, over LADDER.

    `rank`: 1 + number of reference rows at or above, any shape; where rows come in groups, p * (n + 1) with n groups,
    which need not be whole. H0: P(rank <= r) <= r / (n + 1) for every r, as of any conformal p-value; then the mean is
    sum_j w_j = 1 at most (a p-to-e calibrator: Vovk and Wang, Annals of Statistics 49, 2021, sec. 2). A rank beyond the
    last rung has e = 0. Raises InputError for a rank outside [1, n + 1].
    """
    ranks, size = np.asarray(rank, dtype=np.float64), np.asarray(n, dtype=np.float64) + 1
    if not ((ranks >= 1 - 1e-9) & (ranks <= size + 1e-9)).all():
        raise InputError("a rank below 1 or beyond the reference", remedy="give 1 + the number of rows at or above")
    e = np.zeros(np.broadcast_shapes(ranks.shape, size.shape))
    for rung, weight in LADDER:
        # A rung beyond the reference is reached by every rank and pays 1, not less: its mean stays w_j.
        e += weight * np.where(ranks <= np.minimum(rung, size) + 1e-9, size / np.minimum(rung, size), 0.0)
    return e


def ladder_best(n: int) -> float:
    """The largest e-value that `rank_e` can give with `n` reference rows: that of rank 1."""
    return float(rank_e(1, n))


def e_bh(e: ArrayLike, alpha: float, n_hypotheses: int | None = None) -> tuple[NDArray[np.bool_], float]:
    """e-BH: which of the e-values, shape [m], are rejected at false discovery rate `alpha`, and from which e on.

    Rejects the k largest for the largest k of which the k-th is at least N / (alpha k), N = `n_hypotheses` or m. H0 of
    each: its own, under which E[e] <= 1. The expected share of true nulls among those rejected is alpha at most under
    any dependence, so also for clusters ranked among one reference set (Wang and Ramdas, J. R. Stat. Soc. B 84, 2022,
    p. 822, th. 2). The threshold returned is N / (alpha k), with k = 1 where none is rejected: what one alone would
    have needed. e is rejected exactly where e >= threshold. Raises InputError for e < 0, NaN, or N < m.
    """
    values = np.asarray(e, dtype=np.float64)
    check_share(alpha, "alpha")
    total = values.size if n_hypotheses is None else n_hypotheses
    if values.ndim != 1 or not (values >= 0).all() or total < values.size:
        raise InputError("e-BH takes a vector of e-values of 0 or more, and no fewer hypotheses than e-values")
    ordered = np.sort(values)[::-1]
    needed = total / (alpha * np.arange(1, values.size + 1))
    passing = np.flatnonzero(ordered >= needed * (1 - _SLACK))
    k = int(passing[-1]) + 1 if passing.size else 0
    threshold = max(total, 1) / (alpha * max(k, 1))
    return values >= threshold * (1 - _SLACK), threshold


def horizon_e(e_by_horizon: ArrayLike, weights: ArrayLike) -> Reals:
    """Running sums of w_h e_h over the last axis: the e-value of a cluster as its horizons are reached.

    `e_by_horizon`: shape [..., H], e-values of one cluster at H horizons set in advance, NaN where not reached yet.
    `weights`: shape [H], 0 or more, declared in advance, summing to 1 at most. H0: the cluster is honest, so
    E[e_h] <= 1 at each horizon, whatever their dependence. The running sum never falls and its last value has mean
    sum_h w_h E[e_h] <= 1; what is read at any stopping time is no larger than that, so optional stopping is free.
    Raises InputError for weights that sum to more, or negative e-values.
    """
    e, w = np.asarray(e_by_horizon, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or not (w >= 0).all() or w.sum() > 1 + 1e-9:
        raise InputError("horizon weights below 0 or of a sum above 1", remedy="share a weight of 1 between horizons")
    if e.ndim < 1 or e.shape[-1] != w.size or (e < 0).any():
        raise InputError(f"e-values of shape {e.shape} for {w.size} horizons, or below 0")
    return np.cumsum(w * np.nan_to_num(e, nan=0.0, posinf=np.inf), axis=-1)
