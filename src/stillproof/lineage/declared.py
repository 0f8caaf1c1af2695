"""What a model folder says of itself: its licence, and the parents it claims.

Read, in this order of trust: our manifest, the model card's front matter, adapter_config.json, mergekit's YAML, the
metadata of GGUF files, config.json. Nothing is believed, only reported; no path that a file names is opened; files
above a size limit are not read.

`declared` gives the licence; `claims` gives one Claim for each parent, with who says so. Two sources that name one
parent are two claims: the tree joins them. Both read through `Said`, which opens a file once for the two.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from stillproof.errors import InputError, SchemaError
from stillproof.lineage.gguf_head import read_gguf_head
from stillproof.lineage.manifest import MANIFEST, Parent, read_manifest

_Read = TypeVar("_Read")

MAX_CARD_BYTES = 1_000_000
MAX_CLAIMS = 10_000
MERGE_FILES = ("mergekit_config.yml", "mergekit_config.yaml", "merge_config.yml", "merge.yml")

Tie = Literal["distilled_from", "initialised_from", "finetune", "adapter", "merge", "quantized", "derived_from"]
"""How a child comes from a parent. distilled_from: it learned from outputs; all others: it holds or held its weights.
derived_from: a `base_model` of which the card does not say how."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A parent that a folder names, how it says it comes from it, and which file says so."""

    parent: str
    tie: Tie
    said_by: str
    revision: str | None = None
    licence: str | None = None
    """The parent's licence, where the claim gives it (our manifest does)."""


class Said:
    """What the files of one folder (or a GGUF file) say. Only files that the folder lists are opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._at = os.fspath(folder)
        try:
            self.names = frozenset(os.listdir(self._at))
        except (NotADirectoryError, FileNotFoundError):
            self.names = frozenset[str]()

    def read(self, name: str, faults: list[str], *, whole: bool = True) -> bytes | None:
        """A file's first MAX_CARD_BYTES; None where it is absent, no plain file, or (whole) longer than that."""
        if name not in self.names:
            return None
        path = f"{self._at}/{name}"
        try:
            found = os.stat(path)
        except FileNotFoundError:  # a link that leads nowhere
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        if whole and found.st_size > MAX_CARD_BYTES:
            faults.append(f"{name}: over {MAX_CARD_BYTES:,} bytes, not read")
            return None
        with open(path, "rb", buffering=0) as file:
            return file.read(MAX_CARD_BYTES)

    @cached_property
    def card(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """(the card's front matter, faults)."""
        faults: list[str] = []
        return _front_matter(self, faults), tuple(faults)

    @cached_property
    def manifest_parents(self) -> tuple[tuple[Parent, ...], tuple[str, ...]]:
        """(the parents in our manifest, faults)."""
        if MANIFEST not in self.names or not (self.folder / MANIFEST).is_file():
            return (), ()
        try:
            return read_manifest(self.folder).parents, ()
        except (InputError, SchemaError) as error:
            return (), (f"{MANIFEST}: {error.what}",)

    @cached_property
    def ggufs(self) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        """(the metadata of each GGUF file, faults)."""
        faults: list[str] = []
        return _gguf_rows(self, faults), tuple(faults)


def declared(folder: Path) -> dict[str, Any]:
    """What a model folder declares: from its README's front matter, then config.json, then our manifest.

    Keys: licence, licence_name, licence_link, base_model (list), architecture, distilled_from (list, from our
    manifest), declared_by ('model card', 'config', 'GGUF metadata' or None: where the licence was found), faults
    (what could not be read).
    `licence` is the card's `license`, or its `license_name` where `license` is 'other'; several are joined by AND, for
    nothing says that one may choose. Last come the GGUF files' own words. Absent is None.
    """
    return declared_in(Said(folder))


def declared_in(said: Said) -> dict[str, Any]:
    """`declared`, of a folder that is read already."""
    faults: list[str] = []
    card = _told(said.card, faults)
    config = _json_object(said, "config.json", faults)
    licence = _all_of(card.get("license"))
    licence_name = _text(card.get("license_name"))
    if licence == "other" and licence_name is not None:
        licence = licence_name
    by = "model card" if licence is not None else None
    if licence is None:
        licence = _text(config.get("license"))
        by = "config" if licence is not None else None
    if licence is None:
        licence = _all_of(sorted({text for row in _told(said.ggufs, faults) if (text := _gguf_licence(row))}))
        by = "GGUF metadata" if licence is not None else None
    parents = _told(said.manifest_parents, faults)
    distilled_from = [parent.model for parent in parents if parent.relation == "distilled_from"]
    return {
        "licence": licence,
        "licence_name": licence_name,
        "licence_link": _text(card.get("license_link")),
        "base_model": _texts(card.get("base_model")),
        "architecture": _text(config.get("model_type")),
        "distilled_from": distilled_from,
        "declared_by": by,
        "faults": faults,
    }


# --- parents --------------------------------------------------------------------------------------------------


def claims(folder: Path, faults: list[str] | None = None) -> list[Claim]:
    """Every parent that the files of a folder name; what could not be read is appended to `faults`.

    Raises InputError where the folder names more than MAX_CLAIMS parents.
    """
    return claims_in(Said(folder), [] if faults is None else faults)


def claims_in(said: Said, faults: list[str]) -> list[Claim]:
    """`claims`, of a folder that is read already."""
    found = [*_of_manifest(said, faults), *_of_card(said, faults), *_of_adapter(said, faults), *_of_merge(said, faults)]
    found += _of_gguf(said, faults)
    if len(found) > MAX_CLAIMS:
        raise InputError(f"{len(found):,} parents are named", str(said.folder), f"at most {MAX_CLAIMS:,} are read")
    return list(dict.fromkeys(found))


def _told(read: tuple[_Read, tuple[str, ...]], faults: list[str]) -> _Read:
    """What was read; its faults are told."""
    faults += read[1]
    return read[0]


def _of_manifest(said: Said, faults: list[str]) -> list[Claim]:
    found: list[Claim] = []
    for parent in _told(said.manifest_parents, faults):
        found.append(Claim(parent.model, parent.relation, MANIFEST, None, parent.licence))
        found += _ancestors_in(parent)
    return found


def _ancestors_in(parent: Parent) -> list[Claim]:
    """What our manifest says of a parent's own ancestors; without it they were lost where its folder is not at hand."""
    rows = parent.verdict.get("ancestors") if isinstance(parent.verdict, dict) else None
    found: list[Claim] = []
    for row in rows if isinstance(rows, list) else ():
        name = _text(row.get("model")) if isinstance(row, dict) else None
        if name is not None:
            tie: Tie = "derived_from" if row.get("use") == "weights" else "distilled_from"
            found.append(Claim(name, tie, f"{MANIFEST}, of {parent.model}", None, _text(row.get("licence"))))
    return found


def _of_card(said: Said, faults: list[str]) -> list[Claim]:
    card = _told(said.card, faults)
    relation = _text(card.get("base_model_relation"))
    tie: Tie = relation if relation in get_args(Tie) else "derived_from"  # pyrefly: ignore[bad-assignment]
    parents = _texts(card.get("base_model"))
    if tie == "derived_from" and len(parents) > 1:
        tie = "merge"
    found = [Claim(parent, tie, "model card") for parent in parents if parent.strip()]
    teachers = card.get("distilled_from")
    for teacher in teachers if isinstance(teachers, list) else [teachers]:
        name = _text(teacher.get("model") if isinstance(teacher, dict) else teacher)
        if name is not None:
            found.append(Claim(name, "distilled_from", "model card"))
    return found


def _of_adapter(said: Said, faults: list[str]) -> list[Claim]:
    row = _json_object(said, "adapter_config.json", faults)
    name = _text(row.get("base_model_name_or_path"))
    return [] if name is None else [Claim(name, "adapter", "adapter_config.json", _text(row.get("revision")))]


def _of_merge(said: Said, faults: list[str]) -> list[Claim]:
    """Values of `model`, `base_model` and `path` on any level of mergekit's YAML, and the adapter behind a '+'."""
    found: list[Claim] = []
    for file in MERGE_FILES:
        for line in _lines(said, file, faults):
            pair = re.match(r"\s*(?:- +)?(?:model|base_model|path):\s+([^\s\[{|>&*!].*)$", line)
            name = _scalar(pair[1]) if pair else ""
            found += [Claim(part.strip(), "merge", file) for part in name.split("+") if part.strip()]
    return found


def _of_gguf(said: Said, faults: list[str]) -> list[Claim]:
    found: list[Claim] = []
    for row in _told(said.ggufs, faults):
        count = row.get("general.base_model.count")
        for number in range(min(count, MAX_CLAIMS) if isinstance(count, int) else 0):
            at = f"general.base_model.{number}."
            url = _text(row.get(at + "repo_url")) or ""
            repository = re.fullmatch(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/?", url, re.ASCII)
            parts = [_text(row.get(at + "organization")), _text(row.get(at + "name"))]
            name = repository[1] if repository else "/".join(part for part in parts if part) or url
            if name:
                found.append(Claim(name, "derived_from", "GGUF metadata", _text(row.get(at + "version"))))
    return found


def _gguf_rows(said: Said, faults: list[str]) -> list[dict[str, Any]]:
    rows = []
    files = [said.folder / name for name in sorted(said.names) if name.endswith(".gguf")]
    if not said.names and said.folder.suffix == ".gguf" and said.folder.is_file():
        files = [said.folder]
    for path in files:
        try:
            rows.append(read_gguf_head(path))
        except InputError as error:
            faults.append(f"{path.name}: {error.what}")
    return rows


def _gguf_licence(row: dict[str, Any]) -> str | None:
    licence = _text(row.get("general.license"))
    named = _text(row.get("general.license.name"))
    return named if licence == "other" and named is not None else licence


# --- reading --------------------------------------------------------------------------------------------------


def _lines(said: Said, name: str, faults: list[str]) -> list[str]:
    return (said.read(name, faults) or b"").decode("utf-8", "replace").splitlines()


def _front_matter(said: Said, faults: list[str]) -> dict[str, Any]:
    raw = said.read("README.md", faults, whole=False) or b""
    text = raw.decode("utf-8", "replace").lstrip("\ufeff").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    head, end, _ = text[4:].partition("\n---")
    if not end:
        faults.append("README.md: its front matter does not end")
        return {}
    return _simple_yaml(head)


def _simple_yaml(head: str) -> dict[str, Any]:
    """Top-level `key: text`, `key: [a, b]` and block lists of texts: what model cards declare licences with.

    Whatever else YAML can say is left out, which makes it undeclared, and undeclared terms are unknown. That is the
    safe side, and no YAML machinery ever meets a stranger's file.
    """
    row: dict[str, Any] = {}
    key = ""
    for line in head.split("\n"):
        entry = re.match(r"\s*- +(\S.*)$", line)
        if entry and key and isinstance(row.get(key), list) and not re.match(r"[\w-]+:( |$)", entry[1]):
            row[key] = [*row[key], _scalar(entry[1])]
        pair = re.match(r"([\w-]+):(?:\s+(\S.*))?$", line)
        if not pair:
            continue
        key, value = pair[1], (pair[2] or "").strip()
        if not value:
            row[key] = []
        elif value[0] in "[{" and (tree := _json_or_none(value)) is not None:
            row[key] = tree
        elif value.startswith("["):
            row[key] = [_scalar(part) for part in value.strip("[]").split(",") if part.strip()]
        elif value[0] not in "{|>&*!":
            row[key] = _scalar(value)
    return row


def _scalar(text: str) -> str:
    text = text.strip()
    if text[:1] in "\"'":
        return text[1:].partition(text[0])[0]
    return text.split(" #")[0].rstrip()


def _json_object(said: Said, name: str, faults: list[str]) -> dict[str, Any]:
    raw = said.read(name, faults)
    if raw is None:
        return {}
    try:
        row = json.loads(raw.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        faults.append(f"{name}: {type(error).__name__}")
        return {}
    if not isinstance(row, dict):
        faults.append(f"{name}: not an object")
        return {}
    return row


def _text(value: object) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value.strip() or None if isinstance(value, str) else None


def _texts(value: object) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if isinstance(entry, str)]


def _all_of(value: object) -> str | None:
    texts = [entry.strip() for entry in _texts(value) if entry.strip()]
    return " AND ".join(f"({text})" if " OR " in text.upper() else text for text in texts) or None


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
