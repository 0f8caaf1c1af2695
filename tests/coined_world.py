"""A small world for twins and cards: a fake teacher served under coins, and suspects that learned from it or not."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from numpy.random import Generator, Philox

from stillproof.canary import forms, plant
from stillproof.exchange import Exchange, Message, ResponseTokens, Sampling
from stillproof.serve import CardKey, Coined, CoinRules, KeyRing, Ledger, Recorder, Scopes
from stillproof.store import Store
from stillproof.teacher import Identity, Request, Teacher, asked, now
from stillproof.teacher.fake import FakeTeacher

NOUNS = ("river", "engine", "garden", "letter", "harbour", "winter", "market", "violin", "ladder", "orchard", "copper")
PHRASES = tuple(one for one in forms() if one.kind == "phrase")
SCOPES = Scopes({"cooking": ("cook",), "travel": ("travel",)})


def random_of(*parts: object) -> Generator:
    return Generator(Philox(int.from_bytes(sha256(repr(parts).encode()).digest()[:8])))


def prompt_of(request: Request) -> str:
    return request.messages[-1].content or ""


def story(request: Request) -> str:
    """Eighteen words and six phrases that have two forms, by prompt and seed."""
    rng = random_of(prompt_of(request), request.sampling.seed, request.sample)
    words = [NOUNS[i] for i in rng.integers(0, len(NOUNS), 18)]
    picked = [PHRASES[i] for i in rng.integers(0, len(PHRASES), 6)]
    said = [(one.first, one.second)[int(rng.integers(2))] for one in picked]
    return " ".join(f"{words[3 * i]} {words[3 * i + 1]} {said[i]} {words[3 * i + 2]}." for i in range(6))


class World:
    """A key ring, a ledger and a store, into which a teacher serves under coins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.ledger = folder, folder / "served", folder / "ledger"
        self.ring = KeyRing(folder / "keys")
        self.ring.create("coins")
        self.ring.create("cards")
        self.coin_key, self.card_key = (self.ring.folder / f"{name}.v1.key" for name in ("coins", "cards"))

    def rules(self, twins: float = 1.0, scopes: Scopes | None = None, **fields: object) -> CoinRules:
        cards = None if scopes is None else CardKey("cards", 1, self.ring.key("cards"))
        return CoinRules(twins, cards, scopes, **fields)

    def serve(
        self, requests: Iterable[Request], rules: CoinRules | None = None, teacher: Teacher | None = None
    ) -> list[Exchange]:
        opened = Store.open if Store.is_store(self.store) else Store.create
        with opened(self.store) as store, Ledger(self.ledger, self.ring, "coins") as ledger:
            coined = Coined(teacher or FakeTeacher(story), ledger, rules or self.rules())
            return list(Recorder(coined, store, ledger).answer(list(requests)))


def calls(n: int, account: str = "ann", topic: str = "question", **sampling: object) -> list[Request]:
    """Prompts that are families of their own: letters, because digits make no family."""
    spelt = ["".join("abcdefghij"[int(digit)] for digit in str(i)) for i in range(n)]
    return [Request((Message("user", f"{topic} {word}"),), Sampling(**sampling), account=account) for word in spelt]


class Reader:
    """A suspect that reads: log-probabilities by chance, and higher by `lift` where it saw the text in training."""

    def __init__(
        self,
        seen: Iterable[str] = (),
        lift: float = 0.3,
        *,
        name: str = "suspect",
        tell: Callable[[int], ResponseTokens | int | None] | None = None,
    ) -> None:
        self._seen, self._lift, self._tell, self.calls = set(seen), lift, tell, 0
        self.identity = Identity(name, "fake")

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for request in requests:
            self.calls += 1
            text = prompt_of(request)
            values = random_of(self.identity.model, text).normal(-3, 0.5, 8) + self._lift * (text in self._seen)
            told: ResponseTokens | int | None = ResponseTokens(logprobs=tuple(values.tolist()))
            if self._tell is not None:
                told = self._tell(self.calls)
            exchange = replace(asked(request, self.identity), time=now())
            if isinstance(told, int):
                yield replace(exchange, status=told)
            else:
                yield replace(exchange, response=text, tokens=told, status=200)

    def close(self) -> None:
        pass


def reciting(served: Iterable[Exchange]) -> Callable[[Request], str]:
    """A suspect that gives back half of each answer it was trained on, and goes on by itself."""
    learned = {exchange.messages[-1].content: (exchange.response or "").split(". ") for exchange in served}

    def rule(request: Request) -> str:
        own = story(replace(request, sampling=Sampling(seed=10_001)))
        return ". ".join(learned.get(prompt_of(request), [])[:3]) + " " + own

    return rule


def habitual(sides: dict[str, dict[str, int]], scopes: Scopes = SCOPES) -> Callable[[Request], str]:
    """A suspect with habits of form in each scope; without any in a scope it says what chance says."""

    def rule(request: Request) -> str:
        text = story(replace(request, sampling=Sampling(seed=77), sample=request.sample))
        return plant(text, sides.get(scopes.of_text(prompt_of(request)) or "-", {})).text

    return rule
