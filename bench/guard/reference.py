"""The honest clusters that come along with stillproof: composed worlds, linked and measured as a scan would.

    python bench/guard/reference.py --worlds 50 --out src/stillproof/data/guard/honest-24h.parquet
    python bench/guard/reference.py --scale src/stillproof/data/guard/scale.json

No campaign is in them. Every heavy class of honest customers stands in every world with several groups of different
sizes, far more of them than an operator has: what looks like a campaign and is none is what a reference is for. Worlds
are independent (one seed each), kept as rows once measured, and made anew only where rows are missing. The scale of
the signals comes from the first SCALE_WORLDS seeds, and no reference has any of these. Their clusters are kept beside
the other rows, in SCALE_CLUSTERS: weights are chosen against them, so that a reference has no part in what ranks it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from stillproof.guard import compose
from stillproof.guard.calibration import reference_of
from stillproof.guard.reference import Reference, joined
from stillproof.guard.scoring import save_scale
from stillproof.guard.traffic import World
from stillproof.guard.traffic.honest import HONEST

FIRST_SEED = 100_000
"""Far from the seeds of recipes, tests and benchmarks."""
SCALE_WORLDS = 20
SCALE_CLUSTERS = "scale-clusters.parquet"
LEAST, MOST = 12, 120
GROUPS = 4
"""Groups of each heavy class in a world."""


def world(seed: int) -> World:
    """One honest world: some 1,000 ordinary customers and every heavy class, sizes log-uniform."""
    rng = np.random.Generator(np.random.Philox(seed))
    groups = [
        {"kind": "honest_heavy", "family": family, "size": int(np.exp(rng.uniform(np.log(LEAST), np.log(MOST))))}
        for family in sorted(HONEST)
        for _ in range(GROUPS)
    ]
    return World(
        name=f"honest-{seed}",
        seed=seed,
        days=int(rng.integers(9, 16)),
        n_ordinary=1000,
        niche_apps=10,
        harness_share=float(rng.uniform(0.3, 0.6)),
        groups=groups,
    )


def measured(seed: int, step_h: float, kept: Path) -> Path:
    """The reference rows of one world, composed for the purpose and thrown away again."""
    out = kept / f"{seed}-{step_h:g}h.parquet"
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=kept) as folder:
            log = Path(folder) / f"honest-{seed}"
            compose(world(seed), log)
            reference_of([log], "composed", step_h).save(Path(folder) / "rows.parquet")
            shutil.move(Path(folder) / "rows.parquet", out)
    return out


def joined_worlds(seeds: range, step_h: float, kept: Path, processes: int) -> Reference:
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        jobs = [pool.submit(measured, seed, step_h, kept) for seed in seeds]
        parts = []
        for job in jobs:
            parts.append(Reference.load(job.result()))
            print(f"{len(parts)} of {len(seeds)} worlds", flush=True)
    return joined(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=50)
    parser.add_argument("--step-h", type=float, default=24.0)
    parser.add_argument("--out", type=Path, help="where the reference goes")
    parser.add_argument("--scale", type=Path, help="where the scale goes")
    parser.add_argument("--kept", type=Path, default=Path("runs/reference"), help="rows of the worlds done")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    after_scale = FIRST_SEED + SCALE_WORLDS
    if given.scale:
        whole = joined_worlds(range(FIRST_SEED, after_scale), 24.0, given.kept, given.processes)
        whole.save(given.kept / SCALE_CLUSTERS)
        save_scale(whole.scale(), given.scale)
    if given.out:
        seeds = range(after_scale, after_scale + given.worlds)
        whole = joined_worlds(seeds, given.step_h, given.kept, given.processes)
        whole.save(given.out)
        print(whole.counts())


if __name__ == "__main__":
    main()
