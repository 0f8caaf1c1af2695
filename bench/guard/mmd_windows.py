"""Maximum mean discrepancy between windows of an account's prompts and a pool of honest ones.

After arXiv 2606.05725: the unbiased MMD between a window of 1,500 queries and a benign reference, above the 95th
percentile of benign windows. The statistic is Gretton et al. 2012 (JMLR 13), eq. 3, with a Gaussian kernel and the
median heuristic of their section 8. Null: the window's queries and the pool have one distribution. An account with
fewer queries is one window, and its null is of windows of its size. Embeddings are hashed words (embedding.py) where
the paper has those of a neural encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench.guard.account_rows import account_rows
from bench.guard.embedding import Points, embed
from numpy.typing import NDArray

WINDOW = 1_500
LEAST = 20
POOL = 1_000
SIZES = (20, 40, 80, 160, 400, 1_500)
NULLS = 200
"""Benign windows of each size."""
LEVEL = 0.95
SEED = 20_260_605
DEFAULT = 1.0
DEFAULT_SAYS = "MMD above the 95th percentile of benign windows"


@dataclass(frozen=True, slots=True)
class Calibration:
    pool: Points
    bandwidth: float
    pool_mean: float
    """Mean kernel between different points of the pool."""
    high: NDArray[np.float64]
    """95th percentile of benign windows, for each of SIZES."""


def fit(folders: Sequence[Path]) -> Calibration:
    """A pool of honest prompts, every account as likely as another, and benign windows from the same."""
    rng = np.random.Generator(np.random.Philox(SEED))
    drawn: list[str | None] = []
    share = (2 * POOL + 2 * WINDOW) // len(folders) + 1
    for folder in folders:
        rows = account_rows(folder, ["prompt"])
        prompts = rows.table["prompt"].to_pylist()
        who = rng.integers(0, len(rows.accounts), share)
        drawn += [prompts[rng.integers(rows.bounds[each], rows.bounds[each + 1])] for each in who]
    points = embed(drawn)[rng.permutation(len(drawn))]
    pool, others = points[:POOL], points[POOL:]
    bandwidth = median_distance(pool)
    own = unlike(kernel(pool, pool, bandwidth))
    gram, cross = kernel(others, others, bandwidth), kernel(others, pool, bandwidth).mean(1)
    high = [np.quantile(null_windows(rng, size, gram, cross) + own, LEVEL) for size in SIZES]
    return Calibration(pool, bandwidth, own, np.maximum(high, 1e-9))


def null_windows(
    rng: np.random.Generator, size: int, gram: NDArray[np.float64], cross: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[NULLS] MMD^2_u of random windows, but for the pool's own mean. The sum over a window is a product: v' K v."""
    inside = np.zeros((len(gram), NULLS))
    for window in inside.T:
        window[rng.choice(len(gram), size, replace=False)] = 1
    among = (inside * (gram @ inside)).sum(0) - np.diag(gram) @ inside
    return among / (size * (size - 1)) - 2 * (cross @ inside) / size


def flag(folder: Path, calibration: Calibration) -> dict[str, float]:
    """The largest MMD^2 of an account's windows over the 95th percentile of benign ones of that size."""
    rows = account_rows(folder, ["prompt"])
    points = embed(rows.table["prompt"].to_pylist())
    return {account: _largest(points[span], calibration) for account, span in rows.spans()}


def _largest(points: Points, calibration: Calibration) -> float:
    windows = [points[first : first + WINDOW] for first in range(0, len(points), WINDOW)]
    return max((_relative(each, calibration) for each in windows if len(each) >= LEAST), default=0.0)


def _relative(window: Points, calibration: Calibration) -> float:
    found = squared_mmd(window, calibration.pool, calibration.bandwidth, calibration.pool_mean)
    # Under the null the percentile falls as a power of the size.
    high = np.exp(np.interp(np.log(len(window)), np.log(SIZES), np.log(calibration.high)))
    return float(found / high)


def squared_mmd(left: Points, right: Points, bandwidth: float, right_mean: float | None = None) -> float:
    """MMD^2_u of Gretton et al. 2012, eq. 3; negative values occur. `right_mean`: of `right`'s own kernel, if known."""
    known = unlike(kernel(right, right, bandwidth)) if right_mean is None else right_mean
    return unlike(kernel(left, left, bandwidth)) + known - 2 * float(kernel(left, right, bandwidth).mean())


def kernel(left: Points, right: Points, bandwidth: float) -> NDArray[np.float64]:
    """[n, m] exp(-|x - y|^2 / (2 bandwidth^2))"""
    return np.exp(-squared_distances(left, right) / (2 * bandwidth**2))


def squared_distances(left: Points, right: Points) -> NDArray[np.float64]:
    squares = [(points.astype(np.float64) ** 2).sum(1) for points in (left, right)]
    return np.maximum(squares[0][:, None] + squares[1][None] - 2 * (left @ right.T), 0)


def unlike(gram: NDArray[np.float64]) -> float:
    """Mean over pairs of different points."""
    n = len(gram)
    return float((gram.sum() - np.trace(gram)) / (n * (n - 1)))


def median_distance(points: Points) -> float:
    upper = np.triu_indices(len(points), 1)
    return float(np.sqrt(np.median(squared_distances(points, points)[upper])))
