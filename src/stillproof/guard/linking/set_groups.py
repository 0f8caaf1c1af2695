"""Groups of nearly equal sets by leader clustering: min-hash proposes, the exact Jaccard index decides.

A set joins a leader, never another follower, so that nothing is ever linked through a chain.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

N_HASHES = 32
_ROWS = 2  # hashes a band: at Jaccard 0.5 one of the 16 bands agrees with probability 0.99
_MAX_ROUNDS = 256
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Sets:
    """Non-empty sets of the integers 0..n_members-1: set i is members[start[i]:start[i+1]], ascending."""

    start: Ints
    members: Ints
    n_members: int

    @property
    def sizes(self) -> Ints:
        return np.diff(self.start)

    @property
    def owners(self) -> Ints:
        return np.repeat(np.arange(len(self.start) - 1), self.sizes)


def sets_from_rows(owner: Ints, member: Ints, n_sets: int, n_members: int) -> Sets:
    """Sets from (owner, member) rows in any order, repeated rows counted once; every owner 0..n_sets-1 must occur."""
    keys = distinct(owner * np.int64(n_members) + member)
    start = np.zeros(n_sets + 1, np.int64)
    np.cumsum(np.bincount(keys // n_members, minlength=n_sets), out=start[1:])
    return Sets(start, keys % n_members, n_members)


def distinct(values: Ints) -> Ints:
    """The distinct values, ascending: for millions of integers sorting is faster than the hash table of np.unique."""
    ordered = np.sort(values)
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


def signatures(sets: Sets, seed: int) -> Words:
    """(n_sets, N_HASHES) min-hash signatures (Broder 1997): two agree in a column with probability their Jaccard."""
    offsets = np.random.Generator(np.random.Philox(seed)).integers(0, 2**63, N_HASHES, dtype=np.uint64)
    out = np.empty((len(sets.start) - 1, N_HASHES), np.uint64)
    codes = np.arange(sets.n_members, dtype=np.uint64)
    for column in range(N_HASHES):
        hashed = _mix(codes + offsets[column])
        out[:, column] = np.minimum.reduceat(hashed[sets.members], sets.start[:-1])
    return out


def intersections(sets: Sets, a: Ints, b: Ints) -> Ints:
    """Sizes of the intersections of sets a[i] and b[i]; shape (n_pairs,). Work: the sum of the smaller sizes."""
    sizes = sets.sizes
    small = np.where(sizes[a] <= sizes[b], a, b)
    large = np.where(sizes[a] <= sizes[b], b, a)
    keys = sets.owners * np.int64(sets.n_members) + sets.members
    out = np.zeros(len(a), np.int64)
    ends = np.cumsum(sizes[small])
    first = 0
    while first < len(a):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        out[first:last] = _count_found(sets, keys, small[first:last], large[first:last])
        first = last
    return out


def leaders(sets: Sets, priority: Ints, threshold: float, seed: int) -> Ints:
    """The leader of each set; a leader is its own. Shape (n_sets,).

    priority: a permutation, lowest first: sets become leaders in that order. A set joins the leader with the highest
    exact Jaccard index if that is at least `threshold` (ties: the lower priority).
    """
    n_sets = len(sets.start) - 1
    leader = np.arange(n_sets)
    if n_sets < 2:
        return leader
    signature = signatures(sets, seed)
    order = np.argsort(priority, kind="stable")
    codes, n_codes = _bands(signature)
    pending = order
    for _ in range(_MAX_ROUNDS):
        heads = _bucket_heads(codes, n_codes, pending)
        chosen = (heads == pending[:, None]).all(axis=1)
        is_chosen = np.zeros(n_sets, bool)
        is_chosen[pending[chosen]] = True
        row, band = np.nonzero(is_chosen[heads] & ~chosen[:, None])
        joined = _join(sets, signature, np.stack([pending[row], heads[row, band]]), threshold, priority)
        leader[joined[0]] = joined[1]
        done = is_chosen
        done[joined[0]] = True
        pending = pending[~done[pending]]
        if not len(pending):
            break
    return leader


def _join(sets: Sets, signature: Words, pairs: Ints, threshold: float, priority: Ints) -> Ints:
    """Of (follower, leader) pairs (2, n), those verified: one a follower."""
    n_sets = np.int64(len(sets.start) - 1)
    keys = distinct(pairs[0] * n_sets + pairs[1])
    follower, leader = keys // n_sets, keys % n_sets
    sizes = sets.sizes
    low, high = np.minimum(sizes[follower], sizes[leader]), np.maximum(sizes[follower], sizes[leader])
    # Cheap necessary conditions first; the slack of 0.25 is three standard errors of the min-hash estimate.
    near = low >= threshold * high
    follower, leader = follower[near], leader[near]
    alike = (signature[follower] == signature[leader]).mean(axis=1) >= threshold - 0.25
    follower, leader = follower[alike], leader[alike]
    common = intersections(sets, follower, leader)
    jaccard = common / (sizes[follower] + sizes[leader] - common)
    good = jaccard >= threshold
    follower, leader, jaccard = follower[good], leader[good], jaccard[good]
    order = np.lexsort((priority[leader], -jaccard, follower))
    follower, leader = follower[order], leader[order]
    first = np.ones(len(follower), bool)
    first[1:] = follower[1:] != follower[:-1]
    return np.stack([follower[first], leader[first]])


def _bands(signature: Words) -> tuple[Ints, list[int]]:
    columns = range(0, N_HASHES, _ROWS)
    codes = np.empty((len(signature), len(columns)), np.int64)
    n_codes: list[int] = []
    for band, column in enumerate(columns):
        key = signature[:, column].copy()
        for other in range(column + 1, column + _ROWS):
            key = _mix(key) ^ signature[:, other]
        found, codes[:, band] = np.unique(key, return_inverse=True)
        n_codes.append(len(found))
    return codes, n_codes


def _bucket_heads(codes: Ints, n_codes: list[int], pending: Ints) -> Ints:
    """For each pending set (in order of priority) and band, the first pending set of its bucket."""
    heads = np.empty((len(pending), codes.shape[1]), np.int64)
    for band, n in enumerate(n_codes):
        head = np.empty(n, np.int64)
        # Assigned from last to first, so the first of each bucket stays.
        head[codes[pending[::-1], band]] = pending[::-1]
        heads[:, band] = head[codes[pending, band]]
    return heads


def _count_found(sets: Sets, keys: Ints, small: Ints, large: Ints) -> Ints:
    sizes = sets.sizes[small]
    pair = np.repeat(np.arange(len(small)), sizes)
    within = np.arange(len(pair)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = large[pair] * np.int64(sets.n_members) + sets.members[sets.start[small][pair] + within]
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.bincount(pair[keys[at] == wanted], minlength=len(small)).astype(np.int64)


def _mix(x: Words) -> Words:
    # The finaliser of SplitMix64 (Steele, Lea, Flood 2014); unsigned arrays wrap silently.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
