"""Which twins may be tested, and how a suspect's preference between the two is scored. The records: `serve/twins.py`.

The coin is the only difference between the two that a test may rest on, so everything else that could make them differ
is refused here, and which pairs are kept is decided by `blind`, which does not see the coin.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from stillproof.errors import ConfigError, InputError
from stillproof.serve.twins import PURPOSE, Candidate, Processing, Twin, twins_in

__all__ = [
    "PURPOSE",
    "Blind",
    "Candidate",
    "Door",
    "Processing",
    "Twin",
    "blind",
    "likeness",
    "mean_logprob",
    "twins_in",
]

_EQUAL_SHARE = 0.5
"""More pairs than this with equal answers, and no draw was free."""


@dataclass(frozen=True, slots=True)
class Blind:
    """Which pairs are kept, by what both candidates have in common. Raises ConfigError for limits out of range."""

    min_chars: int = 20
    """Of the shorter."""
    max_ratio: float = 8.0
    """Of the longer's length to the shorter's."""

    def __post_init__(self) -> None:
        if self.min_chars < 1 or not self.max_ratio >= 1:
            raise ConfigError(f"{self!r} keeps nothing, or empty answers", "blind", "min_chars >= 1, max_ratio >= 1")


def blind(a: Candidate, b: Candidate, rules: Blind) -> bool:
    """Whether a pair is kept. Symmetric: the same for (b, a), and the coin is not seen."""
    shorter, longer = sorted((len(a.text), len(b.text)))
    return a.text != b.text and shorter >= rules.min_chars and longer <= rules.max_ratio * shorter


def mean_logprob(logprobs: Sequence[float]) -> float | None:
    """A candidate's score where the suspect shows log-probabilities: nats a token; None without any, or not finite."""
    if not logprobs or not all(math.isfinite(value) for value in logprobs):
        return None
    return math.fsum(logprobs) / len(logprobs)


def likeness(own: str, candidate: str, n: int = 4) -> float | None:
    """A candidate's score where only text comes back: how much of its character n-grams the suspect's own answer
    shares, F1 in [0, 1]; None where either is shorter than n. Case and runs of white space do not count."""
    a, b = (_grams(text, n) for text in (own, candidate))
    if not a or not b:
        return None
    return 2 * (a & b).total() / (a.total() + b.total())


def _grams(text: str, n: int) -> Counter[str]:
    plain = " ".join(text.lower().split())
    return Counter(plain[i : i + n] for i in range(len(plain) - n + 1))


class Door:
    """Lets exchangeable twins in, one after another. By both candidates alike; the coin is only checked to be one."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._nonces: dict[str, str] = {}
        self._family: dict[str, str] = {}
        self._answers: dict[tuple[str, frozenset[str]], str] = {}
        self._equal = 0

    def admit(self, twin: Twin) -> None:
        a, b = twin.candidates
        if twin.coin not in (0, 1) or twin.id in self._ids:
            raise InputError(f"a coin of {twin.coin!r}, or an exchange met twice", twin.id, "give each pair once")
        _require_exchangeable(twin)
        if self._family.setdefault(twin.prompt, twin.family) != twin.family:
            remedy = "cluster duplicate prompts into one family before the test"
            raise InputError("one prompt in two prompt families", twin.id, remedy)
        for candidate in (a, b):
            first = self._nonces.setdefault(candidate.nonce, twin.id)
            if candidate.cached or first != twin.id:
                raise InputError("an answer from a cache, not drawn for this pair", twin.id, "leave such pairs out")
        if a.text == b.text:
            self._equal += 1
        elif self._answers.setdefault((twin.prompt, frozenset((a.text, b.text))), twin.id) != twin.id:
            raise InputError("both answers stand in an earlier pair: they were cached", twin.id, "leave such pairs out")
        self._ids.add(twin.id)

    def close(self) -> None:
        if self._equal > _EQUAL_SHARE * max(1, len(self._ids)):
            raise InputError(
                f"{self._equal} of {len(self._ids)} pairs have two equal answers",
                remedy="draw above temperature 0, and under a mark that leaves the draw free (two keys)",
            )


def _require_exchangeable(twin: Twin) -> None:
    a, b = twin.candidates
    if a.processing != b.processing:
        ours, other = asdict(a.processing), asdict(b.processing)
        differ = ", ".join(name for name, value in ours.items() if other[name] != value)
        what = "an unmarked shadow" if (a.processing.mark is None) != (b.processing.mark is None) else "two processings"
        remedy = "draw both in one call with the same processing and key"
        raise InputError(f"{what}: the candidates differ in {differ}", twin.id, remedy)
    if a.processing.temperature is not None and not a.processing.temperature > 0:
        raise InputError("temperature 0: both answers are equal", twin.id, "draw twins above temperature 0")
    if a.processing.mark_repeats:
        remedy = "mark with two keys (second_share above 0), or with a green list"
        raise InputError("a mark under which both answers are equal", twin.id, remedy)
    if a.nonce == b.nonce:
        raise InputError("both candidates were drawn with one nonce", twin.id, "draw each with a nonce of its own")
