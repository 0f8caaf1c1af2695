"""From measured clusters to Findings: ranks among honest clusters, e-values, tiers, and the accounts that belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillproof import stats
from stillproof.finding import Finding, Run, Signal, log10_e
from stillproof.guard.decision import Decided, ScoredCluster, decide_batch, decide_watch
from stillproof.guard.reference import Ranked, Reference, assess
from stillproof.guard.scanning import HORIZONS_H, Measured, ScanSettings
from stillproof.guard.scoring import Scoring, hourly, standard
from stillproof.guard.signals import SIGNALS

DAILY = (0.05, 0.15, 0.25, 0.3, 0.25)
HOURLY = (0.25, 0.4, 0.2, 0.1, 0.05)
"""Share of the e-value that each horizon may give, declared in advance: where looks are hours apart, an alarm two
days later is worth little."""

NULL = "the cluster is honest: exchangeable with the reference's clusters of its class"
ASSUMPTIONS = (
    "honest clusters of this log are exchangeable with those of the reference, class by class",
    "membership was frozen before the exchanges that count as evidence",
    "accounts of one declared organisation are one unit",
)
POSSIBLE = {
    "interactive": ("interactive",),
    "automated": ("automated",),
    "ambiguous": ("interactive", "automated"),
}


def weights_of(step_h: float) -> tuple[float, ...]:
    """The weights of HORIZONS_H for looks `step_h` hours apart."""
    return HOURLY if hourly(step_h) else DAILY


Latest = dict[int, tuple[Ranked, int]]
"""Cluster -> its ranks at the longest horizon reached, and its row there."""
Sizes = NDArray[np.int64]
"""[K] the largest reference that each cluster was ranked among at any horizon; 0 where none was reached."""


def by_horizon(measured: Measured, reference: Reference, scoring: Scoring) -> tuple[NDArray[np.float64], Latest, Sizes]:
    """e-values of every frozen cluster at every horizon, shape [K, H], NaN where not reached. H0 of each: see NULL."""
    e = np.full((len(measured.frozen), len(HORIZONS_H)), np.nan)
    latest: Latest = {}
    sizes = np.zeros(len(measured.frozen), np.int64)
    for place, horizon in enumerate(HORIZONS_H):
        at = np.flatnonzero(measured.case_horizon_h == horizon)
        values = {name: column[at] for name, column in measured.signals.items()}
        ranked = assess(values, [POSSIBLE[measured.case_class[case]] for case in at], reference, horizon, scoring)
        e[measured.case_cluster[at], place] = ranked.e
        np.maximum.at(sizes, measured.case_cluster[at], ranked.n_reference)
        latest |= {int(cluster): (ranked, row) for row, cluster in enumerate(measured.case_cluster[at])}
    return e, latest, sizes


def score(measured: Measured, reference: Reference, scoring: Scoring) -> tuple[list[ScoredCluster], Latest]:
    """Every frozen cluster with the evidence of the horizons reached, and its ranks at the longest of them.

    A cluster without any horizon reached has no evidence yet and is left out.
    """
    e, latest, sizes = by_horizon(measured, reference, scoring)
    weights = weights_of(reference.origin.step_h)
    running = stats.horizon_e(e, weights)[:, -1]
    reached = np.where(np.isnan(e), 0.0, weights).sum(axis=1)
    scored: list[ScoredCluster] = []
    for cluster, (ranked, row) in sorted(latest.items()):
        scored.append(
            ScoredCluster(
                cluster_id=str(cluster),
                e=float(running[cluster]),
                p=float(ranked.p[row]),
                rank=int(ranked.rank[row]),
                n_reference=int(sizes[cluster]),
                cluster_class=ranked.cluster_class[row],
                n_units=int(measured.frozen[cluster].cluster.units.size),
                reached=float(reached[cluster]),
            )
        )
    return scored, latest


def judge(
    measured: Measured,
    reference: Reference,
    settings: ScanSettings,
    scoring: Scoring | None = None,
) -> list[tuple[Decided, tuple[Signal, ...]]]:
    """Every cluster with its tier and its waterfall, strongest first: at the levels of `settings`, over one scan or,
    with a budget, over the whole period watched. `scoring`: None for the standard one."""
    chosen = standard(settings.step_h) if scoring is None else scoring
    scored, latest = score(measured, reference, chosen)
    born, alpha, review_alpha = len(measured.frozen), settings.alpha, settings.review_alpha
    if settings.budget is None:
        decided = decide_batch(scored, alpha, review_alpha, born) if scored else []
    else:
        decided = decide_watch(scored, stats.shares(born, settings.budget), alpha, review_alpha)
    longest = {int(c): case for case, c in enumerate(measured.case_cluster)}
    rows = []
    for each in decided:
        cluster = int(each.cluster.cluster_id)
        rows.append((each, waterfall(measured, longest[cluster], latest[cluster], chosen)))
    return sorted(rows, key=lambda row: (-row[0].cluster.e, row[0].cluster.rank, -row[0].cluster.n_units))


def waterfall(measured: Measured, case: int, at: tuple[Ranked, int], scoring: Scoring) -> tuple[Signal, ...]:
    """Weighted bits of each signal at the longest horizon: they add up to the score that is ranked."""
    ranked, row = at
    scores = ranked.scores[ranked.cluster_class[row]]
    chosen = scoring.weights_at(measured.case_horizon_h[case])
    bars = []
    for name, entry in SIGNALS.items():
        value = float(measured.signals[name][case])
        known = value if np.isfinite(value) else None
        counted = chosen.get(name, 0.0) * float(scores.bits[name][row])
        note = f"also shown by: {entry.honest_causes}"
        bars.append(Signal(name, entry.group, known, entry.unit, counted, "added", note))
    return tuple(sorted(bars, key=lambda bar: -bar.bits))


def finding(decided: Decided, signals: tuple[Signal, ...], accounts: Sequence[str], alpha: float, run: Run) -> Finding:
    """The finding of one cluster at level `alpha`; `accounts` are those named."""
    cluster = decided.cluster
    return Finding(
        claim=f"these {len(accounts)} accounts act as one" if accounts else "a group of accounts acts as one",
        verb="guard",
        test="rank among honest clusters at declared horizons after the freeze, e-BH over clusters",
        kind="reference_based",
        null=NULL,
        statistic=round(sum(signal.bits for signal in signals), 6),
        n=cluster.n_units,
        n_unit="accounts or declared organisations",
        decision=decided.decision,
        alpha=alpha,
        log10_e=log10_e(cluster.e),
        n_reference=cluster.n_reference,
        assumptions=ASSUMPTIONS,
        run=run,
        accounts=tuple(accounts),
        rank=cluster.rank,
        e_threshold=decided.e_threshold,
        signals=signals,
    )


def columns(measured: Measured, window_id: str) -> Mapping[str, NDArray[Any]]:
    """Every case as a row of a reference; a case whose class is open is counted in both classes."""
    rows = [(case, name) for case, label in enumerate(measured.case_class) for name in POSSIBLE[label]]
    case = np.array([row[0] for row in rows], np.int64)
    cluster = measured.case_cluster[case]
    size = np.array([entry.cluster.units.size for entry in measured.frozen], np.int64)
    return {
        "cluster_id": np.array([f"{window_id}/{place}" for place in cluster], np.str_),
        "window_id": np.full(case.size, window_id),
        "horizon_h": measured.case_horizon_h[case].astype(np.int64),
        "cluster_class": np.array([row[1] for row in rows], np.str_),
        "n_units": size[cluster] if case.size else np.zeros(0, np.int64),
    } | {name: column[case] for name, column in measured.signals.items()}
