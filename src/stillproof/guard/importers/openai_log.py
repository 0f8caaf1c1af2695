"""OpenAI-style logs: one JSON object a line with the request body and the response body, as a proxy writes them.

The envelope (`timestamp`, `account`, `ip`, ...) is the operator's. What the client wrote into its own request (`user`,
`safety_identifier`) names the account only where the envelope does not.
"""

from __future__ import annotations

from typing import Any

from stillproof.guard.importers.chat import answered, asked
from stillproof.guard.importers.fields import Malformed, NotACall, Record, first, table

TELLTALES = frozenset({"request", "response", "request_body", "response_body", "timestamp", "created", "account"})

ENVELOPE = {
    "id": ("id", "request_id"),
    "time": ("timestamp", "time", "created_at", "created"),
    "account": ("account", "account_id", "user", "user_id", "api_key_id", "api_key"),
    "organisation": ("organisation", "organization", "organisation_id", "organization_id", "org_id"),
    "conversation": ("conversation", "conversation_id", "session_id"),
    "model": ("model",),
    "status": ("status", "status_code"),
    "latency_s": ("latency_s", "duration_s"),
    "latency_ms": ("latency_ms", "duration_ms"),
    "network": ("network", "ip", "client_ip", "remote_addr"),
    "client": ("client", "user_agent"),
    "signup": ("signup", "account_created_at"),
    "plan": ("plan",),
    "payment": ("payment",),
}
"""Ours, and the keys of the envelope that may hold it, the first that is there wins."""


def openai_row(record: Record) -> dict[str, Any]:
    """Columns of one exchange, identities still raw. Raises Malformed, NotACall."""
    request = table(first(record, ("request", "request_body")))
    request = table(request.get("body")) or request
    if not any(key in request for key in ("messages", "input", "prompt")):
        if "request" in record or "request_body" in record:
            raise Malformed("the request holds no messages, input or prompt")
        raise Malformed("not a record of this format")
    if "embedding" in str(request.get("model"))[:200] or "encoding_format" in request:
        raise NotACall
    response = table(first(record, ("response", "response_body")))
    row = asked(request)
    for name, value in answered(table(response.get("body")) or response).items():
        if value is not None and row.get(name) is None:
            row[name] = value
    for name, keys in ENVELOPE.items():
        value = first(record, keys)
        if value is not None and (name != "model" or row.get("model") is None):
            row[name] = value
    if row.get("time") is None:
        row["time"] = first(response, ("created", "created_at"))
    if row.get("account") is None:
        row["account"] = first(request, ("safety_identifier", "user"))
    if row.get("status") is None:
        row["status"] = response.get("status_code")
    if row.get("client") is None:
        headers = table(record.get("headers"))
        row["client"] = first(headers, ("user-agent", "User-Agent"))
    return row
