"""Are ranks of fresh honest clusters uniform? Each window of a reference is ranked among all other windows.

    python bench/guard/uniform.py src/stillproof/data/guard/honest-24h.parquet [--json FILE]

Prints, by class and horizon, the share of p-values at or below 0.01, 0.05 and 0.1, with a bootstrap over windows, and
the largest mean e-value. Windows are independent worlds, so this is fresh traffic of the same kind.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillproof import stats
from stillproof.guard.reference import CLASSES, Reference, rank, score_new, score_reference
from stillproof.guard.scoring import standard

FIXED = ("cluster_id", "window_id", "horizon_h", "cluster_class", "n_units")
LEVELS = (0.01, 0.05, 0.1)


def part(reference: Reference, keep: NDArray[np.bool_]) -> Reference:
    """Some rows of a reference."""
    columns = {name: getattr(reference, name)[keep] for name in FIXED}
    columns |= {name: column[keep] for name, column in reference.signals.items()}
    return Reference.of(columns, reference.origin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--json", type=Path, help="also write the extremes over classes and horizons")
    given = parser.parse_args()
    reference = Reference.load(given.reference)
    scoring = standard(reference.origin.step_h)
    windows = np.unique(reference.window_id).tolist()
    found: dict[tuple[str, int], list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for window in windows:
        inside = reference.window_id == window
        others, own = part(reference, ~inside), part(reference, inside)
        for cls in CLASSES:
            for hours in reference.horizons:
                rows = others.rows(cls, hours)
                new = own.rows(cls, hours).signals
                base = score_reference(rows, cls, hours, scoring).total
                p = rank(score_new(new, rows, cls, hours, scoring).total, base, rows)
                e = stats.rank_e(p * (rows.n_groups + 1), rows.n_groups)
                found.setdefault((cls, hours), []).append((p, e))
    print(f"{len(windows)} windows")
    shares_at: dict[float, list[float]] = {level: [] for level in LEVELS}
    means: list[float] = []
    for (cls, hours), parts in sorted(found.items()):
        n = [p.size for p, _ in parts]
        mean_e = sum(float(e.sum()) for _, e in parts) / sum(n)
        means.append(mean_e)
        shares = []
        for level in LEVELS:
            interval = stats.cluster_bootstrap([int((p <= level).sum()) for p, _ in parts], n, seed=7, bounds=(0, 1))
            shares_at[level].append(interval.estimate)
            shares.append(f"{level}: {interval.estimate:.4f} [{interval.low:.4f}, {interval.high:.4f}]")
        print(f"{cls:12} {hours:3} h  n {sum(n):6,}  {'  '.join(shares)}  mean e {mean_e:.3f}")
    if given.json:
        shares = {f"at_{level:.0%}": {"least": min(of), "most": max(of)} for level, of in shares_at.items()}
        told = {"windows": len(windows), "cells": len(means), "shares": shares, "mean_e": sorted(means)}
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
