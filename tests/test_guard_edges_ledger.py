"""The ledger's looks against the relational edges and item pairs of the same windows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.test_guard_edges import ABSENT, END, HOUR, ROWS, START, make_rows, sketch_of

from stillproof.engine import open_engine
from stillproof.errors import ConfigError
from stillproof.guard import codes, tally
from stillproof.guard import edges as edge_steps
from stillproof.guard.ledger import Ledger

pytest.importorskip("duckdb", reason="the engine needs duckdb")
pytest.importorskip("ibis", reason="the engine needs ibis")

MEMORY_H = 9
LOOKS = [START + h * HOUR for h in (1, 2, 3, 9, 10, 12, 12, 25, 26, 39, 41, 60, 100)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with open_engine(threads=2, memory_limit=1 << 30, folder=tmp_path_factory.mktemp("engine")) as opened:
        yield opened


def given_rows() -> list[dict]:
    """Some prompts that one unit repeats, one hour or many; some that most units send."""
    rows = make_rows(500, seed=4)
    draw = np.random.Generator(np.random.Philox(9))
    for item, row in enumerate(rows):
        fps = (row["fp_prompt"], 70_000 + row["unit"] % 97 * 10 + item % 3, 80_000 + item, 90_000 + item // 6)
        row["fp_prompt"] = fps[int(draw.integers(0, 4))]
    return rows


@pytest.fixture(scope="module")
def sketch(engine):
    return engine.from_arrow(sketch_of(given_rows()))


def test_each_look_is_the_edges_and_pairs_of_its_window(engine, sketch) -> None:
    ledger = Ledger(engine, sketch, MEMORY_H, 3, max_units=6, min_shared=1)
    n_edges = n_pairs = 0
    for until in LOOKS:
        since = until - MEMORY_H * HOUR
        look = ledger.look(until)
        assert look.edges.equals(edge_steps.edges(engine, sketch, since, until, 3))
        assert look.pairs.equals(edge_steps.item_pairs(engine, sketch, since, until, 6, min_shared=1))
        inside = edge_steps.within(sketch, since, until)
        assert look.n_units == engine.to_arrow(inside.agg(n=inside.unit.nunique()))["n"][0].as_py()
        n_edges, n_pairs = n_edges + look.edges.num_rows, n_pairs + look.pairs.num_rows
    assert n_edges > 100
    assert n_pairs > 20


def test_a_look_in_the_middle_of_an_hour_sees_nothing_of_that_hour(engine, sketch) -> None:
    until = START + 20 * HOUR
    before, after = (Ledger(engine, sketch, MEMORY_H, 2).look(time) for time in (until, until + HOUR // 2))
    assert after.edges.equals(before.edges)
    assert after.edges["last_time"].to_numpy().max() < until


def test_one_late_look_is_the_same_as_the_last_of_many(engine, sketch) -> None:
    many = Ledger(engine, sketch, MEMORY_H, 3)
    looks = [many.look(START + h * HOUR) for h in range(1, 31)]
    alone = Ledger(engine, sketch, MEMORY_H, 3).look(START + 30 * HOUR)
    assert looks[-1].edges.equals(alone.edges)
    assert looks[-1].pairs.equals(alone.pairs)


def test_looks_go_forward_and_impossible_settings_are_refused(engine, sketch) -> None:
    ledger = Ledger(engine, sketch, MEMORY_H)
    ledger.look(END)
    with pytest.raises(ConfigError, match="forward"):
        ledger.look(END - HOUR)
    for wrong in ({"memory_h": 0.5}, {"memory_h": 3, "max_units": 1}, {"memory_h": 3, "min_shared": 0}):
        with pytest.raises(ConfigError, match="a ledger needs"):
            Ledger(engine, sketch, **wrong)
    with pytest.raises(ConfigError, match="held by 1"):
        Ledger(engine, sketch, 3, 1)


def test_a_log_without_rows_gives_empty_tables(engine) -> None:
    look = Ledger(engine, engine.from_arrow(sketch_of(ROWS[:0])), MEMORY_H).look(END)
    assert (look.edges.num_rows, look.pairs.num_rows, look.n_units) == (0, 0, 0)


def test_the_size_of_blocks_changes_no_bit(engine, sketch) -> None:
    counts = engine.keep(edge_steps.by_hour(edge_steps.fingerprints(sketch, ("unit", "time"))), "counts")
    whole = engine.keep(edge_steps.totals(sketch), "totals")
    names = codes.names_of(engine, counts, whole, 2)
    cells, volume = (engine.to_arrow(table) for table in codes.coded(engine, counts, whole, names))
    given = codes.cells_of(cells), codes.volume_of(volume), names, (2, None)
    table = tally.edge_table(*given)
    assert table.num_rows > 100
    for block in (1, 70, 1000):
        assert tally.edge_table(*given, block=block).equals(table)


def test_the_size_of_blocks_changes_no_pair() -> None:
    draw = np.random.Generator(np.random.Philox(3))
    sent = np.unique(draw.integers(0, [60, 12], (300, 2)), axis=0).astype(np.int32)
    names = tally.Names(np.zeros(60, np.uint64), np.full(60, 7, np.uint8), np.arange(5, 17, dtype=np.uint64))
    given = (sent[:, 0], sent[:, 1]), np.ones(12, np.int64), names, (8, 2)
    table = tally.pair_table(*given)
    assert table.num_rows > 20
    for block in (1, 40):
        assert tally.pair_table(*given, block=block).equals(table)


def looks(engine) -> list[pa.Table]:
    ledger = Ledger(engine, engine.from_arrow(sketch_of(given_rows())), MEMORY_H, 3, min_shared=1)
    found = [ledger.look(until) for until in (LOOKS[3], LOOKS[7], LOOKS[10])]
    return [table for look in found for table in (look.edges, look.pairs)]


@pytest.mark.skipif(bool(ABSENT), reason=f"absent: {', '.join(ABSENT)}")
def test_spark_gives_the_same_looks_to_the_last_bit(engine, tmp_path: Path) -> None:
    with open_engine("spark", threads=2, memory_limit=1 << 30, folder=tmp_path) as spark:
        other = looks(spark)
    assert [table.to_pylist() for table in looks(engine)] == [table.to_pylist() for table in other]
