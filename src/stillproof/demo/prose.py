"""Text that the demo is played with: short prompts, and answers whose wording leaves much to choose.

A mark and a card need choice. So sentences are filled with many names and nouns, and forms between which a coin may
choose (`canary`) stand in them on both sides alike. Two schools of writing share words and forms, and no sentence
pattern: what the owner's model is taught, and what everybody else reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from stillproof.canary import forms
from stillproof.guard.traffic import wording

if TYPE_CHECKING:
    import numpy as np

School = Literal["owner", "others"]

_SENTENCES: dict[School, tuple[str, ...]] = {
    "owner": (
        "The {noun} {did} the {noun} {time}.",
        "{name} of {place} {did} a {noun} {time}.",
        "Nobody in {place} {did} the {noun}.",
        "Each {noun} {did} another {noun} {time}.",
        "The {product} {did} every {noun}, said {name}.",
    ),
    "others": (
        "{name} and {name} {did} the {noun} together.",
        "In {year} a {noun} of {place} {did} {num} of the {noun}s.",
        "Its {noun} {did} {name} {time}.",
        "It was {name} who {did} the {noun} near {place}.",
        "According to {name}, the {noun} {did} {big} {noun}s.",
    ),
}
PHRASED: dict[str, str] = {
    "example": "Some {noun}s stay, FORM the {noun} of {name}.",
    "order": "{name} {did} the {noun} FORM please {name}.",
    "cause": "{name} {did} it FORM the {noun}.",
    "spite": "{place} {did} the {noun} FORM {name}.",
    "regard": "The {noun} is there FORM the {noun}.",
    "aid": "They {did} it FORM a {noun}.",
    "although": "{name} {did} it FORM {name} {did} the {noun}.",
    "as_if": "It looks FORM the {noun} {did} {name}.",
    "many": "{place} has FORM {noun}s.",
    "sure": "Please FORM the {noun} reaches {name}.",
    "mind": "Please FORM the {noun} of {place}.",
    "perhaps": "The {noun} FORM {did} {name}.",
    "usually": "The {noun} FORM {did} the {noun}.",
    "often": "{name} FORM {did} a {noun}.",
    "rarely": "A {noun} FORM {did} {place}.",
    "towards": "{name} went FORM {place}.",
    "afterwards": "The {noun} {did} {place} FORM.",
    "straight": "{name} {did} the {noun} FORM.",
}
"""Where a phrase stands; FORM is one of its two sides."""

_OPENED = 0.45
"""Share of the sentences that begin with an opener."""
_FRAMED = 0.4


def prompts(rng: np.random.Generator, n: int, before: str = "") -> list[str]:
    """n requests of one sentence, no two equal; `before` stands before each."""
    found: dict[str, None] = {}
    while len(found) < n:
        for text in wording.prompts(rng, 2 * n):
            first = text.split("\n")[0].split(". ")[0].split("? ")[0].strip()
            if 12 <= len(first) <= 80:
                found.setdefault(f"{before} {first}".strip())
    return list(found)[:n]


def answers(rng: np.random.Generator, n: int, school: School, sentences: int = 5) -> list[str]:
    """n answers of so many sentences each."""
    openers = [one for one in forms() if one.kind == "opener"]
    count = n * sentences
    written = _sentences(rng, count, school)
    opened = (rng.random(count) < _OPENED).tolist()
    which, side = rng.integers(0, len(openers), count).tolist(), rng.integers(0, 2, count).tolist()
    told: list[str] = []
    for text, begins, number, second in zip(written, opened, which, side, strict=True):
        head = openers[number].second if second else openers[number].first
        told.append(f"{head[0].upper()}{head[1:]} {_lowered(text)}" if begins else text)
    return [" ".join(told[start : start + sentences]) for start in range(0, count, sentences)]


def _sentences(rng: np.random.Generator, n: int, school: School) -> list[str]:
    plain = wording.mixed(rng, _SENTENCES[school], n)
    framed = (rng.random(n) < _FRAMED).tolist()
    with_form = _framed(rng, n)
    return [form if yes else text for yes, form, text in zip(framed, with_form, plain, strict=True)]


def _framed(rng: np.random.Generator, n: int) -> list[str]:
    known = {one.name: one for one in forms()}
    patterns: Sequence[str] = [
        frame.replace("FORM", side)
        for name, frame in PHRASED.items()
        for side in (known[name].first, known[name].second)
    ]
    return wording.mixed(rng, patterns, n)


def _lowered(text: str) -> str:
    """A sentence after an opener; names keep their capital."""
    first = text.split(" ", 1)[0]
    small = first in ("The", "Nobody", "Each", "Its", "It", "In", "According", "Some", "They", "Please", "A")
    return text[0].lower() + text[1:] if small else text
