"""The cluster: what linking yields, how duplicates are folded, and whether a later scan has found a known one again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillproof.guard.linking.set_groups import leaders, sets_from_rows

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_KNOWN = 0.5


@dataclass(frozen=True, eq=False)
class Cluster:
    """Units that share rare fingerprints: a candidate, not a verdict.

    units: ascending, distinct, (n_units,). fps: ascending, distinct, (n_fps,), empty for kind 'items'. density: total
    edge weight over the number of nodes (units and templates); not comparable between the kinds.
    """

    units: Words
    fps: Words
    kind: Literal["template", "items"]
    density: float


def in_order(clusters: Sequence[Cluster]) -> list[Cluster]:
    """Template clusters first, dense ones first; ties by units, so that the order depends on nothing else."""
    return sorted(clusters, key=lambda c: (c.kind != "template", -c.density, -len(c.units), c.units.tobytes()))


def fold_duplicates(clusters: Sequence[Cluster], jaccard: float, seed: int) -> list[Cluster]:
    """Clusters with nearly the same units become one: the densest one's units, everybody's fingerprints."""
    ordered = in_order(clusters)
    if len(ordered) < 2:
        return ordered
    owner = np.repeat(np.arange(len(ordered)), [len(c.units) for c in ordered])
    found, member = np.unique(np.concatenate([c.units for c in ordered]), return_inverse=True)
    sets = sets_from_rows(owner, member, len(ordered), len(found))
    leader = leaders(sets, np.arange(len(ordered)), jaccard, seed)
    followers: dict[int, list[Words]] = {}
    for index, head in enumerate(leader.tolist()):
        followers.setdefault(head, []).append(ordered[index].fps)
    out: list[Cluster] = []
    for head, fps in followers.items():
        of = ordered[head]
        merged = np.unique(np.concatenate(fps)) if len(fps) > 1 else of.fps
        out.append(Cluster(of.units, merged, of.kind, of.density))
    return out


def match(cluster: Cluster, frozen: Sequence[Cluster]) -> int | None:
    """Which frozen cluster this one is, found again: its position, or None if it is new. See `match_all`."""
    return match_all([cluster], frozen)[0]


def match_all(clusters: Sequence[Cluster], frozen: Sequence[Cluster]) -> list[int | None]:
    """For each cluster the frozen cluster it is known as, or None.

    Known means one of: Jaccard index of units >= 1/2; at least half of the fingerprints of the one with fewer are in
    both; half of the smaller one's units are in both and they share a fingerprint (two items clusters: units suffice).
    Units inside a larger cluster are not enough by themselves: a campaign all of whose accounts use a popular harness
    is not that harness. Of several, the one with the largest sum of the three shares; ties: the earliest frozen.
    """
    if not clusters or not frozen:
        return [None] * len(clusters)
    row, column, common, common_fps = _common(clusters, frozen)
    units = _lengths([c.units for c in clusters])[row], _lengths([c.units for c in frozen])[column]
    fps = _lengths([c.fps for c in clusters])[row], _lengths([c.fps for c in frozen])[column]
    jaccard = common / (units[0] + units[1] - common)
    contained = common / np.minimum(*units)
    alike = common_fps / np.maximum(np.minimum(*fps), 1)
    comparable = (common_fps > 0) | ((fps[0] == 0) & (fps[1] == 0))
    known = (jaccard >= _KNOWN) | (alike >= _KNOWN) | ((contained >= _KNOWN) & comparable)
    score = jaccard + contained + alike
    best: list[int | None] = [None] * len(clusters)
    for pair in np.lexsort((-column, score)).tolist():
        if known[pair]:
            best[int(row[pair])] = int(column[pair])
    return best


def _common(clusters: Sequence[Cluster], frozen: Sequence[Cluster]) -> tuple[Ints, Ints, Ints, Ints]:
    """Pairs (cluster, frozen) that share anything, with the numbers of common units and common fingerprints."""
    units = _shared([c.units for c in clusters], [c.units for c in frozen])
    fps = _shared([c.fps for c in clusters], [c.fps for c in frozen])
    width = np.int64(len(frozen))
    pairs = np.unique(np.concatenate([units[0], fps[0]]))
    out = np.zeros((2, len(pairs)), np.int64)
    for i, (key, count) in enumerate((units, fps)):
        out[i, np.searchsorted(pairs, key)] = count
    return pairs // width, pairs % width, out[0], out[1]


def _shared(left: list[Words], right: list[Words]) -> tuple[Ints, Ints]:
    """Keys (left index * len(right) + right index) of the pairs of sets that intersect, and the intersection sizes."""
    from scipy.sparse import csr_array

    found, code = np.unique(np.concatenate([*left, *right]), return_inverse=True)
    n_left = int(_lengths(left).sum())
    rows = np.repeat(np.arange(len(left)), _lengths(left)), np.repeat(np.arange(len(right)), _lengths(right))
    ones = np.ones(len(code), np.int64)
    a = csr_array((ones[:n_left], (rows[0], code[:n_left])), shape=(len(left), len(found)))
    b = csr_array((ones[n_left:], (code[n_left:], rows[1])), shape=(len(found), len(right)))
    product = (a @ b).tocoo()
    key = product.row.astype(np.int64) * np.int64(len(right)) + product.col
    order = np.argsort(key)
    return key[order], product.data.astype(np.int64)[order]


def _lengths(sets: list[Words]) -> Ints:
    return np.array([len(s) for s in sets], np.int64)
