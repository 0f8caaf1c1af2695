"""What the readers of others' marks share: n-grams of answers, exact tails over keys, and the finding.

Readers (`synthid.py`, `kgw.py`) test whether text follows keys that somebody else's marker was given. H0: the text does
not depend on the keys. The law is over keys, the text being held fixed, so it is exact whatever the text; each score is
counted once per coin of the key, not once per position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import ConfigError, InputError
from stillproof.finding import Check, Effect, Finding, decide
from stillproof.watermark.prf import checked_tokens, window_codes

Reals = NDArray[np.float64]
Ids = NDArray[np.int64]

MIN_SCORED = 20
"""Fewer distinct tuples decide nothing."""
BINS = 500
"""Steps of the grid a standard deviation of the sum, where sums are not whole: rounded up, so p only grows."""


def ngrams_of(answers: Iterable[Sequence[int]], prompts: Iterable[Sequence[int]] | None, n: int) -> tuple[Ids, int]:
    """Distinct runs of `n` tokens within answers, [m, n], and how many positions there were.

    Runs whose first n - 1 tokens stand in the answer's prompt are left out: they may be copied from there. Raises
    InputError for ids that are no token ids, or not one prompt an answer.
    """
    texts = list(answers)
    before: list[Sequence[int]] = [()] * len(texts) if prompts is None else list(prompts)
    if len(before) != len(texts):
        raise InputError(f"{len(before)} prompts for {len(texts)} answers", remedy="give one prompt an answer")
    found, positions = [np.zeros((0, n), dtype=np.int64)], 0
    for text, prompt in zip(texts, before, strict=True):
        ids = checked_tokens(text)
        if ids.size < n:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(ids, n)
        positions += len(runs)
        copied = np.isin(window_codes(ids, n - 1)[: len(runs)], window_codes(prompt, n - 1)) if len(prompt) else None
        found.append(runs if copied is None else runs[~copied])
    return np.unique(np.concatenate(found), axis=0), positions


@dataclass(frozen=True, slots=True)
class Law:
    """Of `times` independent variables alike: values [m] and their probabilities."""

    values: Reals
    shares: Reals
    times: int = 1


def upper_tail_log10(laws: Sequence[Law], total: float, *, step: float | None) -> float:
    """log10 P(sum of independent variables >= total), -inf where it cannot be.

    `step` None: values are whole numbers, and the tail is exact. Else values are rounded up to multiples of it, which
    makes the tail larger: valid, and near where step times the number of variables is small beside the standard
    deviation. The laws are tilted so that the sum's mean is at `total` (Esscher) and convolved by Fourier transform:
    its rounding is beside the largest term, and so a small tail has as many digits (seven or more) as a large one.
    """
    grid = 1.0 if step is None else step
    rows = [Law(_on_grid(law.values, grid, up=step is not None), law.shares, law.times) for law in laws]
    aim = math.ceil(total / grid - 1e-9)
    if sum(float(law.values.max()) * law.times for law in rows) < aim:
        return -math.inf
    if sum(float(law.values.min()) * law.times for law in rows) >= aim:
        return 0.0
    theta = _tilt(rows, aim)
    low, log_norm = 0, 0.0
    parts: list[tuple[Reals, int]] = []
    for law in rows:
        first = float(law.values.min())
        tilted, log_sum = _tilted(law, theta)
        log_norm += law.times * log_sum
        low += int(first) * law.times
        shares = np.bincount((law.values - first).astype(np.int64), weights=tilted).astype(np.float64)
        parts.append((shares, law.times))
    mass = _convolved(parts)
    levels = low + np.arange(mass.size, dtype=np.float64)
    kept = (levels >= aim) & (mass > 0)
    terms = np.log(mass[kept]) - theta * levels[kept]
    top = float(terms.max())
    return min(0.0, (log_norm + top + math.log(float(np.exp(terms - top).sum()))) / math.log(10))


def _on_grid(values: Reals, grid: float, *, up: bool) -> Reals:
    return np.ceil(values / grid - 1e-9) if up else np.rint(values / grid)


def _tilt(rows: Sequence[Law], aim: float) -> float:
    """The theta under which the sum's mean is `aim`, 0 where it is there or above already."""

    def mean(theta: float) -> float:
        found = 0.0
        for law in rows:
            found += law.times * float(law.values @ _tilted(law, theta)[0])
        return found

    if mean(0.0) >= aim:
        return 0.0
    spread = max(float(law.values.max() - law.values.min()) for law in rows)
    low, high = 0.0, 1.0 / max(1.0, spread)
    while mean(high) < aim and high < 1e3:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < aim else (low, middle)
    return low


def _tilted(law: Law, theta: float) -> tuple[Reals, float]:
    """shares * exp(theta * values), divided by their sum, and the logarithm of that sum; nothing overflows."""
    with np.errstate(divide="ignore"):
        exponents = np.log(law.shares) + theta * law.values
    top = float(exponents.max())
    raised = np.exp(exponents - top)
    total = float(raised.sum())
    return raised / total, top + math.log(total)


def _convolved(parts: Sequence[tuple[Reals, int]]) -> Reals:
    """Probabilities of the sum, from those of its parts and how often each is there."""
    size = 1 + sum((mass.size - 1) * times for mass, times in parts)
    length = 1 << (size - 1).bit_length()
    spectrum = np.ones(length // 2 + 1, dtype=np.complex128)
    for mass, times in parts:
        spectrum *= np.fft.rfft(mass, length) ** times
    return np.maximum(np.fft.irfft(spectrum, length)[:size], 0.0)


def reading(
    *, test: str, n: int, positions: int, z: float, log10_p: float | None, effect: Effect | None, alpha: float
) -> Finding:
    """The finding of a reader. Inconclusive below MIN_SCORED tuples. Raises ConfigError for a level out of range."""
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha!r}", "alpha", "give a level between 0 and 1")
    enough = n >= MIN_SCORED and log10_p is not None
    detail = f"{n} distinct tuples of {positions} positions, {MIN_SCORED} needed"
    return Finding(
        claim="this text follows the watermark keys that were given",
        verb="trace",
        test=test,
        kind="design_based",
        null="the text does not depend on the watermark's keys",
        statistic=z if n else None,
        n=n,
        n_unit="tuples",
        decision=decide(log10_p, alpha) if enough and log10_p is not None else "inconclusive",
        alpha=alpha,
        log10_p=log10_p if enough else None,
        effect=effect if enough else None,
        assumptions=(
            "the keys were drawn uniformly at random, kept secret, and fixed before the text was looked at",
            "the text was cut into tokens as the model that served it does",
        ),
        checks=(Check("enough_tuples", enough, detail),),
    )
