"""Keys in custody: created once, rotated but never lost, and committed to before they are used.

A commitment is a hash that its owner publishes before serving. Later the owner opens it (shows key and nonce), and
any stranger can check that this very key was fixed before the evidence existed:

    commitment = SHA-256 of the canonical JSON ["stillproof.commitment.1", name, version, nonce, key]  (hex strings)

The nonce, 256 random bits, keeps a commitment from being tried against guessed keys. Commitments are lines of
`commitments.jsonl`, each with the hash of the line before it, so a later edit breaks every later line; publishing
the newest hash (`head`) with a date fixes all lines up to it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.errors import CustodyError, InputError, OutputExistsError
from stillproof.exchange import canonical_json, sha256_of
from stillproof.store import Store
from stillproof.store.disk import refusing, sync_folder
from stillproof.store.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
KEY_BYTES = 32
_MAX_OPENING_BYTES = 64 << 10
FIRST_LINE: str = "0" * 64


@dataclass(frozen=True, slots=True)
class Commitment:
    """One line of `commitments.jsonl`: safe to publish."""

    name: str
    version: int
    commitment: str
    created: str
    """ISO 8601, UTC. The owner's own clock: what makes it evidence is publishing it."""
    previous: str
    """SHA-256 of the line before, 64 zeros for the first."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What its owner shows when a claim is made. After that the key is no secret: rotate first."""

    name: str
    version: int
    nonce: str = field(repr=False)
    key: str = field(repr=False)


def opens(opening: Opening, commitment: Commitment) -> bool:
    """Whether an opening is that of a commitment. For strangers: needs no key ring."""
    fits = (opening.name, opening.version) == (commitment.name, commitment.version)
    return fits and secrets.compare_digest(committed(opening), commitment.commitment)


def committed(opening: Opening) -> str:
    """The commitment that an opening opens."""
    return sha256_of(["stillproof.commitment.1", opening.name, opening.version, opening.nonce, opening.key])


class KeyRing:
    """A folder of keys: NAME.vN.key, readable by the owner alone, and `commitments.jsonl`.

    Raises CustodyError where a key file or the folder is open to others, belongs to somebody else or is a link.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open a key ring; an absent folder is made, with mode 0700. Refused inside a store."""
        outside_stores(folder)
        with refusing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_owner_only(folder)
        self.folder = folder
        self._clock = clock

    def create(self, name: str) -> Commitment:
        """Version 1 of a new key; returns the commitment to publish. Raises OutputExistsError for a known name."""
        if self.versions(name):
            raise OutputExistsError("a key of that name exists", name, "rotate it, or choose another name")
        return self._new(name, 1)

    def rotate(self, name: str) -> Commitment:
        """The next version of a key. Earlier ones stay, so that what was made under them can still be verified."""
        return self._new(name, self._latest(name) + 1)

    def key(self, name: str, version: int | None = None) -> bytes:
        """The 32 bytes of a key; None is the latest version."""
        return bytes.fromhex(self.opening(name, version).key)

    def versions(self, name: str) -> tuple[int, ...]:
        _require_name(name)
        found = [
            re.fullmatch(re.escape(name) + r"\.v([1-9][0-9]*)\.key", entry.name) for entry in self.folder.iterdir()
        ]
        return tuple(sorted(int(match[1]) for match in found if match))

    def opening(self, name: str, version: int | None = None) -> Opening:
        """Key and nonce of a version. Showing it gives the key away."""
        number = self._latest(name) if version is None else version
        path = self._path(name, number)
        if not path.exists() and not path.is_symlink():
            raise CustodyError(
                f"there is no version {number} of this key", name, f"known: {list(self.versions(name))}; restore it"
            )
        require_owner_only(path)
        opening = _read_opening(path)
        if opening is None or (opening.name, opening.version) != (name, number):
            raise CustodyError("not a key file of this name and version", str(path), "restore it from a backup")
        return opening

    def commitment(self, name: str, version: int | None = None) -> Commitment:
        """The published half of a key. `create` and `rotate` have written it; after a crash between the two it is
        written now."""
        opening = self.opening(name, version)
        lock = Lock(self.folder / "lock")
        try:
            for line in self.commitments():
                if (line.name, line.version) == (opening.name, opening.version):
                    return line
            created = self._clock().astimezone(UTC).isoformat(timespec="seconds")
            line = Commitment(opening.name, opening.version, committed(opening), created, self.head())
            append_line(self._commitments_path, canonical_json(asdict(line)))
            return line
        finally:
            lock.release()

    def commitments(self) -> list[Commitment]:
        """All commitments, in order of their making. Raises CustodyError for a line that is none."""
        lines = []
        for number, text in enumerate(self._commitment_lines(), 1):
            try:
                lines.append(Commitment(**json.loads(text)))
            except (ValueError, TypeError) as error:
                raise CustodyError(
                    "not a commitment", f"{self._commitments_path}:{number}", "restore the file from a backup"
                ) from error
        return lines

    def head(self) -> str:
        """Hash of the newest line: publish it, dated, and every line up to it is fixed."""
        return _line_hash((self._commitment_lines() or [""])[-1])

    def verify_commitments(self, published_head: str | None = None) -> None:
        """Check that no line was edited, dropped or inserted, and that every key still opens its commitment.

        `published_head` is a `head` published earlier; with it, lines dropped at the end are seen too. Raises
        CustodyError that names the first line at fault.
        """
        expected = FIRST_LINE
        heads: set[str] = {expected}
        lines = self._commitment_lines()
        for number, (text, line) in enumerate(zip(lines, self.commitments(), strict=True), 1):
            where = f"{self._commitments_path}:{number}"
            if line.previous != expected:
                raise CustodyError("the chain of commitments is broken before this line", where, _RESTORE)
            if not opens(self.opening(line.name, line.version), line):
                raise CustodyError("the key does not open this commitment", where, _RESTORE)
            expected = _line_hash(text)
            heads.add(expected)
        if published_head is not None and published_head not in heads:
            raise CustodyError("the published head is in none of the lines", str(self._commitments_path), _RESTORE)

    @property
    def _commitments_path(self) -> Path:
        return self.folder / "commitments.jsonl"

    def _commitment_lines(self) -> list[str]:
        if not self._commitments_path.exists():
            return []
        with refusing(self._commitments_path):
            text = self._commitments_path.read_text(encoding="utf-8")
        # A last line without its end was never returned to anyone.
        return text[: text.rfind("\n") + 1].splitlines()

    def _latest(self, name: str) -> int:
        versions = self.versions(name)
        if not versions:
            raise CustodyError("there is no key of that name", name, "create it first")
        return versions[-1]

    def _path(self, name: str, version: int) -> Path:
        return self.folder / f"{name}.v{version}.key"

    def _new(self, name: str, version: int) -> Commitment:
        opening = Opening(name, version, secrets.token_hex(KEY_BYTES), secrets.token_hex(KEY_BYTES))
        write_owner_only(self._path(name, version), canonical_json(asdict(opening)) + "\n")
        return self.commitment(name, version)


_RESTORE = "restore the file from a backup; what was published stays valid evidence"


def read_opening(path: Path) -> Opening:
    """The opening in a key file, a key ring's or one that was shown. Raises CustodyError where it is none."""
    if path.is_file() and path.stat().st_size <= _MAX_OPENING_BYTES:
        opening = _read_opening(path)
        if opening is not None and isinstance(opening.name, str) and isinstance(opening.version, int):
            return opening
    # What stands there is not repeated: it may be a secret.
    raise CustodyError("not a key of a key ring", str(path), "give NAME.vN.key of the ring that served")


def _read_opening(path: Path) -> Opening | None:
    with refusing(path):
        raw = path.read_bytes()
    try:
        opening = Opening(**json.loads(raw))
        return opening if len(bytes.fromhex(opening.key)) == KEY_BYTES else None
    except (ValueError, TypeError):
        return None


def _line_hash(text: str) -> str:
    return sha256(text.encode()).hexdigest() if text else FIRST_LINE


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError("not a key name", repr(name), "use 1 to 64 of a-z, 0-9, '.', '_' and '-'")


# --- Files that only their owner reads ------------------------------------------------------------------------


def require_owner_only(path: Path) -> None:
    """Raises CustodyError where anyone but this user could read or write a file or folder."""
    with refusing(path):
        status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise CustodyError("a link where a key or ledger should be", str(path), "put the real file or folder there")
    if status.st_uid != os.geteuid():
        raise CustodyError("it belongs to another user", str(path), "make yourself its owner")
    if status.st_mode & 0o077:
        mode = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise CustodyError(
            f"others may read or write it (mode {stat.S_IMODE(status.st_mode):o})", str(path), f"chmod {mode} {path}"
        )


def outside_stores(folder: Path) -> None:
    """Raises CustodyError for a folder inside a store: what is in a store gets copied and exported."""
    place = folder.resolve()
    for parent in (place, *place.parents):
        if Store.is_store(parent):
            raise CustodyError("keys and ledgers are not kept inside a store", str(folder), "name a folder elsewhere")


def write_owner_only(path: Path, text: str) -> None:
    """A new file with mode 0600, whole and durable or absent. Raises OutputExistsError where it is there already."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with refusing(path):
        try:
            _write(beside, text)
            # A link refuses an existing name, where a rename would replace it: no key is ever overwritten.
            os.link(beside, path)
        except FileExistsError as error:
            raise OutputExistsError("it is there already", str(path), "keep it") from error
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(path.parent)


def replace_owner_only(path: Path, text: str) -> None:
    """The same, over an existing file: after a crash it is the old one or the new one."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with refusing(path):
        try:
            _write(beside, text)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line, durable when it returns; a torn last line of an earlier crash is cut off first."""
    with refusing(path):
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _cut_torn_line(descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
            _write_all(descriptor, line.encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(path.parent)


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _write_all(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view: Any = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    tail = os.pread(descriptor, size, 0)
    os.ftruncate(descriptor, tail.rfind(b"\n") + 1)
