"""Edges and item pairs of one window, from counts by hour that are held as arrays of small integers.

    Cells    one row per (fingerprint, unit, hour): how many exchanges, the first and the last of them
    Volume   one row per (unit, hour): all exchanges of the unit

Every sum of floats runs by ascending hour, so that the same counts give the same bits whatever engine counted them.
Memory: the cells given, once more while a window is cut out of them, and blocks of at most `BLOCK` terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

BLOCK = 4_000_000
"""Terms of expected counts that are in memory at once."""
LIST_LEAST, LIST_SHARE = 10, 0.3
"""A unit that shares so many of its prompts, and such a share of them, with a few others may work on their list. Pairs
of such units share one or two prompts where a list is long."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the codes stand for. Fingerprints are sorted by (kind, fp), units by number, so codes sort as these do."""

    fp: Words
    kind: NDArray[np.uint8]
    unit: Words


@dataclass(frozen=True, slots=True)
class Cells:
    """Counts by hour, sorted by (fp, unit, hour), one row each; fp and unit are codes, hours count from 1970."""

    fp: Codes
    unit: Codes
    hour: Codes
    n: Codes
    first_us: Ints
    last_us: Ints

    def __len__(self) -> int:
        return self.fp.size

    def take(self, rows: Ints | NDArray[np.bool_]) -> Cells:
        columns = (self.fp, self.unit, self.hour, self.n)
        fp, unit, hour, n = (column[rows] for column in columns)
        return Cells(fp, unit, hour, n, self.first_us[rows], self.last_us[rows])

    def within(self, since_h: int, until_h: int) -> Cells:
        return self.take((self.hour >= since_h) & (self.hour < until_h))


@dataclass(frozen=True, slots=True)
class Volume:
    """All exchanges of units by the hour, sorted by (unit, hour), one row each."""

    unit: Codes
    hour: Codes
    n: Ints

    def within(self, since_h: int, until_h: int) -> Volume:
        inside = (self.hour >= since_h) & (self.hour < until_h)
        return Volume(self.unit[inside], self.hour[inside], self.n[inside])


def sorted_cells(cells: Cells) -> Cells:
    """In the order that `Cells` asks for. A few sorted runs behind one another are merged, not sorted anew."""
    if not len(cells):
        return cells
    low = int(cells.hour.min())
    n_hours, n_units = int(cells.hour.max()) - low + 1, int(cells.unit.max()) + 1
    if (int(cells.fp.max()) + 1) * n_units * n_hours > np.iinfo(np.int64).max:
        return cells.take(np.lexsort((cells.hour, cells.unit, cells.fp)))
    key = (cells.fp.astype(np.int64) * n_units + cells.unit) * n_hours + (cells.hour - low)
    return cells.take(np.argsort(key, kind="stable"))


def merged(one: Cells, two: Cells) -> Cells:
    """The counts of two spans of hours as one."""
    both = zip((one.fp, one.unit, one.hour, one.n), (two.fp, two.unit, two.hour, two.n), strict=True)
    fp, unit, hour, n = (np.concatenate(columns) for columns in both)
    first, last = np.concatenate([one.first_us, two.first_us]), np.concatenate([one.last_us, two.last_us])
    return sorted_cells(Cells(fp, unit, hour, n, first, last))


def sorted_volume(volume: Volume) -> Volume:
    order = np.argsort(volume.unit.astype(np.int64) << 32 | volume.hour, kind="stable")
    return Volume(volume.unit[order], volume.hour[order], volume.n[order])


def merged_volume(one: Volume, two: Volume) -> Volume:
    """The exchanges of two spans of hours as one."""
    unit, hour = np.concatenate([one.unit, two.unit]), np.concatenate([one.hour, two.hour])
    return sorted_volume(Volume(unit, hour, np.concatenate([one.n, two.n])))


def edge_table(
    cells: Cells, volume: Volume, names: Names, held_by: tuple[int, int | None], *, block: int = BLOCK
) -> pa.Table:
    """The edges (see `edges.edges`) of the cells of one window; `volume` holds its exchanges.

    `held_by`: the least and the largest number of units of a fingerprint, None for no limit. `block` changes nothing
    but memory.
    """
    import pyarrow as pa

    first = starts(cells)
    holders = np.bincount(cells.fp[first], minlength=names.fp.size)
    wanted = holders >= held_by[0]
    if held_by[1] is not None:
        wanted &= holders <= held_by[1]
    rows = cells.take(wanted[cells.fp])
    first = starts(rows)
    end = np.append(first[1:], len(rows))[: first.size]
    fp, unit = rows.fp[first], rows.unit[first]
    columns = {
        "unit": pa.array(names.unit[unit], pa.uint64()),
        "fp": pa.array(names.fp[fp], pa.uint64()),
        "kind": pa.array(names.kind[fp], pa.uint8()),
        "n": pa.array(np.add.reduceat(rows.n.astype(np.int64), first) if first.size else first, pa.int64()),
        "n_hours": pa.array(end - first, pa.int64()),
        # Hours ascend within an edge, so the ends of the first and the last hour are the ends of all.
        "first_time": pa.array(rows.first_us[first], pa.int64()),
        "last_time": pa.array(rows.last_us[end - 1], pa.int64()),
        "expected": pa.array(_expected(rows, (fp, unit), volume, block), pa.float64()),
    }
    return pa.table(columns)


def starts(cells: Cells) -> Ints:
    """The first row of each (fp, unit)."""
    if not len(cells):
        return np.zeros(0, np.int64)
    new = (cells.fp[1:] != cells.fp[:-1]) | (cells.unit[1:] != cells.unit[:-1])
    return np.flatnonzero(np.concatenate([[True], new]))


def _expected(rows: Cells, edges: tuple[Codes, Codes], volume: Volume, block: int) -> Floats:
    """Per edge, the sum over the hours of its unit of A[u,h] F[f,h] / T[h]."""
    fp, unit = edges
    expected = np.zeros(fp.size)
    if not fp.size:
        return expected
    low = int(volume.hour.min())
    n_hours = int(volume.hour.max()) - low + 1
    hour = volume.hour - low
    total = np.bincount(hour, weights=volume.n, minlength=n_hours)
    share = volume.n / total[hour]
    # Rows of a unit: volume is sorted by unit.
    bounds = np.searchsorted(volume.unit, np.arange(int(volume.unit.max()) + 2))
    lengths = np.diff(bounds)[unit]
    terms = np.cumsum(lengths)
    start = 0
    while start < fp.size:
        before = int(terms[start - 1]) if start else 0
        stop = max(int(np.searchsorted(terms, before + block, "right")), start + 1)
        # Fingerprints ascend: those of a block are a span of codes, whose counts by hour fit in a dense table.
        codes = fp[start:stop]
        stop = start + int(np.searchsorted(codes, int(codes[0]) + max(block // n_hours, 1), "left"))
        part = slice(start, stop)
        inside = slice(*np.searchsorted(rows.fp, [fp[start], fp[stop - 1] + 1]).tolist())
        place = (rows.fp[inside] - fp[start]).astype(np.int64) * n_hours + (rows.hour[inside] - low)
        width = (int(fp[stop - 1]) - int(fp[start]) + 1) * n_hours
        carried = np.bincount(place, weights=rows.n[inside], minlength=width)
        length = lengths[part]
        own = np.cumsum(length) - length
        source = np.repeat(bounds[unit[part]] - own, length) + np.arange(int(length.sum()))
        at = np.repeat((fp[part] - fp[start]).astype(np.int64) * n_hours, length) + hour[source]
        expected[part] = np.add.reduceat(share[source] * carried[at], own)
        start = stop
    return expected


def pair_table(
    held: tuple[Codes, Codes], more: Ints, names: Names, bounds: tuple[int, int], *, block: int = BLOCK
) -> pa.Table:
    """The item pairs (see `edges.item_pairs`) of a window.

    `held`: (fp, unit) of every prompt that may be shared, one row for each unit that sent it, sorted. `more`: [units]
    distinct prompts of each unit that are not in `held`. `bounds`: max_units and min_shared. `block` changes nothing
    but memory.
    """
    import pyarrow as pa

    fp, unit = held
    volume = more + np.bincount(unit, minlength=names.unit.size)
    first = np.flatnonzero(np.diff(fp, prepend=-1))
    k = np.diff(np.append(first, fp.size))
    popular = (k >= 2) & (k <= bounds[0])
    units, column = np.unique(unit[np.repeat(popular, k)], return_inverse=True)
    shared = np.bincount(column, minlength=units.size)
    of_one_list = (shared >= LIST_LEAST) & (shared >= LIST_SHARE * volume[units])
    one, two, n_shared = _pairs(k[popular], column, (bounds[1], of_one_list), block)
    one, two = units[one], units[two]
    degree = int((k[popular] * (k[popular] - 1)).sum())
    square, own = int(volume.sum()) ** 2, int((volume * volume).sum())
    rate = degree / max(square - own, 1)
    expected = volume[one].astype(np.float64) * volume[two].astype(np.float64) * rate
    return pa.table(
        {
            "unit_a": pa.array(names.unit[one], pa.uint64()),
            "unit_b": pa.array(names.unit[two], pa.uint64()),
            "n_shared": pa.array(n_shared, pa.int64()),
            "expected": pa.array(expected, pa.float64()),
        }
    )


def _pairs(k: Ints, column: Ints, kept_if: tuple[int, NDArray[np.bool_]], block: int) -> tuple[Ints, Ints, Ints]:
    """Sorted pairs one < two of columns that stand together in at least `kept_if[0]` rows, and in how many. One row is
    enough for two columns that are both marked in `kept_if[1]`.

    Row i has the next k[i] entries of `column`.
    """
    from scipy import sparse

    found = [np.zeros((3, 0), np.int64)]
    row = np.repeat(np.arange(k.size), k)
    n_columns = int(column.max(initial=-1)) + 1
    has = sparse.csr_array((np.ones(row.size, np.int32), (row, column)), shape=(k.size, n_columns))
    of_column = has.T.tocsr()
    terms = np.cumsum(np.bincount(column, weights=k[row], minlength=n_columns)).astype(np.int64)
    start = 0
    while start < n_columns:
        before = int(terms[start - 1]) if start else 0
        stop = max(int(np.searchsorted(terms, before + block, "right")), start + 1)
        together = (of_column[start:stop] @ has).tocoo()
        one, two = together.row.astype(np.int64) + start, together.col.astype(np.int64)
        enough = (together.data >= kept_if[0]) | (kept_if[1][one] & kept_if[1][two])
        kept = (two > one) & enough
        part = np.stack([one[kept], two[kept], together.data[kept].astype(np.int64)])
        found.append(part[:, np.lexsort((part[1], part[0]))])
        start = stop
    one, two, n_shared = np.concatenate(found, axis=1)
    return one, two, n_shared
