"""Exchanges as a .jsonl file: one JSON object a line, the first line naming the schema version."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from stillproof.errors import InputError
from stillproof.exchange import Exchange, check_header, from_line
from stillproof.store.disk import replace_file
from stillproof.store.journal import write_lines


def write_jsonl(path: Path, exchanges: Iterable[Exchange]) -> None:
    """Write them in order, atomically. Raises InputError (an exchange no shape can hold), StorageError."""
    replace_file(path, lambda file: write_lines(file, exchanges))


def read_jsonl(path: Path) -> Iterator[Exchange]:
    """The exchanges of a file, in order; a missing header means the current version.

    Raises InputError that names file and line, SchemaError for an unknown version.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(path), "give a .jsonl file of exchanges") from None
    with file:
        for number, raw in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"not UTF-8: {error.reason}", where, "save the file as UTF-8") from None
            if not line.strip() or (number == 1 and _is_header(line, where)):
                continue
            try:
                yield from_line(line)
            except InputError as error:
                raise InputError(error.what, where, error.remedy) from None


def _is_header(line: str, where: str) -> bool:
    try:
        return check_header(json.loads(line), where)
    except json.JSONDecodeError:
        return False
