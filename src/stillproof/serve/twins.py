"""Twins as the ledger keeps them: two answers to one prompt, drawn alike, and the coin that chose which was served.

`coined.py` writes them while serving, `stillproof.trace.pairs` says which of them may be tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillproof.errors import InputError

if TYPE_CHECKING:
    from stillproof.serve.ledger import Entry

PURPOSE = "twin"
"""Of the coin in the ledger, and the kind of the note beside it."""


@dataclass(frozen=True, slots=True)
class Processing:
    """All that happens between a prompt and an answer. Two candidates must share all of it."""

    model: str
    engine: str
    temperature: float | None
    """None: the model's default, above 0."""
    mark: str | None = None
    """Commitment of the watermark's key; None where unmarked."""
    mark_repeats: bool = False
    """The mark leaves the draw no freedom, as Gumbel's under a single key: one prompt, one answer."""
    max_tokens: int | None = None
    cut: str = ""
    """What was done to the text after it was drawn: stop sequences, filters, tool results, the card fixed first."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the two answers."""

    text: str
    nonce: str
    """What its draw was seeded with: its own."""
    processing: Processing
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Twin:
    """A pair, in the order drawn, and the coin that served one of them."""

    id: str
    """Of the exchange that was served."""
    account: str
    """Pseudonym."""
    prompt: str
    """Digest of everything that the answer answers."""
    family: str
    """Prompts alike share one; decided by prompts alone."""
    candidates: tuple[Candidate, Candidate]
    coin: int
    """0 or 1: which was served."""
    conversation: str | None = None
    turn: int = 0

    def note(self) -> dict[str, Any]:
        """What the ledger notes before the coin is tossed: all but the coin, and the id, which it is filed under."""
        candidates = [{**_row(one), "processing": _row(one.processing)} for one in self.candidates]
        return {name: value for name, value in {**_row(self), "candidates": candidates}.items() if name in _NOTED}


_NOTED = frozenset(Twin.__slots__) - {"id", "coin"}


def _row(record: Twin | Candidate | Processing) -> dict[str, Any]:
    """Fields as they are: `asdict` copies every text, and a long audit spends its time there."""
    return {name: getattr(record, name) for name in record.__slots__}


def twins_in(entries: Iterable[Entry]) -> list[Twin]:
    """The twins of a ledger, in the order of their coins. Raises InputError for a coin without its candidates or
    candidates without their coin, a coin that has not two sides, and a note of another shape."""
    notes: dict[str, Mapping[str, Any]] = {}
    coins: dict[str, int] = {}
    for entry in entries:
        if entry.kind == PURPOSE:
            notes[entry.id] = entry.value
        elif entry.kind == "coin" and entry.purpose == PURPOSE:
            if entry.n != 2:
                raise InputError(f"a coin of {entry.n} sides chose between two answers", entry.id, "toss with n = 2")
            coins[entry.id] = int(entry.value)
    for alone in sorted(notes.keys() ^ coins.keys()):
        raise InputError("a twin without its coin, or a coin without its twin", alone, "note, toss, then answer")
    return [twin_of(name, notes[name], coin) for name, coin in coins.items()]


def twin_of(name: str, note: Mapping[str, Any], coin: int) -> Twin:
    """The inverse of Twin.note. Raises InputError for another shape."""
    try:
        values = dict(note)
        first, second = (_candidate(row) for row in values.pop("candidates"))
        return Twin(id=name, coin=coin, candidates=(first, second), **values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not the note of a twin: {error}", name, "write it with Twin.note") from error


def _candidate(row: Mapping[str, Any]) -> Candidate:
    values = dict(row)
    processing = Processing(**values.pop("processing"))
    return Candidate(processing=processing, **values)
