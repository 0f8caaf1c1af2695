"""Was a suspect trained on our data in our order? For owners who logged a shuffled order before training.

A model remembers late examples better than early ones (Kuditipudi et al. 2025, "Blackbox model provenance via
palimpsestic membership inference"). The order was a coin that its owner tossed and recorded, so for a suspect that had
no part in that training every order was equally likely, whatever the suspect.

Every student that `distill` ships has its order in `data_order.parquet`: `read_order` gives each row's place. Scoring
the rows under the suspect and a reference model is the owner's work.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from stillproof.errors import InputError
from stillproof.finding import Finding, decide

NULL = "the suspect is independent of the order in which the examples were shown, a uniformly random permutation"
_LEAST = 100
_REMEDY = "give the data_order.parquet of a student that `stillproof distill` made"


def read_order(path: Path) -> dict[str, int]:
    """Of each row, by the SHA-256 of its tokens, the place at which it was last shown, from 0 on.

    Each epoch is a fresh permutation, so that last places are as exchangeable over rows as places of one epoch. Raises
    InputError for a file that is no logged order.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=["row_sha256"]).column("row_sha256").to_pylist()
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise InputError(f"not a logged data order: {error}", str(path), _REMEDY) from error
    if not rows or not all(isinstance(row, str) for row in rows):
        raise InputError("a data order without rows, or with rows that have no hash", str(path), _REMEDY)
    return {row: place for place, row in enumerate(rows)}


def order_finding(suspect_logprobs: ArrayLike, steps: ArrayLike, alpha: float = 1e-3) -> Finding:
    """Whether the suspect likes examples the better the later they were shown. H0: NULL.

    suspect_logprobs: [n], nats, of each example under the suspect, best less its logprob under a reference model;
    steps: [n], the place of each in the shuffled order, all distinct. One-sided, Spearman by the normal law of its
    coefficient: its variance 1 / (n - 1) is exact, its excess kurtosis is negative, so far tails are overstated. Raises
    InputError for lengths that differ or values that are not finite; fewer than 100 examples are inconclusive.
    """
    values, places = np.asarray(suspect_logprobs, dtype=np.float64), np.asarray(steps, dtype=np.float64)
    if values.ndim != 1 or values.shape != places.shape or not np.isfinite(values).all():
        raise InputError("an order test takes one finite log-probability and one step for each example")
    if np.unique(places).size != places.size:
        raise InputError("two examples stand at one step", remedy="give each its place in the shuffled order")
    n = values.size
    claim = "the suspect was trained on these examples in this order"
    if n < _LEAST:
        return _finding(claim, n, None, None, alpha)
    from scipy.stats import norm, rankdata

    # Ties get their mean rank, which only lowers the variance.
    x, y = rankdata(values), rankdata(places)
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(x @ x) * float(y @ y))
    rho = float(x @ y) / spread if spread > 0 else 0.0
    return _finding(claim, n, rho, min(0.0, float(norm.logsf(rho * math.sqrt(n - 1))) / math.log(10)), alpha)


def _finding(claim: str, n: int, rho: float | None, log10_p: float | None, alpha: float) -> Finding:
    return Finding(
        claim=claim,
        verb="trace",
        test="data_order",
        kind="design_based",
        null=NULL,
        statistic=rho,
        n=n,
        n_unit="examples",
        decision="inconclusive" if log10_p is None else decide(log10_p, alpha),
        alpha=alpha,
        log10_p=log10_p,
        assumptions=("the order was drawn at random and recorded before training",),
    )
