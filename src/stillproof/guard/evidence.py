"""What clusters of units did after their membership was frozen, and what single accounts did: counts, no verdicts.

Every function takes a sketch table of an `Engine` with one row per id (`edges.distinct_exchanges`). An exchange belongs
to a cluster if one of its units sent it strictly after the unit was frozen and before `until_us`, and it carries any of
the cluster's fingerprints; clusters without fingerprints take all exchanges of their units. It counts once, however
many fingerprints it shares. All steps are ibis expressions and sum integers only.

    members      arrow table: cluster int64, unit uint64, frozen_us int64 (microseconds since 1970)
    cluster_fps  arrow table: cluster int64, fp uint64
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import InputError
from stillproof.guard.edges import fingerprints, hour_of, within

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

    from stillproof.engine import Engine

SHORT_GAP_US = 600_000_000  # 10 minutes
BLOCKED = (403, 429)
N_FLAGS = 5
DAY_HOURS = 24


@dataclass(frozen=True)
class Evidence:
    """The three tables of `activity`, `variety` and `sharing`, from one pass over the sketch."""

    activity: pa.Table
    variety: pa.Table
    sharing: pa.Table


def evidence(engine: Engine, sketch: ir.Table, members: pa.Table, cluster_fps: pa.Table, until_us: int) -> Evidence:
    """`activity`, `variety` and `sharing` together; the exchanges of the clusters are selected once."""
    rows = cluster_exchanges(engine, sketch, members, cluster_fps, until_us)
    return Evidence(_activity(engine, rows), _variety(engine, sketch, rows), _sharing(engine, rows))


def listed(name: str, parts: Sequence[NDArray[np.uint64]]) -> pa.Table:
    """(cluster int64, `name` uint64): the numbers of each cluster, in the order of the clusters."""
    import pyarrow as pa

    owner = np.repeat(np.arange(len(parts), dtype=np.int64), [part.size for part in parts])
    whole = np.concatenate([np.zeros(0, np.uint64), *parts])
    return pa.table({"cluster": pa.array(owner), name: pa.array(whole, pa.uint64())})


def activity(engine: Engine, sketch: ir.Table, members: pa.Table, cluster_fps: pa.Table, until_us: int) -> pa.Table:
    """One row per (cluster, unit, hour since 1970) in which the unit sent exchanges of the cluster. Sorted.

    All counts are int64: n; n_opening (turn absent or 1); n_sampled (more than one answer asked for); n_logprobs;
    n_flag0 to n_flag4 (bits of `flags`); response_tokens and reasoning_tokens (sums, absent as 0); n_short_gap (less
    than 10 minutes after the previous exchange of this unit in this cluster); n_status_blocked (status 403 or 429).
    """
    return _activity(engine, cluster_exchanges(engine, sketch, members, cluster_fps, until_us))


def variety(engine: Engine, sketch: ir.Table, members: pa.Table, cluster_fps: pa.Table, until_us: int) -> pa.Table:
    """One row per cluster with exchanges: how many different things its units sent. Sorted by cluster.

    Columns, int64: n; n_prompts; n_unit_prompts (distinct pairs of unit and prompt); n_params; n_networks; n_clients;
    n_skeletons; n_borrowed (exchanges that send back an encrypted reasoning block which only other units were given; a
    block whose giving is not in the log is nobody's). float64: top_params_share and top_client_share, the share of the
    commonest value among exchanges that have one, null where none has. Absent values are not counted as a value.
    """
    return _variety(engine, sketch, cluster_exchanges(engine, sketch, members, cluster_fps, until_us))


def sharing(engine: Engine, sketch: ir.Table, members: pa.Table, cluster_fps: pa.Table, until_us: int) -> pa.Table:
    """One row per cluster with exchanges: cluster, n, n_shared, share. Sorted by cluster.

    n_shared counts the exchanges whose exact prompt at least two units of the cluster sent; share = n_shared / n.
    """
    return _sharing(engine, cluster_exchanges(engine, sketch, members, cluster_fps, until_us))


def cluster_exchanges(
    engine: Engine, sketch: ir.Table, members: pa.Table, cluster_fps: pa.Table, until_us: int
) -> ir.Table:
    """The exchanges of each cluster (module docstring): the columns of the sketch behind `cluster`.

    An exchange of a unit that is in two clusters stands here once for each. Raises InputError where a unit is twice in
    one cluster, which would count its exchanges twice. A column `until_us` of `members` ends each row by itself.
    """
    _check_members(members)
    kept = [name for name in sketch.columns if name not in UNUSED]
    own_end = "until_us" in members.column_names
    named = ["cluster", "unit", "frozen_us", *(["until_us"] if own_end else [])]
    units = engine.from_arrow(members.select(named))
    fps = engine.from_arrow(cluster_fps.select(["cluster", "fp"]))
    rows = sketch.select(*kept).join(units, "unit").select(*(name for name in named if name != "unit"), *kept)
    end = rows.until_us if own_end else until_us
    rows = rows.filter(rows.time > rows.frozen_us, rows.time < end).select("cluster", *kept)
    rows = engine.keep(rows, "member_rows")
    open_rows = rows.anti_join(fps, "cluster").select("cluster", "id")
    present = fingerprints(rows, ("cluster", "id"))
    carrying = present.semi_join(fps, ["cluster", "fp"]).select("cluster", "id").distinct()
    return engine.keep(rows.semi_join(open_rows.union(carrying), ["cluster", "id"]), "cluster_rows")


UNUSED = ("minhash", "projection", *(f"shingles_{item}" for item in range(4, 12)))


def account_features(engine: Engine, sketch: ir.Table, since_us: int, until_us: int) -> pa.Table:
    """One row per account over exchanges with since <= time < until. Sorted by account.

    Columns: account uint64; int64: n; n_day_hours (of the 24 hours of the UTC day, those with any exchange); n_days;
    n_hours; max_per_hour; n_opening; n_prompts (distinct); n_flag0 to n_flag4; n_sampled; n_logprobs; n_status_blocked;
    response_tokens; reasoning_tokens; first_time, last_time (microseconds since 1970).
    Raises ConfigError for an empty window.
    """
    rows = within(sketch, since_us, until_us)
    rows = rows.mutate(hour=hour_of(rows.time))
    by_hour = rows.group_by(["account", "hour"]).agg(
        n=rows.count(), first_time=rows.time.min(), last_time=rows.time.max(), **_counts(rows)
    )
    by_hour = engine.keep(by_hour, "account_hours")
    day_hour = by_hour.hour % DAY_HOURS
    totals = {name: by_hour[name].sum() for name in ("n", *_counts(rows))}
    table = by_hour.group_by("account").agg(
        n_day_hours=day_hour.nunique(),
        n_days=((by_hour.hour - day_hour) // DAY_HOURS).nunique(),
        n_hours=by_hour.count(),
        max_per_hour=by_hour.n.max(),
        first_time=by_hour.first_time.min(),
        last_time=by_hour.last_time.max(),
        **totals,
    )
    prompts = rows.filter(rows.fp_prompt.notnull()).select("account", "fp_prompt").distinct()
    prompts = prompts.group_by("account").agg(n_prompts=prompts.count())
    joined = table.left_join(prompts, "account").select(*table.columns, n_prompts=prompts.n_prompts.fill_null(0))
    return engine.to_arrow(joined).sort_by("account")


def _check_members(members: pa.Table) -> None:
    pairs = members.select(["cluster", "unit"])
    if pairs.group_by(["cluster", "unit"]).aggregate([]).num_rows != pairs.num_rows:
        raise InputError("a unit stands twice in one cluster", "members", "give each member one time of freezing")


def _true(condition: ir.BooleanValue) -> ir.NumericScalar:
    """How many rows meet the condition; a condition on an absent value is not met."""
    import ibis

    return cast("ir.IntegerColumn", ibis.ifelse(condition, 1, 0)).sum()


def _counts(rows: ir.Table) -> dict[str, ir.NumericScalar]:
    """The counts that clusters and accounts have in common."""
    flags = {f"n_flag{bit}": _true((rows.flags & (1 << bit)) != 0) for bit in range(N_FLAGS)}
    return {
        "n_opening": _true(rows.turn.isnull() | (rows.turn == 1)),
        "n_sampled": _true(rows.n_samples > 1),
        "n_logprobs": _true(rows.top_logprobs > 0),
        **flags,
        "response_tokens": rows.response_tokens.fill_null(0).sum(),
        "reasoning_tokens": rows.reasoning_tokens.fill_null(0).sum(),
        "n_status_blocked": _true(rows.status.isin(BLOCKED)),
    }


def _activity(engine: Engine, rows: ir.Table) -> pa.Table:
    import ibis

    order = ibis.window(group_by=["cluster", "unit"], order_by=[rows.time, rows.id])
    timed = rows.mutate(gap=rows.time - rows.time.lag().over(order), hour=hour_of(rows.time))
    table = timed.group_by(["cluster", "unit", "hour"]).agg(
        n=timed.count(), n_short_gap=_true(timed.gap < SHORT_GAP_US), **_counts(timed)
    )
    keys = ("cluster", "unit", "hour")
    return engine.to_arrow(table).sort_by([(key, "ascending") for key in keys])


def _variety(engine: Engine, sketch: ir.Table, rows: ir.Table) -> pa.Table:
    pairs = rows.filter(rows.fp_prompt.notnull()).select("cluster", "unit", "fp_prompt").distinct()
    pairs = pairs.group_by("cluster").agg(n_unit_prompts=pairs.count())
    params, clients = _top(rows, "fp_params"), _top(rows, "fp_client")
    borrowed = _borrowed(sketch, rows)
    table = rows.group_by("cluster").agg(
        n=rows.count(),
        n_prompts=rows.fp_prompt.nunique(),
        n_params=rows.fp_params.nunique(),
        n_networks=rows.fp_network.nunique(),
        n_clients=rows.fp_client.nunique(),
        n_skeletons=rows.fp_skeleton.nunique(),
    )
    columns = table.columns
    table = table.left_join(pairs, "cluster").select(*columns, n_unit_prompts=pairs.n_unit_prompts.fill_null(0))
    table = table.left_join(params, "cluster").select(*table.columns, top_params_share=params.share)
    table = table.left_join(clients, "cluster").select(*table.columns, top_client_share=clients.share)
    table = table.left_join(borrowed, "cluster").select(*table.columns, n_borrowed=borrowed.n_borrowed.fill_null(0))
    return engine.to_arrow(table).sort_by("cluster")


def _borrowed(sketch: ir.Table, rows: ir.Table) -> ir.Table:
    """Per cluster, the exchanges with a reasoning block that other units were given and the sender was not."""
    sent = rows.filter(rows.fp_blob.notnull(), rows.fp_blob != 0).select("cluster", "id", "unit", blob=rows.fp_blob)
    given = sketch.select("unit", blob=sketch.fp_blob_issued).semi_join(sent, "blob").distinct()
    foreign = sent.semi_join(given, "blob").anti_join(given, ["blob", "unit"])
    return foreign.group_by("cluster").agg(n_borrowed=foreign.count())


def _top(rows: ir.Table, column: str) -> ir.Table:
    """Per cluster, the share of the commonest value of a column among rows that have one."""
    present = rows.filter(rows[column].notnull())
    counts = present.group_by(["cluster", column]).agg(n=present.count())
    most = counts.group_by("cluster").agg(top=counts.n.max(), all=counts.n.sum())
    return most.select("cluster", share=most.top.cast("float64") / most["all"].cast("float64"))


def _sharing(engine: Engine, rows: ir.Table) -> pa.Table:
    present = rows.filter(rows.fp_prompt.notnull())
    prompts = present.group_by(["cluster", "fp_prompt"]).agg(n=present.count(), n_units=present.unit.nunique())
    shared = prompts.filter(prompts.n_units > 1)
    shared = shared.group_by("cluster").agg(n_shared=shared.n.sum())
    whole = rows.group_by("cluster").agg(n=rows.count())
    table = whole.left_join(shared, "cluster").select("cluster", "n", n_shared=shared.n_shared.fill_null(0))
    table = table.mutate(share=table.n_shared.cast("float64") / table.n.cast("float64"))
    return engine.to_arrow(table).sort_by("cluster")
