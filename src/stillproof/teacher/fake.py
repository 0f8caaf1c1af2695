"""FakeTeacher: a Teacher without a model, for tests of whatever stands on teachers. Public: use it in yours."""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from stillproof.errors import TeacherError
from stillproof.exchange import Exchange, ResponseTokens, Sampling
from stillproof.teacher import Identity, Request, asked, now

WORDS = ("the", "still", "turns", "wine", "into", "spirit", "and", "proof", "is", "what", "remains")


def steady_words(request: Request) -> str:
    """Three to nine words that depend on the prompt, and on sample and seed unless temperature is 0."""
    rng = random.Random(_seed_of(request))
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 9)))


class FakeTeacher:
    """Answers by a rule: a function of the request, a dict from the last message's text, or `steady_words`.

    Thread-safe; the same request has the same answer in every process. `calls` counts the requests taken and
    `calls_by_key` how often each was, so that a test can say "no call was repeated".

    Parameters
    - `latency_s`: seconds each answer takes.
    - `fail_after`: after so many answers (over the teacher's life) TeacherError is raised instead; None never.
    - `status`: the HTTP status of a request's answer; anything but 200 has no response. None is always 200.
    - `logprobs_seed`: give tokens (one per word, with its leading space) and seeded log-probabilities in nats, and
      `sampling.top_logprobs` of the likeliest; None gives no tokens, as most APIs do.
    """

    def __init__(
        self,
        rule: Callable[[Request], str] | Mapping[str, str] | None = None,
        *,
        model: str = "fake",
        licence: str | None = "Apache-2.0",
        latency_s: float = 0.0,
        fail_after: int | None = None,
        status: Callable[[Request], int] | None = None,
        logprobs_seed: int | None = None,
    ) -> None:
        self._rule = _rule(rule)
        self._identity = Identity(model=model, kind="fake", licence=licence)
        self._latency_s = latency_s
        self._fail_after = fail_after
        self._status = status
        self._logprobs_seed = logprobs_seed
        self._lock = threading.Lock()
        self.calls = 0
        self.calls_by_key: Counter[str] = Counter()
        self.closed = False

    @property
    def identity(self) -> Identity:
        return self._identity

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for request in requests:
            self._count(request)
            if self._latency_s:
                time.sleep(self._latency_s)
            yield self._exchange(request)

    def close(self) -> None:
        self.closed = True

    def _count(self, request: Request) -> None:
        with self._lock:
            if self._fail_after is not None and self.calls >= self._fail_after:
                raise TeacherError(
                    f"the fake teacher stops after {self._fail_after} answers", self._identity.model, "resume the run"
                )
            self.calls += 1
            self.calls_by_key[request.key(self._identity.model)] += 1

    def _exchange(self, request: Request) -> Exchange:
        exchange = replace(asked(request, self._identity, "fake"), time=now())
        status = 200 if self._status is None else self._status(request)
        if status != 200:
            return replace(exchange, status=status)
        response = self._rule(request)
        tokens = None
        if self._logprobs_seed is not None:
            tokens = _tokens(response, request.sampling, random.Random(f"{self._logprobs_seed}:{_seed_of(request)}"))
        return replace(
            exchange,
            response=response,
            tokens=tokens,
            status=status,
            finish_reason="stop",
            prompt_tokens=sum(len((message.content or "").split()) for message in request.messages),
            response_tokens=len(response.split()),
            latency_s=self._latency_s,
        )


def _rule(rule: Callable[[Request], str] | Mapping[str, str] | None) -> Callable[[Request], str]:
    if rule is None:
        return steady_words
    if not isinstance(rule, Mapping):
        return rule
    answers = dict(rule)
    return lambda request: answers[request.messages[-1].content or ""]


def _seed_of(request: Request) -> str:
    greedy = request.sampling.temperature == 0
    drawn = None if greedy else (request.sample, request.sampling.seed)
    text = repr([(message.role, message.content) for message in request.messages]) + repr(drawn)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _tokens(response: str, sampling: Sampling, rng: random.Random) -> ResponseTokens:
    """One token a word. Each token drawn is the likeliest one, with probability in (0.5, 1)."""
    words = response.split(" ")
    pieces = tuple((word if i == 0 else " " + word).encode("utf-8", "surrogatepass") for i, word in enumerate(words))
    logprobs = tuple(math.log(rng.uniform(0.5, 1.0)) for _ in pieces)
    k = sampling.top_logprobs
    if not k:
        return ResponseTokens(pieces=pieces, logprobs=logprobs)
    rows = [_row(piece, logprob, k) for piece, logprob in zip(pieces, logprobs, strict=True)]
    return ResponseTokens(
        pieces=pieces,
        logprobs=logprobs,
        top_pieces=tuple(tuple(piece for piece, _ in row) for row in rows),
        top_logprobs=tuple(tuple(logprob for _, logprob in row) for row in rows),
    )


def _row(piece: bytes, logprob: float, k: int) -> list[tuple[bytes, float]]:
    """The drawn piece, then k-1 others that halve what is left, so that a row's mass stays below 1."""
    row, left = [(piece, logprob)], 1.0 - math.exp(logprob)
    others = [f" {word}".encode() for word in WORDS if f" {word}".encode() != piece]
    for other in others[: k - 1]:
        left /= 2
        row.append((other, math.log(left)))
    return row
