"""What a past that holds campaigns costs: references from contaminated history, and scans that rank among them.

    python bench/guard/contamination.py --windows 8 --worlds 2 --shares 0 0.001 0.01 0.05

For each share of campaign accounts, `windows` logs of one operator are composed and made into a reference as `guard
calibrate` does (screened against the composed one). The honest customers of a window are the same whatever the share.
Then the worlds of `goals.py recall` are scanned with each reference; a world is linked and measured once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import reference as honest_worlds
import worlds
from goals import ALL, against, named_in, read_cohorts
from goals_table import counted, told

from stillproof.engine import open_engine
from stillproof.guard import compose
from stillproof.guard import edges as relations
from stillproof.guard.calibration import reference_of
from stillproof.guard.evaluation import BLIND_SPOTS, read_truth
from stillproof.guard.judging import judge
from stillproof.guard.reference import Reference, joined
from stillproof.guard.results import composed_reference
from stillproof.guard.scanning import ScanSettings, gather, sketches_of
from stillproof.guard.traffic import World
from stillproof.progress import ignore

FIRST_SEED = 700_000
LEAST_SIZE, MOST_SIZE = 24, 100
STEP_H = 24.0


@dataclass(frozen=True, slots=True)
class Window:
    """One log of an operator's past."""

    place: int
    sizes: tuple[int, ...]
    """Accounts of each campaign in it."""


def windows_of(share: float, count: int) -> list[Window]:
    """`count` windows in which `share` of all accounts are a campaign's: whole campaigns, first windows first."""
    honest = [_n_accounts(honest_worlds.world(FIRST_SEED + place)) for place in range(count)]
    wanted = round(sum(honest) * share / (1 - share))
    each = min(MOST_SIZE, max(LEAST_SIZE, wanted // count))
    sizes: list[list[int]] = [[] for _ in range(count)]
    place = 0
    while wanted >= LEAST_SIZE // 2:
        sizes[place % count].append(max(LEAST_SIZE, min(each, wanted)))
        wanted -= sizes[place % count][-1]
        place += 1
    return [Window(place, tuple(row)) for place, row in enumerate(sizes)]


def _n_accounts(world: World) -> int:
    return world.n_ordinary + sum(group.size * group.count for group in world.groups)


def world_of(window: Window) -> World:
    """The honest world of the window, and its campaigns, families in turn."""
    base = honest_worlds.world(FIRST_SEED + window.place)
    families = [name for name in worlds.SEEN if name not in BLIND_SPOTS]
    groups = [
        {"kind": "campaign", "family": families[(window.place * 5 + k) % len(families)], "size": size}
        for k, size in enumerate(window.sizes)
    ]
    row = base.model_dump()
    return World.model_validate(row | {"name": f"past-{window.place}", "groups": [*row["groups"], *groups]})


def learned(job: tuple[Window, Path]) -> Path:
    """Reference rows of one window, screened as `guard calibrate` does."""
    window, kept = job
    out = kept / f"past-{window.place}-{'-'.join(map(str, window.sizes)) or 'none'}.parquet"
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            log = Path(folder) / f"past-{window.place}"
            compose(world_of(window), log)
            rows = reference_of([log], "own history", STEP_H, against=composed_reference(STEP_H))
            rows.save(Path(folder) / "rows.parquet")
            (Path(folder) / "rows.parquet").rename(out)
    return out


def scanned(job: tuple[World, dict[str, Path], Path]) -> dict[str, dict[str, Any]]:
    """One world's counts under each reference; see `goals.against`."""
    world, files, kept = job
    with tempfile.TemporaryDirectory(dir=kept) as folder, open_engine("duckdb") as engine:
        log = Path(folder) / "log"
        compose(world, log)
        pieces, _ = sketches_of(log, log / "guard")
        sketch = relations.distinct_exchanges(engine, engine.read_parquet(pieces))
        measured = gather(log, ScanSettings(), ignore, engine, sketch)
        told_of: dict[str, dict[int, str]] = {}
        for share, file in files.items():
            judged = judge(measured, Reference.load(file), ScanSettings())
            told_of[share] = {int(each.cluster.cluster_id): each.tier for each, _ in judged if each.tier != "observe"}
        named = named_in(engine, sketch, measured, {cluster for tiers in told_of.values() for cluster in tiers})
        truth, cohorts = read_truth(log), read_cohorts(log)
        rows: dict[str, dict[str, Any]] = {}
        for share, tiers in told_of.items():
            found = [cluster for cluster, tier in tiers.items() if tier == "would_block" and named[cluster]]
            review = [cluster for cluster in tiers if cluster not in found]
            rows[share] = against(world, truth, cohorts, measured, ({ALL: found}, review, named))
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--worlds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.001, 0.01, 0.05])
    parser.add_argument("--kept", type=Path, default=Path("runs/guard-contamination"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the numbers, by campaign accounts in a thousand")
    given = parser.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        for share in given.shares:
            windows = windows_of(share, given.windows)
            parts = [Reference.load(file) for file in pool.map(learned, [(window, given.kept) for window in windows])]
            whole = joined(parts)
            files[f"{share:g}"] = given.kept / f"reference-{share:g}.parquet"
            whole.save(files[f"{share:g}"])
            accounts = sum(size for window in windows for size in window.sizes)
            counts = sorted(whole.counts().values())
            print(
                f"{share:g}: {accounts} campaign accounts in {given.windows} windows, set aside "
                f"{whole.origin.set_aside}, clusters {counts[0]} to {counts[-1]} a class and horizon",
                flush=True,
            )
        jobs = [(worlds.campaigns(seed), files, given.kept) for seed in range(given.first, given.worlds)]
        rows = list(pool.map(scanned, jobs))
    if given.json:
        numbers = {f"{1000 * float(share):g}": counted([row[share] for row in rows]) for share in files}
        given.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    for share in files:
        print(f"\nreference from a past with a share of {share} campaign accounts")
        print(told([row[share] for row in rows]))


if __name__ == "__main__":
    main()
