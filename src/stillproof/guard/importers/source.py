"""Records of a file, one after another: JSONL, JSON, CSV and Parquet, also compressed by gzip; a folder is its files.

What cannot be read as a record is handed on as a `Bad`, never dropped here. Memory holds one line or one small batch.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from stillproof.errors import InputError
from stillproof.store.disk import refusing

MAX_LINE = 64 << 20
"""Bytes of one line; longer ones are set aside unread, so that no single row decides over the memory."""
MAX_JSON = 256 << 20
"""Bytes of a file that is one JSON array, which is read whole."""
_PARQUET_ROWS = 256
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".log", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Bad:
    """Bytes or a value that are no record, and the reason, one of few."""

    reason: str
    excerpt: str


def source_files(source: Path) -> list[Path]:
    """The files of a log: itself, or those of a folder by name. Raises InputError where there is none."""
    if not source.exists():
        raise InputError("no such file or folder", str(source), "name a log file, or a folder of them")
    if not source.is_dir():
        return [source]
    files = sorted(path for path in source.rglob("*") if path.is_file() and _kind(path) in _SUFFIXES)
    if not files:
        raise InputError("no log file in this folder", str(source), f"its files should end in {', '.join(_SUFFIXES)}")
    return files


def records(path: Path) -> Iterator[dict[str, Any] | Bad]:
    """Its records in order. Raises StorageError where the disk refuses."""
    kind = _kind(path)
    with refusing(path):
        if kind == ".parquet":
            yield from _parquet(path)
            return
        with _opened(path) as file:
            if kind == ".csv":
                yield from _csv(file)
            elif kind == ".json" and path.stat().st_size <= MAX_JSON:
                yield from _json(file)
            else:
                yield from _lines(file)


def _kind(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _opened(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def _lines(file: BinaryIO) -> Iterator[dict[str, Any] | Bad]:
    at_start = True
    while True:
        try:
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            if len(line) > MAX_LINE:
                yield Bad("line longer than 64 MB", _excerpt(line))
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                continue
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield Bad("compressed data damaged", type(error).__name__)
            return
        if at_start:
            line, at_start = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line.isspace():
            yield _object(line)


def _object(line: bytes) -> dict[str, Any] | Bad:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return Bad("not UTF-8", _excerpt(line))
    except ValueError:
        return Bad("not JSON", _excerpt(line))
    except RecursionError:
        return Bad("nested too deeply", _excerpt(line))
    return value if isinstance(value, dict) else Bad("not an object", _excerpt(line))


def _json(file: BinaryIO) -> Iterator[dict[str, Any] | Bad]:
    """A whole document: an array of records or one record; else its lines."""
    try:
        data = file.read(MAX_JSON + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield Bad("compressed data damaged", type(error).__name__)
        return
    if len(data) > MAX_JSON:
        yield Bad("JSON document longer than 256 MB", _excerpt(data[:4096]))
        return
    try:
        value = json.loads(data.removeprefix(b"\xef\xbb\xbf").decode())
    except (ValueError, RecursionError):
        yield from _lines(io.BytesIO(data))
        return
    for item in value if isinstance(value, list) else [value]:
        yield (
            item
            if isinstance(item, dict)
            else Bad("not an object", _excerpt(str(item)[:4096].encode("utf-8", "replace")))
        )


def _csv(file: BinaryIO) -> Iterator[dict[str, Any] | Bad]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    before = csv.field_size_limit(MAX_LINE)
    try:
        reader = csv.DictReader(text, restkey="")
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield Bad("not CSV", f"line {reader.line_num}")
                continue
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                yield Bad("compressed data damaged", type(error).__name__)
                return
            if "" in row and isinstance(row[""], list):
                yield Bad("more fields than the header", f"line {reader.line_num}")
            else:
                yield {key: value for key, value in row.items() if value not in (None, "")}
    finally:
        csv.field_size_limit(before)
        text.detach()  # the file is closed by whom it was opened


def _parquet(path: Path) -> Iterator[dict[str, Any] | Bad]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield Bad("Parquet file damaged", type(error).__name__)


def _excerpt(line: bytes) -> str:
    return masked(line[:4096].decode("utf-8", "backslashreplace"))


def masked(text: str) -> str:
    """Its shape alone: letters as 'a', digits as '0'; an unreadable row may hold a name or a key anywhere."""
    return "".join("a" if char.isalpha() else "0" if char.isalnum() else char for char in text[:2000])
