"""From e-values to what an operator does: tiers, the accounts named, whether anything could be named, and drift.

What is guaranteed: among the clusters named at `alpha`, the expected share of honest ones is alpha at most, whatever
the dependence between clusters, given that honest clusters are exchangeable with the reference. What is not: how many
accounts of a rightly named cluster are innocent (`naming.py` has a rule, with a measured error), and anything about the
review tier beyond its own, larger alpha.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof import stats
from stillproof.errors import InputError
from stillproof.finding import Decision

Tier = Literal["would_block", "review", "observe"]
Reals = NDArray[np.float64]

REOPEN_WEALTH = 100.0


@dataclass(frozen=True, slots=True)
class ScoredCluster:
    """A cluster with the evidence of the horizons it has reached."""

    cluster_id: str
    e: float
    """Running sum over horizons (`stats.horizon_e`)."""
    p: float
    """At the latest horizon; told, not used."""
    rank: int
    """At the latest horizon."""
    n_reference: int
    """Groups of the largest reference that it was ranked among at any horizon: what bounds `e`."""
    cluster_class: str
    n_units: int
    reached: float = 1.0
    """Sum of the weights of the horizons reached: its e-value cannot exceed this share of the best one."""


@dataclass(frozen=True, slots=True)
class Decided:
    """One cluster's outcome. `decision` and `e_threshold` are those of `alpha`; a finding can be made of them."""

    cluster: ScoredCluster
    tier: Tier
    decision: Decision
    """found: would_block. inconclusive: even the best rank among this reference would not have been enough."""
    e_threshold: float
    review_threshold: float


def decide_batch(
    clusters: Sequence[ScoredCluster], alpha: float = 0.05, review_alpha: float = 0.2, n_hypotheses: int | None = None
) -> list[Decided]:
    """e-BH over all clusters of one scan, twice: 'would_block' at `alpha`, 'review' at `review_alpha`; in order given.

    H0 of each: the cluster is honest. False discovery rate <= alpha in the first tier, and <= review_alpha in both
    tiers together, under any dependence (Wang and Ramdas, 2022). `n_hypotheses`: clusters formed, where more were
    formed than could be scored. Blocking is what a human decides: the tier says only that the evidence is enough.
    Raises InputError where review_alpha is below alpha, or as `stats.e_bh`.
    """
    if review_alpha < alpha:
        raise InputError(f"review_alpha {review_alpha} below alpha {alpha}", remedy="review must be the laxer tier")
    e = np.array([cluster.e for cluster in clusters], dtype=np.float64)
    named, threshold = stats.e_bh(e, alpha, n_hypotheses)
    reviewed, review_threshold = stats.e_bh(e, review_alpha, n_hypotheses)
    total = len(clusters) if n_hypotheses is None else n_hypotheses
    one_more = max(total, 1) / (alpha * (int(named.sum()) + 1))
    return [
        _decided(cluster, (bool(block), threshold), (bool(review), review_threshold), one_more)
        for cluster, block, review in zip(clusters, named, reviewed, strict=True)
    ]


def decide_watch(
    clusters: Sequence[ScoredCluster], shares: Reals, alpha: float = 0.05, review_alpha: float = 0.2
) -> list[Decided]:
    """Online e-BH over all clusters that came up in a period, twice, as `decide_batch`; in order given.

    `shares`: of alpha, of each cluster born so far, shape [born]; a cluster's id is its place there. However often and
    whenever one looks, the levels hold for the whole period (`stats.online_e_bh`). H0 of each: the cluster is honest.
    Raises InputError where review_alpha is below alpha, or as `stats.online_e_bh`.
    """
    if review_alpha < alpha:
        raise InputError(f"review_alpha {review_alpha} below alpha {alpha}", remedy="review must be the laxer tier")
    born = np.array([int(cluster.cluster_id) for cluster in clusters], dtype=np.int64)
    e = np.zeros(shares.size)
    e[born] = [cluster.e for cluster in clusters]
    named, threshold = stats.online_e_bh(e, shares, alpha)
    reviewed, review_threshold = stats.online_e_bh(e, shares, review_alpha)
    one_more = 1 / (alpha * shares * (int(named.sum()) + 1))
    return [
        _decided(cluster, (bool(named[at]), threshold[at]), (bool(reviewed[at]), review_threshold[at]), one_more[at])
        for cluster, at in zip(clusters, born.tolist(), strict=True)
    ]


def _decided(cluster: ScoredCluster, block: tuple[bool, float], review: tuple[bool, float], one_more: float) -> Decided:
    """`block`, `review`: whether it was rejected at that level, and from which e on. `one_more`: e with which one more
    cluster would be named."""
    tier: Tier = "would_block" if block[0] else "review" if review[0] else "observe"
    decision: Decision = "found" if block[0] else "not_found"
    if not block[0] and stats.ladder_best(cluster.n_reference) * cluster.reached < one_more:
        decision = "inconclusive"
    return Decided(cluster, tier, decision, float(block[1]), float(review[1]))


@dataclass(frozen=True, slots=True)
class Resolution:
    """Whether one campaign, alone among honest clusters, could be named at all."""

    nameable: bool
    e_best: float
    """Of rank 1 at the horizons counted."""
    e_needed: float
    """n_clusters / alpha."""
    n_reference: int
    n_needed: int
    """Reference groups per class with which rank 1 would be enough."""

    def __str__(self) -> str:
        if self.nameable:
            return f"a lone campaign can be named: e up to {self.e_best:,.0f}, needed {self.e_needed:,.0f}"
        return (
            f"a lone campaign cannot be named: {self.n_reference:,} reference clusters give e up to "
            f"{self.e_best:,.0f}, needed {self.e_needed:,.0f}; {self.n_needed:,} clusters would do. "
            "What is not found is inconclusive"
        )


def resolution(
    n_reference: int, n_clusters: float, horizon_weights: Sequence[float], alpha: float = 0.05
) -> Resolution:
    """For a class with `n_reference` groups, a scan with `n_clusters` (1 / share where each has a share of alpha),
    and the weights of the horizons reached.

    Raises InputError for weights that sum to 0 or above 1, or an alpha outside (0, 1)."""
    reached = float(sum(horizon_weights))
    if not (0 < reached <= 1 + 1e-9) or not 0 < alpha < 1 or n_clusters < 0 or n_reference < 0:
        raise InputError("a resolution needs weights of a sum in (0, 1], alpha in (0, 1), and counts")
    needed = max(n_clusters, 1) / alpha
    best = stats.ladder_best(n_reference) * reached
    # Beyond the last rung the best e-value grows in proportion to n + 1.
    per_group = sum(weight / rung for rung, weight in stats.LADDER)
    n_needed = max(0, math.ceil(needed / (reached * per_group) - 1 - 1e-9))
    return Resolution(best >= needed * (1 - 1e-12), best, needed, n_reference, n_needed)


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """What `scans` scans at `alpha` add up to where nothing is there to find."""

    scans: int
    alarmed_scans: float
    """Upper bound of the expected number of scans that name anything."""
    any_alarm: float
    """Upper bound of the chance that one of them does."""


def false_alarms(scans: int, alpha: float = 0.05) -> FalseAlarms:
    """Batch scans do not pay for one another: false alarms add up, alpha a scan in expectation (union bound, any
    dependence). `decide_watch` over the same period keeps `alpha` for all of it. Raises InputError for a count below 0.
    """
    if scans < 0 or not 0 < alpha < 1:
        raise InputError(f"{scans} scans at alpha {alpha}", remedy="give a count and an alpha between 0 and 1")
    return FalseAlarms(scans, alpha * scans, min(1.0, alpha * scans))


class DriftMonitor:
    """Says when the reference no longer looks like the honest clusters that come in.

    H0: the reference scores and all incoming ones are exchangeable. Each incoming score is ranked among the reference
    and all that came before it, ties broken at random: these p-values are then independent and uniform (Vovk,
    Gammerman and Shafer, 2005, th. 8.2), which ranks among the fixed reference alone would not be.
    `stats.JumpingBets` bets against that; calibration is reopened when wealth reaches REOPEN_WEALTH, which under H0
    ever happens with probability 1 / REOPEN_WEALTH at most. Feed it clusters that were not named, one class and
    horizon to a monitor, scored as the reference is.
    """

    def __init__(self, reference_scores: ArrayLike, seed: int, jump: float = 0.01) -> None:
        """Raises InputError for NaN among the scores, shape [n]."""
        scores = np.asarray(reference_scores, dtype=np.float64)
        if scores.ndim != 1 or np.isnan(scores).any():
            raise InputError("drift is watched on one vector of scores without NaN")
        self._scores: list[float] = np.sort(scores).tolist()
        self._seed, self._n_seen, self._peak = seed, 0, 0.0
        self._bets = stats.JumpingBets(jump)

    @property
    def n_seen(self) -> int:
        return self._n_seen

    @property
    def log10_wealth(self) -> float:
        return self._bets.log10_wealth

    @property
    def reopened(self) -> bool:
        """True once wealth has reached REOPEN_WEALTH; it stays so until a new monitor is made on a new reference."""
        return self._peak >= math.log10(REOPEN_WEALTH)

    def observe(self, score: float) -> float:
        """p-value of one more honest cluster's score. Raises InputError for NaN."""
        if math.isnan(score):
            raise InputError("drift is watched on scores, and one is NaN")
        low, high = bisect.bisect_left(self._scores, score), bisect.bisect_right(self._scores, score)
        above, ties = len(self._scores) - high, high - low + 1
        # A draw of its own for each index: the same whether the monitor ran through or was saved between scans.
        toss = np.random.Generator(np.random.Philox(key=self._seed, counter=self._n_seen)).random()
        p = (above + (1 - toss) * ties) / (len(self._scores) + 1)
        bisect.insort(self._scores, score)
        self._n_seen += 1
        self._peak = max(self._peak, self._bets.bet(p))
        return p

    def to_json(self) -> dict[str, Any]:
        """The whole state, for the next scan."""
        state = {"scores": self._scores, "seed": self._seed, "n_seen": self._n_seen, "peak": self._peak}
        return {**state, "bets": self._bets.to_json()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> DriftMonitor:
        """The inverse of `to_json`. Raises InputError for anything else."""
        try:
            monitor = cls(row["scores"], int(row["seed"]))
            monitor._n_seen, monitor._peak = int(row["n_seen"]), float(row["peak"])
            monitor._bets = stats.JumpingBets.from_json(row["bets"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a drift monitor's state: {error}", remedy="write it with to_json") from error
        return monitor
