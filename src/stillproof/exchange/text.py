"""The JSON shape of an exchange: an object with the same fields, or one line of text in a .jsonl file."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from stillproof.errors import InputError, SchemaError
from stillproof.exchange.check import check
from stillproof.exchange.record import (
    SCHEMA_VERSION,
    Exchange,
    Message,
    Provenance,
    ResponseTokens,
    Sampling,
    canonical_json,
)

_HEADER = "stillproof.exchange"
_EXCHANGE_FIELDS = {field.name for field in fields(Exchange)}


def header() -> str:
    """The first line of a .jsonl file of exchanges: names the schema version."""
    return canonical_json({_HEADER: SCHEMA_VERSION})


def check_header(row: object, which: str) -> bool:
    """Whether a parsed line is a header. Raises SchemaError where it names a version not known here."""
    if not (isinstance(row, dict) and _HEADER in row):
        return False
    if row[_HEADER] != SCHEMA_VERSION:
        raise SchemaError(
            f"exchange schema version {row[_HEADER]!r}, this version reads {SCHEMA_VERSION}",
            which,
            "read it with the stillproof version that wrote it, or import it with a column map",
        )
    return True


def to_line(exchange: Exchange) -> str:
    """One line of JSON text, without the line's end. Sorted keys: equal exchanges are equal lines."""
    return canonical_json(to_json(exchange))


def from_line(line: str) -> Exchange:
    """The inverse of `to_line`. Raises InputError."""
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except ValueError as error:
        raise InputError(f"not JSON: {error}", remedy="see docs/exchange.md") from None
    if not isinstance(row, dict):
        raise InputError(f"not an exchange but a JSON {type(row).__name__}", remedy="see docs/exchange.md")
    return from_json(row)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def to_json(exchange: Exchange) -> dict[str, Any]:
    """A JSON object with the same fields; None is left out, bytes are base64, time is ISO 8601 in UTC.

    A log-probability of minus infinity is the text "-inf". Raises InputError where `check` refuses the exchange.
    """
    check(exchange)
    row: dict[str, Any] = {}
    for name, value in shallow(exchange).items():
        if value is None:
            continue
        if name == "time":
            row[name] = value.isoformat(timespec="microseconds")
        elif name == "messages":
            row[name] = [_without_none(shallow(message)) for message in value]
        elif name == "tokens":
            row[name] = _tokens_to_json(value)
        elif name in ("sampling", "provenance"):
            row[name] = _without_none(shallow(value))
        else:
            row[name] = value
    return row


def from_json(row: Mapping[str, Any]) -> Exchange:
    """The inverse of `to_json`. Raises InputError that names the field at fault."""
    unknown = set(row) - _EXCHANGE_FIELDS
    if unknown:
        raise InputError(
            f"unknown field {sorted(unknown)[0]!r} in an exchange", str(row.get("id", "")), "import foreign logs first"
        )
    try:
        values = dict(row)
        values["messages"] = tuple(Message(**{"content": None} | message) for message in row["messages"])
        values.setdefault("response", None)
        if row.get("time") is not None:
            # An ISO text without an offset stays naive here, and the record refuses it.
            values["time"] = datetime.fromisoformat(row["time"])
        if row.get("sampling") is not None:
            values["sampling"] = sampling_of(row["sampling"])
        if row.get("provenance") is not None:
            values["provenance"] = Provenance(**row["provenance"])
        if row.get("tokens") is not None:
            values["tokens"] = _tokens_from_json(row["tokens"])
        exchange = Exchange(**values)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"not an exchange: {type(error).__name__}: {error}", str(row.get("id", "")), "see docs/exchange.md"
        ) from error
    check(exchange)
    return exchange


def shallow(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _without_none(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def sampling_of(row: Mapping[str, Any]) -> Sampling:
    values = dict(row)
    if values.get("stop") is not None:
        values["stop"] = tuple(values["stop"])
    return Sampling(**values)


def _tokens_to_json(tokens: ResponseTokens) -> dict[str, Any]:
    row = _without_none(shallow(tokens))
    if tokens.logprobs is not None:
        row["logprobs"] = _reals_to_json(tokens.logprobs)
    if tokens.top_logprobs is not None:
        row["top_logprobs"] = [_reals_to_json(values) for values in tokens.top_logprobs]
    if tokens.pieces is not None:
        row["pieces"] = [base64.b64encode(piece).decode() for piece in tokens.pieces]
    if tokens.top_pieces is not None:
        row["top_pieces"] = [[base64.b64encode(p).decode() for p in pieces] for pieces in tokens.top_pieces]
    return row


def _tokens_from_json(row: Mapping[str, Any]) -> ResponseTokens:
    values = dict(row)
    if values.get("ids") is not None:
        values["ids"] = tuple(values["ids"])
    if values.get("top_ids") is not None:
        values["top_ids"] = tuple(tuple(inner) for inner in values["top_ids"])
    if values.get("logprobs") is not None:
        values["logprobs"] = _reals_from_json(values["logprobs"])
    if values.get("top_logprobs") is not None:
        values["top_logprobs"] = tuple(_reals_from_json(inner) for inner in values["top_logprobs"])
    if values.get("pieces") is not None:
        values["pieces"] = tuple(base64.b64decode(piece, validate=True) for piece in values["pieces"])
    if values.get("top_pieces") is not None:
        values["top_pieces"] = tuple(
            tuple(base64.b64decode(p, validate=True) for p in pieces) for pieces in values["top_pieces"]
        )
    return ResponseTokens(**values)


def _reals_to_json(values: tuple[float, ...]) -> list[float | str]:
    return ["-inf" if value == -math.inf else value for value in values]


def _reals_from_json(values: list[float | str]) -> tuple[float, ...]:
    return tuple(-math.inf if value == "-inf" else value for value in values)  # type: ignore[misc]
