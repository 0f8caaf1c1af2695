"""How much a bit of each signal counts: a logistic regression of campaigns against the reference, non-negative.

    python bench/guard/weights.py --reference honest.parquet --worlds 6 --out runs/weights.json

Prints and writes the weights of all families, and for each family those without it. What ships (weights.json) is such
a fit on five other worlds, rounded by hand; what came of it and of later fits is in dev/LOG.md, section 2.
Validity does not depend on weights:
a score is only ever ranked among honest clusters.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from worlds import tuning

from stillproof.guard import compose
from stillproof.guard.evaluation import BLIND_SPOTS, read_truth
from stillproof.guard.judging import POSSIBLE
from stillproof.guard.reference import CLASSES, Reference, bits, score_reference
from stillproof.guard.scanning import HORIZONS_H, ScanSettings, measure_log
from stillproof.guard.signals import SIGNALS

OF_HORIZON = {1: 0.3, 3: 0.6, 12: 1.0, 48: 1.0}
PENALTY = 2.0
LEAST_UNITS = 20
LEAST_PURITY = 0.6
NAMES = sorted(SIGNALS)

Bits = NDArray[np.float64]
Part = tuple[int, Bits, Bits, NDArray[np.str_]]
"""Horizon, bits of the reference [n, signals], bits of campaigns [m, signals], their families [m]."""


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
        }
        out.write_bytes(pickle.dumps(rows))
    return out


def examples(worlds: list[dict[str, Any]], reference: Reference) -> list[Part]:
    """One part for each horizon and class."""
    flat = dict.fromkeys(NAMES, 1.0)
    made: list[Part] = []
    for horizon in HORIZONS_H:
        for cls in CLASSES:
            rows = reference.rows(cls, horizon)
            honest = score_reference(rows, flat).bits
            found: list[Bits] = []
            families: list[str] = []
            for world in worlds:
                at = [
                    case
                    for case, hours in enumerate(world["horizon"])
                    if hours == horizon and world["family"][case] and POSSIBLE[world["class"][case]] == (cls,)
                ]
                scores = bits({name: world["signals"][name][at] for name in NAMES}, rows, flat).bits
                found.append(np.stack([scores[name] for name in NAMES], axis=1))
                families += [world["family"][case] for case in at]
            whole = np.concatenate(found)
            made.append(
                (horizon, np.stack([honest[name] for name in NAMES], axis=1), whole, np.array(families, np.str_))
            )
    return made


def fitted(parts: list[Part], without: str = "") -> dict[str, float]:
    """Weights of all signals; campaigns of one family left out."""
    from scipy.optimize import minimize

    rows: list[Bits] = []
    labels: list[Bits] = []
    counts: list[Bits] = []
    for horizon, honest, campaigns, families in parts:
        kept = campaigns[families != without]
        rows += [honest, kept]
        labels += [np.zeros(len(honest)), np.ones(len(kept))]
        share = 100 * OF_HORIZON[horizon]
        counts += [np.full(len(honest), share / max(len(honest), 1)), np.full(len(kept), share / max(len(kept), 30))]
    x, y, w = np.concatenate(rows), np.concatenate(labels), np.concatenate(counts)

    def loss(b: Bits) -> tuple[float, Bits]:
        z = x @ b[1:] + b[0]
        slope = w * (1 / (1 + np.exp(-z)) - y)
        gradient = np.concatenate([[slope.sum()], x.T @ slope + 2 * PENALTY * b[1:]])
        return float((w * (np.logaddexp(0, z) - y * z)).sum() + PENALTY * (b[1:] ** 2).sum()), gradient

    bounds = [(None, None)] + [(0, None)] * len(NAMES)
    found = minimize(loss, np.zeros(len(NAMES) + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return {name: round(float(value), 2) for name, value in zip(NAMES, found[1:], strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--worlds", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kept", type=Path, default=Path("runs/tuning"))
    given = parser.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = [pool.submit(measured, seed, given.kept) for seed in range(given.worlds)]
        worlds = [pickle.loads(job.result().read_bytes()) for job in jobs]
    parts = examples(worlds, Reference.load(given.reference))
    families = sorted({name for part in parts for name in part[3].tolist()})
    result = {"all": fitted(parts)} | {name: fitted(parts, name) for name in families}
    given.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    for name, value in sorted(result["all"].items(), key=lambda item: -item[1]):
        print(f"{name:20} {value:5.2f}   without a family {sorted(result[f][name] for f in families)}")


if __name__ == "__main__":
    main()
