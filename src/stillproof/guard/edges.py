"""Who shares what: which units (declared organisations, else accounts) sent which fingerprints, and when.

Edges link units to fingerprints that several units hold, each with the number of exchanges expected if units met
fingerprints by the hour alone; item pairs link units that sent the same exact prompts. What needs all rows is an ibis
expression over a sketch table of an `Engine` and sums integers only; `tally` does the rest on what few fingerprints are
left, so that every engine gives the same bits.

    rows = distinct_exchanges(engine, engine.read_parquet(sketch_files))
    table = edges(engine, rows, since_us, until_us)

For many windows of one log, as in a scan, see `ledger`; `edges` and `item_pairs` are of one window, and what a look of
the ledger is tested against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillproof.errors import ConfigError
from stillproof.guard import codes, tally

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

    from stillproof.engine import Engine

HOUR_US = 3_600_000_000
# Column of the sketch -> kind of fingerprint.
KINDS = {
    "fp_system": 0,
    "fp_prefix8": 1,
    "fp_prefix24": 2,
    "fp_suffix8": 3,
    "fp_skeleton": 4,
    "fp_tools": 5,
    "shingles_0": 6,
    "shingles_1": 6,
    "shingles_2": 6,
    "shingles_3": 6,
    "fp_prompt": 7,
    "fp_blob": 8,
}
# Rows that count all exchanges of a unit in an hour have this kind, and fingerprint 0.
TOTAL = 255


def distinct_exchanges(engine: Engine, sketch: ir.Table) -> ir.Table:
    """The sketch with one row per `id`: of rows that share an id, the earliest stays (ties: by account, then the rest).

    Replayed and overlapping logs hold rows twice; every count below would take them for two exchanges.
    """
    import ibis

    # Candidates by a hash first: far smaller than the ids, and only those that collide are looked at again.
    hashed = sketch.select(id_hash=sketch.id.hash())
    twice = hashed.group_by("id_hash").agg(n=hashed.count())
    twice = engine.keep(twice.filter(twice.n > 1).select("id_hash"), "twice")
    if engine.to_arrow(twice.agg(n=twice.count()))["n"][0].as_py() == 0:
        return sketch
    marked = sketch.mutate(id_hash=sketch.id.hash())
    single = marked.anti_join(twice, "id_hash").drop("id_hash")
    several = marked.semi_join(twice, "id_hash").drop("id_hash")
    order = [several[name] for name in ("time", "account", *(n for n in several.columns if n not in FIRST_BY))]
    ranked = several.mutate(place=ibis.row_number().over(group_by="id", order_by=order))
    # Kept as ids with their only row, so that later steps do not sort again.
    return single.union(engine.keep(ranked.filter(ranked.place == 0).drop("place"), "first_rows"))


FIRST_BY = ("id", "time", "account")


def within(rows: ir.Table, since_us: int, until_us: int) -> ir.Table:
    """Rows with since <= time < until, in microseconds since 1970. Raises ConfigError for an empty window."""
    if since_us >= until_us:
        raise ConfigError(f"the window [{since_us}, {until_us}) is empty", "since", "let it end after it begins")
    return rows.filter(rows.time >= since_us, rows.time < until_us)


def hour_of(time: ir.IntegerColumn) -> ir.IntegerValue:
    """Hours since 1970. The remainder goes first: division itself is in floats, exact only for multiples."""
    return (time - time % HOUR_US) // HOUR_US


def fingerprints(rows: ir.Table, names: tuple[str, ...], columns: tuple[str, ...] = tuple(KINDS)) -> ir.Table:
    """One row per fingerprint of `columns` that is present: the columns `names` of `rows` as they are, `fp`, `kind`.

    0 stands for an absent shingle, null for any other absent fingerprint.
    """
    import ibis

    parts = []
    for column in columns:
        fp = rows[column]
        part = rows.filter(fp.notnull(), fp != 0)
        parts.append(part.select(*names, fp=part[column], kind=ibis.literal(KINDS[column], "int64")))
    return ibis.union(*parts)


def held_by_several(rows: ir.Table, columns: tuple[str, ...] = tuple(KINDS)) -> ir.Table:
    """Fingerprints (fp, kind) of `columns` that more than one unit holds. Most have one holder.

    min <> max is cheaper than counting, and one kind after the other takes smaller hash tables than all together.
    """
    import ibis

    parts = []
    for kind in dict.fromkeys(KINDS[column] for column in columns):
        mine = tuple(column for column in columns if KINDS[column] == kind)
        parts.append(_shared(fingerprints(rows, ("unit",), mine)))
    return ibis.union(*parts)


def of_these(rows: ir.Table, wanted: ir.Table, columns: tuple[str, ...] = tuple(KINDS)) -> ir.Table:
    """The fingerprints of `columns` with unit and time, only those in `wanted` (fp, kind)."""
    return fingerprints(rows, ("unit", "time"), columns).semi_join(wanted, ["fp", "kind"])


def edges(
    engine: Engine, sketch: ir.Table, since_us: int, until_us: int, min_units: int = 5, *, max_units: int | None = None
) -> pa.Table:
    """One row per (unit, fingerprint) over exchanges with since <= time < until; the sketch has one row per id.

    Columns: unit uint64, fp uint64, kind uint8 (see `KINDS`), n int64 exchanges, n_hours int64, first_time and
    last_time int64 microseconds since 1970, expected float64. Sorted by kind, fp, unit. Only fingerprints that at
    least `min_units` and at most `max_units` units hold.

    `expected` is the mean of n under the null hypothesis that within each hour exchanges and fingerprints are paired at
    random: the sum over hours h of A[u,h] F[f,h] / T[h], with A the exchanges of the unit, F those that carry the
    fingerprint, T all exchanges. Both margins are kept, so that daily rhythms and cron times are no evidence
    (Strona et al. 2014; Neal et al. 2021 for the null of fixed degrees).

    Raises ConfigError for an empty window or min_units < 2.
    """
    check_units(min_units, max_units)
    rows = within(sketch, since_us, until_us)
    shared = engine.keep(held_by_several(rows), "shared")
    counts = engine.keep(by_hour(of_these(rows, shared)), "by_hour")
    return _edges(engine, counts, engine.keep(totals(rows), "totals"), (min_units, max_units))


def item_pairs(
    engine: Engine, sketch: ir.Table, since_us: int, until_us: int, max_units: int = 20, *, min_shared: int = 3
) -> pa.Table:
    """Pairs of units that sent the same exact prompts, over prompts that 2 to `max_units` units hold.

    Columns: unit_a < unit_b uint64, n_shared int64 prompts that both sent (a prompt counts once per pair, however often
    it was sent), expected float64. Sorted. Pairs that share fewer than `min_shared` prompts are left out.

    `expected` is the mean of n_shared under the null hypothesis that the holders of each prompt are drawn at random in
    proportion to volume V (distinct prompts of a unit, shared or not), popularity k kept: sum_i k_i (k_i - 1) times
    V_a V_b / (V^2 - sum_u V_u^2), V the sum of all volumes. Over all pairs it adds up to the pairs that there are.

    Raises ConfigError for an empty window, max_units < 2 or min_shared < 1.
    """
    if max_units < 2 or min_shared < 1:
        raise ConfigError("pairs need max_units >= 2 and min_shared >= 1", "item_pairs", "leave both out")
    rows = within(sketch, since_us, until_us)
    rows = rows.filter(rows.fp_prompt.notnull(), rows.fp_prompt != 0)
    held = engine.keep(rows.select("unit", fp=rows.fp_prompt).distinct(), "held")
    popular = held.group_by("fp").agg(k=held.count())
    popular = engine.keep(popular.filter(popular.k >= 2, popular.k <= max_units), "popular")
    one = engine.keep(held.semi_join(popular, "fp"), "shared_items")
    two = one.view()
    pairs = one.join(two, [one.fp == two.fp, one.unit < two.unit]).select(unit_a=one.unit, unit_b=two.unit)
    pairs = pairs.group_by(["unit_a", "unit_b"]).agg(n_shared=pairs.count())
    pairs = pairs.filter(pairs.n_shared >= min_shared)
    volumes = engine.keep(held.group_by("unit").agg(volume=held.count()), "volumes")
    first, second = volumes.view(), volumes.view()
    joined = pairs.join(first, pairs.unit_a == first.unit).select("unit_a", "unit_b", "n_shared", volume_a=first.volume)
    joined = joined.join(second, joined.unit_b == second.unit).select(
        "unit_a", "unit_b", "n_shared", "volume_a", volume_b=second.volume
    )
    degree = _number(engine, popular.agg(n=(popular.k * (popular.k - 1)).sum()))
    square = _number(engine, volumes.agg(n=volumes.volume.sum())) ** 2
    own = _number(engine, volumes.agg(n=(volumes.volume * volumes.volume).sum()))
    return _with_expected(engine.to_arrow(joined), degree / max(square - own, 1))


def _with_expected(pairs: pa.Table, rate: float) -> pa.Table:
    """Put each pair in the order of unsigned numbers (the engine compares them as signed), add `expected`, sort."""
    import numpy as np
    import pyarrow as pa

    one, two = pairs["unit_a"].to_numpy(), pairs["unit_b"].to_numpy()
    volume_a, volume_b = (pairs[name].to_numpy().astype(np.float64) for name in ("volume_a", "volume_b"))
    table = pa.table(
        {
            "unit_a": pa.array(np.minimum(one, two), pa.uint64()),
            "unit_b": pa.array(np.maximum(one, two), pa.uint64()),
            "n_shared": pairs["n_shared"].combine_chunks(),
            "expected": pa.array(volume_a * volume_b * rate, pa.float64()),
        }
    )
    return table.sort_by([("unit_a", "ascending"), ("unit_b", "ascending")])


def check_units(min_units: int, max_units: int | None) -> None:
    if min_units < 2 or (max_units is not None and max_units < min_units):
        raise ConfigError(f"no fingerprint is held by {min_units} to {max_units} units", "min_units", "use at least 2")


def _number(engine: Engine, expression: ir.Table) -> int:
    """The one number `n` of an aggregate; 0 for the sum of nothing."""
    return engine.to_arrow(expression)["n"][0].as_py() or 0


def _shared(present: ir.Table) -> ir.Table:
    """Fingerprints that more than one unit holds: most have one holder, and min <> max is cheaper than counting."""
    ends = present.group_by(["fp", "kind"]).agg(low=present.unit.min(), high=present.unit.max())
    return ends.filter(ends.low != ends.high).select("fp", "kind")


def by_hour(present: ir.Table) -> ir.Table:
    timed = present.mutate(hour=hour_of(present.time))
    return timed.group_by(["unit", "fp", "kind", "hour"]).agg(
        n=timed.count(), first_time=timed.time.min(), last_time=timed.time.max()
    )


def totals(rows: ir.Table) -> ir.Table:
    import ibis

    whole = ibis.literal(0, "int64"), ibis.literal(TOTAL, "int64")
    return by_hour(rows.select("unit", "time", fp=whole[0], kind=whole[1]))


def _edges(engine: Engine, counts: ir.Table, whole: ir.Table, held_by: tuple[int, int | None]) -> pa.Table:
    """Edges from counts by hour (one row a unit, fingerprint and hour) and hourly totals of units."""
    names = codes.names_of(engine, counts, whole, held_by[0])
    coded = codes.coded(engine, counts, whole, names)
    cells, volume = codes.cells_of(engine.to_arrow(coded[0])), codes.volume_of(engine.to_arrow(coded[1]))
    return tally.edge_table(cells, volume, names, held_by)
