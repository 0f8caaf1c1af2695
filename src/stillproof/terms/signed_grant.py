"""Grants that somebody signed: Ed25519 over the grant's canonical JSON, and the question a gateway asks of them.

A grant that a user merely records (grant.py) is the user's own word. One with a signature is the grantor's: it must
hold for the key that it names, and to whoever knows the grantor's public key it proves who permitted. Needs the extra
[sign]. RFC 8032; the signature covers every field but itself, so scope, dates, volume and duties cannot be changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from stillproof.errors import CustodyError, OutputExistsError
from stillproof.plugins import require
from stillproof.terms.grant import Grant, canonical

_PREFIX = "ed25519"
_SMALL_ORDER_Y = frozenset(
    int.from_bytes(bytes.fromhex(text), "little")
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
)
"""y of the points whose order divides 8, in every encoding: under such a 'key' anybody can sign anything."""


def create_grant_key(path: Path) -> str:
    """A new Ed25519 key: the private half (PEM, owner alone) at `path`, the public half beside it (.pub).

    Returns the public key in hex. Raises OutputExistsError where a file is there.
    """
    require("cryptography", "sign", "signed grants")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes_raw().hex()
    for file, text, mode in ((path, private, 0o600), (path.with_name(path.name + ".pub"), public.encode(), 0o644)):
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise OutputExistsError("a key is there already", str(file), "give another path") from None
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text)
    return public


def read_public_key(path: Path) -> str:
    """The public key of a .pub file, in hex. Raises CustodyError where it is something else."""
    try:
        raw = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        raise CustodyError("no such key file", str(path), "give the grantor's .pub file") from None
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise CustodyError("not a public Ed25519 key (64 hex digits)", str(path), "give the grantor's .pub file")
    return raw.hex()


def sign_grant(grant: Grant, key_file: Path) -> Grant:
    """The grant with its signature: 'ed25519:<public key>:<signature>', hex. Raises CustodyError for a wrong file."""
    require("cryptography", "sign", "signed grants")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except FileNotFoundError:
        raise CustodyError("no such key file", str(key_file), "make one with `stillproof grant key`") from None
    except (ValueError, TypeError) as error:
        raise CustodyError(f"not a private key: {error}", str(key_file), "give an Ed25519 key, PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise CustodyError("not an Ed25519 key", str(key_file), "make one with `stillproof grant key`")
    public = key.public_key().public_bytes_raw().hex()
    return replace(grant, signature=f"{_PREFIX}:{public}:{key.sign(canonical(grant)).hex()}")


def signer_of(grant: Grant) -> str | None:
    """The public key (hex) whose signature holds over this grant; None where there is none that holds.

    Raises MissingExtraError where signatures cannot be checked here: an unchecked one is no signature.
    """
    if grant.signature is None:
        return None
    require("cryptography", "sign", "signed grants")
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    parts = grant.signature.split(":")
    try:
        kind, public, signature = parts
        if kind != _PREFIX or grant.signature != grant.signature.lower():
            return None
        if int.from_bytes(bytes.fromhex(public), "little") % 2**255 in _SMALL_ORDER_Y:
            return None
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), canonical(grant))
    except (ValueError, InvalidSignature):
        return None
    return public


def refusal_of(
    grant: Grant, public_key: str, *, model: str, today: date, account: str | None = None, exchanges_used: int = 0
) -> str | None:
    """Why this grant does not cover the case, or None where it does.

    public_key: hex, of the grantor that must have signed. account: pseudonym; None leaves accounts out of the question.
    exchanges_used: what was already taken under this grant.
    """
    unusable = _unusable(grant, public_key)
    if unusable is not None:
        return unusable
    if account is not None and account not in grant.accounts:
        return f"grant {grant.id!r} does not cover this account"
    if grant.max_exchanges is not None and exchanges_used >= grant.max_exchanges:
        return f"grant {grant.id!r} is used up: {exchanges_used:,} of {grant.max_exchanges:,} exchanges"
    return grant.refusal(model, today)


# --- the guard's question -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What one account took of one model, as a log has it."""

    account: str
    """Pseudonym, as the log has it."""
    model: str
    """The model that answered, by the name that grants use."""
    first: date
    last: date
    """Days (UTC) of the first and the last exchange."""
    n_exchanges: int


@dataclass(frozen=True, slots=True)
class Cover:
    """Which accounts of a log are covered, and why grants cover no more."""

    by_account: Mapping[str, Grant]
    """Each account all of whose usage one grant covers."""
    refused: tuple[str, ...]
    """One sentence for each grant that covers less than it names."""


def cover_of(grants: Iterable[Grant], public_key: str, usage: Iterable[Usage]) -> Cover:
    """Which accounts of a log distil by right: the grants that a guard honours, over the whole log at once.

    grants: as `terms.grant.read_grant` gives them; those that a user merely recorded count for nothing here.
    public_key: of the operator whose log it is, hex (`read_public_key` of the .pub file); no other signer counts.
    usage: one row for each account and model of the log, every exchange counted.

    An account is covered where one grant names it and covers every row of it: signature, scope, teacher, and the days
    from `first` to `last` (the days of the traffic, not today: what was permitted then stays so). Volume belongs to the
    grant, not to an account: where all its accounts together took more than `max_exchanges`, it covers none of them,
    for nobody can say which exchange was the first too many.

    Accounts are compared as they stand. A grant therefore names pseudonyms made with the key of that very log
    (`stillproof grant issue --raw-account NAME --account-key FILE` makes them); under another key nothing matches, and
    nothing is covered. An account with no exchange is no row and is not covered.
    Raises MissingExtraError where signatures cannot be checked here.
    """
    rows: dict[str, list[Usage]] = {}
    for row in usage:
        rows.setdefault(row.account, []).append(row)
    covered: dict[str, Grant] = {}
    refused: list[str] = []
    for grant in grants:
        why = _unusable(grant, public_key)
        named = {account: rows[account] for account in grant.accounts if account in rows}
        taken = sum(row.n_exchanges for held in named.values() for row in held)
        if why is None and grant.max_exchanges is not None and taken > grant.max_exchanges:
            why = f"grant {grant.id!r} is used up: its accounts took {taken:,} of {grant.max_exchanges:,} exchanges"
        if why is None:
            faults = {account: _uncovered(grant, held) for account, held in named.items()}
            covered = {account: grant for account, fault in faults.items() if fault is None} | covered
            why = next((fault for fault in faults.values() if fault is not None), None)
        refused += [why] if why is not None else []
    return Cover(covered, tuple(refused))


def _unusable(grant: Grant, public_key: str) -> str | None:
    signer = signer_of(grant)
    if signer is None:
        return f"grant {grant.id!r} carries no signature that holds"
    return None if signer == public_key else f"grant {grant.id!r} is signed by another key"


def _uncovered(grant: Grant, rows: Iterable[Usage]) -> str | None:
    """Why a grant whose signature holds does not cover an account's rows; None where it does."""
    refusals = (grant.refusal(row.model, day) for row in rows for day in (row.first, row.last))
    return next((refusal for refusal in refusals if refusal is not None), None)
