"""Which accounts belong to a cluster that was found: a question of its own, with an error rate of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillproof.guard.decision import name_accounts
from stillproof.guard.freezing import Frozen
from stillproof.guard.linking.tails import poisson_log10_tail

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

    from stillproof.engine import Engine

NAMING_ALPHA = 0.01
Words = NDArray[np.uint64]


def units_of(frozen: Frozen, edges: pa.Table) -> Words:
    """Units that carry the cluster's fingerprints more than their hours explain, later joiners included.

    `edges`: those after the freeze. H0 of each unit: its exchanges and the cluster's fingerprints meet by the hour
    alone (Poisson tail of the edges table's expectation, Bonferroni over the unit's fingerprints, Benjamini and
    Hochberg over units at NAMING_ALPHA). A cluster that only a list of prompts links has no fingerprints: its frozen
    units are named.
    """
    if not frozen.cluster.fps.size:
        return frozen.cluster.units
    rows = np.isin(edges["fp"].to_numpy(), frozen.cluster.fps)
    units, place = np.unique(edges["unit"].to_numpy()[rows], return_inverse=True)
    if not units.size:
        return units
    tail = poisson_log10_tail(
        edges["n"].to_numpy()[rows].astype(np.float64), np.maximum(edges["expected"].to_numpy()[rows], 1e-6)
    )
    best = np.zeros(units.size)
    np.minimum.at(best, place, tail)
    paid = np.minimum(best + np.log10(np.bincount(place)), 0.0)
    return units[name_accounts(paid, NAMING_ALPHA)]


def accounts_of(engine: Engine, sketch: ir.Table, log: Sequence[Path], units: Sequence[Words]) -> list[list[str]]:
    """For each set of units, the pseudonyms of their accounts, sorted."""
    from stillproof.guard.sketch import account_numbers

    pairs = engine.to_arrow(sketch.select("unit", "account").distinct())
    unit, number = pairs["unit"].to_numpy(), pairs["account"].to_numpy()
    names = pseudonyms(log)
    of_number = dict(zip(account_numbers(names).tolist(), names.to_pylist(), strict=True))
    named = []
    for group in units:
        numbers = number[np.isin(unit, group)].tolist()
        named.append(sorted(of_number[value] for value in numbers if value in of_number))
    return named


def pseudonyms(log: Sequence[Path]) -> pa.Array:
    """Every account of a log once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: set[str] = set()
    for file in log:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=["account"], batch_size=1 << 18):
                found.update(batch.column(0).unique().drop_null().to_pylist())
    return pa.array(sorted(found), pa.string())
