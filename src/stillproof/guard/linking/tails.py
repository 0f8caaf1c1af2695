"""Upper tails of the Poisson distribution in log10, exact where the probability itself would underflow."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Nothing is rarer a priori than one in a million: the expected counts are estimates, with nothing to support less.
EXPECTED_FLOOR = 1e-6
_UNDERFLOW = 1e-280
_MAX_TERMS = 100_000


def poisson_log10_tail(count: Floats, expected: Floats) -> Floats:
    """log10 P(N >= count) for N ~ Poisson(expected); shapes broadcast to (n,).

    Null hypothesis: the count is Poisson with the mean given. `count` need not be whole (halves of exchanges); 0 gives
    0. `expected` is floored at EXPECTED_FLOOR. Not a number in either counts as no evidence.
    """
    from scipy.special import gammainc, gammaln

    n, mean = np.broadcast_arrays(np.asarray(count, np.float64), np.asarray(expected, np.float64))
    known = np.isfinite(n) & np.isfinite(mean) & (n > 0)
    n = np.where(known, n, 1.0)
    mean = np.maximum(np.where(known, mean, 1.0), EXPECTED_FLOOR)
    tail = np.asarray(gammainc(n, mean), np.float64)
    deep = tail < _UNDERFLOW
    log10 = np.log10(np.where(deep, 1.0, tail))
    if bool(deep.any()):
        nd, md = n[deep], mean[deep]
        first = nd * np.log(md) - md - np.asarray(gammaln(nd + 1.0), np.float64)
        log10[deep] = (first + np.log(_tail_over_first_term(nd, md))) / np.log(10.0)
    return np.where(known, np.minimum(log10, 0.0), 0.0)


def _tail_over_first_term(n: Floats, mean: Floats) -> Floats:
    # 1 + m/(n+1) + m^2/((n+1)(n+2)) + ...: far in the tail n is well above m, so it converges like a geometric series.
    total = np.ones_like(n)
    term = np.ones_like(n)
    active = np.arange(len(n))
    for step in range(1, _MAX_TERMS):
        term[active] *= mean[active] / (n[active] + step)
        total[active] += term[active]
        active = active[term[active] > 1e-16 * total[active]]
        if not len(active):
            break
    return total
