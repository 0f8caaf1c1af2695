"""Salted tables and the two integer hashes that every fingerprint is made of.

    polynomial    sum of table[byte_i] * P^i mod 2^64, from prefix sums, so that every span of an array costs O(1)
    splitmix64    finaliser: spreads the bits of a polynomial hash (Steele, Lea and Flood 2014)

Everything is unsigned 64-bit arithmetic that wraps, on tables drawn from the salt by SHAKE-256: the same bytes on every
platform and every version of Python and numpy. The hash keeps outsiders from guessing texts back; it is no signature.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b, shake_256
from typing import TYPE_CHECKING

import numpy as np

from stillproof.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U64 = NDArray[np.uint64]
    Bytes = NDArray[np.uint8]
    Ints = NDArray[np.int64]

SKETCH_VERSION = 1
SPAN = 1 << 18
"""Longest array, in bytes or words, that one polynomial runs over."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_MASK = (1 << 64) - 1
_MIN_SALT_BYTES = 8


class Keys:
    """All that depends on the salt: byte tables, powers, and one constant for each kind of fingerprint."""

    def __init__(self, salt: bytes) -> None:
        if len(salt) < _MIN_SALT_BYTES:
            raise InputError(f"a salt of {len(salt)} bytes can be guessed", "salt", "give 16 random bytes or more")
        self._salt = salt
        self.raw = self._draw("raw bytes", 256)
        self.folded = self.raw.copy()
        self.folded[65:91] = self.raw[97:123]
        byte_base, word_base = (int(value) & ~7 | 5 for value in self._draw("bases", 2))
        self.byte_powers, self.byte_inverses = _powers(byte_base)
        self.word_powers, self.word_inverses = _powers(word_base)
        self.number = np.uint64(self._draw("number token", 1)[0])

    def kind(self, label: str) -> np.uint64:
        """The constant that keeps equal contents of different columns apart."""
        return np.uint64(self._draw(f"kind {label}", 1)[0])

    def _draw(self, label: str, n: int) -> U64:
        stream = shake_256(b"stillproof.sketch.%d\0%s\0" % (SKETCH_VERSION, label.encode()) + self._salt)
        return np.frombuffer(stream.digest(8 * n), dtype="<u8").astype(np.uint64)


@lru_cache(maxsize=2)
def keys_of(salt: bytes) -> Keys:
    """The keys of a salt, made once a process. Raises InputError for a salt shorter than 8 bytes."""
    return Keys(salt)


def salt_digest(salt: bytes) -> str:
    """Tells whether two sketches share a salt, without telling the salt."""
    return blake2b(salt, digest_size=16, person=b"stillproof.salt").hexdigest()


def splitmix64(values: U64) -> U64:
    """Finalised copies of the values, any shape."""
    z = values + _GOLDEN
    scratch = z >> _S30
    z ^= scratch
    z *= _MIX_1
    np.right_shift(z, _S27, out=scratch)
    z ^= scratch
    z *= _MIX_2
    np.right_shift(z, _S31, out=scratch)
    z ^= scratch
    return z


def prefix_sums(terms: U64) -> U64:
    """n + 1 sums: entry i is the sum of the first i terms."""
    sums = np.empty(len(terms) + 1, np.uint64)
    sums[0] = 0
    np.cumsum(terms, out=sums[1:])
    return sums


def fold(state: U64, value: U64 | np.uint64) -> U64:
    """Takes one more value into running hashes; order matters."""
    return splitmix64(state * _MIX_1 ^ value)


def hash_strings(keys: Keys, data: Bytes, offsets: Ints, kind: np.uint64) -> U64:
    """(n,) hashes of the raw bytes data[offsets[i]:offsets[i + 1]], exact to the byte, with the length taken in."""
    out = np.empty(len(offsets) - 1, np.uint64)
    first = 0
    while first < len(out):
        last = int(np.searchsorted(offsets, offsets[first] + SPAN, "right")) - 1
        if last <= first:
            out[first] = _hash_long(keys, data[offsets[first] : offsets[first + 1]])
            first += 1
            continue
        lo, hi = int(offsets[first]), int(offsets[last])
        sums = prefix_sums(keys.raw[data[lo:hi]] * keys.byte_powers[: hi - lo])
        at = offsets[first : last + 1] - lo
        begin = at[:-1]
        out[first:last] = (sums[at[1:]] - sums[begin]) * keys.byte_inverses[begin]
        first = last
    return splitmix64(fold(out, np.diff(offsets).astype(np.uint64)) ^ kind)


def _hash_long(keys: Keys, data: Bytes) -> np.uint64:
    """One value longer than the tables: piece by piece."""
    total = np.zeros(1, np.uint64)
    for at in range(0, len(data), SPAN):
        piece = data[at : at + SPAN]
        total = fold(total, np.uint64((keys.raw[piece] * keys.byte_powers[: len(piece)]).sum(dtype=np.uint64)))
    return np.uint64(total[0])


def _powers(base: int) -> tuple[U64, U64]:
    """base^i and base^-i for i = 0 .. SPAN."""
    tables = []
    for value in (base, pow(base, -1, 1 << 64)):
        table = np.full(SPAN + 1, value & _MASK, np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]
