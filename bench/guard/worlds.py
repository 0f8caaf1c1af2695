"""The worlds that guard's numbers are measured on, each from one seed.

tuning(seed)     campaigns of every family, for the weights of the signals and for nothing else
campaigns(seed)  what recall and false positives are measured on: 12,600 honest accounts, a campaign of every family
null(seed)       no campaign; accounts that share cron times and harnesses
adoption(seed)   no campaign; a fifth of the accounts takes up one new app within days
heavy(name)      3,000 accounts of one honest heavy class
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stillproof.guard.traffic import World
from stillproof.guard.traffic.families import FAMILIES
from stillproof.guard.traffic.honest import HONEST

TUNING, CAMPAIGNS, NULL, HEAVY, ADOPTION = 200_000, 300_000, 400_000, 500_000, 600_000
"""First seeds; the reference has its own."""
SEEN = tuple(sorted(set(FAMILIES) - {"prompt_file"}))
"""Families that need no file."""


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _campaigns(rng: np.random.Generator, low: int, high: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "kind": "campaign",
            "family": family,
            "size": int(_log_uniform(rng, low, high)),
            "settings": settings | ({} if family == "low_and_slow" else {"rate_per_day": _log_uniform(rng, 15, 80)}),
        }
        for family in SEEN
    ]


def _honest(rng: np.random.Generator, per_class: int, low: int, high: int) -> list[dict[str, Any]]:
    return [
        {"kind": "honest_heavy", "family": family, "size": int(_log_uniform(rng, low, high))}
        for family in sorted(HONEST)
        for _ in range(per_class)
    ]


def tuning(seed: int) -> World:
    rng = _rng(TUNING + seed)
    groups = _campaigns(rng, 50, 200, {})
    return World(name=f"tuning-{seed}", seed=TUNING + seed, days=12, n_ordinary=400, groups=groups)


def campaigns(seed: int, camouflage: float | None = None, size: int | None = None, days: int = 14) -> World:
    """`camouflage` and `size` fix for all campaigns what is drawn for each otherwise (0 to 60%, 50 to 300 accounts)."""
    rng = _rng(CAMPAIGNS + seed)
    groups = _honest(rng, 2, 30, 120) + _campaigns(rng, size or 50, size or 300, {})
    name = f"campaigns-{seed}" + (f"-x{camouflage:g}" if camouflage is not None else "") + (f"-n{size}" if size else "")
    honest = sum(group["size"] for group in groups if group["kind"] == "honest_heavy")
    return World(
        name=name, seed=CAMPAIGNS + seed, days=days, n_ordinary=12_600 - honest, camouflage=camouflage, groups=groups
    )


def null(seed: int) -> World:
    rng = _rng(NULL + seed)
    chosen = rng.permutation(sorted(HONEST))[:6].tolist()
    groups = [{"kind": "honest_heavy", "family": family, "size": int(_log_uniform(rng, 12, 120))} for family in chosen]
    share = float(rng.uniform(0.3, 0.6))
    return World(
        name=f"null-{seed}", seed=NULL + seed, days=8, n_ordinary=500, harness_share=share, niche_apps=5, groups=groups
    )


def adoption(seed: int) -> World:
    groups = [{"kind": "honest_heavy", "family": "niche_launch", "size": 150}]
    return World(name=f"adoption-{seed}", seed=ADOPTION + seed, days=8, n_ordinary=600, niche_apps=6, groups=groups)


def heavy(family: str) -> World:
    """Groups of 100 accounts, and 500 ordinary customers around them."""
    place = sorted(HONEST).index(family)
    groups = [{"kind": "honest_heavy", "family": family, "size": 100, "count": 30}]
    return World(name=f"heavy-{family}", seed=HEAVY + place, days=12, n_ordinary=500, groups=groups)
