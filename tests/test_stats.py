import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from stillproof import stats
from stillproof.errors import InputError


def test_the_bootstrap_estimate_is_the_ratio_of_sums_and_lies_inside_its_interval() -> None:
    interval = stats.cluster_bootstrap([1.0, 2.0, 6.0, 3.0], [2.0, 2.0, 4.0, 8.0], seed=1)
    assert interval.estimate == pytest.approx(12 / 16)
    assert interval.low < interval.estimate < interval.high
    assert interval.n == 4


def test_the_bootstrap_gives_the_same_interval_for_the_same_seed_and_another_for_another() -> None:
    x = np.arange(1.0, 41.0)
    same = [stats.cluster_bootstrap(x, x[::-1] + 3, seed=5) for _ in range(2)]
    assert same[0] == same[1]
    assert stats.cluster_bootstrap(x, x[::-1] + 3, seed=6).low != same[0].low


def test_the_bootstrap_does_not_touch_numpys_global_random_state() -> None:
    before = repr(np.random.get_state())
    stats.cluster_bootstrap([1.0, 2.0, 4.0], [1.0, 1.0, 1.0], seed=0)
    stats.paired_sign_flip(np.arange(1.0, 40.0), seed=0)
    assert repr(np.random.get_state()) == before


def test_the_bootstrap_resamples_clusters_not_positions() -> None:
    """Four times the positions in each cluster, and nothing new learned: the interval is the same."""
    rng = np.random.Generator(np.random.Philox(1))
    y = rng.integers(10, 50, size=30).astype(float)
    x = y * rng.gamma(2.0, size=30)
    one, four = (stats.cluster_bootstrap(k * x, k * y, seed=3) for k in (1, 4))
    assert (one.low, one.high) == pytest.approx((four.low, four.high))


def test_empty_clusters_change_nothing() -> None:
    x, y = [1.0, 2.0, 6.0, 3.0], [2.0, 2.0, 4.0, 8.0]
    assert stats.cluster_bootstrap([*x, 0.0], [*y, 0.0], seed=1) == stats.cluster_bootstrap(x, y, seed=1)


def test_blocks_of_resamples_are_one_stream_of_the_right_length() -> None:
    """More clusters than fit in one block with all resamples."""
    m = 3000
    blocks = list(stats._resample_counts(m, 2000, seed=1))
    assert len(blocks) > 1
    assert sum(len(block) for block in blocks) == 2000
    assert all((block.sum(axis=1) == m).all() for block in blocks)


def test_the_interval_of_a_share_stays_between_zero_and_one() -> None:
    hits, sizes = [9.0, 10.0, 10.0, 4.0, 10.0], [10.0] * 5
    interval = stats.cluster_bootstrap(hits, sizes, seed=1, bounds=(0, 1))
    assert 0 <= interval.low < interval.high <= 1


def test_clusters_that_all_agree_give_a_point_and_say_so() -> None:
    interval = stats.cluster_bootstrap([2.0, 4.0, 1.0], [4.0, 8.0, 2.0], seed=1)
    assert (interval.low, interval.high, interval.method) == (0.5, 0.5, "constant")


def test_resamples_without_variance_give_the_percentile_interval_and_say_so() -> None:
    interval = stats.cluster_bootstrap([10.0] * 29 + [5.0], [10.0] * 30, seed=1, bounds=(0, 1))
    assert interval.method == "bootstrap_percentile"
    assert 0.9 < interval.low < interval.estimate < interval.high <= 1


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1.0], [1.0]),
        ([1.0, 0.0], [1.0, 0.0]),
        ([1.0, 2.0], [0.0, 0.0]),
        ([1.0, math.nan], [1.0, 1.0]),
        ([1.0, 2.0], [1.0, -1.0]),
        ([1.0, 2.0], [1.0]),
    ],
)
def test_what_is_no_ratio_of_clusters_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(InputError):
        stats.cluster_bootstrap(x, y, seed=1)


@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.999]))
@settings(max_examples=60, deadline=None)
def test_the_proportion_interval_is_scipys_exact_one(n: int, data: st.DataObject, confidence: float) -> None:
    k = data.draw(st.integers(0, n))
    interval = stats.proportion_interval(k, n, confidence)
    expected = binomtest(k, n).proportion_ci(confidence, method="exact")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_zero_successes_give_the_closed_form_upper_end() -> None:
    interval = stats.proportion_interval(0, 59, 0.9)
    assert interval.low == 0
    assert interval.high == pytest.approx(1 - 0.05 ** (1 / 59))


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(InputError, match="successes of"):
        stats.proportion_interval(k, n)
    with pytest.raises(InputError, match="successes of"):
        stats.binomial_log10_p(k, n, 0.5)


def test_the_sign_flip_p_value_is_exact_when_few() -> None:
    d = [1.5, -0.5, 2.0, 0.25]
    test = stats.paired_sign_flip(d, seed=0)
    sums = [sum(s * v for s, v in zip(signs, d, strict=True)) for signs in itertools.product((1, -1), repeat=4)]
    assert test.p == sum(s >= sum(d) - 1e-9 for s in sums) / 16
    assert test.exact
    assert (test.floor, test.n_null) == (1 / 16, 15)


def test_all_differences_of_one_sign_reach_the_floor_and_no_less() -> None:
    few, many = (stats.paired_sign_flip(np.arange(1.0, m + 1), seed=0, n_flips=999) for m in (10, 60))
    assert few.p == few.floor == 2**-10
    assert many.p == many.floor == 1 / 1000
    assert not many.exact


def test_sampled_and_enumerated_sign_flips_agree() -> None:
    d = np.random.Generator(np.random.Philox(4)).normal(0.3, 1, size=16)
    exact = stats.paired_sign_flip(d, seed=0)
    sampled_sums = np.concatenate(list(stats._flipped_sums(d, 40_000, seed=0)))
    assert exact.exact
    assert (sampled_sums <= 0).mean() == pytest.approx(exact.p, abs=0.01)


def test_no_difference_at_all_is_no_evidence() -> None:
    assert stats.paired_sign_flip([0.0, 0.0, 0.0], seed=0).p == 1
    assert stats.paired_sign_flip([], seed=0).p == 1


def test_ties_count_against_the_claim_in_spite_of_rounding() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floating point, but flipping all three changes nothing."""
    assert stats.paired_sign_flip([0.1, 0.2, -0.3], seed=0).p == stats.paired_sign_flip([1, 2, -3], seed=0).p


@given(st.integers(1, 300), st.data(), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_the_binomial_tail_is_scipys(n: int, data: st.DataObject, p: float) -> None:
    k = data.draw(st.integers(0, n))
    expected = float(binom.logsf(k - 1, n, p)) / math.log(10)
    if expected > -250:
        assert stats.binomial_log10_p(k, n, p) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_binomial_tail_does_not_underflow() -> None:
    assert stats.binomial_log10_p(10_000, 10_000, 0.25) == pytest.approx(10_000 * math.log10(0.25))
    exact = sum(math.comb(4000, k) * 3 ** (4000 - k) for k in range(3000, 4001))  # in units of 4^-4000
    expected = math.log10(exact) - 4000 * math.log10(4)
    assert expected < -400
    assert stats.binomial_log10_p(3000, 4000, 0.25) == pytest.approx(expected, rel=1e-12)


def test_both_ways_to_the_binomial_tail_agree_where_both_work() -> None:
    n, p = 3000, 0.3
    for k in (1000, 1200, 1500):
        series = stats._binomial_log_term(k, n, p) + math.log(stats._tail_in_first_terms(k, n, p))
        assert series / math.log(10) == pytest.approx(stats.binomial_log10_p(k, n, p), rel=1e-10)


def test_no_success_is_no_evidence() -> None:
    assert stats.binomial_log10_p(0, 10, 0.5) == 0


def test_holm_is_the_worked_example() -> None:
    """Holm (1979) steps down: 0.01 * 4, then max(previous, 0.02 * 3), 0.03 * 2, 0.5 * 1."""
    assert stats.holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert stats.holm([]).size == 0


@given(st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=20))
def test_holm_on_logarithms_is_holm(p: list[float]) -> None:
    assert 10 ** stats.holm_log10(np.log10(p)) == pytest.approx(stats.holm(p))
    assert (stats.holm(p) >= np.array(p)).all()


def test_what_is_no_p_value_is_refused() -> None:
    for p in ([1.2], [-0.1], [math.nan]):
        with pytest.raises(InputError):
            stats.holm(p)
    with pytest.raises(InputError):
        stats.holm_log10([0.5])
