"""Do DuckDB and Spark find the same clusters, and measure the same on them?

    python bench/guard/parity.py [ROWS] [--world FOLDER] [--step-h H] [--out FOLDER] [--json FILE]

Composes a null world of about ROWS exchanges (1e6 unless given) or takes the one in FOLDER, sketches it once, and runs
`scanning.measure_log` with either engine, each in a process of its own (one Spark session per process). Prints
the adjusted Rand index of the partitions of (cluster, unit) memberships, whether times of freezing, members and
fingerprints are the same to the bit, and the largest difference of any signal. Ends with status 1 unless the index is 1
and no signal differs by more than 1e-9.

A unit may be in several clusters and most are in none. The index is therefore over memberships: each (place, unit)
where `place` counts the clusters of that unit in the order in which they were frozen; units without a cluster
count as one class, as they do for whoever reads the result.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from throughput import compose_null

ENGINES = ("duckdb", "spark")
TOLERANCE = 1e-9


def scan(folder: Path, out: Path, engine: str, step_h: float) -> None:
    """Measure with one engine and leave what was found in OUT/ENGINE.pickle."""
    from stillproof.guard.scanning import ScanSettings, measure_log

    start = time.perf_counter()
    measured, _ = measure_log(folder, ScanSettings(out=out, step_h=step_h, engine=engine))
    found = {
        "seconds": time.perf_counter() - start,
        "exchanges": measured.n_exchanges,
        "clusters": [
            (entry.frozen_us, entry.cluster.kind, entry.cluster.units.tolist(), entry.cluster.fps.tolist())
            for entry in measured.frozen
        ],
        "cases": (measured.case_cluster.tolist(), measured.case_horizon_h.tolist(), list(measured.case_class)),
        "signals": measured.signals,
    }
    (out / f"{engine}.pickle").write_bytes(pickle.dumps(found))


def memberships(clusters: list[tuple[int, str, list[int], list[int]]]) -> dict[tuple[int, int], int]:
    """(how many clusters of the unit came before, unit) -> cluster."""
    seen: Counter[int] = Counter()
    labels: dict[tuple[int, int], int] = {}
    for place, (_, _, units, _) in enumerate(clusters):
        for unit in units:
            labels[seen[unit], unit] = place
            seen[unit] += 1
    return labels


def adjusted_rand(one: list[int], two: list[int]) -> float:
    """Hubert and Arabie (1985); 1 for two equal partitions, also where both are trivial."""
    if not one:
        return 1.0

    def pairs(counts: Counter[Any]) -> float:
        return sum(n * (n - 1) / 2 for n in counts.values())

    both, a, b = pairs(Counter(zip(one, two, strict=True))), pairs(Counter(one)), pairs(Counter(two))
    chance = a * b / max(len(one) * (len(one) - 1) / 2, 1)
    return 1.0 if (a + b) / 2 == chance else (both - chance) / ((a + b) / 2 - chance)


def largest_difference(one: dict[str, Any], two: dict[str, Any]) -> float:
    """Of any signal of any case; infinite where the cases differ, or a value is there on one side only."""
    if one["cases"] != two["cases"] or one["signals"].keys() != two["signals"].keys():
        return float("inf")
    largest = 0.0
    for name, column in one["signals"].items():
        other = two["signals"][name]
        if not np.array_equal(np.isnan(column), np.isnan(other)):
            return float("inf")
        same = (column == other) | np.isnan(column)
        if not same.all():
            largest = max(largest, float(np.abs(column[~same] - other[~same]).max()))
    return largest


def compare(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = memberships(one["clusters"]), memberships(two["clusters"])
    keys = sorted(ours.keys() | theirs.keys())
    index = adjusted_rand([ours.get(key, -1) for key in keys], [theirs.get(key, -1) for key in keys])
    return {
        "exchanges": one["exchanges"],
        "clusters": (len(one["clusters"]), len(two["clusters"])),
        "cases": len(one["cases"][0]),
        "seconds": tuple(round(found["seconds"], 1) for found in (one, two)),
        "adjusted_rand": index,
        "identical_clusters": one["clusters"] == two["clusters"],
        "largest_difference_of_a_signal": largest_difference(one, two),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", default="1e6")
    parser.add_argument("--world", type=Path)
    parser.add_argument("--step-h", type=float, default=24.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path, help="also write what is printed")
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        scan(given.world, given.out, given.one, given.step_h)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = given.world or Path(scratch) / "world", given.out or Path(scratch) / "scan"
        compose_null(folder, int(float(given.rows)))
        results = []
        for engine in ENGINES:
            command = ["--world", str(folder), "--out", str(out), "--step-h", str(given.step_h), "--one", engine]
            subprocess.run([sys.executable, __file__, *command], check=True)
            results.append(pickle.loads((out / f"{engine}.pickle").read_bytes()))
    told = compare(results[0], results[1])
    print(json.dumps(told, indent=1))
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0 if told["adjusted_rand"] == 1 and told["largest_difference_of_a_signal"] <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
