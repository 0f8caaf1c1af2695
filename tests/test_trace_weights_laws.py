"""The exact laws of a matching between strangers, the similarities, the index, and the order of data."""

import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.random import Generator, Philox
from tests import weight_files as wf

from stillproof.errors import InputError, OutputExistsError, SchemaError
from stillproof.trace.weights import index, similarity
from stillproof.trace.weights.comparing import measure
from stillproof.trace.weights.layers import model_of
from stillproof.trace.weights.localisation import place
from stillproof.trace.weights.matching import (
    SPEARMAN_LOG10_FLOOR,
    assign,
    assign_smaller,
    cosines,
    fisher_log10_p,
    fixed_points,
    fixed_points_log10_p,
    spearman,
    spearman_log10_p,
)
from stillproof.trace.weights.palimpsest import order_finding, read_order
from stillproof.trace.weights.reading import read_model
from stillproof.trace.weights.reference import Reference

N = max(2_000, int(os.environ.get("STILLPROOF_CALIBRATION_N", "2000")))


def assert_valid(p: np.ndarray) -> None:
    """The contract of every p-value, as in tests/calibration."""
    assert ((p > 0) & (p <= 1)).all()
    for a in (0.01, 0.05, 0.2):
        assert (p <= a).mean() <= a + 3 * np.sqrt(a * (1 - a) / p.size), a


# --- closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n"), [(7, 7), (4, 7), (2, 7), (1, 5)])
def test_the_bound_is_above_the_exact_tail_of_fixed_points(m: int, n: int) -> None:
    counts = [sum(image == i for i, image in enumerate(p)) for p in itertools.permutations(range(n), m)]
    for k in range(1, m + 1):
        exact = sum(count >= k for count in counts) / len(counts)
        assert exact <= 10 ** fixed_points_log10_p(k, m / n) * (1 + 1e-12)


def test_the_bound_is_above_the_exact_tail_over_several_layers() -> None:
    counts = [sum(image == i for i, image in enumerate(p)) for p in itertools.permutations(range(6))]
    once = np.bincount(counts, minlength=7) / math.factorial(6)
    thrice = np.convolve(np.convolve(once, once), once)
    for k in range(4, 19):
        assert thrice[k:].sum() <= 10 ** fixed_points_log10_p(k, 3.0) * (1 + 1e-12)


def test_a_whole_layer_in_place_is_about_as_rare_as_one_permutation_among_all() -> None:
    for n in (64, 512):
        exact = -math.lgamma(n + 1) / math.log(10)
        assert exact <= fixed_points_log10_p(n, 1.0) <= exact + 2.5


def test_spearman_is_one_minus_six_sum_d_squared() -> None:
    assert spearman(np.arange(20)) == 1
    assert spearman(np.arange(20)[::-1]) == -1
    assert spearman(np.array([1, 0, 2, 3])) == pytest.approx(0.8)
    assert spearman(np.array([5, 9, 40, 41])) == 1  # units removed in order


def test_spearman_p_is_greater_sided_and_never_below_its_floor() -> None:
    assert spearman_log10_p(-1.0, 64) == pytest.approx(0, abs=1e-9)
    assert spearman_log10_p(0.0, 64) == pytest.approx(math.log10(0.5))
    assert spearman_log10_p(1.0, 64) == spearman_log10_p(0.999, 64) == SPEARMAN_LOG10_FLOOR
    assert spearman_log10_p(1.0, 15) == 0


def test_fisher_is_the_tail_of_chi_squared() -> None:
    from scipy.stats import chi2

    ps = [0.01, 0.5, 0.2]
    expected = chi2.logsf(-2 * sum(map(math.log, ps)), 6) / math.log(10)
    assert fisher_log10_p([math.log10(p) for p in ps]) == pytest.approx(expected)
    assert fisher_log10_p([-3.0]) == pytest.approx(-3.0)
    assert fisher_log10_p([]) == fisher_log10_p([0.0, 0.0]) == 0
    assert -6000 < fisher_log10_p([-200.0] * 30) < -5800  # deeper than a float


# --- the null -------------------------------------------------------------------------------------------------


def test_matchings_of_strangers_have_valid_p_values_whatever_the_weights_look_like() -> None:
    """Rows of very unequal sizes, a direction that all share, zeros and copies: only labels are random."""
    rng = Generator(Philox(1))
    n, d = 24, 6
    a = rng.standard_normal((n, d)) * np.geomspace(1, 100, n)[:, None] + 2
    b = rng.standard_normal((n, d)) * np.geomspace(1, 100, n)[:, None] + 2
    a[:6], b[:6], a[6:9], b[6:9] = 0, 0, 1, 1
    labels, orders = np.empty(N), np.empty(N)
    for i in range(N):
        relabelled = b[rng.permutation(n)].astype(np.float32)
        matching = assign(cosines(a.astype(np.float32), relabelled), seed=i)
        labels[i] = 10 ** fixed_points_log10_p(fixed_points(matching), 1.0)
        orders[i] = 10 ** spearman_log10_p(spearman(matching), n)
    assert_valid(labels)
    assert_valid(orders)


def test_ties_fall_without_regard_to_numbers() -> None:
    flat = np.zeros((40, 40), np.float32)
    found = [fixed_points(assign(flat, seed)) for seed in range(500)]
    assert np.mean(found) == pytest.approx(1, abs=4 / np.sqrt(500))


def test_removed_units_leave_valid_p_values() -> None:
    rng = Generator(Philox(2))
    ps, fixed = np.empty(N), np.empty(N)
    for i in range(N):
        small, large = rng.standard_normal((20, 5)), rng.standard_normal((30, 5))
        matching, turned = assign_smaller(cosines(large, small), seed=i)
        assert turned and matching.size == 20
        ps[i] = 10 ** spearman_log10_p(spearman(matching), 20)
        fixed[i] = 10 ** fixed_points_log10_p(fixed_points(matching), 20 / 30)
    assert_valid(ps)
    assert_valid(fixed)


def test_whole_comparisons_of_strangers_have_valid_p_values(tmp_path: Path) -> None:
    """Layers are chosen by likeness first: the choice must not show in the p-values."""
    rng = Generator(Philox(3))
    a = model_of(read_model(wf.write(tmp_path / "a", wf.weights(1))))
    stranger, labels, orders = wf.tuned(wf.weights(2)), [], []
    for i in range(120):
        relabelled = wf.reordered(stranger, [rng.permutation(wf.UNITS) for _ in range(wf.LAYERS)])
        b = model_of(read_model(wf.write(tmp_path / str(i), {k: v for k, v in relabelled.items() if "layers" in k})))
        matched = measure(a, b, seed=i).matched
        labels.append(10 ** fixed_points_log10_p(sum(m.fixed_points for m in matched), wf.LAYERS))
        orders.append(10 ** fisher_log10_p([spearman_log10_p(m.spearman, wf.UNITS) for m in matched]))
    assert_valid(np.array(labels))
    assert_valid(np.array(orders))


def test_a_rank_among_the_reference_is_a_valid_p_value() -> None:
    rng = Generator(Philox(4))
    ps = np.empty(N)
    for i in range(N):
        values = rng.integers(0, 40, 100).astype(float)  # with ties
        ps[i] = 10 ** Reference(tuple((v, 0.0, 0.0, 0.0) for v in values[1:]), 9, "x").log10_p(
            "unit_agreement", values[0]
        )
    assert_valid(ps)
    assert ps.min() == pytest.approx(0.01)


@pytest.mark.parametrize("ties", [False, True])
def test_an_order_that_had_no_part_in_the_suspect_has_a_valid_p_value(ties: bool) -> None:
    rng = Generator(Philox(5))
    losses = rng.integers(0, 5, 100).astype(float) if ties else rng.standard_cauchy(100)
    ps = np.array([10 ** (order_finding(losses, rng.permutation(100)).log10_p or 0) for _ in range(N)])
    assert_valid(ps)


def test_a_suspect_that_remembers_late_examples_is_found() -> None:
    rng = Generator(Philox(6))
    steps = rng.permutation(2_000)
    finding = order_finding(-2 + 3e-4 * steps + rng.standard_normal(2_000), steps)
    assert finding.decision == "found" and finding.log10_p is not None and finding.log10_p < -5
    assert order_finding(-2 - 3e-4 * steps, steps).decision == "not_found"
    assert order_finding([0.0] * 50, range(50)).decision == "inconclusive"


@pytest.mark.parametrize(("losses", "steps"), [([1.0], [1, 2]), ([math.nan] * 2, [1, 2]), ([1.0, 2.0], [1, 1])])
def test_an_order_that_is_none_is_refused(losses: list, steps: list) -> None:
    with pytest.raises(InputError):
        order_finding(losses, steps)


def logged(path: Path, rows: list[str]) -> Path:
    columns = {"step": list(range(len(rows))), "row": [0] * len(rows), "row_sha256": rows}
    pq.write_table(pa.table(columns), path)
    return path


def test_a_logged_order_gives_the_place_at_which_each_row_was_last_shown(tmp_path: Path) -> None:
    assert read_order(logged(tmp_path / "o.parquet", ["a", "b", "c", "b", "a"])) == {"c": 2, "b": 3, "a": 4}


def test_last_places_of_several_shuffled_epochs_have_valid_p_values() -> None:
    rng = Generator(Philox(8))
    names, ps = [str(at) for at in range(100)], np.empty(N)
    losses = rng.standard_normal(100)
    for i in range(N):
        epochs = [rng.permutation(100), rng.permutation(100), rng.permutation(100)[:37]]
        shown = [names[at] for epoch in epochs for at in epoch]
        places = {row: place for place, row in enumerate(shown)}
        ps[i] = 10 ** (order_finding(losses, [places[name] for name in names]).log10_p or 0)
    assert_valid(ps)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet"])
def test_a_file_that_is_no_logged_order_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "o.parquet").write_bytes(content)
    with pytest.raises(InputError, match="not a logged data order"):
        read_order(tmp_path / "o.parquet")
    with pytest.raises(InputError, match="not a logged data order"):
        read_order(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="without rows"):
        read_order(logged(tmp_path / "empty.parquet", []))


# --- similarities ---------------------------------------------------------------------------------------------


def test_a_rotation_is_found_and_undone() -> None:
    rng = Generator(Philox(7))
    a = rng.standard_normal((200, 16)).astype(np.float32)
    q, _ = np.linalg.qr(rng.standard_normal((16, 16)))
    b = (3 * a @ q).astype(np.float32)
    assert np.allclose(similarity.rotation(a, b), q.T, atol=1e-4)
    assert similarity.aligned_cosine(a, b) == pytest.approx(1, abs=1e-5)
    assert similarity.cka(a, b) == pytest.approx(1, abs=1e-5)


def test_strangers_have_similarities_about_zero() -> None:
    rng = Generator(Philox(8))
    values = [
        (similarity.aligned_cosine(a, b), similarity.cka(a, b))
        for a, b in (rng.standard_normal((2, 200, 16)).astype(np.float32) for _ in range(50))
    ]
    assert np.abs(np.mean(values, axis=0)).max() < 0.02


def test_each_layer_is_placed_once() -> None:
    likeness = np.array([[0.9, 0.8, 0.1], [0.95, 0.2, 0.1]], np.float32)
    pairs = place(likeness, [4, 7], [0, 1, 2])
    assert [(pair.layer_a, pair.layer_b) for pair in pairs] == [(7, 0), (4, 1)]


# --- index ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for seed in range(8):
        model = wf.write(folder / "models" / str(seed), wf.weights(seed))
        index.add(folder / "index", index.sketch_model(model, f"family {seed}"))
    return folder / "index"


@pytest.mark.parametrize("make", [wf.tuned, lambda a: wf.kept(wf.tuned(a), [0, 2])], ids=["tuned", "dropped"])
def test_a_suspect_is_matched_to_its_family_alone(known: Path, tmp_path: Path, make: Callable) -> None:
    suspect = wf.write(tmp_path / "s", make(wf.weights(3)))
    matches = index.match(suspect, index.read_index(known))
    assert matches[0].name == "family 3" and matches[0].finding.log10_p < -10
    assert [m.name for m in matches if m.finding.decision == "found"] == ["family 3"]
    assert matches[0].finding.family_n == 8


def test_a_stranger_matches_no_family(known: Path, tmp_path: Path) -> None:
    matches = index.match(wf.write(tmp_path / "s", wf.weights(99)), index.read_index(known), alpha=0.01)
    assert {m.finding.decision for m in matches} == {"not_found"}


def test_sketched_matches_of_strangers_have_valid_p_values(tmp_path: Path, known: Path) -> None:
    rng = Generator(Philox(9))
    sketches, ps = index.read_index(known), []
    for i in range(40):
        relabelled = wf.reordered(wf.weights(50), [rng.permutation(wf.UNITS) for _ in range(wf.LAYERS)])
        for match in index.match(wf.write(tmp_path / str(i), relabelled), sketches, seed=i):
            ps.append(10**match.finding.log10_p)
    assert_valid(np.array(ps))


def test_a_model_of_another_width_is_inconclusive_for_the_index(known: Path, tmp_path: Path) -> None:
    matches = index.match(wf.write(tmp_path / "s", wf.weights(1, hidden=48)), index.read_index(known))
    assert {m.finding.decision for m in matches} == {"inconclusive"}


def test_a_sketch_survives_its_file(known: Path, tmp_path: Path) -> None:
    sketch = index.sketch_model(wf.write(tmp_path / "m", wf.weights(1)), "a \u202ename/../x")
    path = index.add(tmp_path / "i", sketch)
    (back,) = index.read_index(tmp_path / "i")
    assert path.parent == tmp_path / "i"
    assert back.name == sketch.name and back.hidden == sketch.hidden
    for name in ("units", "numbers", "rows", "grams"):
        assert (getattr(back, name) == getattr(sketch, name)).all()
    with pytest.raises(OutputExistsError, match="the index knows"):
        index.add(tmp_path / "i", sketch)


def test_files_that_are_no_sketches_are_refused(tmp_path: Path) -> None:
    path = tmp_path / f"x{index.SUFFIX}"
    head = np.frombuffer(json.dumps({"schema": "weights-sketch/9", "name": "x", "hidden": 4}).encode(), np.uint8)
    arrays = {name: np.zeros((1, 1, 1)) for name in ("units", "numbers", "rows", "grams")}
    np.savez(path, head=head, **arrays)
    with pytest.raises(SchemaError):
        index.read_index(tmp_path)
    np.savez(path, head=np.frombuffer(bytes(head).replace(b"/9", b"/1"), np.uint8), **arrays)
    with pytest.raises(InputError, match="do not fit"):
        index.read_index(tmp_path)
    np.savez(path, head=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a sketch"):
        index.read_index(tmp_path)
    path.write_bytes(b"PK no")
    with pytest.raises(InputError, match="not a sketch"):
        index.read_index(tmp_path)
    with pytest.raises(InputError, match="without sketches"):
        index.match(tmp_path, [])
