"""Which accounts belong to a cluster that was found: those that act like its core.

Sharing the cluster's fingerprints is not enough. A campaign may hide under a template that strangers use as well, and
they would be named with it. The frozen core has the evidence, so it is the measure. There are two ways to be named:

- `one_kind`: workers on one queue are nearly copies of each other in pace, in their hours and in how they open
  conversations; customers differ in all of that by orders of magnitude. Where the densest spot of the core stands apart
  from all others, those in it are named, though most of the cluster may be strangers.
- `like_the_core`: where most of the core is alike in a looser sense, those of the core that are so are named; of those
  who joined later only where hardly anybody else did.

Nobody is named who used what links the cluster long before the core did, nor where a few fixed hours of the day explain
that they are alike. Where nobody is named, who is who cannot be told, and a person looks at the cluster.
These are rules with a measured error (see docs/guard.md), not tests with a guaranteed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillproof.guard.freezing import Frozen
from stillproof.guard.signals.view import HOUR_US

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

    from stillproof.engine import Engine

Words = NDArray[np.uint64]
Reals = NDArray[np.float64]

MAX_DEVIATION = 4.0
"""In standard deviations of the core's denser half."""
LEAST_SPREAD = {"rate": 0.35, "opening": 0.25, "rhythm": 0.2, "hours": 0.25}
"""In doublings. A core without any spread would leave out members for nothing."""
MAX_DOUBLINGS = 1.5
"""Whatever the core's spread."""
LEAST_ALIKE = 0.8
"""Share of the core that must be named for anybody to be."""
KIND_SCALE = (0.35, 0.3, 0.25, 3.0)
"""Units of distance in `one_kind`: doublings of pace, of the share of active hours, of openings; hours of the day."""
KIND_SHARE = 0.2
"""The densest spot is the one that reaches this share of the core soonest."""
KIND_RADII = tuple(0.25 * step for step in range(2, 11))
KIND_APART = 0.1
"""At most so many, as a share of those within a radius, may lie between it and twice the radius."""
LEAST_KIND = 8
SCHEDULE_HOURS = 6.0
"""Accounts that work at fewer hours of the day than this are alike by their schedule."""
MOST_OTHERS = 0.05
"""Where more candidates than this, as a share of those alike, are not like the core, some who are may be strangers."""
RHYTHM_H = 6
"""Hours that are counted together when rhythms are compared."""
LEAST_EXCHANGES = 3
EARLY_H = 24
"""An account that used the cluster's texts so long before a quarter of the core did was a customer already."""


def one_kind(manner: Reals, core: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of k candidates are in the core's densest spot, where that stands apart from all others; else none. [k]

    `manner`: [k, 4] exchanges an hour since the candidate joined, share of those hours in which it sent any, share of
    openings, and hours of the day that it is at work. Distances are the largest difference in KIND_SCALE.
    """
    from scipy.spatial import KDTree

    if np.count_nonzero(core) < LEAST_KIND:
        return np.zeros(core.size, bool)
    place = np.column_stack([np.log2(manner[:, :3] + (0.0, 0.02, 0.05)), manner[:, 3]]) / KIND_SCALE
    nth = max(LEAST_KIND, int(KIND_SHARE * np.count_nonzero(core)))
    reach = KDTree(place).query(place[core], k=[min(nth + 1, core.size)], p=np.inf)[0][:, 0]
    densest = int(np.argmin(reach))
    distance = np.abs(place - place[core][densest]).max(axis=1)
    for radius in KIND_RADII:
        within = np.count_nonzero(distance <= radius)
        around = np.count_nonzero(distance <= 2 * radius) - within
        if radius >= reach[densest] and within >= LEAST_KIND and around <= KIND_APART * within:
            return distance <= radius
    return np.zeros(core.size, bool)


def like_the_core(manner: Reals, counts: Reals, core: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of k candidates act like the core, shape [k].

    `manner`: as in `one_kind`. `counts`: [k, bins] exchanges by time, NaN before it joined. Deviations are taken in
    doublings from the middle of the core's denser half, and counted in its standard deviations.
    """
    if not core.any():
        return np.zeros(core.size, bool)
    rate, _, opening, hours = manner.T
    alike = _near(np.log2(rate), core, "rate") & _near(np.log2(opening + 0.05), core, "opening")
    unrest = np.log2(_unrest(counts, core & alike) + 0.2)
    # Steadier than the core is no reason to leave an account out.
    alike &= (unrest <= _middle(unrest[core])[0]) | _near(unrest, core, "rhythm")
    return alike & _near(np.log2(hours), core, "hours")


def _near(values: Reals, core: NDArray[np.bool_], name: str) -> NDArray[np.bool_]:
    middle, spread = _middle(values[core])
    allowed = MAX_DEVIATION * max(spread, LEAST_SPREAD[name])
    return np.abs(values - middle) <= min(allowed, MAX_DOUBLINGS)


def _middle(values: Reals) -> tuple[float, float]:
    """Mean of the shortest interval that holds half of the values, and the standard deviation that a normal law with
    such an interval has (Andrews et al., Robust estimates of location, 1972: the shorth)."""
    ordered = np.sort(values)
    half = ordered.size // 2 + 1
    widths = ordered[half - 1 :] - ordered[: ordered.size - half + 1]
    start = int(np.argmin(widths))
    return float(ordered[start : start + half].mean()), float(widths[start]) / 1.349


def _unrest(counts: Reals, alike: NDArray[np.bool_]) -> Reals:
    """How far each candidate's counts are from the common rhythm of those alike: mean (n - expected)^2 / expected."""
    there = np.isfinite(counts)
    seen = np.where(there, counts, 0.0)
    common = np.where(there, seen[alike].sum(axis=0) + 1e-9, 0.0)
    expected = seen.sum(axis=1, keepdims=True) * common / np.maximum(common.sum(axis=1, keepdims=True), 1e-9)
    squares = np.where(there, (seen - expected) ** 2 / (expected + 0.3), 0.0)
    return squares.sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def units_named(engine: Engine, sketch: ir.Table, told: Sequence[Frozen], start_us: int, end_us: int) -> list[Words]:
    """For each cluster its units that act like its core between the freeze and `end_us`, ascending. The log begins at
    `start_us`. Declared organisations are not named: they are known customers, to be asked.

    One pass over the log for all clusters.
    """
    import pyarrow as pa

    from stillproof.guard import evidence

    if not told:
        return []
    units = [np.union1d(entry.cluster.units, entry.joined) for entry in told]
    members = evidence.listed("unit", units)
    # Everything counts here: what came before the freeze tells who was a customer already.
    members = members.append_column("frozen_us", pa.array(np.zeros(members.num_rows, np.int64)))
    rows = evidence.activity(
        engine, sketch, members, evidence.listed("fp", [entry.cluster.fps for entry in told]), end_us
    )
    candidates = engine.from_arrow(pa.table({"unit": pa.array(np.unique(np.concatenate(units)), pa.uint64())}))
    single = sketch.filter(sketch.account == sketch.unit).semi_join(candidates, "unit")
    single_units = engine.to_arrow(single.select("unit").distinct())["unit"].to_numpy()
    cluster = rows["cluster"].to_numpy()
    bounds = np.searchsorted(cluster, np.arange(len(told) + 1))
    named = [
        _named(entry, rows.slice(bounds[k], bounds[k + 1] - bounds[k]), start_us // HOUR_US, end_us / HOUR_US)
        for k, entry in enumerate(told)
    ]
    return [np.intersect1d(found, single_units) for found in named]


def _named(entry: Frozen, rows: pa.Table, start_h: int, end_h: float) -> Words:
    """`rows`: the activity of one cluster's candidates, by the hour, from the log's begin on."""
    units, place = np.unique(rows["unit"].to_numpy(), return_inverse=True)
    hour = rows["hour"].to_numpy()
    frozen_h = -(-entry.frozen_us // HOUR_US)
    first = _earliest(place, hour, units.size)
    counted = hour >= frozen_h
    place, hour = place[counted], hour[counted]
    n = rows["n"].to_numpy()[counted]
    sent = np.bincount(place, n, units.size)
    joined_h = np.maximum(_earliest(place, hour, units.size), frozen_h)
    span_h = np.maximum(end_h - joined_h, 1.0)
    core = np.isin(units, entry.cluster.units) & (sent > 0)
    manner = np.column_stack(
        [
            (sent + 0.5) / span_h,
            np.maximum(np.bincount(place, minlength=units.size), 1) / span_h,
            np.bincount(place, rows["n_opening"].to_numpy()[counted], units.size) / np.maximum(sent, 1),
            _hours_at_work(place, hour, n, units.size),
        ]
    )
    counts = np.zeros((units.size, int(max(end_h - frozen_h, 0)) // RHYTHM_H + 1))
    np.add.at(counts, (place, (hour - frozen_h) // RHYTHM_H), n)
    counts[np.arange(counts.shape[1]) <= ((joined_h - frozen_h) // RHYTHM_H)[:, None]] = np.nan
    enough = sent >= LEAST_EXCHANGES
    named = np.zeros(units.size, bool)
    named[enough] = one_kind(manner[enough], core[enough])
    alike = like_the_core(manner, counts, core) & enough
    if np.count_nonzero(alike & core) >= LEAST_ALIKE * np.count_nonzero(core):
        apart = np.count_nonzero(enough & ~alike) <= MOST_OTHERS * np.count_nonzero(alike)
        named |= alike if apart else alike & core
    if not named.any() or np.median(manner[named, 3]) < SCHEDULE_HOURS:
        return units[:0]
    began = np.quantile(first[core], 0.25)
    return units[named & (first >= began - EARLY_H)] if began > start_h + EARLY_H else units[named]


def _hours_at_work(place: NDArray[np.intp], hour: NDArray[np.int64], n: NDArray[np.int64], size: int) -> Reals:
    """[size] the hours of the day over which each spreads its exchanges: exp of the entropy, 1 to 24."""
    share = np.bincount(place * 24 + hour % 24, n, size * 24).reshape(size, 24)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1)
    return np.exp(-(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1))


def _earliest(place: NDArray[np.intp], hour: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """[size] the earliest hour of each; far in the future where there is none."""
    first = np.full(size, 1 << 40)
    np.minimum.at(first, place, hour)
    return first


def accounts_of(log: Sequence[Path], units: Sequence[Words]) -> list[list[str]]:
    """For each set of units, the pseudonyms of their accounts, sorted; their first 16 digits where no log is left."""
    from stillproof.guard.sketch import account_numbers

    if not log:
        return [[f"{unit:016x}" for unit in np.sort(group).tolist()] for group in units]
    names = pseudonyms(log)
    numbers = account_numbers(names)
    pseudonym = np.asarray(names.to_pylist(), object)
    return [sorted(pseudonym[np.isin(numbers, group)].tolist()) for group in units]


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
