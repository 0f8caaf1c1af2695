"""Matching the hidden units of two layers, and the exact laws of the matching where the models are independent.

Nothing in a network tells its hidden units apart: their labels come from the random initialisation alone, and training
keeps whatever labels it was given. So for a model whose initialisation was independent of the other model, the best
matching of its units to the other's is a uniformly random permutation, whatever both were trained on (Zhu et al. 2025,
"Independence tests for language models", section 3). Two statistics of it are used:

- fixed points, units matched to the unit of the same number. Their law is known exactly and reaches as deep as
  1 / units!: the k-th factorial moment of the fixed points of a random injection of m into n is (m)_k / (n)_k, so its
  generating function at z >= 1 is at most exp((z - 1) m / n).
- Spearman's correlation between a unit's number and its partner's, layer by layer, and Fisher's method over layers.
  It also sees units that were removed, which shift the numbers.

Ties are broken blindly: the units of one side are put in a random order before the assignment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillproof.trace.weights.reading import Reals

Matching = NDArray[np.intp]
"""Of each unit of the smaller side the unit of the other side, each at most once."""

SPEARMAN_LOG10_FLOOR = -6.0
"""Per layer. The t-law of Spearman's coefficient is checked down to here by 10^6 draws; nothing deeper is claimed."""


@dataclass(frozen=True, slots=True)
class Matched:
    """One pair of layers, matched."""

    layer_a: int
    layer_b: int
    units_a: int
    units_b: int
    fixed_points: int
    spearman: float
    cosine: float
    """Mean over matched pairs of the mean cosine of their tensors, -1 to 1."""

    @property
    def rate(self) -> float:
        """Fixed points expected by chance."""
        return min(self.units_a, self.units_b) / max(self.units_a, self.units_b)

    @property
    def log10_p(self) -> float:
        """P(as many fixed points), of independent models."""
        return fixed_points_log10_p(self.fixed_points, self.rate)


def cosines(a: Reals, b: Reals) -> Reals:
    """[units of a, units of b]; 0 for a row of zeros. Both [units, features]."""
    return _unit_rows(a) @ _unit_rows(b).T


def _unit_rows(x: Reals) -> Reals:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)


def assign(similarity: Reals, seed: int) -> Matching:
    """The assignment of rows to columns of greatest total similarity, shape [rows], rows <= columns.

    `seed` draws the order in which columns are offered, so that ties fall without regard to their numbers.
    """
    from scipy.optimize import linear_sum_assignment

    order = np.random.Generator(np.random.Philox(seed)).permutation(similarity.shape[1])
    rows, columns = linear_sum_assignment(similarity[:, order], maximize=True)
    matching = np.empty(similarity.shape[0], dtype=np.intp)
    matching[rows] = order[columns]
    return matching


def assign_smaller(similarity: Reals, seed: int) -> tuple[Matching, bool]:
    """(matching of the smaller side into the larger, whether the smaller side is the columns)."""
    if similarity.shape[0] <= similarity.shape[1]:
        return assign(similarity, seed), False
    return assign(np.ascontiguousarray(similarity.T), seed), True


def fixed_points(matching: Matching) -> int:
    return int((matching == np.arange(matching.size)).sum())


def fixed_points_log10_p(count: int, rate: float) -> float:
    """log10 of a bound on P(at least `count` fixed points), at most 0.

    H0: independent uniform matchings whose expected fixed points add up to `rate`. Chernoff's bound with the
    generating function of the module: min over z of exp(rate (z - 1)) / z^count, at z = count / rate. It is the tail
    of a Poisson law up to a factor of about sqrt(2 pi count), and never below it.
    """
    if count <= rate:
        return 0.0
    return (count - rate - count * math.log(count / rate)) / math.log(10)


def spearman(matching: Matching) -> float:
    """Rank correlation of a unit's number with its partner's, -1 to 1; 0 for fewer than three units."""
    n = matching.size
    if n < 3:
        return 0.0
    ranks = np.argsort(np.argsort(matching, kind="stable"), kind="stable").astype(np.float64)
    return float(1 - 6 * ((ranks - np.arange(n)) ** 2).sum() / (n * (n * n - 1)))


def spearman_log10_p(rho: float, n: int) -> float:
    """log10 P(coefficient >= rho) of a random permutation of `n`, by Student's t with n - 2 degrees of freedom.

    Greater-sided. No smaller than SPEARMAN_LOG10_FLOOR, and 0 for fewer than 16 units, where the law is too coarse.
    """
    from scipy.stats import t

    if n < 16:
        return 0.0
    if rho >= 1:
        return SPEARMAN_LOG10_FLOOR
    log_p = t.logsf(rho * math.sqrt((n - 2) / ((1 - rho) * (1 + rho))), n - 2) if rho > -1 else 0.0
    return max(SPEARMAN_LOG10_FLOOR, float(log_p) / math.log(10))


def fisher_log10_p(log10_ps: Sequence[float]) -> float:
    """log10 of Fisher's combination of independent p-values. H0: each is at least uniform; 0 for none of them.

    The tail of chi-squared with 2k degrees of freedom at 2x, where x is the sum of -ln p, is
    exp(-x) (1 + x + ... + x^(k-1) / (k-1)!), which is added up in logs.
    """
    if not log10_ps:
        return 0.0
    x = -sum(log10_ps) * math.log(10)
    if x <= 0:
        return 0.0
    terms = [j * math.log(x) - math.lgamma(j + 1) for j in range(len(log10_ps))]
    top = max(terms)
    return min(0.0, (top + math.log(sum(math.exp(term - top) for term in terms)) - x) / math.log(10))
