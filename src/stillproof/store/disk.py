"""Writing so that a crash leaves the old file or the new one, and a full disk is said plainly."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from stillproof.errors import StillproofError, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def refused(error: OSError, path: Path) -> StorageError:
    """The StorageError of an operating system's error."""
    if error.errno in _FULL:
        remedy = "free some space (or raise the quota), then run again: what was stored before is kept"
    elif error.errno in _FORBIDDEN:
        remedy = "give yourself write permission there, or name another folder"
    else:
        remedy = "see what the disk is missing, then run again: what was stored before is kept"
    return StorageError(f"the disk refused: {error.strerror or error}", str(path), remedy)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a StorageError about `path`."""
    try:
        yield
    except StillproofError:
        raise
    except OSError as error:
        raise refused(error, path) from error


def sync_folder(folder: Path) -> None:
    """Make renames and deletions in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside, make it durable, and rename it over `path`.

    Raises StorageError where the disk refuses; then `path` is as it was.
    """
    beside = beside_of(path)
    with refusing(path):
        try:
            with beside.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Delete a file, durably; one that is not there is no fault."""
    with refusing(path):
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def beside_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed `replace_file` left in a folder."""
    for path in folder.glob(".*.tmp"):
        remove_file(path)
