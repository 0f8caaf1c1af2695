"""What survives small edits of a prompt: sampled shingles, MinHash, a hashed projection; and how to compare them.

    shingles     the 12 smallest distinct hashes of 5-word shingles, ascending, padded with 0   (Broder 1997, bottom-k)
    MinHash      one permutation, 64 bins (Li, Owen and Zhang 2012): the top 6 bits of a shingle's hash choose the bin,
                 the low 32 bits are its value. An empty bin stays 0xFFFFFFFF, so that sketches merge by minimum
    projection   128 signed counts of words (Weinberger et al. 2009, feature hashing), saturated to int8

A text of fewer than 5 words has no shingle, and 64 empty bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillproof.guard.sketch.keys import splitmix64

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillproof.guard.sketch.keys import U64, Ints
    from stillproof.guard.sketch.words import Words

    U32 = NDArray[np.uint32]
    Small = NDArray[np.int8]

SHINGLE_WORDS = 5
N_SHINGLES = 12
N_BINS = 64
EMPTY_BIN = np.uint32(0xFFFFFFFF)
N_PROJECTION = 128

_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)
_BIN_SHIFT = np.uint64(58)
_KEEP = 40
"""How many of a row's shingles, on average, are sorted to find the smallest `N_SHINGLES`."""


def shingle_hashes(words: Words, kind: np.uint64) -> tuple[U64, Ints]:
    """All 5-word shingles of a chunk, row by row, and the (n + 1,) bounds of the rows among them."""
    hashes = words.sequence.all_spans(SHINGLE_WORDS)
    counts = np.maximum(words.counts - (SHINGLE_WORDS - 1), 0)
    bounds = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    # Shingle j starts at word j; those that would run over the end of their row are left out.
    ends = np.repeat(words.bounds[1:], words.counts)
    within = np.arange(len(hashes)) + SHINGLE_WORDS <= ends[: len(hashes)]
    return splitmix64(hashes[within] ^ kind), bounds


def bottom(hashes: U64, bounds: Ints) -> U64:
    """(n, 12) smallest distinct hashes of each row, ascending, 0 where there are fewer."""
    counts = np.diff(bounds)
    out = np.zeros((len(counts), N_SHINGLES), np.uint64)
    if not len(hashes):
        return out
    # Hashes are uniform, so those below 40/n of the range hold the 12 smallest but in one row of millions; rows where
    # they do not are sorted whole.
    limits = np.full(len(counts), _FULL)
    long = counts > _KEEP
    limits[long] = np.uint64(_KEEP) * (_FULL // counts[long].astype(np.uint64))
    rows = np.repeat(np.arange(len(counts)), counts)
    low = np.flatnonzero(hashes <= limits[rows])
    low_bounds = np.searchsorted(low, bounds)
    low_counts = np.diff(low_bounds)
    # A text that repeats one shingle must not widen the matrix of all rows.
    width = min(max(int(low_counts.max()), 1), 4 * _KEEP)
    table = np.full((len(counts), width), _FULL)
    column = np.arange(len(low)) - np.repeat(low_bounds[:-1], low_counts)
    fits = column < width
    table[rows[low[fits]], column[fits]] = hashes[low[fits]]
    table.sort(axis=1)
    _drop_repeats(table)
    smallest = table[:, :N_SHINGLES]
    out[:, : smallest.shape[1]] = np.where(smallest == _FULL, np.uint64(0), smallest)
    full = out[:, -1] != 0
    for row in np.flatnonzero((~full & (low_counts < counts)) | (low_counts > width)).tolist():
        distinct = np.unique(hashes[bounds[row] : bounds[row + 1]])[:N_SHINGLES]
        out[row] = 0
        out[row, : len(distinct)] = distinct
    return out


def minhash(hashes: U64, bounds: Ints) -> U32:
    """(n, 64) signatures; merge two by elementwise minimum."""
    counts = np.diff(bounds)
    out = np.full(len(counts) * N_BINS, EMPTY_BIN)
    cell = np.repeat(np.arange(0, len(out), N_BINS), counts)
    cell += (hashes >> _BIN_SHIFT).astype(np.int64)
    np.minimum.at(out, cell, hashes.astype(np.uint32))
    return out.reshape(-1, N_BINS)


def projection(words: Words) -> Small:
    """(n, 128) signed counts of words, saturated to -127 .. 127."""
    n = len(words.counts)
    # The low 7 bits choose the cell, the eighth its sign: count both signs, then take their difference.
    cell = (words.plain & np.uint64(2 * N_PROJECTION - 1)).astype(np.int64)
    cell += words.rows * (2 * N_PROJECTION)
    both = np.bincount(cell, minlength=n * 2 * N_PROJECTION).reshape(n, 2, N_PROJECTION)
    return np.clip(both[:, 0] - both[:, 1], -127, 127).astype(np.int8)


def merge_projection(projections: Small) -> NDArray[np.int64]:
    """(128,) sum of (n, 128) projections, or of sums: wide, so that the order of merging does not matter."""
    return np.asarray(projections).reshape(-1, N_PROJECTION).sum(axis=0, dtype=np.int64)


def merge_minhash(signatures: U32) -> U32:
    """(64,) signature of the union of the shingles of (n, 64) signatures."""
    return np.asarray(signatures).reshape(-1, N_BINS).min(axis=0, initial=EMPTY_BIN)


def similarity(left: U32, right: U32) -> NDArray[np.float64]:
    """Estimates the Jaccard similarity of two sets of shingles from signatures (..., 64), broadcast.

    Equal bins over bins that are not empty in both: unbiased (Li, Owen and Zhang 2012, theorem 3), standard error at
    most 1/16 for long texts. NaN where both texts have no shingle.
    """
    left, right = np.asarray(left), np.asarray(right)
    filled = ((left != EMPTY_BIN) | (right != EMPTY_BIN)).sum(axis=-1)
    equal = ((left == right) & (left != EMPTY_BIN)).sum(axis=-1)
    return np.where(filled > 0, equal / np.maximum(filled, 1), np.nan)


def _drop_repeats(table: U64) -> None:
    """Within ascending rows, move every repeated value to the end, as if it were absent."""
    repeated = (table[:, 1:] == table[:, :-1]) & (table[:, 1:] != _FULL)
    if repeated.any():
        rows = np.flatnonzero(repeated.any(axis=1))
        part = table[rows]
        part[:, 1:][repeated[rows]] = _FULL
        part.sort(axis=1)
        table[rows] = part
