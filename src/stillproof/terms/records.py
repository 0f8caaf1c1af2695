"""Terms records: licences and terms of service as data, with the clauses that decide quoted from the text.

How a record is made and checked: dev/terms/README.md.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, fields
from datetime import date
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from stillproof.errors import SchemaError

Decision = Literal["allow", "allow_with_duties", "deny", "unknown"]
Effect = Literal["permit", "require", "forbid", "define"]
Evidence = Literal["primary_text", "official_page", "secondary", "assumed"]
DutyKind = Literal[
    "name_prefix",
    "attribution",
    "agreement_copy",
    "notice_text",
    "change_notice",
    "keep_notices",
    "use_restrictions",
    "user_limit",
]
When = Literal["trained", "derivative"]


MAX_QUOTE_CHARS = 400
_SEE = "see dev/terms/README.md"


@dataclass(frozen=True, slots=True)
class Clause:
    """A passage of the text, word for word (whitespace folded), at most 400 characters."""

    topic: str
    quote: str
    effect: Effect
    where: str = ""
    """Section, as the text numbers it."""


@dataclass(frozen=True, slots=True)
class Duty:
    """What the student owes, as an artefact whose presence can be checked."""

    id: str
    kind: DutyKind
    text: str
    value: str
    """What is checked: the prefix, the words to show, the file in data/licences, or the number of users."""
    check: str
    """How to see that it is met."""
    when: When = "trained"
    """trained: owed by a student that learned from outputs; derivative: only by one made of the teacher's weights."""


@dataclass(frozen=True, slots=True)
class TermsRecord:
    """One text of terms and how it reads on training another model with a teacher's outputs or distributions."""

    id: str
    title: str
    version: str
    """The text's own date or number."""
    url: str
    source: str
    """The copy that was read."""
    sha256: str | None
    """Of the text as `text_digest` takes it; None where no copy is held."""
    retrieved: date
    evidence: Evidence
    spdx: str | None
    hub_tag: str | None
    """`license:` value on the hub, where it has one of its own."""
    names: tuple[str, ...]
    """Other names under which weights declare it, in lower case."""
    hosts: tuple[str, ...]
    clauses: tuple[Clause, ...]
    decision: Decision
    own_derivative: Decision
    """The decision for a student that starts from the teacher's own weights; equal to `decision` unless the text
    makes an exception for it."""
    duties: tuple[Duty, ...]
    text: str | None
    """Name of the full text in data/licences, where duties oblige a student to carry it."""
    note: str

    def licence_text(self) -> str | None:
        """The full text, where this package carries it."""
        return None if self.text is None else read_licence(self.text)


@cache
def records() -> tuple[TermsRecord, ...]:
    """All records in data/terms, by id. Raises SchemaError where one breaks the rules at the head of this module."""
    folder = resources.files("stillproof") / "data" / "terms"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return tuple(parse_record(file.read_text(encoding="utf-8"), file.name) for file in files)


def parse_record(text: str, name: str) -> TermsRecord:
    """The record in a TOML text; `name` is said in errors. Raises SchemaError that names what is wrong."""
    try:
        row = tomllib.loads(text)
        record = _record(row)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise SchemaError(f"not a terms record: {type(error).__name__}: {error}", name, _SEE) from None
    faults = _faults(record)
    if faults:
        raise SchemaError("; ".join(faults), name, _SEE)
    return record


def _record(row: dict[str, Any]) -> TermsRecord:
    unknown = sorted(set(row) - {field.name for field in fields(TermsRecord)})
    if unknown:
        raise KeyError(f"unknown key {unknown[0]!r}")
    return TermsRecord(
        id=row["id"],
        title=row["title"],
        version=row["version"],
        url=row["url"],
        source=row["source"],
        sha256=row.get("sha256"),
        retrieved=row["retrieved"],
        evidence=row["evidence"],
        spdx=row.get("spdx"),
        hub_tag=row.get("hub_tag"),
        names=tuple(row.get("names", ())),
        hosts=tuple(row.get("hosts", ())),
        clauses=tuple(Clause(**clause) for clause in row.get("clauses", ())),
        decision=row["decision"],
        own_derivative=row.get("own_derivative", row["decision"]),
        duties=tuple(Duty(**duty) for duty in row.get("duties", ())),
        text=row.get("text"),
        note=row.get("note", ""),
    )


def _faults(record: TermsRecord) -> list[str]:
    faults = []
    said = {record.decision, record.own_derivative}
    if not said <= set(get_args(Decision)) or record.evidence not in get_args(Evidence):
        faults.append("unknown decision or evidence")
    if record.evidence in ("secondary", "assumed") and said != {"unknown"}:
        faults.append(f"evidence {record.evidence!r} can only be 'unknown'")
    if said & {"allow", "allow_with_duties"} and (record.sha256 is None or record.evidence != "primary_text"):
        faults.append("an allow needs the primary text and its SHA-256")
    if record.decision != "unknown" and not record.clauses:
        faults.append("a decision needs a quoted clause")
    if record.decision == "allow_with_duties" and not record.duties:
        faults.append("allow_with_duties without duties")
    faults += [
        f"quote of {c.topic!r} is over {MAX_QUOTE_CHARS} characters"
        for c in record.clauses
        if len(c.quote) > MAX_QUOTE_CHARS
    ]
    faults += [f"effect of {c.topic!r} is unknown" for c in record.clauses if c.effect not in get_args(Effect)]
    faults += [f"duty {d.id!r} is of an unknown kind" for d in record.duties if d.kind not in get_args(DutyKind)]
    faults += [f"duty {d.id!r}: unknown 'when'" for d in record.duties if d.when not in get_args(When)]
    return faults


def read_licence(name: str) -> str:
    """A full text of data/licences."""
    return (resources.files("stillproof") / "data" / "licences" / name).read_text(encoding="utf-8")


def text_digest(text: str) -> str:
    """SHA-256 of a licence's text: UTF-8, line ends LF, without white space at either end."""
    return hashlib.sha256(text.replace("\r\n", "\n").strip().encode("utf-8")).hexdigest()
