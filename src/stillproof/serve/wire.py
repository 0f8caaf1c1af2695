"""The chat-completions wire format, as far as `endpoint` speaks it: a call in, a completion or an error out."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillproof.exchange import Exchange, Message, ResponseTokens, Sampling, canonical_json
from stillproof.teacher import Request

MAX_N = 128
MAX_TOP_LOGPROBS = 20
NOT_SERVED = ("logit_bias", "response_format", "functions", "presence_penalty", "frequency_penalty")
"""Parameters that would change the answer and that no teacher here knows: refused, never ignored."""


class Refusal(Exception):
    """A call that is answered with an error: HTTP status and JSON body."""

    def __init__(self, status: int, what: str, code: str) -> None:
        super().__init__(status, what, code)
        self.status = status
        self.body = error_body(what, code)


def error_body(what: str, code: str) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": what, "type": code, "param": None, "code": code}}


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call: the first of its n requests, and whether it wants log-probabilities."""

    request: Request
    n: int

    def requests(self, sample: int) -> list[Request]:
        """The n requests. With a seed their sample index counts the choices, so that the call repeats; without one
        it starts at `sample`, n apart, so that no two calls are the same draw."""
        start = sample * MAX_N if self.request.sampling.seed is None else 0
        return [
            replace(self.request, sample=start + k, id=self.request.id if self.n == 1 else f"{self.request.id}-{k}")
            for k in range(self.n)
        ]


def read_call(body: bytes, *, model: str, account: str | None) -> Call:
    """The call in a request's body. Raises Refusal that names the field at fault."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the body is not JSON", "invalid_request") from error
    if not isinstance(fields, dict):
        raise Refusal(400, "the body is not a JSON object", "invalid_request")
    if fields.get("stream"):
        raise Refusal(501, "streaming is not served here; leave out 'stream'", "not_implemented")
    if fields.get("model") != model:
        raise Refusal(404, f"the model here is {model!r}", "model_not_found")
    for name in NOT_SERVED:
        if fields.get(name):
            raise Refusal(400, f"{name!r} is not served here", "unsupported_parameter")
    tools = fields.get("tools")
    request = Request(
        messages=_messages(fields.get("messages")),
        sampling=_sampling(fields),
        tools=canonical_json(tools) if tools else None,
        account=account,
        id=f"chatcmpl-{secrets.token_hex(16)}",
    )
    return Call(request, _whole(fields, "n", 1, MAX_N) or 1)


def completion(call: Call, exchanges: Sequence[Exchange], model: str) -> dict[str, Any]:
    """The chat completion of a call's answers; log-probabilities where it asked and the teacher gave them."""
    wanted = call.request.sampling.top_logprobs is not None
    prompt_tokens = exchanges[0].prompt_tokens or 0
    response_tokens = sum(exchange.response_tokens or 0 for exchange in exchanges)
    return {
        "id": call.request.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": exchange.response},
                "finish_reason": exchange.finish_reason or "stop",
                "logprobs": _logprobs(exchange.tokens) if wanted else None,
            }
            for index, exchange in enumerate(exchanges)
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": response_tokens,
            "total_tokens": prompt_tokens + response_tokens,
        },
    }


def _logprobs(tokens: ResponseTokens | None) -> dict[str, Any] | None:
    if tokens is None or tokens.pieces is None or tokens.logprobs is None:
        return None
    rows: list[dict[str, Any]] = []
    for i, (piece, logprob) in enumerate(zip(tokens.pieces, tokens.logprobs, strict=True)):
        row = _row(piece, logprob, tokens.ids[i] if tokens.ids is not None else None)
        row["top_logprobs"] = list[dict[str, Any]]()
        if tokens.top_pieces is not None and tokens.top_logprobs is not None:
            ids = tokens.top_ids[i] if tokens.top_ids is not None else (None,) * len(tokens.top_pieces[i])
            tops = zip(tokens.top_pieces[i], tokens.top_logprobs[i], ids, strict=True)
            row["top_logprobs"] = [_row(*top) for top in tops]
        rows.append(row)
    return {"content": rows}


def _row(piece: bytes, logprob: float, number: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {"token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": logprob}
    return row if number is None else row | {"id": number}


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise Refusal(400, "'messages' is not a list of messages", "invalid_request")
    return tuple(_message(row, number) for number, row in enumerate(value))


def _message(row: Any, number: int) -> Message:
    if not isinstance(row, dict) or not isinstance(row.get("role"), str):
        raise Refusal(400, f"'messages[{number}]' has no role", "invalid_request")
    content = row.get("content")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise Refusal(400, f"'messages[{number}].content' has a part that is not text", "unsupported_content")
        content = "".join(str(part) for part in parts)
    calls = row.get("tool_calls")
    texts = {"content": content, "name": row.get("name"), "tool_call_id": row.get("tool_call_id")}
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise Refusal(400, f"'messages[{number}].{name}' is not text", "invalid_request")
    return Message(
        role=row["role"],
        content=texts["content"],
        name=texts["name"],
        tool_calls=canonical_json(calls) if calls else None,
        tool_call_id=texts["tool_call_id"],
    )


def _sampling(fields: dict[str, Any]) -> Sampling:
    stop = fields.get("stop")
    if isinstance(stop, str):
        stop = [stop]
    if stop is not None and not (isinstance(stop, list) and all(isinstance(word, str) and word for word in stop)):
        raise Refusal(400, "'stop' is not a text or a list of texts", "invalid_request")
    max_tokens = "max_completion_tokens" if fields.get("max_completion_tokens") is not None else "max_tokens"
    top_logprobs = _whole(fields, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top_logprobs and not fields.get("logprobs"):
        raise Refusal(400, "'top_logprobs' needs 'logprobs'", "invalid_request")
    return Sampling(
        temperature=_real(fields, "temperature", 0.0, 2.0),
        top_p=_real(fields, "top_p", 0.0, 1.0),
        top_k=_whole(fields, "top_k", 1, 1 << 31),
        max_tokens=_whole(fields, max_tokens, 1, 1 << 31),
        top_logprobs=(top_logprobs or 0) if fields.get("logprobs") else None,
        seed=_whole(fields, "seed", -(1 << 63), (1 << 63) - 1),
        stop=tuple(stop) if stop else None,
    )


def _whole(fields: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refusal(400, f"{name!r} is not a whole number from {low} to {high}", "invalid_request")
    return value


def _real(fields: dict[str, Any], name: str, low: float, high: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise Refusal(400, f"{name!r} is not a number from {low:g} to {high:g}", "invalid_request")
    return float(value)
