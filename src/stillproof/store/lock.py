"""One writer at a time: a lock that ends with the process that holds it."""

from __future__ import annotations

import os
from pathlib import Path

from stillproof.errors import StorageError
from stillproof.store.disk import refusing


class Lock:
    """An exclusive `flock` on a file. The kernel lets go of it when its process dies, so it is never stale."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises StorageError where another store object, here or in another process, holds it."""
        import fcntl

        with refusing(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StorageError(
                f"another writer has this store open (process {holder})",
                str(path.parent),
                "wait until it has finished, or stop it; several readers at once are fine",
            ) from None
        with refusing(path):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
