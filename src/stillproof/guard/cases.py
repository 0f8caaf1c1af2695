"""Cases: each frozen cluster up to each horizon after its freeze, and the view that signals are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillproof.guard.freezing import Frozen
from stillproof.guard.signals.view import HOUR_US, View

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

    from stillproof.engine import Engine

INTERACTIVE_BELOW, AUTOMATED_ABOVE = 0.6, 0.8
"""Share of requests that open a conversation: people stay below, programs above, between them it is open."""


@dataclass(frozen=True, slots=True)
class Cases:
    """Which cluster, and up to when: [C] each."""

    cluster: NDArray[np.int64]
    horizon_h: NDArray[np.float64]
    frozen_us: NDArray[np.int64]
    until_us: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Facts:
    """Sign-up times by unit: the earliest of an organisation's accounts. Sorted by unit."""

    unit: NDArray[np.uint64]
    signup_us: NDArray[np.float64]

    def of(self, units: NDArray[np.uint64]) -> NDArray[np.float64]:
        if not self.unit.size:
            return np.full(units.size, np.nan)
        place = np.minimum(np.searchsorted(self.unit, units), self.unit.size - 1)
        return np.where(self.unit[place] == units, self.signup_us[place], np.nan)


def account_facts(path: Path) -> Facts:
    """What an operator knows of its accounts; empty where the file is absent."""
    if not path.exists():
        return Facts(np.zeros(0, np.uint64), np.zeros(0))
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["account", "signup"])
    unit = np.array([int(name[:16], 16) for name in table["account"].to_pylist()], np.uint64)
    times = table["signup"].cast("int64").to_numpy(zero_copy_only=False).astype(np.float64)
    order = np.argsort(unit)
    return Facts(unit[order], times[order])


def cases(frozen: Sequence[Frozen], horizons_h: Sequence[int], end_us: int) -> Cases:
    """Every cluster at every horizon that ends before `end_us`."""
    rows = [
        (place, horizon, cluster.frozen_us, cluster.frozen_us + horizon * HOUR_US)
        for place, cluster in enumerate(frozen)
        for horizon in horizons_h
        if cluster.frozen_us + horizon * HOUR_US <= end_us
    ]
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return Cases(columns[0], columns[1].astype(float), columns[2], columns[3])


def look(
    engine: Engine, sketch: ir.Table, frozen: Sequence[Frozen], cases: Cases, facts: Facts
) -> tuple[View, list[str]]:
    """The view of all cases, and the class of each."""
    import pyarrow as pa

    from stillproof.guard import evidence

    units = [frozen[place].cluster.units for place in cases.cluster]
    sizes = np.array([u.size for u in units], np.int64)
    member_case = np.repeat(np.arange(sizes.size), sizes)
    member_unit = np.concatenate(units) if units else np.zeros(0, np.uint64)
    firsts = [frozen[place].first_us for place in cases.cluster]
    members = evidence.listed("unit", units)
    for name, times in (("frozen_us", cases.frozen_us), ("until_us", cases.until_us)):
        members = members.append_column(name, pa.array(times[member_case], pa.int64()))
    cluster_fps = evidence.listed("fp", [frozen[place].cluster.fps for place in cases.cluster])
    seen = evidence.evidence(engine, sketch, members, cluster_fps, int(cases.until_us.max(initial=1)))
    rows = seen.activity
    view = View(
        n_cases=sizes.size,
        horizon_h=cases.horizon_h,
        member_case=member_case,
        member_first_us=np.concatenate(firsts) if firsts else np.zeros(0),
        member_signup_us=facts.of(member_unit),
        row_member=_members_of(rows, member_case, member_unit),
        row_hour=rows["hour"].to_numpy(),
        counts={name: rows[name].to_numpy().astype(float) for name in rows.column_names if name not in _KEYS},
        variety=_by_case(seen.variety, sizes.size) | _by_case(seen.sharing.drop_columns(["n"]), sizes.size),
    )
    return view, _classes(view)


_KEYS = ("cluster", "unit", "hour")


def _members_of(rows: pa.Table, member_case: NDArray[np.int64], member_unit: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[R] the member of each row: members are sorted by case, and by unit within it."""
    starts = np.searchsorted(member_case, np.arange(int(member_case.max(initial=-1)) + 2))
    case, unit = rows["cluster"].to_numpy(), rows["unit"].to_numpy()
    member = np.empty(case.size, np.int64)
    order = np.argsort(case, kind="stable")
    bounds = np.searchsorted(case[order], np.arange(starts.size))
    for place in range(starts.size - 1):
        own = order[bounds[place] : bounds[place + 1]]
        member[own] = starts[place] + np.searchsorted(member_unit[starts[place] : starts[place + 1]], unit[own])
    return member


def _by_case(table: pa.Table, n_cases: int) -> dict[str, NDArray[np.float64]]:
    place = table["cluster"].to_numpy()
    columns: dict[str, NDArray[np.float64]] = {}
    for name in table.column_names:
        if name != "cluster":
            columns[name] = np.full(n_cases, np.nan)
            columns[name][place] = table[name].to_numpy(zero_copy_only=False).astype(float)
    return columns


def _classes(view: View) -> list[str]:
    share = view.share("n_opening")
    names = np.where(
        share < INTERACTIVE_BELOW, "interactive", np.where(share > AUTOMATED_ABOVE, "automated", "ambiguous")
    )
    return [str(name) for name in names]
