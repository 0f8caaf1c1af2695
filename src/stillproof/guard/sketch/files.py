"""A log sketched file by file, in a pool of processes; what is finished is not done again.

    OUT/NNNNN.parquet    one piece of a file of the log: a span of its row groups; appears whole or not at all

The footer of a piece names its source (size, time of change, digest of both ends), the salt's digest and the row
counts, so that a run that was stopped goes on where it was. Memory is bounded by the row-group
size of the log's widest column and by `BATCH_BYTES`, for each process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stillproof.errors import InputError, StorageError
from stillproof.guard.log import check_log, log_schema
from stillproof.guard.sketch.keys import SKETCH_VERSION, hash_strings, keys_of, salt_digest
from stillproof.guard.sketch.normalise import bytes_of
from stillproof.guard.sketch.rows import DISTINCT, sketch_batch, sketch_schema
from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stillproof.guard.sketch.keys import U64, Ints

PIECE_ROWS = 1 << 20
"""Row groups of a file are taken together up to about this many rows."""
BATCH_ROWS = 1 << 14
BATCH_BYTES = 32 << 20
"""A batch has fewer rows where the log's rows are long."""
GROUP_ROWS = 1 << 16
_FEW_ROWS = 20_000
"""Too few to start processes for."""
_END_BYTES = 64 << 10
_FOOTER_KEY = b"stillproof.sketch.source"
# Random or all different: a dictionary or a compressor would only cost time.
_DICTIONARIES = ["account", "unit", "model", "fp_system", "fp_tools", "fp_params", "fp_client", "fp_network", "flags"]
_PLAIN = ("minhash", "shingles.list.element")


@dataclass(frozen=True, slots=True)
class SketchCounts:
    """What became of the rows of a log. read = kept + dropped_duplicate + dropped_missing."""

    read: int
    kept: int
    dropped_duplicate: int
    """Rows whose id an earlier row of the same file has."""
    dropped_missing: int
    """Rows without id, time or account."""

    def __add__(self, other: SketchCounts) -> SketchCounts:
        return SketchCounts(
            self.read + other.read,
            self.kept + other.kept,
            self.dropped_duplicate + other.dropped_duplicate,
            self.dropped_missing + other.dropped_missing,
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    """One output file, to be made of some row groups of one log file. Pickled to a worker."""

    file: Path
    groups: tuple[int, ...]
    n_rows: int
    first_row: int
    repeated: tuple[int, ...]
    """Rows of the file whose id came before."""
    target: Path
    source: str


def sketch_log(
    files: Sequence[Path], out: Path, salt: bytes, on_event: OnEvent = ignore, processes: int | None = None
) -> tuple[list[Path], dict[str, int]]:
    """Sketch the files of a log into out/NNNNN.parquet: the paths, in the log's order, and `SketchCounts` as a dict.

    Pieces made by an earlier run from the same source under the same salt are kept; others of that name are replaced,
    and numbered pieces beyond the last are removed. `processes` is one a core unless given. Raises SchemaError for a
    file that is no log, InputError for a short salt or an unreadable file, StorageError where the disk refuses.
    """
    keys_of(salt)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot be made: {error.strerror}", str(out), "name a folder that can be written"
        ) from error
    sources = [_source_of(file) for file in files]
    plans = _plans(files, sources, out, salt)
    targets = [piece.target for plan in plans for piece in plan]
    todo = [[piece for piece in plan if not _finished(piece)] for plan in plans]
    n_all, n_todo = (sum(piece.n_rows for plan in some for piece in plan) for some in (plans, todo))
    progress = _Progress(on_event, n_all, n_all - n_todo)
    if processes is None:
        processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n_pieces = sum(map(len, todo))
    workers = 1 if n_todo <= _FEW_ROWS else min(processes, n_pieces)
    if workers <= 1:
        for piece in _with_repeats(todo, salt):
            progress.done(_sketch_piece(piece, salt))
    else:
        _in_processes(_with_repeats(todo, salt), salt, workers, progress)
    _remove_beyond(out, targets)
    return targets, asdict(sketch_counts(targets))


def sketch_counts(pieces: Sequence[Path]) -> SketchCounts:
    """Rows read, kept and dropped over all pieces. Raises InputError for a file that `sketch_log` did not write."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = SketchCounts(0, 0, 0, 0)
    for piece in pieces:
        try:
            metadata = pq.read_metadata(piece).metadata or {}
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"cannot be read: {error}", str(piece), "run sketch_log again") from error
        if _FOOTER_KEY not in metadata:
            raise InputError("is no piece of a sketched log", str(piece), "give paths that sketch_log returned")
        total += SketchCounts(**json.loads(metadata[_FOOTER_KEY])["counts"])
    return total


class _Progress:
    def __init__(self, on_event: OnEvent, total: int, before: int) -> None:
        self._on_event, self._total, self._before, self._now = on_event, total, before, 0
        self._start_s = time.monotonic()
        self._tell()

    def done(self, n_rows: int) -> None:
        self._now += n_rows
        self._tell()

    def _tell(self) -> None:
        rate = self._now / max(time.monotonic() - self._start_s, 1e-9) if self._now else None
        done = self._before + self._now
        eta_s = (self._total - done) / rate if rate else None
        self._on_event(Event("sketch", done, self._total, "exchanges", rate, eta_s))


def _in_processes(pieces: Iterator[_Piece], salt: bytes, workers: int, progress: _Progress) -> None:
    pending: set[Future[int]] = set()
    # Spawn: a fork of a process with Arrow's threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for piece in pieces:
                pending.add(pool.submit(_sketch_piece, piece, salt))
                if len(pending) > 2 * workers:
                    pending = _collect(pending, progress)
            while pending:
                pending = _collect(pending, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _collect(pending: set[Future[int]], progress: _Progress) -> set[Future[int]]:
    finished, rest = wait(pending, return_when=FIRST_COMPLETED)
    for future in finished:
        progress.done(future.result())
    return rest


def _plans(files: Sequence[Path], sources: Sequence[str], out: Path, salt: bytes) -> list[list[_Piece]]:
    """The pieces of each file, numbered through."""
    plans: list[list[_Piece]] = []
    number = 0
    for file, source in zip(files, sources, strict=True):
        plans.append([])
        # Without dictionaries: columns that are missing are for check_log to name.
        with _opened(file, ()) as parquet:
            check_log(parquet.schema_arrow, file)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        first_row = 0
        for groups in _spans(sizes):
            n_rows = sum(sizes[group] for group in groups)
            about = {"version": SKETCH_VERSION, "salt": salt_digest(salt), "source": source, "groups": groups}
            target = out / f"{number:05d}.parquet"
            plans[-1].append(_Piece(file, tuple(groups), n_rows, first_row, (), target, json.dumps(about)))
            first_row += n_rows
            number += 1
    return plans


def _spans(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive row groups of at most `PIECE_ROWS` rows, or one that is larger; one empty span for an empty file."""
    span: list[int] = []
    n_rows = 0
    for group, size in enumerate(sizes):
        if span and n_rows + size > PIECE_ROWS:
            yield span
            span = []
            n_rows = 0
        span.append(group)
        n_rows += size
    if span or not sizes:
        yield span


def _source_of(file: Path) -> str:
    """Size, time of change and a digest of both ends; the footer, at the end, describes every column chunk."""
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            digest = blake2b(stream.read(_END_BYTES), digest_size=16)
            stream.seek(max(status.st_size - _END_BYTES, 0))
            digest.update(stream.read())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(file), "check the path of the log") from error
    return f"{status.st_size}-{status.st_mtime_ns}-{digest.hexdigest()}"


def _opened(file: Path, dictionaries: Sequence[str] = DISTINCT) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, read_dictionary=list(dictionaries), memory_map=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"is no Parquet file: {error}", str(file), "remove it from the log, or import it again"
        ) from error


def _finished(piece: _Piece) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(piece.target).metadata or {}
        return json.loads(metadata[_FOOTER_KEY])["about"] == json.loads(piece.source)
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return False


def _with_repeats(plans: Sequence[Sequence[_Piece]], salt: bytes) -> Iterator[_Piece]:
    """The pieces, each with the rows to drop because their id came before in the file."""
    for plan in plans:
        if not plan:
            continue
        repeated = _repeated_rows(plan[0].file, salt)
        for piece in plan:
            low, high = np.searchsorted(repeated, (piece.first_row, piece.first_row + piece.n_rows))
            yield replace(piece, repeated=tuple(repeated[low:high].tolist()))


def _repeated_rows(file: Path, salt: bytes) -> Ints:
    """Rows of a file whose id an earlier row has, ascending. Ids are told apart by 64 bits of a salted hash."""
    keys = keys_of(salt)
    kind = keys.kind("id")
    hashes: list[U64] = [np.empty(0, np.uint64)]
    present: list[np.ndarray[tuple[int], np.dtype[np.bool_]]] = [np.empty(0, np.bool_)]
    with _opened(file) as parquet:
        for batch in parquet.iter_batches(1 << 16, columns=["id"], use_threads=False):
            column = batch.column(0)
            present.append(column.is_valid().to_numpy(zero_copy_only=False))
            hashes.append(hash_strings(keys, *bytes_of(column.fill_null("")), kind))
    values = np.concatenate(hashes)
    rows = np.flatnonzero(np.concatenate(present))
    _, first = np.unique(values[rows], return_index=True)
    if len(first) == len(rows):
        return np.empty(0, np.int64)
    repeated = np.ones(len(rows), np.bool_)
    repeated[first] = False
    return rows[repeated]


def _sketch_piece(piece: _Piece, salt: bytes) -> int:
    """Write one piece; rows read. Runs in a worker."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unfinished = piece.target.with_suffix(".unfinished")
    counts = SketchCounts(0, 0, 0, 0)
    columns = {name: "NONE" if name in _PLAIN else "LZ4" for name in _leaves()}
    try:
        with pq.ParquetWriter(
            unfinished, sketch_schema(), compression=columns, use_dictionary=_DICTIONARIES, write_statistics=["time"]
        ) as writer:
            held: list[pa.RecordBatch] = []
            for batch, dropped in _kept_rows(piece):
                counts += dropped
                held.append(sketch_batch(batch, salt))
                if sum(map(len, held)) >= GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(held))
                    held = []
            if held:
                writer.write_table(pa.Table.from_batches(held))
            footer = {"about": json.loads(piece.source), "counts": asdict(counts)}
            writer.add_key_value_metadata({_FOOTER_KEY.decode(): json.dumps(footer)})
        with unfinished.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, piece.target)
    except OSError as error:
        raise StorageError(f"cannot be written: {error}", str(piece.target), "free space, then run again") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return piece.n_rows


def _kept_rows(piece: _Piece) -> Iterator[tuple[pa.RecordBatch, SketchCounts]]:
    """The record batches of a piece without rows that are repeated or miss a key column, and what was left out."""
    import pyarrow as pa

    names = [name for name in log_schema().names if name != "latency_s"]
    repeated = np.array(piece.repeated, np.int64)
    row = piece.first_row
    with _opened(piece.file) as parquet:
        size = sum(parquet.metadata.row_group(group).total_byte_size for group in piece.groups)
        n_batch = int(np.clip(BATCH_BYTES * max(piece.n_rows, 1) // max(size, 1), 16, BATCH_ROWS))
        for batch in parquet.iter_batches(n_batch, row_groups=list(piece.groups), columns=names, use_threads=False):
            whole = np.ones(len(batch), np.bool_)
            for name in ("id", "time", "account"):
                column = batch.column(name)
                if column.null_count:
                    whole &= column.is_valid().to_numpy(zero_copy_only=False)
                if name != "time":
                    whole &= np.diff(bytes_of(column.fill_null(""))[1]) > 0
            low, high = np.searchsorted(repeated, (row, row + len(batch)))
            again = np.zeros(len(batch), np.bool_)
            again[repeated[low:high] - row] = True
            again &= whole
            keep = whole & ~again
            n_keep = int(keep.sum())
            dropped = SketchCounts(len(batch), n_keep, int(again.sum()), int((~whole).sum()))
            row += len(batch)
            yield (batch if n_keep == len(batch) else batch.filter(pa.array(keep))), dropped


def _leaves() -> list[str]:
    """Names of the columns as Parquet spells them."""
    return ["shingles.list.element" if name == "shingles" else name for name in sketch_schema().names]


def _remove_beyond(out: Path, targets: Sequence[Path]) -> None:
    """A shorter log leaves no pieces of a longer one behind, nor does a run that was killed."""
    wanted = set(targets)
    for path in (*out.glob("[0-9]*.parquet"), *out.glob("[0-9]*.unfinished")):
        if path.stem.isdigit() and path not in wanted:
            path.unlink()
