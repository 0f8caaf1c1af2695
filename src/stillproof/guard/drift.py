"""Does the reference look like the honest clusters of this log? A bet against it, renewed with every scan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from stillproof.guard.decision import REOPEN_WEALTH, DriftMonitor
from stillproof.guard.judging import POSSIBLE
from stillproof.guard.reference import CLASSES, Reference, score_new, score_reference
from stillproof.guard.scanning import Measured
from stillproof.guard.scoring import Scoring

HORIZON_H = 12
"""Long enough to tell clusters apart, short enough that most of a log's clusters reach it."""
SEED = 0
"""Of the coins that break ties; part of the procedure, so that a scan says the same twice."""


def drifts(
    measured: Measured, reference: Reference, scoring: Scoring, told: Collection[int]
) -> dict[str, dict[str, Any]]:
    """For each class: clusters watched, the wealth of the bet, and whether calibration should be done anew.

    Clusters that were named or put up for review are not among those watched. H0: the others and the reference are
    exchangeable. Wealth of REOPEN_WEALTH is ever reached under it with probability 1 / REOPEN_WEALTH at most (Ville).
    """
    found: dict[str, dict[str, Any]] = {}
    for name in CLASSES:
        rows = reference.rows(name, HORIZON_H)
        at = np.array(
            [
                case
                for case in np.flatnonzero(measured.case_horizon_h == HORIZON_H).tolist()
                if POSSIBLE[measured.case_class[case]] == (name,) and int(measured.case_cluster[case]) not in told
            ],
            np.int64,
        )
        values = {signal: column[at] for signal, column in measured.signals.items()}
        monitor = DriftMonitor(score_reference(rows, name, HORIZON_H, scoring).total, SEED)
        for score in score_new(values, rows, name, HORIZON_H, scoring).total.tolist():
            monitor.observe(score)
        found[name] = {
            "n_clusters": monitor.n_seen,
            "log10_wealth": round(monitor.log10_wealth, 3),
            "reopen": monitor.reopened,
        }
    return found


def warning(found: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What to tell the operator; None where nothing speaks against the reference."""
    classes = [name for name, each in found.items() if each["reopen"]]
    if not classes:
        return None
    return (
        f"{' and '.join(classes)} clusters of this log do not look like those of the reference (wealth of a bet that "
        f"they do: over {REOPEN_WEALTH:.0f} to 1 against it): the guarantee is in doubt; calibrate on your own past"
    )
