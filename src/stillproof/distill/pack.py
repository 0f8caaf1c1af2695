"""Exchanges -> rows of tokens of one length, ready to train on: no padding where it can be helped, no leaks.

A plain document (an exchange without messages) is cut wherever a row ends. A prompt with its response is kept whole
in one row, and only the tokens of the response are learned. Documents in one row do not see each other: positions
restart at 0 at each, and transformers masks attention across such a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.errors import InputError

if TYPE_CHECKING:
    from stillproof.exchange import Exchange

_NO_DOCUMENT = -1


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
        """Some of the rows."""
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
    """The token ids of an exchange, ended by EOS, and how many of the first are prompt (0 for a plain document)."""
    if exchange.response is None:
        raise InputError("has a prompt and no response to learn", exchange.id, "generate the responses first")
    eos = tokenizer.eos_token_id
    response = tokenizer(exchange.response, add_special_tokens=False)["input_ids"]
    if not exchange.messages:
        return [*response, eos], 0
    prompt = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content or ""} for m in exchange.messages],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    return [*prompt, *response, eos], len(prompt)


def pack(exchanges: Iterable[Exchange], tokenizer: Any, *, row_tokens: int, max_tokens: int | None = None) -> Rows:
    """Rows from exchanges, in their order, until `max_tokens` are used.

    Raises InputError where there is nothing to pack or an exchange has no response.
    """
    stream: list[tuple[list[int], int, int]] = []
    whole: list[tuple[list[int], int, int]] = []
    used = 0
    n_truncated = 0
    for number, exchange in enumerate(exchanges):
        if max_tokens is not None and used >= max_tokens:
            break
        ids, n_prompt = token_ids(exchange, tokenizer)
        if max_tokens is not None and not exchange.messages:
            ids = ids[: max_tokens - used]
        if exchange.messages:
            n_truncated += len(ids) > row_tokens
            ids = ids[:row_tokens]
            if n_prompt < len(ids):
                whole.append((ids, n_prompt, number))
        else:
            stream.append((ids, 0, number))
        used += len(ids)
    pieces = _first_fit(whole, row_tokens) + _cut(stream, row_tokens)
    if not pieces:
        raise InputError(
            f"nothing to learn: no document, and {n_truncated} prompts fill a row of {row_tokens} tokens by themselves",
            remedy="give text, or raise train.row_tokens",
        )
    return _fill(pieces, row_tokens, tokenizer.eos_token_id, n_truncated)


def _cut(stream: list[tuple[list[int], int, int]], row_tokens: int) -> list[list[tuple[list[int], int, int]]]:
    """Documents end to end, cut where a row is full."""
    rows: list[list[tuple[list[int], int, int]]] = []
    free = 0
    for ids, n_prompt, number in stream:
        start = 0
        while start < len(ids):
            if free == 0:
                rows.append([])
                free = row_tokens
            piece = ids[start : start + free]
            rows[-1].append((piece, n_prompt, number))
            free -= len(piece)
            start += len(piece)
    return rows


def _first_fit(whole: list[tuple[list[int], int, int]], row_tokens: int) -> list[list[tuple[list[int], int, int]]]:
    """Whole exchanges, longest first, each into the first row with room among the last rows opened."""
    rows: list[list[tuple[list[int], int, int]]] = []
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


def _fill(rows: list[list[tuple[list[int], int, int]]], row_tokens: int, padding_id: int, n_truncated: int) -> Rows:
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
    return Rows(input_ids, position_ids, targets_mask, document, n_truncated)
