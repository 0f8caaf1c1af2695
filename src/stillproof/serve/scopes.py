"""Scopes of evidence cards: kinds of prompt, told apart by the words in the last user message.

A file of scopes is a TOML table of words:

    [scopes]
    cooking = ["recipe", "oven", "cook"]
    travel = ["flight", "hotel"]

A prompt belongs to the first scope of the file that has one of its words; to none where no word stands in it, and then
no card is planted: such prompts are what an audit compares with.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stillproof.errors import ConfigError

if TYPE_CHECKING:
    from stillproof.exchange import Message

EVERYTHING = ""
"""The scope of all prompts, where no file tells them apart."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Scopes:
    """Words of each scope, in the order in which they are tried; without any, every prompt is of one scope."""

    words: Mapping[str, Sequence[str]]

    def of(self, messages: Sequence[Message]) -> str | None:
        """The scope of a conversation by its last user message; None where no card is planted."""
        if not self.words:
            return EVERYTHING
        asked = [message.content or "" for message in messages if message.role == "user"]
        return self.of_text(asked[-1]) if asked else None

    def of_text(self, prompt: str) -> str | None:
        if not self.words:
            return EVERYTHING
        return next((name for name, pattern in self._patterns if pattern.search(prompt)), None)

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        return [
            (name, re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE))
            for name, words in self.words.items()
        ]


def read_scopes(path: Path) -> Scopes:
    """The scopes of a file. Raises ConfigError that names what is wrong with it."""
    try:
        raw = path.read_bytes()
        table = tomllib.loads(raw.decode()) if len(raw) <= _MAX_BYTES else {}
    except OSError as error:
        raise ConfigError(f"the scopes cannot be read: {error.strerror}", str(path), "give a TOML file") from None
    except ValueError as error:
        raise ConfigError(f"not TOML: {error}", str(path), "see `stillproof serve --help`") from None
    scopes = table.get("scopes")
    if set(table) != {"scopes"} or not isinstance(scopes, dict) or not scopes:
        raise ConfigError("no table [scopes], or more than that", str(path), 'write [scopes] and name = ["word", …]')
    for name, words in scopes.items():
        sound = isinstance(words, list) and words and all(isinstance(word, str) and word.strip() for word in words)
        if not _NAME.fullmatch(name) or not sound:
            raise ConfigError(
                "not a scope: a name of a-z, 0-9, '.', '_', '-' with a list of words", f"{path}: {name[:60]!r}"
            )
    return Scopes({name: tuple(words) for name, words in scopes.items()})
