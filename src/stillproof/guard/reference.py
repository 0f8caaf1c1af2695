"""The honest clusters that a new one is ranked among, and the rank.

A cluster's signals become one score (`scoring`), and the score is ranked among those of honest reference clusters of
the same class and horizon. Validity rests on that rank alone. What the rank needs is that an honest cluster of the
operator's is exchangeable with the reference clusters of its class, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof import stats
from stillproof.errors import InputError, SchemaError, StorageError
from stillproof.guard.scoring import Knots, Place, Scores, Scoring, rounded

if TYPE_CHECKING:
    import pyarrow as pa

Reals = NDArray[np.float64]

REFERENCE_VERSION = 1
CLASSES = ("interactive", "automated")
_FIXED = ("cluster_id", "window_id", "horizon_h", "cluster_class", "n_units")
_KEY = b"stillproof.reference"

Source = Literal["composed", "own history"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a reference comes from."""

    source: str
    """'composed' (simulated honest traffic) or 'own history' (the operator's unlabelled past)."""
    made: str
    """When, ISO 8601."""
    stillproof: str
    """Version of stillproof."""
    set_aside: int = 0
    """Clusters taken out of it as findings when it was made."""
    note: str = ""
    step_h: float = 24.0
    """Hours between two looks for clusters: a cluster is frozen up to so long after it shows."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Reference clusters of one class and horizon: signals of shape [n] (NaN: unmeasured), and which rows belong
    together. Each of the `n_groups` groups weighs one."""

    signals: dict[str, Reals]
    groups: NDArray[np.int64]
    n_groups: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """Clusters ranked among their class, all of shape [m]."""

    p: Reals
    e: Reals
    rank: NDArray[np.int64]
    """Rounded up where groups of several rows weigh one."""
    n_reference: NDArray[np.int64]
    """Groups it was ranked among."""
    cluster_class: tuple[str, ...]
    """The class that p is of: for an ambiguous cluster the one with the larger p."""
    scores: dict[str, Scores]
    """By class, all m clusters scored in it: for the waterfall."""


@dataclass(frozen=True)
class Reference:
    """A table of honest clusters, one row a cluster and horizon: arrays of shape [n].

    `group_by` says which rows depend on one another and weigh one together: those of one 'cluster_id' (a cluster seen
    in several windows), or, more careful and far coarser, of one 'window_id'.
    """

    cluster_id: NDArray[np.str_]
    window_id: NDArray[np.str_]
    horizon_h: NDArray[np.int32]
    cluster_class: NDArray[np.str_]
    n_units: NDArray[np.int32]
    signals: dict[str, Reals]
    origin: Origin
    group_by: Literal["cluster_id", "window_id"] = "cluster_id"

    def __post_init__(self) -> None:
        n = self.cluster_id.size
        for name in (*_FIXED, *self.signals):
            column = self.signals[name] if name in self.signals else getattr(self, name)
            if column.shape != (n,):
                raise InputError(f"column {name!r} of shape {column.shape} in a reference of {n} rows")
        if clash := set(self.signals) & set(_FIXED):
            raise InputError("a signal has the name of a fixed column", sorted(clash)[0], "rename the signal")
        if unknown := sorted(set(self.cluster_class.tolist()) - set(CLASSES)):
            raise InputError(f"unknown class {unknown[0]!r} in a reference", remedy=f"use one of {', '.join(CLASSES)}")
        if self.group_by not in ("cluster_id", "window_id"):
            raise InputError(f"a reference grouped by {self.group_by!r}", remedy="group by cluster_id or window_id")

    @classmethod
    def of(cls, columns: Mapping[str, ArrayLike], origin: Origin) -> Reference:
        """From plain columns: the fixed ones, and every further one a signal. Raises InputError for a missing one."""
        if missing := [name for name in _FIXED if name not in columns]:
            raise InputError(f"a reference without the column {missing[0]!r}", remedy=f"give {', '.join(_FIXED)}")
        try:
            return cls(
                np.asarray(columns["cluster_id"], dtype=np.str_),
                np.asarray(columns["window_id"], dtype=np.str_),
                np.asarray(columns["horizon_h"], dtype=np.int32),
                np.asarray(columns["cluster_class"], dtype=np.str_),
                np.asarray(columns["n_units"], dtype=np.int32),
                {name: rounded(column) for name, column in columns.items() if name not in _FIXED},
                origin,
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"a reference column holds something else: {error}") from error

    @property
    def horizons(self) -> tuple[int, ...]:
        """Hours, ascending."""
        return tuple(int(h) for h in np.unique(self.horizon_h))

    def rows(self, cluster_class: str, horizon_h: int) -> Rows:
        """The reference of one class and horizon; empty where there is none. Raises InputError for another class."""
        if cluster_class not in CLASSES:
            raise InputError(f"class {cluster_class!r}", remedy=f"use one of {', '.join(CLASSES)}")
        keep = (self.cluster_class == cluster_class) & (self.horizon_h == horizon_h)
        names, groups = np.unique(getattr(self, self.group_by)[keep], return_inverse=True)
        signals = {name: column[keep] for name, column in self.signals.items()}
        return Rows(signals, groups.astype(np.int64), names.size)

    def counts(self) -> dict[tuple[str, int], int]:
        """Groups for each class and horizon: the n that a rank is among."""
        return {(name, hours): self.rows(name, hours).n_groups for name in CLASSES for hours in self.horizons}

    def scale(self) -> dict[Place, Knots]:
        """How rare each value is among these clusters, by class, horizon and signal; for `Scoring`."""
        found: dict[Place, Knots] = {}
        for name in CLASSES:
            for hours in self.horizons:
                for signal, column in self.rows(name, hours).signals.items():
                    if knots := Knots.of(column):
                        found[name, hours, signal] = knots
        return found

    def without(self, cluster_ids: Sequence[str]) -> Reference:
        """Set findings aside: the reference without these clusters, and with their number added to its origin."""
        gone = np.isin(self.cluster_id, np.asarray(list(cluster_ids), dtype=np.str_))
        number = int(np.unique(self.cluster_id[gone]).size)
        kept = {name: column[~gone] for name, column in self._columns().items()}
        made = Reference.of(kept, replace(self.origin, set_aside=self.origin.set_aside + number))
        return replace(made, group_by=self.group_by)

    def save(self, path: Path) -> None:
        """One Parquet file, with the origin in its metadata. Raises StorageError where it cannot be written."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        about = {"version": REFERENCE_VERSION, "group_by": self.group_by, "origin": asdict(self.origin)}
        columns = {name: pa.array(column) for name, column in self._columns().items()}
        columns |= {name: pa.array(column.astype(np.float32)) for name, column in self.signals.items()}
        table = pa.table(columns)
        try:
            pq.write_table(table.replace_schema_metadata({_KEY: json.dumps(about).encode()}), path, compression="zstd")
        except OSError as error:
            raise StorageError(
                f"the reference cannot be written: {error}", str(path), "free or choose a disk"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Reference:
        """The inverse of `save`. Raises InputError where it is no reference, SchemaError for another version."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        remedy = "make one with: stillproof guard calibrate"
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"the reference cannot be read: {error}", str(path), remedy) from error
        about = _about(table, path, remedy)
        try:
            origin, group_by = Origin(**about["origin"]), about["group_by"]
        except (KeyError, TypeError) as error:
            raise InputError(f"a reference without its origin: {error}", str(path), remedy) from error
        columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}
        return replace(cls.of(columns, origin), group_by=group_by)

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in _FIXED} | self.signals


def _about(table: pa.Table, path: Path, remedy: str) -> dict[str, Any]:
    raw = (table.schema.metadata or {}).get(_KEY)
    if raw is None:
        raise InputError("a Parquet file that is not a reference", str(path), remedy)
    try:
        about = json.loads(raw)
        version = about["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("a reference whose metadata cannot be read", str(path), remedy) from error
    if version != REFERENCE_VERSION:
        raise SchemaError(f"reference version {version!r}, this version reads {REFERENCE_VERSION}", str(path), remedy)
    return about


def joined(parts: Sequence[Reference]) -> Reference:
    """One reference of several, of clusters and windows with names of their own; origin of the first, findings set
    aside added up. Raises InputError for none, for parts of different steps, or for a window that stands in two."""
    if not parts:
        raise InputError("no reference to join", remedy="name at least one")
    if len({part.origin.step_h for part in parts}) > 1:
        raise InputError("references of different steps cannot be joined", "step_h", "calibrate all with one step")
    windows = np.concatenate([np.unique(part.window_id) for part in parts])
    if np.unique(windows).size < windows.size:
        raise InputError("one window stands in two references", remedy="give each window a name of its own")
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate([part._columns()[name] for part in parts]) for name in parts[0]._columns()
    }
    set_aside = sum(part.origin.set_aside for part in parts)
    made = Reference.of(columns, replace(parts[0].origin, set_aside=set_aside))
    return replace(made, group_by=parts[0].group_by)


def score_reference(rows: Rows, cluster_class: str, horizon_h: int, scoring: Scoring) -> Scores:
    """Scores of the reference rows, shape [n]; a signal that they lack gives 0 bits."""
    missing = {name: np.full(rows.groups.size, np.nan) for name in scoring.weights if name not in rows.signals}
    return scoring.of(rows.signals | missing, cluster_class, horizon_h)


def score_new(
    values: Mapping[str, ArrayLike], rows: Rows, cluster_class: str, horizon_h: int, scoring: Scoring
) -> Scores:
    """Scores of m new clusters, to be ranked among those of `rows`. A signal that was measured of none of the rows
    gives 0 bits: they could not have had any, and the new clusters may have no advantage."""
    unknown = [name for name in values if np.isnan(rows.signals.get(name, np.zeros(0))).all()]
    blank = {name: np.full(np.shape(values[name]), np.nan) for name in unknown}
    return scoring.of({**values, **blank}, cluster_class, horizon_h)


def rank(total: ArrayLike, reference_total: ArrayLike, rows: Rows) -> Reals:
    """p-values of scores, shape [m], among the scores of the reference rows. H0: an honest cluster of this class,
    exchangeable with the reference's groups. Floor 1 / (n_groups + 1); ties count against the claim."""
    return stats.conformal_p(total, reference_total, rows.groups)


def assess(
    values: Mapping[str, ArrayLike],
    possible: Sequence[Sequence[str]],
    reference: Reference,
    horizon_h: int,
    scoring: Scoring,
) -> Ranked:
    """p- and e-values of m clusters at one horizon.

    `possible`: for each cluster the classes that what an operator sees leaves open, one or both of CLASSES. H0 of each:
    the cluster is honest, exchangeable with the reference clusters of one of its possible classes. An ambiguous cluster
    gets the larger p and the smaller e. Without a reference for a class p = 1 there. Raises InputError as `Scoring.of`.
    """
    m = len(possible)
    p: dict[str, Reals] = {}
    e: dict[str, Reals] = {}
    sizes: dict[str, int] = {}
    scores: dict[str, Scores] = {}
    for name in CLASSES:
        rows = reference.rows(name, horizon_h)
        scores[name] = score_new(values, rows, name, horizon_h, scoring)
        if scores[name].total.shape != (m,):
            raise InputError(f"signals of {scores[name].total.size} clusters, classes of {m}")
        p[name] = rank(scores[name].total, score_reference(rows, name, horizon_h, scoring).total, rows)
        sizes[name] = rows.n_groups
        e[name] = stats.rank_e(p[name] * (rows.n_groups + 1), rows.n_groups)
    worst = stats.mondrian(p, possible)
    chosen = tuple(max(names, key=lambda name: p[name][row]) for row, names in enumerate(possible))
    n = np.array([sizes[name] for name in chosen], dtype=np.int64)
    least = np.array([min(e[name][row] for name in names) for row, names in enumerate(possible)], dtype=np.float64)
    ranks = np.ceil(worst * (n + 1) - 1e-9).astype(np.int64)
    return Ranked(worst, least, ranks, n, chosen, scores)
