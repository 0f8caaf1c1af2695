"""What keeps a paid endpoint from being called too often, too fast or too early: caps, a pace, and waits.

All of it is shared by the threads of one teacher.
"""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillproof.errors import BudgetError, ConfigError, TeacherError

if TYPE_CHECKING:
    from stillproof.config import TeacherConfig
    from stillproof.teacher import Request

BYTES_A_TOKEN = 3.0
TOKENS_A_MESSAGE = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens of one call: an estimate before it, the endpoint's own count after it."""

    prompt_tokens: int
    response_tokens: int


def estimate(request: Request) -> Cost:
    """Before a call: a token for every 3 bytes of prompt and 8 a message, and all of `max_tokens` as response."""
    n_bytes = sum(len((message.content or "").encode("utf-8", "replace")) for message in request.messages)
    n_bytes += len(request.tools or "")
    prompt_tokens = round(n_bytes / BYTES_A_TOKEN) + TOKENS_A_MESSAGE * len(request.messages)
    return Cost(prompt_tokens, request.sampling.max_tokens or 0)


class Budget:
    """The caps of one run. A call is reserved at its estimate before it is made, and settled at its true count.

    So a cap can be passed only by as much as the calls in flight cost more than estimated. A call that broke off is
    settled at its estimate, since the endpoint may charge for it; one that was refused is settled at nothing.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self._max_requests = config.max_requests
        self._max_tokens = config.max_tokens_total
        self._max_usd = config.max_usd
        prices = (config.usd_per_million_prompt_tokens, config.usd_per_million_response_tokens)
        if config.max_usd is not None and None in prices:
            raise ConfigError(
                "max_usd is set, but not what tokens cost",
                "teacher.max_usd",
                "set usd_per_million_prompt_tokens and usd_per_million_response_tokens",
            )
        self._usd_per_prompt_token = (prices[0] or 0.0) / 1e6
        self._usd_per_response_token = (prices[1] or 0.0) / 1e6
        self._lock = threading.Lock()
        self.requests = 0
        self.tokens = 0
        self.usd = 0.0

    def reserve(self, cost: Cost) -> None:
        """Raises BudgetError where this call would pass a cap."""
        with self._lock:
            tokens, usd = self._priced(cost)
            if self._max_requests is not None and self.requests + 1 > self._max_requests:
                raise _spent("max_requests", f"{self.requests} of {self._max_requests} calls are made")
            if self._max_tokens is not None and self.tokens + tokens > self._max_tokens:
                raise _spent(
                    "max_tokens_total",
                    f"{self.tokens} of {self._max_tokens} tokens are spent or reserved, the next may take {tokens}",
                )
            if self._max_usd is not None and self.usd + usd > self._max_usd:
                raise _spent(
                    "max_usd",
                    f"{self.usd:.4f} of {self._max_usd:g} USD are spent or reserved, the next may take {usd:.4f}",
                )
            self.requests += 1
            self.tokens += tokens
            self.usd += usd

    def settle(self, reserved: Cost, true: Cost) -> None:
        with self._lock:
            was, now = self._priced(reserved), self._priced(true)
            self.tokens += now[0] - was[0]
            self.usd += now[1] - was[1]

    def _priced(self, cost: Cost) -> tuple[int, float]:
        usd = cost.prompt_tokens * self._usd_per_prompt_token + cost.response_tokens * self._usd_per_response_token
        return cost.prompt_tokens + cost.response_tokens, usd


def _spent(cap: str, state: str) -> BudgetError:
    return BudgetError(f"the cap {cap} is reached: {state}", f"teacher.{cap}", "raise the cap and resume the run")


class Pace:
    """At most so many calls a minute, evenly spaced. None: as fast as they come."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._interval_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def delay_s(self) -> float:
        """Seconds until the turn that this call takes."""
        if not self._interval_s:
            return 0.0
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval_s
        return max(turn - time.monotonic(), 0.0)


class Hosts:
    """The hosts of one operator, and until when each asked to be left alone."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._not_before = dict.fromkeys(urls, 0.0)
        self._taken = dict.fromkeys(urls, 0)

    def choose(self, tried: Mapping[str, int]) -> tuple[str, float]:
        """The host that this request tried least, free soonest, and was used least; and seconds until it is free."""
        with self._lock:
            moment = time.monotonic()
            url = min(
                self._not_before,
                key=lambda url: (tried.get(url, 0), max(self._not_before[url], moment), self._taken[url]),
            )
            self._taken[url] += 1
            return url, max(self._not_before[url] - moment, 0.0)

    def leave_alone(self, url: str, seconds: float) -> None:
        with self._lock:
            self._not_before[url] = max(self._not_before[url], time.monotonic() + seconds)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds a response asks to wait: `retry-after-ms`, else `Retry-After` in seconds or as an HTTP date
    (RFC 9110, 10.2.3). None where it asks nothing that can be read."""
    try:
        return max(float(headers["retry-after-ms"]) / 1000.0, 0.0)
    except (KeyError, ValueError):
        pass
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None


class Stop:
    """Set once by the first fault that ends a run, so that threads that wait do not wait on."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Raises TeacherError where the run has ended meanwhile."""
        stopped = self._event.wait(seconds) if seconds > 0 else self._event.is_set()
        if stopped:
            raise TeacherError("the run ended before this call", remedy="resume the run")
