"""`trace verify`: is a model's folder as it was shipped, and signed by the key that was promised?

Three answers, each of its own: the manifest lists every file with its hash; the signature lists them again, and the
manifest too; the ML-BOM names the same parents and files. Which duties the folder meets, `trace lineage --check` says.
A folder that is not signed is compared with its manifest alone: that shows accidents, not a forger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillproof import lineage
from stillproof.errors import InputError, SchemaError
from stillproof.lineage.bom import BOM
from stillproof.lineage.signature import PUBLIC_KEY, SIGNATURE, BadSignature, digests, signed_files

AFTER_SHIPPING = (SIGNATURE, PUBLIC_KEY)
"""Files that a signature adds; the manifest, older than they are, does not list them."""


def verify_folder(folder: Path, public_key: Path | None = None) -> dict[str, Any]:
    """Hold a shipped folder against its manifest, signature and ML-BOM.

    public_key: the key that must have signed it, PEM. None takes the folder's own model.pub: then `signed_by` is only
    what the folder says of itself.
    Keys: model, whole (nothing differs), differences (path, kind, expected, found), signature ('valid', 'invalid',
    'absent'), signed_by, key_pinned, faults, files, exchanges, gate.
    Raises InputError where the folder has neither manifest nor signature, or holds a link.
    """
    if not folder.is_dir():
        raise InputError("no such folder", str(folder), "give the folder of a shipped model")
    found = digests(folder)
    faults: list[str] = []
    signature, signed_by, differing = _signature(folder, public_key, found, faults)
    manifest = _manifest(folder, faults, signature)
    if manifest is not None:
        differing |= _against(found, {name: record.sha256 for name, record in manifest.files.items()}, True)
        faults += _bom_faults(folder, manifest)
    rows = [asdict(differing[path]) for path in sorted(differing)]
    gate = "; ".join([*faults, *(f"{row['path']} {row['kind']}" for row in rows)]) or None
    if gate is None and public_key is not None and signature == "absent":
        gate = "it is not signed"
    return {
        "model": folder.resolve().name if manifest is None else manifest.name,
        "whole": not rows and not faults,
        "differences": rows,
        "signature": signature,
        "signed_by": signed_by,
        "key_pinned": public_key is not None,
        "faults": faults,
        "files": len(found),
        "exchanges": None if manifest is None else manifest.extra.get("exchanges"),
        "gate": gate,
    }


def _signature(
    folder: Path, public_key: Path | None, found: Mapping[str, str], faults: list[str]
) -> tuple[str, str | None, dict[str, lineage.Difference]]:
    if not (folder / SIGNATURE).exists():
        if (folder / PUBLIC_KEY).exists():
            faults.append(f"there is {PUBLIC_KEY} and no {SIGNATURE}: the signature was taken away")
        return "absent", None, {}
    try:
        promised, name = signed_files(folder, public_key)
    except BadSignature as error:
        faults.append(f"signature: {error.what}")
        return "invalid", None, {}
    return "valid", name, _against(found, promised, False)


def _manifest(folder: Path, faults: list[str], signature: str) -> lineage.Manifest | None:
    try:
        return lineage.read_manifest(folder)
    except (InputError, SchemaError) as error:
        if signature == "absent" and not (folder / lineage.MANIFEST).exists():
            raise
        faults.append(f"{lineage.MANIFEST}: {error.what}")
        return None


def _against(found: Mapping[str, str], promised: Mapping[str, str], of_manifest: bool) -> dict[str, lineage.Difference]:
    """How the files found differ from those promised. The manifest lists neither itself nor what came after it."""
    free = {lineage.MANIFEST, *AFTER_SHIPPING} if of_manifest else set()
    differing: dict[str, lineage.Difference] = {}
    for path in {*found, *promised} - free:
        was, now = promised.get(path), found.get(path)
        if was != now:
            kind = "extra" if was is None else "missing" if now is None else "changed"
            differing[path] = lineage.Difference(path, kind, was, now)
    return differing


def _bom_faults(folder: Path, manifest: lineage.Manifest) -> list[str]:
    """Where the ML-BOM says something else than the manifest. A folder without one (made before) has no fault."""
    path = folder / BOM
    if not path.is_file():
        return []
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        subject = row["metadata"]["component"]
        ancestors = [ancestor["name"] for ancestor in subject["pedigree"]["ancestors"]]
        files = {part["name"]: part["hashes"][0]["content"] for part in row["components"] if part["type"] == "file"}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        return [f"{BOM} cannot be read: {type(error).__name__}"]
    faults = []
    if subject.get("name") != manifest.name or ancestors != [parent.model for parent in manifest.parents]:
        faults.append(f"{BOM} names other parents, or another model, than the manifest")
    if any(manifest.files.get(name) is None or manifest.files[name].sha256 != sha for name, sha in files.items()):
        faults.append(f"{BOM} lists other files than the manifest")
    return faults
