"""Text as UTF-8 bytes in one array, brought to the form in which it is compared.

ASCII needs no work here: the byte tables fold case, and words are cut at everything that is no letter or digit. A row
with any other byte is decoded and goes through `canonical`: NFKC, characters without a shape removed, case folded,
typographic marks written as ASCII ones. A text longer than `MAX_BYTES` keeps its head and tail; its length is then
taken into the fingerprints of the whole text.

Unicode guarantees that assigned characters keep their NFKC form and case folding; characters newer than Python 3.11's
tables (Unicode 14) may differ between versions of Python.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillproof.guard.sketch.keys import SPAN

if TYPE_CHECKING:
    import pyarrow as pa

    from stillproof.guard.sketch.keys import Bytes, Ints

MAX_BYTES = 64 << 10
"""A longer text is cut to its first and last `MAX_BYTES` / 2."""
CHUNK_BYTES = 128 << 10
"""Text handled at once: small enough that its arrays stay in the cache."""
CHUNK_ROWS = 2048

# Characters that draw nothing: format characters, bidirectional marks, variation selectors, fillers, tags. Written out,
# because Python's own tables grow with its version.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
# The zeros of other scripts' decimal digits.
_ZEROS = (
    0x0660,
    0x06F0,
    0x07C0,
    0x0966,
    0x09E6,
    0x0A66,
    0x0AE6,
    0x0B66,
    0x0BE6,
    0x0C66,
    0x0CE6,
    0x0D66,
    0x0DE6,
    0x0E50,
    0x0ED0,
    0x0F20,
    0x1040,
    0x1090,
    0x17E0,
    0x1810,
    0x1946,
    0x19D0,
    0x1A80,
    0x1A90,
    0x1B50,
    0x1BB0,
    0x1C40,
    0x1C50,
    0xA620,
    0xA8D0,
    0xA900,
    0xA9D0,
    0xA9F0,
    0xAA50,
    0xABF0,
)
# Marks and spaces outside ASCII, and decimal digits of other scripts.
_MARKS = re.compile(
    "[\u0080-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u037e\u0387\u055a-\u055f\u0589\u058a\u05be\u05c0"
    "\u05c3\u05c6\u05f3\u05f4\u060c\u060d\u061b\u061e\u061f\u066a-\u066d\u06d4\u0964\u0965\u0970\u0e4f\u0e5a\u0e5b\u1680"
    "\u2000-\u206f\u2190-\u2bff\u2e00-\u2e7f\u3000-\u3004\u3008-\u3020\u3030\u303d\u30a0\u30fb\ufffd"
    + "".join(f"{chr(zero)}-{chr(zero + 9)}" for zero in _ZEROS)
    + "]"
)
_ASCII_FOR = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u300c\u300d\u300e\u300f\u301d\u301e\u301f", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2039\u203a", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of a column, normalised except for ASCII case."""

    first: int
    """Row of the column that is row 0 here."""
    data: Bytes
    offsets: Ints
    """(n + 1,): row i is data[offsets[i]:offsets[i + 1]]."""
    cut_bytes: Ints
    """(n,) original length of rows that were cut, 0 for all others."""

    def __len__(self) -> int:
        return len(self.cut_bytes)


def canonical(text: str) -> str:
    """The text without invisible characters, in NFKC, case folded, typographic marks as ASCII ones."""
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    text = _INVISIBLE.sub("", text).casefold()
    if not text.isascii():
        text = _MARKS.sub(_mark, unicodedata.normalize("NFKC", text))
    return text


def bytes_of(column: pa.Array) -> tuple[Bytes, Ints]:
    """The bytes of a string column and its (n + 1,) offsets, without a copy. Nulls must have been filled."""
    import pyarrow as pa

    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    _, offsets, data = column.buffers()
    if len(column) == 0 or offsets is None:
        return np.empty(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    kind = np.dtype(np.int64 if wide else np.int32)
    at = np.frombuffer(offsets, kind, len(column) + 1, column.offset * kind.itemsize).astype(np.int64)
    return (np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)), at


def chunks_of(data: Bytes, offsets: Ints) -> Iterator[Chunk]:
    """The rows in order, in pieces of about `CHUNK_BYTES`. Any bytes are accepted, valid UTF-8 or not."""
    first, n = 0, len(offsets) - 1
    lengths = np.diff(offsets)
    # A long row counts as what is left of it, so that one chunk never exceeds CHUNK_BYTES + MAX_BYTES.
    ends = np.cumsum(np.minimum(lengths, MAX_BYTES))
    while first < n:
        done = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, done + CHUNK_BYTES, "right"))
        last = min(max(last, first + 1), n, first + CHUNK_ROWS)
        yield from _within(_chunk(data, offsets[first : last + 1], first))
        first = last


def character_counts(data: Bytes, offsets: Ints) -> Ints:
    """(n,) characters of each row, of the original text: bytes that do not continue a UTF-8 sequence."""
    counts = np.diff(offsets)
    lo, hi = int(offsets[0]), int(offsets[-1])
    for at in range(lo, hi, 1 << 20):
        piece = data[at : min(at + (1 << 20), hi)]
        if piece.max() < 0x80:
            continue
        inner = np.flatnonzero((piece & 0xC0) == 0x80) + at
        counts -= np.diff(np.searchsorted(inner, offsets))
    return counts


def _chunk(data: Bytes, offsets: Ints, first: int) -> Chunk:
    lo, hi = int(offsets[0]), int(offsets[-1])
    lengths = np.diff(offsets)
    cut = np.where(lengths > MAX_BYTES, lengths, 0)
    window = data[lo:hi]
    if not cut.any() and (hi == lo or int(window.max()) < 0x80):
        return Chunk(first, window, offsets - lo, cut)
    at = offsets - lo
    special = cut > 0
    for begin in range(0, len(window), 1 << 20):
        high = np.flatnonzero(window[begin : begin + (1 << 20)] >= 0x80) + begin
        special |= np.diff(np.searchsorted(high, at)) > 0
    pieces: list[bytes] = []
    copied = 0
    for row in np.flatnonzero(special).tolist():
        begin, end = int(at[row]), int(at[row + 1])
        rewritten = _rewrite(window[begin:end])
        pieces += (window[copied:begin].tobytes(), rewritten)
        copied = end
        lengths[row] = len(rewritten)
    pieces.append(window[copied:].tobytes())
    ends = np.zeros(len(offsets), np.int64)
    np.cumsum(lengths, out=ends[1:])
    return Chunk(first, np.frombuffer(b"".join(pieces), np.uint8), ends, cut)


def _within(chunk: Chunk) -> Iterator[Chunk]:
    """The chunk, or parts of it where NFKC made it longer than the tables: some characters become eighteen."""
    if len(chunk.data) <= SPAN:
        yield chunk
        return
    first = 0
    while first < len(chunk):
        last = int(np.searchsorted(chunk.offsets, chunk.offsets[first] + SPAN, "right")) - 1
        at = chunk.offsets[first : last + 1]
        data = chunk.data[int(at[0]) : int(at[-1])]
        yield Chunk(chunk.first + first, data, at - at[0], chunk.cut_bytes[first:last])
        first = last


def _rewrite(row: Bytes) -> bytes:
    kept = _ends(row.tobytes() if len(row) <= MAX_BYTES else _ends_of_array(row))
    if kept.isascii():
        return kept
    return _ends(canonical(kept.decode("utf-8", "replace")).encode("utf-8"))


def _ends_of_array(row: Bytes) -> bytes:
    half = MAX_BYTES // 2
    return row[:half].tobytes() + row[-half:].tobytes()


def _ends(text: bytes) -> bytes:
    half = MAX_BYTES // 2
    return text if len(text) <= MAX_BYTES else text[:half] + text[-half:]


def _mark(match: re.Match[str]) -> str:
    char = match[0]
    if char in _ASCII_FOR:
        return _ASCII_FOR[char]
    return str(unicodedata.decimal(char, 0)) if char.isdecimal() else " "
