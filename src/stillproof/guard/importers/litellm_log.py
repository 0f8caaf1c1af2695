"""LiteLLM: rows of the table `LiteLLM_SpendLogs` (JSONL, Parquet) and `StandardLoggingPayload` objects (JSONL).

The account is the user of the virtual key, or the key's hash where it has none; the organisation is LiteLLM's
organisation, else its team. `end_user` is a name that the caller gives, so it never names the account.
"""

from __future__ import annotations

from typing import Any

from stillproof.guard.importers.chat import answered, asked
from stillproof.guard.importers.fields import Malformed, NotACall, Record, first, table, when

TELLTALES = frozenset(
    {"startTime", "endTime", "call_type", "api_key", "spend", "response_cost", "model_parameters", "model_group"}
)
_CALLS = ("completion", "responses", "generate_content", "anthropic_messages", "pass_through")
_NO_USER = ("", "default_user_id")  # what the proxy's own admin key carries


def litellm_row(record: Record) -> dict[str, Any]:
    """Columns of one exchange, identities still raw. Raises Malformed, NotACall."""
    if "startTime" not in record or not ("call_type" in record or "api_key" in record):
        raise Malformed("not a record of this format")
    call = record.get("call_type") or "completion"
    if not isinstance(call, str) or not any(name in call for name in _CALLS):
        raise NotACall
    metadata = table(record.get("metadata"))
    row = asked(_request(record))
    for name, value in answered(table(record.get("response"))).items():
        if value is not None and row.get(name) is None:
            row[name] = value
    row |= _counts(record, metadata) | _who(record, metadata)
    # The model of the request, where it is logged, is what the client named: an alias of the proxy's.
    row["model"] = first(record, ("model_group", "model")) or row.get("model")
    row["id"] = first(record, ("request_id", "id")) or row.get("id")
    row["conversation"] = first(record, ("session_id", "trace_id")) or row.get("conversation")
    return row


def _request(record: Record) -> dict[str, Any]:
    """The request body: as the proxy received it, else put together from what was logged of it."""
    received = table(record.get("proxy_server_request"))
    received = table(received.get("body")) or received
    if any(key in received for key in ("messages", "input", "prompt")):
        return received
    request = dict(table(record.get("model_parameters")))
    messages = record.get("messages")
    # Switched off, the spend log holds '{}' here.
    if messages and table(messages) != {}:
        request |= table(messages)
    else:
        request["messages"] = messages if messages not in ("{}", "[]") else None
    return {**received, **request}


def _counts(record: Record, metadata: Record) -> dict[str, Any]:
    found = {
        "time": record.get("startTime"),
        "status": _status(record, metadata),
        "latency_s": record.get("response_time"),
    }
    if found["latency_s"] is None:
        start, end = when(record.get("startTime")), when(record.get("endTime"))
        found["latency_s"] = (end - start) / 1e6 if start and end and end >= start else None
    for name, theirs in (("prompt_tokens", "prompt_tokens"), ("response_tokens", "completion_tokens")):
        if record.get(theirs) is not None:
            found[name] = record[theirs]
    return found


def _who(record: Record, metadata: Record) -> dict[str, Any]:
    user = first(record, ("user",)) or metadata.get("user_api_key_user_id")
    key = first(record, ("api_key",)) or metadata.get("user_api_key_hash") or metadata.get("user_api_key")
    organisation = first(record, ("organization_id", "team_id"))
    return {
        "account": user if user and user not in _NO_USER else key,
        "organisation": organisation or first(metadata, ("user_api_key_org_id", "user_api_key_team_id")),
        "network": first(record, ("requester_ip_address",)) or metadata.get("requester_ip_address"),
        "client": first(record, ("user_agent",)) or metadata.get("user_agent"),
    }


def _status(record: Record, metadata: Record) -> object:
    said = first(record, ("status",)) or metadata.get("status")
    if said == "success":
        return 200
    wrong = table(record.get("error_information")) or table(metadata.get("error_information"))
    return wrong.get("error_code") if said == "failure" else said
