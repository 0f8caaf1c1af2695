"""Fingerprints and units as small integers: between the engine's hashes and the arrays of `tally`.

The numbers follow the order of what they stand for, so that every engine hands out the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillproof.guard.tally import Cells, Names, Volume, sorted_cells, sorted_volume

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

    from stillproof.engine import Engine


def names_of(
    engine: Engine, counts: ir.Table, totals: ir.Table, min_units: int, exempt_kind: int | None = None
) -> Names:
    """Names of the fingerprints of `counts` (fp, kind, unit, ...) that `min_units` units hold, and of all units.

    Of kind `exempt_kind` every fingerprint gets one. `totals` has each unit in column `unit`.
    """
    held = counts.select("fp", "kind", "unit").distinct()
    holders = held.group_by(["fp", "kind"]).agg(n=held.count())
    enough = holders.n >= min_units
    if exempt_kind is not None:
        enough |= holders.kind == exempt_kind
    found = engine.to_arrow(holders.filter(enough).select("fp", "kind"))
    fp, kind = found["fp"].to_numpy(), found["kind"].to_numpy().astype(np.uint8)
    order = np.lexsort((fp, kind))
    units = engine.to_arrow(totals.select("unit").distinct())["unit"].to_numpy()
    return Names(fp[order], kind[order], np.sort(units))


def coded(engine: Engine, counts: ir.Table, totals: ir.Table, names: Names) -> tuple[ir.Table, ir.Table]:
    """`counts` and `totals` by the hour with the codes `code` and `member` for fingerprint and unit.

    Counts of fingerprints without a name are left out.
    """
    import pyarrow as pa

    codes = {
        "fp": pa.array(names.fp, pa.uint64()),
        "kind": pa.array(names.kind.astype(np.int64), pa.int64()),
        "code": pa.array(np.arange(names.fp.size), pa.int64()),
    }
    members = {"unit": pa.array(names.unit, pa.uint64()), "member": pa.array(np.arange(names.unit.size), pa.int64())}
    fps, units = engine.from_arrow(pa.table(codes)), engine.from_arrow(pa.table(members))
    cells = counts.join(fps, ["fp", "kind"]).join(units, "unit")
    cells = cells.select("code", "member", "hour", "n", "first_time", "last_time")
    return cells, totals.join(units, "unit").select("member", "hour", "n")


def cells_of(table: pa.Table) -> Cells:
    """Rows of the first result of `coded` as arrays."""
    code, member, hour, n = (table[name].to_numpy().astype(np.int32) for name in ("code", "member", "hour", "n"))
    return sorted_cells(Cells(code, member, hour, n, table["first_time"].to_numpy(), table["last_time"].to_numpy()))


def volume_of(table: pa.Table) -> Volume:
    """Rows of the second result of `coded` as arrays."""
    member, hour = (table[name].to_numpy().astype(np.int32) for name in ("member", "hour"))
    return sorted_volume(Volume(member, hour, table["n"].to_numpy()))
