"""How the members of a cluster act: like independent customers, or like workers on one queue."""

from __future__ import annotations

import numpy as np

from stillproof.guard.signals.registry import signal
from stillproof.guard.signals.view import DAY_US, Index, Reals, View, ratio, summed

SHORT_GAP_H = 1 / 6
QUEUE_SPREAD, CUSTOMER_SPREAD = 0.1, 3.0
"""Over-dispersion (variance - mean) / mean^2 of the exchange counts of workers on one queue, and of customers."""
LEVELS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Quantiles of the members' counts that are tried as the rate of a queue."""


@signal(
    "evenness",
    group="balance",
    unit="-log2 of over-dispersion, upper bound",
    honest_causes="one pipeline under several undeclared accounts; identical scheduled jobs",
    cleared_by="the accounts are declared as one customer",
)
def evenness(view: View) -> Reals:
    """Honest users of one tool differ in volume by orders of magnitude; a load balancer makes them equal.

    Over-dispersion of the members' exchange counts beyond Poisson, phi = (variance - mean) / mean^2: 0 for workers on
    one queue, exp(sigma^2) - 1 for log-normal users. What counts is an upper bound of it (95%, by the chi-square of the
    variance), because eight strangers are even by chance now and then and a hundred are not.
    """
    from scipy.special import chdtri

    counts = view.by_member("n")
    members = np.bincount(view.member_case, minlength=view.n_cases).astype(float)
    mean = ratio(summed(view.member_case, counts, view.n_cases), members)
    square = ratio(summed(view.member_case, counts**2, view.n_cases), members)
    free = np.maximum(members - 1, 1)
    variance = (square - mean**2) * ratio(members, members - 1)
    upper = np.maximum(variance, mean) * free / chdtri(free, 0.95)
    return -np.log2(np.maximum(ratio(upper - mean, mean**2), 0) + 0.01)


@signal(
    "one_queue",
    group="balance",
    unit="bits",
    honest_causes="one pipeline under several undeclared accounts; identical scheduled jobs",
    cleared_by="the accounts are declared as one customer",
    weight=1.0,
)
def one_queue(view: View) -> Reals:
    """How far the members' counts look like workers on one queue among strangers, rather than like customers alone.

    Sum over members of log2(1/2 + 1/2 q(n) / c(n)), with q and c negative binomial: q around the rate that suits best
    of LEVELS, c around the mean of all. Unlike `evenness` it grows with the members, and a stranger among them costs a
    bit at most.
    """
    case, n = view.member_case, view.by_member("n")
    members = np.bincount(case, minlength=view.n_cases).astype(float)
    mean = ratio(summed(case, n, view.n_cases), members)
    customers = _log_negative_binomial(n, mean[case], CUSTOMER_SPREAD)
    best = np.full(view.n_cases, -np.inf)
    for rate in _quantiles(case, n, members):
        queue = _log_negative_binomial(n, np.maximum(rate, 0.5)[case], QUEUE_SPREAD)
        nats = summed(case, np.logaddexp(0, queue - customers), view.n_cases)
        best = np.maximum(best, nats / np.log(2) - members)
    return np.where(mean > 0, best, np.nan)


def _quantiles(case: Index, n: Reals, members: Reals) -> list[Reals]:
    """[C] the quantile of the members' counts at each of LEVELS, linear between ranks; 0 for a case without members."""
    ordered = np.append(n[np.lexsort((n, case))], 0.0)
    start = np.cumsum(members).astype(np.int64) - members.astype(np.int64)
    found: list[Reals] = []
    for level in LEVELS:
        place = np.maximum(members - 1, 0) * level
        low = np.minimum(start + np.floor(place).astype(np.int64), ordered.size - 1)
        high = np.minimum(start + np.ceil(place).astype(np.int64), ordered.size - 1)
        found.append(ordered[low] + (ordered[high] - ordered[low]) * (place - np.floor(place)))
    return found


def _log_negative_binomial(n: Reals, mean: Reals, spread: float) -> Reals:
    """log probability of counts n [M] where variance is mean + spread mean^2."""
    from scipy.special import gammaln, xlogy

    r = 1 / spread
    return gammaln(n + r) - gammaln(r) - gammaln(n + 1) + r * np.log(r / (r + mean)) + xlogy(n, mean / (r + mean))


@signal(
    "calm",
    group="rhythm",
    unit="log2",
    honest_causes="throttled batch jobs",
    cleared_by="a schedule that explains the spacing",
)
def calm(view: View) -> Reals:
    """People and scripts come in bursts; a balanced pool spaces requests out.

    log2 of the short gaps (under ten minutes) that a Poisson process of the member's own rate would show, over those
    seen.
    """
    n = view.by_member("n")
    hours = view.horizon_h[view.member_case]
    expected = np.maximum(n - 1, 0) * -np.expm1(-n / hours * SHORT_GAP_H)
    seen = view.by_case("n_short_gap")
    return np.log2(ratio(summed(view.member_case, expected, view.n_cases) + 1.0, seen + 1.0))


@signal(
    "round_the_clock",
    group="rhythm",
    unit="share",
    honest_causes="services with users in all time zones; scheduled jobs",
    cleared_by="a service with its own end users, declared",
)
def round_the_clock(view: View) -> Reals:
    """Each member's own hours of the day, against a member that never sleeps.

    Distinct hours of the day over their expectation for the same number of active hours at uniform hours. Needs a day.
    """
    slot = view.row_member * 24 + view.row_hour % 24
    distinct = np.bincount(np.unique(slot) // 24, minlength=view.member_case.size).astype(float)
    active = np.bincount(view.row_member, minlength=view.member_case.size).astype(float)
    uniform = 24 * -np.expm1(active * np.log1p(-1 / 24))
    value = view.mean_of_members(ratio(distinct, uniform), np.maximum(active - 1, 0))
    return np.where(view.horizon_h >= 24, value, np.nan)


@signal(
    "in_step",
    group="step",
    unit="correlation",
    honest_causes="a class or a team at the same hours; an outage; a release",
    cleared_by="a common event that explains the hours",
)
def in_step(view: View) -> Reals:
    """Two random halves of the members, hour by hour: do they rise and fall together?

    Correlation of the halves' hourly totals after the mean of each hour of the day is taken out, so that common
    daytime is not coordination. Needs two days.
    """
    half = (view.row_member * 0x9E3779B1) >> 7 & 1
    value = np.full(view.n_cases, np.nan)
    order = np.argsort(view.row_case, kind="stable")
    bounds = np.searchsorted(view.row_case[order], np.arange(view.n_cases + 1))
    for case in np.flatnonzero(view.horizon_h >= 48):
        rows = order[bounds[case] : bounds[case + 1]]
        if rows.size:
            value[case] = _halves(view.row_hour[rows], half[rows], view.counts["n"][rows], int(view.horizon_h[case]))
    return value


def _halves(hour: Index, half: Index, n: Reals, horizon_h: int) -> float:
    at = hour - hour.min()
    days = -(-max(horizon_h, int(at.max()) + 1) // 24)
    totals = np.zeros((2, days * 24))
    np.add.at(totals, (half, at), n)
    totals = np.sqrt(totals).reshape(2, days, 24)
    totals -= totals.mean(axis=1, keepdims=True)
    a, b = totals.reshape(2, -1)
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else np.nan


@signal(
    "joint_start",
    group="adoption",
    unit="share",
    honest_causes="a course; a launch; a tool that goes viral",
    cleared_by="the event that brought them",
)
def joint_start(view: View) -> Reals:
    """Largest share of members that first used what links them within one window of 24 hours.

    Members that may have used it before the log began count as not joining.
    """
    return _largest_share(view, view.member_first_us, DAY_US)


@signal(
    "joint_signup",
    group="adoption",
    unit="share",
    honest_causes="a course; a company on-boarding without declaring it",
    cleared_by="the organisation that they belong to, declared",
    weight=1.0,
)
def joint_signup(view: View) -> Reals:
    """Largest share of members that signed up within one window of three days."""
    return _largest_share(view, view.member_signup_us, 3 * DAY_US)


def _largest_share(view: View, times: Reals, window_us: float) -> Reals:
    value = np.full(view.n_cases, np.nan)
    members = np.bincount(view.member_case, minlength=view.n_cases)
    known = np.flatnonzero(np.isfinite(times))
    order = known[np.lexsort((times[known], view.member_case[known]))]
    bounds = np.searchsorted(view.member_case[order], np.arange(view.n_cases + 1))
    for case in range(view.n_cases):
        own = times[order[bounds[case] : bounds[case + 1]]]
        if own.size:
            together = (np.searchsorted(own, own + window_us, "right") - np.arange(own.size)).max()
            value[case] = together / members[case]
    return value
