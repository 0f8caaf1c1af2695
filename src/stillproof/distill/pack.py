"""Exchanges -> rows of tokens of one length, ready to train on: no padding where it can be helped, no leaks.

A plain document (an exchange without messages) is cut wherever a row ends. A prompt with its response is kept whole
in one row, and only the tokens of the response are learned. Documents in one row do not see each other: positions
restart at 0 at each, and transformers masks attention across such a restart.

What a model reads begins and ends as its own tokenizer and chat template have it: a plain document, and each piece of
one that was cut, begins with BOS where the tokenizer adds one; an answer ends with the template's end of turn. A
response that its teacher cut (`finish_reason` "length") has no end to learn.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.errors import InputError
from stillproof.teacher.local import template_message

if TYPE_CHECKING:
    from stillproof.exchange import Exchange

_NO_DOCUMENT = -1
_ANSWER = "stillproof"
"""An answer that no template contains or changes: what follows it in the rendered text is the end of a turn."""

_Item = tuple[list[int], int, int]
"""Token ids, how many of the first are not learned, the number of the exchange."""


@dataclass(frozen=True, slots=True)
class Rows:
    """n_rows x row_tokens. Position t of a row predicts the token at t + 1."""

    input_ids: np.ndarray
    """int32"""
    position_ids: np.ndarray
    """int32, restarting at 0 at each document"""
    targets_mask: np.ndarray
    """bool: position t is learned, i.e. token t + 1 belongs to the same document and to what is learned"""
    document: np.ndarray
    """int32 index into the exchanges given, -1 for padding"""
    n_truncated: int = 0
    """exchanges with a prompt that were longer than a row and lost their end"""
    n_left_out: int = 0
    """exchanges of which nothing was used because `max_tokens` had been reached"""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def n_tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int((self.document != _NO_DOCUMENT).sum())

    @property
    def n_targets(self) -> int:
        """Positions in the loss."""
        return int(self.targets_mask.sum())

    @property
    def digest(self) -> str:
        """SHA-256 of the rows: equal where training would see the same thing."""
        sha = hashlib.sha256(repr(self.input_ids.shape).encode())
        for column in (self.input_ids, self.position_ids, self.targets_mask, self.document):
            sha.update(np.ascontiguousarray(column).tobytes())
        return sha.hexdigest()

    def take(self, rows: slice | Sequence[int] | np.ndarray) -> Rows:
        """Some of the rows; what was truncated or left out belongs to all of them and is not counted again."""
        return Rows(self.input_ids[rows], self.position_ids[rows], self.targets_mask[rows], self.document[rows])


def as_document(exchange: Exchange) -> Exchange:
    """A prompt with its response as one plain document, the messages' contents and the response on lines of their own.

    Raises InputError for a prompt without a response.
    """
    if not exchange.messages:
        return exchange
    if exchange.response is None:
        raise InputError("has a prompt and no response to learn", exchange.id, "generate the responses first")
    texts = [message.content for message in exchange.messages if message.content]
    return replace(exchange, messages=(), response="\n".join([*texts, exchange.response]))


def token_ids(exchange: Exchange, tokenizer: Any) -> tuple[list[int], int]:
    """The token ids of an exchange, and how many of the first are not learned: the prompt, or BOS.

    They end with the end of turn of the chat template, or with EOS, unless the response was cut at a limit of length.

    Raises InputError for an exchange without a response, for a conversation that this tokenizer has no template for,
    and where there is no token to end with.
    """
    return _Encoder(tokenizer).encode(exchange)


class _Encoder:
    """A tokenizer with what is asked of it once, not once for each exchange."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, exchange: Exchange) -> tuple[list[int], int]:
        """See `token_ids`."""
        if exchange.response is None:
            raise InputError("has a prompt and no response to learn", exchange.id, "generate the responses first")
        first = self._prompt(exchange) if exchange.messages else list(self._bos)
        response = self._ids(exchange.response)
        # Imported text may spell out special tokens; each is wanted once.
        if first and response[:1] == first[-1:] and self._is_special(first[-1]):
            del response[0]
        if exchange.finish_reason == "length":
            return [*first, *response], len(first)
        chat = bool(exchange.messages and self._tokenizer.chat_template)
        end = self._turn_end if chat else self._tokenizer.eos_token_id
        if end is None:
            raise InputError(
                "the tokenizer has no token that ends " + ("a turn" if chat else "a document"),
                exchange.id,
                "set its eos_token, or use the tokenizer of a model that has one",
            )
        if response[-1:] != [end]:
            response.append(end)
        return [*first, *response], len(first)

    @property
    def padding(self) -> int:
        """Any token will do: padding is neither read nor learned."""
        own = (self._tokenizer.eos_token_id, self._tokenizer.pad_token_id)
        return next((int(token) for token in own if token is not None), 0)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _is_special(self, token: int) -> bool:
        added = self._tokenizer.added_tokens_decoder.get(token)
        return token in self._tokenizer.all_special_ids or (added is not None and added.special)

    @cached_property
    def _bos(self) -> tuple[int, ...]:
        """BOS where this tokenizer puts it before every text (Gemma, Llama), else nothing."""
        added = self._tokenizer("")["input_ids"]
        return tuple(added[:1]) if added and added[0] == self._tokenizer.bos_token_id else ()

    @cached_property
    def _turn_end(self) -> int | None:
        """The special token that the template puts right after an answer, else EOS."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
        _, found, after = str(self._tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(_ANSWER)
        following = self._ids(after) if found else []
        if following and self._is_special(following[0]):
            return following[0]
        eos: int | None = self._tokenizer.eos_token_id
        return eos

    def _prompt(self, exchange: Exchange) -> list[int]:
        """The ids that `LocalTeacher.prompt_ids` gives its model for the same conversation."""
        messages = exchange.messages
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(
                [template_message(message) for message in messages],
                tools=json.loads(exchange.tools) if exchange.tools else None,
                add_generation_prompt=True,
                tokenize=False,
            )
            return self._ids(text)
        if len(messages) != 1 or messages[0].role != "user" or exchange.tools:
            raise InputError(
                "this tokenizer has no chat template, so only a single user message can be continued",
                exchange.id or " ".join(message.role for message in messages),
                "use the tokenizer of an instruction-tuned model, put everything into one user message, "
                "or set data.form: plain",
            )
        return list(self._tokenizer(messages[0].content or "")["input_ids"])


def pack(exchanges: Iterable[Exchange], tokenizer: Any, *, row_tokens: int, max_tokens: int | None = None) -> Rows:
    """Rows from exchanges, in their order, until `max_tokens` are used; the rest is counted in `n_left_out`.

    The last exchange with a prompt is kept whole and may exceed `max_tokens`. A BOS repeated where a document was cut
    counts as a token.

    Raises InputError where there is nothing to pack, and as `token_ids` does.
    """
    if row_tokens < 2:
        raise InputError(f"a row of {row_tokens} tokens has none to predict", remedy="raise train.row_tokens")
    encoder = _Encoder(tokenizer)
    stream: list[list[_Item]] = []
    whole: list[_Item] = []
    used = n_truncated = n_left_out = 0
    for number, exchange in enumerate(exchanges):
        room = sys.maxsize if max_tokens is None else max_tokens - used
        if room <= 0:
            n_left_out += 1
            continue
        ids, n_prompt = encoder.encode(exchange)
        if exchange.messages:
            n_truncated += len(ids) > row_tokens
            ids = ids[:row_tokens]
            if n_prompt < len(ids):
                whole.append((ids, n_prompt, number))
            used += len(ids)
        else:
            laid = _lay((ids, n_prompt, number), stream, row_tokens, room)
            n_left_out += laid == 0 and n_prompt < len(ids)
            used += laid
    pieces = _first_fit(whole, row_tokens) + stream
    if not pieces:
        raise InputError(
            f"nothing to learn: no document, and {n_truncated} prompts fill a row of {row_tokens} tokens by themselves",
            remedy="give text, or raise train.row_tokens",
        )
    return replace(_fill(pieces, row_tokens, encoder.padding), n_truncated=n_truncated, n_left_out=n_left_out)


def _lay(item: _Item, rows: list[list[_Item]], row_tokens: int, room: int) -> int:
    """Puts at most `room` tokens of a document after what is in `rows`, cut where a row is full; how many it put.

    Each piece is a context of its own to the model, so each begins with the document's BOS if it has one.
    """
    ids, n_bos, number = item
    free = row_tokens - sum(len(piece) for piece, _, _ in rows[-1]) if rows else 0
    laid, start = 0, n_bos
    while start < len(ids) and room - laid > n_bos:
        if free <= n_bos:
            rows.append([])
            free = row_tokens
        n_own = min(free, room - laid) - n_bos
        piece = [*ids[:n_bos], *ids[start : start + n_own]]
        rows[-1].append((piece, n_bos, number))
        start += n_own
        free -= len(piece)
        laid += len(piece)
    return laid


def _first_fit(whole: list[_Item], row_tokens: int) -> list[list[_Item]]:
    """Whole exchanges, longest first, each into the first row with room among the last rows opened."""
    rows: list[list[_Item]] = []
    free: list[int] = []
    window = 64
    for item in sorted(whole, key=lambda item: (-len(item[0]), item[2])):
        for index in range(max(0, len(rows) - window), len(rows)):
            if free[index] >= len(item[0]):
                rows[index].append(item)
                free[index] -= len(item[0])
                break
        else:
            rows.append([item])
            free.append(row_tokens - len(item[0]))
    return rows


def _fill(rows: list[list[_Item]], row_tokens: int, padding_id: int) -> Rows:
    shape = (len(rows), row_tokens)
    input_ids = np.full(shape, padding_id, dtype=np.int32)
    position_ids = np.zeros(shape, dtype=np.int32)
    targets_mask = np.zeros(shape, dtype=bool)
    document = np.full(shape, _NO_DOCUMENT, dtype=np.int32)
    for row, pieces in enumerate(rows):
        start = 0
        for ids, n_prompt, number in pieces:
            end = start + len(ids)
            input_ids[row, start:end] = ids
            position_ids[row, start:end] = np.arange(len(ids))
            targets_mask[row, start + max(n_prompt - 1, 0) : end - 1] = True
            document[row, start:end] = number
            start = end
        # Padding counts on as one more document, which nobody reads and which reads nobody.
        position_ids[row, start:] = np.arange(row_tokens - start)
    return Rows(input_ids, position_ids, targets_mask, document)
