"""From one row to one exchange: a plain document, a prompt with its gold answer, or a prompt alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stillproof.distill.corpus.formats import Line, Paragraphs
from stillproof.errors import InputError
from stillproof.exchange import Exchange, Message, Provenance, canonical_json, check

if TYPE_CHECKING:
    from stillproof.config import DataConfig

_MISSING = object()


class BadRow(Exception):
    """Why a row cannot be used."""


def to_exchange(row: Any, data: DataConfig, detail: str) -> Exchange:
    """The exchange of a row, without an id. Raises BadRow."""
    messages, response = _parts(row, data)
    exchange = Exchange("", messages, response, provenance=Provenance("dataset", detail))
    try:
        check(exchange)
    except InputError as error:
        raise BadRow(error.what) from None
    return exchange


def columns_of(data: DataConfig) -> list[str]:
    """The columns of a table that `to_exchange` can use, without repeats."""
    fields = (data.prompt_field, data.response_field, data.text_field, "messages")
    return list(dict.fromkeys(field.split(".")[0] for field in fields))


def _parts(row: Any, data: DataConfig) -> tuple[tuple[Message, ...], str | None]:
    match row:
        case Line(text):
            return (Message("user", text),), None
        case Paragraphs(text):
            return (), text
        case str():
            return (Message("user", _text(row, "the text")),), None
        case [prompt, response]:
            return (Message("user", _text(prompt, "the first of the pair")),), _gold(response, "the second of the pair")
        case dict():
            return _of_object(row, data)
    raise BadRow(f"a JSON {type(row).__name__}, not an object, a pair of texts or a text")


def _of_object(row: Mapping[str, Any], data: DataConfig) -> tuple[tuple[Message, ...], str | None]:
    """`prompt_field` goes before `messages`, and both before `text_field`."""
    response = _pick(row, data.response_field)
    gold = None if response in (_MISSING, None) else _gold(response, f"field {data.response_field!r}")
    prompt = _pick(row, data.prompt_field)
    if prompt is not _MISSING:
        return (Message("user", _text(prompt, f"field {data.prompt_field!r}")),), gold
    chat = row.get("messages")
    if chat is not None:
        return _chat(chat, gold)
    text = _pick(row, data.text_field)
    if text is not _MISSING:
        return (), _text(text, f"field {data.text_field!r}")
    has = ", ".join(map(repr, list(row)[:8])) or "no field"
    raise BadRow(f"no field {data.prompt_field!r}, 'messages' or {data.text_field!r}; it has {has}")


def _chat(chat: Any, gold: str | None) -> tuple[tuple[Message, ...], str | None]:
    """Messages of the chat-completions form; a last one by the assistant is the gold answer."""
    if not isinstance(chat, list) or not chat:
        raise BadRow("'messages' is not a list of messages, or an empty one")
    messages = tuple(_message(message) for message in chat)
    if messages[-1].role != "assistant":
        return messages, gold
    if len(messages) == 1:
        raise BadRow("'messages' has an answer and no prompt")
    return messages[:-1], messages[-1].content


def _message(message: Any) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRow("a message without a role")
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in content)
    return Message(
        role=message["role"],
        content=content,
        name=message.get("name"),
        tool_calls=None if calls is None else canonical_json(calls),
        tool_call_id=message.get("tool_call_id"),
    )


def _text_part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BadRow("a message with a part that is not text")


def _pick(row: Any, path: str) -> Any:
    """The value at a dotted path (`turns.0`, `instances.0.output`); a field of exactly that name goes before it."""
    if isinstance(row, Mapping) and path in row:
        return row[path]
    value = row
    for name in path.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return _MISSING
    return value


def _gold(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{name} is {type(value).__name__}, not text")
    return value


def _text(value: Any, name: str) -> str:
    text = _gold(value, name)
    if not text.strip():
        raise BadRow(f"{name} is empty")
    return text
