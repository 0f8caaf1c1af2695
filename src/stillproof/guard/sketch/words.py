"""Words of a chunk of text, and hashes of sequences of them.

A word is a run of ASCII letters, digits and bytes >= 0x80; a lead byte 0xE3 .. 0xF4 opens a new one, so that scripts
written without spaces give one word a character. The hash of a sequence of words does not depend on where it stands.

    whole       all words and the sequence of punctuation marks      the exact item
    anchors     the first 8 and 24 words, the last 8                 a fixed instruction around changing content
    skeleton    without quoted text and code, numbers as one token   a template whose slots are numbers and quotations
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from stillproof.guard.sketch.keys import fold, prefix_sums, splitmix64

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillproof.guard.sketch.keys import U64, Bytes, Ints, Keys
    from stillproof.guard.sketch.normalise import Chunk

    Flags = NDArray[np.bool_]

_WORD, _LEAD, _DIGIT, _MARK, _QUOTE = 1, 2, 4, 8, 16
# Fenced code runs to its fence or to the end; an inline code span or a quotation that is not closed is none.
_QUOTED = re.compile(rb'```.*?(?:```|\Z)|`[^`]*`|"[^"]*"', re.DOTALL)


def _classes() -> Bytes:
    table = np.zeros(256, np.uint8)
    table[33:127] = _MARK
    for low, high in (("A", "Z"), ("a", "z"), ("0", "9")):
        table[ord(low) : ord(high) + 1] = _WORD
    table[0x80:] = _WORD
    table[0xE3:0xF5] |= _LEAD
    table[ord("0") : ord("9") + 1] |= _DIGIT
    table[[ord('"'), ord("`")]] |= _QUOTE
    return table


_CLASSES = _classes()


@dataclass(slots=True)
class Sequence:
    """Word hashes of n rows, one row after the other, that can be hashed span by span."""

    keys: Keys
    words: U64
    bounds: Ints
    """(n + 1,): row i has words[bounds[i]:bounds[i + 1]]."""
    sums: U64

    @classmethod
    def of(cls, keys: Keys, words: U64, bounds: Ints) -> Sequence:
        return cls(keys, words, bounds, prefix_sums(words * keys.word_powers[: len(words)]))

    def spans(self, begin: Ints, end: Ints) -> U64:
        """Hashes, not finalised, of the words begin[i] .. end[i] - 1."""
        return (self.sums[end] - self.sums[begin]) * self.keys.word_inverses[begin]

    def all_spans(self, width: int) -> U64:
        """Hashes, not finalised, of the `width` words from each word on, row bounds disregarded."""
        n = max(len(self.words) - width + 1, 0)
        return (self.sums[width : width + n] - self.sums[:n]) * self.keys.word_inverses[:n]


class Words:
    """The words of one chunk. Arrays are one entry a word unless they say otherwise."""

    def __init__(self, keys: Keys, chunk: Chunk) -> None:
        self.keys = keys
        self.chunk = chunk
        data = chunk.data
        self.classes = _CLASSES[data]
        starts, ends = _boundaries(self.classes, chunk.offsets)
        sums = prefix_sums(keys.folded[data] * keys.byte_powers[: len(data)])
        self.starts: Ints = starts
        self.plain: U64 = splitmix64((sums[ends] - sums[starts]) * keys.byte_inverses[starts])
        self.bounds: Ints = np.searchsorted(starts, chunk.offsets)
        self.counts: Ints = np.diff(self.bounds)
        """Words of each row."""

    @cached_property
    def rows(self) -> Ints:
        """The row of each word."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def sequence(self) -> Sequence:
        return Sequence.of(self.keys, self.plain, self.bounds)

    @cached_property
    def numeric(self) -> Flags:
        """Whether the word has a digit."""
        flags = np.zeros(len(self.plain), np.bool_)
        digits = np.flatnonzero((self.classes & _DIGIT) != 0)
        flags[np.searchsorted(self.starts, digits, "right") - 1] = True
        return flags

    @cached_property
    def masked(self) -> U64:
        """Hashes of the words, one fixed token for each that has a digit."""
        return np.where(self.numeric, self.keys.number, self.plain)

    def whole(self, kind: np.uint64) -> U64:
        """One hash a row: all words and, apart from them, all punctuation marks in their order; 0 where neither is."""
        sequence = self.sequence
        hashes = splitmix64(sequence.spans(self.bounds[:-1], self.bounds[1:]))
        marks = np.flatnonzero((self.classes & _MARK) != 0)
        sums = prefix_sums(self.keys.raw[self.chunk.data[marks]] * self.keys.byte_powers[: len(marks)])
        at = np.searchsorted(marks, self.chunk.offsets)
        hashes = fold(hashes, (sums[at[1:]] - sums[at[:-1]]) * self.keys.byte_inverses[at[:-1]])
        hashes = self._finish(hashes, kind)
        hashes[(self.counts == 0) & (np.diff(at) == 0)] = 0
        return hashes

    def masked_whole(self, kind: np.uint64) -> U64:
        """One hash a row of all words with numbers masked; 0 where there are none."""
        sequence = Sequence.of(self.keys, self.masked, self.bounds)
        hashes = self._finish(sequence.spans(self.bounds[:-1], self.bounds[1:]), kind)
        hashes[self.counts == 0] = 0
        return hashes

    def prefix(self, n: int, kind: np.uint64) -> U64:
        """One hash a row of the first n words; 0 where there are fewer."""
        return self._anchor(self.bounds[:-1], n, kind)

    def suffix(self, n: int, kind: np.uint64) -> U64:
        """One hash a row of the last n words; 0 where there are fewer."""
        return self._anchor(self.bounds[1:] - n, n, kind)

    def skeleton(self, kind: np.uint64) -> U64:
        """One hash a row of the words outside quotations and code, runs of numbers as one token; 0 where none is left.

        Equal for texts that differ only in their numbers and in what stands between quotation marks or in code. The
        number of quoted spans counts.
        """
        spans = np.zeros(len(self.counts), np.uint64)
        kept = np.arange(len(self.plain))
        if (quotes := np.flatnonzero((self.classes & _QUOTE) != 0)).size:
            kept = np.flatnonzero(~self._quoted(quotes, spans))
        numeric = self.numeric[kept]
        if numeric.any():
            repeats = numeric[1:] & numeric[:-1] & (self.rows[kept[1:]] == self.rows[kept[:-1]])
            kept = kept[np.concatenate(([True], ~repeats))]
        bounds = np.searchsorted(kept, self.bounds)
        sequence = Sequence.of(self.keys, self.masked[kept], bounds)
        hashes = fold(sequence.spans(bounds[:-1], bounds[1:]), spans)
        hashes = self._finish(hashes, kind)
        hashes[np.diff(bounds) == 0] = 0
        return hashes

    def _quoted(self, quotes: Ints, spans: U64) -> Flags:
        """Whether each word is quoted; `spans` is filled with the quoted spans of each row."""
        offsets, data = self.chunk.offsets, self.chunk.data.data
        begins: list[int] = []
        ends: list[int] = []
        for row in np.unique(np.searchsorted(offsets, quotes, "right") - 1).tolist():
            low = int(offsets[row])
            found = [match.span() for match in _QUOTED.finditer(data[low : int(offsets[row + 1])])]
            spans[row] = len(found)
            begins += [low + begin for begin, _ in found]
            ends += [low + end for _, end in found]
        steps = np.zeros(len(self.plain) + 1, np.int32)
        np.add.at(steps, np.searchsorted(self.starts, np.array(begins, np.int64)), 1)
        np.subtract.at(steps, np.searchsorted(self.starts, np.array(ends, np.int64)), 1)
        return np.cumsum(steps[:-1]) > 0

    def _anchor(self, begin: Ints, n: int, kind: np.uint64) -> U64:
        hashes = np.zeros(len(self.counts), np.uint64)
        rows = np.flatnonzero(self.counts >= n)
        hashes[rows] = _nonzero(splitmix64(self.sequence.spans(begin[rows], begin[rows] + n) ^ kind))
        return hashes

    def _finish(self, hashes: U64, kind: np.uint64) -> U64:
        hashes = splitmix64(hashes ^ kind)
        cut = self.chunk.cut_bytes
        if cut.any():
            rows = np.flatnonzero(cut)
            hashes[rows] = fold(hashes[rows], cut[rows].astype(np.uint64))
        return _nonzero(hashes)


def _boundaries(classes: Bytes, offsets: Ints) -> tuple[Ints, Ints]:
    """Where each word starts, and the byte after its last; no word crosses a row."""
    word = classes & _WORD
    start = word.copy()
    start[1:] &= word[:-1] ^ 1
    start |= (classes & _LEAD) >> 1
    rows = offsets[:-1]
    rows = rows[rows < len(word)]
    start[rows] = word[rows]
    end = word.copy()
    end[:-1] &= (word[1:] ^ 1) | start[1:]
    # As booleans: numpy finds those several times faster.
    return np.flatnonzero(start.view(np.bool_)), np.flatnonzero(end.view(np.bool_)) + 1


def _nonzero(hashes: U64) -> U64:
    """0 stands for 'none', so a hash that happens to be 0 becomes 1."""
    return np.maximum(hashes, np.uint64(1))
