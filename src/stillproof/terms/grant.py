"""Grants: a written permission to teach another model, in a JSON file.

Without a signature it is recorded by the user, who answers for it. With one (signed_grant.py) it is the grantor's own
word, and must hold: a signature that does not is worse than none, and the grant is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from stillproof.errors import InputError

SCOPE = "train_other_model"

_GRANT_TEXTS = ("id", "grantor", "grantee", "scope", "teacher", "evidence")


@dataclass(frozen=True, slots=True)
class Grant:
    """A written permission, recorded by the user. It lifts unknown or deny; it never hides them."""

    id: str
    grantor: str
    grantee: str
    scope: str
    teacher: str
    """The model's name as its identity gives it, or '*'."""
    issued: date
    expires: date | None
    """Last day on which it holds; None for a permission without end."""
    evidence: str
    """Where the written permission is: a URL, a contract number, the words themselves."""
    signature: str | None = None
    """'ed25519:<public key>:<signature>', hex, over all other fields; None for a grant that the user records."""
    max_exchanges: int | None = None
    """Volume; None where none is set."""
    accounts: tuple[str, ...] = ()
    """Pseudonyms of the accounts that may; for a guard, that spares them."""
    duties: tuple[str, ...] = ()
    """What the grantee owes in return, in words."""

    def refusal(self, model: str, today: date) -> str | None:
        """Why this grant does not cover the model today, or None where it does."""
        if self.signature is not None:
            from stillproof.terms.signed_grant import signer_of

            if signer_of(self) is None:
                return f"grant {self.id!r} was forged or changed: its signature does not hold"
        if self.scope != SCOPE:
            return f"grant {self.id!r} is for {self.scope!r}, not for {SCOPE!r}"
        if self.teacher not in ("*", model):
            return f"grant {self.id!r} is for the teacher {self.teacher!r}, not for {model!r}"
        if today < self.issued:
            return f"grant {self.id!r} is issued on {self.issued}, after {today}"
        if self.expires is not None and today > self.expires:
            return f"grant {self.id!r} expired on {self.expires}"
        return None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; volume, accounts and duties stand in it only where they are set."""
        dates = {"issued": str(self.issued), "expires": None if self.expires is None else str(self.expires)}
        row = {**asdict(self), **dates}
        for name, value in (
            ("max_exchanges", self.max_exchanges),
            ("accounts", list(self.accounts)),
            ("duties", list(self.duties)),
        ):
            row[name] = value
            if not value:
                del row[name]
        return row


def canonical(grant: Grant) -> bytes:
    """What a signature covers: every field but itself, as JSON with sorted keys and no spaces, in UTF-8."""
    row = {name: value for name, value in grant.to_json().items() if name != "signature"}
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def read_grant(path: Path) -> Grant:
    """The grant in a JSON file. Raises InputError that names every fault; `ask` then judges whether it holds."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such grant file", str(path), "give the path of a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not JSON: {error}", str(path), "correct the place named") from None
    if not isinstance(row, dict):
        raise InputError(
            "a grant is one JSON object", str(path), f"its keys: {', '.join(_GRANT_TEXTS)}, issued, expires"
        )
    faults = [f"{name!r} must be a text that is not empty" for name in _GRANT_TEXTS if not _is_text(row.get(name))]
    if row.get("signature") is not None and not _is_text(row["signature"]):
        faults.append("'signature' must be a text, or absent")
    if _is_text(row.get("scope")) and row["scope"] != SCOPE:
        faults.append(f"'scope' is {row['scope']!r}; this version knows {SCOPE!r}")
    volume, lists = row.get("max_exchanges"), {name: row.get(name, []) for name in ("accounts", "duties")}
    if volume is not None and (type(volume) is not int or volume < 1):
        faults.append("'max_exchanges' must be a count of 1 or more, or absent")
    faults += [
        f"{name!r} must be a list of texts, or absent"
        for name, value in lists.items()
        if not isinstance(value, list) or not all(_is_text(text) for text in value)
    ]
    issued = _day(row, "issued", faults)
    expires = None if "expires" in row and row["expires"] is None else _day(row, "expires", faults)
    if issued and expires and expires < issued:
        faults.append(f"it expires on {expires}, before it is issued on {issued}")
    known = {*_GRANT_TEXTS, "issued", "expires", "signature", "max_exchanges", *lists}
    faults += [f"unknown key {name!r}" for name in sorted(set(row) - known)]
    if faults or issued is None:
        lines = "".join(f"\n  {number}. {fault}" for number, fault in enumerate(faults, 1))
        raise InputError(f"{len(faults)} fault(s) in the grant:{lines}\n", str(path), "correct them all")
    texts = {name: row[name] for name in _GRANT_TEXTS}
    return Grant(
        **texts,
        issued=issued,
        expires=expires,
        signature=row.get("signature"),
        max_exchanges=volume,
        accounts=tuple(lists["accounts"]),
        duties=tuple(lists["duties"]),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _day(row: dict[str, Any], name: str, faults: list[str]) -> date | None:
    value = row.get(name)
    try:
        if isinstance(value, str):
            return date.fromisoformat(value)
    except ValueError:
        pass
    absent = " (null for a permission without end)" if name == "expires" else ""
    faults.append(f"{name!r} must be a date such as 2026-12-31{absent}, got {value!r}")
    return None
