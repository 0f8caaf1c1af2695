"""Sealing: a folder of evidence listed file by file with digests, and checked again. What is in it: `bundle.py` and
`coin_bundle.py`."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import stillproof
from stillproof.errors import InputError, MismatchError, SchemaError
from stillproof.exchange import sha256_of
from stillproof.finding import Finding
from stillproof.store.disk import remove_file, replace_file
from stillproof.trace.suspect import ANSWERS_FILE, BEGUN_FILE, LOCK_FILE, PLAN_FILE, SEALED_FILE

BUNDLE_FORMAT = "stillproof-trace-bundle/1"
TRANSCRIPTS_FILE, FINDING_FILE, KEY_FILE = "transcripts.jsonl", "finding.json", "key.json"
SERVED_FILE, COINS_FILE, ACCOUNTS_FILE = "served.jsonl", "coins.jsonl", "accounts.json"
_COINED = (PLAN_FILE, BEGUN_FILE, ANSWERS_FILE, SERVED_FILE, COINS_FILE, FINDING_FILE)
ALWAYS: dict[str, tuple[str, ...]] = {
    "radioactivity": (PLAN_FILE, BEGUN_FILE, ANSWERS_FILE, TRANSCRIPTS_FILE, FINDING_FILE),
    "twins": _COINED,
    "cards": _COINED,
}
"""Files of a bundle by its test, beside accounts.json where accounts were tested and key.json where it is revealed."""

ROUNDING = 1e-9
"""Relative difference that another numpy or processor may make; where all is equal none is allowed."""

ASK = "get the bundle again from who made it"
_TORN = re.compile(r"answers(\.[0-9]+)?\.torn")
"""Half a line that a crash left, set aside by the journal."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A bundle that is whole."""

    folder: Path
    digest: str
    """SHA-256 of bundle.json, as sha256sum prints it."""
    manifest: Mapping[str, Any]
    accounts: tuple[Finding, ...] = field(default=())
    """Findings of accounts, where the plan names some."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a manifest says beside its files."""

    test: str
    plan_id: str
    commitment: str
    revealed: bool
    seed: int
    code: tuple[str, ...]
    """Sources of what computes the finding, inside the package."""


def write_manifest(folder: Path, head: Head, names: Iterable[str], times: Sequence[datetime]) -> Sealed:
    """List the files of a bundle with their digests, and end the audit. `times`: of the answers."""
    listed = [*names, *(path.name for path in folder.iterdir() if _TORN.fullmatch(path.name))]
    manifest: dict[str, Any] = {
        "format": BUNDLE_FORMAT,
        "test": head.test,
        "plan_id": head.plan_id,
        "commitment": head.commitment,
        "key": "revealed" if head.revealed else "sealed",
        "seed": head.seed,
        "first_answer": min(times).isoformat() if times else None,
        "last_answer": max(times).isoformat() if times else None,
        "software": software(head.code),
        "files": {name: _described(folder / name) for name in sorted(listed)},
    }
    manifest["digest"] = sha256_of(manifest)
    write_text(folder / SEALED_FILE, text_of(manifest))
    remove_file(folder / LOCK_FILE)
    return verify(folder)


def software(code: Iterable[str]) -> dict[str, str]:
    """What a bit of a result may depend on."""
    return {
        "stillproof": stillproof.__version__,
        "code_sha256": _code_sha256(code),
        "python": platform.python_version(),
        "numpy": version_of("numpy"),
        "scipy": version_of("scipy"),
        "processor": platform.machine(),
    }


def verify(folder: Path, *, bundle_sha256: str | None = None) -> Sealed:
    """A bundle whose files are all as they were sealed. Raises an error that names the first file that is not:
    InputError where it is missing or no such file, MismatchError where a byte differs, SchemaError for an unknown
    format."""
    path = folder / SEALED_FILE
    raw = read_bytes(path)
    digest = sha256(raw).hexdigest()
    if bundle_sha256 is not None and digest != bundle_sha256.strip().lower():
        raise MismatchError(f"the bundle is not the one of that digest: its own is {digest}", str(path), ASK)
    manifest = json_object(raw, path)
    if manifest.get("format") != BUNDLE_FORMAT:
        raise SchemaError(
            f"bundle format {str(manifest.get('format'))[:60]!r}, this version reads {BUNDLE_FORMAT!r}", str(path)
        )
    stated = manifest.get("digest")
    if stated != sha256_of({k: v for k, v in manifest.items() if k != "digest"}) or raw.decode() != text_of(manifest):
        raise changed(path)
    files = manifest["files"]
    always = ALWAYS.get(str(manifest.get("test", "radioactivity")), ())
    expected = {*always, KEY_FILE} if manifest["key"] == "revealed" else {*always}
    if {name for name in files if not _TORN.fullmatch(name)} - {ACCOUNTS_FILE} != expected:
        raise InputError("the bundle lists other files than a bundle has", str(path), ASK)
    extra = sorted({entry.name for entry in folder.iterdir()} - {*files, SEALED_FILE, LOCK_FILE})
    if extra:
        raise InputError("a file that the bundle does not list", str(folder / extra[0]), "take it out of the folder")
    for name in sorted(files):
        if _described(folder / name) != files[name]:
            raise changed(folder / name)
    return Sealed(folder, digest, manifest)


def changed(path: Path) -> MismatchError:
    return MismatchError("the file is not as it was sealed", str(path), ASK)


def compared(computed: Sequence[Finding], stored: Sequence[Finding], sealed: Sealed, code: Iterable[str]) -> bool:
    """Whether findings computed again are the stored ones in every bit. Raises MismatchError where they are not, nor
    up to ROUNDING by other software."""
    exact, made_with = list(computed) == list(stored), sealed.manifest["software"]
    if exact:
        return True
    same = made_with == software(code)
    near = len(computed) == len(stored) and all(
        _near(one.to_json(), other.to_json()) for one, other in zip(computed, stored, strict=False)
    )
    if same or not near:
        what = "the finding does not follow from the transcripts"
        if not same:
            what += f"; it was made with stillproof {made_with['stillproof']}, numpy {made_with['numpy']}"
        remedy = "replay with the software that bundle.json names"
        raise MismatchError(what, str(sealed.folder / FINDING_FILE), remedy)
    return False


def stored_findings(folder: Path) -> list[Finding]:
    """The finding of a bundle, then those of accounts."""
    path, accounts = folder / FINDING_FILE, folder / ACCOUNTS_FILE
    found = [Finding.from_json(json_object(read_bytes(path), path))]
    if accounts.exists():
        rows = json_object(read_bytes(accounts), accounts).get("accounts")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise changed(accounts)
        found += [Finding.from_json(row) for row in rows]
    return found


def write_findings(folder: Path, finding: Finding, accounts: Sequence[Finding] | None) -> list[str]:
    """Write a bundle's findings; the names of the files. None: no accounts were tested."""
    write_text(folder / FINDING_FILE, text_of(finding.to_json()))
    if accounts is None:
        remove_file(folder / ACCOUNTS_FILE)
        return [FINDING_FILE]
    write_text(folder / ACCOUNTS_FILE, text_of({"accounts": [one.to_json() for one in accounts]}))
    return [FINDING_FILE, ACCOUNTS_FILE]


def _near(one: object, other: object) -> bool:
    """Equal, numbers up to ROUNDING and text up to the numbers in a check's words."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_near(one[name], other[name]) for name in one if name != "detail")
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_near, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return one == other


def _described(path: Path) -> dict[str, Any]:
    raw = read_bytes(path)
    return {"sha256": sha256(raw).hexdigest(), "bytes": len(raw)}


def _code_sha256(code: Iterable[str]) -> str:
    """Over the source of what computes a finding."""
    root = Path(stillproof.__file__).parent
    return sha256_of([[name, sha256(read_bytes(root / name)).hexdigest()] for name in code])


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(path), "give the folder of a whole bundle") from None


def json_object(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise changed(path)
    return value


def text_of(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    raw = text.encode()
    replace_file(path, lambda file: file.write(raw))
