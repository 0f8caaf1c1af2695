"""Named tensors of a model on disk, memory-mapped, with numpy alone: safetensors, whole or in shards, and GGUF.

A file is an adversary's: sizes are checked before anything is read, names of shards cannot leave their folder, and a
pickle (.bin, .pt, .pth, .ckpt) is never opened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import InputError

Reals = NDArray[np.float32]

MAX_HEADER_BYTES = 100_000_000
"""What the safetensors format itself allows."""
MAX_JSON_BYTES = 200_000_000
MAX_TENSOR_VALUES = 2**33

_NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "u1",
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor that has not been read yet."""

    name: str
    dtype: str
    """As the file spells it: 'F32', 'BF16', 'I8', 'Q4_1'."""
    shape: tuple[int, ...]
    load: Callable[[], Reals]
    """The values in fp32, shape `shape`; int8 without its scale."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A model as it lies on disk."""

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    """config.json, or a GGUF's architecture as `model_type`; empty where there is none."""
    tokens: Mapping[str, int] | None
    """Token string -> id, where a tokenizer lies beside the weights."""


def read_model(path: Path) -> Stored:
    """`path`: a folder with .safetensors files, one .safetensors file, or a .gguf file.

    Raises InputError that names the file: absent, empty, truncated, malformed, a shard that is missing, weights only
    as a pickle, an adapter without its base. Raises MissingExtraError for a GGUF without the package gguf.
    """
    if path.suffix.lower() in _PICKLES:
        raise _pickle(path)
    if path.is_file() and path.suffix.lower() == ".gguf":
        from stillproof.trace.weights.gguf_file import read_gguf

        return read_gguf(path)
    if path.is_file() and path.suffix.lower() == ".safetensors":
        return Stored(path, _safetensors(path), _json(path.with_name("config.json")), _tokens(path.parent))
    if path.is_dir():
        return _folder(path)
    raise InputError(
        "no weights here", str(path), "give a folder with .safetensors files, a .safetensors or .gguf file"
    )


def _folder(folder: Path) -> Stored:
    files = _shards(folder)
    if not files:
        ggufs = sorted(folder.glob("*.gguf"))
        if len(ggufs) == 1:
            return read_model(ggufs[0])
        pickles = sorted(file for file in folder.iterdir() if file.suffix in _PICKLES)
        if pickles:
            raise _pickle(pickles[0])
        raise InputError("no .safetensors file", str(folder), "give a folder with weights, or one .gguf file by name")
    if all(file.name.startswith("adapter_") for file in files):
        raise InputError("an adapter without its base model", str(folder), "merge it into the base and save that")
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in _safetensors(file).items():
            if name in tensors:
                raise InputError(f"tensor {name!r} is in two shards", str(file), "remove the files of another version")
            tensors[name] = tensor
    return Stored(folder, tensors, _json(folder / "config.json"), _tokens(folder))


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return sorted(folder.glob("*.safetensors"))
    named = _json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise InputError("no weight_map of file names in the index", str(index), "fetch the model again")
    names = sorted(set(named.values()))
    for name in names:
        if Path(name).name != name or name in (".", "..") or "\\" in name:
            raise InputError(
                f"the index names {name!r}, which is not a file of its folder", str(index), "do not trust it"
            )
        if not (folder / name).is_file():
            raise InputError(f"shard {name} is missing", str(folder), "fetch the model again")
    return [folder / name for name in names]


def _pickle(path: Path) -> InputError:
    remedy = "convert it to safetensors in a place where its code may run; stillproof never loads a pickle"
    return InputError("weights as a pickle, which can run code when loaded", str(path), remedy)


def _safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    if size < 8:
        raise InputError(f"{size} bytes are no safetensors file", str(path), "fetch it again")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise InputError(f"a header of {length} bytes in a file of {size}", str(path), "fetch it again")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise InputError(f"the header is not JSON: {error}", str(path), "fetch it again") from error
    if not isinstance(header, dict):
        raise InputError("the header is not an object", str(path), "fetch it again")
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and begin <= end
    except (TypeError, KeyError, ValueError):
        dtype, shape, begin, end, sound = "", (), 0, 0, False
    if not sound or len(shape) > 8:
        raise InputError(f"tensor {name!r} has no sound dtype, shape and offsets", str(path), "fetch it again")
    if start + end > path.stat().st_size:
        raise InputError(f"tensor {name!r} ends after the file does: truncated", str(path), "fetch it again")
    kind = _NUMPY.get(dtype)
    n = math.prod(shape)
    if kind is not None and (n > MAX_TENSOR_VALUES or n * np.dtype(kind).itemsize != end - begin):
        raise InputError(
            f"tensor {name!r}: {end - begin} bytes are not {shape} of {dtype}", str(path), "fetch it again"
        )

    def load() -> Reals:
        if kind is None:
            raise InputError(f"tensor {name!r} is {dtype}, which is not read here", str(path), "save it as bf16 or f16")
        if n == 0:
            return np.zeros(shape, np.float32)
        raw = np.memmap(path, dtype=kind, mode="r", offset=start + begin, shape=(n,))
        return widened(raw, dtype).reshape(shape)

    return Tensor(name, dtype, shape, load)


def widened(raw: NDArray[Any], dtype: str) -> Reals:
    """fp32 of values as they lie in a file; a bf16 is the upper half of an fp32."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # an fp64 above fp32's range is infinite, and its layer is left out
        return raw.astype(np.float32)


def _json(path: Path) -> dict[str, Any]:
    """An object; {} where there is no such file."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f"more than {MAX_JSON_BYTES:,} bytes of JSON", str(path), "remove it")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", str(path), "fetch it again") from error
    if not isinstance(value, dict):
        raise InputError("not a JSON object", str(path), "fetch it again")
    return value


def _tokens(folder: Path) -> dict[str, int] | None:
    model = _json(folder / "tokenizer.json").get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: [[token, score], ...], its place is its id
        vocabulary = {row[0]: i for i, row in enumerate(vocabulary) if isinstance(row, list) and row}
    if not isinstance(vocabulary, dict):
        return None
    return {word: i for word, i in vocabulary.items() if isinstance(word, str) and type(i) is int and i >= 0} or None
