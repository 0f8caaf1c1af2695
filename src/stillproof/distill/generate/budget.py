"""What calls will take, and the caps they must stay within."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from stillproof.errors import ConfigError
from stillproof.exchange import Exchange, Message

if TYPE_CHECKING:
    from stillproof.config import TeacherConfig
    from stillproof.store import Store
    from stillproof.teacher import Request

BYTES_PER_TOKEN = 4.0
"""Rule of thumb for English under a byte-pair vocabulary; used where nothing better is known."""
TOKENS_PER_MESSAGE = 4
"""What a chat template adds around a message, about."""
TEMPLATE_TOKENS = 64
"""Upper bound of what a chat template adds around a prompt (a default system message, say), for reserves."""
_RESPONSE_TOKENS = 512
_JSON_BYTES = 700
_LOGPROB_BYTES = 40


@dataclass(frozen=True, slots=True)
class Budget:
    """Caps of one run, and prices. None: no cap, no price."""

    max_requests: int | None = None
    max_tokens_total: int | None = None
    """Prompt and response tokens together."""
    max_usd: float | None = None
    usd_per_million_prompt_tokens: float | None = None
    usd_per_million_response_tokens: float | None = None

    def __post_init__(self) -> None:
        if self.max_usd is not None and self.usd(0, 0) is None:
            raise ConfigError(
                "max_usd needs prices",
                "teacher.max_usd",
                "set teacher.usd_per_million_prompt_tokens and teacher.usd_per_million_response_tokens",
            )

    @classmethod
    def of(cls, config: TeacherConfig) -> Budget:
        return cls(
            config.max_requests,
            config.max_tokens_total,
            config.max_usd,
            config.usd_per_million_prompt_tokens,
            config.usd_per_million_response_tokens,
        )

    def usd(self, prompt_tokens: float, response_tokens: float) -> float | None:
        """US dollars; None where either price is unknown."""
        prices = (self.usd_per_million_prompt_tokens, self.usd_per_million_response_tokens)
        if prices[0] is None or prices[1] is None:
            return None
        return (prompt_tokens * prices[0] + response_tokens * prices[1]) / 1e6


class Purse:
    """What a run has spent, and what it has set aside for calls in flight.

    A call's reserve is an upper bound: a token is at least one byte of the prompt, and a response has at most
    `max_tokens`. So no cap is exceeded, whatever is in flight; where the teacher reports usage, that replaces it.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.n_requests = 0
        self.prompt_tokens = 0
        self.response_tokens = 0
        self.reached = ""
        """The cap that `reserve` last ran into."""
        self._reserves: dict[str, tuple[int, int]] = {}
        self._aside = (0, 0)
        # A concurrent teacher takes requests in one thread and gives answers in another.
        self._lock = Lock()

    @property
    def usd(self) -> float | None:
        return self.budget.usd(self.prompt_tokens, self.response_tokens)

    def check(self, requests: Iterable[Request]) -> None:
        """Refuse a cap on tokens or money where a request may answer without end. Raises ConfigError."""
        if self.budget.max_tokens_total is None and self.budget.max_usd is None:
            return
        if any(request.sampling.max_tokens is None for request in requests):
            raise ConfigError(
                "a cap on tokens or money needs a longest response", "generate.max_tokens", "set generate.max_tokens"
            )

    def reserve(self, key: str, request: Request) -> bool:
        """Set the worst case of a call aside; False, and nothing set aside, where a cap could be exceeded."""
        worst = (prompt_bytes(request) + TEMPLATE_TOKENS, request.sampling.max_tokens or 0)
        with self._lock:
            self.reached = self._first_cap(worst[0], worst[1])
            if self.reached:
                return False
            self._reserves[key] = worst
            self._aside = (self._aside[0] + worst[0], self._aside[1] + worst[1])
            self.n_requests += 1
            return True

    def settle(self, key: str, exchange: Exchange) -> None:
        """Replace a call's reserve by its use; by the reserve itself where an answer came without usage."""
        with self._lock:
            prompt, response = self._reserves.pop(key)
            self._aside = (self._aside[0] - prompt, self._aside[1] - response)
            if exchange.status != 200:
                prompt, response = 0, 0
            self.prompt_tokens += prompt if exchange.prompt_tokens is None else exchange.prompt_tokens
            self.response_tokens += response if exchange.response_tokens is None else exchange.response_tokens

    def _first_cap(self, prompt_tokens: int, response_tokens: int) -> str:
        """The cap that one more such call could exceed, in words; '' where none."""
        budget = self.budget
        prompt = self.prompt_tokens + self._aside[0] + prompt_tokens
        response = self.response_tokens + self._aside[1] + response_tokens
        usd = budget.usd(prompt, response)
        if budget.max_requests is not None and self.n_requests >= budget.max_requests:
            return f"the cap of {budget.max_requests} requests is reached (teacher.max_requests)"
        if budget.max_tokens_total is not None and prompt + response > budget.max_tokens_total:
            spent = self.prompt_tokens + self.response_tokens
            cap = f"{budget.max_tokens_total} tokens, {spent} are spent (teacher.max_tokens_total)"
            return f"the next call could exceed the cap of {cap}"
        if budget.max_usd is not None and usd is not None and usd > budget.max_usd:
            cap = f"{budget.max_usd} USD, {self.usd:.4f} are spent (teacher.max_usd)"
            return f"the next call could exceed the cap of {cap}"
        return ""


@dataclass(frozen=True, slots=True)
class GeneratePlan:
    """What a run of `generate` will take, before any call."""

    n_requests: int
    """Different calls asked for."""
    n_duplicates: int
    n_stored: int
    """Of them answered in the store."""
    n_to_do: int
    prompt_tokens: int
    """Estimate, for the calls to do."""
    prompt_tokens_how: str
    max_response_tokens: int | None
    """Upper bound, for the calls to do; None where a request has no `max_tokens`."""
    usd: float | None
    """With every response as long as it may be; None where prices or the longest response are unknown."""
    seconds: float | None
    """None where no rate is known."""
    disk_mb: float
    """Estimate of what the store grows by, in 10^6 bytes."""
    caps: tuple[str, ...]
    """Caps that the run may reach before its end."""


def plan(
    requests: Iterable[Request],
    config: TeacherConfig,
    store: Store | None,
    *,
    model: str,
    requests_per_s: float | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> GeneratePlan:
    """What it takes to answer some requests by `model` (the teacher's `identity.model`).

    Prompt tokens come from `count_tokens` where given, else from the bytes per token of the store's own exchanges,
    else from a rule of thumb; `prompt_tokens_how` says which. Seconds come from `requests_per_s`, else, as a lower
    bound, from the configured cap on requests per minute.
    """
    given = list(requests)
    wanted = {request.key(model): request for request in given}
    stored = store.request_keys() & wanted.keys() if store is not None else set()
    to_do = [request for key, request in wanted.items() if key not in stored]
    prompt_tokens, how = _prompt_tokens(to_do, store, count_tokens)
    longest = [request.sampling.max_tokens for request in to_do]
    response_tokens = None if None in longest else sum(tokens for tokens in longest if tokens is not None)
    budget = Budget.of(config)
    rate = requests_per_s or (config.requests_per_minute / 60 if config.requests_per_minute else None)
    usd = None if response_tokens is None else budget.usd(prompt_tokens, response_tokens)
    return GeneratePlan(
        n_requests=len(wanted),
        n_duplicates=len(given) - len(wanted),
        n_stored=len(stored),
        n_to_do=len(to_do),
        prompt_tokens=prompt_tokens,
        prompt_tokens_how=how,
        max_response_tokens=response_tokens,
        usd=usd,
        seconds=None if rate is None else len(to_do) / rate,
        disk_mb=sum(map(_disk_bytes, to_do)) / 1e6,
        caps=_caps(budget, len(to_do), prompt_tokens + (response_tokens or 0), usd),
    )


def prompt_bytes(request: Request) -> int:
    """UTF-8 bytes of all that a prompt brings: at least as many as its tokens, the template's apart."""
    return sum(map(_message_bytes, request.messages)) + len((request.tools or "").encode())


def _message_bytes(message: Message) -> int:
    return len(f"{message.content or ''}{message.tool_calls or ''}{message.name or ''}".encode())


def _prompt_tokens(
    requests: list[Request], store: Store | None, count_tokens: Callable[[str], int] | None
) -> tuple[int, str]:
    n_messages = sum(len(request.messages) for request in requests)
    if count_tokens is not None:
        texts = (message.content or "" for request in requests for message in request.messages)
        counted = sum(map(count_tokens, texts))
        return counted + TOKENS_PER_MESSAGE * n_messages, f"counted, and {TOKENS_PER_MESSAGE} for each message's frame"
    n_bytes = sum(map(prompt_bytes, requests))
    seen_bytes, seen_tokens, n_seen = _seen(store)
    if seen_tokens:
        ratio = seen_bytes / seen_tokens
        return round(n_bytes / ratio), f"{ratio:.2f} bytes a token, as in {n_seen} stored exchanges"
    tokens = round(n_bytes / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * n_messages
    return (
        tokens,
        f"rule of thumb: {BYTES_PER_TOKEN:.0f} bytes a token and {TOKENS_PER_MESSAGE} for each message's frame",
    )


def _seen(store: Store | None) -> tuple[int, int, int]:
    """Bytes and tokens of the stored prompts whose tokens are known, and how many prompts those are."""
    if store is None:
        return 0, 0, 0
    known = [
        (sum(map(_message_bytes, item.messages)), item.prompt_tokens)
        for item in store
        if item.prompt_tokens is not None
    ]
    return sum(n_bytes for n_bytes, _ in known), sum(tokens for _, tokens in known), len(known)


def _disk_bytes(request: Request) -> float:
    tokens = request.sampling.max_tokens or _RESPONSE_TOKENS
    row = 1 + (request.sampling.top_logprobs or 0) if request.sampling.top_logprobs is not None else 0
    return _JSON_BYTES + prompt_bytes(request) + tokens * (BYTES_PER_TOKEN + _LOGPROB_BYTES * row)


def _caps(budget: Budget, n_requests: int, tokens: int, usd: float | None) -> tuple[str, ...]:
    uses = (
        ("max_requests", budget.max_requests, n_requests),
        ("max_tokens_total", budget.max_tokens_total, tokens),
        ("max_usd", budget.max_usd, usd),
    )
    return tuple(name for name, cap, use in uses if cap is not None and use is not None and use > cap)
