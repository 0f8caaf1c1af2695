"""What an exchange may hold: only what every shape can hold, so that none of them loses or alters it."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from stillproof.errors import InputError
from stillproof.exchange.record import Exchange, Message, Provenance, ResponseTokens, Sampling

_TEXTS = (
    "id", "response", "reasoning", "tools", "model", "finish_reason", "account", "organisation", "network", "client",
    "conversation", "request_key",
)  # fmt: skip
_REQUIRED = {"id", "role", "source"}


class _Fault(Exception):
    """The field at fault and what is wrong with it."""


def check(exchange: Exchange) -> None:
    """Refuse an exchange that some shape cannot hold. Raises InputError that names the exchange and the field.

    Text must be Unicode text (no lone surrogates), whole numbers must fit their Arrow type, log-probabilities may be
    -inf but not NaN or +inf, every other float is finite, and all columns of `tokens` have one length.
    """
    try:
        for name in _TEXTS:
            _text(name, getattr(exchange, name))
        _whole("status", exchange.status, 31)
        _whole("prompt_tokens", exchange.prompt_tokens)
        _whole("response_tokens", exchange.response_tokens)
        _finite("latency_s", exchange.latency_s)
        if exchange.messages is None:
            _refuse("messages", "is None; a plain document has ()")
        for message in _rows("messages", exchange.messages):
            _message(message)
        if exchange.sampling is not None:
            _sampling(exchange.sampling)
        if exchange.tokens is not None:
            _tokens(exchange.tokens)
        if exchange.provenance is not None:
            _provenance(exchange.provenance)
    except _Fault as fault:
        which = exchange.id or exchange.request_key or "an exchange without an id"
        raise InputError(str(fault), ascii(which).strip("'"), "correct or leave out this record") from None


def _message(message: object) -> None:
    if not isinstance(message, Message):
        _refuse("messages", f"holds a {type(message).__name__}, not messages")
    for name in ("role", "content", "name", "tool_calls", "tool_call_id"):
        _text(name, getattr(message, name), "messages.")


def _sampling(sampling: Sampling) -> None:
    for name in ("temperature", "top_p"):
        _finite(f"sampling.{name}", getattr(sampling, name))
    for name in ("top_k", "max_tokens", "top_logprobs", "seed"):
        _whole(f"sampling.{name}", getattr(sampling, name))
    for stop in _rows("sampling.stop", sampling.stop):
        if stop is None:
            _refuse("sampling.stop", "holds None")
        _text("stop", stop, "sampling.")


def _provenance(provenance: Provenance) -> None:
    for name in ("source", "detail", "teacher", "terms", "grant"):
        _text(name, getattr(provenance, name), "provenance.")


def _tokens(tokens: ResponseTokens) -> None:
    _text("tokenizer", tokens.tokenizer, "tokens.")
    columns = (tokens.ids, tokens.pieces, tokens.logprobs, tokens.top_ids, tokens.top_pieces, tokens.top_logprobs)
    lengths = {len(column) for column in columns if isinstance(column, tuple)}
    if len(lengths) > 1:
        _refuse("tokens", f"columns of different lengths: {sorted(lengths)}")
    _whole_numbers("tokens.ids", tokens.ids)
    _byte_strings("tokens.pieces", tokens.pieces)
    _log_probabilities("tokens.logprobs", tokens.logprobs)
    for ids in _rows("tokens.top_ids", tokens.top_ids):
        _whole_numbers("tokens.top_ids", _rows("tokens.top_ids", ids))
    for pieces in _rows("tokens.top_pieces", tokens.top_pieces):
        _byte_strings("tokens.top_pieces", _rows("tokens.top_pieces", pieces))
    for logprobs in _rows("tokens.top_logprobs", tokens.top_logprobs):
        _log_probabilities("tokens.top_logprobs", _rows("tokens.top_logprobs", logprobs))


def _whole_numbers(name: str, column: object) -> None:
    values = _rows(name, column)
    if any(kind is not int for kind in set(map(type, values))):
        _refuse(name, "holds something else than whole numbers")
    if values and not (min(values) >= -(2**63) and max(values) < 2**63):
        _refuse(name, "holds a number that does not fit 64 bits")


def _byte_strings(name: str, column: object) -> None:
    if any(kind is not bytes for kind in set(map(type, _rows(name, column)))):
        _refuse(name, "holds something else than bytes")


def _log_probabilities(name: str, column: object) -> None:
    values = _rows(name, column)
    if any(kind is bool or not issubclass(kind, float | int) for kind in set(map(type, values))):
        _refuse(name, "holds something else than numbers")
    # NaN and +inf both survive a sum, and neither is below infinity; -inf alone is.
    if not sum(values) < math.inf:
        _refuse(name, "holds NaN or +inf")


def _text(name: str, value: object, prefix: str = "") -> None:
    if value is None and name not in _REQUIRED:
        return
    if not isinstance(value, str):
        _refuse(prefix + name, f"is {type(value).__name__}, not text")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        _refuse(prefix + name, f"has a lone surrogate ({value[error.start]!a}) at character {error.start}")


def _whole(name: str, value: object, bits: int = 63) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(name, f"is {type(value).__name__}, not a whole number")
    if not -(2**bits) <= value < 2**bits:
        _refuse(name, f"does not fit {bits + 1} bits")


def _finite(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        _refuse(name, f"is {type(value).__name__}, not a number")
    if not math.isfinite(value):
        _refuse(name, f"is {value}")


def _rows(name: str, value: object) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, tuple):
        _refuse(name, f"is a {type(value).__name__}, not a tuple")
    return value


def _refuse(name: str, reason: str) -> NoReturn:
    raise _Fault(f"{name} {reason}")
