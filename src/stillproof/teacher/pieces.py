"""The bytes of single tokens, so that a response can be cut at token edges even inside a character.

Two families of tokenizers cover nearly every causal model: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) and
SentencePiece with byte fallback (Llama 2, Gemma, Mistral). Others have no pieces: None, never a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE_MARK = "\u2581"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Pieces:
    """Bytes of ids, in one tokenizer. `known` is False where its family is not one of the two."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._bytes_of_token, self._strips_first_space = _family(tokenizer)
        self._of_id = lru_cache(maxsize=1 << 18)(self._piece)

    @property
    def known(self) -> bool:
        return self._bytes_of_token is not None

    def of(self, ids: Sequence[int]) -> tuple[bytes, ...] | None:
        """One byte string for each id; special tokens are empty, as they are in the decoded text."""
        if self._bytes_of_token is None:
            return None
        pieces = [self._of_id(number) for number in ids]
        if self._strips_first_space:
            first = next((i for i, number in enumerate(ids) if number not in self._special), None)
            if first is not None:
                pieces[first] = pieces[first].removeprefix(b" ")
        return tuple(pieces)

    def each(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """The bytes of ids that do not follow one another: alternatives for one place. Needs `known`."""
        return tuple(self._of_id(number) for number in ids)

    def spelling(self, ids: Sequence[int], text: str) -> tuple[bytes, ...] | None:
        """The pieces of ids, where their concatenation is UTF-8 of `text`; bytes that are not UTF-8 stand for the
        replacement characters in it. None where they do not spell it."""
        pieces = self.of(ids)
        if pieces is None or b"".join(pieces).decode("utf-8", "replace") != text:
            return None
        return pieces

    def _piece(self, number: int) -> bytes:
        if number in self._special or self._bytes_of_token is None:
            return b""
        token = self._tokenizer.convert_ids_to_tokens(number)
        return b"" if token is None else self._bytes_of_token(str(token))


def _family(tokenizer: PreTrainedTokenizerBase) -> tuple[Callable[[str], bytes] | None, bool]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None, False
    steps = _steps(json.loads(backend.to_str()).get("decoder"))
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level, False
    marked = "Metaspace" in kinds or any(step["type"] == "Replace" and step["content"] == " " for step in steps)
    if marked and kinds <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}:
        return _sentencepiece, "Strip" in kinds or _prepends_space(steps)
    return None, False


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def _prepends_space(steps: list[dict[str, Any]]) -> bool:
    return any(step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps)


def _byte_level(token: str) -> bytes:
    table = _byte_of_character()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode("utf-8")


def _sentencepiece(token: str) -> bytes:
    byte = BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE_MARK, " ").encode("utf-8")


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE: printable Latin-1 stands for itself, every other byte for 256 + its rank."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}
