"""Pseudo-random words of (key, window, token), by Philox 4x32-10: integers only, the same on every platform.

Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011. Its published test vectors
are in tests/test_watermark.py. Philox is a strong statistical generator, not a cipher: what keeps a key secret is that
nobody is shown its words, only tokens; what is derived from the secret (keys.py) is derived by SHA-256.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError

Words = NDArray[np.uint32]
Lanes = NDArray[np.uint64]
"""Four 32-bit words a key on the last axis, held in 64 bits."""

ROUNDS = 10
NO_TOKEN = 0xFFFFFFFF
"""Stands for the token where a word belongs to a window alone."""

_MULTIPLIERS = np.array((0xD2511F53, 0xCD9E8D57), dtype=np.uint64)
_WEYL = np.array((0x9E3779B9, 0xBB67AE85), dtype=np.uint32)
_STEPS = np.arange(ROUNDS, dtype=np.uint32)[:, None] * _WEYL
"""What each round adds to the key, modulo 2^32."""
_LOW, _HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)
_LITTLE = np.dtype("<i8")
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FOLD_KEY = (0x53544C4C, 0x50524F46)
"""Public: folding a window to a code is no secret, and is done once for all keys."""


_FOLD_SCHEDULE = tuple(
    ((_FOLD_KEY[0] + i * 0x9E3779B9) & 0xFFFFFFFF, (_FOLD_KEY[1] + i * 0xBB67AE85) & 0xFFFFFFFF) for i in range(ROUNDS)
)


class Stream(IntEnum):
    """What a word is for: the fourth word of the counter. Words of different streams are independent."""

    MAIN = 0
    SECOND = 1
    """The second key of Gumbel marks."""
    SHARE = 2
    """Whether a window belongs to the account's sub-key."""
    FOLD = 3
    DECOY = 4
    COIN = 5
    """A coin on a whole text."""


def philox(counter: Sequence[ArrayLike], key: Sequence[ArrayLike]) -> Words:
    """Philox 4x32-10 of four counter words under two key words, all below 2^32 and of shapes that broadcast.

    Returns the four output words, shape [4, ...].
    """
    even, odd = _encrypt(counter, key)
    return np.stack([even[0], odd[0], even[1], odd[1]])


def prf_words(lanes: ArrayLike, windows: ArrayLike, tokens: ArrayLike, stream: ArrayLike = Stream.MAIN) -> Words:
    """Uniform 32-bit words of keys, window codes and tokens; shapes broadcast.

    `lanes`: four 32-bit words a key on the last axis, shape [..., 4], as `MarkKey.lane` gives them; their leading axes
    broadcast with `windows` (64-bit codes), `tokens` and `stream`. Two lane words are Philox's key, two whiten the
    window, so that 128 bits are secret.
    """
    lane = np.asarray(lanes, dtype=np.uint64)
    window = np.asarray(windows, dtype=np.uint64)
    counter = ((window & _MASK) ^ lane[..., 2], (window >> _HALF) ^ lane[..., 3], tokens, stream)
    return _encrypt(counter, (lane[..., 0], lane[..., 1]))[0][0]


def window_codes(tokens: ArrayLike, k: int) -> NDArray[np.uint64]:
    """A 64-bit code of every run of `k` tokens along the last axis, shape [..., t] -> [..., t - k + 1].

    One or two tokens are packed as they are; longer runs are folded by Philox under a public key. Raises InputError
    for ids outside [0, 2^32 - 1) or not whole. Fewer than `k` tokens have no window: the result is empty.
    """
    ids = checked_tokens(tokens).astype(np.uint64)
    count = max(0, ids.shape[-1] - k + 1)
    runs = [ids[..., i : i + count] for i in range(k)]
    if k == 1:
        return runs[0].copy()
    code = runs[0] | (runs[1] << _HALF)
    for i in range(2, k):
        even, odd = _encrypt((code & _MASK, code >> _HALF, runs[i], int(Stream.FOLD)), _FOLD_KEY)
        code = even[0] | (odd[0].astype(np.uint64) << _HALF)
    return code


def window_code(tokens: Sequence[int]) -> int:
    """`window_codes` of one run of tokens, all of it: Python's own integers, several times faster for one window.

    Raises InputError for no tokens, and ids outside [0, 2^32 - 1).
    """
    if not tokens or min(tokens) < 0 or max(tokens) >= NO_TOKEN:
        raise InputError("token ids out of range, or none", remedy="give whole numbers of 0 or more")
    code = int(tokens[0]) if len(tokens) == 1 else int(tokens[0]) | int(tokens[1]) << 32
    for token in tokens[2:]:
        c0, c1, c2, c3 = code & 0xFFFFFFFF, code >> 32, int(token), int(Stream.FOLD)
        for k0, k1 in _FOLD_SCHEDULE:
            p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
            c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        code = c0 | c1 << 32
    return code


class RowPrf:
    """`prf_words` of one key, one window at a time, over `n` tokens: for a batch of one, where calls of numpy cost.

    The n counters lie side by side in one long integer, 64 bits each: a product of two 32-bit words fills its field and
    never reaches the next, so one multiplication of Python's multiplies all of them.
    """

    def __init__(self, lane: ArrayLike, n: int) -> None:
        """`lane`: four words. Raises InputError for another shape or no tokens."""
        words = np.asarray(lane, dtype=np.uint64)
        if words.shape != (4,) or n < 1:
            raise InputError(
                f"a lane of shape {words.shape} for {n} tokens", remedy="give one lane, at least one token"
            )
        self.n = n
        k0, k1, self._w0, self._w1 = words.tolist()
        self._ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * n, "little")
        self._mask = self._ones * 0xFFFFFFFF
        self._exponents = self._ones * (0x3FF << 52)
        steps = _STEPS.tolist()
        self._keys = [((k0 + a) & 0xFFFFFFFF, (k1 + b) & 0xFFFFFFFF) for a, b in steps]
        self._spread = [(self._ones * a, self._ones * b) for a, b in self._keys]

    def words(self, window: int, tokens: NDArray[np.int64], stream: int = 0) -> NDArray[np.uint64]:
        """Words of a window code and of token ids [n], 32 bits each in 64."""
        return np.frombuffer(self._side_by_side(window, tokens, stream).to_bytes(8 * self.n, "little"), dtype="<u8")

    def uniforms(self, window: int, tokens: NDArray[np.int64], stream: int = 0) -> NDArray[np.float64]:
        """(word + 1/2) / 2^32, exactly: words are put where a float64 between 1 and 2 has its digits."""
        digits = self._side_by_side(window, tokens, stream) << 20 | self._exponents
        return np.frombuffer(digits.to_bytes(8 * self.n, "little"), dtype="<f8") - (1 - 2.0**-33)

    def _side_by_side(self, window: int, tokens: NDArray[np.int64], stream: int) -> int:
        ones, mask = self._ones, self._mask
        c0, c1 = (window & 0xFFFFFFFF) ^ self._w0, (window >> 32) ^ self._w1
        # Of the first two rounds, half is the same for every token.
        (k0, k1), (j0, j1) = self._keys[:2]
        p0 = c0 * 0xD2511F53
        counters = tokens if tokens.dtype == _LITTLE else tokens.astype(_LITTLE)
        q1 = int.from_bytes(counters.tobytes(), "little") * 0xCD9E8D57
        a = ((q1 >> 32) & mask) ^ (ones * (c1 ^ k0))
        c2 = (p0 >> 32) ^ stream ^ k1
        p1 = c2 * 0xCD9E8D57
        q0 = a * 0xD2511F53
        a = (q1 & mask) ^ (ones * ((p1 >> 32) ^ j0))
        b = ((q0 >> 32) & mask) ^ (ones * ((p0 & 0xFFFFFFFF) ^ j1))
        q1 = ones * (p1 & 0xFFFFFFFF)
        for k0, k1 in self._spread[2:-1]:
            n0, n1 = a * 0xD2511F53, b * 0xCD9E8D57
            # The upper half of this round's product meets the lower half of the last one's, in one step for both.
            a, b = (((n1 >> 32) ^ q1) & mask) ^ k0, (((n0 >> 32) ^ q0) & mask) ^ k1
            q0, q1 = n0, n1
        return (((b * 0xCD9E8D57 >> 32) ^ q1) & mask) ^ self._spread[-1][0]


def checked_tokens(tokens: ArrayLike) -> NDArray[np.int64]:
    """Token ids as they are. Raises InputError for what is not a whole number in [0, 2^32 - 1)."""
    ids = np.asarray(tokens)
    if ids.size == 0:
        return np.zeros(ids.shape if ids.ndim else (0,), dtype=np.int64)
    if ids.ndim == 0 or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= NO_TOKEN:
        raise InputError(f"token ids of type {ids.dtype}, or out of range", remedy="give whole numbers of 0 or more")
    return ids.astype(np.int64)


def _encrypt(counter: Sequence[ArrayLike], key: Sequence[ArrayLike]) -> tuple[Words, Words]:
    """Words 0 and 2, and words 1 and 3, each of shape [2, ...]: two lanes an operation are half the calls.

    Halves of the 64-bit products are read as they lie in memory. Products alternate between two buffers, because the
    lower halves of one round are still in use while the next round multiplies.
    """
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, dtype=np.uint64) for word in key)
    shape = np.broadcast_shapes(c0.shape, c1.shape, c2.shape, c3.shape, k0.shape, k1.shape)
    even, odd = np.empty((2, *shape), dtype=np.uint32), np.empty((2, *shape), dtype=np.uint32)
    even[0], even[1], odd[0], odd[1] = c0, c2, c1, c3
    products = [np.empty((2, *shape), dtype=np.uint64) for _ in range(2)]
    halves = [product.view(np.uint32).reshape((2, *shape, 2))[::-1] for product in products]
    lined_up = (2, *(1,) * len(shape))
    multipliers = _MULTIPLIERS.reshape(lined_up)
    # Shaped like the key only, which scoring has once for a whole block of tuples.
    rank = np.broadcast_shapes(k0.shape, k1.shape)
    keys = np.empty((2, *(1,) * (len(shape) - len(rank)), *rank), dtype=np.uint32)
    keys[0], keys[1] = k0, k1
    schedule = keys + _STEPS.reshape((ROUNDS, *lined_up))
    for i in range(ROUNDS):
        half = halves[i % 2]
        np.multiply(even, multipliers, out=products[i % 2])
        np.bitwise_xor(half[..., _HIGH], odd, out=even)
        np.bitwise_xor(even, schedule[i], out=even)
        odd = half[..., _LOW]
    return even, odd
