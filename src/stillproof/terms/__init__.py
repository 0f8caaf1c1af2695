"""May this teacher be distilled, and what does the student then owe?

Each file in `data/terms/` is one record: a licence or the terms of a service, with the clauses that decide, quoted
from the text itself, the SHA-256 of that text, its source and the date on which it was read. `ask` finds the record
that the teacher's own declaration names and turns it into a Verdict; `require` stops the run where that is no yes.

Three rules keep a wrong yes out:
- Only a text that was held and hashed may say allow. What is known at second hand is unknown, whatever it says.
- A licence decides by its declared name, never by the family name of a model: one family has many licences.
- Whoever calls a service is bound by that service's terms, also where the weights behind it are open. A host that
  no record names is unknown; only on a loopback or private address does the licence of the weights decide alone.

This is a reading of public texts for engineers. It is not legal advice.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from stillproof.errors import SchemaError, TermsError
from stillproof.terms.grant import SCOPE, Grant, read_grant
from stillproof.terms.records import Clause, Decision, Duty, TermsRecord, read_licence, records, text_digest

__all__ = [
    "STRICTNESS",
    "Clause",
    "Duty",
    "Grant",
    "TermsRecord",
    "Verdict",
    "ask",
    "host_of",
    "read_grant",
    "read_licence",
    "records",
    "require",
    "shown_way",
    "strictest",
    "text_digest",
    "with_grants",
]

STRICTNESS: dict[Decision, int] = {"allow": 0, "allow_with_duties": 1, "unknown": 2, "deny": 3}
"""How strict a decision is; of several, the strictest counts."""
MAX_NAME_CHARS = 120


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of `ask`. The decision is the text's own; a grant stands beside it."""

    decision: Decision
    record: TermsRecord | None
    reasons: tuple[Clause, ...]
    duties: tuple[Duty, ...]
    grant: Grant | None
    declared_by: str
    model: str
    licence: str | None
    why: str
    """One sentence: what was matched, or why nothing was."""
    grant_refused: str | None = None
    """Why a grant that was offered does not count."""
    derivative: bool = False
    """Whether it was asked about for its weights; else for its outputs."""
    way: tuple[str, ...] = ()
    """From the teacher to this model, where it is an ancestor of the teacher."""
    ancestors: tuple[Verdict, ...] = ()
    """What the models ask that the teacher comes from. Each must allow, by itself or by a grant of its own."""

    @property
    def allowed(self) -> bool:
        return not self.refused

    @property
    def refused(self) -> tuple[Verdict, ...]:
        """The verdicts that stand in the way, of this model and its ancestors, the strictest first."""
        every = [one for one in (self, *self.ancestors) if not one._stands]
        return tuple(sorted(every, key=lambda one: -STRICTNESS[one.decision]))

    @property
    def grants(self) -> tuple[Grant, ...]:
        """Every grant that is used, each once."""
        used = [one.grant for one in (self, *self.ancestors) if one.grant is not None]
        return tuple({grant.id: grant for grant in used}.values())

    @property
    def _stands(self) -> bool:
        return self.grant is not None or self.decision in ("allow", "allow_with_duties")

    def to_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "decision": self.decision,
            "allowed": self.allowed,
            "model": self.model,
            "licence": self.licence,
            "declared_by": self.declared_by,
            "why": self.why,
            "record": None if record is None else record.id,
            "title": None if record is None else record.title,
            "version": None if record is None else record.version,
            "url": None if record is None else record.url,
            "source": None if record is None else record.source,
            "sha256": None if record is None else record.sha256,
            "retrieved": None if record is None else str(record.retrieved),
            "evidence": None if record is None else record.evidence,
            "reasons": [asdict(clause) for clause in self.reasons],
            "duties": [asdict(duty) for duty in self.duties],
            "grant": None if self.grant is None else self.grant.to_json(),
            "grant_refused": self.grant_refused,
            "use": "weights" if self.derivative else "outputs",
            "way": list(self.way),
            "ancestors": [ancestor.to_json() for ancestor in self.ancestors],
        }


# --- the question ---------------------------------------------------------------------------------------------


def ask(
    *,
    licence: str | None,
    provider: str | None,
    model: str,
    declared_by: str,
    grant: Grant | None,
    today: date,
    derivative: bool = False,
) -> Verdict:
    """May `model` teach another model? No call is made and no weights are read.

    licence: as the weights, their card or the config declare it: SPDX id, hub tag, or the licence's name.
    provider: host (or URL) of the endpoint that answers; None for weights at hand.
    declared_by: where the licence was declared, such as 'weights metadata' or 'config'.
    derivative: the student starts from this very model's weights. Some texts (Llama 2) that forbid training other
        models except their own derivatives then answer differently, and duties on copies of the weights are owed.
    """
    host = None if provider is None else host_of(provider)
    if host is not None and not _is_own(host):
        record = _by_host(host)
        declared_by = f"endpoint host {host}"
        why = f"calls to {host} are bound by its operator's terms" if record else f"no record for the host {host!r}"
    else:
        record = _by_licence(licence)
        why = _why(licence, record)
    verdict = Verdict("unknown", None, (), (), None, declared_by, model, licence, why, derivative=derivative)
    if record is not None:
        verdict = _read(verdict, record, derivative)
    return verdict if grant is None else with_grants(verdict, [grant], today)


def with_grants(verdict: Verdict, grants: Sequence[Grant], today: date) -> Verdict:
    """The verdict with the first grant that covers its model today; else with why none of those offered does."""
    refusals = []
    for grant in grants:
        refused = grant.refusal(verdict.model, today)
        if refused is None:
            return replace(verdict, grant=grant, grant_refused=None)
        refusals.append(refused)
    return replace(verdict, grant_refused="; ".join(refusals) or None)


def require(verdict: Verdict) -> None:
    """Raise TermsError, with the clause, its source and date and what to do, unless the verdict allows the use.

    The strictest of the model's own verdict and its ancestors' is told, with the way that leads to it.
    """
    if verdict.allowed:
        return
    model, verdict = verdict.model, verdict.refused[0]
    told = "forbid" if verdict.decision == "deny" else "are not known to allow"
    whose = "the teacher's terms"
    if verdict.way:
        whose = f"{model!r} comes from another model ({shown_way(verdict.way)}), whose terms"
    what = f"{whose} {told} training another model on it: {verdict.why}; declared by {verdict.declared_by}"
    if verdict.record is not None:
        what += f". {_cite(verdict.record, verdict.reasons)}"
    if verdict.grant_refused is not None:
        what += f". The grant offered does not count: {verdict.grant_refused}"
    template = {
        "id": "...",
        "grantor": "who permits",
        "grantee": "who may",
        "scope": SCOPE,
        "teacher": verdict.model,
        "issued": "YYYY-MM-DD",
        "expires": "YYYY-MM-DD",
        "evidence": "the written permission, or its URL",
    }
    known, setting = "", "terms.grants" if verdict.way else "terms.grant"
    if verdict.way and verdict.record is None:
        row = json.dumps({verdict.model: "..."}, ensure_ascii=True).replace(": ", " = ")
        known = f"give that model's folder (terms.parents={row}) or the licence you declare (terms.licences={row}); or "
    remedy = (
        f"{known}choose a teacher whose terms allow it (weights under Apache-2.0 or MIT, say); or, with a written "
        f"permission, record it in a JSON file and set {setting}=FILE: {json.dumps(template, ensure_ascii=True)}. "
        "This is a reading of the text, not legal advice."
    )
    raise TermsError(what, verdict.model, remedy)


def shown_way(way: Sequence[str]) -> str:
    """A way as words. Names come from cards that anybody may have written: each is cut."""
    return " <- ".join(name if len(name) <= MAX_NAME_CHARS else name[:MAX_NAME_CHARS] + "..." for name in way)


def strictest(verdicts: list[Verdict]) -> Verdict:
    """The strictest of some verdicts, deny first: a student inherits from all its parents."""
    return max(verdicts, key=lambda verdict: STRICTNESS[verdict.decision])


def host_of(provider: str) -> str:
    """The host of a host, host:port or URL, in lower case; empty where it has none (and then no record names it)."""
    try:
        host = urlsplit(provider if "//" in provider else f"//{provider}").hostname
    except ValueError:
        return ""
    return (host or "").rstrip(".").lower()


# --- matching -------------------------------------------------------------------------------------------------


def _fold(name: str) -> str:
    return " ".join(name.split()).casefold()


def _by_licence(licence: str | None) -> TermsRecord | None:
    return None if licence is None else _licence_index().get(_fold(licence))


def _by_host(host: str) -> TermsRecord | None:
    return next((record for record in records() if host in record.hosts), None)


def _is_own(host: str) -> bool:
    """A server on this machine or network: no third party's service lies between the user and the weights."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or (address.is_private and not address.is_unspecified)


def _why(licence: str | None, record: TermsRecord | None) -> str:
    if licence is None or not licence.strip():
        return "no licence is declared"
    if record is None:
        return f"no record for the declared licence {licence!r}"
    return f"the declared licence {licence!r} is {record.title}"


def _read(verdict: Verdict, record: TermsRecord, derivative: bool) -> Verdict:
    decision = record.own_derivative if derivative else record.decision
    duties = tuple(duty for duty in record.duties if derivative or duty.when == "trained")
    if decision == "allow" and duties:
        decision = "allow_with_duties"
    forbids = tuple(clause for clause in record.clauses if clause.effect == "forbid")
    reasons = forbids if decision == "deny" and forbids else record.clauses
    return replace(verdict, decision=decision, record=record, reasons=reasons, duties=duties)


def _cite(record: TermsRecord, clauses: tuple[Clause, ...]) -> str:
    quotes = "; ".join(f'"{clause.quote}"{f" (section {clause.where})" if clause.where else ""}' for clause in clauses)
    digest = f", SHA-256 {record.sha256}" if record.sha256 else ""
    held = f"{record.title}, version {record.version}, {record.url}{digest}, read {record.retrieved}"
    note = f" {record.note}" if record.note else ""
    return f"{quotes}: {held}.{note}" if quotes else f"{held}: {record.evidence}.{note}"


@cache
def _licence_index() -> dict[str, TermsRecord]:
    index: dict[str, TermsRecord] = {}
    for record in records():
        keys = {_fold(name) for name in (record.spdx, record.hub_tag, *record.names) if name}
        for key in keys:
            if key in index:
                raise SchemaError(f"two records claim the licence name {key!r}", f"{index[key].id}, {record.id}")
            index[key] = record
    return index
