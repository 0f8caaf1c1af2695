"""Who of a cluster used what links it, against plain counts of a small table."""

import importlib.util
import shutil

import numpy as np
import pyarrow as pa
import pytest

from stillproof.engine import open_engine
from stillproof.guard.edges import KINDS
from stillproof.guard.linking import Cluster
from stillproof.guard.ties import MAX_FINGERPRINTS, MAX_UNITS, ties

pytest.importorskip("duckdb", reason="the engine needs duckdb")
pytest.importorskip("ibis", reason="the engine needs ibis")

ABSENT = [name for name in ("pyspark",) if importlib.util.find_spec(name) is None]
ABSENT += [] if shutil.which("java") else ["java"]
ENGINES = ["duckdb", pytest.param("spark", marks=pytest.mark.skipif(bool(ABSENT), reason=f"no {ABSENT}"))]
HIGH = 1 << 63  # hashes on both sides of the sign
COLUMNS = [name for name in KINDS if name.startswith("fp_")]


def sketch_of(rows: list[dict[str, int]]) -> pa.Table:
    columns = {name: pa.array([row.get(name) for row in rows], pa.uint64()) for name in ("unit", *COLUMNS)}
    columns["time"] = pa.array([1_700_000_000_000_000] * len(rows), pa.timestamp("us", tz="UTC"))
    columns["shingles"] = pa.array([[row.get("shingle", 0), *[0] * 11] for row in rows], pa.list_(pa.uint64(), 12))
    return pa.table(columns | {"id": pa.array([f"{place:04d}" for place in range(len(rows))])})


def cluster(units: list[int], fps: list[int]) -> Cluster:
    return Cluster(np.array(units, np.uint64), np.array(fps, np.uint64), "template" if fps else "items", 1.0)


@pytest.mark.parametrize("name", ENGINES)
def test_a_graph_counts_members_and_their_links_and_nothing_of_strangers(name: str) -> None:
    rows = [{"unit": 1, "fp_system": 70, "fp_tools": HIGH + 5}] * 3
    rows += [{"unit": HIGH + 2, "fp_system": 70}, {"unit": HIGH + 2, "fp_system": 71}]
    rows += [{"unit": 9, "fp_system": 70}] * 50 + [{"unit": 1, "fp_prompt": 8}]
    with open_engine(name) as engine:
        (graph,) = ties(engine, engine.from_arrow(sketch_of(rows)), [cluster([1, HIGH + 2], [70, HIGH + 5])])
    assert graph == {
        "n_units": 2,
        "n_fingerprints": 2,
        "units": [{"unit": f"{1:016x}", "n": 4}, {"unit": f"{HIGH + 2:016x}", "n": 2}],
        "fingerprints": [
            {"kind": "system prompt", "fp": f"{70:016x}", "n_units": 2},
            {"kind": "tools", "fp": f"{HIGH + 5:016x}", "n_units": 1},
        ],
        "edges": [[0, 0, 3], [1, 0, 1], [0, 1, 3]],
    }


def test_members_that_only_a_list_of_prompts_links_meet_in_the_prompts_they_share() -> None:
    rows = [{"unit": unit, "fp_prompt": prompt} for unit, prompt in ((1, 5), (2, 5), (2, 6), (3, 7))]
    with open_engine("duckdb") as engine:
        sketch = engine.from_arrow(sketch_of(rows))
        by_items, by_template = ties(engine, sketch, [cluster([1, 2, 3], []), cluster([1, 2], [999])])
    assert [print["kind"] for print in by_items["fingerprints"]] == ["prompt"]
    assert by_items["edges"] == [[1, 0, 1], [0, 0, 1]]
    assert by_template["edges"] == []


def test_a_large_cluster_is_listed_in_part_and_counted_whole() -> None:
    rows = [{"unit": unit, "fp_prompt": prompt} for unit in range(1, 81) for prompt in range(1, 41)]
    with open_engine("duckdb") as engine:
        (graph,) = ties(engine, engine.from_arrow(sketch_of(rows)), [cluster(list(range(1, 81)), [])])
        assert ties(engine, engine.from_arrow(sketch_of(rows)), []) == []
    assert (graph["n_units"], graph["n_fingerprints"]) == (80, 40)
    assert (len(graph["units"]), len(graph["fingerprints"])) == (MAX_UNITS, MAX_FINGERPRINTS)
    assert len(graph["edges"]) == MAX_UNITS * MAX_FINGERPRINTS
