"""A watermark key as a file that its owner alone can read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from stillproof.errors import CustodyError, OutputExistsError
from stillproof.store.disk import refusing, sync_folder
from stillproof.watermark import MarkKey, Scheme

_MAX_BYTES = 64 << 10


def create_mark_key(path: Path, scheme: Scheme) -> MarkKey:
    """A new key in a new file, mode 0600. Raises OutputExistsError where something is there: a key that marked text is
    the only proof of it."""
    key = MarkKey.generate(scheme)
    text = json.dumps(key.to_json(), indent=2) + "\n"
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise OutputExistsError("is there already", str(path), "keep it; name a new file for a new key") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    return key


def read_mark_key(path: Path) -> MarkKey:
    """The key of a file that `create_mark_key` wrote. Raises CustodyError where it is none, MismatchError where its
    commitment is not its own."""
    try:
        raw = path.read_bytes()
        row = json.loads(raw) if len(raw) <= _MAX_BYTES else None
    except OSError as error:
        raise CustodyError(f"the key cannot be read: {error.strerror}", str(path), "give --key FILE") from None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        # What stands there is not repeated: it may be a secret.
        raise CustodyError("not a watermark key", str(path), "make one with `stillproof trace key`")
    return MarkKey.from_json(row)
