"""Bits on a fixed scale, and the score that they add up to."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, Philox

from stillproof.errors import InputError
from stillproof.guard.reference import CLASSES
from stillproof.guard.scanning import HORIZONS_H
from stillproof.guard.scoring import MAX_BITS, Knots, Scoring, read_scale, save_scale, standard

PLACE = ("automated", 12, "timing")


def test_bits_are_the_rarity_of_a_value_among_honest_clusters() -> None:
    honest = Generator(Philox(1)).exponential(size=20_000)
    knots = Knots.of(honest)
    assert knots is not None
    values = np.array([0.5, 1.0, 2.0, 4.0])
    # Of an exponential law P(X >= x) = exp(-x): x / ln 2 bits, beyond the sample as well.
    assert knots.read(values) == pytest.approx(values / np.log(2), abs=0.2)
    assert knots.read(np.array([8.0])) == pytest.approx([8 / np.log(2)], rel=0.08)


def test_beyond_the_rarest_honest_cluster_larger_values_have_more_bits_up_to_the_cap() -> None:
    knots = Knots.of(np.arange(64.0))
    assert knots is not None
    near, far, farther = knots.read(np.array([63.0, 90.0, 1e9]))
    assert 4 < near < far < farther == MAX_BITS


def test_where_all_honest_clusters_show_the_same_a_larger_value_is_one_in_n_and_one() -> None:
    knots = Knots.of(np.zeros(127))
    assert knots is not None
    assert knots.read(np.array([-1.0, 0.0, 0.1, 5.0])).tolist() == [0.0, 0.0, 7.0, 7.0]


def test_a_value_that_half_of_the_honest_clusters_share_is_one_bit() -> None:
    knots = Knots.of([0.0] * 50 + [1.0] * 50)
    assert knots is not None
    assert knots.read(np.array([1.0])).tolist() == [1.0]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.lists(st.floats(-1e7, 1e7), max_size=20))
def test_larger_values_never_have_fewer_bits(honest: list[float], values: list[float]) -> None:
    knots = Knots.of(honest)
    assert knots is not None
    bits = knots.read(np.sort(np.array(values)))
    assert (np.diff(bits) >= -1e-9).all()
    assert ((bits >= 0) & (bits <= MAX_BITS)).all()


def test_nothing_measured_has_no_knots_and_what_was_not_measured_no_bits() -> None:
    assert Knots.of([np.nan]) is None
    knots = Knots.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert knots is not None
    scoring = Scoring({"timing": 1.0, "unknown": 1.0}, {PLACE: knots})
    found = scoring.of({"timing": [np.nan, 5.0], "unknown": [9.0, 9.0]}, "automated", 12)
    assert found.bits["timing"][0] == 0.0
    assert found.bits["timing"][1] > 0
    assert found.bits["unknown"].tolist() == [0.0, 0.0]


def test_the_score_is_the_weighted_sum_of_the_bits() -> None:
    knots = Knots.of(np.arange(100.0))
    assert knots is not None
    scoring = Scoring({"a": 0.5, "b": 2.0}, {("automated", 1, "a"): knots, ("automated", 1, "b"): knots})
    found = scoring.of({"a": [50.0], "b": [75.0]}, "automated", 1)
    assert found.total[0] == pytest.approx(0.5 * found.bits["a"][0] + 2 * found.bits["b"][0], abs=1e-9)


def test_no_weights_and_missing_signals_are_input_errors() -> None:
    with pytest.raises(InputError, match="no signal"):
        Scoring({}, {}).of({}, "automated", 1)
    with pytest.raises(InputError, match="no values"):
        Scoring({"a": 1.0, "b": 1.0}, {}).of({"a": [1.0]}, "automated", 1)


def test_a_scale_survives_its_file(tmp_path: Path) -> None:
    knots = Knots.of(Generator(Philox(3)).normal(size=500))
    assert knots is not None
    save_scale({PLACE: knots}, tmp_path / "scale.json")
    read = read_scale(tmp_path / "scale.json")[PLACE]
    assert read.n == 500
    np.testing.assert_allclose(read.values, knots.values, rtol=1e-5)
    np.testing.assert_allclose(read.bits, knots.bits, rtol=1e-5)
    for text in ("{", "[1]", '[["automated", 1, "a", 3, ["x"], [0]]]'):
        (tmp_path / "scale.json").write_text(text)
        with pytest.raises(InputError, match="scale cannot be read"):
            read_scale(tmp_path / "scale.json")


def test_the_scale_that_comes_along_knows_every_weighted_signal_at_every_place() -> None:
    scoring = standard()
    weighted = [name for name, weight in scoring.weights.items() if weight]
    places = [(name, hours, signal) for name in CLASSES for hours in HORIZONS_H for signal in weighted]
    assert weighted
    assert [place for place in places if place not in scoring.scale] == []
