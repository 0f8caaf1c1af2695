"""How much a bit of each signal counts: the weights under which most campaigns of the tuning worlds would be found.

    python bench/guard/reference.py --scale src/stillproof/data/guard/scale.json
    python bench/guard/weights.py --out bench/guard/weights.json

A climb from signal to signal over a grid of weights. What is climbed is the share of campaigns (a family in a world)
with a cluster whose e-value is ENOUGH, and how near the others are. Prints and writes the weights of all families and,
for each family, those found without it, and how many of the family's campaigns these find: the honest figure of the
two. The honest clusters are those that the scale was made of, which no reference has: weights chosen against the
clusters of a reference would make their scores lower than those of fresh ones.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reference import SCALE_CLUSTERS
from worlds import tuning

from stillproof import stats
from stillproof.guard import compose
from stillproof.guard.evaluation import BLIND_SPOTS, read_truth
from stillproof.guard.judging import DAILY, POSSIBLE
from stillproof.guard.reference import CLASSES, Reference, score_new, score_reference
from stillproof.guard.scanning import HORIZONS_H, ScanSettings, measure_log
from stillproof.guard.scoring import Scoring, standard
from stillproof.guard.signals import SIGNALS

ENOUGH, NEARLY = 200.0, 300.0
"""e-values: about what one of a dozen campaigns needs among 130 clusters, and where being nearer gains no more."""
GRID = (0.0, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
COST = 0.002
"""Of one more signal, as a share of campaigns: a signal that adds nothing is left out."""
START = ("one_queue", "joint_start", "joint_signup", "long_answers", "complementary", "shared_network")
"""Signals that tell campaigns apart by themselves: the climb begins with these, and once with one_queue alone."""
LEAST_UNITS = 20
LEAST_PURITY = 0.6
NAMES = sorted(set(SIGNALS) - {"one_client", "one_setting"})
"""Two that any honest tool shows are not tried."""

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Cases:
    """Campaign clusters of one horizon, scored as of one class, and the reference there."""

    share: float
    """Of the e-value that the horizon may give."""
    honest: Reals
    """[n, signals] bits."""
    bits: Reals
    """[m, signals]"""
    cluster: NDArray[np.int64]
    """[m] index into the clusters of all worlds."""
    horizon: int


def measured(seed: int, kept: Path) -> Path:
    """Signals of every cluster of one tuning world, and the family of its majority."""
    out = kept / f"tuning-{seed}.pickle"
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            log = Path(folder) / "log"
            compose(tuning(seed), log)
            found, _ = measure_log(log, ScanSettings())
            of_unit = {int(name[:16], 16): family for name, _, family, campaign in read_truth(log) if campaign}
        majority = []
        for entry in found.frozen:
            families = Counter(of_unit.get(int(unit), "") for unit in entry.cluster.units)
            name, count = families.most_common(1)[0]
            pure = count >= LEAST_PURITY * entry.cluster.units.size and entry.cluster.units.size >= LEAST_UNITS
            majority.append(name if pure and name not in BLIND_SPOTS else "")
        rows = {
            "signals": found.signals,
            "horizon": found.case_horizon_h,
            "class": found.case_class,
            "family": [majority[cluster] for cluster in found.case_cluster],
            "cluster": found.case_cluster.tolist(),
        }
        out.write_bytes(pickle.dumps(rows))
    return out


def cases_of(worlds: list[dict[str, Any]], reference: Reference) -> tuple[list[Cases], list[tuple[int, str]]]:
    """The cases, and the campaign (world, family) of each cluster of the tuning worlds that is mostly one's."""
    flat = Scoring(dict.fromkeys(NAMES, 1.0), standard().scale)
    made: list[Cases] = []
    places: dict[tuple[int, int], int] = {}
    owners: list[tuple[int, str]] = []
    for number, world in enumerate(worlds):
        for cluster, family in zip(world["cluster"], world["family"], strict=True):
            if family and (number, cluster) not in places:
                places[number, cluster] = len(owners)
                owners.append((number, family))
    for place, horizon in enumerate(HORIZONS_H):
        for name in CLASSES:
            rows = reference.rows(name, horizon)
            honest = stacked(score_reference(rows, name, horizon, flat).bits)
            found: list[Reals] = []
            cluster: list[int] = []
            for number, world in enumerate(worlds):
                at = [
                    case
                    for case, hours in enumerate(world["horizon"])
                    if hours == horizon and world["family"][case] and name in POSSIBLE[world["class"][case]]
                ]
                values = {signal: world["signals"][signal][at] for signal in NAMES}
                found.append(stacked(score_new(values, rows, name, horizon, flat).bits))
                cluster += [places[number, world["cluster"][case]] for case in at]
            made.append(Cases(DAILY[place], honest, np.concatenate(found), np.array(cluster, np.int64), horizon))
    return made, owners


def stacked(bits: dict[str, Reals]) -> Reals:
    return np.stack([bits[name] for name in NAMES], axis=1)


def best_e(cases: list[Cases], owners: list[tuple[int, str]], weights: Reals) -> dict[tuple[int, str], float]:
    """Campaign -> the largest e-value that one of its clusters has."""
    by_horizon: dict[int, Reals] = {}
    for part in cases:
        honest = np.sort(part.honest @ weights)
        rank = 1 + honest.size - np.searchsorted(honest, part.bits @ weights - 1e-9, "left")
        e = part.share * stats.rank_e(rank, honest.size)
        # A cluster whose class is open is in both classes: the smaller counts.
        least = by_horizon.setdefault(part.horizon, np.full(len(owners), np.inf))
        np.minimum.at(least, part.cluster, e)
    total = np.sum([np.where(np.isfinite(e), e, 0.0) for e in by_horizon.values()], axis=0)
    best: dict[tuple[int, str], float] = {}
    for owner, e in zip(owners, total.tolist(), strict=True):
        best[owner] = max(e, best.get(owner, 0.0))
    return best


def climbed(cases: list[Cases], owners: list[tuple[int, str]], without: str = "") -> dict[str, float]:
    """Weights of all signals; campaigns of one family left out."""

    def worth(weights: Reals) -> float:
        kept = [e for (_, family), e in best_e(cases, owners, weights).items() if family != without]
        e = np.array(kept)
        near = np.clip(np.log10(np.maximum(e, 0.1)) / np.log10(NEARLY), -0.5, 1.0)
        return float(np.mean(near + (e >= ENOUGH))) / 2 - COST * np.count_nonzero(weights)

    one = np.array([1.0 if name == "one_queue" else 0.0 for name in NAMES])
    every = np.array([1.0 if name in START else 0.0 for name in NAMES])
    _, weights = max((uphill(worth, start) for start in (one, every)), key=lambda end: end[0])
    found = {name: float(value) for name, value in zip(NAMES, weights, strict=True)}
    return found | dict.fromkeys(set(SIGNALS) - set(NAMES), 0.0)


def uphill(worth: Callable[[Reals], float], weights: Reals) -> tuple[float, Reals]:
    """Where changing one weight after the other ends."""
    best, before = worth(weights), -np.inf
    while best > before:
        before = best
        for place in range(len(NAMES)):
            for value in GRID:
                tried = weights.copy()
                tried[place] = value
                if (found := worth(tried)) > best + 1e-9:
                    best, weights = found, tried
    return best, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--honest", type=Path, default=Path("runs/reference") / SCALE_CLUSTERS)
    parser.add_argument("--worlds", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kept", type=Path, default=Path("runs/tuning"))
    given = parser.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = [pool.submit(measured, seed, given.kept) for seed in range(given.worlds)]
        worlds = [pickle.loads(job.result().read_bytes()) for job in jobs]
    cases, owners = cases_of(worlds, Reference.load(given.honest))
    families = sorted({family for _, family in owners})
    result = {"all": climbed(cases, owners)} | {family: climbed(cases, owners, family) for family in families}
    given.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    for name, value in sorted(result["all"].items(), key=lambda item: -item[1]):
        print(f"{name:20} {value:5.2f}   without a family {sorted(result[f][name] for f in families)}")
    held_out: list[bool] = []
    for family in families:
        best = best_e(cases, owners, np.array([result[family][name] for name in NAMES]))
        held_out += [e >= ENOUGH for (_, other), e in best.items() if other == family]
    everything = [e >= ENOUGH for e in best_e(cases, owners, np.array([result["all"][n] for n in NAMES])).values()]
    print(f"campaigns with e >= {ENOUGH:.0f}: {sum(everything)} of {len(everything)}, held out {sum(held_out)}")


if __name__ == "__main__":
    main()
