"""Robust z-scores of each account's volume and shape, as extraction detectors for API keys have them.

Modified z-score of Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers", eq. 3.10:
0.6745 (x - median) / MAD, with 3.5 as their cut. The open detectors that use it flag a key with two features or more
above the cut; so the score is the second largest z. Medians and MADs are those of honest accounts. Every feature is
turned so that more is more suspicious. There is no null hypothesis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench.guard.account_rows import account_rows
from numpy.typing import NDArray

Reals = NDArray[np.float64]

DEFAULT = 3.5
DEFAULT_SAYS = "z of 3.5 or more in two features"
FEATURES = (
    "exchanges a day",
    "exchanges in the busiest hour",
    "hours of the day in use, as entropy",
    "regularity of gaps",
    "opening requests",
    "length of prompts",
    "sameness of length",
    "prompts that are not repeated",
    "length of answers",
    "commonest first words",
)
_HOUR_US = 3_600_000_000
_FIRST_WORDS = 4


@dataclass(frozen=True, slots=True)
class Calibration:
    median: Reals
    """[10]"""
    scale: Reals
    """[10] MAD / 0.6745, or what stands in for it; infinite where honest accounts are all alike."""


def fit(folders: Sequence[Path]) -> Calibration:
    """Medians and MADs over all accounts of honest worlds."""
    table = np.concatenate([features(folder)[1] for folder in folders])
    return Calibration(*centre(table))


def flag(folder: Path, calibration: Calibration) -> dict[str, float]:
    """The second largest robust z of each account."""
    accounts, table = features(folder)
    z = np.sort((table - calibration.median) / calibration.scale, axis=1)
    return dict(zip(accounts, z[:, -2].tolist(), strict=True))


def centre(table: Reals) -> tuple[Reals, Reals]:
    """Median and scale of each column. Where the MAD is 0, 1.2533 times the mean absolute deviation (the same book)."""
    median = np.median(table, axis=0)
    apart = np.abs(table - median)
    scale = np.median(apart, axis=0) / 0.6745
    scale = np.where(scale > 0, scale, 1.253314 * apart.mean(axis=0))
    return median, np.where(scale > 0, scale, np.inf)


def features(folder: Path) -> tuple[list[str], Reals]:
    """Accounts and [A, 10] features, in the order of FEATURES."""
    rows = account_rows(folder, ["prompt", "turn", "response_tokens"])
    time_us = rows.table["time"].cast("int64").to_numpy()
    prompts = [prompt or "" for prompt in rows.table["prompt"].to_pylist()]
    n_words = np.array([prompt.count(" ") + 1 for prompt in prompts], dtype=float)
    first_words = [tuple(prompt[:200].split()[:_FIRST_WORDS]) for prompt in prompts]
    turn = rows.table["turn"].fill_null(1).to_numpy()
    answer = rows.table["response_tokens"].fill_null(0).to_numpy()
    table = [
        [
            *_of_times(time_us[span]),
            float(np.mean(turn[span] == 1)),
            float(np.log1p(n_words[span].mean())),
            float(-np.log1p(n_words[span].std())),
            len(set(prompts[span])) / (span.stop - span.start),
            float(np.log1p(answer[span].mean())),
            Counter(first_words[span]).most_common(1)[0][1] / (span.stop - span.start),
        ]
        for _, span in rows.spans()
    ]
    return rows.accounts, np.array(table, dtype=float).reshape(-1, len(FEATURES))


def _of_times(time_us: NDArray[np.int64]) -> list[float]:
    hour = time_us // _HOUR_US
    days = max((time_us[-1] - time_us[0]) / (24 * _HOUR_US), 1.0)
    share = np.bincount(hour % 24, minlength=24) / len(hour)
    entropy = float(-(share[share > 0] * np.log(share[share > 0])).sum())
    gaps = np.diff(time_us)
    # Gaps of independent requests vary as much as their mean: that stands for accounts too small to tell.
    variation = float(gaps.std() / max(gaps.mean(), 1.0)) if len(gaps) > 1 else 1.0
    busiest = int(np.unique(hour, return_counts=True)[1].max())
    return [float(np.log1p(len(hour) / days)), float(np.log1p(busiest)), entropy, -float(np.log1p(variation))]
