"""Coined: a Teacher around a Teacher that tosses coins while it serves, so that a copy can be proved later.

*Twins.* For a share of the calls two candidates are drawn in one call of the teacher, alike but for their nonces. Cards
are planted into both; then both are noted in the ledger, then the coin is tossed, then one is answered. The other is
never shown to anyone. *Cards.* Which side of each form an account gets in a scope is a coin of the cards' key; the
sides that an answer shows are noted before it is answered. Note and toss are on disk when they return, and
`Recorder` around this one stores the answer before it lets it out: note, toss, store, answer.

No twins are drawn for later turns of a conversation, whose candidates depend on earlier coins; at temperature 0, where
both would be equal; and for calls with a seed of their own, which are promised the same answer again.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stillproof.canary import Planted, plant, sides_of
from stillproof.errors import ConfigError, TeacherError
from stillproof.exchange import sha256_of
from stillproof.serve.twins import PURPOSE, Candidate, Processing, Twin

if TYPE_CHECKING:
    from stillproof.exchange import Exchange, Message
    from stillproof.serve.ledger import Ledger
    from stillproof.serve.scopes import Scopes
    from stillproof.teacher import Identity, Request, Teacher

CARD, MARK = "card", "mark"
"""Kinds of notes in the ledger, beside that of twins."""

SHARE = "twin-share"
"""Purpose of the coin that chooses which calls get a twin."""

SIDES = 1_000_000

ANONYMOUS = "anonymous"
"""Account of calls that name none."""

_CACHED = ("replay",)


@dataclass(frozen=True, slots=True)
class CardKey:
    """The key whose coins choose the sides of cards, by its name and version in the key ring."""

    name: str
    version: int
    key: bytes


@dataclass(frozen=True, slots=True)
class CoinRules:
    """What is tossed. Raises ConfigError for a share out of range, or a mark that leaves twins no freedom."""

    twins: float = 0.0
    """Share of the calls that get a twin."""
    cards: CardKey | None = None
    scopes: Scopes | None = None
    """Of cards; None only where there are no cards."""
    mark: str | None = None
    """Commitment of the watermark key under which the teacher marks."""
    mark_repeats: bool = False
    """The mark decides the answer alone, as Gumbel's under a single key."""

    def __post_init__(self) -> None:
        if not 0 <= self.twins <= 1:
            raise ConfigError(f"a share of twins of {self.twins!r}", "--twins", "give 0 to 1")
        if self.twins and self.mark_repeats:
            raise ConfigError(
                "under a Gumbel mark with one key both answers of a twin are equal",
                "--twins",
                "make the key with --second-share above 0, or use a green list",
            )
        if (self.cards is None) != (self.scopes is None):
            raise ConfigError("cards need a key and scopes", "--cards", "give both, or neither")


@dataclass(slots=True)
class _Drawn:
    """A call whose answers are being drawn."""

    request: Request
    nonces: tuple[str, ...]
    """One of each candidate; of a call without a twin, none."""
    scope: str | None
    answers: list[Exchange | None]


class Coined:
    """See the module. Accounts of requests are pseudonyms here, and every request has an id, as `Recorder` gives them.

    Raises ConfigError where the teacher answers from a store, which has no second draw to give.
    """

    def __init__(self, teacher: Teacher, ledger: Ledger, rules: CoinRules) -> None:
        if rules.twins and teacher.identity.kind in _CACHED:
            raise ConfigError(
                "a teacher that repeats recorded answers draws no twins", teacher.identity.kind, "leave out --twins"
            )
        self._teacher, self._ledger, self._rules = teacher, ledger, rules
        self.n_twins = self.n_cards = 0
        """Answers served so far with a twin, and with at least one card."""

    @property
    def identity(self) -> Identity:
        return self._teacher.identity

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        waiting: dict[str, tuple[_Drawn, int]] = {}

        def drawn() -> Iterator[Request]:
            for request in requests:
                yield from self._begun(request, waiting)

        for exchange in self._teacher.answer(drawn()):
            if exchange.id not in waiting:
                raise TeacherError("an answer to what was not asked", exchange.id[:80], "see to the teacher's adapter")
            call, side = waiting.pop(exchange.id)
            call.answers[side] = exchange
            if all(answer is not None for answer in call.answers):
                yield self._served(call)

    def close(self) -> None:
        self._teacher.close()

    def _begun(self, request: Request, waiting: dict[str, tuple[_Drawn, int]]) -> list[Request]:
        """The calls to the teacher: two where there is a twin. One id has one draw under way."""
        scope = None if self._rules.scopes is None else self._rules.scopes.of(request.messages)
        if not self._gets_twin(request):
            waiting[request.id] = (_Drawn(request, (), scope, [None]), 0)
            return [request]
        nonces = (secrets.token_hex(16), secrets.token_hex(16))
        call = _Drawn(request, nonces, scope, [None, None])
        asked = [
            # Endpoints take seeds of 31 bits. A sample index beside a seed would be mixed into it by some teachers.
            replace(
                request,
                id=f"{request.id}.{side}",
                sample=0,
                sampling=replace(request.sampling, seed=int(nonce[:8], 16) >> 1),
            )
            for side, nonce in enumerate(nonces)
        ]
        for side, one in enumerate(asked):
            waiting[one.id] = (call, side)
        return asked

    def _gets_twin(self, request: Request) -> bool:
        free = request.sampling.temperature != 0 and request.sampling.seed is None
        first = all(message.role not in ("assistant", "tool") for message in request.messages)
        if not (self._rules.twins and free and first):
            return False
        if self._rules.twins == 1:
            return True
        return self._ledger.toss(request.id, SHARE, SIDES) < round(self._rules.twins * SIDES)

    def _served(self, call: _Drawn) -> Exchange:
        request, rules = call.request, self._rules
        answers = [answer for answer in call.answers if answer is not None]
        planted = [self._planted(answer, call) for answer in answers]
        side = 0
        if call.nonces and all(_complete(answer) for answer in answers):
            texts = [
                card.text if card else answer.response or "" for card, answer in zip(planted, answers, strict=True)
            ]
            self._ledger.note(request.id, PURPOSE, self._twin(call, (texts[0], texts[1])).note())
            side = self._ledger.toss(request.id, PURPOSE, 2)
            self.n_twins += 1
        elif call.nonces:
            # Whichever candidate came: nothing is tossed, so nothing is tested.
            side = next((i for i, answer in enumerate(answers) if _complete(answer)), 0)
        card, answer = planted[side], answers[side]
        if card is not None and card.present:
            self._ledger.note(request.id, CARD, self._card(call, card))
            self.n_cards += 1
        if rules.mark is not None and _complete(answer):
            self._ledger.note(request.id, MARK, rules.mark)
        key = request.key(self.identity.model)
        answer = replace(answer, id=request.id, sampling=request.sampling, request_key=key)
        if card is not None and card.text != answer.response:
            # The tokens that the teacher drew spell another text now.
            answer = replace(answer, response=card.text, tokens=None)
        return answer

    def _planted(self, answer: Exchange, call: _Drawn) -> Planted | None:
        cards = self._rules.cards
        if cards is None or call.scope is None or not _complete(answer):
            return None
        return plant(answer.response or "", sides_of(cards.key, _account(call), call.scope))

    def _card(self, call: _Drawn, planted: Planted) -> dict[str, Any]:
        cards, scope = self._rules.cards, call.scope
        assert cards is not None and scope is not None
        return {
            "account": _account(call),
            "scope": scope,
            "sides": dict(sides_of(cards.key, _account(call), scope, planted.present)),
            "key": cards.name,
            "version": cards.version,
        }

    def _twin(self, call: _Drawn, texts: tuple[str, str]) -> Twin:
        request, identity = call.request, self.identity
        sampling = request.sampling
        cut = {"stop": sampling.stop, "top_p": sampling.top_p, "top_k": sampling.top_k, "cards": call.scope}
        processing = Processing(
            model=identity.model,
            engine=identity.digest,
            temperature=sampling.temperature,
            mark=self._rules.mark,
            mark_repeats=self._rules.mark_repeats,
            max_tokens=sampling.max_tokens,
            cut="; ".join(f"{name} {value!r}" for name, value in cut.items() if value is not None),
        )
        first, second = (Candidate(text, nonce, processing) for text, nonce in zip(texts, call.nonces, strict=True))
        rows = [[message.role, message.content, message.tool_calls] for message in request.messages]
        prompt = sha256_of([rows, request.tools])
        return Twin(request.id, _account(call), prompt, family_of(request.messages), (first, second), 0)


def family_of(messages: Iterable[Message]) -> str:
    """Prompts that differ only in case, digits, punctuation or white space are one family."""
    plain = [re.sub(r"[\W\d_]+", " ", (message.content or "").casefold()).strip() for message in messages]
    return sha256_of(["stillproof.family.1", plain])[:32]


def _complete(answer: Exchange) -> bool:
    return answer.response is not None and answer.status in (None, 200)


def _account(call: _Drawn) -> str:
    return call.request.account or ANONYMOUS
