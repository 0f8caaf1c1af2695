"""How much a campaign takes before the first alarm: a log replayed hour by hour, looked at every hour.

    python bench/guard/stream.py --worlds 3

A cluster is frozen at the first hourly look that shows it. Its evidence comes in 1, 3, 12, 48 and 168 hours later, and
after every such arrival it is decided anew which clusters are named, by two rules:

    scan     e-BH over the clusters frozen by then: the level holds for each look
    watch    online e-BH with a budget of BUDGET clusters: the level holds for the whole period, at its worst moment

The first alarm of a campaign is the first at which a cluster with a majority of its accounts is named; what its
accounts had asked for by then is counted from the truth.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import worlds
from numpy.typing import NDArray

from stillproof import stats
from stillproof.guard import compose
from stillproof.guard.evaluation import BLIND_SPOTS, read_truth
from stillproof.guard.judging import by_horizon, weights_of
from stillproof.guard.results import load_reference
from stillproof.guard.scanning import Measured, ScanSettings, measure_log
from stillproof.guard.scoring import standard
from stillproof.guard.traffic import World
from stillproof.guard.watching import first_alarms, moments

if TYPE_CHECKING:
    from stillproof.guard.signals import View

ALPHA = 0.05
LEAST_EXCHANGES, SHARE = 2_000, 0.01
STEP_H = 1.0
BUDGET = 1_000
RULES = ("scan", "watch")
Times = NDArray[np.int64]


def by_scans(measured: Measured, e: NDArray[np.float64]) -> dict[int, int]:
    """Cluster -> time of the first alarm under e-BH over the clusters frozen by then."""
    frozen_us = [entry.frozen_us for entry in measured.frozen]
    first: dict[int, int] = {}
    for now, running in moments(frozen_us, e, weights_of(STEP_H)):
        named, _ = stats.e_bh(running, ALPHA)
        for each in np.flatnonzero(named).tolist():
            first.setdefault(each, now)
    return first


def by_watching(measured: Measured, e: NDArray[np.float64]) -> dict[int, int]:
    """Cluster -> time of the first alarm of `guard watch`."""
    frozen_us = [entry.frozen_us for entry in measured.frozen]
    shares = stats.shares(len(frozen_us), BUDGET)
    first = first_alarms(frozen_us, e, weights_of(STEP_H), shares, ALPHA)
    return {cluster: alarm.time_us for cluster, alarm in first.items()}


def replayed(job: tuple[World, Path | None, Path]) -> dict[str, Any]:
    """The first alarms of one world, against its truth. What was measured of it is kept, and not made again."""
    world, reference_file, kept = job
    settings = ScanSettings(reference=reference_file, step_h=STEP_H)
    out = kept / f"hourly-{world.name}.pickle"
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            log = Path(folder) / "log"
            compose(world, log)
            measured, _ = measure_log(log, settings)
            made = Path(folder) / "made"
            # The view is large, and nothing here asks for it.
            made.write_bytes(pickle.dumps((replace(measured, view=cast("View", None)), owners(log), volumes_of(log))))
            made.replace(out)
    measured, owner, volumes = pickle.loads(out.read_bytes())
    e, _, _ = by_horizon(measured, load_reference(settings), standard(STEP_H))
    found = {"scan": by_scans(measured, e), "watch": by_watching(measured, e)}
    return {"world": world.name} | {rule: told(measured, owner, volumes, found[rule]) for rule in RULES}


def owners(log: Path) -> dict[int, tuple[str, str]]:
    """Unit -> (family, campaign); both empty for an honest account."""
    return {int(a[:16], 16): (family, campaign) for a, _, family, campaign in read_truth(log)}


def told(
    measured: Measured, truth: dict[int, tuple[str, str]], volumes: dict[str, Times], first: dict[int, int]
) -> dict[str, Any]:
    alarmed: dict[str, int] = {}
    false = 0
    for cluster, time_us in first.items():
        owners = Counter(truth.get(int(u), ("", ""))[1] for u in measured.frozen[cluster].cluster.units)
        campaign, _ = owners.most_common(1)[0]
        if campaign:
            alarmed[campaign] = min(time_us, alarmed.get(campaign, time_us))
        else:
            false += 1
    campaigns = []
    for family, campaign in sorted(set(truth.values())):
        if campaign:
            at = alarmed.get(campaign)
            taken = None if at is None else int(np.searchsorted(volumes[campaign], at))
            campaigns.append({"family": family, "volume": len(volumes[campaign]), "taken": taken})
    return {"campaigns": campaigns, "false": false, "alarms": len(first), "n_clusters": len(measured.frozen)}


def volumes_of(log: Path) -> dict[str, Times]:
    """Campaign -> times of its exchanges, ascending; camouflage is not among them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = pq.read_table(log / "truth_exchanges.parquet", columns=["id", "campaign"])
    parts = [pq.read_table(file, columns=["id", "time"]) for file in sorted((log / "log").glob("*.parquet"))]
    joined = pa.concat_tables(parts).join(labels, "id", join_type="inner")
    campaign = np.asarray(joined["campaign"].to_pylist(), str)
    time = joined["time"].cast("int64").to_numpy()
    return {name: np.sort(time[campaign == name]) for name in np.unique(campaign).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--kept", type=Path, default=Path("runs/guard-goals"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the counts and medians")
    given = parser.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        jobs = [
            pool.submit(replayed, (worlds.campaigns(seed), given.reference, given.kept)) for seed in range(given.worlds)
        ]
        rows = [job.result() for job in jobs]
    found = {rule: summed_up([row[rule] for row in rows]) for rule in RULES}
    for rule, told_of in found.items():
        print(f"{rule}: campaigns {told_of['campaigns']}, alarmed {told_of['alarmed']}, ", end="")
        print(f"alarms {told_of['alarms']}, of clusters that are no campaign's in the main {told_of['false']}")
        if told_of["alarmed"]:
            print(f"  exchanges before the first alarm, median {told_of['taken_median']:,.0f}")
            print(f"  the same, a campaign without an alarm counted whole: {told_of['taken_median_of_all']:,.0f}")
            print(f"  as a share of the volume, median {told_of['share_median']:.3f}")
            print(f"  within max(1%, 2,000): {told_of['within']} of {told_of['campaigns']}")
        for row in rows:
            for c in row[rule]["campaigns"]:
                print(f"    {c['family']:26} volume {c['volume']:8,} taken {c['taken']}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and medians over the campaigns of all worlds, blind spots left out."""
    campaigns = [c for row in rows for c in row["campaigns"] if c["family"] not in BLIND_SPOTS]
    alarmed = [c for c in campaigns if c["taken"] is not None]
    return {
        "campaigns": len(campaigns),
        "alarmed": len(alarmed),
        "alarms": sum(row["alarms"] for row in rows),
        "false": sum(row["false"] for row in rows),
        "within": sum(c["taken"] <= max(SHARE * c["volume"], LEAST_EXCHANGES) for c in alarmed),
        "taken_median": float(np.median([c["taken"] for c in alarmed])) if alarmed else None,
        "taken_median_of_all": float(np.median([c["volume"] if c["taken"] is None else c["taken"] for c in campaigns])),
        "share_median": float(np.median([c["taken"] / c["volume"] for c in alarmed])) if alarmed else None,
        "volume_least": min(c["volume"] for c in campaigns),
        "volume_most": max(c["volume"] for c in campaigns),
    }


if __name__ == "__main__":
    main()
