"""What is said of a guard scan, in the terminal and on the page: one row a campaign, most evidence first.

    result["findings"][i]   a Finding as JSON; its rank is that among null draws, not among campaigns
    result["campaigns"][j]  {id, tier, finding: i, n_accounts, exchanges, ...}

Campaigns that were found come first, then those undecided; within each, those with most evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from stillproof.finding import LOG10_E_ZERO
from stillproof.report.text import ABSENT, number

TOP_SIGNALS = 3
_FIRST = ("found", "inconclusive")


@dataclass(frozen=True, slots=True)
class Signal:
    """One bar of the waterfall: log2 of an e-value."""

    name: str
    group: str
    bits: float
    combined: str
    """'added' or 'averaged' with the others of its group."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign beside its finding, in the words of a table."""

    id: str
    tier: str
    decision: str
    rank: str
    accounts: str
    exchanges: str
    e_value: str
    e_threshold: str
    signals: list[Signal]
    drawn: Mapping[str, Any]
    """The campaign as the scan gave it."""
    finding: Mapping[str, Any]

    @property
    def top_signals(self) -> str:
        """The strongest with their bits, one a line."""
        strongest = sorted(self.signals, key=lambda signal: (-signal.bits, signal.name))[:TOP_SIGNALS]
        return "\n".join(f"{s.name} {s.bits:+.1f}" for s in strongest if s.bits > 0) or ABSENT


def is_scan(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and {"findings", "n_accounts", "n_exchanges", "n_clusters"} <= set(value)


def is_explanation(value: object) -> TypeGuard[Mapping[str, Any]]:
    """A finding with the honest alternatives to it, as `guard explain` gives it."""
    return isinstance(value, Mapping) and {"schema", "alternatives", "would_clear"} <= set(value)


def campaigns_of(result: Mapping[str, Any]) -> list[Campaign]:
    """The campaigns, most evidence first; a finding that no campaign names stands for itself, so that none is lost."""
    findings = [row for row in result.get("findings") or () if isinstance(row, Mapping)]
    given = [row for row in result.get("campaigns") or () if isinstance(row, Mapping)]
    pairs = [(row, _at(findings, row.get("finding"))) for row in given]
    named = {row.get("finding") for row in given}
    pairs += [({}, row) for place, row in enumerate(findings) if place not in named]
    return [_campaign(row, finding) for row, finding in sorted(pairs, key=_most_evidence)]


def finite(value: object) -> float | None:
    """The number, where it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def log2_e(finding: Mapping[str, Any]) -> float | None:
    """Evidence in bits: log2 of the e-value, which may be too large to be a float itself. None for none, or e = 0."""
    log10 = finite(finding.get("log10_e"))
    if log10 is not None:
        return None if log10 <= LOG10_E_ZERO else log10 / math.log10(2)
    e = finite(finding.get("e_value"))
    return math.log2(e) if e is not None and e > 0 else None


def signals_of(finding: Mapping[str, Any]) -> list[Signal]:
    """The signals that have a number, groups kept together in the order in which they first come."""
    rows = [row for row in finding.get("signals") or () if isinstance(row, Mapping)]
    told = [
        Signal(
            str(row.get("name", ABSENT)), str(row.get("group", row.get("name", ""))), bits, str(row.get("combined", ""))
        )
        for row in rows
        if (bits := finite(row.get("bits"))) is not None
    ]
    order = list(dict.fromkeys(signal.group for signal in told))
    return sorted(told, key=lambda signal: order.index(signal.group))


def alternative_rows(given: object) -> list[tuple[str, str, str, str]]:
    """Honest alternatives in words: name and how it would be shown; what it explains; what speaks against it; bits.

    A signal that the alternative predicts low is marked, for it does more than go unexplained.
    """
    rows = []
    for other in _mappings(given):
        contradicts = other.get("contradicts")
        marked = contradicts if isinstance(contradicts, Sequence) and not isinstance(contradicts, str) else ()
        shown_by = other.get("shown_by")
        rows.append(
            (
                f"{_said(other.get('name'))}" + (f"\nshown by: {shown_by}" if shown_by else ""),
                _with_bits(other.get("explains"), ()),
                _with_bits(other.get("against"), marked),
                _one_place(other.get("bits_against")),
            )
        )
    return rows


def clearing_rows(given: object) -> list[tuple[str, str, str]]:
    """What would clear the accounts, in words: what; the signal as it was observed; bits."""
    return [
        (
            _said(row.get("what")),
            f"{_said(row.get('signal'))}: {_said(row.get('value'))} {_said(row.get('unit', ''))}".rstrip(),
            _one_place(row.get("bits")),
        )
        for row in _mappings(given)
    ]


def _mappings(given: object) -> list[Mapping[str, Any]]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        return []
    return [row for row in given if isinstance(row, Mapping)]


def _with_bits(given: object, marked: Sequence[object]) -> str:
    rows = [
        f"{_said(row.get('signal'))} {_one_place(row.get('bits'))}{', predicted low' * (row.get('signal') in marked)}"
        for row in _mappings(given)
    ]
    return "\n".join(rows) or ABSENT


def _one_place(value: object) -> str:
    bits = finite(value)
    return _said(value) if bits is None else f"{bits:.1f}"


def _campaign(row: Mapping[str, Any], finding: Mapping[str, Any]) -> Campaign:
    accounts = finding.get("accounts")
    n = row.get("n_accounts", len(accounts) if isinstance(accounts, Sequence) else None)
    return Campaign(
        id=str(row.get("id", ABSENT)),
        tier=str(row.get("tier", ABSENT)),
        decision=str(finding.get("decision", ABSENT)),
        rank=_rank_said(finding),
        accounts=_said(n),
        exchanges=_said(row.get("exchanges", finding.get("n"))),
        e_value=_e_said(finding),
        e_threshold=_said(finding.get("e_threshold")),
        signals=signals_of(finding),
        drawn=row,
        finding=finding,
    )


def _e_said(finding: Mapping[str, Any]) -> str:
    log10, e = finite(finding.get("log10_e")), finite(finding.get("e_value"))
    if e is None and log10 is not None:
        return number(10**log10) if abs(log10) < 300 else f"10^{log10:.0f}"
    return _said(e)


def _rank_said(finding: Mapping[str, Any]) -> str:
    """'3 of 10,000': the cluster's place among the null draws and itself, 1 where none of them shows as much."""
    draws = finding.get("n_reference")
    return _said(finding.get("rank")) + (f" of {number(draws + 1)}" if type(draws) is int else "")


def _said(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ABSENT if value is None else str(value)
    return number(value)


def _most_evidence(pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> tuple[int, float]:
    bits = log2_e(pair[1])
    decision = str(pair[1].get("decision"))
    return (_FIRST.index(decision) if decision in _FIRST else len(_FIRST), math.inf if bits is None else -bits)


def _at(rows: Sequence[Mapping[str, Any]], place: object) -> Mapping[str, Any]:
    return rows[place] if type(place) is int and 0 <= place < len(rows) else {}
