"""Densest blocks of many weighted graphs at once, by peeling nodes in batches.

After Bahmani, Kumar, Vassilvitskii, "Densest subgraph in streaming and MapReduce", VLDB 2012, with the weights of Hooi
et al., "FRAUDAR", KDD 2016. The density of a block is its total edge weight over its number of nodes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MAX_PASSES = 400


@dataclass(frozen=True)
class Graphs:
    """Disjoint graphs: node i belongs to graph group[i]; edge e joins nodes a[e], b[e] of one graph, weight[e] > 0."""

    group: Ints
    n_groups: int
    a: Ints
    b: Ints
    weight: Floats


def densest(graphs: Graphs, epsilon: float) -> Bools:
    """Which nodes are in the densest prefix of their graph's peeling; shape (n_nodes,).

    Each pass removes every node whose weighted degree is below the density of what is left: no node of the densest
    block has so low a degree, so this loses nothing. If there is none, the nodes within (1 + epsilon) of the lowest
    degree go, which costs at most that factor on top of the 1/2 of greedy peeling. Nothing is random.
    """
    n = len(graphs.group)
    alive = np.ones(n, bool)
    removed_at = np.full(n, _MAX_PASSES + 1)
    best = np.full(graphs.n_groups, -1.0)
    best_at = np.zeros(graphs.n_groups, np.int64)
    a, b, weight = graphs.a, graphs.b, graphs.weight
    for step in range(_MAX_PASSES):
        degree = np.bincount(a, weight, n) + np.bincount(b, weight, n)
        nodes = np.flatnonzero(alive)
        group = graphs.group[nodes]
        size = np.bincount(group, minlength=graphs.n_groups)
        density = np.bincount(graphs.group[a], weight, graphs.n_groups) / np.maximum(size, 1)
        # A tolerance, so that rounding does not make a smaller block of the same density the better one.
        better = (density > best * (1 + 1e-9)) & (size > 0)
        best[better], best_at[better] = density[better], step
        lowest = np.full(graphs.n_groups, np.inf)
        np.minimum.at(lowest, group, degree[nodes])
        limit = np.where(lowest < density, density * (1 - 1e-9), lowest * (1 + epsilon))
        gone = nodes[degree[nodes] <= limit[group]]
        alive[gone] = False
        removed_at[gone] = step
        keep = alive[a] & alive[b]
        a, b, weight = a[keep], b[keep], weight[keep]
        if not len(a):
            break
    return removed_at >= best_at[graphs.group]


def k_core(graphs: Graphs, k: int) -> Bools:
    """Which nodes are left when those with fewer than k edges are removed until none is; shape (n_nodes,)."""
    n = len(graphs.group)
    a, b = graphs.a, graphs.b
    while True:
        degree = np.bincount(a, minlength=n) + np.bincount(b, minlength=n)
        keep = (degree[a] >= k) & (degree[b] >= k)
        if bool(keep.all()):
            return degree >= k
        a, b = a[keep], b[keep]
