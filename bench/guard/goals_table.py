"""The table of `goals.py`: what the kept worlds add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from stillproof.guard.evaluation import BLIND_SPOTS
from stillproof.stats import cluster_bootstrap, proportion_interval

Rows = list[dict[str, Any]]
ALL = "all"


def told(rows: Rows) -> str:
    """Plain text, one part for each kind of world that was run."""
    parts: list[str] = []
    for kind, part in (("null", nulls), ("adoption", nulls), ("heavy", heavies), ("campaigns", recalls)):
        chosen = [row for row in rows if row["world"].startswith(f"{kind}-")]
        if chosen:
            parts += part(chosen)
    return "\n".join(parts)


def _rate(hits: int, total: int) -> str:
    if not total:
        return "none"
    interval = proportion_interval(hits, total)
    return f"{hits} of {total:,} ({hits / total:.2g}; 95% [{interval.low:.2g}, {interval.high:.2g}])"


def nulls(rows: Rows) -> Iterable[str]:
    alarmed = sum(row["found"][ALL] > 0 for row in rows)
    yield f"{rows[0]['world'].split('-')[0]} worlds that alarm: {_rate(alarmed, len(rows))}"
    yield f"  clusters in them {sum(r['n_clusters'] for r in rows):,}, in review {sum(r['review'] for r in rows)}"
    yield f"  honest accounts named: {_rate(sum(r['innocent'][ALL] for r in rows), sum(r['n_honest'] for r in rows))}"


def heavies(rows: Rows) -> Iterable[str]:
    yield "heavy classes: accounts, clusters, named (would block), in review"
    for row in rows:
        name = row["world"].removeprefix("heavy-")
        of_class = row["honest_classes"].get(name, 0)
        blocked, reviewed = row["innocent"][ALL], row["review_innocent"]
        yield f"  {name:22} {of_class:6,} {row['n_clusters']:5} {blocked:5} {reviewed:5}"


def recalls(rows: Rows) -> Iterable[str]:
    """By variant of world (camouflage, size), then family."""
    variants: dict[str, Rows] = {}
    for row in rows:
        variants.setdefault("-".join(row["world"].split("-")[2:]) or "as drawn", []).append(row)
    for name, part in sorted(variants.items()):
        yield f"campaign worlds, {name}: {len(part)}"
        yield from _recall(part)


def _recall(rows: Rows) -> Iterable[str]:
    seen = [[c for c in row["campaigns"] if c["family"] not in BLIND_SPOTS] for row in rows]
    members, named = ([sum(c[key] for c in part) for part in seen] for key in ("size", "named"))
    half = [c["named"] >= 0.5 * c["size"] for part in seen for c in part]
    yield f"  account recall: {sum(named) / sum(members):.3f}{_between(named, members)}"
    yield f"  campaign recall: {_rate(sum(half), len(half))}"
    honest = sum(row["n_honest"] for row in rows)
    yield f"  honest accounts named: {_rate(sum(row['innocent'][ALL] for row in rows), honest)}"
    found, false = (sum(row[key][ALL] for row in rows) for key in ("found", "false"))
    yield f"  false findings: {_rate(false, found)}"
    yield f"  of classes {dict(Counter(name for row in rows for name in row['innocent_classes']))}"
    yield f"  cohorts: {_cohorts(rows)}"
    for family in sorted({c["family"] for row in rows for c in row["campaigns"]}):
        own = [c for row in rows for c in row["campaigns"] if c["family"] == family]
        hits = sum(c["named"] >= 0.5 * c["size"] for c in own)
        accounts = sum(c["named"] for c in own) / sum(c["size"] for c in own)
        spot = "  (blind spot, not counted)" if family in BLIND_SPOTS else ""
        yield f"    {family:26} {hits} of {len(own)} campaigns, accounts {accounts:.2f}{spot}"


def _between(named: list[int], members: list[int]) -> str:
    if len(named) < 2:
        return ""
    interval = cluster_bootstrap(named, members, seed=7, bounds=(0, 1))
    return f" (95% by worlds [{interval.low:.3f}, {interval.high:.3f}])"


def _cohorts(rows: Rows) -> str:
    sizes: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for row in rows:
        sizes.update({name.split("_")[0]: count for name, count in row["cohorts"].items()})
        wrong.update(name.split("_")[0] for name in row["innocent_cohorts"])
    return ", ".join(f"{name} {wrong[name]} of {size:,}" for name, size in sorted(sizes.items()))
