"""From signals to one score: bits on a fixed scale, added up with fixed weights.

The scale says how rare a value is among honest clusters, and goes on beyond the rarest of them, so that a cluster far
out of the honest range does not tie with the last one within it. It was made of composed worlds of its own (none of
them is in a reference), and so were the weights: whatever they are, they know nothing of the clusters that are
ranked, and a rank among scores is exact (split conformal prediction: Vovk, Gammerman and Shafer, 2005, sec. 4.1). A
poor scale costs power, never validity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError
from stillproof.guard.signals import weights

Reals = NDArray[np.float64]

MAX_BITS = 12.0
"""Of one signal: none may outweigh all others."""
LEAST_ABOVE = 4
"""So many honest clusters must lie at or above the last knot; beyond it the tail goes on as it came."""
TAIL_BITS = 3.0
"""Over so many bits before the last knot the slope of the tail is taken."""

Place = tuple[str, int, str]
"""Class of the cluster, hours after the freeze, signal."""


@dataclass(frozen=True, slots=True)
class Knots:
    """Values of a signal, ascending, shape [k], and the bits -log2 P(honest >= value), shape [k]."""

    values: Reals
    bits: Reals
    n: int
    """Honest clusters where the signal was measured."""

    @classmethod
    def of(cls, honest: ArrayLike) -> Knots | None:
        """Knots about half a bit apart, of the honest clusters where the signal was measured; None without any."""
        values = np.asarray(honest, np.float64)
        distinct, counts = np.unique(values[np.isfinite(values)], return_counts=True)
        if not distinct.size:
            return None
        at_least = np.cumsum(counts[::-1])[::-1]
        bits = np.log2(at_least[0] / at_least)
        inside = np.flatnonzero(at_least >= min(LEAST_ABOVE, at_least[0]))
        first_of_step = np.unique(np.floor(2 * bits[inside]), return_index=True)[1]
        kept = inside[np.union1d(first_of_step, inside.size - 1)]
        return cls(distinct[kept], bits[kept], int(at_least[0]))

    def read(self, values: Reals) -> Reals:
        """Bits of new values, NaN where they are NaN: linear between knots, and beyond the last as the tail came.

        Where the tail has no width, as where every honest cluster shows the same, a larger value is one in n + 1.
        """
        last, end = float(self.values[-1]), float(self.bits[-1])
        known = np.interp(values, self.values, self.bits, left=0.0)
        before = max(int(np.searchsorted(self.bits, end - TAIL_BITS, "right")) - 1, 0)
        width = last - float(self.values[before])
        tail = (values - last) * (end - float(self.bits[before])) / width if width > 0 else np.log2(self.n + 1) - end
        return np.minimum(np.where(values > last, end + tail, known), MAX_BITS)


EARLY_H = 12
HOURLY_EARLY = {"one_queue": 0.35}
"""An hour or three hold too few exchanges to see a queue in: its bits there are mostly chance."""


@dataclass(frozen=True, slots=True)
class Scores:
    """`total` S, shape [m]; `bits` of each signal, shape [m], 0 where unmeasured."""

    total: Reals
    bits: dict[str, Reals]


@dataclass(frozen=True, slots=True)
class Scoring:
    """What signals of a cluster amount to."""

    weights: Mapping[str, float]
    """What a bit of each signal counts."""
    scale: Mapping[Place, Knots]
    """A signal without knots at a place has no bits there."""
    early: Mapping[str, float] = field(default_factory=dict)
    """Weights that take the place of `weights` at horizons below EARLY_H hours."""

    def weights_at(self, horizon_h: float) -> Mapping[str, float]:
        """What a bit of each signal counts at one horizon."""
        return {**self.weights, **self.early} if horizon_h < EARLY_H else self.weights

    def of(self, signals: Mapping[str, ArrayLike], cluster_class: str, horizon_h: int) -> Scores:
        """Scores of m clusters scored as of one class at one horizon.

        `signals`: values of shape [m], larger = less like honest traffic, NaN = unmeasured. Raises InputError for a
        signal that has a weight and is not among them, or without any weight.
        """
        if not self.weights:
            raise InputError("no signal is given a weight", remedy="declare which signals are used")
        if missing := sorted(set(self.weights) - set(signals)):
            raise InputError("a signal has a weight and no values", missing[0], "give NaN where it was not measured")
        bits = {name: self._bits(signals[name], (cluster_class, horizon_h, name)) for name in self.weights}
        weights = self.weights_at(horizon_h)
        total = np.sum([weights[name] * bits[name] for name in sorted(bits)], axis=0)
        # Equal scores must tie though they were added up differently.
        return Scores(np.round(total, 9), bits)

    def _bits(self, values: ArrayLike, place: Place) -> Reals:
        single = rounded(values)
        knots = self.scale.get(place)
        return np.zeros(single.size) if knots is None else np.nan_to_num(knots.read(single), nan=0.0)


def rounded(values: ArrayLike) -> Reals:
    """To single precision, as files hold it: a tie stays a tie."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32).astype(np.float64)


@cache
def standard(step_h: float = 24.0) -> Scoring:
    """The signals' own weights, on the scale that comes along, for looks `step_h` hours apart."""
    with as_file(files("stillproof") / "data" / "guard" / "scale.json") as path:
        return Scoring(weights(), read_scale(path), HOURLY_EARLY if hourly(step_h) else {})


def hourly(step_h: float) -> bool:
    """Whether looks are so frequent that alarms should come within hours."""
    return step_h < EARLY_H


def save_scale(scale: Mapping[Place, Knots], path: Path) -> None:
    """As JSON, one line a place: class, hours, signal, n, values, bits."""
    rows = [
        json.dumps([*place, knots.n, *([float(f"{x:.6g}") for x in column] for column in (knots.values, knots.bits))])
        for place, knots in sorted(scale.items())
    ]
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n")


def read_scale(path: Path) -> dict[Place, Knots]:
    """The inverse of `save_scale`, to six digits. Raises InputError for another file."""
    try:
        return {
            (str(name), int(hours), str(signal)): Knots(np.asarray(values, float), np.asarray(bits, float), int(n))
            for name, hours, signal, n, values, bits in json.loads(path.read_text())
        }
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the scale cannot be read: {error}", str(path)) from error
