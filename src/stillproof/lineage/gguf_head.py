"""The metadata of a GGUF file, without its tensors: enough to read licence, name and parents, and no more.

Format: GGUF 2 and 3, little-endian (ggml's docs/gguf.md). The file is a stranger's: every length is checked against
what is left of the file, arrays are skipped, and reading stops at limits. Vocabulary arrays are long, so they are
walked over and not kept.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from stillproof.errors import InputError

MAX_KEYS = 100_000
MAX_TEXT_BYTES = 1_000_000
MAX_ARRAY_TEXTS = 5_000_000

_FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9


def read_gguf_head(path: Path) -> dict[str, Any]:
    """Keys and scalar values of a GGUF file's metadata; arrays are None. Raises InputError where it is no such file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError("not a GGUF file", str(path), "give a file that begins with GGUF")
        try:
            version, _, n_keys = struct.unpack("<IQQ", _take(file, 20, size))
            if version not in (2, 3) or n_keys > MAX_KEYS:
                raise _Broken(f"GGUF version {version} with {n_keys:,} keys")
            return dict(_pair(file, size) for _ in range(n_keys))
        except _Broken as error:
            raise InputError(f"the GGUF metadata cannot be read: {error}", str(path), "get the file again") from None


class _Broken(Exception):
    """What in the file is not as the format says."""


def _pair(file: BinaryIO, size: int) -> tuple[str, Any]:
    key = _text(file, size)
    (kind,) = struct.unpack("<I", _take(file, 4, size))
    return key, _value(file, kind, size)


def _value(file: BinaryIO, kind: int, size: int) -> Any:
    if kind == _TEXT:
        return _text(file, size)
    if kind == _ARRAY:
        return _skip_array(file, size)
    if kind not in _FIXED:
        raise _Broken(f"value of type {kind}")
    layout = _FIXED[kind]
    return struct.unpack(layout, _take(file, struct.calcsize(layout), size))[0]


def _skip_array(file: BinaryIO, size: int) -> None:
    kind, count = struct.unpack("<IQ", _take(file, 12, size))
    if kind == _TEXT:
        if count > MAX_ARRAY_TEXTS:
            raise _Broken(f"an array of {count:,} texts")
        for _ in range(count):
            (length,) = struct.unpack("<Q", _take(file, 8, size))
            _skip(file, length, size)
    elif kind in _FIXED:
        _skip(file, count * struct.calcsize(_FIXED[kind]), size)
    else:
        raise _Broken(f"array of type {kind}")


def _text(file: BinaryIO, size: int) -> str:
    (length,) = struct.unpack("<Q", _take(file, 8, size))
    if length > MAX_TEXT_BYTES:
        raise _Broken(f"a text of {length:,} bytes")
    return _take(file, length, size).decode("utf-8", "replace")


def _take(file: BinaryIO, n_bytes: int, size: int) -> bytes:
    if n_bytes > size - file.tell():
        raise _Broken("it ends too soon")
    return file.read(n_bytes)


def _skip(file: BinaryIO, n_bytes: int, size: int) -> None:
    if n_bytes > size - file.tell():
        raise _Broken("it ends too soon")
    file.seek(n_bytes, os.SEEK_CUR)
