"""Where relational steps run: ibis expressions on DuckDB (default, out of core) or on Spark, with the same numbers.

Inside an engine every column has one of a few types, whatever the file held, so that an expression means the same on
both: integers of any width are int64, timestamps are int64 microseconds since 1970 (UTC), and unsigned 64-bit hashes
are int64 with the same 64 bits, because Spark has no unsigned type. A list of unsigned integers of fixed length (the
shingles of a sketch) becomes columns `NAME_0`, `NAME_1`, and so on. `Engine.to_arrow` gives hashes back as uint64.

    with open_engine() as engine:
        sketch = engine.read_parquet(files)
        table = engine.to_arrow(sketch.group_by("unit").agg(n=sketch.count()))
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stillproof.errors import ConfigError, InputError, MissingExtraError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    import ibis.expr.types as ir
    import pyarrow as pa

ENGINES = ("duckdb", "spark")
# Columns of these names hold 64-bit hashes: account, unit, unit_a, fp, fp_prompt, shingle_3, ...
HASH_NAME = re.compile(r"(account|unit|fp|shingles)(_\w+)?")
TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*")
INSTALL = "pip install 'stillproof[{}]'"
GIB = 1 << 30


def open_engine(
    name: str = "duckdb", *, memory_limit: int | None = None, threads: int | None = None, folder: Path | None = None
) -> Engine:
    """An engine by name: 'duckdb' or 'spark'. Use it as a context manager.

    `memory_limit` is in bytes (default: half of the memory there is, at most 10 GiB, so that a scan with its arrays
    stays below 16); DuckDB spills to files beyond it, for Spark it is the heap of the driver. `threads` defaults to the
    cores that this process may use. Intermediate tables and spilled data go to a folder made inside `folder` (default:
    the system's place for temporary files), which `close` removes.

    Raises ConfigError for another name or a value that makes no sense, MissingExtraError where ibis, duckdb, pyspark or
    Java is absent.
    """
    if name not in ENGINES:
        raise ConfigError(f"no engine {name!r}", "engine", f"use one of {', '.join(ENGINES)}")
    limit = default_memory() if memory_limit is None else memory_limit
    cores = default_threads() if threads is None else threads
    if limit < 64 << 20 or cores < 1:
        which = f"memory_limit={limit}, threads={cores}"
        raise ConfigError("an engine needs at least 64 MiB and one thread", which, "leave both out for the defaults")
    return (DuckEngine if name == "duckdb" else SparkEngine)(limit, cores, folder)


def default_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_memory() -> int:
    """Half of the machine's memory, at most 10 GiB, in bytes."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        total = 8 * GIB
    return min(10 * GIB, max(GIB, total // 2))


class Engine(ABC):
    """A place where ibis expressions run. Every table that it hands out belongs to it and ends with it."""

    name: str
    element: str  # SQL function that takes one item of a list
    memory_limit: int  # bytes
    threads: int

    def __init__(self, memory_limit: int, threads: int, folder: Path | None) -> None:
        self.memory_limit = memory_limit
        self.threads = threads
        self._count = 0
        # Spark may still be deleting files of its own when the folder goes.
        self._home = tempfile.TemporaryDirectory(prefix="stillproof-engine-", dir=folder, ignore_cleanup_errors=True)
        self.folder = Path(self._home.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def read_parquet(self, paths: Iterable[Path]) -> ir.Table:
        """Parquet files of one schema as one table, in the types that the module names. Nothing is read yet.

        Raises InputError where there is no file or a file cannot be read, SchemaError where the files differ.
        """
        files = [Path(path).resolve() for path in paths]
        schema = _schema_of(files)
        name = self._fresh("read")
        self._view(name, files, [self._column(field) for field in _expanded(schema, self.element)])
        return self.table(name)

    def from_arrow(self, table: pa.Table) -> ir.Table:
        """A small arrow table as a table of this engine, in the types that the module names."""
        import pyarrow.parquet as pq

        # Through a file on both engines: one way in, so one set of types.
        file = self.folder / f"{self._fresh('given')}.parquet"
        pq.write_table(table, file)
        return self.read_parquet([file])

    def keep(self, expression: ir.Table, name: str) -> ir.Table:
        """Compute an expression now and keep its rows; `name` appears in plans, and may be used more than once."""
        if not TABLE_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a table", "keep", "use small letters, digits and _")
        unique = self._fresh(name)
        self._materialise(expression, unique)
        return self.table(unique)

    def to_arrow(self, expression: ir.Table) -> pa.Table:
        """Compute an expression: an arrow table, hashes as uint64. Rows come in no particular order unless ordered."""
        return _unsigned(self._fetch(expression).combine_chunks())

    def _fresh(self, name: str) -> str:
        self._count += 1
        return f"{name}_{self._count}"

    @abstractmethod
    def table(self, name: str) -> ir.Table: ...
    @abstractmethod
    def close(self) -> None: ...
    @abstractmethod
    def _view(self, name: str, files: list[Path], columns: list[str]) -> None: ...
    @abstractmethod
    def _materialise(self, expression: ir.Table, name: str) -> None: ...
    @abstractmethod
    def _fetch(self, expression: ir.Table) -> pa.Table: ...
    @abstractmethod
    def _column(self, field: tuple[str, str, pa.DataType]) -> str:
        """SQL that reads one column (source expression, name, type in the file) in the engine's types."""


class DuckEngine(Engine):
    """DuckDB in this process. Tables live in a database file, so that they need no memory once written."""

    name = "duckdb"
    element = "list_extract"

    def __init__(self, memory_limit: int, threads: int, folder: Path | None) -> None:
        try:
            import duckdb
            import ibis
        except ImportError as error:
            raise MissingExtraError(f"the engine needs {error.name}", "duckdb", INSTALL.format("guard")) from error
        super().__init__(memory_limit, threads, folder)
        self._connection = duckdb.connect(str(self.folder / "engine.duckdb"))
        self._run(f"SET threads = {threads}")
        self._run(f"SET memory_limit = '{memory_limit // 1024} KiB'")
        self._run(f"SET temp_directory = {_quoted(str(self.folder / 'spill'))}")
        self._run("SET TimeZone = 'UTC'")
        # In a Jupyter without ipywidgets it is off, and even to switch it off is an error.
        if self._connection.execute("SELECT current_setting('enable_progress_bar')").fetchone() != (False,):
            self._run("SET enable_progress_bar = false")
        # Order of rows is never relied on; keeping it costs memory.
        self._run("SET preserve_insertion_order = false")
        self._ibis = ibis.duckdb.from_connection(self._connection)

    def table(self, name: str) -> ir.Table:
        with _quiet():
            return self._ibis.table(name)

    def close(self) -> None:
        self._connection.close()
        self._home.cleanup()

    def _run(self, sql: str) -> None:
        self._connection.execute(sql)

    def _view(self, name: str, files: list[Path], columns: list[str]) -> None:
        # Both engines take a path for a pattern; a name may hold the characters of one.
        listed = ", ".join(_quoted(re.sub(r"([*?\[])", r"[\1]", str(file))) for file in files)
        self._run(f"CREATE VIEW {name} AS SELECT {', '.join(columns)} FROM read_parquet([{listed}])")

    def _materialise(self, expression: ir.Table, name: str) -> None:
        # DuckDB sums whole numbers in 128 bits; kept as such they would slow down all that follows.
        whole = [column for column, kind in expression.schema().items() if kind.is_integer()]
        replaced = ", ".join(f'"{column}"::BIGINT AS "{column}"' for column in whole)
        columns = f"* REPLACE ({replaced})" if whole else "*"
        self._run(f"CREATE TABLE {name} AS SELECT {columns} FROM ({self._ibis.compile(expression)})")

    def _fetch(self, expression: ir.Table) -> pa.Table:
        with _quiet():
            return self._ibis.to_pyarrow(expression)

    def _column(self, field: tuple[str, str, pa.DataType]) -> str:
        import pyarrow as pa

        source, name, kind = field
        if pa.types.is_uint64(kind):
            # The upper half of the range goes to the negative numbers, in two steps so that none overflows.
            half = 1 << 63
            low, high = f"({source})::BIGINT", f"(({source}) - {half})::BIGINT - {half - 1} - 1"
            source = f"CASE WHEN ({source}) < {half} THEN {low} ELSE {high} END"
        elif pa.types.is_integer(kind):
            source = f"({source})::BIGINT"
        elif pa.types.is_timestamp(kind):
            source = f"epoch_us({source})"
        return f'{source} AS "{name}"'


class SparkEngine(Engine):
    """A local Spark session, bound to 127.0.0.1. There is one per process: open one at a time."""

    name = "spark"
    element = "element_at"

    def __init__(self, memory_limit: int, threads: int, folder: Path | None) -> None:
        with _quiet():
            try:
                import ibis
                from pyspark.errors import PySparkRuntimeError
                from pyspark.sql import SparkSession
            except ImportError as error:
                raise MissingExtraError(f"the engine needs {error.name}", "spark", INSTALL.format("spark")) from error
            super().__init__(memory_limit, threads, folder)
            builder = SparkSession.builder
            for key, value in _spark_settings(memory_limit, threads, self.folder).items():
                builder = builder.config(key, value)
            try:
                self._session = builder.getOrCreate()
            except (PySparkRuntimeError, FileNotFoundError) as error:
                self._home.cleanup()
                remedy = "install a Java runtime, version 17 or later"
                raise MissingExtraError("Spark did not start; it needs Java", "spark", remedy) from error
            self._ibis = ibis.pyspark.connect(self._session)

    def table(self, name: str) -> ir.Table:
        with _quiet():
            return self._ibis.table(name)

    def close(self) -> None:
        self._session.stop()
        self._home.cleanup()

    def _view(self, name: str, files: list[Path], columns: list[str]) -> None:
        from pyspark.errors import PySparkException

        try:
            frame = self._session.read.parquet(
                *("file:" + re.sub(r"([*?\[\]{}\\])", r"\\\1", str(file)) for file in files)
            )
            frame.selectExpr(*columns).createOrReplaceTempView(name)
        except PySparkException as error:
            raise SchemaError("Spark cannot read these columns", str(files[0]), "write the sketch anew") from error

    def _materialise(self, expression: ir.Table, name: str) -> None:
        # A file cuts the lineage: nothing is computed twice, and memory is free again.
        file = self.folder / name
        with _quiet():
            self._session.sql(self._ibis.compile(expression)).write.parquet(file.as_uri())
            self._session.read.parquet(file.as_uri()).createOrReplaceTempView(name)

    def _fetch(self, expression: ir.Table) -> pa.Table:
        with _quiet():
            return self._session.sql(self._ibis.compile(expression)).toArrow().cast(expression.schema().to_pyarrow())

    def _column(self, field: tuple[str, str, pa.DataType]) -> str:
        import pyarrow as pa

        source, name, kind = field
        if pa.types.is_uint64(kind):  # read as decimal(20, 0)
            source = f"CAST(CASE WHEN {source} < {1 << 63}BD THEN {source} ELSE {source} - {1 << 64}BD END AS BIGINT)"
        elif pa.types.is_integer(kind):
            source = f"CAST({source} AS BIGINT)"
        elif pa.types.is_timestamp(kind):
            source = f"unix_micros({source})"
        return f"{source} AS `{name}`"


def _spark_settings(memory_limit: int, threads: int, folder: Path) -> dict[str, str]:
    return {
        "spark.master": f"local[{threads}]",
        "spark.app.name": "stillproof",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": f"{memory_limit >> 20}m",
        "spark.local.dir": str(folder / "spill"),
        "spark.sql.warehouse.dir": (folder / "warehouse").as_uri(),
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.session.timeZone": "UTC",
        # The default of 200 is for a cluster: with a few cores, most of the time would go to starting tasks.
        "spark.sql.shuffle.partitions": str(4 * threads),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings that packages below give each other and that nobody here can act on.

    pyspark warns of pandas 3 wherever it loads it (no pandas object is made here); ibis 12 calls names that duckdb 2
    deprecates.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def _schema_of(files: list[Path]) -> pa.Schema:
    """The schema that all files have. Raises InputError, SchemaError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not files:
        raise InputError("no Parquet file to read", "", "give the files that `guard` wrote")
    first: pa.Schema | None = None
    for file in files:
        try:
            schema = pq.read_schema(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"cannot be read as Parquet: {error}", str(file), "write it anew") from error
        first = first or schema
        if not schema.equals(first):
            raise SchemaError(f"{file} has other columns than {files[0]}", str(file), "write all files anew")
    assert first is not None
    return first


def _expanded(schema: pa.Schema, element: str) -> list[tuple[str, str, pa.DataType]]:
    """(source, name, type) of each column; a list of fixed length of unsigned integers gives one column an item."""
    import pyarrow as pa

    fields: list[tuple[str, str, pa.DataType]] = []
    for field in schema:
        kind = field.type
        if pa.types.is_fixed_size_list(kind) and pa.types.is_uint64(kind.value_type):
            for item in range(kind.list_size):  # both engines count from 1
                source = f"{element}({field.name}, {item + 1})"
                fields.append((source, f"{field.name}_{item}", kind.value_type))
        else:
            fields.append((field.name, field.name, kind))
    return fields


def _unsigned(table: pa.Table) -> pa.Table:
    """Hash columns as uint64 with the same 64 bits."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_int64(field.type) and HASH_NAME.fullmatch(field.name):
            column = pa.chunked_array([chunk.view(pa.uint64()) for chunk in table.column(place).chunks], pa.uint64())
            table = table.set_column(place, field.name, column)
    return table


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
