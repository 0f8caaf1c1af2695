import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.random import Generator, Philox

from stillproof.errors import InputError, SchemaError, StorageError
from stillproof.guard.reference import Origin, Reference, assess, rank, score_new, score_reference
from stillproof.guard.scoring import Scoring

WEIGHTS = {"timing": 0.5, "list": 0.5, "rubric": 1.0}
ORIGIN = Origin("composed", "2026-11-01T00:00:00Z", "0.2.0", 3, "seed 5")


def table(n: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = Generator(Philox(seed))
    timing = rng.normal(size=n)
    return {
        "cluster_id": np.array([f"c{i}" for i in range(n)]),
        "window_id": np.array([f"w{i % 4}" for i in range(n)]),
        "horizon_h": np.full(n, 24),
        "cluster_class": np.where(np.arange(n) % 3 == 0, "automated", "interactive"),
        "n_units": rng.integers(5, 90, size=n),
        "timing": timing,
        "list": np.where(rng.random(n) < 0.3, np.nan, timing + rng.normal(size=n)),
        "rubric": rng.integers(0, 4, size=n).astype(float),
    }


def made(n: int = 300, seed: int = 1) -> Reference:
    return Reference.of(table(n, seed), ORIGIN)


def test_a_reference_survives_its_file(tmp_path: Path) -> None:
    reference = made(40)
    reference.save(tmp_path / "reference.parquet")
    read = Reference.load(tmp_path / "reference.parquet")
    assert read.origin == ORIGIN
    assert read.group_by == "cluster_id"
    assert list(read.signals) == ["timing", "list", "rubric"]
    for name in ("cluster_id", "window_id", "horizon_h", "cluster_class", "n_units"):
        np.testing.assert_array_equal(getattr(read, name), getattr(reference, name))
    for name, column in reference.signals.items():
        np.testing.assert_array_equal(read.signals[name], column)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6), st.floats()), max_size=5
    ),
    st.text(st.characters(codec="utf-8")),
)
def test_any_reference_survives_its_file(tmp_path: Path, rows: list[tuple[str, float]], note: str) -> None:
    n = len(rows)
    columns = {
        "cluster_id": [name for name, _ in rows],
        "window_id": ["w"] * n,
        "horizon_h": [1] * n,
        "cluster_class": ["automated"] * n,
        "n_units": [2] * n,
        "x": [value for _, value in rows],
    }
    reference = Reference.of(columns, Origin("own history", "2026", "0", 0, note))
    reference.save(tmp_path / "r.parquet")
    read = Reference.load(tmp_path / "r.parquet")
    assert read.cluster_id.tolist() == reference.cluster_id.tolist()
    assert read.origin.note == note
    np.testing.assert_array_equal(read.signals["x"], reference.signals["x"])


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with pytest.raises(InputError, match="cannot be read"):
        Reference.load(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(InputError, match="cannot be read"):
        Reference.load(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InputError, match="not a reference"):
        Reference.load(path)
    for about, error in (
        ("{", InputError),
        ("[]", InputError),
        (json.dumps({"version": 9}), SchemaError),
        (json.dumps({"version": 1}), InputError),
    ):
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"stillproof.reference": about}), path)
        with pytest.raises(error):
            Reference.load(path)
    with pytest.raises(StorageError):
        made(3).save(tmp_path / "nowhere" / "r.parquet")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"n_units": [1]}, "shape"),
        ({"cluster_class": ["honest"] * 6}, "unknown class 'honest'"),
        ({"timing": ["x"] * 6}, "something else"),
        ({"cluster_id": None}, "shape"),
    ],
)
def test_a_broken_table_is_refused(change: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Reference.of({**table(6), **change}, ORIGIN)
    columns = table(6)
    del columns["window_id"]
    with pytest.raises(InputError, match="without the column 'window_id'"):
        Reference.of(columns, ORIGIN)


SCORING = Scoring(WEIGHTS, made(3000, seed=9).scale())
"""On the scale of other clusters than those of any test."""


def test_rows_of_one_cluster_weigh_one_together() -> None:
    columns = table(9)
    columns["cluster_class"] = np.full(9, "automated")
    columns["cluster_id"] = np.array(["a"] * 7 + ["b", "c"])
    rows = Reference.of(columns, ORIGIN).rows("automated", 24)
    assert rows.n_groups == 3
    np.testing.assert_allclose(rank([5.0, 6.0, 1.0], [5.0] * 7 + [1.0, 1.0], rows), [2 / 4, 1 / 4, 1.0])


def test_ranks_of_fresh_honest_clusters_are_uniform() -> None:
    """Split conformal: reference and new clusters are scored alike, on a scale that knows neither."""
    p = []
    for seed in range(60):
        reference, fresh = made(150, seed=100 + seed), made(60, seed=10_000 + seed)
        values = fresh.rows("interactive", 24).signals
        p.append(assess(values, [["interactive"]] * 40, reference, 24, SCORING).p)
    shares = [float(np.mean(np.concatenate(p) <= level)) for level in (0.01, 0.05, 0.2, 0.5)]
    # 2,400 p-values among 100 each: within four standard deviations, ranks of one reference being dependent.
    assert shares == pytest.approx([0.0099, 0.05, 0.2, 0.5], abs=0.03)
    assert shares[0] <= 0.018


def test_an_unusual_cluster_gets_the_first_rank_and_an_usual_one_does_not() -> None:
    values = {"timing": [6.0, 0.0], "list": [6.0, 0.0], "rubric": [5.0, 1.0]}
    found = assess(values, [["interactive"], ["interactive"]], made(), 24, SCORING)
    assert found.rank[0] == 1
    assert found.p[0] == pytest.approx(1 / 201)
    assert found.n_reference.tolist() == [200, 200]
    assert found.e[0] > 100
    assert found.p[1] > 0.1
    assert set(found.scores) == {"interactive", "automated"}


def test_an_ambiguous_cluster_gets_the_larger_p_and_the_smaller_e() -> None:
    values = {"timing": [6.0] * 3, "list": [np.nan] * 3, "rubric": [5.0] * 3}
    found = assess(values, [["interactive"], ["automated"], ["automated", "interactive"]], made(), 24, SCORING)
    assert found.p[2] == max(found.p[:2])
    assert found.e[2] == min(found.e[:2])
    assert found.cluster_class[2] == "automated"
    assert found.n_reference[2] == 100


def test_without_a_reference_of_its_class_a_cluster_has_no_evidence() -> None:
    values = {"timing": [6.0], "list": [6.0], "rubric": [5.0]}
    found = assess(values, [["automated"]], made(), 168, SCORING)
    assert (found.p[0], found.e[0], found.rank[0], found.n_reference[0]) == (1.0, 1.0, 1, 0)


def test_signals_and_classes_that_do_not_fit_are_input_errors() -> None:
    one = Scoring({"timing": 1.0}, SCORING.scale)
    with pytest.raises(InputError, match="use one of"):
        made(9).rows("honest", 24)
    with pytest.raises(InputError, match="classes of 2"):
        assess({"timing": [1.0]}, [["automated"]] * 2, made(9), 24, one)
    for names in ([], ["honest"]):
        with pytest.raises(InputError, match="may be of classes"):
            assess({"timing": [1.0]}, [names], made(9), 24, one)


def test_a_signal_that_the_reference_never_measured_gives_nobody_bits() -> None:
    columns = table(60)
    columns["list"] = np.full(60, np.nan)
    del columns["rubric"]
    rows = Reference.of(columns, ORIGIN).rows("interactive", 24)
    values = {"timing": [2.0], "list": [9.0], "rubric": [9.0]}
    found = score_new(values, rows, "interactive", 24, SCORING)
    assert (found.bits["list"][0], found.bits["rubric"][0]) == (0.0, 0.0)
    assert found.total[0] == pytest.approx(0.5 * found.bits["timing"][0])
    assert (score_reference(rows, "interactive", 24, SCORING).bits["rubric"] == 0).all()


def test_findings_set_aside_are_counted_in_the_origin() -> None:
    reference = made(30).without(["c1", "c2", "never seen"])
    assert reference.cluster_id.size == 28
    assert reference.origin.set_aside == ORIGIN.set_aside + 2
    assert made(30).counts() == {("interactive", 24): 20, ("automated", 24): 10}
