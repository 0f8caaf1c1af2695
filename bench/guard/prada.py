"""PRADA on prompts: are the distances between one client's queries normally distributed?

Juuti, Szyller, Marchal and Asokan, "PRADA: Protecting Against DNN Model Stealing Attacks", EuroS&P 2019
(arXiv 1805.02628), section 5 and algorithm 1. Null: a benign client's minimum distances are normal. The paper keeps a
growing set for each predicted class; a language model predicts no class, so there is one set for a client, and the
distance is Euclidean between hashed embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench.guard.account_rows import account_rows
from bench.guard.embedding import Points, embed
from numpy.typing import NDArray

LEAST = 100
"""Distances before a client is tested (the paper's |D| > 100)."""
MOST = 2_000
"""Queries of a client that are tested; Shapiro-Wilk's p-values and this loop both end at some thousands."""
DELTA = 0.95
"""W below it is an attack."""
DEFAULT = float(np.nextafter(1 - DELTA, 1))
DEFAULT_SAYS = "W below 0.95"


def fit(folders: Sequence[Path]) -> None:
    """Nothing: the null is the normal distribution."""


def flag(folder: Path, calibration: None) -> dict[str, float]:
    """1 - W for each account; 0 where an account has too few queries, or distances that are all equal."""
    rows = account_rows(folder, ["prompt"])
    points = embed(rows.table["prompt"].to_pylist())
    return {account: 1 - statistic(minimum_distances(points[span][:MOST])) for account, span in rows.spans()}


def minimum_distances(points: Points) -> NDArray[np.float64]:
    """[n - 1] from each query but the first to the nearest of the growing set before it: algorithm 1, lines 6 to 15.

    A query enters the set where it lies farther off than T = max(T, mean - standard deviation) of the distances at
    which queries entered.
    """
    squares = (points.astype(np.float64) ** 2).sum(1)
    found = np.zeros(max(len(points) - 1, 0))
    grown, least = np.empty_like(points), 0.0
    entered: list[float] = []
    inside = np.empty(len(points))
    size = 0
    for place, point in enumerate(points):
        if size:
            apart = inside[:size] + squares[place] - 2 * (grown[:size] @ point)
            distance = float(np.sqrt(max(apart.min(), 0.0)))
            # Equal prompts, but for the rounding of single precision.
            found[place - 1] = distance = 0.0 if distance < 1e-3 else distance
            if distance <= least:
                continue
            entered.append(distance)
            least = max(least, float(np.mean(entered) - np.std(entered)))
        grown[size], inside[size] = point, squares[place]
        size += 1
    return found


def statistic(distances: NDArray[np.float64]) -> float:
    """Shapiro-Wilk's W of the distances within three standard deviations of their mean (algorithm 1, lines 17 to 19).

    1 where there are no more than LEAST, or all are equal: W is not defined then, and the client is not flagged.
    """
    from scipy.stats import shapiro

    if len(distances) <= LEAST:
        return 1.0
    near = distances[np.abs(distances - distances.mean()) <= 3 * distances.std()]
    if len(near) < 3 or np.ptp(near) == 0:
        return 1.0
    return float(shapiro(near).statistic)
