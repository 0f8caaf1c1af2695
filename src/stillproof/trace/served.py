"""What was served under coins, as an audit takes it: everything but the coins on one side, the coins on the other.

Twins and cards are read from the store of what was served and the ledger beside it. What is left out is left out
without a look at the coins: draws under another version of the key, draws that a crash kept from being served, answers
that a cache repeated. The blind half is `served.jsonl` of a bundle, and a plan fixes its digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from stillproof.canary import form, side_of
from stillproof.errors import InputError, MismatchError
from stillproof.exchange import Exchange, Message
from stillproof.serve.coined import CARD
from stillproof.serve.custody import Opening
from stillproof.serve.ledger import COIN, Entry, coin, read_entries
from stillproof.serve.twins import PURPOSE, Twin, twin_of, twins_in
from stillproof.store import Store
from stillproof.trace.cards import Probe
from stillproof.trace.pairs import Door

CoinTest = Literal["twins", "cards"]

Card = tuple[str, str, str]
"""Account, scope, form."""

_AGAIN = "get the bundle again from who made it"


@dataclass(frozen=True, slots=True)
class Served:
    """Twins or cards in the order in which they were served, and what was left out."""

    twins: tuple[Twin, ...] = ()
    prompts: Mapping[str, tuple[Message, ...]] = field(default_factory=dict)
    """What each twin answers, by its id."""
    cards: Mapping[Card, int] = field(default_factory=dict)
    """The side of each card."""
    left_out: str = ""

    @property
    def accounts(self) -> tuple[str, ...]:
        named = [twin.account for twin in self.twins] + [card[0] for card in self.cards]
        return tuple(dict.fromkeys(named))

    def __len__(self) -> int:
        return len(self.twins) + len(self.cards)

    def blind_text(self) -> str:
        """served.jsonl: all but the coins."""
        rows: list[Any] = [
            {"id": twin.id, "messages": [asdict(message) for message in self.prompts[twin.id]], "twin": twin.note()}
            for twin in self.twins
        ]
        rows += [{"account": account, "scope": scope, "form": name} for account, scope, name in self.cards]
        return "".join(json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for row in rows)

    def coin_text(self) -> str:
        """coins.jsonl, line by line the coins of served.jsonl."""
        values = [twin.coin for twin in self.twins] + list(self.cards.values())
        return "".join(f"{value}\n" for value in values)

    @property
    def blind_sha256(self) -> str:
        return sha256(self.blind_text().encode()).hexdigest()


def read_served(
    store: Path, ledger: Path, test: CoinTest, opening: Opening, *, ids: Sequence[str] | None = None
) -> Served:
    """What a store and its ledger hold for a test, under one version of the coins' key. `ids`: of a plan, for twins.

    Raises CustodyError for a ledger that cannot be read, MismatchError where a coin is not what the key gives or a
    served answer is not the candidate that its coin chose, InputError where nothing is left or twins could differ by
    more than their coin.
    """
    if not Store.is_store(store):
        raise InputError("no store of what was served", str(store), "give the folder of `stillproof serve --record`")
    entries = list(read_entries(ledger))
    if not entries:
        raise InputError("no ledger, or an empty one", str(ledger), "give the folder of `stillproof serve --ledger`")
    with Store.open(store) as opened:
        wanted = {entry.id for entry in entries if entry.kind in (PURPOSE, CARD)}
        stored = {exchange.id: exchange for exchange in opened if exchange.id in wanted}
    if test == "cards":
        return _cards(entries, stored, opening)
    return _twins(entries, stored, opening, ids)


def _twins(
    entries: Iterable[Entry], stored: Mapping[str, Exchange], opening: Opening, ids: Sequence[str] | None
) -> Served:
    own = [entry for entry in entries if entry.id in stored]
    keys = {entry.id: (entry.key, entry.version) for entry in own if entry.kind == COIN and entry.purpose == PURPOSE}
    every = twins_in(own)
    kept = [twin for twin in every if keys[twin.id] == (opening.name, opening.version)]
    n_other = len(every) - len(kept)
    kept, n_cached = _fresh(kept)
    if ids is not None:
        place = {twin.id: twin for twin in kept}
        gone = [name for name in ids if name not in place]
        if gone:
            remedy = "an account was forgotten, or it is another store: make a new plan"
            raise MismatchError(f"{len(gone)} twins of the plan are not there any more", gone[0], remedy)
        kept = [place[name] for name in ids]
    if not kept:
        raise InputError("no twins under this key", f"{opening.name}, version {opening.version}", _SERVE["twins"])
    for twin in kept:
        answered = stored[twin.id]
        if answered.response != twin.candidates[twin.coin].text or (answered.account or twin.account) != twin.account:
            raise MismatchError("what was served is not the candidate that the coin chose", twin.id, "see to the store")
    served = Served(
        tuple(kept),
        {twin.id: stored[twin.id].messages for twin in kept},
        left_out=f"left out without the coins: {n_other} of other keys, {n_cached} repeated by a cache",
    )
    check_coins(served, opening)
    require_sound(served)
    return served


_SERVE = {
    "twins": "serve with --twins; the key is NAME.vN.key of that time",
    "cards": "serve with --cards; the key is NAME.vN.key of that time",
}


def _fresh(twins: Sequence[Twin]) -> tuple[list[Twin], int]:
    """Without pairs whose prompt and two answers an earlier pair had: those were cached, not drawn."""
    seen: set[tuple[str, frozenset[str]]] = set()
    kept: list[Twin] = []
    for twin in twins:
        texts = frozenset(candidate.text for candidate in twin.candidates)
        if len(texts) < 2 or (twin.prompt, texts) not in seen:
            kept.append(twin)
        seen.add((twin.prompt, texts))
    return kept, len(twins) - len(kept)


def _cards(entries: Iterable[Entry], stored: Mapping[str, Exchange], opening: Opening) -> Served:
    cards: dict[Card, int] = {}
    n_other = 0
    for entry in entries:
        if entry.kind != CARD or entry.id not in stored:
            continue
        try:
            account, scope, sides = str(entry.value["account"]), str(entry.value["scope"]), dict(entry.value["sides"])
            own = (entry.value["key"], entry.value["version"]) == (opening.name, opening.version)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not the note of cards ({type(error).__name__})", entry.id, "restore the ledger"
            ) from None
        n_other += not own
        for name, side in sides.items() if own else ():
            if cards.setdefault((account, scope, form(name).name), side) != side:
                raise MismatchError("a card with two sides", f"{account}/{scope}/{name}", "see to the ledger")
    if not cards:
        raise InputError("no cards under this key", f"{opening.name}, version {opening.version}", _SERVE["cards"])
    served = Served(cards=cards, left_out=f"left out without the coins: {n_other} answers with cards of other keys")
    check_coins(served, opening)
    return served


def check_coins(served: Served, opening: Opening) -> None:
    """Raises MismatchError for a coin that the key does not give."""
    key = bytes.fromhex(opening.key)
    for twin in served.twins:
        if coin(key, opening.version, PURPOSE, twin.id, 2) != twin.coin:
            raise MismatchError("a coin is not what its key gives", twin.id, "the ledger or the bundle was changed")
    for card, side in served.cards.items():
        if side_of(key, *card) != side:
            raise MismatchError("a card's coin is not what its key gives", "/".join(card), "see to ledger or bundle")


def require_sound(served: Served) -> None:
    """Raises InputError for twins that could differ by more than their coin: `pairs.Door`, the coins unseen."""
    door = Door()
    for twin in served.twins:
        door.admit(replace(twin, coin=0))
    door.close()


def served_of(blind: bytes, coins: bytes) -> Served:
    """The inverse of `blind_text` and `coin_text`. Raises InputError that names the line."""
    lines, sides = blind.decode("utf-8", "replace").splitlines(), coins.split()
    if len(lines) != len(sides) or any(side not in (b"0", b"1") for side in sides):
        raise InputError(f"{len(sides)} coins for {len(lines)} lines of what was served", "coins.jsonl", _AGAIN)
    twins: list[Twin] = []
    prompts: dict[str, tuple[Message, ...]] = {}
    cards: dict[Card, int] = {}
    for number, (line, side) in enumerate(zip(lines, sides, strict=True), 1):
        try:
            row = json.loads(line)
            if "twin" in row:
                twins.append(twin_of(row["id"], row["twin"], int(side)))
                prompts[row["id"]] = tuple(Message(**message) for message in row["messages"])
            else:
                cards[str(row["account"]), str(row["scope"]), form(row["form"]).name] = int(side)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(
                f"not what was served ({type(error).__name__})", f"served.jsonl:{number}", _AGAIN
            ) from None
    return Served(tuple(twins), prompts, cards)


def probes_of(served: Served, real: Mapping[str, Mapping[str, float]], fake: Mapping[str, float] | None) -> list[Probe]:
    """A probe a card: what the suspect prefers in the card's scope, and where nothing was planted (None: not asked)."""
    return [
        Probe(account, scope, name, side, real.get(scope, {}).get(name), 0.0 if fake is None else fake.get(name))
        for (account, scope, name), side in served.cards.items()
    ]
