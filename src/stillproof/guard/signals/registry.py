"""The signals by name, with the metadata that a report needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """What a bit of it counts in the score of all signals; 0: shown and not counted."""
    weight_without_signup: float
    """The same in the score that does without sign-up times."""
    of: Callable[[View], Reals]


SIGNALS: dict[str, Signalled] = {}


def signal(
    name: str, *, group: str, unit: str, honest_causes: str, cleared_by: str, weights: tuple[float, float] = (0.0, 0.0)
) -> Callable[[Callable[[View], Reals]], Callable[[View], Reals]]:
    """Register a pure function `View -> [C]`; higher means more like one pool."""

    def register(of: Callable[[View], Reals]) -> Callable[[View], Reals]:
        SIGNALS[name] = Signalled(name, group, unit, honest_causes, cleared_by, *weights, of)
        return of

    return register


Scores = Mapping[str, Mapping[str, float]]
"""Score -> signal -> what a bit of it counts."""


def scores() -> Scores:
    """The two scores that clusters are ranked by. Fitted by `bench/guard/weights.py`; validity does not depend on them.

    One counts when accounts signed up, one does not: accounts can be bought aged. Each gives an e-value, and the
    average of e-values is an e-value however they depend on each other.
    """
    return {
        "all": {name: entry.weight for name, entry in SIGNALS.items()},
        "without_signup": {name: entry.weight_without_signup for name, entry in SIGNALS.items()},
    }
