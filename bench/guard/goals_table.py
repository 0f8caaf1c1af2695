"""What the kept worlds of `goals.py` add up to: as numbers (`counted`), and as plain text (`told`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from stillproof.guard.evaluation import BLIND_SPOTS
from stillproof.stats import cluster_bootstrap, proportion_interval

Rows = list[dict[str, Any]]
Told = dict[str, Any]
ALL = "all"
SIZES = ((0, 50), (50, 100), (100, 200), (200, 301), (301, 10_000))
"""Accounts of a campaign, from and below."""


def counted(rows: Rows) -> Told:
    """One entry for each kind of world that was run; campaign worlds by variant (camouflage, size, foreign)."""
    kinds: dict[str, Rows] = {}
    for row in rows:
        kinds.setdefault(row["world"].split("-")[0], []).append(row)
    found: Told = {kind: _nulls(part) for kind, part in kinds.items() if kind in ("null", "adoption")}
    if "heavy" in kinds:
        found["heavy"] = {row["world"].removeprefix("heavy-"): _heavy(row) for row in kinds["heavy"]}
    variants: dict[str, Rows] = {}
    for row in kinds.get("campaigns", []):
        variants.setdefault("-".join(row["world"].split("-")[2:]) or "as drawn", []).append(row)
    if variants:
        found["campaigns"] = {name: _recall(part) for name, part in sorted(variants.items())}
    return found


def told(rows: Rows) -> str:
    """`counted` in lines."""
    found = counted(rows)
    lines: list[str] = []
    for kind in ("null", "adoption"):
        if kind in found:
            lines += _told_null(kind, found[kind])
    if "heavy" in found:
        lines.append("heavy classes: accounts, clusters, accounts named, accounts named in review, clusters in review")
        for name, row in found["heavy"].items():
            cells = (row["accounts"], row["clusters"], row["named"], row["named_in_review"], row["clusters_in_review"])
            lines.append(f"  {name:22}" + "".join(f"{cell:8,}" for cell in cells))
    for name, row in found.get("campaigns", {}).items():
        lines += _told_recall(name, row)
    return "\n".join(lines)


def _rate(hits: int, total: int) -> Told:
    """Share, with its 95% interval (Clopper and Pearson); nothing but the counts of none."""
    if not total:
        return {"hits": hits, "total": total}
    interval = proportion_interval(hits, total)
    return {"hits": hits, "total": total, "share": hits / total, "low": interval.low, "high": interval.high}


def _nulls(rows: Rows) -> Told:
    return {
        "worlds": _rate(sum(row["found"][ALL] > 0 for row in rows), len(rows)),
        "clusters": sum(row["n_clusters"] for row in rows),
        "clusters_in_review": sum(row["review"] for row in rows),
        "honest_named": _rate(sum(r["innocent"][ALL] for r in rows), sum(r["n_honest"] for r in rows)),
    }


def _heavy(row: dict[str, Any]) -> Told:
    return {
        "accounts": row["honest_classes"].get(row["world"].removeprefix("heavy-"), 0),
        "clusters": row["n_clusters"],
        "named": row["innocent"][ALL],
        "named_in_review": row["review_innocent"],
        "clusters_in_review": row["review"],
    }


def _recall(rows: Rows) -> Told:
    seen = [[c for c in row["campaigns"] if c["family"] not in BLIND_SPOTS] for row in rows]
    members, named = ([sum(c[key] for c in part) for part in seen] for key in ("size", "named"))
    accounts: Told = {"named": sum(named), "members": sum(members), "share": sum(named) / sum(members)}
    if len(named) > 1:
        interval = cluster_bootstrap(named, members, seed=7, bounds=(0, 1))
        accounts |= {"low": interval.low, "high": interval.high}
    half = [c["named"] >= 0.5 * c["size"] for part in seen for c in part]
    families = {}
    for family in sorted({c["family"] for row in rows for c in row["campaigns"]}):
        own = [c for row in rows for c in row["campaigns"] if c["family"] == family]
        families[family] = {
            "campaigns": len(own),
            "found": sum(c["named"] >= 0.5 * c["size"] for c in own),
            "accounts": sum(c["named"] for c in own) / sum(c["size"] for c in own),
            "blind_spot": family in BLIND_SPOTS,
        }
    sizes = {}
    for low, high in SIZES:
        own = [c for part in seen for c in part if low <= c["size"] < high]
        if own:
            share = sum(c["named"] for c in own) / sum(c["size"] for c in own)
            sizes[f"{low} to {high}"] = {"campaigns": len(own), "accounts": share}
    return {
        "worlds": len(rows),
        "account_recall": accounts,
        "sizes": sizes,
        "campaign_recall": _rate(sum(half), len(half)),
        "honest_named": _rate(sum(r["innocent"][ALL] for r in rows), sum(r["n_honest"] for r in rows)),
        "false_findings": _rate(sum(r["false"][ALL] for r in rows), sum(r["found"][ALL] for r in rows)),
        "classes": dict(Counter(name for row in rows for name in row["innocent_classes"])),
        "cohorts": _cohorts(rows),
        "families": families,
    }


def _cohorts(rows: Rows) -> dict[str, list[int]]:
    """Cohort -> honest accounts named, accounts."""
    sizes: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for row in rows:
        sizes.update({name.split("_")[0]: count for name, count in row["cohorts"].items()})
        wrong.update(name.split("_")[0] for name in row["innocent_cohorts"])
    return {name: [wrong[name], size] for name, size in sorted(sizes.items())}


def _says(rate: Told) -> str:
    if "share" not in rate:
        return "none"
    return f"{rate['hits']} of {rate['total']:,} ({rate['share']:.2g}; 95% [{rate['low']:.2g}, {rate['high']:.2g}])"


def _told_null(kind: str, row: Told) -> Iterable[str]:
    yield f"{kind} worlds that alarm: {_says(row['worlds'])}"
    yield f"  clusters in them {row['clusters']:,}, in review {row['clusters_in_review']}"
    yield f"  honest accounts named: {_says(row['honest_named'])}"


def _told_recall(name: str, row: Told) -> Iterable[str]:
    yield f"campaign worlds, {name}: {row['worlds']}"
    accounts = row["account_recall"]
    between = f" (95% by worlds [{accounts['low']:.3f}, {accounts['high']:.3f}])" if "low" in accounts else ""
    yield f"  account recall: {accounts['share']:.3f}{between}"
    yield "  by accounts of a campaign: " + ", ".join(f"{name} {x['accounts']:.2f}" for name, x in row["sizes"].items())
    yield f"  campaign recall: {_says(row['campaign_recall'])}"
    yield f"  honest accounts named: {_says(row['honest_named'])}"
    yield f"  false findings: {_says(row['false_findings'])}"
    yield f"  of classes {row['classes']}"
    yield "  cohorts: " + ", ".join(f"{name} {wrong} of {size:,}" for name, (wrong, size) in row["cohorts"].items())
    for family, part in row["families"].items():
        spot = "  (blind spot, not counted)" if part["blind_spot"] else ""
        yield f"    {family:26} {part['found']} of {part['campaigns']} campaigns, accounts {part['accounts']:.2f}{spot}"
