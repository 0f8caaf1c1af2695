"""The edges and pairs tables as sorted arrays, so that nothing later depends on the order of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import InputError, SchemaError
from stillproof.guard.linking.tails import poisson_log10_tail

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

PROMPT_KIND = 7  # exact prompts link pairs of units (items), not templates
SHINGLE_KIND = 6
SHINGLES_AN_EXCHANGE = 4
N_KINDS = 16


@dataclass(frozen=True)
class EdgeRows:
    """Edges sorted by (fingerprint, unit), one row each; unit and fp are positions in unit_ids and fp_ids."""

    unit_ids: Words
    fp_ids: Words
    fp_kind: Ints
    fp_total: Floats  # exchanges with the fingerprint, all units together
    fp_degree: Ints
    unit_rate: Floats  # expected exchanges of the unit per exchange of any fingerprint: its share of the traffic
    unit: Ints
    fp: Ints
    n: Floats
    expected: Floats
    log10_p: Floats


@dataclass(frozen=True)
class PairRows:
    """Pairs of units sorted by (a, b), a < b, positions in unit_ids."""

    unit_ids: Words
    a: Ints
    b: Ints
    n_shared: Floats
    expected: Floats
    log10_p: Floats


def edge_rows(edges: "pa.Table") -> EdgeRows:
    """The template edges of the table; rows of one (unit, fp), as from tables of several hours, are added up.

    Null hypothesis of log10_p: n is Poisson(expected). Raises SchemaError for missing columns, InputError for nulls and
    negative counts.
    """
    unit_raw, fp_raw, kind_raw, n_raw, expected_raw = _columns(edges, ("unit", "fp", "kind", "n", "expected"), "edges")
    rows = kind_raw != PROMPT_KIND
    unit_ids, unit = np.unique(unit_raw[rows].astype(np.uint64), return_inverse=True)
    fp_ids, fp = np.unique(fp_raw[rows].astype(np.uint64), return_inverse=True)
    key = fp * np.int64(max(len(unit_ids), 1)) + unit
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.zeros(0, np.int64)
    unit, fp = unit[order][first], fp[order][first]
    n = _sums(n_raw[rows][order].astype(np.float64), first)
    expected = _sums(expected_raw[rows][order].astype(np.float64), first)
    kind = np.full(len(fp_ids), N_KINDS - 1)
    np.minimum.at(kind, fp, np.minimum(kind_raw[rows][order][first].astype(np.int64), N_KINDS - 1))
    total = np.bincount(fp, n, len(fp_ids)).astype(np.float64)
    usable = np.where(np.isfinite(expected), expected, 0.0)
    rate = np.bincount(unit, usable, len(unit_ids)) / np.maximum(np.bincount(unit, total[fp], len(unit_ids)), 1.0)
    degree = np.bincount(fp, minlength=len(fp_ids))
    log10_p = poisson_log10_tail(n, expected)
    return EdgeRows(unit_ids, fp_ids, kind, total, degree, rate, unit, fp, n, expected, log10_p)


def pair_rows(pairs: "pa.Table") -> PairRows:
    """The pairs of the table, each once, whichever way round; pairs of a unit with itself are left out.

    Null hypothesis of log10_p: n_shared is Poisson(expected). Raises as `edge_rows`.
    """
    a_raw, b_raw, n_raw, expected_raw = _columns(pairs, ("unit_a", "unit_b", "n_shared", "expected"), "pairs")
    both = np.concatenate([a_raw, b_raw]).astype(np.uint64)
    unit_ids, code = np.unique(both, return_inverse=True)
    a, b = np.minimum(code[: len(a_raw)], code[len(a_raw) :]), np.maximum(code[: len(a_raw)], code[len(a_raw) :])
    n, expected = n_raw.astype(np.float64), expected_raw.astype(np.float64)
    order = np.lexsort((expected, -n, b, a))
    a, b, n, expected = a[order], b[order], n[order], expected[order]
    keep = a != b
    # The same pair given both ways round is one observation, not two.
    keep[1:] &= (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    n, expected = n[keep], expected[keep]
    return PairRows(unit_ids, a[keep], b[keep], n, expected, poisson_log10_tail(n, expected))


def _columns(table: "pa.Table", names: Sequence[str], which: str) -> list[NDArray[np.generic]]:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise SchemaError(
            f"the {which} table lacks {', '.join(missing)}", which, "Build it with this version's aggregates."
        )
    out: list[NDArray[np.generic]] = []
    for name in names:
        column = table.column(name)
        if column.null_count:
            raise InputError(f"{column.null_count} nulls in column {name}", which, "Drop the rows without a value.")
        out.append(column.to_numpy())
    if len(table) and float(out[-2].astype(np.float64).min()) < 0:
        raise InputError(f"a negative count in column {names[-2]}", which, "Counts of exchanges are 0 or more.")
    return out


def _sums(values: Floats, first: Ints) -> Floats:
    return np.add.reduceat(values, first) if len(first) else np.zeros(0)
