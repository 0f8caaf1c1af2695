"""Every p-value of stats.py, simulated under its null, and once under a planted effect."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator, Philox

from stillproof import stats

Check = Callable[[np.ndarray], None]

NULLS: dict[str, Callable[[Generator, int], np.ndarray]] = {
    "normal": lambda rng, m: rng.normal(size=m),
    "heavy tails": lambda rng, m: rng.standard_t(1.5, size=m),
    "unequal scales": lambda rng, m: rng.normal(size=m) * np.exp(rng.normal(0, 2, size=m)),
    "ties and zeros": lambda rng, m: rng.integers(-2, 3, size=m).astype(float),
}


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("m", [8, 40])
def test_sign_flip_p_values_are_valid(n_simulations: int, assert_valid_p_values: Check, name: str, m: int) -> None:
    rng = Generator(Philox(11))
    tests = [stats.paired_sign_flip(NULLS[name](rng, m), seed=i, n_flips=399) for i in range(n_simulations)]
    assert_valid_p_values(np.array([test.p for test in tests]))
    assert min(test.p for test in tests) >= tests[0].floor or name == "ties and zeros"


def test_sign_flip_p_values_are_not_wasteful(n_simulations: int) -> None:
    """Validity alone is had by p = 1. With continuous data the share at or below 0.05 is nearly 0.05."""
    rng = Generator(Philox(12))
    p = np.array([stats.paired_sign_flip(rng.normal(size=40), seed=i, n_flips=399).p for i in range(n_simulations)])
    assert (p <= 0.05).mean() >= 0.05 - 3 * np.sqrt(0.05 * 0.95 / n_simulations) - 1 / 400


def test_sign_flip_has_power_against_a_planted_effect() -> None:
    rng = Generator(Philox(13))
    p = np.array([stats.paired_sign_flip(rng.normal(0.6, 1, size=40), seed=i, n_flips=399).p for i in range(300)])
    assert (p <= 0.05).mean() > 0.9  # a t test has 0.98


@pytest.mark.parametrize(("n", "rate"), [(20, 0.5), (200, 0.03), (5000, 0.25)])
def test_binomial_p_values_are_valid(n_simulations: int, assert_valid_p_values: Check, n: int, rate: float) -> None:
    rng = Generator(Philox(14))
    counts = rng.binomial(n, rate, size=n_simulations)
    log10_p = np.array([stats.binomial_log10_p(int(k), n, rate) for k in counts])
    assert_valid_p_values(10.0**log10_p)


def test_binomial_has_power_against_a_planted_effect() -> None:
    rng = Generator(Philox(15))
    log10_p = [stats.binomial_log10_p(int(k), 5000, 0.25) for k in rng.binomial(5000, 0.28, size=300)]
    assert np.mean(np.array(log10_p) <= -2) > 0.95


def test_holm_keeps_the_chance_of_any_false_rejection(n_simulations: int, assert_valid_p_values: Check) -> None:
    """Seven dependent nulls among ten: the smallest adjusted p of the true nulls is a valid p-value."""
    rng = Generator(Philox(16))
    smallest = []
    for _ in range(n_simulations):
        shared = rng.normal()
        z = 0.7 * shared + np.sqrt(1 - 0.49) * rng.normal(size=10)
        p = np.array([0.5 * _erfc(value / np.sqrt(2)) for value in z])
        p[7:] = 1e-9
        smallest.append(stats.holm(p)[:7].min())
    assert_valid_p_values(np.array(smallest))


def _erfc(value: float) -> float:
    from math import erfc

    return erfc(value)
