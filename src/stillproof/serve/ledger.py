"""The sealed ledger: coins and facts about what was served, keyed by exchange id, durable before they are used.

A coin is a keyed pseudo-random number: whoever holds the key can recompute it (so the ledger cannot be bent
afterwards to fit the evidence, once the key was committed to), and nobody else can predict it.

    word(c) = the first 8 bytes, big-endian, of HMAC-SHA256(key, m_c)
    m_c     = canonical JSON ["stillproof.coin.1", version, purpose, exchange id, n, c],  c = 0, 1, 2, ...
    coin    = word(c) mod n for the first c with word(c) < 2**64 - (2**64 mod n)

Rejecting the incomplete last block makes each of the n values exactly equally likely for a uniform word.

The ledger is a folder of its own, outside every store. Nothing that reads or exports exchanges reads it.
"""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from stillproof.errors import CustodyError, InputError, StorageError
from stillproof.exchange import canonical_json
from stillproof.serve.custody import KeyRing, append_line, outside_stores, replace_owner_only, require_owner_only
from stillproof.store.disk import refusing
from stillproof.store.lock import Lock

WORD_BITS = 64
MAX_SIDES = 1 << 32
COIN = "coin"
LEDGER_FILE = "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a coin (kind 'coin', with purpose, sides and key), or a fact noted under any other kind."""

    id: str
    kind: str
    value: Any
    """A coin's number; else any JSON value."""
    time: str
    """ISO 8601, UTC."""
    purpose: str | None = None
    n: int | None = None
    key: str | None = None
    version: int | None = None


def coin(key: bytes, version: int, purpose: str, exchange_id: str, n: int) -> int:
    """The coin with n sides for one exchange and purpose: uniform on 0..n-1 to all who lack the key."""
    if not 1 <= n <= MAX_SIDES:
        raise InputError(f"a coin of {n} sides", purpose, f"use 1 to {MAX_SIDES}")
    counter = 0
    while True:
        message = canonical_json(["stillproof.coin.1", version, purpose, exchange_id, n, counter])
        digest = hmac.new(key, message.encode("utf-8", "surrogatepass"), sha256).digest()
        value = reduced(int.from_bytes(digest[: WORD_BITS // 8]), n)
        if value is not None:
            return value
        counter += 1


def reduced(word: int, n: int, bits: int = WORD_BITS) -> int | None:
    """word mod n; None for a word in the incomplete last block, which would favour the small values."""
    return word % n if word < (1 << bits) - (1 << bits) % n else None


class Ledger:
    """`ledger.jsonl` in a folder of mode 0700, one writer at a time. A context manager.

    Raises CustodyError inside a store or where others may read it, StorageError while another writer is there.
    """

    def __init__(
        self,
        folder: Path,
        ring: KeyRing,
        key_name: str,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open or make a ledger whose coins are tossed under the latest version of a key."""
        outside_stores(folder)
        self._ring = ring
        self._key_name = key_name
        opening = ring.opening(key_name)
        self._version, self._key = opening.version, bytes.fromhex(opening.key)
        with refusing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_owner_only(folder)
        self.folder = folder
        self._clock = clock
        self._thread_lock = threading.Lock()
        self._lock: Lock | None = Lock(folder / "lock")
        self._entries: dict[str, list[Entry]] = {}
        try:
            for entry in self._read():
                self._entries.setdefault(entry.id, []).append(entry)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the next writer in. Everything recorded is durable already."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def toss(self, exchange_id: str, purpose: str, n: int) -> int:
        """A coin with n sides, recorded durably before it is returned. Tossed again, it shows the same side.

        Raises CustodyError where the coin of this exchange and purpose was tossed with another number of sides.
        """
        with self._thread_lock:
            for entry in self._entries.get(exchange_id, ()):
                if entry.kind == COIN and entry.purpose == purpose:
                    if entry.n != n:
                        raise CustodyError(
                            f"this coin was tossed with {entry.n} sides, now {n} are asked for",
                            f"{exchange_id}: {purpose}",
                            "use another purpose for another coin",
                        )
                    return int(entry.value)
            value = coin(self._key, self._version, purpose, exchange_id, n)
            self._append(Entry(exchange_id, COIN, value, self._time(), purpose, n, self._key_name, self._version))
            return value

    def note(self, exchange_id: str, kind: str, value: Any) -> None:
        """Record another sealed fact: which card, which mark key, the twin that was not served. Durable on return."""
        if kind == COIN:
            raise InputError("a coin is tossed, not noted", exchange_id, "use toss, or another kind")
        with self._thread_lock:
            self._append(Entry(exchange_id, kind, value, self._time()))

    def read(self, exchange_id: str) -> tuple[Entry, ...]:
        """What is known of an exchange, in the order it was recorded."""
        with self._thread_lock:
            return tuple(self._entries.get(exchange_id, ()))

    def __iter__(self) -> Iterator[Entry]:
        with self._thread_lock:
            entries = [entry for found in self._entries.values() for entry in found]
        yield from entries

    def forget(self, ids: Iterable[str]) -> int:
        """Erase all entries of some exchanges from the disk; returns how many. A crash leaves all or none erased."""
        with self._thread_lock:
            self._require_open()
            gone = set(ids) & self._entries.keys()
            if not gone:
                return 0
            kept = {name: entries for name, entries in self._entries.items() if name not in gone}
            lines = [_line(entry) + "\n" for entries in kept.values() for entry in entries]
            replace_owner_only(self._path, "".join(lines))
            erased = sum(len(self._entries[name]) for name in gone)
            self._entries = kept
            return erased

    def verify(self) -> None:
        """Toss every recorded coin again, under its own key version. Raises CustodyError for one that differs."""
        for entry in self:
            if entry.kind != COIN:
                continue
            key = self._ring.key(str(entry.key), entry.version)
            if coin(key, entry.version or 0, entry.purpose or "", entry.id, entry.n or 0) != entry.value:
                raise CustodyError(
                    "a recorded coin is not what its key gives", f"{entry.id}: {entry.purpose}", "restore the ledger"
                )

    @property
    def _path(self) -> Path:
        return self.folder / LEDGER_FILE

    def _time(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds")

    def _append(self, entry: Entry) -> None:
        self._require_open()
        append_line(self._path, _line(entry))
        self._entries.setdefault(entry.id, []).append(entry)

    def _require_open(self) -> None:
        if self._lock is None:
            raise StorageError("the ledger is closed", str(self.folder), "open it again")

    def _read(self) -> Iterator[Entry]:
        return read_entries(self.folder)


def read_entries(folder: Path) -> Iterator[Entry]:
    """Everything a ledger recorded, in that order; needs no key, and takes no lock. Raises CustodyError where others
    may read it, or a line is no entry."""
    path = folder / LEDGER_FILE
    if not path.exists():
        return
    require_owner_only(path)
    with refusing(path):
        data = path.read_bytes()
    # A last line without its end was never returned to anyone; the next append cuts it off.
    for number, raw in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            yield Entry(**json.loads(raw))
        except (ValueError, TypeError) as error:
            raise CustodyError("not a ledger entry", f"{path}:{number}", "restore the file from a backup") from error


def _line(entry: Entry) -> str:
    row = {name: value for name, value in asdict(entry).items() if value is not None or name == "value"}
    return json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
