"""Accounts under other names: a keyed hash, made at the import door."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from stillproof.errors import CustodyError, InputError
from stillproof.store.disk import refusing, sync_folder

_PSEUDONYM = re.compile(r"[0-9a-f]{32}")


def pseudonym(key: bytes, raw: str) -> str:
    """32 hex digits of HMAC-SHA256. Equal for equal names under one key; without the key no name can be tried."""
    return hmac.new(key, raw.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def is_pseudonym(account: str) -> bool:
    return _PSEUDONYM.fullmatch(account) is not None


def require_pseudonym(account: str | None, which: str) -> None:
    """Refuse an account that does not look like a pseudonym. The message does not repeat the name."""
    if account is not None and not is_pseudonym(account):
        raise InputError(
            "the account is not a pseudonym (32 hex digits), and raw account names are never stored",
            which,
            "pass pseudonym(store.pseudonym_key(), raw_name)",
        )


def read_key(path: Path) -> bytes:
    """The key of a file that `create_key` made. Raises CustodyError where it is something else."""
    with refusing(path):
        text = path.read_bytes().strip()
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise CustodyError("not a pseudonym key (64 hex digits)", str(path), "restore the file from a backup")
    return key


def create_key(path: Path) -> bytes:
    """A new random key, readable by its owner alone; the one that is there, if another process was first."""
    key = secrets.token_bytes(32)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with refusing(path):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, key.hex().encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(beside, path)
        except FileExistsError:
            return read_key(path)
        finally:
            beside.unlink()
        sync_folder(path.parent)
    return key
