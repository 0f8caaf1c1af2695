"""From a file to rows, one by one, each with its place. What cannot be read is a `BadLine`, never an exception.

A row is a JSON value (an object, a pair of texts, a text), or a text of a .txt file as `Paragraphs` or `Line`.
A file that is broken as a whole raises InputError.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillproof.errors import InputError

TxtUnit = Literal["blank_line", "line"]
"""What one document of a .txt file is: blank_line, a run of lines up to a blank one, a plain document; line, one
line, a prompt."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """One record that could not be used."""

    where: str
    """file:line, or file#place in a .json file."""
    reason: str


@dataclass(frozen=True, slots=True)
class Paragraphs:
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    text: str


Row = tuple[str, Any]
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def jsonl_rows(path: Path) -> Iterator[Row | BadLine]:
    """One JSON value a line; blank lines are passed over."""
    for number, text in _lines(path):
        where = f"{path}:{number}"
        if isinstance(text, BadLine):
            yield text
        elif text.strip():
            try:
                yield where, json.loads(text)
            except (ValueError, RecursionError) as error:
                yield BadLine(where, f"not JSON: {error}")


def json_rows(path: Path, label_map: str | None) -> Iterator[Row | BadLine]:
    """The rows of a JSON array, or of the array that `label_map` names in a JSON object of splits."""
    try:
        value = json.loads(_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: {error.reason} at byte {error.start}", str(path), "save it as UTF-8") from None
    except json.JSONDecodeError as error:
        remedy = "if it has one object a line, rename it to .jsonl" if error.msg == "Extra data" else "correct it there"
        raise InputError(f"not JSON: {error.msg}", f"{path}:{error.lineno}:{error.colno}", remedy) from None
    place = ""
    if isinstance(value, dict) or label_map is not None:
        names = [name for name, rows in value.items() if isinstance(rows, list)] if isinstance(value, dict) else []
        if label_map not in names:
            has = ", ".join(names) or "none"
            raise InputError(
                f"no split {label_map!r} in this file" if label_map else "a JSON object, not an array of rows",
                str(path),
                f"set data.label_map to one of its splits: {has}",
            )
        place, value = label_map or "", value[label_map]
    if not isinstance(value, list):
        raise InputError(f"a JSON {type(value).__name__}, not an array of rows", str(path), "give an array of rows")
    for number, row in enumerate(value):
        yield f"{path}#{place}[{number}]", row


def txt_rows(path: Path, unit: TxtUnit) -> Iterator[Row | BadLine]:
    """The documents of a text file. A paragraph with a bad line is bad as a whole, for half a document is none."""
    if unit == "line":
        for number, text in _lines(path):
            if isinstance(text, BadLine):
                yield text
            elif text.strip():
                yield f"{path}:{number}", Line(text)
        return
    block: list[tuple[int, str | BadLine]] = []
    for number, text in _lines(path):
        if isinstance(text, str) and not text.strip():
            yield from _paragraphs(path, block)
            block = []
        else:
            block.append((number, text))
    yield from _paragraphs(path, block)


def _paragraphs(path: Path, block: list[tuple[int, str | BadLine]]) -> Iterator[Row | BadLine]:
    bad = [text for _, text in block if isinstance(text, BadLine)]
    if bad:
        yield bad[0]
    elif block:
        yield f"{path}:{block[0][0]}", Paragraphs("\n".join(str(text) for _, text in block))


def csv_rows(path: Path, wanted: Iterable[str]) -> Iterator[Row | BadLine]:
    """The rows of a comma-separated file whose first row names the columns, one of which must be `wanted`."""
    # Bytes that are no UTF-8 become lone surrogates, so that the row that has them can be named.
    text = _bytes(path).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    limit = csv.field_size_limit(len(text) + 1)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        names: list[str] | None = None
        while True:
            where = f"{path}:{rows.line_num + 1}"
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadLine(where, f"not CSV: {error}")
                continue
            if not row:
                continue
            if names is None:
                names = row
                require_columns(names, wanted, path)
            elif len(row) != len(names):
                yield BadLine(where, f"{len(row)} fields, the header has {len(names)}")
            elif any("\udc80" <= char <= "\udcff" for field in row for char in field if char > "\ud7ff"):
                yield BadLine(where, "not UTF-8")
            else:
                yield where, dict(zip(names, row, strict=True))
    finally:
        csv.field_size_limit(limit)


def parquet_rows(path: Path, wanted: Iterable[str]) -> Iterator[Row | BadLine]:
    """The rows of a Parquet file, of its `wanted` columns; rows are counted from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            require_columns(names, wanted, path)
            for batch in file.iter_batches(batch_size=1024, columns=[name for name in wanted if name in names]):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not a Parquet file: {error}", str(path), "give a whole Parquet file") from error


def require_columns(names: list[str], wanted: Iterable[str], path: Path) -> None:
    """Refuse a table none of whose columns is wanted."""
    needed = list(wanted)
    if not set(needed) & set(names):
        raise InputError(
            f"none of the columns {', '.join(needed)}; it has {', '.join(names) or 'none'}",
            str(path),
            "name its columns: data.prompt_field and data.response_field, or data.text_field",
        )


def _lines(path: Path) -> Iterator[tuple[int, str | BadLine]]:
    """Lines without their ends (LF or CRLF), and without a byte order mark."""
    content = _bytes(path)
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            yield number, raw.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            yield number, BadLine(f"{path}:{number}", f"not UTF-8: {error.reason} at byte {error.start} of the line")


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(path), "give the path of a file") from None
    if content.startswith(_UTF16):
        raise InputError("UTF-16 text", str(path), "save the file as UTF-8")
    if not content.strip():
        raise InputError("the file is empty", str(path), "give a file with documents or prompts")
    return content
