"""A log counted by the hour once, for many looks at it: edges and item pairs of one window after another.

    ledger = Ledger(engine, sketch, memory_h=72)
    for until_us in times:                       # ascending
        edges, pairs, n_units = ledger.look(until_us)

The engine does what needs the whole log, once: it drops fingerprints that too few units hold, which are most of them,
numbers the rest, and counts them by unit and hour. A look is arithmetic on arrays (`tally`). Memory here holds the
counts of the last `memory_h` hours and of at most `BATCH_H` hours ahead (32 bytes a count, no more than 12 counts an
exchange of that time) and the names of units and fingerprints; the other counts stay with the engine, out of core.
They are whole numbers, and all sums of floats are `tally`'s, so that every engine gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stillproof.errors import ConfigError
from stillproof.guard import codes, tally
from stillproof.guard.edges import HOUR_US, KINDS, by_hour, check_units, held_by_several, hour_of, of_these, totals
from stillproof.guard.tally import Cells, Volume

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

    from stillproof.engine import Engine

BATCH_H = 24
"""Hours of counts that are fetched from the engine at once, unless the looks are further apart."""
PROMPT = KINDS["fp_prompt"]
TEMPLATES = tuple(name for name, kind in KINDS.items() if kind != PROMPT)


class Look(NamedTuple):
    """What links units in one window."""

    edges: pa.Table
    """As of `edges.edges`."""
    pairs: pa.Table
    """As of `edges.item_pairs`, and pairs with fewer prompts in common of units that may share a list (`tally`)."""
    n_units: int
    """Units with any exchange in the window."""


class Ledger:
    """Counts of one log for looks at windows of `memory_h` hours, each ending no earlier than the one before.

    `min_units` is that of `edges.edges`; `max_units` and `min_shared` are those of `edges.item_pairs`. The sketch has
    one row per id. Raises ConfigError for memory_h < 1 or numbers of units that these two refuse.
    """

    def __init__(
        self,
        engine: Engine,
        sketch: ir.Table,
        memory_h: float,
        min_units: int = 5,
        *,
        max_units: int = 20,
        min_shared: int = 3,
    ) -> None:
        check_units(min_units, None)
        if max_units < 2 or min_shared < 1 or memory_h < 1:
            which = f"memory_h={memory_h}, max_units={max_units}, min_shared={min_shared}"
            raise ConfigError("a ledger needs memory_h >= 1, max_units >= 2, min_shared >= 1", which, "leave them out")
        self._engine = engine
        self._memory_h = int(memory_h)
        self._min_units = min_units
        self._pair_bounds = max_units, min_shared
        several = engine.keep(held_by_several(sketch, TEMPLATES), "several")
        templates = by_hour(of_these(sketch, several, TEMPLATES))
        again, once = _prompts(engine, sketch)
        counts = engine.keep(templates.union(again), "counts")
        volume = engine.keep(totals(sketch), "totals")
        self._names = codes.names_of(engine, counts, volume, min_units, PROMPT)
        coded, whole = codes.coded(engine, counts, volume, self._names)
        single = codes.coded(engine, counts, once, self._names)[1]
        self._tables = engine.keep(coded, "coded"), engine.keep(whole, "whole"), engine.keep(single, "single")
        none = np.zeros(0, np.int32), np.zeros(0, np.int64)
        self._cells = Cells(none[0], none[0], none[0], none[0], none[1], none[1])
        self._volume = self._once = Volume(none[0], none[0], none[1])
        self._loaded_h = -(1 << 31)
        self._last_us: int | None = None

    def look(self, until_us: int) -> Look:
        """The `memory_h` whole hours that end by `until_us`, in microseconds since 1970.

        Nothing of a later time enters, not even of an hour that has begun. Raises ConfigError where `until_us` lies
        before that of the last look.
        """
        if self._last_us is not None and until_us < self._last_us:
            raise ConfigError("a ledger looks forward only", f"until_us={until_us}", "make a new one for earlier times")
        self._last_us = until_us
        until_h = until_us // HOUR_US
        since_h = until_h - self._memory_h
        if until_h > self._loaded_h:
            self._advance(since_h, until_h)
        cells, volume = self._cells.within(since_h, until_h), self._volume.within(since_h, until_h)
        starts = tally.starts(cells)
        edges = tally.edge_table(cells, volume, self._names, (self._min_units, None))
        fp, unit = cells.fp[starts], cells.unit[starts]
        # Codes are sorted by kind, so those of prompts are one span.
        held = slice(*np.searchsorted(fp, np.searchsorted(self._names.kind, [PROMPT, PROMPT + 1])).tolist())
        once = self._once.within(since_h, until_h)
        more = np.bincount(once.unit, weights=once.n, minlength=self._names.unit.size).astype(np.int64)
        pairs = tally.pair_table((fp[held], unit[held]), more, self._names, self._pair_bounds)
        return Look(edges, pairs, int(np.count_nonzero(np.bincount(volume.unit))))

    def _advance(self, since_h: int, until_h: int) -> None:
        """Forget hours before the window, fetch those up to its end and a batch ahead."""
        from_h = max(self._loaded_h, since_h)
        to_h = max(until_h, from_h + BATCH_H)
        new = [self._engine.to_arrow(table.filter(table.hour >= from_h, table.hour < to_h)) for table in self._tables]
        self._cells = tally.merged(self._cells.within(since_h, to_h), codes.cells_of(new[0]))
        self._volume = tally.merged_volume(self._volume.within(since_h, to_h), codes.volume_of(new[1]))
        self._once = tally.merged_volume(self._once.within(since_h, to_h), codes.volume_of(new[2]))
        self._loaded_h = to_h


def _prompts(engine: Engine, sketch: ir.Table) -> tuple[ir.Table, ir.Table]:
    """Exact prompts by unit and hour where there is more than one such count, and how many others there are.

    The others have one unit and one hour, and link nobody. But they are part of what a unit sent: (unit, hour, n).
    """
    import ibis

    rows = sketch.filter(sketch.fp_prompt.notnull(), sketch.fp_prompt != 0)
    rows = rows.select("unit", "time", fp=rows.fp_prompt)
    timed = rows.mutate(hour=hour_of(rows.time))
    ends = timed.group_by("fp").agg(
        unit=timed.unit.min(), last_unit=timed.unit.max(), hour=timed.hour.min(), last_hour=timed.hour.max()
    )
    ends = engine.keep(ends, "prompts")
    single = (ends.unit == ends.last_unit) & (ends.hour == ends.last_hour)
    alone = ends.filter(single)
    once = alone.group_by(["unit", "hour"]).agg(n=alone.count())
    again = rows.semi_join(ends.filter(~single), "fp").mutate(kind=ibis.literal(PROMPT, "int64"))
    return by_hour(again), once
