"""Thresholds that are fair to every method, and what each finds at them, by the definitions of `guard evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillproof.guard.evaluation import against_truth


def resolvable(rate: float, n: int) -> float:
    """The smallest rate not under `rate` that n honest accounts can calibrate: 1 / (n + 1) at the least."""
    return max(rate, 1 / (n + 1))


def threshold(scores: Sequence[float], rate: float) -> float:
    """The smallest score whose conformal p-value (1 + honest scores as large) / (n + 1) is at most `rate`.

    `rate` is raised to what n scores can resolve. A score at or above the threshold is flagged.
    """
    falling = np.sort(np.asarray(scores, dtype=float))[::-1]
    n = len(falling)
    # A rate that was raised to 1 / (n + 1) must allow the first, whatever rounding makes of it.
    allowed = int(np.floor(resolvable(rate, n) * (n + 1) + 1e-9)) - 1
    return float(np.nextafter(falling[allowed], np.inf)) if allowed < n else -np.inf


def assess(folder: Path, scores: Mapping[str, float], at_least: float) -> dict[str, Any]:
    """Shares of members, honest accounts and campaigns that are flagged. Labels are read here and nowhere else."""
    flagged = sorted(account for account, score in scores.items() if score >= at_least)
    return shares(against_truth(folder, [{"accounts": flagged}] if flagged else []))


def shares(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the table shows of `guard.evaluate`, or of `against_truth`."""
    classes = {
        name: row["named"] / row["accounts"] for name, row in told["per_honest_class"].items() if row["accounts"]
    }
    worst = max(sorted(classes), key=classes.__getitem__, default=None)
    return {
        "account_recall": told["account_recall"],
        "account_fpr": told["account_fpr"],
        "campaign_recall": told["campaign_recall"],
        "n_honest_accounts": told["n_honest_accounts"],
        "n_honest_flagged": told["n_honest_named"],
        "worst_class": worst,
        "worst_class_fpr": classes[worst] if worst else None,
        "per_family": told["per_family"],
        "per_honest_class": told["per_honest_class"],
    }
