"""Hashed words as an embedding: no weights to fetch, the same numbers everywhere.

Words and pairs of neighbouring words are counted with a random sign in `CELLS` cells (feature hashing: Weinberger et
al. 2009, eq. 1), and each prompt is scaled to length 1, so that Euclidean distances lie between 0 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]

CELLS = 256
MOST_WORDS = 256
"""Of a prompt: sentence encoders cut at about as many tokens."""
_BLOCK = 20_000
_ODD = np.uint64(0x9E3779B97F4A7C15)


def embed(prompts: Sequence[str | None]) -> Points:
    """[n, CELLS], rows of length 1; zeros where a prompt is absent or empty."""
    known: dict[str, int] = {}
    places = np.array([known.setdefault(prompt or "", len(known)) for prompt in prompts], dtype=np.int64)
    if not known:
        return np.zeros((0, CELLS), dtype=np.float32)
    return np.concatenate(list(_blocks(list(known))))[places]


def _blocks(prompts: Sequence[str]) -> Iterator[Points]:
    seen: dict[str, int] = {}
    for first in range(0, len(prompts), _BLOCK):
        block = prompts[first : first + _BLOCK]
        words = [prompt.lower().split(maxsplit=MOST_WORDS)[:MOST_WORDS] for prompt in block]
        rows = np.repeat(np.arange(len(block)), [len(each) for each in words])
        codes = np.array([_code(seen, word) for each in words for word in each], dtype=np.uint64)
        neighbours = rows[1:] == rows[:-1]
        pairs = (codes[:-1] * np.uint64(31) + codes[1:])[neighbours]
        counted = _counts(np.r_[codes, pairs], np.r_[rows, rows[1:][neighbours]], len(block))
        length = np.linalg.norm(counted, axis=1, keepdims=True)
        yield (counted / np.where(length > 0, length, 1)).astype(np.float32)


def _code(seen: dict[str, int], word: str) -> int:
    found = seen.get(word)
    if found is None:
        found = seen[word] = crc32(word.encode("utf-8", "surrogatepass"))
    return found


def _counts(codes: NDArray[np.uint64], rows: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    cells = ((codes * _ODD) >> np.uint64(64 - 1 - (CELLS - 1).bit_length())).astype(np.int64)
    both = np.bincount(rows * (2 * CELLS) + cells, minlength=n * 2 * CELLS).reshape(n, CELLS, 2)
    return (both[:, :, 0] - both[:, :, 1]).astype(np.float64)
