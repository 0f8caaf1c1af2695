"""`stillproof serve`: a teacher at a local endpoint until Ctrl-C, its answers recorded where a store is named."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stillproof.errors import ConfigError
from stillproof.serve.endpoint import endpoint
from stillproof.serve.recorder import Recorder
from stillproof.store import Store

if TYPE_CHECKING:
    from stillproof.teacher import Teacher


def serve_until_interrupted(
    teacher: Teacher, *, host: str = "127.0.0.1", port: int, record: Path | None, on_start: Callable[[str], None]
) -> dict[str, object]:
    """Serve, call `on_start` with the URL once calls are taken, and return a summary when interrupted.

    `record` is a store to open, or a folder to make one in; None records nothing. The teacher is closed at the end.
    Raises ConfigError where the port is taken.
    """
    with ExitStack() as stack:
        stack.callback(teacher.close)
        store = None
        if record is not None:
            store = stack.enter_context(Store.open(record) if Store.is_store(record) else Store.create(record))
        before = len(store) if store is not None else 0
        served = teacher if store is None else Recorder(teacher, store)
        try:
            running = endpoint(served, host, port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}", "--port", "choose another; 0 takes a free one"
            ) from error
        url = running.url
        # The endpoint ends before the count is taken, so that the batch under way is in it.
        with running, suppress(KeyboardInterrupt):
            on_start(url)
            threading.Event().wait()
        return {
            "url": url,
            "model": teacher.identity.model,
            "store": str(record) if record is not None else None,
            "recorded": len(store) - before if store is not None else None,
        }
