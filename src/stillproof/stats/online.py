"""Online e-BH: false discovery control over hypotheses that come up one after another and whose evidence grows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError
from stillproof.stats.limits import check_share

Reals = NDArray[np.float64]
_SLACK = 1e-12


def shares(n: int, budget: int, reserve: float = 0.1) -> Reals:
    """gamma_t of the first `n` hypotheses, shape [n], by the order of their births alone.

    (1 - reserve) / budget for the first `budget`, then reserve * 6 / (pi^2 s^2) for the s-th beyond it: they sum to 1
    at most, for ever. Declare how many are expected in the period. Raises InputError unless budget >= 1 and
    0 < reserve < 1.
    """
    check_share(reserve, "reserve")
    if budget < 1 or n < 0:
        raise InputError(
            f"shares of {n} among a budget of {budget}", remedy="declare how many may appear in the period"
        )
    beyond = np.maximum(np.arange(1, n + 1) - budget, 1).astype(np.float64)
    late = np.arange(n) >= budget
    return np.where(late, reserve * 6 / (np.pi * beyond) ** 2, (1 - reserve) / budget)


def online_e_bh(e: ArrayLike, gamma: ArrayLike, alpha: float) -> tuple[NDArray[np.bool_], Reals]:
    """Which of the hypotheses born so far are rejected at level `alpha`, and the e-value each has to reach, shapes [t].

    Rejects those with e >= 1 / (alpha gamma k) for the largest k for which there are at least k of them. H0 of each:
    its own; its e-value never falls while it is observed and its last value has mean 1 at most; `gamma`, shape [t], of
    sum 1 at most, was declared before. A rejection is never taken back, and the largest share of true nulls among the
    rejected, over all times at which one looks, has mean alpha at most under any dependence: at every time that share
    is no more than alpha * sum gamma e over the nulls, and the last values bound it. With equal shares of a known
    number this is e-BH. Fischer, Xu and Ramdas, An online generalization of the (e-)Benjamini-Hochberg procedure,
    arXiv 2407.20683, sec. 2. Raises InputError for shapes that differ, e < 0, gamma <= 0 or of a sum above 1.
    """
    values, share = np.asarray(e, dtype=np.float64), np.asarray(gamma, dtype=np.float64)
    check_share(alpha, "alpha")
    if values.ndim != 1 or values.shape != share.shape or not (values >= 0).all():
        raise InputError("online e-BH takes a vector of e-values of 0 or more, and a share for each")
    if not (share > 0).all() or share.sum() > 1 + 1e-9:
        raise InputError("shares of 0 or below, or of a sum above 1", remedy="take them from stats.shares")
    alone = 1 / (alpha * share)
    with np.errstate(divide="ignore", over="ignore"):
        # How many must be rejected together before this one can be among them.
        company = np.where(values > 0, alone / values, np.inf) * (1 - _SLACK)
    enough = np.flatnonzero(np.sort(company) <= np.arange(1, values.size + 1))
    k = int(enough[-1]) + 1 if enough.size else 0
    return company <= k, alone / max(k, 1)
