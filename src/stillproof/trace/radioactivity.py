"""Radioactivity: did a suspect learn from text that carries our watermark? Exact p-values, by design.

The coins are the key's. H0: nothing that shaped the suspect depended on the key; then every distinct tuple is a fresh
toss, and the sum of scores is binomial (green list) or Gamma (Gumbel marks). Where tuples have weights the p-value is
Chernoff's bound: valid, and larger than the tail by a factor of about ten. Source: Sander et al., Watermarking makes
language models radioactive, NeurIPS 2024; the repairs, against copying from the context and against evidence that falls
with more text, are in evidence.py.

Every test is run under at least 10,000 decoy keys too. If their z-scores do not spread as the law says (sd 1), or the
true key's rank among them contradicts the p-value, the p-value is refused and the finding is inconclusive. Decoys show
a law that is wrong for every key; they cannot show a suspect that copies marked text, which evidence.py shuts out.

What is found is that the suspect learned from text that carries the key, directly or from another student of it: not
who trained it, nor how it came by the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof import stats
from stillproof.errors import ConfigError, InputError
from stillproof.finding import Check, Effect, Finding, Run, decide, holm
from stillproof.trace.evidence import Tuples, TupleStream, joined
from stillproof.trace.tails import log10_p_of
from stillproof.watermark import Law, MarkKey, decoy_lanes, law_of, score_lanes, verify_commitment

Reals = NDArray[np.float64]

MIN_DECOYS = 10_000
SD_TOLERANCE = 0.03
"""Of the decoys' z-scores, around 1: four standard errors of the sd of 10,000."""

TEST = "radioactivity"
NULL = "nothing that shaped the suspect depended on the key: each distinct tuple is an independent toss of it"
_CLAIM = "this model learned from text that carries our key"

_LIFTS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Alternatives of the e-process: mean score above the null's, in its standard deviations, roughly."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Fixed before the first query. Raises ConfigError for fewer decoys than MIN_DECOYS or a level out of range."""

    alpha: float = 1e-3
    n_decoys: int = MIN_DECOYS
    decoy_seed: int = 0
    min_tuples: int = 100
    """Fewer decide nothing."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha is {self.alpha!r}", "alpha", "give a level between 0 and 1")
        if self.n_decoys < MIN_DECOYS:
            raise ConfigError(f"{self.n_decoys} decoy keys", "n_decoys", f"take {MIN_DECOYS} or more")
        if self.min_tuples < 2:
            raise ConfigError(f"min_tuples is {self.min_tuples}", "min_tuples", "one tuple proves nothing")


@dataclass(frozen=True, slots=True)
class Decoys:
    """Sums of scores of the same tuples under keys that never marked anything."""

    sums: Reals
    mean: float
    sd: float
    """By the law; not of `sums`."""

    @property
    def z(self) -> Reals:
        return (self.sums - self.mean) / self.sd

    def rank(self, total: float) -> int:
        """1 + number of decoys at or above: P(rank <= r) <= r / (n + 1) where the text does not depend on the key."""
        return 1 + int(np.count_nonzero(self.sums >= total - 1e-9 * max(1.0, abs(total))))


def decoys_of(tuples: Tuples, key: MarkKey, settings: AuditSettings) -> Decoys:
    """The tuples under `settings.n_decoys` keys: n_decoys * len(tuples) pairs, some 20 million a second."""
    mean, sd = _moments(tuples, law_of(key.scheme))
    lanes = decoy_lanes(settings.n_decoys, settings.decoy_seed)
    return Decoys(_scores(tuples, key, lanes), mean, sd)


def find_mark(
    tuples: Tuples,
    key: MarkKey,
    commitment: str,
    settings: AuditSettings | None = None,
    *,
    text_is_marked: bool = False,
    exchange_ids: Sequence[str] = (),
    run: Run | None = None,
) -> Finding:
    """One finding of the global key on `closed_tuples` or `open_tuples`.

    `commitment`: published before the audit. `text_is_marked`: in open mode, the text that was read carries the mark
    (the set of tuples then depends on the key, and no rank among decoys is taken). Windows that carry sub-keys of
    accounts are left out. H0: NULL. Raises MismatchError where the key is not the one committed to, InputError where
    windows are not of the scheme's length. Too few tuples, or decoys that do not behave, are inconclusive.
    """
    settings = settings or AuditSettings()
    _same_scheme(tuples, key, commitment)
    own = tuples.where(~key.for_account(tuples.windows))
    return _finding(own, key, key.lane, settings, _Say(_CLAIM, text_is_marked, tuple(exchange_ids), run))


def find_accounts(
    tuples: Tuples,
    key: MarkKey,
    commitment: str,
    accounts: Sequence[str],
    settings: AuditSettings | None = None,
    *,
    run: Run | None = None,
) -> list[Finding]:
    """One finding an account, under its sub-key on the windows that carry sub-keys; p-values paid for by Holm.

    Names the account *to which the text was served*: resale, a leak and a stolen account are other explanations.
    H0 of each: nothing that shaped the suspect depended on this account's sub-key. Raises as `find_mark`, and
    InputError where the scheme has no sub-keys or an account is named twice.
    """
    settings = settings or AuditSettings()
    _same_scheme(tuples, key, commitment)
    if key.scheme.account_share == 0:
        raise InputError("the scheme has no sub-keys of accounts", remedy="serve with account_share above 0")
    if len(set(accounts)) < len(accounts) or not accounts:
        raise InputError("accounts to test are missing or named twice", remedy="name each once")
    own = tuples.where(key.for_account(tuples.windows))
    lanes = np.stack([key.account_lane(account) for account in accounts])
    if len(own) < settings.min_tuples:
        decoys, sums = None, np.zeros(len(accounts))
    else:
        decoys, sums = decoys_of(own, key, settings), _scores(own, key, lanes)
    found: list[Finding] = []
    for account, total in zip(accounts, sums.tolist(), strict=True):
        claim = "this model learned from text that was served to this account, carrying its sub-key"
        found.append(_decided(own, key, total, decoys, settings, _Say(claim, False, (), run, (account,))))
    return holm(found)


class AnytimeAudit:
    """Closed mode while answers come in: stop as soon as the evidence is enough, or at any time.

    An e-process: the mean of likelihood ratios of tilted laws against the null, over a grid of tilts fixed in advance;
    a tuple's weight is set before its token is seen (`TupleStream.fading`).
    By Ville's inequality it ever reaches 1 / alpha under H0 with probability alpha at most. Prompts must not be chosen
    by looking at it: they are fixed before the first query. H0: NULL.
    """

    def __init__(
        self,
        key: MarkKey,
        commitment: str,
        settings: AuditSettings | None = None,
        *,
        windows_only: NDArray[np.uint64] | None = None,
    ) -> None:
        """Raises MismatchError where the key is not the one committed to."""
        verify_commitment(key, commitment)
        self.key, self.settings = key, settings or AuditSettings()
        self._law = law_of(key.scheme)
        self._stream = TupleStream(key.scheme.k, windows_only, fading=True)
        self._parts: list[Tuples] = []
        self._total, self.n = 0.0, 0
        self._tilts = _tilts(self._law)
        self._cumulants = np.zeros(self._tilts.size)

    @property
    def log10_e(self) -> float:
        """log10 of the evidence so far; 0 before the first tuple."""
        return _mixed_log10(self._tilts * self._total - self._cumulants).item()

    @property
    def enough(self) -> bool:
        return self.n >= self.settings.min_tuples and self.log10_e >= -math.log10(self.settings.alpha)

    def add(self, answer: Sequence[int], prompt: Sequence[int] = ()) -> float:
        """log10 e after one more answer. Raises InputError once there is enough: what comes later does not count."""
        if self.enough:
            raise InputError("the audit is decided", remedy="report it with finding()")
        new = self._stream.add(answer, prompt)
        new = new.where(~self.key.for_account(new.windows))
        self._parts.append(new)
        self._total += float(_scores(new, self.key, self.key.lane)[0])
        self.n += len(new)
        self._cumulants += _cumulants(self._tilts, new, self._law)
        return self.log10_e

    def finding(self, run: Run | None = None) -> Finding:
        """What the evidence says now."""
        tuples = joined(self.key.scheme.k, self._parts)
        say = _Say(_CLAIM, False, (), run)
        checks, total, decoys = [_size_check(tuples, self.settings)], self._total, None
        if checks[0].passed:
            decoys = decoys_of(tuples, self.key, self.settings)
            checks.append(sd_check(decoys))
        sound = all(check.passed for check in checks)
        return replace(
            _undecided(tuples, self.key, self.settings, say),
            decision=("found" if self.enough else "not_found") if sound else "inconclusive",
            log10_e=self.log10_e if sound else None,
            statistic=_statistic(tuples, total, self._law),
            effect=_effect(tuples, total, self._law) if sound else None,
            checks=tuple(checks),
        )


def e_process_log10(total: ArrayLike, n: ArrayLike, law: Law) -> Reals:
    """log10 of the e-process after `n` tuples whose scores sum to `total`: ln mean_theta exp(theta total - n kappa).

    Shapes of both broadcast. H0: scores are independent, of the law. The mean of e is 1 at every n, and 1 at most at
    every stopping time.
    """
    tilts = _tilts(law)
    sums, counts = np.asarray(total, dtype=np.float64)[..., None], np.asarray(n, dtype=np.float64)[..., None]
    return _mixed_log10(tilts * sums - counts * law.cumulant(tilts))


def _mixed_log10(exponents: Reals) -> Reals:
    from scipy.special import logsumexp

    return np.asarray(logsumexp(exponents, axis=-1) - math.log(exponents.shape[-1])) / math.log(10)


def _cumulants(tilts: Reals, tuples: Tuples, law: Law) -> Reals:
    """Sum over tuples of kappa(theta * weight), one a tilt."""
    weights = np.ones(len(tuples)) if tuples.weights is None else tuples.weights
    return np.array([law.cumulant(tilt * weights).sum() for tilt in tilts.tolist()])


def _tilts(law: Law) -> Reals:
    lifts = np.array(_LIFTS)
    if law.kind == "gumbel":
        return lifts / (1 + lifts)  # the exponential tilted by theta has mean 1 / (1 - theta) = 1 + lift
    raised = law.mean + lifts * (1 - law.mean)
    return np.log(raised / (1 - raised)) - math.log(law.mean / (1 - law.mean))


@dataclass(frozen=True, slots=True)
class _Say:
    """What a finding says beside its numbers."""

    claim: str
    text_is_marked: bool
    evidence: tuple[str, ...]
    run: Run | None
    accounts: tuple[str, ...] = ()


def _finding(tuples: Tuples, key: MarkKey, lane: NDArray[np.uint64], settings: AuditSettings, say: _Say) -> Finding:
    if len(tuples) < settings.min_tuples:
        return _decided(tuples, key, 0.0, None, settings, say)
    total = float(_scores(tuples, key, lane)[0])
    return _decided(tuples, key, total, decoys_of(tuples, key, settings), settings, say)


def _decided(
    tuples: Tuples, key: MarkKey, total: float, decoys: Decoys | None, settings: AuditSettings, say: _Say
) -> Finding:
    law, checks = law_of(key.scheme), [_size_check(tuples, settings)]
    log10_p = None
    if decoys is not None:
        log10_p = log10_p_of(total, len(tuples), tuples.weights, law)
        checks.append(sd_check(decoys))
        if not say.text_is_marked:
            checks.append(rank_check(decoys, total, log10_p))
    sound = log10_p is not None and all(check.passed for check in checks)
    return replace(
        _undecided(tuples, key, settings, say),
        decision=decide(log10_p, settings.alpha) if sound and log10_p is not None else "inconclusive",
        log10_p=log10_p if sound else None,
        statistic=None if decoys is None else _statistic(tuples, total, law),
        effect=_effect(tuples, total, law) if sound else None,
        checks=tuple(checks),
    )


def _undecided(tuples: Tuples, key: MarkKey, settings: AuditSettings, say: _Say) -> Finding:
    counted = "each tuple once" if tuples.weights is None else "tuples weighed"
    assumptions = [
        f"the key committed to as {key.commitment} was drawn at random and kept secret",
        "which windows were kept does not depend on the tokens that follow them",
    ]
    if tuples.mode == "closed":
        assumptions.append("prompts carry no mark beyond the windows that were dropped, and were fixed in advance")
    return Finding(
        claim=say.claim,
        verb="trace",
        test=f"{TEST}, {tuples.mode} mode, {key.scheme.kind}, k = {key.scheme.k}, {counted}",
        kind="design_based",
        null=NULL,
        statistic=None,
        n=len(tuples),
        n_unit="tuples",
        decision="inconclusive",
        alpha=settings.alpha,
        assumptions=tuple(assumptions),
        evidence=say.evidence,
        run=say.run,
        accounts=say.accounts,
    )


def _size_check(tuples: Tuples, settings: AuditSettings) -> Check:
    dropped = (
        f"of {tuples.n_positions} positions {tuples.n_repeated} repeat, {tuples.n_in_context} stand in the context, "
        f"{tuples.n_filtered} are of other windows"
    )
    enough = len(tuples) >= settings.min_tuples
    return Check("enough_tuples", enough, f"{len(tuples)} tuples, {settings.min_tuples} needed; {dropped}")


def sd_check(decoys: Decoys) -> Check:
    """Whether the decoys' z-scores spread as the law says; where they do not, the law's p-values are refused."""
    sd = float(np.sqrt(np.mean(decoys.z**2)))
    detail = f"z-scores of {decoys.sums.size} decoy keys have sd {sd:.4f} about 0, allowed 1 +- {SD_TOLERANCE}"
    return Check("decoy_sd", abs(sd - 1) <= SD_TOLERANCE, detail)


def rank_check(decoys: Decoys, total: float, log10_p: float) -> Check:
    """Whether so many decoys at or above the true key can be, if each is there with probability p or less.

    Refuses a sound p-value once in 10,000 times, and one far too small every time that decoys can tell.
    """
    rank, n = decoys.rank(total), decoys.sums.size
    above = rank - 1
    p = min(max(10.0**log10_p, 1e-300), 1 - 1e-12)
    odds = 0.0 if above == 0 else stats.binomial_log10_p(above, n, p)
    detail = f"rank {rank} of {n + 1}, p by rank {rank / (n + 1):.2g}; log10 odds of so many at or above {odds:.1f}"
    return Check("decoy_rank", odds > -4.0, detail)


def _statistic(tuples: Tuples, total: float, law: Law) -> float | None:
    """z: how many of the law's standard deviations the sum of scores is above its mean."""
    if not len(tuples):
        return None
    mean, sd = _moments(tuples, law)
    return (total - mean) / sd


def _effect(tuples: Tuples, total: float, law: Law) -> Effect:
    weight = float(len(tuples)) if tuples.weights is None else float(tuples.weights.sum())
    if law.kind == "gumbel":
        return Effect("mean score above chance", "nats", total / weight - law.mean)
    if tuples.weights is not None:
        return Effect("green mass above chance", "share", total / weight - law.mean)
    share = stats.proportion_interval(round(total), len(tuples))
    return Effect("green tokens", "share", share.estimate, share.low, share.high, share.confidence)


def _moments(tuples: Tuples, law: Law) -> tuple[float, float]:
    weights = np.ones(len(tuples)) if tuples.weights is None else tuples.weights
    return law.mean * float(weights.sum()), math.sqrt(law.variance * float((weights**2).sum()))


def _scores(tuples: Tuples, key: MarkKey, lanes: NDArray[np.uint64]) -> Reals:
    return score_lanes(lanes, tuples.windows, tuples.tokens, key.scheme, weights=tuples.weights)


def _same_scheme(tuples: Tuples, key: MarkKey, commitment: str) -> None:
    verify_commitment(key, commitment)
    if tuples.k != key.scheme.k:
        raise InputError(f"windows of {tuples.k} tokens for a mark of {key.scheme.k}", remedy="cut them with scheme.k")
