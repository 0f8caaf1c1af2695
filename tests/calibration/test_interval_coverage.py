"""How often each interval covers the truth. The figures in the docstring of `cluster_bootstrap` come from here.

`STILLPROOF_CALIBRATION_N=10000 pytest tests/calibration -k covers -rP` prints them with a standard error near 0.25%.
"""

import math

import numpy as np
import pytest
from numpy.random import Generator, Philox

from stillproof import stats

# clusters, sigma of log cluster size, sigma of log cluster mean -> least coverage allowed of a nominal 95%
CASES = {
    (30, 0.6, 0.3): 0.93,
    (100, 0.6, 0.3): 0.935,
    (300, 0.6, 0.3): 0.94,
    (30, 1.0, 1.0): 0.88,
    (100, 1.0, 1.0): 0.90,
    (300, 1.0, 1.0): 0.915,
}


@pytest.mark.parametrize("case", CASES)
def test_cluster_bootstrap_covers_as_its_docstring_says(n_simulations: int, case: tuple[int, float, float]) -> None:
    clusters, size_sigma, mean_sigma = case
    rng = Generator(Philox(21))
    n = n_simulations if clusters < 300 else n_simulations // 2
    resamples = 500 if n_simulations == 2000 else 2000  # fewer cost half a percent of coverage, and are quick
    missed_low = missed_high = 0
    for i in range(n):
        sizes = np.ceil(np.exp(rng.normal(5, size_sigma, size=clusters)))
        means = np.exp(rng.normal(-(mean_sigma**2) / 2, mean_sigma, size=clusters))  # mean 1 whatever the size
        interval = stats.cluster_bootstrap(means * sizes, sizes, resamples=resamples, seed=i)
        assert interval.method == "bootstrap_t"
        missed_low += interval.high < 1
        missed_high += interval.low > 1
    coverage = 1 - (missed_low + missed_high) / n
    print(f"{case}: covers {coverage:.4f}; all below {missed_low / n:.4f}, all above {missed_high / n:.4f}")  # noqa: T201
    assert coverage >= CASES[case] - 3 * math.sqrt(CASES[case] * (1 - CASES[case]) / n)


@pytest.mark.parametrize("rate", [0.6, 0.9])
def test_cluster_bootstrap_of_a_share_covers(n_simulations: int, rate: float) -> None:
    rng = Generator(Philox(22))
    covered = 0
    for i in range(n_simulations):
        sizes = np.ceil(np.exp(rng.normal(5, 0.6, size=40)))
        hits = rng.binomial(sizes.astype(int), rng.beta(20 * rate, 20 * (1 - rate), size=40))
        interval = stats.cluster_bootstrap(hits, sizes, resamples=500, seed=i, bounds=(0, 1))
        covered += interval.low <= rate <= interval.high
    coverage = covered / n_simulations
    print(f"share {rate}: covers {coverage:.4f}")  # noqa: T201
    assert coverage >= 0.93 - 3 * math.sqrt(0.93 * 0.07 / n_simulations)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_clopper_pearson_never_covers_less_than_it_says(confidence: float) -> None:
    """Exact: the coverage is summed over all counts, at a grid of true proportions."""
    n = 40
    intervals = [stats.proportion_interval(k, n, confidence) for k in range(n + 1)]
    for rate in np.linspace(0.001, 0.999, 333):
        masses = [math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n + 1)]
        coverage = sum(m for m, i in zip(masses, intervals, strict=True) if i.low <= rate <= i.high)
        assert coverage >= confidence - 1e-12
