"""The numbers of the tables as one JSON, OUT/summary.json, that a page's sentences can be held against.

Groups are written with underscores: `t2.1000_pairs_1_epochs.all_controls.quartiles.1` is a median of log10 p.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench.trace.calibrate import LEVELS
from bench.trace.jobs import results
from bench.trace.robustness import TESTS

Rows = Sequence[dict[str, Any]]

_SCORES = {
    "log-probability": "no_control",
    "less the teacher's": "teacher",
    "less the teacher's and the base's": "teacher_and_base",
    "less the teacher's, the base's and three imitators'": "all_controls",
}


def write_summary(out: Path) -> None:
    told: dict[str, Any] = {}
    for name, experiment, of_group in _PARTS:
        groups = {
            key(group): of_group([row["result"] for row in rows]) for group, rows in results(out, experiment).items()
        }
        told[name] = {group: row for group, row in groups.items() if row}
    (out / "summary.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def key(name: str) -> str:
    """A name without what a dotted path cannot have."""
    return re.sub(r"[^a-z0-9]+", "_", _SCORES.get(name, name).lower()).strip("_")


def _over_keys(rows: Rows) -> dict[str, Any]:
    n, told = sum(row["keys"] for row in rows), dict[str, Any]()
    for mode in [mode for mode in rows[0] if mode not in ("origin", "keys")]:
        alarms = [sum(row[mode]["alarms"][place] for row in rows) / n for place in range(len(LEVELS))]
        told[key(mode)] = dict(zip(("at_1e_2", "at_1e_3", "at_1e_5"), alarms, strict=True))
    return {"students": len(rows), "p_values": n, **told}


def _over_models(rows: Rows) -> dict[str, Any]:
    told: dict[str, Any] = {"students": len(rows)}
    for mode in [mode for mode in rows[0] if mode != "origin"]:
        values = np.array([row[mode] for row in rows], dtype=np.float64)
        tried = values[np.isfinite(values)]
        share = float((tried <= -2).mean())
        told[key(mode)] = {
            "corpora": values.shape[1],
            "tried": tried.size,
            "at_1e_2": share,
            "least": float(tried.min()),
        }
    return told


def _marked(rows: Rows) -> dict[str, Any]:
    last = list(rows[0]["closed"])[-1]
    modes = {key(mode): _quartiles([row[mode][last] for row in rows]) for mode in ("closed", "closed once", "open")}
    return {"students": len(rows), "tokens": int(last), **modes}


def _twins(rows: Rows) -> dict[str, Any]:
    told: dict[str, Any] = {"students": len(rows)}
    for score, counts in rows[0].items():
        if isinstance(counts, dict) and counts:
            told[key(score)] = _quartiles([row[score][list(counts)[-1]] for row in rows])
    return told if len(told) > 1 else {}


def _cards(rows: Rows) -> dict[str, Any]:
    return {"students": len(rows), **_quartiles([row["log10_p"] for row in rows], level=-3)}


def _accounts(rows: Rows) -> dict[str, Any]:
    told: dict[str, Any] = {"students": len(rows)}
    for score in rows[0]:
        own = [row[score] for row in rows]
        told[key(score)] = {
            "right": sum("guilty" in row["named"] for row in own),
            "wrong": sum(len(set(row["named"]) - {"guilty"}) for row in own),
            "median": float(np.median([row["guilty_log10_p"] or 0.0 for row in own])),
        }
    return told


def _attacks(rows: Rows) -> dict[str, Any]:
    told: dict[str, Any] = {"students": len(rows)}
    for attack in [name for name, row in rows[0].items() if name != "overlap"]:
        made = [test for test in TESTS if test in rows[0][attack]]
        values = np.array([[row[attack][test] or 0.0 for test in made] for row in rows])
        best = np.minimum(values.min(axis=1) + math.log10(len(made)), 0.0)
        of_tests = {key(test): _quartiles(column.tolist()) for test, column in zip(made, values.T, strict=True)}
        told[key(attack)] = {**of_tests, "smallest": _quartiles(best.tolist(), level=-6)}
    return told


def _quartiles(values: Sequence[float | None], level: float = -10) -> dict[str, Any]:
    """Of log10 p, inconclusive ones as 0, and how many are below a level."""
    found = [value or 0.0 for value in values]
    quartiles = [float(value) for value in np.percentile(found, (25, 50, 75))]
    return {"quartiles": quartiles, "reached": sum(value < level for value in found)}


_PARTS: tuple[tuple[str, str, Callable[[Rows], dict[str, Any]]], ...] = (
    ("v1a", "null_keys", _over_keys),
    ("v1b", "null_models", _over_models),
    ("t1", "marked", _marked),
    ("t2", "twins", _twins),
    ("accounts", "accounts", _accounts),
    ("t5", "cards", _cards),
    ("attacks", "attacks", _attacks),
)
