"""What a signal may look at: the exchanges of frozen clusters, counted by cluster, member and hour, as numpy arrays.

A *case* is one cluster seen up to one horizon after its freeze. All arrays are sorted by case. The same view serves a
scan of a log and a live window, so a signal is one function for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Index = NDArray[np.int64]

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


@dataclass(frozen=True, slots=True)
class View:
    """C cases, M members of them, R rows of activity (one a case, member and hour)."""

    n_cases: int
    horizon_h: Reals
    """[C] hours after the freeze that the case covers."""
    member_case: Index
    """[M] case of each frozen member, silent ones included."""
    member_first_us: Reals
    """[M] when the member first used what links the cluster; NaN where unknown."""
    member_signup_us: Reals
    """[M] NaN where the operator keeps no sign-up times."""
    row_member: Index
    """[R] index into the members."""
    row_hour: Index
    """[R] hours since 1970, UTC."""
    counts: Mapping[str, Reals]
    """[R] counts of the row: n, n_opening, n_sampled, ..."""
    variety: Mapping[str, Reals]
    """[C] distinct counts of the case; NaN where it has no exchange."""

    @property
    def row_case(self) -> Index:
        return self.member_case[self.row_member]

    def by_case(self, name: str) -> Reals:
        """[C] the sum of a count."""
        return summed(self.row_case, self.counts[name], self.n_cases)

    def by_member(self, name: str) -> Reals:
        """[M] the sum of a count, 0 for the silent."""
        return summed(self.row_member, self.counts[name], self.member_case.size)

    def share(self, name: str) -> Reals:
        """[C] sum of a count over the number of exchanges; NaN for an empty case."""
        return ratio(self.by_case(name), self.by_case("n"))

    def mean_of_members(self, values: Reals, weights: Reals) -> Reals:
        """[C] weighted mean over members; NaN where all weights are zero."""
        known = np.isfinite(values) & (weights > 0)
        case, w = self.member_case[known], weights[known]
        return ratio(summed(case, values[known] * w, self.n_cases), summed(case, w, self.n_cases))


def summed(index: Index, values: Reals, size: int) -> Reals:
    """[size] the sum of the values of each index."""
    return np.bincount(index, values, size).astype(np.float64)


def ratio(above: Reals, below: Reals) -> Reals:
    """Elementwise quotient, NaN where the divisor is not positive."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) > 0)
