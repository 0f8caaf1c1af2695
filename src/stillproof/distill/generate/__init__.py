"""Ask the teacher the prompts, and store each answer, durably, as it arrives. Never pay for the same call twice.

    requests_for   prompts -> requests: system message, samples, sampling
    plan           what it will take, before any call                                   budget.py
    generate       the calls; resumes from the store's request keys
    answers        the stored answers, in the order of the requests, whatever the order of arrival

A call that failed is recorded in the store's failures and asked again by the next run; only answers with status 200
are exchanges of the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from stillproof.distill.generate.budget import Budget, GeneratePlan, Purse, plan
from stillproof.errors import BudgetError, InputError, MismatchError, StillproofError, TeacherError
from stillproof.exchange import Exchange, Message, Sampling, check
from stillproof.progress import Event, OnEvent, ignore
from stillproof.store import require_pseudonym

if TYPE_CHECKING:
    from stillproof.config import GenerateConfig
    from stillproof.store import Store
    from stillproof.teacher import Identity, Request, Teacher

__all__ = ["Budget", "GeneratePlan", "Generated", "answers", "generate", "plan", "requests_for"]


@dataclass(frozen=True, slots=True)
class Generated:
    """What one run of `generate` did."""

    n_requests: int
    """Different calls asked for."""
    n_duplicates: int
    """Requests left out because an equal one was there."""
    n_stored_before: int
    """Calls whose answer an earlier run had stored."""
    n_answered: int
    n_failed: int
    prompt_tokens: int
    """Of this run's calls; where the teacher reports no usage, an upper bound."""
    response_tokens: int
    usd: float | None
    """None where no price is configured."""
    duration_s: float


def requests_for(
    prompts: Iterable[Exchange], config: GenerateConfig, *, seed: int | None = None
) -> tuple[Request, ...]:
    """`config.samples` requests for each prompt, prompt by prompt. With a seed, sample k is asked with seed + k.

    Raises InputError for a plain document, and for a prompt that brings a system message where config has one too.
    """
    from stillproof.teacher import Request

    requests: list[Request] = []
    for prompt in prompts:
        if not prompt.messages:
            raise InputError("a plain document has no prompt", prompt.id, "read prompts, see data.prompt_field")
        messages = prompt.messages
        if config.system is not None:
            if messages[0].role == "system":
                raise InputError("has a system message already", prompt.id, "leave generate.system out")
            messages = (Message("system", config.system), *messages)
        for sample in range(config.samples):
            sampling = Sampling(
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=config.top_k,
                max_tokens=config.max_tokens,
                top_logprobs=config.top_logprobs,
                seed=None if seed is None else seed + sample,
            )
            requests.append(Request(messages, sampling, sample, prompt.tools))
    return tuple(requests)


def generate(
    teacher: Teacher,
    requests: Iterable[Request],
    store: Store,
    *,
    terms_id: str | None,
    grant_id: str | None = None,
    budget: Budget | None = None,
    on_event: OnEvent = ignore,
) -> Generated:
    """Ask what the store has no answer to, and store every answer before the next is taken.

    Equal requests are asked once. After kill -9, or any error, run it again: at most the calls in flight repeat.

    Raises InputError before any call where a request cannot be stored; MismatchError where stored answers to these
    requests are another teacher's; TeacherError where the teacher stops, leaves requests unanswered, or fails at
    every call; BudgetError before a cap would be exceeded; StorageError. What was stored is kept, always.
    """
    identity = teacher.identity
    given = list(requests)
    wanted = {request.key(identity.model): request for request in given}
    for key, request in wanted.items():
        _check(key, request)
    stored = _stored_keys(store, wanted, identity)
    store.record_teacher(identity.digest, asdict(identity))
    run = _Run(store, terms_id, grant_id, Purse(budget or Budget()), on_event)
    run.start({key: request for key, request in wanted.items() if key not in stored}, n_stored=len(stored))
    run.ask(teacher)
    return Generated(
        n_requests=len(wanted),
        n_duplicates=len(given) - len(wanted),
        n_stored_before=len(stored),
        n_answered=run.n_answered,
        n_failed=run.n_failed,
        prompt_tokens=run.purse.prompt_tokens,
        response_tokens=run.purse.response_tokens,
        usd=run.purse.usd,
        duration_s=run.elapsed_s,
    )


def answers(store: Store, requests: Iterable[Request], model: str) -> tuple[Exchange, ...]:
    """The stored answers to some requests, in the order of the requests, each call once.

    Calls without a stored response (failed, refused, a tool call alone) are left out. The result depends on what is
    stored, never on the order in which it came.
    """
    wanted = {request.key(model): None for request in requests}
    found: dict[str, Exchange] = {}
    for exchange in store:
        key = exchange.request_key
        if key is None or key not in wanted or exchange.status != 200 or exchange.response is None:
            continue
        if key not in found or exchange.id < found[key].id:
            found[key] = exchange
    return tuple(found[key] for key in wanted if key in found)


class _Run:
    """The state of one run: what waits, what is in flight, what came."""

    def __init__(
        self, store: Store, terms_id: str | None, grant_id: str | None, purse: Purse, on_event: OnEvent
    ) -> None:
        self.purse = purse
        self.n_answered = 0
        self.n_failed = 0
        self._store = store
        self._terms_id = terms_id
        self._grant_id = grant_id
        self._on_event = on_event
        self._waiting: dict[str, Request] = {}
        self._in_flight: dict[str, Request] = {}
        self._total = 0
        self._n_stored = 0
        self._first_failure = ""
        self._start_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start_s

    def start(self, waiting: dict[str, Request], *, n_stored: int) -> None:
        self._waiting, self._total, self._n_stored = waiting, len(waiting) + n_stored, n_stored
        self.purse.check(waiting.values())
        self._tell(note=f"{n_stored} of {self._total} answers are stored already" if n_stored else None)

    def ask(self, teacher: Teacher) -> None:
        """Rounds of calls. One round is enough unless a cap's reserve for calls in flight held some back."""
        while self._waiting:
            n_waiting = len(self._waiting)
            try:
                self._take_all(teacher.answer(self._feed()))
            except (TeacherError, BudgetError) as error:
                raise self._stopped(error) from error
            if self._in_flight:
                raise self._stopped(
                    TeacherError(
                        f"the teacher left {len(self._in_flight)} request(s) unanswered", teacher.identity.model
                    )
                )
            if len(self._waiting) == n_waiting:
                raise self._stopped(BudgetError(self.purse.reached, "budget"))
        if self.n_failed and not self.n_answered and not self._n_stored:
            raise self._stopped(
                TeacherError(f"every call failed, the first with {self._first_failure}", teacher.identity.model)
            )

    def _feed(self) -> Iterator[Request]:
        """What waits, for as long as the purse can pay for the worst case of everything in flight."""
        for key, request in list(self._waiting.items()):
            if not self.purse.reserve(key, request):
                return
            self._in_flight[key] = self._waiting.pop(key)
            yield request

    def _take_all(self, arrivals: Iterator[Exchange]) -> None:
        try:
            for exchange in arrivals:
                self._take(exchange)
        finally:
            # A teacher is often a generator: closing it lets it end its calls before an error goes on.
            close = getattr(arrivals, "close", None)
            if close is not None:
                close()

    def _take(self, exchange: Exchange) -> None:
        key = exchange.request_key
        if key is None or self._in_flight.pop(key, None) is None:
            raise MismatchError(
                "the teacher answered a request it was not asked, or one twice",
                key or exchange.id,
                "correct the teacher",
            )
        self.purse.settle(key, exchange)
        if exchange.provenance is not None:
            exchange = replace(
                exchange, provenance=replace(exchange.provenance, terms=self._terms_id, grant=self._grant_id)
            )
        if exchange.status != 200:
            self._fail(exchange, f"status {exchange.status}")
        else:
            try:
                self._store.append(exchange)
                self.n_answered += 1
            except InputError as error:
                self._fail(exchange, error.what)
        self._tell()

    def _fail(self, exchange: Exchange, reason: str) -> None:
        self._store.record_failure(exchange, reason)
        self.n_failed += 1
        self._first_failure = self._first_failure or reason

    def _tell(self, note: str | None = None) -> None:
        n_done = self.n_answered + self.n_failed
        rate = n_done / self.elapsed_s if n_done else None
        self._on_event(
            Event(
                stage="generate",
                done=self._n_stored + n_done,
                total=self._total,
                unit="requests",
                rate=rate,
                eta_s=None if not rate else (self._total - self._n_stored - n_done) / rate,
                note=note,
                metrics={"failed": float(self.n_failed), "response_tokens": float(self.purse.response_tokens)},
            )
        )

    def _stopped(self, error: StillproofError) -> StillproofError:
        """The same error, saying how much is stored and how to go on."""
        n_stored = self._n_stored + self.n_answered
        go_on = f"run again with --if-exists resume: only the {self._total - n_stored} missing answers are asked for"
        first = f"{error.remedy}; then " if error.remedy else ""
        if isinstance(error, BudgetError):
            first = "raise the cap named; then "
        return type(error)(f"{error.what}; {n_stored} of {self._total} answers are stored", error.which, first + go_on)


def _check(key: str, request: Request) -> None:
    """Refuse, before it costs anything, a request whose exchange no store could hold."""
    check(Exchange(request.id, request.messages, None, tools=request.tools, sampling=request.sampling, request_key=key))
    require_pseudonym(request.account, key)


def _stored_keys(store: Store, wanted: dict[str, Request], identity: Identity) -> set[str]:
    """Keys of the calls that need not be made. Raises MismatchError where another teacher answered them."""
    table = store.table(["request_key", "status", "provenance"])
    columns = (table[name].to_pylist() for name in ("request_key", "status", "provenance"))
    rows = [
        (key, (provenance or {}).get("teacher"))
        for key, status, provenance in zip(*columns, strict=True)
        if status == 200 and key in wanted
    ]
    known = store.teachers()
    for digest in {digest for _, digest in rows if digest is not None and digest != identity.digest}:
        if _weights_of(known.get(digest)) != _weights_of(asdict(identity)):
            raise MismatchError(
                f"the store holds answers of another teacher ({digest[:12]}) that is also called {identity.model!r}",
                str(store.path),
                "generate into a new store, or use the teacher that answered before",
            )
    return {key for key, _ in rows}


def _weights_of(identity: dict[str, str | None] | None) -> dict[str, str | None] | None:
    """What makes answers differ. An endpoint may move, and a licence be declared later, without another model."""
    if identity is None:
        return None
    return {name: value for name, value in identity.items() if name not in ("endpoint", "licence")}
