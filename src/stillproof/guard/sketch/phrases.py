"""Wordings that ask for reasoning, grades, new tasks, the model's identity or bare JSON, found by their word hashes.

The phrases are data, in data/guard/phrases.toml. A text is searched for the first word of any phrase through a table of
16 bits of its hash; only from there on are the sequences of words hashed and looked up.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from stillproof.guard.sketch.keys import Keys, keys_of
from stillproof.guard.sketch.normalise import chunks_of
from stillproof.guard.sketch.words import Words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillproof.guard.sketch.keys import U64

    U32 = NDArray[np.uint32]

MAX_WORDS = 12
FLAG_CONVERSATION = 5
"""Bit of a request that names its conversation; the bits below are those of phrases.toml."""

_LOW = np.uint64(0xFFFF)


class PhraseBook:
    """The phrases as hashes under one salt."""

    def __init__(self, keys: Keys, phrases: dict[str, int]) -> None:
        """`phrases` maps a wording to its bit."""
        self._keys = keys
        self._opening = np.zeros(1 << 16, np.bool_)
        tables: dict[int, dict[int, int]] = {}
        for text, bit in phrases.items():
            words = _words_of(keys, text)
            if not 0 < len(words) <= MAX_WORDS:
                raise ValueError(f"the phrase {text!r} has {len(words)} words; 1 to {MAX_WORDS} can be found")
            self._opening[int(words[0] & _LOW)] = True
            table = tables.setdefault(len(words), {})
            key = int((words * keys.word_powers[: len(words)]).sum(dtype=np.uint64))
            table[key] = table.get(key, 0) | 1 << bit
        self._tables = {
            n: (np.array(sorted(table), np.uint64), np.array([table[key] for key in sorted(table)], np.uint32))
            for n, table in sorted(tables.items())
        }

    def flags(self, words: Words) -> U32:
        """(n,) one bit for each kind of phrase that the row has."""
        out = np.zeros(len(words.counts), np.uint32)
        at = np.flatnonzero(self._opening[(words.masked & _LOW).astype(np.int64)])
        if not at.size:
            return out
        left = words.bounds[words.rows[at] + 1] - at
        hashes = np.zeros(len(at), np.uint64)
        for n in range(1, MAX_WORDS + 1):
            fits = left >= n
            at, left, hashes = at[fits], left[fits], hashes[fits]
            hashes = hashes + words.masked[at + (n - 1)] * self._keys.word_powers[n - 1]
            if n in self._tables and at.size:
                known, bits = self._tables[n]
                place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
                hits = np.flatnonzero(known[place] == hashes)
                np.bitwise_or.at(out, words.rows[at[hits]], bits[place[hits]])
        return out


@lru_cache(maxsize=2)
def phrase_book(salt: bytes) -> PhraseBook:
    """The phrases of data/guard/phrases.toml under this salt, made once a process."""
    text = (files("stillproof") / "data" / "guard" / "phrases.toml").read_text("utf-8")
    kinds = tomllib.loads(text)
    return PhraseBook(keys_of(salt), {phrase: kind["bit"] for kind in kinds.values() for phrase in kind["phrases"]})


def _words_of(keys: Keys, text: str) -> U64:
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    (chunk,) = chunks_of(data, np.array([0, len(data)], np.int64))
    return Words(keys, chunk).masked
