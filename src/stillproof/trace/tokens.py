"""Text as token ids of the marked model's tokenizer: the key is over those ids, whatever the suspect's tokenizer is.

In closed mode ids that a suspect sampled are not read: its text is cut anew, so that weights and an endpoint are alike.
Where our cut differs from the one that was served, evidence is lost and never made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stillproof.config import Section
from stillproof.errors import InputError, MismatchError, MissingExtraError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FILE = "tokenizer.json"
_DIGEST = r"^[0-9a-f]{64}$"


class TokenizerId(Section):
    """Which tokenizer: the whole file decides how text is cut, the vocabulary which id means which token."""

    source: str
    """Where it was found: a folder, a GGUF file or 'smollm2'. A hint, checked by the digests."""
    file_sha256: Annotated[str, Field(pattern=_DIGEST)]
    vocabulary_sha256: Annotated[str, Field(pattern=_DIGEST)]
    """As teachers name it in their identity."""


class TextToIds:
    """A tokenizer without a model: no torch, no transformers."""

    def __init__(self, source: str) -> None:
        """`source`: a folder with a tokenizer.json, a GGUF file, 'smollm2', or owner/name at the hub.

        Raises InputError where there is no such file, MissingExtraError without the package `tokenizers`.
        """
        path = _tokenizer_file(source)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise InputError(f"no tokenizer can be read: {error.strerror}", str(path), _REMEDY) from None
        self._tokenizer = _loaded(raw, path)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.id = TokenizerId(
            source=source, file_sha256=sha256(raw).hexdigest(), vocabulary_sha256=_vocabulary_sha256(vocabulary)
        )

    def __call__(self, text: str) -> list[int]:
        """Ids of a text, without the special tokens that stand around it."""
        # A lone surrogate, which JSON can carry, is no text to a tokenizer.
        sound = text.encode("utf-8", "replace").decode("utf-8")
        ids: Sequence[int] = self._tokenizer.encode(sound, add_special_tokens=False).ids
        return list(ids)


def open_tokenizer(planned: TokenizerId, source: str | None = None) -> TextToIds:
    """The tokenizer that a plan names, found at `source` where it has moved. Raises MismatchError for another one."""
    tokenizer = TextToIds(source or planned.source)
    if tokenizer.id.file_sha256 != planned.file_sha256:
        same = tokenizer.id.vocabulary_sha256 == planned.vocabulary_sha256
        what = "the tokenizer cuts text in another way" if same else "the tokenizer has other ids"
        raise MismatchError(f"{what} than the one that the plan names", source or planned.source, "give that one")
    return tokenizer


_REMEDY = "give --tokenizer the folder of the model that served the marked text"


def _tokenizer_file(source: str) -> Path:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        from stillproof.teacher.weights import weights_folder

        folder = weights_folder(source)
    return folder / _FILE


def _loaded(raw: bytes, path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError(
            "cutting text into tokens needs the package tokenizers", str(path), "pip install 'stillproof[train]'"
        ) from error
    try:
        text = raw.decode()
        json.loads(text)
        tokenizer: Tokenizer = Tokenizer.from_str(text)
    except Exception as error:
        # The package raises bare Exception for a file that it cannot read.
        raise InputError(f"not a tokenizer: {error}", str(path), _REMEDY) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _vocabulary_sha256(vocabulary: dict[str, int]) -> str:
    from stillproof.teacher.weights import hash_vocabulary

    return hash_vocabulary(vocabulary)
