"""Fair coins: what a suspect's preferences are worth when each one's sign was decided by a coin that we tossed.

A *unit* is one number whose sign, under the null, is a fair coin's whatever its size: the suspect's preference for what
was served over what was sealed, summed over all that one coin, or coins that may not be independent, decided. A unit of
0 is a tie: it is 0 whichever way the coin fell, so leaving it out is blind to the coin. Ties are left out.

No test here takes a normal distribution for the null. Enumerated where that is possible; sampled with the +1 rule
elsewhere; and where a sampled p-value is at its floor, the smaller of two upper bounds on the tail of a sum of signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof import stats
from stillproof.errors import ConfigError, InputError
from stillproof.finding import Check, Effect, Finding, Run, decide

Reals = NDArray[np.float64]

Primary = Literal["sign", "flip", "wilcoxon"]

EXACT_RANKS = 400
"""Up to this many units the null of Wilcoxon's statistic is counted out."""

BETS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
"""Stakes of the e-process, in equal parts: 2 * stake is about how far a win rate is beyond a half."""

_TIGHT = 3.1787
"""1 / (4 P(Z >= sqrt 2)), rounded up."""


@dataclass(frozen=True, slots=True)
class CoinSettings:
    """Fixed before the suspect is asked. Raises ConfigError for a level, a test or counts out of range."""

    primary: Primary = "wilcoxon"
    """The test that decides; the others are told beside it and decide nothing."""
    alpha: float = 1e-3
    min_units: int = 10
    """Fewer decide nothing."""
    n_flips: int = 9999
    seed: int = 0

    def __post_init__(self) -> None:
        if self.primary not in get_args(Primary):
            raise ConfigError(
                f"no test is called {self.primary!r}", "primary", f"one of {', '.join(get_args(Primary))}"
            )
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha is {self.alpha!r}", "alpha", "give a level between 0 and 1")
        if self.min_units < 2 or self.n_flips < 99:
            raise ConfigError(
                f"min_units {self.min_units}, n_flips {self.n_flips}", remedy="take 2 units and 99 flips or more"
            )


def sign_log10_p(units: ArrayLike) -> float:
    """log10 p of the exact sign test: as many units above 0, or more, of those that are not 0.

    `units`: shape [m]. H0: signs are independent fair coins. Binomial; 0 (p = 1) where all are ties.
    """
    d = _used(units)
    return stats.binomial_log10_p(int((d > 0).sum()), d.size, 0.5) if d.size else 0.0


def flip_log10_p(units: ArrayLike, *, seed: int, n_flips: int = 9999) -> float:
    """log10 p that the sum of units, shape [m], is so large: Fisher's sign-flip test, also far below 1 / n_flips.

    H0: given their sizes, signs are independent fair coins. Up to `stats.EXACT_FLIPS` units are enumerated. Beyond, p
    is the rank M among sampled flips, (1 + count) / (1 + n_flips); and where M is at its floor, min(M, U), U being
    `signs_log10_bound`. That is valid: {p <= a} is {M <= a} for a at the floor or above, within {U <= a} below it.
    """
    d = _used(units)
    if not d.size:
        return 0.0
    ranked = stats.paired_sign_flip(d, seed=seed, n_flips=n_flips)
    if ranked.exact or ranked.p > ranked.floor * (1 + 1e-9):
        return ranked.log10_p
    return min(ranked.log10_p, signs_log10_bound(d))


def wilcoxon_log10_p(units: ArrayLike, *, seed: int, n_flips: int = 9999) -> float:
    """log10 p of Wilcoxon's signed rank test that units, shape [m], tend to be above 0.

    H0 as `flip_log10_p`. Statistic: the sum of ranks of |unit| over units above 0, equal sizes sharing their mean rank.
    Up to EXACT_RANKS units the null is counted out; beyond, signed ranks are flipped as in `flip_log10_p`, with the
    same bound below the floor. Source: Wilcoxon, Biometrics Bulletin 1, 1945, p. 80.
    """
    d = _used(units)
    if not d.size:
        return 0.0
    _, place, times = np.unique(np.abs(d), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(times) - times + 1)[place]
    if d.size > EXACT_RANKS:
        return flip_log10_p(np.sign(d) * doubled, seed=seed, n_flips=n_flips)
    # Probabilities of each doubled rank sum; positive terms only, so even the far tail keeps its digits.
    law = np.zeros(int(doubled.sum()) + 1)
    law[0], reached = 1.0, 0
    for rank in doubled.tolist():
        reached += rank
        law[rank : reached + 1] += law[: reached + 1 - rank].copy()
        law[: reached + 1] *= 0.5
    return min(0.0, math.log10(float(law[int(doubled[d > 0].sum()) :].sum())))


def signs_log10_bound(units: ArrayLike) -> float:
    """An upper bound on log10 P(sum of signs times |unit| >= sum of units), signs being independent fair coins.

    The smaller of two bounds on one tail, so itself one. (1) 3.1787 P(Z >= z), z = sum / sqrt(sum of squares): Bentkus
    and Dzindzalieta, A tight Gaussian bound for weighted sums of Rademacher random variables, Bernoulli 21, 2015.
    (2) Chernoff's, min over t >= 0 of prod cosh(t |unit|) exp(-t sum): any t is valid, so the search need not be exact.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_ndtr

    d = _used(units)
    total = float(d.sum())
    if not d.size or total <= 0:
        return 0.0
    sizes = np.abs(d) / float(np.abs(d).max())
    total /= float(np.abs(d).max())
    against = 2 * float(sizes[d < 0].sum())
    gaussian = math.log(_TIGHT) + float(log_ndtr(-total / math.sqrt(float((sizes**2).sum()))))

    def exponent(log_t: float) -> float:
        t = math.exp(log_t)
        return t * against + float((np.log1p(np.exp(-2 * t * sizes)) - math.log(2)).sum())

    widest = math.log(40 / float(sizes.min()))
    best = minimize_scalar(exponent, bounds=(math.log(1e-6), widest), method="bounded", options={"xatol": 1e-6})
    chernoff = min(float(best.fun), exponent(widest))
    return min(0.0, gaussian / math.log(10), chernoff / math.log(10))


def bets_log10_e(above: ArrayLike, below: ArrayLike) -> Reals:
    """log10 of the e-process that bets on signs, after counts of units above and below 0; shapes broadcast.

    H0: each sign is a fair coin given all before it, the size of its own unit and whether it is a tie included. Then
    mean over BETS of (1 + b)^above (1 - b)^below has mean 1 at any stopping time: conversations that went as earlier
    coins let them, and audits that stop when they have seen enough, are both covered.
    """
    from scipy.special import logsumexp

    bets = np.array(BETS)
    more, less = np.asarray(above, dtype=np.float64)[..., None], np.asarray(below, dtype=np.float64)[..., None]
    exponents = more * np.log1p(bets) + less * np.log1p(-bets)
    return np.asarray(logsumexp(exponents, axis=-1) - math.log(bets.size)) / math.log(10)


def log10_p_by(primary: Primary, units: ArrayLike, settings: CoinSettings) -> float:
    """log10 p of one of the three tests."""
    if primary == "sign":
        return sign_log10_p(units)
    test: Callable[..., float] = flip_log10_p if primary == "flip" else wilcoxon_log10_p
    return test(units, seed=settings.seed, n_flips=settings.n_flips)


@dataclass(frozen=True, slots=True)
class Told:
    """What a finding says beside its numbers."""

    claim: str
    test: str
    null: str
    unit: str
    assumptions: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    evidence: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    run: Run | None = None


def coin_finding(units: ArrayLike, settings: CoinSettings, told: Told) -> Finding:
    """The finding of units, shape [m], by the primary test; the other two stand among its checks.

    Inconclusive with fewer than `min_units` that are no ties, where even all signs alike could not reach alpha, or
    where a check given failed.
    """
    d = np.asarray(units, dtype=np.float64)
    used = _used(d)
    enough = used.size >= settings.min_units
    counted = f"{used.size} {told.unit}, {settings.min_units} needed; {d.size - used.size} ties left out"
    checks = (*told.checks, Check("enough_units", enough, counted))
    if not all(check.passed is not False for check in checks):
        return replace(_undecided(used.size, settings, told), checks=checks)
    log10_p = log10_p_by(settings.primary, used, settings)
    others = [name for name in get_args(Primary) if name != settings.primary]
    beside = [
        Check(f"beside: {name}", None, f"log10 p {log10_p_by(name, used, settings):.3f}; not what decides")
        for name in others
    ]
    share = stats.proportion_interval(int((used > 0).sum()), used.size)
    return replace(
        _undecided(used.size, settings, told),
        decision=decide(log10_p, settings.alpha, log10_floor=-used.size * math.log10(2)),
        log10_p=log10_p,
        statistic=float(used.sum() / math.sqrt(float((used**2).sum()))),
        effect=Effect(f"{told.unit} in favour", "share", share.estimate, share.low, share.high, share.confidence),
        checks=(*checks, *beside),
    )


def bets_finding(above: int, below: int, settings: CoinSettings, told: Told) -> Finding:
    """The finding of an e-process over signs, at whatever time it stopped."""
    n, log10_e = above + below, float(bets_log10_e(above, below))
    enough = Check("enough_units", n >= settings.min_units, f"{n} {told.unit}, {settings.min_units} needed")
    checks = (*told.checks, enough)
    blank = replace(_undecided(n, settings, told), test=f"{told.test}, bets on signs", checks=checks)
    if not all(check.passed is not False for check in checks):
        return blank
    return replace(
        blank,
        decision="found" if log10_e >= -math.log10(settings.alpha) else "not_found",
        log10_e=log10_e,
        statistic=(above - below) / math.sqrt(n),
        # No interval: one for a number of units fixed in advance would be too narrow.
        effect=Effect(f"{told.unit} in favour", "share", above / n),
    )


class AnytimeCoins:
    """Units as they come in: stop as soon as the evidence is enough, or at any time. See `bets_log10_e`."""

    def __init__(self, settings: CoinSettings, told: Told) -> None:
        self.settings, self._told = settings, told
        self.above = self.below = self.ties = 0

    @property
    def log10_e(self) -> float:
        return float(bets_log10_e(self.above, self.below))

    @property
    def enough(self) -> bool:
        bar = -math.log10(self.settings.alpha)
        return self.above + self.below >= self.settings.min_units and self.log10_e >= bar

    def add(self, unit: float) -> float:
        """log10 e after one more unit. Raises InputError for no number, or once there is enough."""
        if self.enough:
            raise InputError("the audit is decided", remedy="report it with finding()")
        if not math.isfinite(unit):
            raise InputError(f"a unit of {unit!r}", remedy="leave out what could not be scored")
        self.above += int(unit > 0)
        self.below += int(unit < 0)
        self.ties += int(unit == 0)
        return self.log10_e

    def finding(self) -> Finding:
        """What the evidence says now."""
        return bets_finding(self.above, self.below, self.settings, self._told)


def by_account(accounts: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The accounts to test, each once: those named, or all. Raises InputError for one that no coin was tossed for."""
    known = list(dict.fromkeys(accounts))
    if wanted is None:
        return known
    if len(set(wanted)) < len(wanted) or not wanted:
        raise InputError("accounts to test are missing or named twice", remedy="name each once")
    absent = sorted(set(wanted) - set(known))
    if absent:
        raise InputError("an account without a coin", absent[0], "test accounts that were served twins or cards")
    return list(wanted)


def _undecided(n: int, settings: CoinSettings, told: Told) -> Finding:
    return Finding(
        claim=told.claim,
        verb="trace",
        test=f"{told.test}, {settings.primary}",
        kind="design_based",
        null=told.null,
        statistic=None,
        n=n,
        n_unit=told.unit,
        decision="inconclusive",
        alpha=settings.alpha,
        assumptions=told.assumptions,
        evidence=told.evidence,
        run=told.run,
        accounts=told.accounts,
    )


def _used(units: ArrayLike) -> Reals:
    d = np.asarray(units, dtype=np.float64)
    if d.ndim != 1 or not np.isfinite(d).all():
        raise InputError(f"units of shape {d.shape}", remedy="give one vector of finite numbers")
    return d[d != 0]
