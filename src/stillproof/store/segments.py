"""The segments of a store: Parquet files (zstd) with the columns of `exchange.arrow_schema`, never changed in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stillproof.errors import SchemaError, StorageError
from stillproof.exchange import Exchange, arrow_schema, check_schema_version, from_table, to_table
from stillproof.store.disk import replace_file

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 4096


def write_segment(path: Path, exchanges: Iterable[Exchange]) -> None:
    """One Parquet file, atomically. Raises StorageError."""

    def write(file: BinaryIO) -> None:
        import pyarrow.parquet as pq

        rest = iter(exchanges)
        with pq.ParquetWriter(file, arrow_schema(), compression="zstd") as writer:
            while rows := list(islice(rest, ROWS_PER_GROUP)):
                writer.write_table(to_table(rows))

    replace_file(path, write)


def read_segment(path: Path) -> Iterator[Exchange]:
    """Its exchanges in order, a row group at a time. Raises StorageError (damaged), SchemaError (unknown version)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            check_schema_version(file.schema_arrow)
            for group in range(file.num_row_groups):
                yield from from_table(file.read_row_group(group))
    except pa.ArrowException as error:
        raise _damaged(path, error) from error
    except SchemaError as error:
        raise SchemaError(error.what, str(path), error.remedy) from None


def segment_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Its rows as a table, of the columns named. Raises as `read_segment` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            check_schema_version(file.schema_arrow)
            return file.read(list(columns) if columns is not None else None)
    except pa.ArrowException as error:
        raise _damaged(path, error) from error
    except SchemaError as error:
        raise SchemaError(error.what, str(path), error.remedy) from None


def count_rows(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except pa.ArrowException as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"the segment is damaged: {error}", str(path), "restore this file from a backup, or move it out of the store"
    )
