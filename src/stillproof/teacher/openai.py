"""OpenAITeacher: an OpenAI-compatible endpoint, or several hosts of one operator under one key.

One call is one response (never `n`), so that each has its own request key and nothing answered is paid for twice.
Two keys for one host are refused: caps and rate limits belong to a key, and more keys are a way around them.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stillproof.errors import BusyError, ConfigError, MissingExtraError, TeacherError
from stillproof.exchange import Exchange, Message, ResponseTokens, sha256_of
from stillproof.teacher import Identity, Request, asked, now
from stillproof.teacher.limits import Budget, Cost, Hosts, Pace, Stop, estimate, retry_after_s

if TYPE_CHECKING:
    from openai import OpenAI

    from stillproof.config import TeacherConfig

OPENAI_URL = "https://api.openai.com/v1"
PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 that are worth another try."""
BUSY = frozenset({429, 503})
"""Statuses of an endpoint that is there, and says to come back later."""
ABOUT_THE_RUN = {
    401: "set the environment variable with a key that this endpoint accepts",
    404: "correct base_urls and model",
}
"""Statuses that every other call would meet too: they end the run instead of being stored as answers."""


def endpoints(config: TeacherConfig) -> tuple[str, ...]:
    """The base URLs of a config, without a trailing slash. Raises ConfigError for one that carries a secret, is no
    http(s) URL, or names a host twice."""
    urls = tuple(url.rstrip("/") for url in config.base_urls) or (OPENAI_URL,)
    hosts: Counter[str] = Counter()
    for number, url in enumerate(urls):
        parts = urlsplit(url)
        where = f"teacher.base_urls[{number}]"
        # The URL itself is not repeated in the message: it may hold a secret.
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                "a base URL holds a user, password, query or fragment, which may be a secret",
                where,
                "give scheme://host/path only, and the key through api_key_env",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("not an http(s) URL", where, "give one such as https://api.example.com/v1")
        hosts[f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"] += 1
    twice = [host for host, n in hosts.items() if n > 1]
    if twice:
        raise ConfigError(
            f"host {twice[0]} is named twice: two keys or paths for one host are refused",
            "teacher.base_urls",
            "name each host once; a host's rate limit is kept with requests_per_minute and concurrency",
        )
    return urls


def identify_openai(config: TeacherConfig) -> Identity:
    if not config.model:
        raise ConfigError("an endpoint needs the model's name", "teacher.model", "set it, as the endpoint calls it")
    return Identity(model=config.model, kind="openai", licence=config.licence, endpoint=endpoints(config)[0])


@dataclass(frozen=True, slots=True)
class _Passing:
    """A fault that another try may not meet."""

    what: str
    wait_s: float | None
    may_be_charged: bool
    busy: bool = False
    """The endpoint is there and said to come back later."""


class OpenAITeacher:
    """Answers through the official `openai` package: `concurrency` calls in flight, over all hosts.

    A call is tried again, up to `max_retries` times on every host, after 408, 409, 425, 429, any 5xx, a timeout, a
    broken connection or an answer that broke off; it waits as long as Retry-After says, else exponentially longer
    with jitter. Another 4xx is an exchange with that status and no response, except 401 and 404, which are about
    the run and raise TeacherError. TeacherError also where a call failed on every host (BusyError where the last try
    met 429 or 503, or it asks for too long a wait), BudgetError before the call that would pass a cap; before either
    is raised, the calls in flight end and are yielded.

    `tokens` has pieces, log-probabilities and top rows where `sampling.top_logprobs` asked and the endpoint gave
    them, ids where it gives ids (llama.cpp does); None where it ignored the request.

    The seed sent is `sampling.seed` for the first sample where that is set, else it is derived from the run's seed
    and the request key, so that k samples differ. `top_k` is sent as an extra field, which some endpoints refuse.
    """

    def __init__(
        self,
        config: TeacherConfig,
        *,
        seed: int = 0,
        backoff_base_s: float = 0.5,
        max_wait_s: float = 600.0,
    ) -> None:
        self._identity = identify_openai(config)
        self._config = config
        self._seed = seed
        self._backoff_base_s = backoff_base_s
        self._max_wait_s = max_wait_s
        urls = endpoints(config)
        self._budget = Budget(config)
        self._pace = Pace(config.requests_per_minute)
        self._hosts = Hosts(urls)
        self._clients = _clients(config, urls)
        self._lock = threading.Lock()
        self._ids: set[str] = set()

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def budget(self) -> Budget:
        """What this run has spent: requests (every try counts), tokens, USD."""
        return self._budget

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        waiting = iter(requests)
        stop = Stop()
        fault: Exception | None = None
        calls: set[Future[Exchange]] = set()
        pool = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="stillproof-teacher")
        try:
            while True:
                while fault is None and len(calls) < self._config.concurrency:
                    request = next(waiting, None)
                    if request is None:
                        break
                    calls.add(pool.submit(self._call, request, stop))
                if not calls:
                    break
                done, calls = wait(calls, return_when=FIRST_COMPLETED)
                for call in done:
                    error = call.exception()
                    if error is None:
                        yield call.result()
                    elif fault is None:
                        stop.set()
                        fault = error if isinstance(error, Exception) else RuntimeError(repr(error))
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
        if fault is not None:
            raise fault

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _call(self, request: Request, stop: Stop) -> Exchange:
        key = request.key(self._identity.model)
        cost = estimate(request)
        tried: Counter[str] = Counter()
        jitter = random.Random(key)
        while True:
            url, delay_s = self._hosts.choose(tried)
            stop.sleep(max(delay_s, self._pace.delay_s()))
            self._budget.reserve(cost)
            outcome = self._try(request, key, url, cost)
            if isinstance(outcome, Exchange):
                return outcome
            tried[url] += 1
            self._budget.settle(cost, cost if outcome.may_be_charged else Cost(0, 0))
            if sum(tried.values()) >= (self._config.max_retries + 1) * len(self._clients):
                kind = BusyError if outcome.busy else TeacherError
                raise kind(
                    f"the teacher does not answer after {sum(tried.values())} tries; the last: {outcome.what}",
                    ", ".join(self._clients),
                    "see to the endpoint, then resume the run: what was answered is kept",
                )
            backoff_s = self._backoff_base_s * 2.0 ** min(tried[url] - 1, 16) * jitter.uniform(0.5, 1.0)
            wait_s = outcome.wait_s if outcome.wait_s is not None else min(backoff_s, 60.0)
            if wait_s > self._max_wait_s:
                raise BusyError(
                    f"the endpoint asks to wait {wait_s:.0f} s", url, "resume the run when that time has passed"
                )
            self._hosts.leave_alone(url, wait_s)

    def _try(self, request: Request, key: str, url: str, cost: Cost) -> Exchange | _Passing:
        """One HTTP call: an exchange, or the fault that may pass. Settles the budget for an exchange."""
        import openai

        try:
            return self._sent(request, key, url, cost)
        except openai.APIStatusError as error:
            return self._refused(request, url, error, cost)
        except openai.APITimeoutError:
            return _Passing(f"no answer within {self._config.timeout_s:g} s", None, True)
        except openai.APIConnectionError as error:
            return _Passing(f"the connection broke: {error.__cause__ or error}", None, True)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return _Passing(f"the answer is no chat completion ({type(error).__name__}), or broke off", None, True)

    def _sent(self, request: Request, key: str, url: str, cost: Cost) -> Exchange:
        """The call itself. Raises what the package raises, and ValueError, LookupError, TypeError or AttributeError for
        an answer that is none."""
        began = time.monotonic()
        raw = self._clients[url].chat.completions.with_raw_response.create(**self._body(request, key))
        answer = _parsed(raw.http_response.content)
        self._budget.settle(cost, _true_cost(answer, cost))
        wants_tokens = request.sampling.top_logprobs is not None
        return replace(
            asked(request, self._identity, url),
            id=request.id or self._once(answer.id),
            response=answer.response,
            reasoning=answer.reasoning,
            tokens=response_tokens(answer.logprobs, answer.response, answer.response_tokens) if wants_tokens else None,
            time=now(),
            finish_reason=answer.finish_reason,
            status=200,
            prompt_tokens=answer.prompt_tokens,
            response_tokens=answer.response_tokens,
            latency_s=time.monotonic() - began,
        )

    def _refused(self, request: Request, url: str, error: Any, cost: Cost) -> Exchange | _Passing:
        status = int(error.status_code)
        if status in PASSING or status >= 500:
            wait_s = retry_after_s(error.response.headers)
            return _Passing(f"HTTP {status}: {_said(error)}", wait_s, False, busy=status in BUSY)
        if status in ABOUT_THE_RUN:
            raise TeacherError(f"HTTP {status}: {_said(error)}", url, ABOUT_THE_RUN[status])
        self._budget.settle(cost, Cost(0, 0))
        return replace(asked(request, self._identity, url), status=status, time=now())

    def _body(self, request: Request, key: str) -> dict[str, Any]:
        sampling = request.sampling
        fields: dict[str, Any] = {
            "model": self._identity.model,
            "messages": [chat_message(message) for message in request.messages],
            "seed": self._seed_of(request, key),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop": list(sampling.stop) if sampling.stop is not None else None,
            "tools": json.loads(request.tools) if request.tools else None,
            "extra_body": {"top_k": sampling.top_k} if sampling.top_k is not None else None,
        }
        if sampling.top_logprobs is not None:
            fields["logprobs"] = True
            fields["top_logprobs"] = sampling.top_logprobs
        return {name: value for name, value in fields.items() if value is not None}

    def _seed_of(self, request: Request, key: str) -> int:
        if request.sampling.seed is not None and request.sample == 0:
            return request.sampling.seed
        return int(sha256_of([self._seed, key])[:8], 16) >> 1

    def _once(self, api_id: object) -> str:
        """The API's id, unless it gave none or gave it before."""
        if not isinstance(api_id, str):
            return ""
        with self._lock:
            if api_id in self._ids:
                return ""
            self._ids.add(api_id)
            return api_id


def _clients(config: TeacherConfig, urls: tuple[str, ...]) -> dict[str, OpenAI]:
    try:
        from openai import OpenAI
    except ImportError as error:
        raise MissingExtraError(
            f"an endpoint as teacher needs {error.name}", config.model, "pip install 'stillproof[api]'"
        ) from error
    key = os.environ.get(config.api_key_env)
    if not key and OPENAI_URL in urls:
        raise ConfigError("no API key", config.api_key_env, f"set the environment variable {config.api_key_env}")
    # An endpoint of one's own often wants no key; the package insists on some text.
    return {url: OpenAI(api_key=key or "none", base_url=url, timeout=config.timeout_s, max_retries=0) for url in urls}


def chat_message(message: Message) -> dict[str, Any]:
    """A message in the API's own form; fields that are absent are left out."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        row["name"] = message.name
    if message.tool_calls is not None:
        row["tool_calls"] = json.loads(message.tool_calls)
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a completion's body says, each field of the right type or None."""

    id: str | None
    response: str | None
    reasoning: str | None
    finish_reason: str | None
    logprobs: Mapping[str, Any] | None
    prompt_tokens: int | None
    response_tokens: int | None


def _parsed(raw: bytes) -> _Answer:
    """Raises ValueError, LookupError, TypeError or AttributeError for what is no chat completion."""
    body = json.loads(raw)
    choice = body["choices"][0]
    message = choice["message"]
    usage = body.get("usage") or {}
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise TypeError("content is not text")
    return _Answer(
        id=_text(body.get("id")),
        response=_text(content),
        reasoning=_text(message.get("reasoning_content")) or _text(message.get("reasoning")),
        finish_reason=_text(choice.get("finish_reason")),
        logprobs=choice.get("logprobs"),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        response_tokens=_count(usage.get("completion_tokens")),
    )


def _text(value: object) -> str | None:
    """The text; a lone surrogate, half a character that some servers send where a response is cut, becomes U+FFFD."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _true_cost(answer: _Answer, estimated: Cost) -> Cost:
    return Cost(
        estimated.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens,
        estimated.response_tokens if answer.response_tokens is None else answer.response_tokens,
    )


def response_tokens(
    logprobs: Mapping[str, Any] | None, response: str | None, n_tokens: int | None = None
) -> ResponseTokens | None:
    """The API's `logprobs` object as tokens; None where the endpoint gave none, or gave rows that are not one token
    each. `n_tokens` is the endpoint's own count.

    Trailing entries that add nothing to the response (an end token) are dropped. Where the pieces still do not
    spell the response, pieces are None and the rest is kept.
    """
    rows = (logprobs or {}).get("content")
    if not rows or (len(rows) != n_tokens and any(_merged(row) for row in rows)):
        return None
    rows = list(rows)
    pieces = [_piece(row) for row in rows]
    target = (response or "").encode("utf-8", "surrogatepass")
    while len(rows) > 1 and sum(map(len, pieces)) > len(target) and _spells(pieces[:-1], response):
        rows.pop()
        pieces.pop()
    tops = [row.get("top_logprobs") for row in rows]
    has_tops = all(top for top in tops)
    return ResponseTokens(
        ids=_column([row.get("id") for row in rows]),
        pieces=tuple(pieces) if _spells(pieces, response) else None,
        logprobs=_column([row.get("logprob") for row in rows]),
        top_ids=_matrix([[top.get("id") for top in row] for row in tops]) if has_tops else None,
        top_pieces=tuple(tuple(_piece(top) for top in row) for row in tops) if has_tops else None,
        top_logprobs=_matrix([[top.get("logprob") for top in row] for row in tops]) if has_tops else None,
    )


def _merged(row: Mapping[str, Any]) -> bool:
    """Whether a row with an id may stand for several tokens. llama.cpp gives a character that several tokens spell
    as one row, with the id and log-probability of one of them: then the id's own bytes, where the top row tells
    them, are others. A row without an id, or of ASCII, is one token."""
    if row.get("id") is None or _piece(row).isascii():
        return False
    own = [_piece(top) for top in row.get("top_logprobs") or () if top.get("id") == row["id"]]
    return not own or own[0] != _piece(row)


def _piece(row: Mapping[str, Any]) -> bytes:
    given = row.get("bytes")
    return bytes(given) if given is not None else str(row.get("token", "")).encode("utf-8", "surrogatepass")


def _spells(pieces: list[bytes], response: str | None) -> bool:
    return b"".join(pieces).decode("utf-8", "replace") == (response or "")


def _column(values: list[Any]) -> tuple[Any, ...] | None:
    """The whole column, or None where any of it is absent or no number."""
    return None if any(not isinstance(value, int | float) or value != value for value in values) else tuple(values)


def _matrix(rows: list[list[Any]]) -> tuple[tuple[Any, ...], ...] | None:
    columns = [_column(row) for row in rows]
    return None if None in columns else tuple(column for column in columns if column is not None)


def _said(error: Any) -> str:
    """The endpoint's own words, short and without control characters: they are the endpoint's, not ours."""
    text = str(getattr(error, "message", error))
    return "".join(character if character.isprintable() else " " for character in text)[:300]
