"""Recorder: a Teacher around a Teacher that keeps every answer it gives. Nothing is served that is not stored."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from stillproof.errors import CustodyError
from stillproof.exchange import Exchange, Provenance
from stillproof.store import pseudonym
from stillproof.teacher import Identity, Request, Teacher, now

if TYPE_CHECKING:
    from stillproof.serve.ledger import Ledger
    from stillproof.store import Store


def new_id() -> str:
    """An id for an exchange that is about to be served: 128 random bits."""
    return f"serve-{secrets.token_hex(16)}"


class Recorder:
    """Answers as its teacher does, and stores each answer, durably, before it hands it out.

    A request's `account` is the raw name here; what is stored, and what the inner teacher sees, is its pseudonym
    under the store's key. A request without an id gets one, so that every served exchange has the id under which
    the ledger holds its coins. To toss a coin that decides the answer, set `Request.id` (to `new_id()`) first.

    Times are the recorder's clock, the provenance source is 'serve'; detail, teacher, terms and grant stay.
    """

    def __init__(
        self,
        teacher: Teacher,
        store: Store,
        ledger: Ledger | None = None,
        *,
        clock: Callable[[], datetime] = now,
    ) -> None:
        """Raises CustodyError where ledger and store share a folder."""
        if ledger is not None and ledger.folder.resolve().is_relative_to(store.path.resolve()):
            raise CustodyError("the ledger lies inside the store", str(ledger.folder), "move it elsewhere")
        self._teacher = teacher
        self._store = store
        self._ledger = ledger
        self._clock = clock

    @property
    def identity(self) -> Identity:
        return self._teacher.identity

    @property
    def ledger(self) -> Ledger | None:
        return self._ledger

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for exchange in self._teacher.answer(self._admitted(request) for request in requests):
            yield self._store.append(self._served(exchange))

    def forget(self, account: str) -> int:
        """Erase a raw account's exchanges from the store and their coins and facts from the ledger; how many
        exchanges were erased. The ledger goes first: after a crash between the two, forgetting again ends the work.
        """
        if self._ledger is not None:
            self._ledger.forget(self._store.ids_of(account))
        return len(self._store.forget(account))

    def close(self) -> None:
        """Close the teacher. Store and ledger belong to the caller."""
        self._teacher.close()

    def _admitted(self, request: Request) -> Request:
        account = request.account
        if account is not None:
            account = pseudonym(self._store.pseudonym_key(), account)
        return replace(request, id=request.id or new_id(), account=account)

    def _served(self, exchange: Exchange) -> Exchange:
        made = exchange.provenance or Provenance("serve", teacher=self.identity.digest)
        return replace(exchange, time=self._clock(), provenance=replace(made, source="serve"))
