"""The manifest beside a model's weights: parents, data, order, licences, and the SHA-256 of every file.

`stillproof.json` says from what a model was distilled, from what its weights started, under which terms and grant,
on which data in which order, what was kept and lost, and the SHA-256 of every file beside it. `verify_manifest`
compares the folder with it. Alone it shows accidents and honest mistakes; a forger rewrites it too. `signature.py`
binds it to a key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from stillproof import __version__
from stillproof.errors import InputError, SchemaError, StorageError

MANIFEST = "stillproof.json"
SCHEMA = "stillproof.manifest/1"

Relation = Literal["distilled_from", "initialised_from"]


@dataclass(frozen=True, slots=True)
class Parent:
    """A model from which this one comes, and the terms under which it was used."""

    relation: Relation
    model: str
    digest: str | None
    """Digest of the parent's identity (`teacher.Identity.digest`)."""
    weights: str | None
    """SHA-256 over the parent's weight files, where they were at hand."""
    licence: str | None
    verdict: Mapping[str, Any]
    """`terms.Verdict.to_json()`; it holds the quoted clauses, and the grant where one was needed."""
    grant: Mapping[str, Any] | None = None
    detail: str | None = None
    """How, such as 'layers 0, 3, 6 of 30'."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `stillproof.json` says. `files` is filled by `write_manifest`; all else is given."""

    name: str
    created: str
    """ISO 8601, given by the caller."""
    version: str
    """Version of stillproof that made the model."""
    parents: tuple[Parent, ...]
    data: Mapping[str, Any]
    """Sources with their digests, `n_tokens`, `n_documents`."""
    config: Mapping[str, Any]
    """The resolved config."""
    data_order: Mapping[str, Any]
    """`file` and `sha256` of the order in which the data were seen."""
    retention: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    extra: Mapping[str, Any]
    """Room for later: signature, ML-BOM reference, further lineage."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a folder is not what its manifest says."""

    path: str
    kind: Literal["changed", "missing", "extra"]
    expected: str | None
    found: str | None


def version() -> str:
    """The version of stillproof that runs."""
    return __version__


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the manifest ---------------------------------------------------------------------------------------------


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write `stillproof.json` over all files of the folder, atomically. Returns the manifest with `files` filled."""
    manifest = replace(manifest, files=files_of(folder))
    text = json.dumps({"schema": SCHEMA, **_to_json(manifest)}, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    partial = folder / f".{MANIFEST}.partial"
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / MANIFEST)
    except OSError as error:
        raise StorageError(f"cannot write the manifest: {error}", str(folder), "free space, then run again") from error
    return manifest


def files_of(folder: Path) -> dict[str, FileRecord]:
    """Every file below the folder but the manifest, with its hash and size."""
    return {name: _record(folder / name) for name in _names(folder)}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises InputError for one that is absent or broken, SchemaError for a foreign version.

    Paths that leave the folder are refused: a manifest comes from whoever made the model.
    """
    path = folder / MANIFEST
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no manifest", str(path), "this folder was not shipped by stillproof") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the manifest is not JSON: {error}", str(path), "ship the model again") from None
    if not isinstance(row, dict) or row.get("schema") != SCHEMA:
        found = row.get("schema") if isinstance(row, dict) else None
        raise SchemaError(f"manifest schema {found!r}, this version reads {SCHEMA!r}", str(path))
    try:
        return _from_json(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"not a manifest: {type(error).__name__}: {error}", str(path), "ship the model again"
        ) from None


def verify_manifest(folder: Path) -> list[Difference]:
    """How the folder differs from its manifest, by path; empty where every file is as it was shipped."""
    promised = read_manifest(folder).files
    present = set(_names(folder))
    differences = []
    for name in sorted(present | set(promised)):
        expected = promised[name].sha256 if name in promised else None
        found = file_sha256(folder / name) if name in present else None
        if expected is None:
            differences.append(Difference(name, "extra", None, found))
        elif found is None:
            differences.append(Difference(name, "missing", expected, None))
        elif found != expected:
            differences.append(Difference(name, "changed", expected, found))
    return differences


def _names(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of all files below the folder but the manifest; folders behind links are not entered."""
    for root, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        for file in sorted(files):
            name = (Path(root) / file).relative_to(folder).as_posix()
            if name != MANIFEST and (folder / name).is_file():
                yield name


def _record(path: Path) -> FileRecord:
    return FileRecord(file_sha256(path), path.stat().st_size)


def _to_json(manifest: Manifest) -> dict[str, Any]:
    row: dict[str, Any] = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    row["parents"] = [
        {field.name: getattr(parent, field.name) for field in fields(parent)} for parent in row["parents"]
    ]
    row["files"] = {name: asdict(record) for name, record in sorted(row["files"].items())}
    return row


def _from_json(row: Mapping[str, Any]) -> Manifest:
    values = {field.name: row[field.name] for field in fields(Manifest)}
    values["parents"] = tuple(Parent(**parent) for parent in row["parents"])
    for parent in values["parents"]:
        if parent.relation not in get_args(Relation):
            raise ValueError(f"unknown relation {parent.relation!r}")
    values["files"] = {_inside(name): FileRecord(**record) for name, record in row["files"].items()}
    return Manifest(**values)


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or name != path.as_posix() or name == MANIFEST:
        raise ValueError(f"the path {name!r} is not that of a shipped file")
    return name
