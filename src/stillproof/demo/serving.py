"""The served model answers the campaign and the licensed customer: marked, with twins and cards, all recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.demo import crowd
from stillproof.demo.models import HOUSE
from stillproof.exchange import Exchange, Message, Sampling
from stillproof.progress import Event, OnEvent, ignore
from stillproof.store import Store, pseudonym
from stillproof.teacher import Identity, Request, Teacher

if TYPE_CHECKING:
    from stillproof.demo.crowd import Asked
    from stillproof.demo.sizes import Size
    from stillproof.watermark import MarkKey

COINS, CARDS = "coins", "cards"


@dataclass(frozen=True, slots=True)
class Custody:
    """Where what was served and what proves it later are kept."""

    out: Path

    @property
    def store(self) -> Path:
        return self.out / "served"

    @property
    def ledger(self) -> Path:
        return self.out / "ledger"

    @property
    def keys(self) -> Path:
        return self.out / "keys"

    @property
    def mark(self) -> Path:
        return self.out / "mark.json"

    @property
    def grant(self) -> Path:
        return self.out / "grant.json"

    @property
    def grantor(self) -> Path:
        """Private key that signs grants; its public half lies beside it."""
        return self.out / "grantor.pem"

    @property
    def grantor_public(self) -> Path:
        return self.out / "grantor.pem.pub"

    def opening(self, name: str) -> Path:
        return self.keys / f"{name}.v1.key"


class Clocked:
    """A Teacher around a Teacher that turns the recorder's clock to the time at which each call was made."""

    def __init__(self, teacher: Teacher, times: Mapping[str, datetime]) -> None:
        self._teacher, self._times = teacher, times
        self.now = datetime(2026, 9, 1, tzinfo=UTC)

    @property
    def identity(self) -> Identity:
        return self._teacher.identity

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for exchange in self._teacher.answer(requests):
            self.now = self._times[exchange.id]
            yield exchange

    def close(self) -> None:
        self._teacher.close()


def serve(size: Size, out: Path, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Answer every request of `crowd.to_serve` that the store does not hold yet.

    A call that a kill interrupted between its coin and its answer is asked again under another id, so that no coin is
    used twice: audits read only what was served.
    """
    custody = Custody(out)
    asked = crowd.to_serve(out / "traffic")
    _make_keys(custody)
    attempt = _attempt(out)
    if not Store.is_store(custody.store):
        Store.create(custody.store).close()
    with Store.open(custody.store) as store:
        _write_grant(custody, store, asked)
        done = {row_of(exchange.id) for exchange in store}
        waiting = [row for row in asked if row.id not in done]
        n_twins, n_cards = _answer(size, custody, store, (waiting, attempt, len(asked)), on_event)
        n_tokens = sum(len((exchange.response or "").split()) for exchange in store)
        return {
            "n_exchanges": len(store),
            "n_licensed": sum(row.is_licensed for row in asked),
            "n_twins_this_call": n_twins,
            "n_with_cards_this_call": n_cards,
            "n_words": n_tokens,
            "store": custody.store.name,
        }


def row_of(exchange_id: str) -> str:
    """The composed row that an exchange answers."""
    return exchange_id.rsplit("-", 1)[0]


def by_row(store: Store) -> dict[str, Exchange]:
    return {row_of(exchange.id): exchange for exchange in store}


def _answer(
    size: Size, custody: Custody, store: Store, work: tuple[list[Asked], int, int], on_event: OnEvent
) -> tuple[int, int]:
    from stillproof.config import TeacherConfig
    from stillproof.serve import CardKey, Coined, CoinRules, KeyRing, Ledger, Recorder, Scopes
    from stillproof.serve.marked import open_marked

    waiting, attempt, total = work
    if not waiting:
        return 0, 0
    key = _mark(custody)
    config = TeacherConfig(kind="weights", model=str(custody.out / HOUSE), batch_size=size.batch)
    ring = KeyRing(custody.keys)
    rules = CoinRules(
        size.twins, CardKey(CARDS, 1, ring.key(CARDS, 1)), Scopes({}), key.commitment, key.scheme.second_share == 0
    )
    times = {f"{row.id}-{attempt}": row.time for row in waiting}
    requests = [
        Request(
            (Message("user", row.prompt),),
            Sampling(temperature=1.0, max_tokens=size.answer_tokens),
            id=f"{row.id}-{attempt}",
            account=row.account,
        )
        for row in waiting
    ]
    with Ledger(custody.ledger, ring, COINS) as ledger, closing(open_marked(config, key, seed=size.seed)) as marked:
        coined = Coined(marked, ledger, rules)
        clocked = Clocked(coined, times)
        recorder = Recorder(clocked, store, ledger, clock=lambda: clocked.now)
        done = total - len(waiting)
        for number, _ in enumerate(recorder.answer(requests), done + 1):
            on_event(Event("serve", number, total, "answers"))
        return coined.n_twins, coined.n_cards


def _mark(custody: Custody) -> MarkKey:
    from stillproof.trace.key_file import read_mark_key

    return read_mark_key(custody.mark)


def _make_keys(custody: Custody) -> None:
    """Keys before the first answer; their commitments are what an owner would publish now."""
    from stillproof.serve import KeyRing
    from stillproof.trace.key_file import create_mark_key
    from stillproof.watermark import Scheme

    ring = KeyRing(custody.keys)
    for name in (COINS, CARDS):
        if not ring.versions(name):
            ring.create(name)
    if not custody.mark.exists():
        # Two keys, so that both answers of a twin are not one.
        create_mark_key(custody.mark, Scheme("gumbel", 1, second_share=0.1))


def _attempt(out: Path) -> int:
    """How often serving was begun before."""
    path = out / "attempts.txt"
    before = len(path.read_text(encoding="utf-8")) if path.exists() else 0
    path.write_text("." * (before + 1), encoding="utf-8")
    return before


def _write_grant(custody: Custody, store: Store, asked: list[Asked]) -> None:
    """The owner's signed permission for the licensed customer, by its pseudonym. It was given before the traffic."""
    from stillproof.store.disk import replace_file
    from stillproof.terms.grant import SCOPE, Grant
    from stillproof.terms.signed_grant import create_grant_key, sign_grant

    if custody.grant.exists():
        return
    if not custody.grantor_public.exists():
        custody.grantor.unlink(missing_ok=True)
        create_grant_key(custody.grantor)
    account = next(row.account for row in asked if row.is_licensed)
    grant = Grant(
        id="demo-grant-1",
        grantor="the owner of the house model",
        grantee="the licensed customer",
        scope=SCOPE,
        teacher=HOUSE,
        issued=min(datetime.now(UTC).date(), asked[0].time.date()),
        expires=None,
        evidence="recorded by this demo",
        max_exchanges=100_000,
        accounts=(pseudonym(store.pseudonym_key(), account),),
        duties=("name the house model as the teacher",),
    )
    text = json.dumps(sign_grant(grant, custody.grantor).to_json(), indent=2) + "\n"
    replace_file(custody.grant, lambda file: file.write(text.encode()))
