"""A scan as one HTML page that needs nothing but itself: no network, no script, drawings as inline SVG.

    result  what `guard scan` returns: totals, `findings`, and beside each its entry of `campaigns`:
            {id, tier, finding, n_accounts, exchanges, first_seen_iso, frozen_iso, timeline: [{time_iso, n}],
             alarm: {time_iso, e_value, e_threshold} where a log is watched;
             graph: see `ties.ties`; alternatives, would_clear: see `alternatives`}

Ids and notes come from logs, so anybody may have written them: `report.frame` escapes every value. What a scan does not
state is said to be missing; the page adds no claim of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillproof.guard.drawings import graph, timeline, waterfall
from stillproof.report.campaigns import Campaign, alternative_rows, campaigns_of, clearing_rows
from stillproof.report.frame import write_html
from stillproof.report.terminal import finding_rows, said

MAX_DRAWN = 50
"""Campaigns that are drawn; all are in the table."""
MAX_ACCOUNTS = 50
UNSTATED = "the scan does not state this"

_OWN_PLACE = ("findings", "campaigns", "title", "guarantee", "assumptions", "measured", "expected_innocent_accounts")
_TOTALS = {"n_accounts": "accounts", "n_exchanges": "exchanges", "n_clusters": "clusters", "duration_s": "seconds"}


def write_page(result: Mapping[str, Any], path: Path) -> None:
    """Write the page of a scan at `path`, whole or not at all. The same result gives the same bytes.

    Raises OSError where the disk refuses.
    """
    campaigns = campaigns_of(result)
    values = {
        "title": str(result.get("title") or "guard scan"),
        "gate": _stated(result.get("gate")) if result.get("gate") else "",
        "summary": _summary(result, campaigns),
        "overview": campaigns,
        "campaigns": [_drawn(campaign, f"campaign-{place}") for place, campaign in enumerate(campaigns[:MAX_DRAWN], 1)],
        "n_undrawn": max(0, len(campaigns) - MAX_DRAWN),
        "rest": _rest(result),
    }
    write_html("stillproof.guard", "campaign.html.jinja", values, path)


# --- what is said of the scan ---------------------------------------------------------------------------------


def _summary(result: Mapping[str, Any], campaigns: Sequence[Campaign]) -> list[tuple[str, str]]:
    assumptions = result.get("assumptions") or _assumptions(campaigns)
    return [
        *((title, said(result.get(key))) for key, title in _TOTALS.items()),
        ("campaigns found", said(sum(c.decision == "found" for c in campaigns))),
        ("undecided", said(sum(c.decision == "inconclusive" for c in campaigns))),
        ("innocent accounts to expect in each scan", _stated(result.get("expected_innocent_accounts"))),
        ("guaranteed", _stated(result.get("guarantee"))),
        ("under the assumptions", _stated(assumptions)),
        ("only measured, not guaranteed", _stated(result.get("measured"))),
    ]


def _assumptions(campaigns: Sequence[Campaign]) -> list[str]:
    """Those of the findings, each once."""
    return list(dict.fromkeys(said(text) for c in campaigns for text in c.finding.get("assumptions") or ()))


def _stated(value: object) -> str:
    """Texts one a line."""
    if value is None or value == "" or value == [] or value == {}:
        return UNSTATED
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\n".join(said(item) for item in value)
    return said(value)


def _rest(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = (*_OWN_PLACE, *_TOTALS, "gate")
    return [(str(name), said(value)) for name, value in result.items() if name not in known]


# --- what is said of a campaign -------------------------------------------------------------------------------


def _drawn(campaign: Campaign, anchor: str) -> dict[str, Any]:
    row, finding = campaign.drawn, campaign.finding
    return {
        "anchor": anchor,
        "said": campaign,
        "claim": said(finding.get("claim")),
        "facts": [
            ("first seen", said(row.get("first_seen_iso"))),
            ("membership frozen", said(row.get("frozen_iso"))),
            *([("first alarm", said(row["alarm"]["time_iso"]))] if row.get("alarm") else []),
            ("e-value", f"{campaign.e_value}; needed: {campaign.e_threshold}"),
        ],
        "timeline": timeline(row.get("timeline") or (), row.get("frozen_iso")),
        "graph": graph(row.get("graph") or {}),
        "waterfall": waterfall(campaign.signals),
        "alternatives": alternative_rows(row.get("alternatives")),
        "would_clear": clearing_rows(row.get("would_clear")),
        "accounts": _accounts(campaign),
        "finding": finding_rows(finding) if finding else [],
    }


def _accounts(campaign: Campaign) -> dict[str, Any]:
    """The first accounts, in the scan's order, and how many more there are."""
    accounts = list(campaign.finding.get("accounts") or ())
    total = campaign.drawn.get("n_accounts")
    n = max(total if type(total) is int else 0, len(accounts))
    shown = accounts[:MAX_ACCOUNTS]
    tables = [account for account in shown if isinstance(account, Mapping)]
    columns = list(dict.fromkeys(str(name) for account in tables for name in account)) or ["account"]
    rows = [
        [said(a.get(column)) for column in columns] if isinstance(a, Mapping) else [said(a), *[""] * (len(columns) - 1)]
        for a in shown
    ]
    return {"columns": columns, "rows": rows, "n": n, "n_more": n - len(shown)}
