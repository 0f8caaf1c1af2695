"""The journal of a store: one line of JSON text for each exchange, durable before `write` returns.

A line counts when it is whole. What a crash left half-written is set aside beside the journal, never thrown away
and never fatal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stillproof.errors import InputError, StorageError
from stillproof.exchange import Exchange, check_header, from_json, header, to_line
from stillproof.store.disk import refused, refusing, replace_file, sync_folder


@dataclass(frozen=True, slots=True)
class Torn:
    """Lines that could not be read, set aside."""

    path: Path
    """Where the bytes are now."""
    lines: tuple[int, ...]
    """Their numbers in the journal, from 1."""
    n_bytes: int


class Journal:
    """A journal open for appending. Only the store that holds the lock has one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with refusing(path):
            is_new = not path.exists()
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self.size = os.fstat(self._descriptor).st_size
            if is_new:
                sync_folder(path.parent)

    def write(self, exchanges: Iterable[Exchange]) -> None:
        """Append lines and make them durable together.

        Raises StorageError where the disk refuses; then the journal holds exactly what it held before.
        """
        lines = [to_line(exchange) for exchange in exchanges]
        if self.size == 0:
            lines.insert(0, header())
        left = memoryview(("\n".join(lines) + "\n").encode())
        n_bytes = len(left)
        try:
            if os.fstat(self._descriptor).st_size != self.size:
                os.ftruncate(self._descriptor, self.size)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            # Where even this is refused, the next write does it first: no line is ever put behind half a line.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise refused(error, self.path) from error
        self.size += n_bytes

    def close(self) -> None:
        os.close(self._descriptor)


def write_lines(file: BinaryIO, exchanges: Iterable[Exchange]) -> None:
    """The same lines, with their header, into any file."""
    file.write(header().encode() + b"\n")
    for exchange in exchanges:
        file.write(to_line(exchange).encode() + b"\n")


def read_journal(path: Path) -> Iterator[Exchange]:
    """The exchanges of a journal in order. A last line that is still being written is left out.

    Raises StorageError for a damaged line, SchemaError for an unknown version.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                return
            exchange = _exchange(raw, number, path)
            if exchange is _DAMAGED:
                raise StorageError(
                    f"line {number} of the journal is damaged", str(path), "close its writer, then open the store again"
                )
            if isinstance(exchange, Exchange):
                yield exchange


def count_lines(path: Path) -> int:
    """How many exchanges `read_journal` yields, without parsing them."""
    with path.open("rb") as file:
        return max(0, sum(raw.endswith(b"\n") for raw in file) - 1)


def repair_journal(path: Path) -> Torn | None:
    """Set the unreadable lines of a journal aside, and keep all others. None where every line was whole.

    A last line that lacks only its end is whole: it was written, and is kept.
    """
    keep: list[bytes] = []
    aside: list[tuple[int, bytes]] = []
    ends = True
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            ends = raw.endswith(b"\n")
            if _exchange(raw, number, path) is _DAMAGED:
                aside.append((number, raw))
            elif number > 1:
                keep.append(raw if ends else raw + b"\n")
    if not aside and ends:
        return None
    torn = _set_aside(path, aside) if aside else None
    replace_file(path, lambda file: file.writelines([header().encode() + b"\n", *keep]))
    return torn


def _set_aside(path: Path, lines: list[tuple[int, bytes]]) -> Torn:
    bytes_aside = b"".join(raw if raw.endswith(b"\n") else raw + b"\n" for _, raw in lines)
    place = path.with_suffix(".torn")
    number = 1
    while place.exists() and place.read_bytes() != bytes_aside:
        number += 1
        place = path.with_suffix(f".{number}.torn")
    replace_file(place, lambda file: file.write(bytes_aside))
    return Torn(place, tuple(number for number, _ in lines), len(bytes_aside))


class _Damaged:
    pass


_DAMAGED = _Damaged()


def _exchange(raw: bytes, number: int, path: Path) -> Exchange | _Damaged | None:
    """The exchange of a line, None for the header."""
    try:
        row = json.loads(raw.decode())
        if check_header(row, str(path)) != (number == 1):
            return _DAMAGED
        return None if number == 1 else from_json(row)
    except (UnicodeDecodeError, json.JSONDecodeError, InputError, RecursionError, AttributeError, TypeError):
        return _DAMAGED
