"""One root over salted hashes of exchanges: what a student learned from, without showing it.

The leaf of an exchange is SHA-256(0x00 || salt || content hash), with salt = HMAC-SHA256(key, "leaf" || index); inner
nodes are SHA-256(0x01 || left || right); an odd last node moves up unchanged (RFC 6962, section 2.1). Who holds the key
can show that one exchange was in the training data, by its salt and a proof of log2(n) hashes, and say nothing of the
others. Who does not cannot try prompts against the root: each leaf has a salt of 256 unknown bits.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stillproof.errors import InputError

KEY_BYTES = 32
ALGORITHM = "sha256-merkle-salted/1"


@dataclass(frozen=True, slots=True)
class Proof:
    """That one leaf is under a root. `way`: from the leaf up, the neighbour's hash and the side it stands on."""

    index: int
    n: int
    salt: str
    way: tuple[tuple[Literal["left", "right"], str], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def salt_of(key: bytes, index: int) -> bytes:
    """The salt of the exchange at a place in the data order. Raises InputError for a key that is no 32 bytes."""
    if len(key) != KEY_BYTES:
        raise InputError(f"a salt key of {len(key)} bytes", remedy=f"give {KEY_BYTES} random bytes")
    return hmac.new(key, b"leaf" + index.to_bytes(8, "big"), hashlib.sha256).digest()


def leaf(salt: bytes, content_sha256: str) -> bytes:
    """The leaf of an exchange: its salt and its content hash (hex, as `exchange.content_hash` gives it)."""
    return hashlib.sha256(b"\x00" + salt + bytes.fromhex(content_sha256)).digest()


def root_of(key: bytes, contents: Iterable[str]) -> dict[str, Any]:
    """`algorithm`, `root` (hex) and `n` over content hashes in data order. Raises InputError where there are none."""
    leaves = [leaf(salt_of(key, index), content) for index, content in enumerate(contents)]
    if not leaves:
        raise InputError("no exchange to take a root over", remedy="give the exchanges that were learned from")
    return {"algorithm": ALGORITHM, "root": _levels(leaves)[-1][0].hex(), "n": len(leaves)}


def prove(key: bytes, contents: Sequence[str], index: int) -> Proof:
    """The proof of the exchange at `index`. Raises InputError for an index outside the data."""
    if not 0 <= index < len(contents):
        raise InputError(f"no exchange {index} among {len(contents)}", remedy="count from 0 in the data order")
    levels = _levels([leaf(salt_of(key, at), content) for at, content in enumerate(contents)])
    way: list[tuple[Literal["left", "right"], str]] = []
    at = index
    for level in levels[:-1]:
        beside = at ^ 1
        if beside < len(level):
            way.append(("left" if beside < at else "right", level[beside].hex()))
        at //= 2
    return Proof(index, len(contents), salt_of(key, index).hex(), tuple(way))


def holds(proof: Proof, content_sha256: str, root: str) -> bool:
    """Whether the proof leads from this content to this root."""
    try:
        node = leaf(bytes.fromhex(proof.salt), content_sha256)
        for side, beside in proof.way:
            pair = (bytes.fromhex(beside), node) if side == "left" else (node, bytes.fromhex(beside))
            node = hashlib.sha256(b"\x01" + pair[0] + pair[1]).digest()
    except ValueError:
        return False
    return node.hex() == root


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [hashlib.sha256(b"\x01" + below[at] + below[at + 1]).digest() for at in range(0, len(below) - 1, 2)]
        levels.append([*above, below[-1]] if len(below) % 2 else above)
    return levels
