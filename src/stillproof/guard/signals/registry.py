"""The signals by name, with the metadata that a report needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stillproof.guard.signals.view import Reals, View


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal and what is said of it."""

    name: str
    group: str
    unit: str
    honest_causes: str
    """Who shows it without distilling anything."""
    cleared_by: str
    """What a customer could show or change that would clear it."""
    weight: float
    """What a bit of it counts in the score; 0: shown and not counted."""
    of: Callable[[View], Reals]


SIGNALS: dict[str, Signalled] = {}


def signal(
    name: str, *, group: str, unit: str, honest_causes: str, cleared_by: str, weight: float = 0.0
) -> Callable[[Callable[[View], Reals]], Callable[[View], Reals]]:
    """Register a pure function `View -> [C]`; higher means more like one pool."""

    def register(of: Callable[[View], Reals]) -> Callable[[View], Reals]:
        SIGNALS[name] = Signalled(name, group, unit, honest_causes, cleared_by, weight, of)
        return of

    return register


def weights() -> dict[str, float]:
    """Signal -> what a bit of it counts. From `bench/guard/weights.py`, rounded; validity does not depend on them."""
    return {name: entry.weight for name, entry in SIGNALS.items()}
