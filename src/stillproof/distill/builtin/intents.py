"""Twenty requests to the front desk of an invented library with a workshop, in the words of its visitors.

A message is an ask in a common frame ("Is it possible to {ask}?"), a roundabout wording, or both, as people who
first tell what happened and then say what they want; with slots filled, and now and then a greeting, an
abbreviation or a slip of the finger. Asks and wordings are divided among the splits; frames are shared.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Literal, TypeVar

from stillproof.errors import InputError
from stillproof.exchange import Exchange, Message, Provenance, document, with_ids

_T = TypeVar("_T")

Split = Literal["teach", "unlabelled", "test"]

INTENT_SIZES: dict[Split, int] = {"teach": 1_000, "unlabelled": 1_000, "test": 300}

# The k-th ask or wording of an intent belongs to the split at place k of this, repeated.
_SPLIT_OF_PLACE: tuple[Split, ...] = (
    "teach", "unlabelled", "test", "teach", "unlabelled", "test", "teach", "unlabelled",
)  # fmt: skip
_Shape = Literal["ask", "wording", "both"]
_SHAPES: tuple[_Shape, ...] = ("ask", "both", "ask", "wording", "both")
_OPENERS = (
    "Hi, ", "Hello, ", "Good morning. ", "Hi there! ", "Dear library, ", "Quick question: ", "Hey, ", "Evening! ",
    "Sorry to bother you. ", "Me again. ", "Hello from {sender}. ", "Not sure if this is the right address. ",
)  # fmt: skip
_CLOSERS = (
    " Thanks!", " Thank you, {sender}", " Cheers", " Many thanks.", " Best, {sender}", " thx", " Regards, {sender}",
    " Sent from my phone", " Ta.", " I'm on the train, so please write rather than ring.", " Yours, {sender}",
)  # fmt: skip
_SHORTER = {"please": "pls", "Please": "Pls", "you": "u", "your": "ur", "because": "cos", "for": "4", "to": "2"}
_SHARES = {"opener": 0.25, "closer": 0.25, "lower": 0.12, "bare": 0.2, "shorter": 0.08, "slip": 0.12}
_ATTEMPTS = 200


@dataclass(frozen=True, slots=True)
class _IntentBook:
    instruction: str
    frames: list[str]
    """Sentences with an {ask} in them, such as "How do I {ask}?"."""
    slots: dict[str, list[str]]
    asks: dict[str, list[str]]
    """The label of each intent, and the short names that people have for it."""
    wordings: dict[str, list[str]]
    """The label of each intent, and the other ways, often roundabout, in which people say it."""


def intent_labels() -> tuple[str, ...]:
    """The short names of the requests, each one to three words."""
    return tuple(_intent_book().wordings)


def intents(split: Split, *, size: int | None = None, seed: int = 0) -> list[Exchange]:
    """Messages to a front desk. `teach` and `test` carry the label as response; `unlabelled` has response None.

    size: number of messages, spread evenly over the intents; None takes INTENT_SIZES. The same seed gives the same
    messages on every machine and Python version, and a smaller size gives a subset of a larger one. No ask or
    wording occurs in two splits. Raises InputError where `size` asks for more distinct messages than the wordings give.
    """
    labelled = _labelled(split, size, seed)
    if split != "unlabelled":
        return labelled
    source = Provenance("dataset", "intents:unlabelled")
    return list(with_ids(Exchange(id="", messages=e.messages, response=None, provenance=source) for e in labelled))


def intents_gold(*, size: int | None = None, seed: int = 0) -> list[Exchange]:
    """The messages of `intents("unlabelled")`, in the same order, with the labels that we gave them.

    For the gold-label control and for scoring a teacher; a black-box run must not read them.
    """
    return _labelled("unlabelled", size, seed)


def _labelled(split: Split, size: int | None, seed: int) -> list[Exchange]:
    book = _intent_book()
    count = INTENT_SIZES[split] if size is None else size
    pairs = _pairs(book, split, count, Random(f"intents {split} {seed}"))
    detail = f"intents:{split}" + (":gold" if split == "unlabelled" else "")
    return list(
        with_ids(
            document(label, detail, (Message("user", f"{book.instruction}\n\nMessage: {text}"),))
            for text, label in pairs
        )
    )


@cache
def _intent_book() -> _IntentBook:
    table = tomllib.loads((files("stillproof") / "data" / "intents.toml").read_text("utf-8"))
    return _IntentBook(**table)


def _own(texts: list[str], split: Split) -> list[str]:
    """Those of an intent's asks or wordings that belong to `split`."""
    return [text for k, text in enumerate(texts) if _SPLIT_OF_PLACE[k % len(_SPLIT_OF_PLACE)] == split]


def _pairs(book: _IntentBook, split: Split, count: int, rng: Random) -> list[tuple[str, str]]:
    """`count` distinct (message, label), every intent, ask and wording equally often, in random order."""
    seen: set[str] = set()
    pairs: list[tuple[str, str]] = []
    labels = list(book.wordings)
    for k in range(count):
        label, turn = labels[k % len(labels)], k // len(labels)
        ask, wording = _turn(_own(book.asks[label], split), turn), _turn(_own(book.wordings[label], split), turn)
        pairs.append((_new_message(book, (ask, wording, _turn(_SHAPES, turn)), seen, rng), label))
    # Only Random.random() is promised to be the same in every Python version; shuffle() is not.
    return sorted(pairs, key=lambda _: rng.random())


def _new_message(book: _IntentBook, parts: tuple[str, str, _Shape], seen: set[str], rng: Random) -> str:
    for _ in range(_ATTEMPTS):
        text = _message(book, parts, rng)
        if text not in seen:
            seen.add(text)
            return text
    raise InputError("no more distinct messages of this wording", " / ".join(parts), "ask for a smaller size")


def _message(book: _IntentBook, parts: tuple[str, str, _Shape], rng: Random) -> str:
    """One message as somebody would have typed it."""
    ask, wording, shape = parts
    plain = _choice(book.frames, rng).replace("{ask}", ask)
    text = {"ask": plain, "wording": wording, "both": f"{_ended(wording)} {plain}"}[shape]
    if _tossed("opener", rng):
        text = _choice(_OPENERS, rng) + text
    if _tossed("bare", rng):
        text = text.rstrip(".?!")
    if _tossed("closer", rng):
        text += _choice(_CLOSERS, rng)
    text = _fill(text, book.slots, rng)
    if _tossed("shorter", rng):
        text = " ".join(_SHORTER.get(word, word) for word in text.split(" "))
    if _tossed("slip", rng):
        text = _slip(text, rng)
    return text.lower() if _tossed("lower", rng) else text


def _ended(sentence: str) -> str:
    return sentence if sentence[-1] in ".?!" else f"{sentence}."


def _fill(text: str, slots: dict[str, list[str]], rng: Random) -> str:
    """`text` with its slots filled; a slot that comes twice means the same thing twice."""
    for slot, values in slots.items():
        if f"{{{slot}}}" in text:
            value = _choice(values, rng)
            if value[0] in "aeiou":
                text = text.replace(f" a {{{slot}}}", f" an {{{slot}}}")
            text = text.replace(f"{{{slot}}}", value)
    return text


def _slip(text: str, rng: Random) -> str:
    """Two neighbouring letters swapped, or one left out, inside a word of five letters or more."""
    words = text.split(" ")
    long_ones = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long_ones:
        return text
    i = _choice(long_ones, rng)
    word, at = words[i], 1 + int(rng.random() * (len(words[i]) - 2))
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    words[i] = swapped if rng.random() < 0.5 else word[:at] + word[at + 1 :]
    return " ".join(words)


def _tossed(what: str, rng: Random) -> bool:
    return rng.random() < _SHARES[what]


def _choice(options: Sequence[_T], rng: Random) -> _T:
    return options[int(rng.random() * len(options))]


def _turn(options: Sequence[_T], turn: int) -> _T:
    return options[turn % len(options)]
