"""A Finding as a STIX 2.1 bundle for others: pseudonymous, expiring, without prompts; and back again.

The bundle holds a Campaign (the claim), the MITRE ATLAS techniques that it uses, a User Account for each account, a
Grouping that binds them, and the whole finding in a property extension of the campaign, so that nothing is lost.

The extension's definition carries its JSON schema whole, as text: STIX 2.1 takes a URL or plain text, and a text needs
no server that may be gone. The same file is data/finding_export.schema.json of this package.

Before anything is written, `shareable` puts every account and every exchange id under a keyed hash. Ids of exchanges
are content hashes: as they are, whoever has a list of prompts could try each. Without the operator's key nothing can be
tried. `read_stix` gives back exactly what `shareable` gave, and refuses a bundle whose time has passed.

Only what guard or trace found is shared: a STIX Campaign says that there is one. That it uses a technique of ATLAS is a
reading of the claim, and each relationship says so. Ids and names of techniques: ATLAS data of 27 May 2026, whose case
AML.CS0056 (campaigns that distilled a model) has AML.T0040 and AML.T0024.002 too. ATLAS gives its techniques new STIX
ids with every build, so ours are referenced by their ATLAS id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

from stillproof.errors import InputError, SchemaError
from stillproof.finding import Finding

EXTENSION = "extension-definition--6f1d3c1e-3d0a-5c7e-9a56-9f2b3c8d7e10"
TLP_AMBER = "marking-definition--f88d31f6-486f-44da-b317-01333bde0b82"
ATLAS_VERSION = "5.6.1"
_ATLAS: dict[str, tuple[tuple[str, str], ...]] = {
    "guard": (
        ("AML.T0024.002", "Extract AI Model"),
        ("AML.T0040", "AI Model Inference API Access"),
        ("AML.T0021", "Establish Accounts"),
    ),
    "trace": (("AML.T0024.002", "Extract AI Model"),),
}
_OF_WEIGHTS = ("unit_", "embedding_", "data_order")
"""How tests of weights begin. Whoever builds on weights queried no API: ATLAS has no technique that says only that."""
_SCO_NAMESPACE = uuid.UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")  # STIX 2.1, section 2.9
_OURS = uuid.uuid5(uuid.NAMESPACE_URL, "stillproof.finding/1")
_FIXED = "2026-11-24T00:00:00.000Z"
"""Since when there are the objects that are the same in every bundle: one id, one content, one date."""
_DIGITS = 32
KEY_BYTES = 32


def shareable(finding: Finding, key: bytes) -> Finding:
    """The finding with accounts and exchange ids under a hash of `key`, in lists and wherever a text repeats one.

    The same key gives the same pseudonyms, so that an operator can answer a question about one, and two findings of
    one account can be seen to be so. Raises InputError for a key that is no 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise InputError(f"an export key of {len(key)} bytes", remedy=f"give {KEY_BYTES} secret random bytes")
    names = {account: _hidden(key, "account", account) for account in finding.accounts}
    names |= {exchange: _hidden(key, "exchange", exchange) for exchange in finding.evidence}
    # Long names first: one may begin with another.
    order = sorted(names, key=len, reverse=True)

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            for name in order if any(name in value for name in order) else ():
                value = value.replace(name, names[name])
            return value
        if isinstance(value, Mapping):
            return {field: hide(inner) for field, inner in value.items()}
        return [hide(inner) for inner in value] if isinstance(value, list) else value

    lists: dict[str, list[str]] = {"accounts": [], "evidence": []}
    row = hide({**finding.to_json(), **lists})
    bare = Finding.from_json(row)
    return replace(
        bare,
        accounts=tuple(names[account] for account in finding.accounts),
        evidence=tuple(names[exchange] for exchange in finding.evidence),
    )


def to_stix(
    finding: Finding, key: bytes, *, made: datetime, days: int = 180, operator: str = "operator"
) -> dict[str, Any]:
    """The bundle. made: when it is shared; days: how long it may be kept; operator: the name that stands under it.

    Raises InputError for a finding that did not find or is about a student of one's own, a time without zone, or days
    below 1.
    """
    if finding.decision != "found":
        raise InputError(
            f"the finding is {finding.decision!r}, and a campaign is none", finding.claim, "share no doubts"
        )
    if finding.verb not in _ATLAS:
        raise InputError(
            f"a finding of {finding.verb!r} is about a student of your own, and no campaign",
            finding.claim,
            "export what guard or trace found",
        )
    if made.tzinfo is None or days < 1:
        raise InputError("needs a time with its zone, and a day or more to be kept", remedy="give made=, days=")
    shared = shareable(finding, key)
    stamp, until = _stamp(made), _stamp(made + timedelta(days=days))
    body = shared.to_json()
    seed = json.dumps([body, stamp, until], sort_keys=True)
    identity, tool = _identity(operator, "organization"), _identity("stillproof", "system")
    author = {"created_by_ref": identity["id"], "object_marking_refs": [TLP_AMBER]}
    accounts = [_account(pseudonym) for pseudonym in dict.fromkeys(shared.accounts)]
    campaign: dict[str, Any] = {
        **_sdo("campaign", seed, stamp),
        **author,
        "name": f"{shared.verb} {shared.test} {hashlib.sha256(seed.encode()).hexdigest()[:12]}",
        "description": shared.claim,
        "extensions": {
            EXTENSION: {
                "extension_type": "property-extension",
                # Accounts stand once, as objects; their order is kept here by being that of the grouping.
                "finding": {**body, "accounts": len(shared.accounts)},
                "valid_until": until,
                "tlp": "amber+strict",
                "atlas_version": ATLAS_VERSION,
            }
        },
    }
    patterns: list[dict[str, Any]] = [
        {**_pattern(number, name), "created_by_ref": tool["id"]} for number, name in _techniques(shared)
    ]
    uses = [{**_uses(campaign["id"], pattern["id"], stamp), **author} for pattern in patterns]
    grouping = {
        **_sdo("grouping", f"grouping {seed}", stamp),
        **author,
        "context": "suspicious-activity",
        "object_refs": [campaign["id"], *(_account_id(pseudonym) for pseudonym in shared.accounts)],
    }
    shared_by = [_tlp(), identity, tool, _extension(tool["id"])]
    objects = [*shared_by, campaign, *patterns, *uses, *accounts, grouping]
    return {"type": "bundle", "id": f"bundle--{uuid.uuid5(_OURS, 'bundle ' + seed)}", "objects": objects}


def read_stix(bundle: Mapping[str, Any], now: datetime) -> Finding:
    """The finding of a bundle that `to_stix` made, as it was shared.

    Raises SchemaError where the bundle is another's, InputError where its time has passed or an object is missing.
    """
    objects = bundle.get("objects")
    rows = [row for row in objects if isinstance(row, Mapping)] if isinstance(objects, list) else []
    campaigns = [row for row in rows if row.get("type") == "campaign" and EXTENSION in (row.get("extensions") or {})]
    groupings = [row for row in rows if row.get("type") == "grouping"]
    if len(campaigns) != 1 or len(groupings) != 1:
        raise SchemaError(
            "not a bundle with one finding of ours", str(bundle.get("id", "")), "give a stillproof export"
        )
    try:
        held = campaigns[0]["extensions"][EXTENSION]
        until = datetime.fromisoformat(held["valid_until"].replace("Z", "+00:00"))
        users = {row["id"]: row["user_id"] for row in rows if row.get("type") == "user-account"}
        accounts = [users[ref] for ref in groupings[0]["object_refs"] if ref.startswith("user-account--")]
        body, n_accounts = {**held["finding"], "accounts": accounts}, held["finding"]["accounts"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the bundle is broken: {type(error).__name__} {error}", str(bundle.get("id", ""))) from None
    if now >= until:
        raise InputError(f"the bundle expired on {held['valid_until']}", str(bundle.get("id", "")), "delete it")
    if n_accounts != len(accounts):
        raise InputError(f"{len(accounts)} accounts of {n_accounts}", str(bundle.get("id", "")), "get it again")
    return Finding.from_json(body)


def _hidden(key: bytes, what: str, name: str) -> str:
    text = f"{what}\0{name}".encode("utf-8", "surrogatepass")
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:_DIGITS]


def _stamp(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _sdo(kind: str, seed: str, stamp: str) -> dict[str, Any]:
    made = f"{kind}--{uuid.uuid5(_OURS, kind + ' ' + seed)}"
    return {"type": kind, "spec_version": "2.1", "id": made, "created": stamp, "modified": stamp}


def _identity(name: str, kind: str) -> dict[str, Any]:
    return {**_sdo("identity", f"identity {kind} {name}", _FIXED), "name": name, "identity_class": kind}


def _techniques(finding: Finding) -> tuple[tuple[str, str], ...]:
    return () if finding.test.startswith(_OF_WEIGHTS) else _ATLAS[finding.verb]


def _pattern(number: str, name: str) -> dict[str, Any]:
    url = f"https://atlas.mitre.org/techniques/{number}"
    return {
        **_sdo("attack-pattern", f"{number} {name}", _FIXED),
        "name": name,
        "external_references": [{"source_name": "mitre-atlas", "external_id": number, "url": url}],
    }


def _uses(campaign: str, pattern: str, stamp: str) -> dict[str, Any]:
    ends = {
        "relationship_type": "uses",
        "description": "A reading of the claim; the finding tests no intent.",
        "source_ref": campaign,
        "target_ref": pattern,
    }
    return {**_sdo("relationship", f"{campaign} {pattern}", stamp), **ends}


def _account_id(pseudonym: str) -> str:
    # STIX 2.1, section 2.9: UUIDv5 over the contributing properties, here user_id alone.
    name = json.dumps({"user_id": pseudonym}, separators=(",", ":"))
    return f"user-account--{uuid.uuid5(_SCO_NAMESPACE, name)}"


def _account(pseudonym: str) -> dict[str, Any]:
    return {"type": "user-account", "spec_version": "2.1", "id": _account_id(pseudonym), "user_id": pseudonym}


def _tlp() -> dict[str, Any]:
    """TLP:AMBER as STIX 2.1 defines it, word for word (section 7.2.1.4)."""
    return {
        "type": "marking-definition",
        "spec_version": "2.1",
        "id": TLP_AMBER,
        "created": "2017-01-20T00:00:00.000Z",
        "definition_type": "tlp",
        "name": "TLP:AMBER",
        "definition": {"tlp": "amber"},
    }


def extension_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of what a campaign of ours holds under EXTENSION."""
    file = resources.files("stillproof") / "data" / "finding_export.schema.json"
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _extension(author: str) -> dict[str, Any]:
    return {
        "type": "extension-definition",
        "spec_version": "2.1",
        "id": EXTENSION,
        "created": _FIXED,
        "modified": _FIXED,
        "created_by_ref": author,
        "name": "stillproof finding",
        "description": "A finding with its null hypothesis, test, numbers and the run that recomputes it.",
        "schema": json.dumps(extension_schema(), separators=(",", ":")),
        "version": "1.0.0",
        "extension_types": ["property-extension"],
    }
