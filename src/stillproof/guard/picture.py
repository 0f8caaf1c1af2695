"""A scan as one HTML page that needs nothing but itself: no network, no script, drawings as inline SVG.

    result  what `guard scan` returns: totals, `findings`, and beside each its entry of `campaigns`:
            {id, tier, finding, n_accounts, exchanges, first_seen_iso, frozen_iso, timeline: [{time_iso, n}],
             graph: {units, fingerprints, edges: [[unit, fingerprint, n]]}, alternatives: [{name, evidence_against}],
             would_clear: [text]}

Ids and notes come from logs, so anybody may have written them: jinja2 escapes every value, `plain` spells out what no
page should carry, and the page's content security policy forbids scripts and loads. What a scan does not state is said
to be missing; the page adds no claim of its own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.guard.drawings import graph, timeline, waterfall
from stillproof.report.campaigns import Campaign, campaigns_of, log2_e
from stillproof.report.terminal import finding_rows, said
from stillproof.report.text import plain

if TYPE_CHECKING:
    from jinja2 import Template

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
    html = _page().render(
        title=str(result.get("title") or "guard scan"),
        gate=_stated(result.get("gate")) if result.get("gate") else "",
        summary=_summary(result, campaigns),
        overview=campaigns,
        campaigns=[_drawn(campaign, f"campaign-{place}") for place, campaign in enumerate(campaigns[:MAX_DRAWN], 1)],
        n_undrawn=max(0, len(campaigns) - MAX_DRAWN),
        rest=_rest(result),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(html, encoding="utf-8")
    os.replace(unfinished, path)


@functools.cache
def _page() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_safe, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("stillproof.guard").joinpath("campaign.html.jinja").read_text("utf-8"))


def _safe(value: object) -> object:
    """Applied to all that the template prints, before it is escaped."""
    return plain(value) if type(value) is str else value


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
    threshold = log2_e({"e_value": finding.get("e_threshold")})
    return {
        "anchor": anchor,
        "said": campaign,
        "claim": said(finding.get("claim")),
        "facts": [
            ("first seen", said(row.get("first_seen_iso"))),
            ("membership frozen", said(row.get("frozen_iso"))),
            ("e-value", f"{campaign.e_value}; needed: {campaign.e_threshold}"),
        ],
        "timeline": timeline(row.get("timeline") or (), row.get("frozen_iso")),
        "graph": graph(row.get("graph") or {}),
        "waterfall": waterfall(campaign.signals, log2_e(finding), threshold),
        "alternatives": [
            (said(other.get("name")), said(other.get("evidence_against")))
            for other in row.get("alternatives") or ()
            if isinstance(other, Mapping)
        ],
        "would_clear": [said(text) for text in row.get("would_clear") or ()],
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
