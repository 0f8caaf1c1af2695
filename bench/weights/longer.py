"""How much further training the tests bear: children of the first models of W1, trained up to 16 times as long.

Two kinds: fine-tuned on other text, and cut to two layers, then distilled from the parent (forward KL). The parents had
250 steps. Each length is a run of its own, with its own warm-up and decay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.weights import tiny
from bench.weights.derived import SHAPE, kept

from stillproof.trace.weights import compare
from stillproof.trace.weights.reading import read_model

STEPS = (80, 500, 4_000)
PARENTS = 2
RATE = 1e-3
"""A third of the rate at which the parents were trained."""
DISTILLED = "layer-dropped, distilled"


def longer(parents: list[Path], work: Path) -> dict[str, Any]:
    """A row for each kind and length: pairs found by an exact test, units still in place, and the weakest p-value."""
    models = [_read(folder) for folder in parents[:PARENTS]]
    whole = {name: torch.stack([model[name] for model in models]) for name in models[0]}
    text = tiny.text(SHAPE.vocabulary, 1)
    rows: list[dict[str, Any]] = []
    for kind, layers in (("fine-tuned", [0, 1, 2, 3]), (DISTILLED, kept(DISTILLED, 0))):
        for steps in STEPS:
            folders = [work / kind.replace(", ", "-") / f"{steps}-{i}" for i in range(PARENTS)]
            if not all(folder.exists() for folder in folders):
                weights = tiny.kept_layers(whole, layers)
                course = tiny.Course(steps=steps, rate=RATE, batch=4, seed=steps)
                shape = tiny.depth(weights, SHAPE)
                loss = tiny.train(weights, shape, text, course, whole if kind == DISTILLED else None)
                folders[0].parent.mkdir(parents=True, exist_ok=True)
                for i, folder in enumerate(folders):
                    if not folder.exists():
                        tiny.save(folder, tiny.one(weights, i), {**shape.config(), "last_loss_nats": loss})
            pairs = zip(parents, folders, strict=False)
            rows.append({"kind": kind, "steps": steps, **_summed([_judged(*pair) for pair in pairs])})
    return {"parents_steps": 250, "rate": RATE, "rows": rows}


def _read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(tensor.load()) for name, tensor in read_model(folder).tensors.items()}


def _judged(parent: Path, child: Path) -> dict[str, Any]:
    found = compare(parent, child)
    first = next(finding for finding in found.findings if finding.test == "unit_labels")
    cosines = [row["cosine"] for row in found.to_json()["layers"]]
    return {
        "found": first.decision == "found",
        "log10_p": first.log10_p,
        "in_place": (first.statistic or 0) / first.n,
        "cosine": float(np.mean(cosines)),
        "direction": found.to_json()["direction"],
    }


def _summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pairs": len(rows),
        "found_by_unit_labels": sum(row["found"] for row in rows),
        "weakest_log10_p": max(row["log10_p"] for row in rows),
        "units_in_place_least": min(row["in_place"] for row in rows),
        "unit_cosine_mean": float(np.mean([row["cosine"] for row in rows])),
        "directions": [row["direction"] for row in rows],
    }
