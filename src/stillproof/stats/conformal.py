"""Conformal p-values: the rank of a new observation among reference ones; and bets that they are exchangeable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import InputError
from stillproof.stats.limits import check_share

Reals = NDArray[np.float64]


def conformal_p(values: ArrayLike, reference: ArrayLike, groups: ArrayLike | None = None) -> Reals:
    """p-values of `values`, shape [m], ranked among `reference`, shape [n]; large values speak against the null.

    H0 of each: the value is exchangeable with the reference. p = (1 + #{reference >= value}) / (n + 1): valid for
    every n and distribution, ties count against the claim, floor 1 / (n + 1). The p-values of several values share one
    reference and are dependent (positively: Bates et al., Annals of Statistics 51, 2023, p. 149). Source: Vovk,
    Gammerman and Shafer, Algorithmic learning in a random world, 2005, sec. 2.2.

    With `groups`, shape [n], of k distinct labels, reference rows of one group may depend on one another in any way,
    and H0 is that the value comes from one more group, exchangeable with the k, and is any one of its rows. Each group
    weighs one: p = (1 + sum over groups of the share of its rows >= value) / (k + 1), floor 1 / (k + 1) (Dunn,
    Wasserman and Ramdas, J. Am. Stat. Assoc. 118, 2023, p. 2491; finite-sample validity of the weights: Lee, Barber
    and Willett, Distribution-free inference with hierarchical data, 2023, th. 1).

    An empty reference gives p = 1. Raises InputError for NaN or shapes that do not fit.
    """
    ref = _vector(reference, "reference")
    rows = _vector(values, "values")
    if groups is None:
        return (1 + weighted_tail(rows, ref, None)) / (ref.size + 1)
    labels = np.asarray(groups)
    if labels.shape != ref.shape:
        raise InputError(f"{labels.size} group labels for {ref.size} reference rows", remedy="give one label a row")
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weights = 1.0 / sizes[index] if ref.size else ref
    return (1 + weighted_tail(rows, ref, weights)) / (sizes.size + 1)


def weighted_tail(values: Reals, reference: Reals, weights: Reals | None) -> Reals:
    """Sum of the weights of the reference rows at or above each value; shapes [m], [n], [n] -> [m]."""
    order = np.argsort(reference, kind="stable")
    start = np.searchsorted(reference[order], values, side="left")
    if weights is None:
        return (reference.size - start).astype(np.float64)
    # Summed from the top, so that the best ranks, which matter most, carry the least rounding.
    tails = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    # Shares that add up to a whole number must not fall a rounding error below it: p may only be too large.
    return np.where(np.abs(tails - np.round(tails)) < 1e-9, np.round(tails), tails)[start]


def mondrian(by_class: Mapping[str, ArrayLike], possible: Sequence[Sequence[str]]) -> Reals:
    """Class-conditional p-values, shape [m]: of each row, the largest among the classes it may belong to.

    `by_class`: p-values of all m rows ranked in each class. `possible`: the classes that what is seen of a row leaves
    open. H0: the row is exchangeable with the reference of its true class; valid where that is among the possible
    ones, because the largest p is no smaller than the true class's. Raises InputError for a row without a class or a
    class without p-values. Source: Vovk, Gammerman and Shafer, 2005, sec. 4.5.
    """
    known = {name: _vector(p, name) for name, p in by_class.items()}
    p = np.empty(len(possible))
    for row, names in enumerate(possible):
        if not names or any(name not in known or known[name].size != len(possible) for name in names):
            raise InputError(f"row {row} may be of classes {list(names)}, and p-values are not given for all of them")
        p[row] = max(known[name][row] for name in names)
    return p


class JumpingBets:
    """A test martingale against H0 that p-values are independent and uniform: wealth from 1, times a bet on each.

    Bets have the densities e * p^(e - 1): e < 1 wins on small p-values, e > 1 on large ones, e = 1 does not bet. Wealth
    is spread over `exponents`, and before each bet a share `jump` of it is spread afresh, so that a change that comes
    late is still found. By Ville's inequality wealth reaches c under H0 with probability 1/c at most, however long it
    is watched. Sources: Vovk, Gammerman and Shafer, 2005, sec. 7.1; Vovk et al., Retrain or not retrain: conformal test
    martingales for change-point detection, 2021.
    """

    exponents = (0.3, 0.5, 0.7, 0.85, 1.0, 1.0, 1.2, 1.5, 2.0, 3.0)

    def __init__(self, jump: float = 0.01) -> None:
        check_share(jump, "jump")
        self.jump = jump
        self._e = np.array(self.exponents)
        self._capital = np.full(self._e.size, 1 / self._e.size)
        self._log_scale = 0.0

    @property
    def log10_wealth(self) -> float:
        return (self._log_scale + math.log(float(self._capital.sum()))) / math.log(10)

    def bet(self, p: float) -> float:
        """log10 wealth after one more p-value, 0 < p <= 1. Raises InputError for another number."""
        if not 0 < p <= 1:
            raise InputError(f"a bet on p = {p!r}", remedy="give a p-value above 0 and at most 1")
        total = float(self._capital.sum())
        spread = (1 - self.jump) * self._capital + self.jump * total / self._e.size
        self._capital = spread * self._e * p ** (self._e - 1)
        # Kept near 1 and counted in logarithms: wealth may leave the range of a float.
        total = float(self._capital.sum())
        self._capital /= total
        self._log_scale += math.log(total)
        return self.log10_wealth

    def to_json(self) -> dict[str, Any]:
        return {"jump": self.jump, "capital": self._capital.tolist(), "log_scale": self._log_scale}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> JumpingBets:
        """The inverse of `to_json`. Raises InputError for anything else."""
        try:
            bets = cls(float(row["jump"]))
            capital, bets._log_scale = np.asarray(row["capital"], dtype=np.float64), float(row["log_scale"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a betting state: {error}", remedy="write it with to_json") from error
        if capital.shape != bets._e.shape or not (capital >= 0).all() or not capital.sum() > 0:
            raise InputError("a betting state of another grid of exponents", remedy="start the bets anew")
        bets._capital = capital
        return bets


def _vector(values: ArrayLike, name: str) -> Reals:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise InputError(f"{name} of shape {array.shape}, or with NaN", remedy="give one vector of numbers")
    return array
