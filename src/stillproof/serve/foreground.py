"""`stillproof serve`: a teacher at a local endpoint until Ctrl-C, its answers recorded where a store is named."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stillproof.errors import ConfigError
from stillproof.serve.coined import CardKey, Coined, CoinRules
from stillproof.serve.custody import KeyRing
from stillproof.serve.endpoint import endpoint
from stillproof.serve.ledger import Ledger
from stillproof.serve.recorder import Recorder
from stillproof.store import Store

if TYPE_CHECKING:
    from stillproof.serve.scopes import Scopes
    from stillproof.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Proof:
    """What is tossed while serving, and where it is kept."""

    keys: Path
    """Folder of the key ring."""
    ledger: Path
    twins: float = 0.0
    """Share of the calls that get a twin."""
    scopes: Scopes | None = None
    """Of cards; None plants none."""
    coin_key: str = "coins"
    card_key: str = "cards"
    mark: str | None = None
    """Commitment of the key under which the teacher marks, where it does."""
    mark_repeats: bool = False


def serve_until_interrupted(
    teacher: Teacher,
    *,
    host: str = "127.0.0.1",
    port: int,
    record: Path | None,
    proof: Proof | None = None,
    on_start: Callable[[str], None],
) -> dict[str, object]:
    """Serve, call `on_start` with the URL once calls are taken, and return a summary when interrupted.

    `record` is a store to open, or a folder to make one in; None records nothing. The teacher is closed at the end.
    Raises ConfigError where the port is taken, or where coins are to be tossed and nothing is recorded; CustodyError
    for a key that is not in the ring.
    """
    with ExitStack() as stack:
        stack.callback(teacher.close)
        store = None
        if record is not None:
            store = stack.enter_context(Store.open(record) if Store.is_store(record) else Store.create(record))
        before = len(store) if store is not None else 0
        coined: Coined | None = None
        served = teacher if store is None else Recorder(teacher, store)
        if proof is not None:
            if store is None:
                raise ConfigError("coins without a record of what was served", "--record", "name a store")
            coined, ledger = _coined(teacher, proof, stack)
            served = Recorder(coined, store, ledger)
        try:
            running = endpoint(served, host, port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}", "--port", "choose another; 0 takes a free one"
            ) from error
        url = running.url
        # The endpoint ends before the count is taken, so that the batch under way is in it.
        with running, suppress(KeyboardInterrupt):
            on_start(url)
            threading.Event().wait()
        return {
            "url": url,
            "model": teacher.identity.model,
            "store": str(record) if record is not None else None,
            "recorded": len(store) - before if store is not None else None,
            "ledger": str(proof.ledger) if proof is not None else None,
            "twins": coined.n_twins if coined is not None else None,
            "cards": coined.n_cards if coined is not None else None,
        }


def _coined(teacher: Teacher, proof: Proof, stack: ExitStack) -> tuple[Coined, Ledger]:
    ring = KeyRing(proof.keys)
    cards: CardKey | None = None
    if proof.scopes is not None:
        opening = ring.opening(proof.card_key)
        cards = CardKey(opening.name, opening.version, bytes.fromhex(opening.key))
    rules = CoinRules(proof.twins, cards, proof.scopes, proof.mark, proof.mark_repeats)
    ledger = stack.enter_context(Ledger(proof.ledger, ring, proof.coin_key))
    return Coined(teacher, ledger, rules), ledger
