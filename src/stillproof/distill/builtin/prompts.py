"""Requests to a general small assistant, for a teacher to answer: prompts without gold answers.

A prompt is a form of request ("What are the pros and cons of {x}?") about a subject of the kind that the form takes
("cycling to work"). Forms and subjects are written by hand (`data/prompts.toml`).
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random

from stillproof.exchange import Exchange, Message, Provenance, with_ids

_USES_OF_A_SUBJECT = 5
_SEED = "prompts 1"


@dataclass(frozen=True, slots=True)
class _PromptBook:
    kinds: dict[str, list[str]]
    """Each kind of phrase, and the lists of subjects that are such phrases."""
    subjects: dict[str, list[str]]
    forms: dict[str, dict[str, list[str]]]
    """Each kind of phrase, the names of the forms that take it, and their wordings with an {x} in them."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    kind: str
    form: str
    subject: str
    text: str


def prompts() -> list[Exchange]:
    """Single requests of one user turn, no two of them equal, with response None.

    The same on every machine and Python version. Any prefix is varied: forms come in proportion to the subjects of
    their kind, and a subject comes again only when all of its kind have come that the form has not met.
    """
    source = Provenance("dataset", "prompts")
    return list(
        with_ids(
            Exchange(id="", messages=(Message("user", drawn.text),), response=None, provenance=source)
            for drawn in _drawn(_prompt_book())
        )
    )


@cache
def _prompt_book() -> _PromptBook:
    return _PromptBook(**tomllib.loads((files("stillproof") / "data" / "prompts.toml").read_text("utf-8")))


def _drawn(book: _PromptBook) -> Iterator[_Drawn]:
    """Every prompt with what it was made of. The k-th prompt of a form has its k-th wording, in turn."""
    rng = Random(_SEED)
    uses: Counter[str] = Counter()
    left = {kind: {form: list(_subjects(book, kind)) for form in forms} for kind, forms in book.forms.items()}
    for kind, form, k in _order(book, rng):
        candidates = left[kind][form]
        # Only Random.random() is promised to be the same in every Python version.
        subject = min(candidates, key=lambda text: (uses[text], rng.random()))
        candidates.remove(subject)
        uses[subject] += 1
        wordings = book.forms[kind][form]
        yield _Drawn(kind, form, subject, wordings[k % len(wordings)].replace("{x}", subject))


def _order(book: _PromptBook, rng: Random) -> list[tuple[str, str, int]]:
    """(kind, form, k) for the k-th prompt of every form, each form spread evenly over the whole."""
    placed: list[tuple[float, str, str, int]] = []
    for kind, forms in book.forms.items():
        subjects = len(_subjects(book, kind))
        # A kind with few forms meets each of its subjects once a form at most.
        count = min(subjects, -(-subjects * _USES_OF_A_SUBJECT // len(forms)))
        placed += [((k + rng.random()) / count, kind, form, k) for form in forms for k in range(count)]
    return [(kind, form, k) for _, kind, form, k in sorted(placed)]


def _subjects(book: _PromptBook, kind: str) -> list[str]:
    return [subject for name in book.kinds[kind] for subject in book.subjects[name]]
