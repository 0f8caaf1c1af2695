"""How much of the second act fits into a given time: speeds are measured, then counts are chosen, then training begins.

A learning rate goes down over the steps that there will be, so that their number is fixed before the first one. A
machine that is fast enough gets the whole recipe; another gets a share of its texts, and `cut` says of what. Floors
keep a share from becoming too little to mean anything: where even they take too long, the plan says so and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORECAST_MARGIN = 1.05
"""Times are planned this much longer than speeds let expect: other work comes and goes on a machine."""
_SHARES = tuple(percent / 100 for percent in range(100, 4, -5))

_MESSAGE_TOKENS = 84
"""Of a message to the front desk with template and answer; 600 were 50,410 tokens."""
_TEACHER_STEP = 1.7
"""A training step of SmolLM2 over one of the student, as measured; parameters are 1.9 times as many."""
_STUDENT_READ = 1 / 3
"""A forward pass over forward and backward."""
_ANSWERED = 1.25
"""Reading a message and writing its few tokens, over reading it."""
_FIXED_S = {"laptop": 30.0, "specialist": 15.0, "black_box": 25.0}
"""Models loaded, hashed and saved, checkpoints: what costs the same whatever the counts."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What the second act reads; as they stand, the whole recipe."""

    tokens: int = 40_960
    """Of word problems, learned by the student and by its control."""
    heldout_tokens: int = 6_144
    taught: int = 700
    """Messages with gold answers that make SmolLM2 a specialist."""
    messages: int = 600
    """Answered by the specialist, and learned."""
    answers: int = 150
    """Held-out messages that all four models answer."""
    rows_per_step: int = 8
    """Fewer where less is read, so that there are steps enough."""


WHOLE = Amounts()
_LEAST = Amounts(tokens=4_096, heldout_tokens=2_048, taught=160, messages=120, answers=60)


@dataclass(frozen=True, slots=True)
class Speeds:
    """Seconds a token on this machine."""

    train_s: float
    """Forward and backward, the student."""
    read_s: float
    """Forward with next-token distributions, SmolLM2."""


Cost = Callable[[Amounts, Speeds], float]


def amounts(share: float) -> Amounts:
    """`share` of the whole recipe, no less than its floors."""

    def of(name: str) -> int:
        whole, least = getattr(WHOLE, name), getattr(_LEAST, name)
        return max(least, round(share * whole))

    rows = 8 if share > 0.7 else 4 if share > 0.35 else 2 if share > 0.15 else 1
    return Amounts(of("tokens"), of("heldout_tokens"), of("taught"), of("messages"), of("answers"), rows)


def laptop_s(given: Amounts, speeds: Speeds) -> float:
    """Act 1: the teacher's distributions, student and control, four models on held-out text."""
    read = given.tokens + given.heldout_tokens + min(2_048, given.heldout_tokens)
    scored = 3 * given.heldout_tokens * _STUDENT_READ
    return _FIXED_S["laptop"] + read * speeds.read_s + (2 * given.tokens + scored) * speeds.train_s


def specialist_s(given: Amounts, speeds: Speeds) -> float:
    """SmolLM2 taught a task."""
    return _FIXED_S["specialist"] + given.taught * _MESSAGE_TOKENS * _TEACHER_STEP * speeds.train_s


def black_box_s(given: Amounts, speeds: Speeds) -> float:
    """Act 2: the specialist's answers, student and control, four models' answers to held-out messages."""
    asked = (given.messages + given.answers) * _MESSAGE_TOKENS * _ANSWERED
    examined = 3 * given.answers * _MESSAGE_TOKENS * _ANSWERED * _STUDENT_READ
    trained = 2 * given.messages * _MESSAGE_TOKENS
    return _FIXED_S["black_box"] + asked * speeds.read_s + (trained + examined) * speeds.train_s


COSTS: dict[str, Cost] = {"laptop": laptop_s, "specialist": specialist_s, "black_box": black_box_s}
"""The parts in their order."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one part gets, decided before it begins."""

    part: str
    share: float
    amounts: Amounts
    speeds: Speeds | None
    """None where no time was given and nothing needed to be measured."""
    left_s: float | None
    """Time for this part and those after it."""
    forecast_s: float | None
    """Of this part and those after it."""

    @property
    def fits(self) -> bool:
        return self.left_s is None or self.forecast_s is None or self.forecast_s <= self.left_s

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fits": self.fits}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Decision:
        speeds = None if row["speeds"] is None else Speeds(**row["speeds"])
        given = Amounts(**row["amounts"])
        return cls(row["part"], row["share"], given, speeds, row["left_s"], row["forecast_s"])


def decide(part: str, left_s: float | None, speeds: Speeds | None) -> Decision:
    """The largest share of the recipe with which `part` and those after it end within `left_s`; the smallest where
    none does, and all of it where there is no limit."""
    if left_s is None or speeds is None:
        return Decision(part, 1.0, WHOLE, speeds, left_s, None)
    ahead = list(COSTS)[list(COSTS).index(part) :]
    for share in _SHARES:
        given = amounts(share)
        forecast = FORECAST_MARGIN * sum(COSTS[name](given, speeds) for name in ahead)
        if forecast <= left_s or share == _SHARES[-1]:
            return Decision(part, share, given, speeds, round(left_s, 1), round(forecast, 1))
    raise AssertionError("the last share is always taken")


READ_BY = {
    "laptop": {"tokens": "tokens of word problems", "heldout_tokens": "held-out tokens"},
    "specialist": {"taught": "messages that teach the specialist"},
    "black_box": {"messages": "messages for the student", "answers": "held-out messages answered"},
}
"""What each part reads, in words; what a cut is told of."""


def cut(decision: Decision) -> list[str]:
    """What the part does less than the whole recipe, in words; nothing where it does all of it."""
    told: list[str] = []
    for name, what in READ_BY[decision.part].items():
        given, whole = getattr(decision.amounts, name), getattr(WHOLE, name)
        if given < whole:
            told.append(f"{given:,} of {whole:,} {what}")
    return told


def said(decision: Decision) -> str:
    """The decision as a line for people."""
    less = cut(decision)
    what = f"cut to {', '.join(less)}" if less else "the whole recipe"
    if decision.left_s is None or decision.forecast_s is None or decision.speeds is None:
        return what
    time = f"{decision.forecast_s:.0f} s forecast to the end, {decision.left_s:.0f} s left"
    speed = f"{1 / decision.speeds.train_s:,.0f} tokens/s trained, {1 / decision.speeds.read_s:,.0f} read"
    late = "" if decision.fits else "; even so little will take longer than was given"
    return f"{what} ({time}, at {speed}){late}"
