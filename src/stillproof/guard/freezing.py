"""Clusters as they come up: the log is linked step by step, and a cluster is frozen at the first step that shows it.

Evidence counts only after the freeze, so a cluster cannot be chosen for the very exchanges that accuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillproof.guard.linking import Cluster, LinkSettings, link, match_all
from stillproof.guard.signals.view import DAY_US, HOUR_US

if TYPE_CHECKING:
    import pyarrow as pa

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Frozen:
    """A cluster whose members will not change any more."""

    id: int
    frozen_us: int
    cluster: Cluster
    first_us: NDArray[np.float64]
    """[units] when each member first showed what links the cluster; NaN where that may be long ago, or where nothing
    but a list of prompts links it."""
    joined: Words
    """Units of later looks at the same cluster that were in it neither when it was frozen nor when its newcomers were;
    ascending. No evidence is taken from them: they are only candidates to be named."""


@dataclass(frozen=True, slots=True)
class Linked:
    """What one step of linking looks at."""

    edges: pa.Table
    pairs: pa.Table | None
    n_units: int
    since_us: int
    """Begin of what is looked at, the log's own begin at least."""


def steps(start_us: int, end_us: int, step_h: float) -> Iterator[int]:
    """The times at which the log is linked: every `step_h` hours after its start, the end left out."""
    step_us = int(step_h * HOUR_US)
    yield from range(start_us + step_us, end_us, step_us)


def freeze(look: Callable[[int], Linked], times: list[int], settings: LinkSettings) -> list[Frozen]:
    """Link at each time, and freeze what is new there. `look(until_us)` gives what is known before that time.

    A known cluster that has grown since by as many units as it was frozen with is frozen once more, with the newcomers
    alone: a campaign may have begun with a few accounts, or may hide under a template that some strangers used before.
    """
    frozen: list[Frozen] = []
    known_units: list[Words] = []
    for until_us in times:
        seen = look(until_us)
        if not seen.edges.num_rows:
            continue
        clusters = link(seen.edges, seen.pairs, seen.n_units, settings)
        known = match_all(clusters, [entry.cluster for entry in frozen])
        fresh: list[tuple[Cluster, Words]] = []
        for cluster, place in zip(clusters, known, strict=True):
            if place is None:
                fresh.append((cluster, cluster.units))
                continue
            entry = frozen[place]
            joined = np.union1d(entry.joined, np.setdiff1d(cluster.units, known_units[place]))
            known_units[place] = np.union1d(known_units[place], joined)
            if joined.size >= max(settings.min_units, entry.cluster.units.size):
                fresh.append((replace(cluster, units=joined), known_units[place]))
                joined = np.zeros(0, np.uint64)
            frozen[place] = replace(entry, joined=joined)
        firsts = first_uses([cluster for cluster, _ in fresh], seen.edges, seen.since_us + DAY_US)
        for (cluster, everybody), first_us in zip(fresh, firsts, strict=True):
            frozen.append(Frozen(len(frozen), until_us, cluster, first_us, np.zeros(0, np.uint64)))
            known_units.append(everybody)
    return frozen


def first_uses(clusters: list[Cluster], edges: pa.Table, known_us: int) -> list[NDArray[np.float64]]:
    """For each cluster, [units] the earliest time that a member showed one of the cluster's fingerprints.

    NaN before `known_us`, a day after the begin of what is looked at: such a member may have been there for years.
    """
    fp = edges["fp"].to_numpy()
    unit = edges["unit"].to_numpy()
    first = edges["first_time"].to_numpy().astype(np.float64)
    order = np.argsort(fp, kind="stable")
    sorted_fp = fp[order]
    found: list[NDArray[np.float64]] = []
    for cluster in clusters:
        left, right = np.searchsorted(sorted_fp, cluster.fps, "left"), np.searchsorted(sorted_fp, cluster.fps, "right")
        parts = [order[a:b] for a, b in zip(left, right, strict=True)]
        rows = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        earliest = np.full(cluster.units.size, np.inf)
        units = np.sort(cluster.units)
        place = np.minimum(np.searchsorted(units, unit[rows]), max(units.size - 1, 0))
        inside = units[place] == unit[rows] if rows.size else np.zeros(0, bool)
        np.minimum.at(earliest, place[inside], first[rows[inside]])
        back = np.searchsorted(units, cluster.units)
        found.append(np.where(np.isfinite(earliest) & (earliest >= known_us), earliest, np.nan)[back])
    return found
