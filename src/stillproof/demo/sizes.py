"""How large the story is played: the numbers of one performance, in one place.

`small` uses tiny models trained in the run. `laptop` is the same code with SmolLM2-135M-Instruct as the served model
and its own weights, half of the layers, as what students start from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stillproof.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a tiny Llama."""

    hidden: int
    layers: int
    heads: int = 4
    context: int = 512


@dataclass(frozen=True, slots=True)
class Tiny:
    """Models that are trained in the run."""

    vocabulary: int = 2048
    teacher: Shape = Shape(128, 2)
    start: Shape = Shape(96, 2, 3)
    teacher_texts: int = 4_000
    """Prompts with answers that the teacher learns, once each."""
    start_texts: int = 2_000
    learning_rate: float = 3e-3


@dataclass(frozen=True, slots=True)
class Crowd:
    """Composed traffic: who else is served, and how the campaign and the licensed customer ask."""

    days: int = 14
    n_ordinary: int = 400
    share: float = 0.6
    """Of the accounts that honest heavy groups have in full."""
    campaign_accounts: int = 60
    campaign_days: float = 5.0
    campaign_rate: float = 7.0
    """Exchanges an account and day."""
    licensed_days: float = 8.0
    licensed_rate: float = 80.0


@dataclass(frozen=True, slots=True)
class Audit:
    """What the suspects are asked."""

    prompts: int = 200
    """Of the audit by radioactivity."""
    card_prompts: int = 150
    tokens: int = 40
    """Of an answer."""


@dataclass(frozen=True, slots=True)
class Size:
    """One performance."""

    name: str
    teacher: Literal["tiny", "smollm2"]
    seed: int = 7
    tiny: Tiny = field(default_factory=Tiny)
    crowd: Crowd = field(default_factory=Crowd)
    audit: Audit = field(default_factory=Audit)
    answer_tokens: int = 40
    twins: float = 0.5
    """Share of the calls that get a twin."""
    batch: int = 256
    """Calls that are answered together."""
    epochs: int = 3
    learning_rate: float = 2e-3
    rows_per_step: int = 4
    heldout: int = 120
    """Prompts on which retention is measured."""


TINY = Size(
    "tiny",
    "tiny",
    tiny=Tiny(1024, Shape(64, 2, 2), Shape(64, 2, 2), 1200, 500),
    crowd=Crowd(14, 120, 0.25, 40, 4.0, 6.0, 5.0, 50.0),
    audit=Audit(60, 40, 24),
    answer_tokens=24,
    twins=1.0,
    epochs=2,
    learning_rate=3e-3,
    rows_per_step=2,
    heldout=24,
)
"""The loop as tests and `bench/demo/seeds.py` play it: no size of the command."""

SIZES = {
    "small": Size("small", "tiny"),
    "laptop": Size("laptop", "smollm2", batch=64, epochs=2, learning_rate=3e-4),
}


def size_of(name: str) -> Size:
    """Raises ConfigError for a size that there is not."""
    if name not in SIZES:
        raise ConfigError(f"no size {name!r}", "--size", f"one of {', '.join(SIZES)}")
    return SIZES[name]
