"""A log that grows, looked at every hour: when each cluster first alarmed, at one level for the whole period watched.

Everything here depends on what was logged before, and on nothing later: watched again when the log has grown, the same
clusters have alarmed at the same times, and new ones may have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof import stats
from stillproof.guard.scanning import HORIZONS_H
from stillproof.guard.signals.view import HOUR_US

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a cluster had, and had to have, when it alarmed."""

    time_us: int
    e: float
    e_threshold: float


def first_alarms(
    frozen_us: ArrayLike, e_by_horizon: ArrayLike, weights: ArrayLike, shares: ArrayLike, alpha: float
) -> dict[int, Alarm]:
    """Cluster -> its first alarm under online e-BH, read whenever the evidence of a horizon comes in.

    `frozen_us`, shape [K], ascending: births, in microseconds since 1970. `e_by_horizon`, shape [K, H]: e-values that
    come in HORIZONS_H hours later, NaN where not reached. `weights`, shape [H]: as `stats.horizon_e`. `shares`, shape
    [K]: as `stats.online_e_bh`. H0 of each: the cluster is honest. Raises InputError as `stats.online_e_bh`.
    """
    gamma = np.asarray(shares, dtype=np.float64)
    first: dict[int, Alarm] = {}
    for now, running in moments(frozen_us, e_by_horizon, weights):
        named, threshold = stats.online_e_bh(running, gamma[: running.size], alpha)
        for each in np.flatnonzero(named).tolist():
            first.setdefault(each, Alarm(now, float(running[each]), float(threshold[each])))
    return first


def moments(frozen_us: ArrayLike, e_by_horizon: ArrayLike, weights: ArrayLike) -> Iterator[tuple[int, Reals]]:
    """(time, running e-values of all clusters born by then), whenever evidence comes in. Arguments: `first_alarms`."""
    frozen = np.asarray(frozen_us, dtype=np.int64)
    e, parts = np.asarray(e_by_horizon, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    cluster, place = np.nonzero(e > 0)
    time_us = frozen[cluster] + np.array([hours * HOUR_US for hours in HORIZONS_H], np.int64)[place]
    running = np.zeros(frozen.size)
    for now in np.unique(time_us).tolist():
        arrived = time_us == now
        running[cluster[arrived]] += parts[place[arrived]] * e[cluster[arrived], place[arrived]]
        yield now, running[: int(np.searchsorted(frozen, now, "right"))].copy()
