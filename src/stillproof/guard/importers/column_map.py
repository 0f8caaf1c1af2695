"""Any other log, by a map `ours=theirs`: theirs is a dotted path into the row, `a|b` where either may hold it.

Beside our columns, ours may be `request`, `response` (bodies), `messages` (a chat), `latency_ms`, and the account facts
`signup`, `plan`, `payment`. Presets are such maps as data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from stillproof.errors import ConfigError
from stillproof.guard.importers.chat import answered, asked, canonical, conversation
from stillproof.guard.importers.fields import Malformed, NotACall, Record, dig, table
from stillproof.guard.log import log_schema

EXTRAS = ("request", "response", "messages", "latency_ms", "signup", "plan", "payment")

PRESETS: dict[str, dict[str, str]] = {
    # ClickHouse table `events_full`. The project is the operator's own, so no organisation.
    "langfuse": {
        "id": "span_id",
        "time": "start_time",
        "account": "user_id",
        "conversation": "session_id",
        "model": "provided_model_name",
        "messages": "input.messages|input",
        "tools": "input.tools|tool_definitions",
        "temperature": "model_parameters.temperature",
        "top_p": "model_parameters.top_p",
        "max_tokens": "model_parameters.max_completion_tokens|model_parameters.max_tokens",
        "n_samples": "model_parameters.n",
        "top_logprobs": "model_parameters.top_logprobs",
        "prompt_tokens": "usage_details.input",
        "response_tokens": "usage_details.output",
        "reasoning_tokens": "usage_details.output_reasoning_tokens|usage_details.output_reasoning",
    },
    # ClickHouse table `request_response_rmt`. `organization_id` is the operator; `country_code` is never read.
    "helicone": {
        "id": "request_id",
        "time": "request_created_at",
        "account": "user_id",
        "conversation": "properties.Helicone-Session-Id",
        "model": "model",
        "request": "request_body",
        "response": "response_body",
        "status": "status",
        "latency_ms": "latency",
        "prompt_tokens": "prompt_tokens",
        "response_tokens": "completion_tokens",
    },
}
ONLY = {"langfuse": ("type", ("GENERATION",))}
"""A preset's column that says what a row is, and the values of a model call."""


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a map that names no column of ours, or lacks time or account. Raises ConfigError."""
    known = (*log_schema().names, *EXTRAS)
    for ours, theirs in columns.items():
        if ours not in known:
            raise ConfigError(f"the log has no column {ours!r}", f"{ours}={theirs}", f"choose of {', '.join(known)}")
        if not theirs:
            raise ConfigError("no column of theirs is named", f"{ours}=", "write ours=theirs, theirs a dotted path")
    for needed in ("time", "account"):
        if needed not in columns:
            raise ConfigError(f"the map lacks {needed!r}", "columns", f"add {needed}=THEIRS")


def mapped(
    columns: Mapping[str, str], only: tuple[str, tuple[str, ...]] | None = None
) -> Callable[[Record], dict[str, Any]]:
    """A function that makes a row of a record by this map."""
    plain = {ours: theirs for ours, theirs in columns.items() if ours not in ("request", "response", "messages")}

    def column_row(record: Record) -> dict[str, Any]:
        if only is not None and only[0] in record and record[only[0]] not in only[1]:
            raise NotACall
        row: dict[str, Any] = {}
        if "request" in columns:
            body = table(dig(record, columns["request"]))
            row |= asked(body) if body else {}
        if "messages" in columns:
            messages = dig(record, columns["messages"])
            row |= conversation(messages) if messages is not None else {}
        if "response" in columns:
            told = answered(table(dig(record, columns["response"])))
            row |= {name: value for name, value in told.items() if row.get(name) is None}
        found = {ours: dig(record, theirs) for ours, theirs in plain.items()}
        if all(value is None for value in found.values()):
            raise Malformed("not a record of this format")
        row |= {ours: value for ours, value in found.items() if value is not None}
        if row.get("tools") is not None:
            row["tools"] = canonical(row["tools"]) or row["tools"]
        return row

    return column_row


def own_row(record: Record) -> dict[str, Any]:
    """A row whose columns are named as ours."""
    return _own()(record)


@cache
def _own() -> Callable[[Record], dict[str, Any]]:
    return mapped({name: name for name in (*log_schema().names, *EXTRAS)})
