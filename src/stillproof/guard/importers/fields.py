"""Values of foreign logs made into values of ours. What does not fit is None, so a bad field never loses the row:
a client that sends `max_tokens: "many"` must not vanish from the log by that. Only time and account decide over a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Record = Mapping[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US = 946_684_800_000_000  # 2000-01-01: an earlier time is a zero, a counter or another unit
_LAST_US = 4_102_444_800_000_000  # 2100-01-01
_INT32 = 2**31 - 1
_FLOAT32 = 3.4e38


class Malformed(ValueError):
    """The row is not what it should be. `args[0]` is the reason, one of few, for the reasons are counted."""


class NotACall(ValueError):
    """A well-formed row that is no exchange with a language model: a span of a database, an embedding."""


def parsed(value: object) -> Any:
    """The value; where it is JSON text of an object or array, what that text holds; pairs as a mapping."""
    if isinstance(value, str):
        if value.lstrip()[:1] not in ("{", "["):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, list) and value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        return {str(key): held for key, held in value}  # how Arrow gives a map column
    return value


def table(value: object) -> dict[str, Any]:
    """The value as an object; empty where it is none."""
    value = parsed(value)
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[Any]:
    """The value as an array; empty where it is none."""
    value = parsed(value)
    return value if isinstance(value, list) else []


def first(record: Record, names: Sequence[str]) -> Any:
    """The first of these keys whose value is neither null nor an empty text."""
    for name in names:
        value = record.get(name)
        if value is not None and value != "":
            return value
    return None


def dig(record: Record, path: str) -> Any:
    """What a dotted path leads to, through objects, arrays (by index) and JSON text; None where it leads nowhere.

    A key that itself holds dots is tried whole first. `a|b` is the first of both that is there.
    """
    for choice in path.split("|"):
        found = _walk(record, choice)
        if found is not None and found != "":
            return found
    return None


def _walk(value: Any, path: str) -> Any:
    if isinstance(value, Mapping) and path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    value = parsed(value)
    if isinstance(value, Mapping):
        if path in value:
            return value[path]
        held = value.get(head)
    elif isinstance(value, list) and head.lstrip("-").isascii() and head.lstrip("-").isdigit():
        index = int(head[:9])
        held = value[index] if -len(value) <= index < len(value) else None
    else:
        return None
    return _walk(held, rest) if dot and held is not None else held


def text(value: object) -> str | None:
    """Unicode text; a lone surrogate becomes U+FFFD, for Arrow cannot hold it. Numbers as their digits."""
    if value is None:
        return None
    if not isinstance(value, str):
        value = _printed(value)
    if not value or value.isascii():
        return value or None
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


def _printed(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return str(value)
    except ValueError:  # more digits than Python prints
        return None


def number(value: object) -> float | None:
    """A finite number, also from its text."""
    if value.__class__ is float or value.__class__ is int:
        found = value
    elif value is None or isinstance(value, bool):
        return None
    elif isinstance(value, str) and len(value) <= 40:
        try:
            found = int(value) if value.isdecimal() else float(value)
        except ValueError:
            return None
    elif hasattr(value, "__float__"):  # Decimal of a Parquet column
        found = float(value)  # pyrefly: ignore
    else:
        return None
    try:
        return found if math.isfinite(found) else None
    except OverflowError:
        return None


def whole(value: object) -> int | None:
    """A count: 0 to 2**31 - 1, no fraction."""
    if value.__class__ is not int:
        value = number(value)
        if value is None or value != int(value):
            return None
        value = int(value)
    return value if 0 <= value <= _INT32 else None


def real(value: object) -> float | None:
    found = number(value)
    return float(found) if found is not None and abs(found) < _FLOAT32 else None


def when(value: object) -> int | None:
    """Microseconds since 1970 UTC; None where it is no time of the years 2000 to 2099.

    ISO 8601 (without a zone: UTC), a datetime, or a number since 1970 in seconds, milli-, micro- or nanoseconds, told
    apart by size: the four ranges of these hundred years do not overlap.
    """
    if isinstance(value, str):
        value = _moment(value.strip())
    micros = _micros(value) if isinstance(value, datetime) else _of_number(number(value))
    return micros if micros is not None and _FIRST_US <= micros < _LAST_US else None


def _moment(value: str) -> datetime | float | None:
    if value.isdecimal():  # fromisoformat reads some of these as a date
        return number(value)
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return number(value)


def _micros(moment: datetime) -> int | None:
    try:
        past = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    except OverflowError:
        return None
    return past.days * 86_400_000_000 + past.seconds * 1_000_000 + past.microseconds


def _of_number(given: float | None) -> int | None:
    if given is None or not 0 < given < 1e19:
        return None
    if given < 1e10:
        return round(given * 1_000_000)
    if given < 1e13:
        return round(given * 1_000)
    return int(given) if given < 1e16 else int(given) // 1_000
