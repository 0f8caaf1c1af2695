"""Exchanges on disk: a folder that only grows, survives kill -9 and a full disk, and can forget an account.

    store.json               what it is, and the schema version
    journal-NNNNNN.jsonl     the newest exchanges, each durable before `append` returned       journal.py
    segments/NNNNNN.parquet  sealed journals; a number is a journal or a segment, never both    segments.py
    journal-NNNNNN.torn      bytes a crash left half-written, set aside                        journal.py
    failures.jsonl           calls that gave no answer worth keeping: no data, only a record    failures.py
    pseudonym.key            key of the account pseudonyms, owner only, made on demand          pseudonym.py
    lock                     one writer at a time; any number of readers                        lock.py

`read_jsonl` and `write_jsonl` (jsonl.py) are the same exchanges as a plain file.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stillproof.errors import InputError, OutputExistsError, SchemaError, StorageError
from stillproof.exchange import (
    SCHEMA_VERSION,
    Exchange,
    check,
    content_hash,
    sha256_of,
    to_line,
    to_table,
    with_ids,
)
from stillproof.store import failures
from stillproof.store.disk import refusing, remove_file, remove_unfinished, replace_file
from stillproof.store.journal import Journal, Torn, count_lines, read_journal, repair_journal, write_lines
from stillproof.store.jsonl import read_jsonl, write_jsonl
from stillproof.store.lock import Lock
from stillproof.store.pseudonym import create_key, is_pseudonym, pseudonym, read_key, require_pseudonym
from stillproof.store.segments import count_rows, read_segment, segment_table, write_segment

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Store", "Torn", "is_pseudonym", "pseudonym", "read_jsonl", "require_pseudonym", "write_jsonl"]

STORE_VERSION = 1
SEAL_BYTES = 64 << 20
"""A journal larger than this becomes a segment before the next append."""

_CONTENT_ID = re.compile(r"([0-9a-f]{40})-([0-9]+)")
_log = logging.getLogger(__name__)


class Store:
    """A folder of exchanges. Reading takes no lock; the first `append`, `seal` or `forget` takes the writer's.

    Use it as a context manager, or `close` it, so that the next writer can start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn: tuple[Torn, ...] = ()
        """What opening found half-written and set aside."""
        self._lock: Lock | None = None
        self._journal: Journal | None = None
        self._counts: Counter[str] | None = None
        self._ids: set[str] = set()
        self._fingerprints: dict[str, bytes] | None = None

    @classmethod
    def create(cls, path: Path) -> Store:
        """A new, empty store. Raises OutputExistsError where the folder already holds something else."""
        with refusing(path):
            if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - _UNFINISHED):
                raise OutputExistsError("is there already", str(path), "open it, or name a new folder")
            (path / "segments").mkdir(parents=True, exist_ok=True)
        about = {"stillproof.store": STORE_VERSION, "stillproof.exchange": SCHEMA_VERSION}
        replace_file(path / "store.json", lambda file: file.write(json.dumps(about).encode() + b"\n"))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Store:
        """An existing store, recovered from whatever stopped its last writer.

        Raises InputError where the folder is no store, SchemaError for an unknown version, StorageError for damage.
        What recovery set aside is in `torn`. While another process writes, nothing is recovered and nothing needs to.
        """
        _check_version(path)
        store = cls(path)
        try:
            lock = Lock(path / "lock")
        except StorageError as error:
            _log.debug("opened for reading only: %s", error)
            return store
        try:
            store._recover()
        except StorageError as error:
            # A full or read-only disk must not keep anyone from reading; the first write tries again.
            _log.warning("not recovered: %s", error)
        finally:
            lock.release()
        return store

    @staticmethod
    def is_store(path: Path) -> bool:
        return (path / "store.json").is_file()

    def close(self) -> None:
        """Let go of the writer's lock. Everything appended is already durable."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    # --- write ------------------------------------------------------------------------------------------------

    def append(self, exchange: Exchange) -> Exchange:
        """Store one exchange, durably, and return it as stored (with an id). For many, see `append_many`."""
        return self.append_many([exchange])[0]

    def append_many(self, exchanges: Iterable[Exchange]) -> list[Exchange]:
        """Store some exchanges with one wait for the disk; all are durable when it returns, or none is stored.

        One that is stored already, equal in every field, is not stored again. Raises InputError where an id is taken
        by a different exchange, an account is not a pseudonym, or a value fits no shape; StorageError where the disk
        refuses or another writer is there.
        """
        given = list(exchanges)
        for exchange in given:
            check(exchange)
            require_pseudonym(exchange.account, exchange.id or exchange.request_key or "")
        counts = self._start_writing()
        if self._open_journal().size > SEAL_BYTES:
            self.seal()
        named = list(with_ids(given, counts))
        try:
            fresh = self._not_stored(named)
            if fresh:
                self._open_journal().write(fresh.values())
        except BaseException:
            # Counted again from disk before the next write, so that an id is never skipped nor given twice.
            self._counts = None
            raise
        self._ids.update(fresh)
        if self._fingerprints is not None:
            self._fingerprints.update((key, _fingerprint(exchange)) for key, exchange in fresh.items())
        return named

    def seal(self) -> None:
        """Turn the journal into a Parquet segment, atomically. Nothing to do where there is none."""
        self._start_writing()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        for number, path in self._parts():
            if path.suffix == ".jsonl":
                if count_lines(path):
                    write_segment(self._segment_path(number), read_journal(path))
                remove_file(path)

    def forget(self, account: str) -> tuple[str, ...]:
        """Erase every exchange of an account from journal, segments, failures and torn bytes; return their ids.

        `account` is a pseudonym, or a raw name where the store has its pseudonym key. After a crash, forget again:
        each file is either rewritten or as it was. What hangs on the ids (a ledger's coins) is the caller's to erase;
        `ids_of` names them beforehand. Blocks that the file system has freed are out of reach.
        """
        self._start_writing()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        accounts = self._names_of(account)
        ids = self.ids_of(account)
        for _, path in self._parts():
            if accounts.isdisjoint(_accounts_in(path)):
                continue
            kept = [exchange for exchange in _read_part(path) if exchange.account not in accounts]
            if not kept:
                remove_file(path)
            elif path.suffix == ".jsonl":
                replace_file(path, lambda file, kept=kept: write_lines(file, kept))  # type: ignore[misc]
            else:
                write_segment(path, kept)
        failures.forget(self.path, accounts)
        # Half a line cannot be read, so nobody can say whose it is: all of them go.
        for path in self.path.glob("*.torn"):
            remove_file(path)
        self._counts = None
        return ids

    def record_failure(self, exchange: Exchange, reason: str) -> None:
        """Note a call that gave no answer worth keeping. It is not among the store's exchanges."""
        self._start_writing()
        failures.record(self.path, exchange, reason)

    def record_teacher(self, digest: str, identity: dict[str, str | None]) -> None:
        """Note who a digest in the provenance of the exchanges is."""
        known = self.teachers()
        if known.get(digest) == identity:
            return
        self._start_writing()
        text = json.dumps(known | {digest: identity}, indent=2, sort_keys=True) + "\n"
        replace_file(self.path / "teachers.json", lambda file: file.write(text.encode()))

    def pseudonym_key(self) -> bytes:
        """The key of this store's account pseudonyms (32 bytes), made at the first call. Keep it apart from exports."""
        path = self.path / "pseudonym.key"
        return read_key(path) if path.exists() else create_key(path)

    # --- read -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Exchange]:
        """All exchanges, in order of arrival."""
        for _, path in self._parts():
            yield from self._read(path)

    def __len__(self) -> int:
        if self._counts is not None:
            return len(self._ids)
        return sum(count_lines(path) if path.suffix == ".jsonl" else count_rows(path) for _, path in self._parts())

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All exchanges as one Arrow table, of the columns named."""
        import pyarrow as pa

        names = to_table([]).schema.names if columns is None else list(columns)
        tables = [to_table([]).select(names)]
        for _, path in self._parts():
            if path.suffix == ".parquet":
                tables.append(segment_table(path, names).select(names))
            else:
                tables.append(to_table(self._read(path)).select(names))
        return pa.concat_tables(tables)

    def request_keys(self, status: int | None = 200) -> set[str]:
        """Keys of the calls whose answer is stored with that HTTP status; None takes any."""
        table = self.table(["request_key", "status"])
        rows = zip(table["request_key"].to_pylist(), table["status"].to_pylist(), strict=True)
        return {key for key, found in rows if key is not None and (status is None or found == status)}

    def ids_of(self, account: str) -> tuple[str, ...]:
        """Ids of the exchanges that `forget(account)` would erase."""
        accounts = self._names_of(account)
        table = self.table(["id", "account"])
        rows = zip(table["id"].to_pylist(), table["account"].to_pylist(), strict=True)
        return tuple(key for key, found in rows if found in accounts)

    def failures(self) -> Iterator[dict[str, Any]]:
        """What `record_failure` noted, in order."""
        return failures.read(self.path)

    def teachers(self) -> dict[str, dict[str, str | None]]:
        """The identity of each teacher noted, by digest."""
        path = self.path / "teachers.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted (id, content hash): what is stored, not how, when or in which order."""
        return sha256_of(sorted((exchange.id, content_hash(exchange)) for exchange in self))

    # --- parts ------------------------------------------------------------------------------------------------

    def _start_writing(self) -> Counter[str]:
        if self._lock is None:
            self._lock = Lock(self.path / "lock")
            self._counts = None
            self._recover()
        if self._counts is None:
            self._counts, self._ids, self._fingerprints = Counter(), set(), None
            for key in self.table(["id"])["id"].to_pylist():
                self._ids.add(key)
                if match := _CONTENT_ID.fullmatch(key):
                    self._counts[match[1]] = max(self._counts[match[1]], int(match[2]) + 1)
        return self._counts

    def _recover(self) -> None:
        """Bring the folder to a state that a crash cannot have left. Only under the lock."""
        _check_version(self.path)
        remove_unfinished(self.path)
        remove_unfinished(self.path / "segments")
        for path in sorted(self.path.glob("journal-*.jsonl")):
            # The segment's rename came last: where it is there, the journal is its double.
            if self._segment_path(_number(path)).exists():
                remove_file(path)
                continue
            torn = repair_journal(path)
            if torn is not None:
                self.torn += (torn,)
                _log.warning("set %d unreadable line(s) of %s aside in %s", len(torn.lines), path.name, torn.path)

    def _parts(self) -> list[tuple[int, Path]]:
        """Segments and journals by number; of both, the segment."""
        parts = {_number(path): path for path in self.path.glob("journal-*.jsonl")}
        parts |= {_number(path): path for path in (self.path / "segments").glob("[0-9]*.parquet")}
        return sorted(parts.items())

    def _read(self, path: Path) -> Iterator[Exchange]:
        """The exchanges of a part; of its segment, where a writer sealed the journal meanwhile."""
        sealed = self._segment_path(_number(path))
        if path.suffix == ".jsonl" and not path.exists() and sealed.exists():
            path = sealed
        return _read_part(path)

    def _not_stored(self, exchanges: list[Exchange]) -> dict[str, Exchange]:
        fresh: dict[str, Exchange] = {}
        for exchange in exchanges:
            if exchange.id not in self._ids and exchange.id not in fresh:
                fresh[exchange.id] = exchange
                continue
            if exchange.id in fresh:
                stored = _fingerprint(fresh[exchange.id])
            else:
                if self._fingerprints is None:
                    self._fingerprints = {item.id: _fingerprint(item) for item in self}
                stored = self._fingerprints[exchange.id]
            if stored != _fingerprint(exchange):
                raise InputError(
                    "this id is stored already, with a different content", exchange.id, "give each exchange its own id"
                )
        return fresh

    def _names_of(self, account: str) -> set[str]:
        path = self.path / "pseudonym.key"
        return {account, pseudonym(read_key(path), account)} if path.exists() else {account}

    def _open_journal(self) -> Journal:
        """The journal to append to: the last part, or a new one behind the last segment."""
        if self._journal is None:
            parts = self._parts()
            number, path = parts[-1] if parts else (0, self.path)
            self._journal = Journal(path if path.suffix == ".jsonl" else self._journal_path(number + 1))
        return self._journal

    def _journal_path(self, number: int) -> Path:
        return self.path / f"journal-{number:06d}.jsonl"

    def _segment_path(self, number: int) -> Path:
        return self.path / "segments" / f"{number:06d}.parquet"


_UNFINISHED = {"segments", ".store.json.tmp"}


def _check_version(path: Path) -> None:
    try:
        about = json.loads((path / "store.json").read_bytes())
        found = (about["stillproof.store"], about["stillproof.exchange"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("not a store", str(path), "give a folder that has a store.json") from None
    if found != (STORE_VERSION, SCHEMA_VERSION):
        raise SchemaError(
            f"store version {found[0]} with exchange schema {found[1]}; this version reads {STORE_VERSION} with "
            f"{SCHEMA_VERSION}",
            str(path),
            "open it with the stillproof version that wrote it",
        )


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("journal-"))


def _read_part(path: Path) -> Iterator[Exchange]:
    return read_journal(path) if path.suffix == ".jsonl" else read_segment(path)


def _accounts_in(path: Path) -> set[str | None]:
    if path.suffix == ".parquet":
        return set(segment_table(path, ["account"])["account"].to_pylist())
    return {exchange.account for exchange in read_journal(path)}


def _fingerprint(exchange: Exchange) -> bytes:
    return sha256(to_line(exchange).encode()).digest()[:16]
