"""GGUF files: their metadata without loading a weight, and their weights dequantised once into a plain folder.

The reader below knows only the header (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version,
counts, then key-value pairs. It needs nothing but the standard library, so that the terms gate can read a licence
on a machine without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.errors import InputError, MissingExtraError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_PAIRS, MAX_ITEMS = 100_000, 50_000_000
CACHE_FORMAT = "1"


def gguf_metadata(path: Path) -> dict[str, Any]:
    """The key-value pairs of a GGUF file (versions 2 and 3). Raises InputError for anything else."""
    try:
        with path.open("rb") as file:
            header = _Header(file.read(64 * 1024 * 1024))
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", str(path), "give the path of a GGUF file") from error
    try:
        return header.pairs()
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"not a readable GGUF file: {error}", str(path), "download or convert it again") from error


class _Header:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def pairs(self) -> dict[str, Any]:
        if self._data[:4] != b"GGUF":
            raise ValueError("the file does not begin with 'GGUF'")
        self._at = 4
        version, _, n_pairs = self._unpack("I"), self._unpack("Q"), self._unpack("Q")
        if version not in (2, 3):
            raise ValueError(f"version {version}, this reads 2 and 3")
        if n_pairs > MAX_PAIRS:
            raise ValueError(f"{n_pairs} metadata pairs")
        pairs: dict[str, Any] = {}
        for _ in range(n_pairs):
            name = self._text()
            pairs[name] = self._value(self._unpack("I"))
        return pairs

    def _unpack(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._data, self._at)
        self._at += struct.calcsize("<" + code)
        return value

    def _text(self) -> str:
        size = self._unpack("Q")
        if self._at + size > len(self._data):
            raise ValueError("it ends inside a string")
        raw = self._data[self._at : self._at + size]
        self._at += size
        return raw.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            return self._array()
        if kind not in SCALARS:
            raise ValueError(f"unknown value type {kind}")
        return self._unpack(SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, size = self._unpack("I"), self._unpack("Q")
        if size > MAX_ITEMS:
            raise ValueError(f"an array of {size} items")
        if kind not in SCALARS:
            return [self._value(kind) for _ in range(size)]
        code = f"<{size}{SCALARS[kind]}"
        values = list(struct.unpack_from(code, self._data, self._at))
        self._at += struct.calcsize(code)
        return values


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where converted weights are kept: `$STILLPROOF_CACHE`, else ~/.cache/stillproof."""
    named = os.environ.get("STILLPROOF_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "stillproof"


def dequantised(path: Path, *, name: str | None = None) -> Path:
    """The folder with a GGUF's weights in fp32 safetensors, its tokenizer, chat template and README.

    Made once for each file content (about 25 s and 4 bytes a parameter for a 135M model), under a name made of the
    file's SHA-256; any `transformers` loads it without stillproof. It appears whole or not at all: it is
    written beside and renamed. Raises MissingExtraError, InputError, StorageError.
    """
    sha256 = file_sha256(path)
    folder = cache_folder() / "models" / sha256
    if (folder / "stillproof_gguf.txt").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = folder.with_name(f".{sha256[:12]}-{os.getpid()}-{secrets.token_hex(4)}")
        beside.mkdir()
    except OSError as error:
        raise StorageError(f"cannot make the cache: {error.strerror}", str(folder.parent), _ROOM) from error
    try:
        _convert(path, beside, gguf_metadata(path), name)
        (beside / "stillproof_gguf.txt").write_text(f"{CACHE_FORMAT} {sha256} {path.name}\n", encoding="utf-8")
        _rename(beside, folder)
    except OSError as error:
        raise StorageError(f"cannot write the converted weights: {error}", str(folder), _ROOM) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


_ROOM = "free some disk space, or set STILLPROOF_CACHE to a folder that has it"


def _rename(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        # Another process converted the same file meanwhile: its folder is as good as ours.
        if not (folder / "stillproof_gguf.txt").exists():
            raise


def _convert(path: Path, folder: Path, metadata: Mapping[str, Any], name: str | None) -> None:
    try:
        import gguf  # noqa: F401 - transformers reads GGUF files through it
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise MissingExtraError(
            f"reading GGUF weights needs {error.name}", str(path), "pip install 'stillproof[train,weights]'"
        ) from error
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with quiet():
        # Without dequantize=True the weights stay packed, and a packed model cannot be saved.
        model: Any = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), local_files_only=True
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(**where, local_files_only=True)
    _declare_special_tokens(tokenizer, metadata)
    for setting in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(tokenizer, setting)
        setattr(model.config, setting, value)
        setattr(model.generation_config, setting, value)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(_card(path, metadata, name), encoding="utf-8")


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars, which are one setting of the whole process; put back afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _declare_special_tokens(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """Say again what the metadata say: conversion keeps the ids of the special tokens, not always their roles."""
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(int(number)))
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not tokenizer.chat_template:
        tokenizer.chat_template = template


def _card(path: Path, metadata: Mapping[str, Any], name: str | None) -> str:
    # Metadata come from whoever made the file: a line break must not add keys to the card's front matter.
    licence = " ".join(str(metadata.get("general.license") or "").split())
    front = f"---\nlicense: {json.dumps(licence)}\nlibrary_name: transformers\n---\n" if licence else ""
    title = name or metadata.get("general.name") or path.stem
    by = metadata.get("general.organization")
    return (
        f"{front}# {title}\n\n"
        f"The weights of `{path.name}`{f' by {by}' if by else ''}, dequantised to fp32 by stillproof. "
        "Quantisation lost precision that this does not bring back.\n\n"
        f"Licence, as the file's metadata declare it: {licence or 'not declared'}.\n"
    )
