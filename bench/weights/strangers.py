"""W1: every pair of independently trained models, measured, judged, and kept as the reference that ships.

A pair is judged by the reference of pairs that share no model with it: models are dealt into two halves, a pair within
one half is ranked among the pairs within the other. Pairs across the halves are ranked among all pairs that touch
neither of their models. One line of JSON a pair, so that a run that was stopped goes on.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from stillproof.trace.weights import reference
from stillproof.trace.weights.comparing import Agreement, Measured, measure
from stillproof.trace.weights.judging import judge
from stillproof.trace.weights.layers import Model, model_of
from stillproof.trace.weights.matching import Matched, assign, fisher_log10_p, spearman_log10_p
from stillproof.trace.weights.reading import read_model

ALPHA = 0.01
BLOCK = 10_000
ABOUT = "46 Llama-shaped models of 4 layers, 128 units, hidden size 48, one text in one order, only the seed differs"


def measured_pairs(folders: list[Path], out: Path) -> list[dict[str, Any]]:
    """A row for each pair of folders; rows that `out` holds are not measured again."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["a"], row["b"]) for row in rows}
    models = [model_of(read_model(folder)) for folder in folders]
    with out.open("a") as file:
        for i, j in itertools.combinations(range(len(folders)), 2):
            if (i, j) not in done:
                rows.append(_row(i, j, models))
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    return rows


def _row(i: int, j: int, models: list[Model]) -> dict[str, Any]:
    started = time.perf_counter()
    found = measure(models[i], models[j])
    return {
        "a": i,
        "b": j,
        "seconds": time.perf_counter() - started,
        "values": [found.unit_agreement, found.embedding_rotation, found.embedding_cka, found.layer_agreement],
        "matched": [[p.layer_a, p.layer_b, p.fixed_points, p.spearman, p.cosine] for p in found.matched],
    }


def as_measured(row: dict[str, Any], units: int) -> Measured:
    """What `measure` gave, as far as `judge` asks."""
    out = Measured(embedding_rotation=row["values"][1], embedding_cka=row["values"][2])
    for layer_a, layer_b, fixed, rho, cosine in row["matched"]:
        out.matched.append(Matched(layer_a, layer_b, units, units, fixed, rho, cosine))
        out.likeness[layer_a, layer_b] = 0.0
    n = len(out.matched)
    total = round(row["values"][0] * n * units) + n
    out.agreements = [Agreement(0, 0, total - (n - 1), units)] + [Agreement(0, k, 1, units) for k in range(1, n)]
    return out


def w1(folders: list[Path], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many of the pairs are found at .01, test by test and all together."""
    model = model_of(read_model(folders[0]))
    units, _ = model.shape(model.numbers[0])
    counts = dict.fromkeys(("any", "unit_labels", "unit_order", *reference.TESTS), 0)
    fisher = []
    for row in rows:
        table = reference.Reference(tuple(map(tuple, _others(row, rows))), len(folders), ABOUT)
        verdict = judge(model, model, as_measured(row, units), (table, ALPHA, None))
        counts["any"] += verdict.decision == "found"
        for finding in verdict.findings:
            counts[finding.test] += bool(finding.log10_p is not None and finding.log10_p <= np.log10(ALPHA))
        fisher.append(10 ** fisher_log10_p([spearman_log10_p(p[3], units) for p in row["matched"]]))
    from scipy.stats import kstest

    return {
        "pairs": len(rows),
        "at_or_below_.01": counts,
        "unit_order_ks_p": float(kstest(fisher, "uniform").pvalue),
        "smallest_reference": min(len(_others(row, rows)) for row in rows[:50]),
        "seconds_a_pair_median": float(np.median([row["seconds"] for row in rows])),
        "seconds_a_pair_max": max(row["seconds"] for row in rows),
        "largest_by_strangers": dict(
            zip(reference.COLUMNS, np.max([row["values"] for row in rows], axis=0).tolist(), strict=True)
        ),
    }


def _others(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[list[float]]:
    own = {row["a"], row["b"]}
    return [other["values"] for other in rows if not own & {other["a"], other["b"]}]


def permutations(folder: Path, draws: int, seed: int = 0) -> dict[str, Any]:
    """The exact laws under random relabellings of units: the share of p-values at or below each level.

    A relabelling of B's units relabels the columns of the matching, so the assignment is solved once for each layer and
    `draws` random permutations are put behind it.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    model = model_of(read_model(folder))
    n, layers = model.shape(model.numbers[0])[0], len(model.numbers)
    start = assign(rng.standard_normal((n, n)).astype(np.float32), seed)
    squares, fixed = np.empty(draws, dtype=np.int64), np.empty(draws, dtype=np.int64)
    for at in range(0, draws, BLOCK):
        labels = np.tile(np.arange(n), (min(BLOCK, draws - at), 1))
        matchings = rng.permuted(labels, axis=1)[:, start]
        fixed[at : at + BLOCK] = (matchings == labels).sum(axis=1)
        squares[at : at + BLOCK] = ((matchings - labels) ** 2).sum(axis=1)
    # The p-value depends on the sum of squares alone, so each that occurs is computed once, by the shipped function.
    found, back = np.unique(squares, return_inverse=True)
    p = 10 ** np.array([spearman_log10_p(1 - 6 * d / (n * (n * n - 1)), n) for d in found.tolist()])[back]
    from scipy.stats import poisson

    combined = [
        10 ** fisher_log10_p(np.log10(row).tolist()) for row in p[: draws // layers * layers].reshape(-1, layers)
    ]
    levels = (0.5, 0.2, 0.05, 0.01, 1e-3, 1e-4, 1e-5)
    return {
        "draws": draws,
        "units": n,
        "unit_order_share_at": {str(a): float((p <= a).mean()) for a in levels},
        "unit_order_ks_distance": float(np.abs(np.sort(p) - np.arange(1, draws + 1) / draws).max()),
        "fisher_share_at": {str(a): float((np.array(combined) <= a).mean()) for a in levels},
        "fixed_points_at_least": {str(k): float((fixed >= k).mean()) for k in range(1, 9)},
        "poisson_at_least": {str(k): float(poisson.sf(k - 1, 1)) for k in range(1, 9)},
    }
