"""Suspects for audits without a model: they speak in 200 words, marked under a key or plain."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox

from stillproof.exchange import Exchange, ResponseTokens
from stillproof.store import Store
from stillproof.teacher import Request
from stillproof.teacher.fake import FakeTeacher
from stillproof.watermark import Marker, MarkKey, Scheme, green_bias

VOCAB = 200
WORDS = tuple(f"w{number}" for number in range(VOCAB))
PROMPTS = tuple(f"w{number} w{number + 1} w{number + 2}" for number in range(40))
GREEN, GUMBEL = Scheme("green", 1), Scheme("gumbel", 1)
ANSWER_TOKENS = 50

Rule = Callable[[Request], str]


def toy_tokenizer(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    """A folder with a tokenizer.json: a word is a token, and what is no word of ours is the last id."""
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary["[UNK]"] = len(words)
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({**nothing, **tokenizer}))
    return folder


@lru_cache(maxsize=1)
def toy_logits() -> np.ndarray:
    return Generator(Philox(3)).normal(0, 1.2, (VOCAB, VOCAB)).astype(np.float32)


def speaking(key: MarkKey | None, n_tokens: int = ANSWER_TOKENS) -> Rule:
    """A suspect that learned our mark by heart; or, without a key, the same one that never saw it."""

    def rule(request: Request) -> str:
        seed = sha256(repr((request.messages, request.sample)).encode()).digest()[:8]
        rng = Generator(Philox(int.from_bytes(seed)))
        marker, used = Marker(key or MarkKey(GREEN, bytes(32)), rng), [set()]
        text = [int(rng.integers(0, VOCAB))]
        while len(text) < n_tokens:
            context = [text] if key is not None else [[]]
            text += marker.step(toy_logits()[text[-1:]], context, used).tolist()
        return " ".join(WORDS[number] for number in text)

    return rule


class OpenSuspect(FakeTeacher):
    """Says what a rule says, and what it would have said instead: the true distribution, the mark's bias in it."""

    def __init__(self, key: MarkKey | None, tokenizer_sha256: str | None) -> None:
        super().__init__(speaking(key))
        self._key, self._tokenizer = key, tokenizer_sha256

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for exchange in super().answer(requests):
            ids = [WORDS.index(word) for word in (exchange.response or "").split()]
            k = exchange.sampling.top_logprobs if exchange.sampling else None
            yield replace(exchange, tokens=self._tokens(ids, k or 2))

    def _tokens(self, ids: list[int], k: int) -> ResponseTokens:
        logits = toy_logits()[[ids[0], *ids[:-1]]].astype(float)
        if self._key is not None:
            windows = np.array([ids[0], *ids[:-1]], np.uint64)
            every = np.tile(np.arange(VOCAB), (len(ids), 1))
            logits += green_bias(self._key.lane, windows, every, self._key.scheme)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        top = np.argsort(-logprobs, axis=1)[:, :k]
        return ResponseTokens(
            ids=tuple(ids),
            top_ids=tuple(map(tuple, top.tolist())),
            top_logprobs=tuple(map(tuple, np.take_along_axis(logprobs, top, axis=1).tolist())),
            tokenizer=self._tokenizer,
        )


def recorded(folder: Path, teacher: FakeTeacher, requests: tuple[Request, ...]) -> Path:
    """What the suspect says to these requests, as a store of answers."""
    with Store.create(folder) as store:
        store.append_many(teacher.answer(requests))
    return folder
