"""A scan against the truth of a composed world."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from stillproof.errors import InputError

HALF = 0.5
BLIND_SPOTS = ("serve_and_harvest", "store_then_replay")
"""Families whose content is what another product's users asked: told apart, never mixed into the recall."""


def against_truth(folder: Path, findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How a scan did: shares over accounts and campaigns, by family and by honest class.

    account_recall: members of campaigns that were named, over all members, blind spots left out.
    account_fpr: honest accounts that were named, over all honest accounts.
    campaign_recall: campaigns of which one half of the members were named.
    fdp: findings of which less than half of the accounts belong to a campaign, over those that name any.

    Raises InputError where the folder is no composed world.
    """
    truth = read_truth(folder)
    named: set[str] = {account for finding in findings for account in finding["accounts"]}
    members = defaultdict(set)
    family_of: dict[str, str] = {}
    by_class: dict[str, set[str]] = defaultdict(set)
    for account, kind, family, campaign in truth:
        if kind == "campaign":
            members[campaign].add(account)
            family_of[campaign] = family
        else:
            by_class[family].add(account)
    guilty = set().union(*members.values()) if members else set()
    naming = [f for f in findings if f["accounts"]]
    false = [f for f in naming if len(guilty & set(f["accounts"])) < HALF * len(f["accounts"])]
    seen = [campaign for campaign in members if family_of[campaign] not in BLIND_SPOTS]
    return {
        "account_recall": _share([named & members[c] for c in seen], [members[c] for c in seen]),
        "account_fpr": _share(by_class.values(), by_class.values(), named),
        "campaign_recall": _mean([_is_found(members[c], named) for c in seen]),
        "fdp": len(false) / len(naming) if naming else 0.0,
        "n_findings": len(naming),
        "n_false_findings": len(false),
        "n_campaigns": len(members),
        "n_honest_accounts": sum(map(len, by_class.values())),
        "n_honest_named": sum(len(accounts & named) for accounts in by_class.values()),
        "per_family": _per_family(members, family_of, named),
        "per_honest_class": {
            name: {"accounts": len(accounts), "named": len(accounts & named)}
            for name, accounts in sorted(by_class.items())
        },
        "per_cohort": _per_cohort(folder, named),
    }


def read_truth(folder: Path) -> list[tuple[str, str, str, str]]:
    """(account, kind, family, campaign or '') of every account of a composed world."""
    path = folder / "truth.parquet"
    if not path.exists():
        raise InputError("no truth.parquet here", str(folder), "evaluate a world made by `stillproof guard compose`")
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["account", "kind", "family", "campaign"])
    rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return [(account, kind, family, campaign or "") for account, kind, family, campaign in rows]


def _is_found(members: Collection[str], named: Collection[str]) -> bool:
    return sum(account in named for account in members) >= HALF * len(members)


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(above: Collection[set[str]], below: Collection[set[str]], within: set[str] | None = None) -> float | None:
    total = sum(map(len, below))
    hits = sum(len(part if within is None else part & within) for part in above)
    return hits / total if total else None


def _per_family(
    members: Mapping[str, set[str]], family_of: Mapping[str, str], named: set[str]
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for campaign, accounts in sorted(members.items()):
        family = family_of[campaign]
        row = rows.setdefault(family, {"campaigns": 0, "found": 0, "accounts": 0, "named": 0})
        row["campaigns"] += 1
        row["found"] += _is_found(accounts, named)
        row["accounts"] += len(accounts)
        row["named"] += len(accounts & named)
        row["blind_spot"] = family in BLIND_SPOTS
    return rows


def _per_cohort(folder: Path, named: set[str]) -> dict[str, dict[str, int]]:
    """Honest accounts by a cohort that was given to them at random: time zone, language, VPN."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "truth.parquet", columns=["account", "kind", "cohort"])
    rows: dict[str, dict[str, int]] = {}
    for account, kind, cohort in zip(*(table[n].to_pylist() for n in table.column_names), strict=True):
        if kind != "campaign":
            row = rows.setdefault(cohort or "none", {"accounts": 0, "named": 0})
            row["accounts"] += 1
            row["named"] += account in named
    return rows
