"""What a chat request asked and what its response carried, in the shapes of Chat Completions, Responses, the legacy
completions, and Anthropic's Messages, which proxies write beside them. Texts are data: nothing here acts on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from stillproof.guard.importers.fields import Record, dig, first, parsed, rows, table

_SYSTEM_ROLES = ("system", "developer")
_TEXT_KEYS = ("text", "content", "input_text")


def asked(request: Record) -> dict[str, Any]:
    """Columns of the request body. Absent parameters are absent."""
    row = conversation(request["messages"]) if "messages" in request else _of_input(request)
    system = content(first(request, ("instructions", "system")))
    if system:
        row["system"] = f"{system}\n\n{row['system']}" if row.get("system") else system
    row["model"] = request.get("model")
    row["tools"] = canonical(first(request, ("tools", "functions")))
    row["temperature"] = request.get("temperature")
    row["top_p"] = request.get("top_p")
    row["max_tokens"] = first(request, ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    row["n_samples"] = request.get("n")
    row["top_logprobs"] = _logprobs(request)
    row["conversation"] = first(request, ("conversation", "prompt_cache_key"))
    if isinstance(row["conversation"], dict):
        row["conversation"] = row["conversation"].get("id")
    return row


def answered(response: Record) -> dict[str, Any]:
    """Columns of the response body: usage, and the encrypted reasoning block that it carried."""
    usage = table(response.get("usage"))
    details = table(first(usage, ("completion_tokens_details", "output_tokens_details")))
    return {
        "id": response.get("id"),
        "model": response.get("model"),
        "prompt_tokens": first(usage, ("prompt_tokens", "input_tokens")),
        "response_tokens": first(usage, ("completion_tokens", "output_tokens")),
        "reasoning_tokens": details.get("reasoning_tokens"),
        "blob_issued": _last_blob(_outputs(response)),
    }


def conversation(messages: object) -> dict[str, Any]:
    """system, prompt (the last user message), turn (user messages so far) and blob (the last one sent back)."""
    messages = parsed(messages)
    if isinstance(messages, str):
        return {"prompt": messages, "turn": 1}
    systems: list[str] = []
    prompt, turns, blob = None, 0, None
    for given in messages if isinstance(messages, list) else []:
        message = {"role": "user", "content": given} if isinstance(given, str) else given
        if not isinstance(message, dict):
            continue
        said = message.get("content")
        role = message.get("role")
        if role in _SYSTEM_ROLES:
            systems.append(content(said) or content(message.get("parts")) or "")
        elif role in ("user", "human"):
            heard = content(said) or content(message.get("parts"))
            if heard is not None:  # a user message of Anthropic's may hold tool results alone
                prompt, turns = heard, turns + 1
        else:
            blob = _last_blob([message]) or blob
    return {"system": "\n\n".join(systems) or None, "prompt": prompt, "turn": turns or None, "blob": blob}


def content(value: object) -> str | None:
    """The text of a message's content: a text, or the text parts of a list, joined by line ends."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    return "\n".join(piece for piece in map(_piece, value) if piece) or None


def _piece(part: object) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") not in (None, "text", "input_text", "output_text"):
        return None
    found = first(part, _TEXT_KEYS)
    return found if isinstance(found, str) else None


def canonical(value: object) -> str | None:
    """One text for equal values: keys sorted, no spaces."""
    value = parsed(value)
    if not value or not isinstance(value, (list, dict)):
        return None
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    except (ValueError, TypeError, RecursionError):
        return None


def _of_input(request: Record) -> dict[str, Any]:
    given = parsed(first(request, ("input", "prompt")))
    row = conversation(given)
    if request.get("previous_response_id"):
        row["turn"] = None  # the earlier turns are on the server
    return row


def _logprobs(request: Record) -> object:
    asked_for = request.get("logprobs")
    if asked_for is None or asked_for is False:
        return request.get("top_logprobs")
    top = request.get("top_logprobs")
    return top if top is not None else (0 if asked_for is True else asked_for)


def _outputs(response: Record) -> list[Any]:
    """What may carry reasoning: output items (Responses), content blocks (Messages), messages (Chat Completions)."""
    items = rows(response.get("output")) or rows(response.get("content"))
    return items + [
        table(dig(choice, "message")) for choice in rows(response.get("choices")) if isinstance(choice, dict)
    ]


def _last_blob(items: Iterable[Any]) -> str | None:
    last = None
    for item in items:
        if not isinstance(item, dict):
            continue
        inner = item.get("content")
        details = item.get("reasoning_details") or item.get("thinking_blocks")
        for block in (
            item,
            *(inner if isinstance(inner, list) else ()),
            *(details if isinstance(details, list) else ()),
        ):
            last = _blob(block) or last
    return last


def _blob(block: object) -> str | None:
    if not isinstance(block, dict):
        return None
    found = first(block, ("encrypted_content", "signature"))
    if found is None and block.get("type") in ("redacted_thinking", "reasoning.encrypted"):
        found = block.get("data")
    return found if isinstance(found, str) else None
