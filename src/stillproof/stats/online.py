"""e-LOND: false discovery control over hypotheses that arrive one after another and are decided when they are ready."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stillproof.errors import InputError
from stillproof.stats.limits import check_share

_SLACK = 1e-12


@dataclass(slots=True)
class _Hypothesis:
    gamma: float
    e: float = 0.0
    merged_into: str | None = None
    """Its e goes on being observed, and counts there."""
    threshold: float | None = None
    """What it had to reach when it was rejected; None while it is not."""


class ELond:
    """e-LOND with decisions later than birth (Xu and Ramdas, Online multiple testing with e-values, AISTATS 2024).

    Each hypothesis gets a share gamma_t of `alpha` at its birth, by its order alone: (1 - reserve) / budget for the
    first `budget`, then reserve * 6 / (pi^2 s^2) for the s-th beyond it. Shares sum to 1 at most, for ever: declare
    the number of clusters expected in the period (a month), and open a new ELond for the next. A hypothesis is
    rejected when e >= 1 / (alpha * min(1, gamma * (R + 1))), R the number rejected until then.

    H0 of each: its own; its e-value never falls, and its last value has mean 1 at most given its birth. Then the
    expected share of true nulls among all rejected is alpha at most, at whatever time one looks and under any
    dependence. Sketch: let R be the final number. A null rejected when r had been has e_last >= e >= 1 / (alpha gamma
    (r + 1)) and R >= r + 1, so 1{rejected} / R <= alpha gamma e_last. Summed over nulls, the mean is alpha * sum gamma
    at most. When it is decided plays no part.

    Merging: the merged hypothesis (all of its parts are honest) has gamma = sum of the parts' and e = their average
    weighted by gamma, so gamma e is the sum of the parts' and the proof stands whatever caused the merger.
    """

    def __init__(self, alpha: float, budget: int, reserve: float = 0.1) -> None:
        """Raises InputError unless 0 < alpha < 1, 0 < reserve < 1, budget >= 1."""
        check_share(alpha, "alpha")
        check_share(reserve, "reserve")
        if budget < 1:
            raise InputError(f"a budget of {budget} clusters", remedy="declare how many may appear in the period")
        self.alpha, self.budget, self.reserve = alpha, budget, reserve
        self._all: dict[str, _Hypothesis] = {}
        self._joined: dict[str, list[str]] = {}
        """Survivor: all that it is made of, itself included."""

    @property
    def n_born(self) -> int:
        return len(self._all)

    @property
    def n_rejected(self) -> int:
        return sum(one.threshold is not None for one in self._all.values())

    def born(self, key: str) -> bool:
        return key in self._all

    def birth(self, key: str) -> float:
        """Enters a hypothesis and returns its gamma. Raises InputError where it was born before."""
        if key in self._all:
            raise InputError("a hypothesis is born twice", key, "give each cluster an id of its own")
        t = len(self._all) + 1
        if t <= self.budget:
            gamma = (1 - self.reserve) / self.budget
        else:
            gamma = self.reserve * 6 / (math.pi * (t - self.budget)) ** 2
        self._all[key] = _Hypothesis(gamma)
        return gamma

    def observe(self, key: str, e: float) -> None:
        """The e-value of the hypothesis as born, not of what it merged into. Raises InputError where it falls."""
        one = self._get(key)
        if not e >= one.e * (1 - 1e-9):
            remedy = "observe the running sum over horizons, which never falls"
            raise InputError(f"an e-value fell from {one.e} to {e}", key, remedy)
        one.e = max(one.e, e)

    def merge(self, survivor: str, absorbed: str) -> None:
        """From now on the two are one, under the survivor's key. Raises InputError where either is already rejected:
        nothing joins a rejected cluster without evidence of its own."""
        into, gone = self._root(survivor), self._root(absorbed)
        if into == gone:
            return
        if self._all[into].threshold is not None or self._all[gone].threshold is not None:
            raise InputError("a rejected hypothesis cannot merge", survivor, "leave the other one to be decided alone")
        self._join(into, gone)

    def _join(self, into: str, gone: str) -> None:
        self._all[gone].merged_into = into
        self._joined[into] = [*self._joined.get(into, [into]), *self._joined.pop(gone, [gone])]

    def e_value(self, key: str) -> float:
        """Of the hypothesis that `key` is now part of."""
        parts = self._parts(self._root(key))
        return sum(part.gamma * part.e for part in parts) / sum(part.gamma for part in parts)

    def threshold(self, key: str) -> float:
        """What its e-value has to reach now; for a rejected one, what it had to reach then."""
        root = self._root(key)
        decided = self._all[root].threshold
        return decided if decided is not None else self._needed(root, self.n_rejected)

    def rejected(self, key: str) -> bool:
        return self._all[self._root(key)].threshold is not None

    def decide(self) -> list[str]:
        """Rejects what can be, until nothing more can; returns the keys newly rejected."""
        done: list[str] = []
        undecided = [k for k, one in self._all.items() if one.merged_into is None and one.threshold is None]
        # Nearest to its threshold first: each rejection lowers what the rest need.
        undecided.sort(key=lambda key: self._needed(key, 0) / max(self.e_value(key), 1e-300))
        rejected, again = self.n_rejected, True
        while again:
            again = False
            for key in undecided:
                if self._all[key].threshold is not None:
                    continue
                needed = self._needed(key, rejected)
                if self.e_value(key) >= needed * (1 - _SLACK):
                    self._all[key].threshold = needed
                    done.append(key)
                    rejected, again = rejected + 1, True
        return done

    def to_json(self) -> dict[str, Any]:
        """The whole state, for the next scan."""
        rows = {key: asdict(one) for key, one in self._all.items()}
        return {"alpha": self.alpha, "budget": self.budget, "reserve": self.reserve, "hypotheses": rows}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ELond:
        """The inverse of `to_json`. Raises InputError for anything else."""
        try:
            state = cls(float(row["alpha"]), int(row["budget"]), float(row["reserve"]))
            state._all = {str(key): _Hypothesis(**one) for key, one in row["hypotheses"].items()}
            for key in state._all:
                if (root := state._root(key)) != key:
                    state._joined.setdefault(root, [root]).append(key)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"not a state of e-LOND: {error}", remedy="write it with ELond.to_json") from error
        return state

    def _needed(self, root: str, rejected: int) -> float:
        gamma = sum(part.gamma for part in self._parts(root))
        # Never above alpha for one hypothesis, though the proof would allow it after many rejections.
        return 1 / (self.alpha * min(1.0, gamma * (rejected + 1)))

    def _get(self, key: str) -> _Hypothesis:
        if key not in self._all:
            raise InputError("a hypothesis that was never born", key, "call birth first")
        return self._all[key]

    def _root(self, key: str) -> str:
        one = self._get(key)
        while one.merged_into is not None:
            key = one.merged_into
            one = self._all[key]
        return key

    def _parts(self, root: str) -> list[_Hypothesis]:
        return [self._all[key] for key in self._joined.get(root, [root])]
