"""Guard's numbers on composed worlds: false alarms, heavy honest classes, recall. Each world is kept once measured.

    python bench/guard/goals.py null --worlds 200
    python bench/guard/goals.py adoption --worlds 40
    python bench/guard/goals.py heavy
    python bench/guard/goals.py recall --worlds 5
    python bench/guard/goals.py recall --worlds 2 --camouflage 0.8
    python bench/guard/goals.py table

All scans use the reference that comes along unless --reference names another.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import worlds
from goals_table import counted, told

from stillproof.engine import open_engine
from stillproof.guard import compose
from stillproof.guard import edges as relations
from stillproof.guard.evaluation import read_truth
from stillproof.guard.judging import judge
from stillproof.guard.naming import units_named
from stillproof.guard.results import load_reference
from stillproof.guard.scanning import Measured, ScanSettings, gather, sketches_of
from stillproof.guard.scoring import Scoring, standard
from stillproof.guard.traffic import World
from stillproof.guard.traffic.honest import HONEST
from stillproof.progress import ignore

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from stillproof.engine import Engine

ALL = "all"


def scanned(world: World, settings: ScanSettings, weights: dict[str, dict[str, float]], kept: Path) -> dict[str, Any]:
    """What a scan of one world says under several sets of weights, held against the truth."""
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        log = Path(folder) / "log"
        compose(world, log)
        pieces, _ = sketches_of(log, log / "guard")
        reference = load_reference(settings)
        with open_engine("duckdb") as engine:
            sketch = relations.distinct_exchanges(engine, engine.read_parquet(pieces))
            measured = gather(log, settings, ignore, engine, sketch)
            found: dict[str, list[int]] = {}
            reviewed: list[int] = []
            for name, chosen in weights.items():
                tiers = {
                    int(d.cluster.cluster_id): d.tier
                    for d, _ in judge(measured, reference, ScanSettings(), Scoring(chosen, standard().scale))
                }
                found[name] = [cluster for cluster, tier in tiers.items() if tier == "would_block"]
                if name == ALL:
                    reviewed = [cluster for cluster, tier in tiers.items() if tier == "review"]
            asked = {cluster for clusters in found.values() for cluster in clusters} | set(reviewed)
            named = named_in(engine, sketch, measured, asked)
        # As in a scan: where nobody can be named, a person looks.
        reviewed += [cluster for cluster in found[ALL] if not named[cluster]]
        found = {name: [cluster for cluster in clusters if named[cluster]] for name, clusters in found.items()}
        return against(world, read_truth(log), read_cohorts(log), measured, (found, reviewed, named))


def named_in(engine: Engine, sketch: ir.Table, measured: Measured, clusters: set[int]) -> dict[int, list[int]]:
    """The units that a scan would name of each of these clusters, in one pass over the log."""
    asked = sorted(clusters)
    frozen = [measured.frozen[cluster] for cluster in asked]
    units = units_named(engine, sketch, frozen, measured.start_us, measured.end_us)
    return {cluster: group.tolist() for cluster, group in zip(asked, units, strict=True)}


def read_cohorts(log: Path) -> dict[int, str]:
    import pyarrow.parquet as pq

    table = pq.read_table(log / "truth.parquet", columns=["account", "cohort"])
    return {int(name[:16], 16): cohort or "none" for name, cohort in zip(*table.to_pydict().values(), strict=True)}


def against(
    world: World,
    truth: list[tuple[str, str, str, str]],
    cohorts: dict[int, str],
    measured: Measured,
    outcome: tuple[dict[str, list[int]], list[int], dict[int, list[int]]],
) -> dict[str, Any]:
    """Counts that add up over worlds: clusters found and false, members and honest accounts named, by family."""
    found, reviewed, named = outcome
    of_unit = {int(account[:16], 16): (family, campaign) for account, _, family, campaign in truth}
    honest = [family for _, family, campaign in ((a, f, c) for a, _, f, c in truth) if not campaign]
    members: dict[str, set[int]] = {}
    for unit, (_, campaign) in of_unit.items():
        if campaign:
            members.setdefault(campaign, set()).add(unit)
    family_of = {campaign: of_unit[next(iter(units))][0] for campaign, units in members.items()}

    def false(clusters: list[int]) -> int:
        guilty = [sum(bool(of_unit.get(u, ("", ""))[1]) for u in named[c]) / max(len(named[c]), 1) for c in clusters]
        return sum(share < 0.5 for share in guilty)

    def innocent(clusters: list[int]) -> list[int]:
        units = {unit for cluster in clusters for unit in named[cluster]}
        return [unit for unit in units if unit in of_unit and not of_unit[unit][1]]

    campaigns = []
    for campaign, units in members.items():
        family = family_of[campaign]
        by = found.get(family, found[ALL])
        hit = units & {unit for cluster in by for unit in named[cluster]}
        campaigns.append({"family": family, "size": len(units), "named": len(hit)})
    wrong = innocent(found[ALL])
    return {
        "world": world.name,
        "seed": world.seed,
        "days": world.days,
        "n_accounts": measured.n_accounts,
        "n_exchanges": measured.n_exchanges,
        "n_clusters": len(measured.frozen),
        "n_honest": len(honest),
        "honest_classes": {name: honest.count(name) for name in sorted(set(honest))},
        "campaigns": campaigns,
        "found": {name: len(clusters) for name, clusters in found.items()},
        "false": {name: false(clusters) for name, clusters in found.items()},
        "innocent": {name: len(innocent(clusters)) for name, clusters in found.items()},
        "innocent_classes": [of_unit[unit][0] for unit in wrong],
        "innocent_cohorts": [cohorts[unit] for unit in wrong],
        "cohorts": {name: sum(c == name for c in cohorts.values()) for name in sorted(set(cohorts.values()))},
        "review": len(reviewed),
        "review_innocent": len(innocent(reviewed)),
    }


def foreign(world: World, pools: list[str], traces: list[str]) -> World:
    """The same world on other prompts and arrivals than the reference was composed of."""
    if not pools and not traces:
        return world
    named = dict(pool.split("=", 1) for pool in pools)
    return world.model_copy(update={"name": f"{world.name}-foreign", "pools": named, "traces": tuple(traces)})


def measured_once(job: tuple[World, ScanSettings, dict[str, dict[str, float]], Path]) -> dict[str, Any]:
    world, settings, weights, kept = job
    out = kept / f"{world.name}.json"
    if not out.exists():
        part = out.with_suffix(".part")
        part.write_text(json.dumps(scanned(world, settings, weights, kept)))
        part.rename(out)
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("null", "adoption", "heavy", "recall", "table"))
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--camouflage", type=float)
    parser.add_argument("--size", type=int)
    parser.add_argument(
        "--pool", action="append", default=[], help="NAME=FILE or NAME=FILE#COLUMN, prompts of one's own"
    )
    parser.add_argument("--trace", action="append", default=[], help="CSV of arrivals of one's own")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--weights", type=Path, default=Path(__file__).with_name("weights.json"))
    parser.add_argument("--kept", type=Path, default=Path("runs/guard-goals"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write what all kept worlds add up to, as numbers")
    given = parser.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    if given.what != "table":
        made: dict[str, Callable[[], list[World]]] = {
            "null": lambda: [worlds.null(seed) for seed in range(given.first, given.worlds)],
            "adoption": lambda: [worlds.adoption(seed) for seed in range(given.first, given.worlds)],
            "heavy": lambda: [worlds.heavy(name) for name in sorted(HONEST)],
            "recall": lambda: [
                foreign(worlds.campaigns(seed, given.camouflage, given.size), given.pool, given.trace)
                for seed in range(given.first, given.worlds)
            ],
        }
        weights: dict[str, dict[str, float]] = json.loads(given.weights.read_text())
        if given.what != "recall":
            weights = {ALL: weights[ALL]}
        settings = ScanSettings(reference=given.reference)
        with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
            jobs = [pool.submit(measured_once, (w, settings, weights, given.kept)) for w in made[given.what]()]
            for job in jobs:
                row = job.result()
                short = {key: row[key] for key in ("world", "n_accounts", "n_exchanges", "n_clusters", "review")}
                print(short | {"found": row["found"][ALL], "false": row["false"][ALL]}, flush=True)
    rows = [json.loads(file.read_text()) for file in sorted(given.kept.glob("*.json"))]
    print(told(rows))
    if given.json:
        given.json.write_text(json.dumps(counted(rows), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
