"""OpenTelemetry GenAI spans: OTLP JSON (one export a line), or one span a line, as the SDK's `to_json` or flattened.

New names (`gen_ai.input.messages`, `gen_ai.system_instructions`, `gen_ai.provider.name`) and the old ones that are
still emitted (`gen_ai.prompt.0.content`, `gen_ai.system`, `llm.usage.*`, `traceloop.association.properties.*`). There
is no attribute for log-probabilities: `top_logprobs` stays null. Log records of a whole call are read like spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from stillproof.guard.importers.chat import canonical, content, conversation
from stillproof.guard.importers.fields import Malformed, NotACall, Record, first, parsed, rows, table, when

TELLTALES = frozenset(
    {
        "resourceSpans",
        "resource_spans",
        "scopeSpans",
        "spans",
        "resourceLogs",
        "attributes",
        "context",
        "traceId",
        "spanId",
    }
)
_ASSOCIATION = "traceloop.association.properties."
_OPERATIONS = ("chat", "text_completion", "completion", "generate_content", "responses", "message")
_STATUS = re.compile(r"\b([45]\d\d)\b")

ATTRIBUTES = {
    "account": ("enduser.id", "user.id", *(_ASSOCIATION + name for name in ("account", "account_id", "user_id"))),
    "organisation": (
        "enduser.organisation", "organization.id", _ASSOCIATION + "organization_id", _ASSOCIATION + "org_id"
    ),
    "conversation": (
        "gen_ai.conversation.id", "session.id",
        *(_ASSOCIATION + name for name in ("session_id", "conversation_id", "chat_id")),
    ),
    "model": ("gen_ai.request.model", "gen_ai.response.model", "llm.request.model"),
    "temperature": ("gen_ai.request.temperature", "llm.temperature"),
    "top_p": ("gen_ai.request.top_p", "llm.top_p"),
    "max_tokens": ("gen_ai.request.max_tokens", "llm.request.max_tokens"),
    "n_samples": ("gen_ai.request.choice.count",),
    "prompt_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens"),
    "response_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens"),
    "reasoning_tokens": ("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens"),
    "status": ("http.response.status_code", "http.status_code"),
    "network": ("client.address", "source.address"),
    "client": ("user_agent.original", "http.user_agent"),
}  # fmt: skip
"""Ours, and the attributes that may hold it, newest name first. `net.peer.*` of a client's span is the server."""


def spans(record: Record) -> Iterator[dict[str, Any]]:
    """The spans (or log records) of one line, each with the attributes of its resource under `resource`."""
    groups = rows(first(record, ("resourceSpans", "resource_spans", "resourceLogs", "resource_logs")))
    if not groups:
        yield dict(record)
        return
    for group in map(table, groups):
        resource = table(group.get("resource"))
        scopes = first(group, ("scopeSpans", "scope_spans", "scopeLogs", "scope_logs", "instrumentationLibrarySpans"))
        for scope in rows(scopes):
            for span in rows(first(table(scope), ("spans", "logRecords", "log_records"))):
                yield {**span, "resource": resource} if isinstance(span, dict) else {"not a span": span}


def otel_row(span: Record) -> dict[str, Any]:
    """Columns of one exchange, identities still raw. Raises Malformed, NotACall."""
    held = _attributes(span)
    if not any(key.startswith(("gen_ai.", "llm.")) for key in held):
        if not any(key in span for key in ("attributes", "spanId", "span_id", "context")):
            raise Malformed("not a record of this format")
        raise NotACall
    operation = first(held, ("gen_ai.operation.name", "llm.request.type"))
    if operation is not None and operation not in _OPERATIONS:
        raise NotACall
    if operation is None and not any(key.startswith(("gen_ai.request.", "llm.request.")) for key in held):
        raise NotACall  # a span around calls, with an association property of its own
    for key, value in _attributes(table(span.get("resource"))).items():
        held.setdefault(key, value)
    row = {name: first(held, keys) for name, keys in ATTRIBUTES.items()}
    row |= _said(held)
    start = first(
        span, ("startTimeUnixNano", "start_time_unix_nano", "start_time", "timeUnixNano", "timestamp", "time")
    )
    row["time"] = start
    began, ended = when(start), when(first(span, ("endTimeUnixNano", "end_time_unix_nano", "end_time")))
    row["latency_s"] = (ended - began) / 1e6 if began and ended and ended >= began else None
    row["id"] = held.get("gen_ai.response.id") or _span_id(span)
    row["n_samples"] = row["n_samples"] or _choices(held)
    row["status"] = row["status"] or _status(span, held)
    return row


def _attributes(holder: Record) -> dict[str, Any]:
    """As a mapping: OTLP's list of key and typed value, the SDK's object, or keys of the holder itself."""
    given = parsed(holder.get("attributes"))
    if isinstance(given, dict):
        return dict(given)
    if isinstance(given, list):
        pairs = (item for item in given if isinstance(item, dict) and isinstance(item.get("key"), str))
        return {item["key"]: _value(item.get("value")) for item in pairs}
    return {key: value for key, value in holder.items() if isinstance(key, str) and "." in key}


def _value(typed: object, depth: int = 0) -> Any:
    if not isinstance(typed, dict) or depth > 50:
        return typed
    for kind, value in typed.items():
        if kind in ("arrayValue", "array_value"):
            return [_value(item, depth + 1) for item in rows(table(value).get("values"))]
        if kind in ("kvlistValue", "kvlist_value"):
            pairs = (item for item in rows(table(value).get("values")) if isinstance(item, dict))
            return {str(item.get("key")): _value(item.get("value"), depth + 1) for item in pairs}
        return value
    return None


def _said(held: Record) -> dict[str, Any]:
    """What the call said: system, prompt, turn, tools, blob."""
    messages = first(held, ("gen_ai.input.messages", "gen_ai.prompt", "llm.prompts"))
    if messages is None:
        messages = _indexed(held, "gen_ai.prompt.") or _indexed(held, "llm.prompts.")
    row = conversation(messages)
    instructions = content(parsed(held.get("gen_ai.system_instructions")))
    if instructions:
        row["system"] = f"{instructions}\n\n{row['system']}" if row.get("system") else instructions
    tools = first(held, ("gen_ai.tool.definitions", "gen_ai.request.tools"))
    row["tools"] = canonical(tools if tools is not None else _indexed(held, "llm.request.functions."))
    return row


def _indexed(held: Record, prefix: str) -> list[dict[str, Any]]:
    """`prefix0.role`, `prefix0.content`, `prefix1.role` ... as a list of objects, by number."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in held.items():
        if key.startswith(prefix):
            index, _, name = key[len(prefix) :].partition(".")
            if name and len(index) <= 6 and index.isascii() and index.isdigit():
                found.setdefault(int(index), {})[name] = parsed(value) if name in ("content", "parameters") else value
    return [found[index] for index in sorted(found)]


def _choices(held: Record) -> int | None:
    """How many answers came back, where nothing says how many were asked for."""
    reasons = rows(held.get("gen_ai.response.finish_reasons"))
    return len(reasons) or len(_indexed(held, "gen_ai.completion.")) or None


def _span_id(span: Record) -> str | None:
    context = table(span.get("context"))
    trace = first(span, ("traceId", "trace_id")) or context.get("trace_id")
    own = first(span, ("spanId", "span_id")) or context.get("span_id")
    return f"{trace}-{own}" if trace and own else None


def _status(span: Record, held: Record) -> int | None:
    """The HTTP status of a failed call, where its error tells; 200 where the call has an answer."""
    status = table(span.get("status"))
    told = f"{held.get('error.type')} {first(status, ('message', 'description'))}"[:200]
    if status.get("code") in (2, "STATUS_CODE_ERROR") or status.get("status_code") == "ERROR" or held.get("error.type"):
        found = _STATUS.search(told)
        return int(found[1]) if found else None
    return 200 if held.get("gen_ai.response.id") else None
