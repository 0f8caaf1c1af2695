"""Tensors of a GGUF file, dequantised one at a time, by the package gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stillproof.errors import InputError, MissingExtraError
from stillproof.trace.weights.reading import MAX_TENSOR_VALUES, Reals, Stored, Tensor

_BROKEN = (ValueError, IndexError, KeyError, OverflowError, TypeError, AttributeError, MemoryError)
"""What gguf's reader raises on a file that is cut or altered: it checks little itself."""


def read_gguf(path: Path) -> Stored:
    """Raises InputError for what is no sound GGUF, MissingExtraError where the package gguf is not installed."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingExtraError("GGUF weights need the package gguf", str(path), "pip install gguf") from error
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError("not a GGUF file", str(path), "fetch it again")
    try:
        reader = GGUFReader(path)
        tensors = {str(tensor.name): _tensor(path, tensor) for tensor in reader.tensors}
        config, tokens = {"model_type": _field(reader, "general.architecture")}, _field(reader, "tokenizer.ggml.tokens")
    except _BROKEN as error:
        raise InputError(f"corrupt or truncated GGUF: {error}", str(path), "fetch it again") from error
    words = {word: i for i, word in enumerate(tokens)} if isinstance(tokens, list) else None
    return Stored(path, tensors, config, words)


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _tensor(path: Path, raw: Any) -> Tensor:
    # GGUF counts dimensions from the fastest one on.
    shape = tuple(int(n) for n in reversed(raw.shape.tolist()))
    kind = str(raw.tensor_type.name)

    def load() -> Reals:
        from gguf import dequantize

        if np.prod(shape, dtype=np.float64) > MAX_TENSOR_VALUES:
            raise InputError(f"tensor {raw.name!r} of shape {shape} is too large", str(path), "fetch it again")
        try:
            values = np.asarray(dequantize(raw.data, raw.tensor_type), dtype=np.float32)
            return values.reshape(shape)
        except (*_BROKEN, NotImplementedError) as error:
            remedy = "fetch it again, or save it as Q8_0 or F16"
            raise InputError(f"tensor {raw.name!r} ({kind}) cannot be read: {error}", str(path), remedy) from error

    return Tensor(str(raw.name), kind, shape, load)
