"""The evidence of an audit as a folder that a stranger can check: sealed once, replayed without model or network.

    plan.json          what was fixed before the first query; its SHA-256 is the plan's id
    begun.json         who was asked, as far as it can be known
    answers.jsonl      the exchanges: prompts and answers as text
    transcripts.jsonl  the same as token ids, in the order in which they count
    finding.json       what was concluded
    key.json           the key, where it was revealed; else the bundle is sealed and a replay asks for the key
    bundle.json        digest of every file, versions, seed, commitment; and its own digest

Digests show that a file was changed by accident, or by somebody who does not re-seal. Against its own maker a bundle
holds only as far as the plan's id and the bundle's digest were published, and the key's commitment before that.
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import stillproof
from stillproof.errors import CustodyError, InputError, MismatchError, SchemaError
from stillproof.exchange import Exchange, sha256_of
from stillproof.finding import Finding
from stillproof.store.disk import remove_file, replace_file
from stillproof.store.jsonl import read_jsonl
from stillproof.trace.key_file import read_mark_key
from stillproof.trace.plan import Plan, read_plan
from stillproof.trace.suspect import ANSWERS_FILE, BEGUN_FILE, LOCK_FILE, PLAN_FILE, SEALED_FILE
from stillproof.trace.tokens import TextToIds, open_tokenizer
from stillproof.trace.verdict import Candidates, Transcript, judge, transcript_of
from stillproof.watermark import MarkKey

BUNDLE_FORMAT = "stillproof-trace-bundle/1"
TRANSCRIPTS_FILE, FINDING_FILE, KEY_FILE = "transcripts.jsonl", "finding.json", "key.json"
ALWAYS = (PLAN_FILE, BEGUN_FILE, ANSWERS_FILE, TRANSCRIPTS_FILE, FINDING_FILE)
ROUNDING = 1e-9
"""Relative difference that another numpy or processor may make; where all is equal none is allowed."""

_CODE = (
    "finding.py",
    *(f"trace/{name}.py" for name in ("evidence", "radioactivity", "tails", "verdict")),
    *(f"watermark/{name}.py" for name in ("keys", "prf", "scoring")),
    *(f"stats/{name}.py" for name in ("intervals", "p_values")),
)
_TORN = re.compile(r"answers(\.[0-9]+)?\.torn")
"""Half a line that a crash left, set aside by the journal."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A bundle that is whole."""

    folder: Path
    digest: str
    """SHA-256 of bundle.json, as sha256sum prints it."""
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found: the finding, equal to the sealed one."""

    sealed: Sealed
    finding: Finding
    exact: bool
    """Equal in every bit; else up to ROUNDING, and then only where software or processor differ."""
    same_software: bool


def seal(
    folder: Path, plan: Plan, plan_id: str, key: MarkKey, rows: Sequence[Transcript], *, reveal_key: bool = False
) -> tuple[Sealed, Finding]:
    """Conclude an audit whose answers are in `folder`, and seal it. `rows`: its calls in the plan's order."""
    finding = judge(plan, plan_id, key, rows, stillproof.__version__)
    _write(folder / TRANSCRIPTS_FILE, "".join(_line(row) for row in rows))
    _write(folder / FINDING_FILE, _text(finding.to_json()))
    names = [*ALWAYS, *(path.name for path in folder.iterdir() if _TORN.fullmatch(path.name))]
    if reveal_key:
        _write(folder / KEY_FILE, _text(key.to_json()))
        names.append(KEY_FILE)
    else:
        remove_file(folder / KEY_FILE)
    times = [row.time for row in rows if row.time is not None]
    manifest: dict[str, Any] = {
        "format": BUNDLE_FORMAT,
        "plan_id": plan_id,
        "commitment": key.commitment,
        "key": "revealed" if reveal_key else "sealed",
        "seed": plan.seed,
        "first_answer": min(times).isoformat() if times else None,
        "last_answer": max(times).isoformat() if times else None,
        "software": software(),
        "files": {name: _described(folder / name) for name in sorted(names)},
    }
    manifest["digest"] = sha256_of(manifest)
    _write(folder / SEALED_FILE, _text(manifest))
    remove_file(folder / LOCK_FILE)
    return verify(folder), finding


def software() -> dict[str, str]:
    """What a bit of a result may depend on."""
    return {
        "stillproof": stillproof.__version__,
        "code_sha256": _code_sha256(),
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
    raw = _read(path)
    digest = sha256(raw).hexdigest()
    if bundle_sha256 is not None and digest != bundle_sha256.strip().lower():
        raise MismatchError(f"the bundle is not the one of that digest: its own is {digest}", str(path), _ASK)
    manifest = _json_object(raw, path)
    if manifest.get("format") != BUNDLE_FORMAT:
        raise SchemaError(
            f"bundle format {str(manifest.get('format'))[:60]!r}, this version reads {BUNDLE_FORMAT!r}", str(path)
        )
    stated = manifest.get("digest")
    if stated != sha256_of({k: v for k, v in manifest.items() if k != "digest"}) or raw.decode() != _text(manifest):
        raise _changed(path)
    files = manifest["files"]
    expected = {*ALWAYS, KEY_FILE} if manifest["key"] == "revealed" else {*ALWAYS}
    if {name for name in files if not _TORN.fullmatch(name)} != expected:
        raise InputError("the bundle lists other files than a bundle has", str(path), _ASK)
    extra = sorted({entry.name for entry in folder.iterdir()} - {*files, SEALED_FILE, LOCK_FILE})
    if extra:
        raise InputError("a file that the bundle does not list", str(folder / extra[0]), "take it out of the folder")
    for name in sorted(files):
        if _described(folder / name) != files[name]:
            raise _changed(folder / name)
    return Sealed(folder, digest, manifest)


def replay(
    folder: Path, key_path: Path | None = None, *, bundle_sha256: str | None = None, tokenizer: str | None = None
) -> Replay:
    """Check every file of a bundle, compute its finding again, and compare.

    `tokenizer`: the plan's, where it is at hand; then it is checked too that the token ids are those of the text.
    Raises what `verify` raises; CustodyError where the key is sealed and none is given; MismatchError where the key,
    the order of calls, the token ids or the finding is another.
    """
    sealed = verify(folder, bundle_sha256=bundle_sha256)
    plan, plan_id = read_plan(folder / PLAN_FILE, plan_id=str(sealed.manifest["plan_id"]))
    key = _key_of(sealed, key_path)
    rows = _transcripts(folder / TRANSCRIPTS_FILE)
    to_ids = None if tokenizer is None else open_tokenizer(plan.tokenizer, tokenizer)
    _check_calls(folder, plan, plan_id, rows, to_ids)
    stored = Finding.from_json(_json_object(_read(folder / FINDING_FILE), folder / FINDING_FILE))
    made_with = sealed.manifest["software"]
    finding = judge(plan, plan_id, key, rows, str(made_with["stillproof"]))
    exact, same = finding == stored, made_with == software()
    if not exact and (same or not _near(finding.to_json(), stored.to_json())):
        what = "the finding does not follow from the transcripts"
        if not same:
            what += f"; it was made with stillproof {made_with['stillproof']}, numpy {made_with['numpy']}"
        raise MismatchError(what, str(folder / FINDING_FILE), "replay with the software that bundle.json names")
    return Replay(sealed, finding, exact, same)


_ASK = "get the bundle again from who made it"


def _changed(path: Path) -> MismatchError:
    return MismatchError("the file is not as it was sealed", str(path), _ASK)


def _key_of(sealed: Sealed, key_path: Path | None) -> MarkKey:
    revealed = sealed.folder / KEY_FILE
    if key_path is None and sealed.manifest["key"] != "revealed":
        raise CustodyError(
            "the key of this bundle is sealed", str(sealed.folder), "give --key FILE, or ask its owner to reveal it"
        )
    return read_mark_key(key_path if key_path is not None else revealed)


def _check_calls(folder: Path, plan: Plan, plan_id: str, rows: Sequence[Transcript], to_ids: TextToIds | None) -> None:
    """The calls are the first ones of the plan, in its order, and the answers are those that were written down."""
    path = folder / TRANSCRIPTS_FILE
    requests = plan.requests(plan_id)
    if [row.id for row in rows] != [request.id for request in requests[: len(rows)]]:
        raise MismatchError("the calls are not those of the plan", str(path), _ASK)
    if plan.stopping == "all" and len(rows) < len(requests):
        raise MismatchError("calls of the plan are missing", str(path), _ASK)
    answers = {exchange.id: exchange for exchange in read_jsonl(folder / ANSWERS_FILE)}
    if set(answers) != {row.id for row in rows}:
        raise MismatchError("other calls than the transcripts have", str(folder / ANSWERS_FILE), _ASK)
    for row, request in zip(rows, requests, strict=False):
        if not _belongs(answers[row.id], row) or answers[row.id].messages != request.messages:
            raise MismatchError(f"answer and transcript of {row.id} differ", str(path), _ASK)
        if to_ids is not None and transcript_of(answers[row.id], request, plan, to_ids) != row:
            raise MismatchError(f"the token ids of {row.id} are not those of its text", str(path), _ASK)


def _belongs(exchange: Exchange, row: Transcript) -> bool:
    answered = exchange.response is not None and exchange.status in (None, 200)
    return (exchange.status, exchange.time, answered) == (row.status, row.time, row.answer_ids is not None)


def _near(one: object, other: object) -> bool:
    """Equal, numbers up to ROUNDING and text up to the numbers in a check's words."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_near(one[name], other[name]) for name in one if name != "detail")
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_near, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return one == other


def _line(row: Transcript) -> str:
    values: dict[str, Any] = {
        "id": row.id,
        "status": row.status,
        "time": None if row.time is None else row.time.isoformat(),
        "prompt_ids": list(row.prompt_ids),
        "answer_ids": None if row.answer_ids is None else list(row.answer_ids),
    }
    if row.top is not None:
        values["top"] = row.top
    return json.dumps(values, separators=(",", ":")) + "\n"


def _transcripts(path: Path) -> list[Transcript]:
    rows: list[Transcript] = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        try:
            row = json.loads(line)
            time, answer = row["time"], row["answer_ids"]
            rows.append(
                Transcript(
                    row["id"],
                    row["status"],
                    None if time is None else datetime.fromisoformat(time),
                    _token_ids(row["prompt_ids"]),
                    None if answer is None else _token_ids(answer),
                    _candidates(row["top"]) if "top" in row else None,
                )
            )
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(f"not a transcript ({type(error).__name__})", f"{path}:{number}", _ASK) from None
    return rows


def _token_ids(values: list[Any]) -> tuple[int, ...]:
    if not all(type(value) is int for value in values):
        raise ValueError("token ids are whole numbers")
    return tuple(values)


def _candidates(rows: list[list[list[Any]]]) -> tuple[Candidates, ...]:
    return tuple(tuple((_token_ids([number])[0], float(logprob)) for number, logprob in row) for row in rows)


def _described(path: Path) -> dict[str, Any]:
    raw = _read(path)
    return {"sha256": sha256(raw).hexdigest(), "bytes": len(raw)}


def _code_sha256() -> str:
    """Over the source of what computes a finding."""
    root = Path(stillproof.__file__).parent
    return sha256_of([[name, sha256(_read(root / name)).hexdigest()] for name in _CODE])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(path), "give the folder of a whole bundle") from None


def _json_object(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _changed(path)
    return value


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    raw = text.encode()
    replace_file(path, lambda file: file.write(raw))
