"""One set of types and numbers on every engine."""

import importlib.util
import shutil
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillproof.engine import default_threads, open_engine
from stillproof.errors import ConfigError, InputError, SchemaError

pytest.importorskip("duckdb", reason="the engine needs duckdb")
pytest.importorskip("ibis", reason="the engine needs ibis")

ABSENT = [name for name in ("pyspark",) if importlib.util.find_spec(name) is None]
ABSENT += [] if shutil.which("java") else ["java"]
SPARK = pytest.param("spark", marks=pytest.mark.skipif(bool(ABSENT), reason=f"absent: {', '.join(ABSENT)}"))
HASHES = [0, 1, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 1, None]
TIMES = [datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, 12, 59, 59, 999_999, tzinfo=UTC)]


@pytest.fixture(scope="module", params=["duckdb", SPARK])
def engine(request, tmp_path_factory):
    with open_engine(request.param, threads=2, memory_limit=1 << 30, folder=tmp_path_factory.mktemp("e")) as opened:
        yield opened


def rows() -> pa.Table:
    n = len(HASHES)
    shingles = pa.array([5, (1 << 64) - 5] * n, pa.uint64())
    return pa.table(
        {
            "id": [f"x{item}" for item in range(n)],
            "time": pa.array((TIMES * n)[:n], pa.timestamp("us", tz="UTC")),
            "unit": pa.array(HASHES, pa.uint64()),
            "turn": pa.array([1] * n, pa.int16()),
            "flags": pa.array([(1 << 32) - 1] * n, pa.uint32()),
            "shingles": pa.FixedSizeListArray.from_arrays(shingles, 2),
            "minhash": pa.array([b"\x00\xff"] * n, pa.binary(2)),
        }
    )


def by_id(engine, table) -> pa.Table:
    return engine.to_arrow(table).sort_by("id")


def test_hashes_keep_their_64_bits_and_come_back_unsigned(engine) -> None:
    table = by_id(engine, engine.keep(engine.from_arrow(rows()), "copy"))
    assert table.schema.field("unit").type == pa.uint64()
    assert table["unit"].to_pylist() == HASHES
    assert table["shingles_0"].to_pylist() == [5] * len(HASHES)
    assert table["shingles_1"].to_pylist() == [(1 << 64) - 5] * len(HASHES)


def test_numbers_and_times_are_int64_microseconds(engine) -> None:
    table = by_id(engine, engine.from_arrow(rows()))
    assert {name: str(table.schema.field(name).type) for name in ("time", "turn", "flags", "minhash")} == {
        "time": "int64",
        "turn": "int64",
        "flags": "int64",
        "minhash": "binary",
    }
    assert table["time"][0].as_py() == 0
    assert table["time"][1].as_py() == 1_782_910_799_999_999
    assert table["flags"][0].as_py() == (1 << 32) - 1


def test_kept_sums_stay_int64_and_a_name_may_be_used_twice(engine) -> None:
    given = engine.from_arrow(rows())
    sums = [engine.keep(given.agg(n=given.flags.sum()), "sums") for _ in range(2)]
    assert [engine.to_arrow(kept)["n"].type for kept in sums] == [pa.int64(), pa.int64()]
    assert engine.to_arrow(sums[1])["n"][0].as_py() == len(HASHES) * ((1 << 32) - 1)


def test_many_files_are_one_table(engine, tmp_path) -> None:
    files = [tmp_path / "it's-[1].parquet", tmp_path / "part 2%20.parquet"]
    for file in files:
        pq.write_table(rows(), file)
    table = engine.read_parquet(files)
    assert engine.to_arrow(table.agg(n=table.count()))["n"][0].as_py() == 2 * len(HASHES)


def test_an_empty_table_keeps_its_columns(engine) -> None:
    table = engine.to_arrow(engine.keep(engine.from_arrow(rows().slice(0, 0)), "empty"))
    assert table.num_rows == 0
    assert table.schema.field("unit").type == pa.uint64()


def test_files_that_cannot_be_read_are_named(engine, tmp_path) -> None:
    good, other, torn = (tmp_path / name for name in ("good.parquet", "other.parquet", "torn.parquet"))
    pq.write_table(rows(), good)
    pq.write_table(pa.table({"id": ["a"]}), other)
    torn.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="no Parquet file"):
        engine.read_parquet([])
    with pytest.raises(InputError, match=r"torn\.parquet"):
        engine.read_parquet([torn])
    with pytest.raises(InputError, match=r"absent\.parquet"):
        engine.read_parquet([tmp_path / "absent.parquet"])
    with pytest.raises(SchemaError, match=r"other\.parquet"):
        engine.read_parquet([good, other])


def test_a_name_that_is_no_table_name_is_refused(engine) -> None:
    with pytest.raises(ConfigError, match="cannot name a table"):
        engine.keep(engine.from_arrow(rows()), "x; drop")


def test_work_beyond_the_memory_limit_goes_to_files(tmp_path) -> None:
    n = 3_000_000
    keys = np.random.Generator(np.random.Philox(1)).permutation(n)
    pq.write_table(pa.table({"key": keys, "text": [f"{key:064d}" for key in range(n)]}), tmp_path / "big.parquet")
    with open_engine(memory_limit=192 << 20, threads=2, folder=tmp_path) as engine:
        table = engine.read_parquet([tmp_path / "big.parquet"])
        ordered = engine.keep(table.order_by("text"), "ordered")
        assert engine.to_arrow(ordered.agg(n=ordered.count()))["n"][0].as_py() == n
        assert engine.memory_limit == 192 << 20


def test_closing_removes_what_was_written(tmp_path) -> None:
    with open_engine(folder=tmp_path) as engine:
        engine.keep(engine.from_arrow(rows()), "copy")
        assert list(tmp_path.iterdir()) == [engine.folder]
        assert engine.threads == default_threads()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"name": "sqlite"}, {"threads": 0}, {"memory_limit": 10}])
def test_an_engine_that_makes_no_sense_is_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        open_engine(**wrong)
