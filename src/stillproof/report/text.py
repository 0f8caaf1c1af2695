"""How texts and numbers look, in the terminal and on the page."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "–"

# Controls, formats (bidirectional overrides hide what a text says), surrogates (no encoding), line separators.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # parts of words in Persian, Hindi and emoji; they move nothing


def plain(text: str) -> str:
    """The text with every control character, terminal escape and direction override spelled out; newlines stay."""
    return "".join(c if _is_safe(c) else _spelled(c) for c in text)


def _is_safe(character: str) -> bool:
    return character in _JOINERS or character == "\n" or unicodedata.category(character) not in _UNSAFE


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def number(value: float | int | None, digits: int = 4) -> str:
    """A whole number whole; another with so many significant digits, and never rounded to zero."""
    if value is None:
        return ABSENT
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
        return f"{value:,.{places}f}"
    return f"{value:.{digits - 1}e}"


def share(value: float | None) -> str:
    """A share of one as a percentage."""
    return ABSENT if value is None else f"{100 * value:.1f}%"


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the retention table: which keys of a retention result it reads, and how it is said."""

    key: str
    title: str
    is_share: bool
    better: str
    """'lower' or 'higher'."""
    teacher: float | None = None
    """The teacher's value where it is so by definition."""

    def say(self, value: float | None) -> str:
        return share(value) if self.is_share else number(value)


MEASURES = (
    Measure("kl_{}_nats", "KL(teacher || model), nats/token", False, "lower", 0.0),
    Measure("agreement_{}", "top-1 agreement with the teacher", True, "higher", 1.0),
    Measure("perplexity_{}", "perplexity on the text", False, "lower"),
    Measure("bits_per_byte_{}", "bits per byte on the text", False, "lower"),
    Measure("exact_match_{}", "exact match with the gold answer", True, "higher"),
    Measure("answer_agreement_{}", "same answer as the teacher", True, "higher", 1.0),
)

MODELS = (("init", "untrained"), ("control", "control"), ("student", "student"), ("teacher", "teacher"))
"""Always side by side, whichever were measured: a student's number means nothing without the other three."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the retention table, None where it was not measured."""

    model: str
    title: str
    value: float | None
    low: float | None
    high: float | None


def retention_rows(retention: Mapping[str, Any]) -> list[tuple[Measure, list[Cell]]]:
    """The measures that the result has, each with its four cells."""
    rows = [(measure, [_cell(retention, measure, *model) for model in MODELS]) for measure in MEASURES]
    return [
        (measure, cells) for measure, cells in rows if any(c.value is not None for c in cells if c.model != "teacher")
    ]


def _cell(retention: Mapping[str, Any], measure: Measure, model: str, title: str) -> Cell:
    key = measure.key.format(model)
    value = retention.get(key)
    if value is None and model == "teacher":
        return Cell(model, title, measure.teacher, None, None)
    interval = retention.get(f"{key}_interval")
    low, high = interval if interval is not None else (None, None)
    return Cell(model, title, value, low, high)


def interval_text(measure: Measure, cell: Cell) -> str:
    """'[low, high]', or nothing where there is none. One digit less than the estimate: it is an interval."""
    if cell.low is None or cell.high is None:
        return ""
    low, high = (share(end) if measure.is_share else number(end, 3) for end in (cell.low, cell.high))
    return f"[{low}, {high}]"


def retention_footnote(retention: Mapping[str, Any]) -> str:
    """What the numbers were measured on, and what they stand beside."""
    said = [
        f"{number(retention[key])} {what}"
        for key, what in (
            ("n_positions", "token positions"),
            ("n_documents", "held-out documents"),
            ("n_answers", "held-out prompts"),
        )
        if retention.get(key) is not None
    ]
    if retention.get("confidence") is not None:
        said.append(f"{100 * retention['confidence']:g}% intervals, over documents (of answers: exact)")
    said.append("untrained is the student before training")
    said.append("control had the same start and took as many steps under plain cross-entropy")
    return "; ".join(said)


def p_value(finding: Mapping[str, Any]) -> str:
    """'p = 0.0123', '10^-55.0', or the e-value, each with what corrected it."""
    if finding.get("log10_p") is not None:
        text = f"p {_power(finding['log10_p'])}"
        if finding.get("log10_p_adjusted") is not None:
            text += f"; {_power(finding['log10_p_adjusted'])} after Holm over {finding.get('family_n')} findings"
        return text
    if finding.get("log10_e") is not None:
        return f"e {_power(finding['log10_e'])}"
    return "no number"


def _power(log10: float) -> str:
    return f"= {10**log10:.4g}" if -4 <= log10 <= 6 else f"= 10^{log10:.1f}"
