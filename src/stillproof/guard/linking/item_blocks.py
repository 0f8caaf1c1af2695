"""Clusters from exact prompts: units that share more of the same items than chance would have it, in dense blocks."""

import numpy as np
from numpy.typing import NDArray

from stillproof.guard.linking.clusters import Cluster
from stillproof.guard.linking.edge_rows import PairRows
from stillproof.guard.linking.peeling import Graphs, densest, k_core
from stillproof.guard.linking.settings import LinkSettings
from stillproof.guard.linking.tails import poisson_log10_tail

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MAX_ROUNDS = 64


def item_clusters(rows: PairRows, n_units: int, settings: LinkSettings) -> list[Cluster]:
    """Clusters of kind 'items', unordered.

    Null hypothesis of a pair: n_shared is Poisson(expected); Bonferroni over the pairs of the table, but at least over
    n_units. At the default level (1e-6) that leaves less than one false link in expectation even where the table has
    one in 1e5 of all pairs; and a block needs min_units units with min_item_links links each. Connected components are
    only where blocks are looked for: each yields its densest block, then what is left is searched again.
    """
    level = settings.pair_log10_p - np.log10(max(len(rows.a), n_units, 1))
    linked = (rows.n_shared >= settings.min_shared_items) & (rows.log10_p <= level)
    linked |= _of_one_list(rows, linked, settings)
    a, b = rows.a[linked], rows.b[linked]
    weight = np.minimum(-rows.log10_p[linked] / np.log10(2.0), settings.cap_bits)
    out: list[Cluster] = []
    for _ in range(_MAX_ROUNDS):
        if not len(a):
            break
        block, density = _round(a, b, weight, settings)
        size = np.bincount(block[block >= 0], minlength=len(density))
        for index in np.flatnonzero(size >= settings.min_units).tolist():
            units = rows.unit_ids[: len(block)][block == index]
            out.append(Cluster(units, np.zeros(0, np.uint64), "items", float(density[index])))
        taken = np.zeros(len(rows.unit_ids), bool)
        taken[: len(block)] = block >= 0
        if not bool(taken.any()):
            break
        keep = ~taken[a] & ~taken[b]
        a, b, weight = a[keep], b[keep], weight[keep]
    return out


def _of_one_list(rows: PairRows, linked: Bools, settings: LinkSettings) -> Bools:
    """Pairs that share a prompt or two, of units with many such partners.

    The table holds such pairs only of units most of whose prompts others sent as well. One pair proves nothing; a unit
    is taken where the number of its partners is as surprising as one strong pair must be. H0: it is Poisson with the
    sum of the pairs' expectations.
    """
    weak = ~linked & (rows.log10_p <= settings.weak_pair_log10_p)
    n = len(rows.unit_ids)
    expected = rows.expected[weak]
    partners = np.bincount(rows.a[weak], minlength=n) + np.bincount(rows.b[weak], minlength=n)
    mean = np.bincount(rows.a[weak], expected, n) + np.bincount(rows.b[weak], expected, n)
    many = (partners >= settings.min_weak_partners) & (
        poisson_log10_tail(partners.astype(np.float64), np.maximum(mean, 1e-9))
        <= settings.pair_log10_p - np.log10(max(n, 1))
    )
    return weak & many[rows.a] & many[rows.b]


def _round(a: Ints, b: Ints, weight: Floats, settings: LinkSettings) -> tuple[Ints, Floats]:
    """The densest block of each component: the block of each unit (-1: none), and the blocks' densities."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = int(max(a.max(), b.max())) + 1
    block = np.full(n, -1)
    in_core = k_core(Graphs(np.zeros(n, np.int64), 1, a, b, weight), settings.min_item_links)
    keep = in_core[a] & in_core[b]
    a, b, weight = a[keep], b[keep], weight[keep]
    if not len(a):
        return block, np.zeros(0)
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(n, n))
    n_groups, component = connected_components(graph, directed=False)
    component = component.astype(np.int64)
    core = densest(Graphs(component, n_groups, a, b, weight), settings.peel_epsilon) & in_core
    core |= _close(core, component, a, b, settings)
    # Peeling by weight can leave a member with too few links inside.
    inside = core[a] & core[b]
    core &= k_core(Graphs(component, n_groups, a[inside], b[inside], weight[inside]), settings.min_item_links)
    inside = core[a] & core[b]
    block[core] = component[core]
    total = np.bincount(component[a[inside]], weight[inside], n_groups)
    return block, total / np.maximum(np.bincount(component[core], minlength=n_groups), 1)


def _close(core: Bools, component: Ints, a: Ints, b: Ints, settings: LinkSettings) -> Bools:
    """Units outside the core with at least min_overlap of the links that its members have inside (average linkage)."""
    n, n_groups = len(core), int(component.max()) + 1
    to_core = np.bincount(a[core[b]], minlength=n) + np.bincount(b[core[a]], minlength=n)
    size = np.maximum(np.bincount(component[core], minlength=n_groups), 1)
    mean = np.bincount(component[core], to_core[core], n_groups) / size
    return ~core & (to_core >= np.maximum(settings.min_overlap * mean[component], settings.min_item_links))
