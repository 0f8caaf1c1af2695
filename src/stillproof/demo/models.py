"""The two models that the story begins with: the one that is served, and the open one that students start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.demo import prose, tiny
from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.demo.sizes import Size
    from stillproof.exchange import Exchange

HOUSE, START = "house-model", "open-start"
HOUSE_LICENCE = "stillproof-demo-house-terms"
"""Known to no record: who wants to learn from this model needs a grant."""

_HOUSE_CARD = f"""---
license: other
license_name: {HOUSE_LICENCE}
---
The model that a demo of stillproof serves. Its answers may teach another model only by a grant.
"""
_START_CARD = """---
license: apache-2.0
---
What the students of a demo of stillproof start from.
"""


@dataclass(frozen=True, slots=True)
class Chatter:
    """Where the demo's texts come from: streams of random numbers by name, of one seed."""

    seed: int

    def rng(self, name: str) -> np.random.Generator:
        from hashlib import sha256

        digest = sha256(f"{self.seed}/{name}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

    def chats(self, name: str, n: int, school: prose.School, sentences: int = 5) -> list[Exchange]:
        """n prompts, with answers of a school, of so many sentences each."""
        rng = self.rng(name)
        return tiny.chats(prose.prompts(rng, n), prose.answers(rng, n, school, sentences))


def make(size: Size, out: Path, on_event: OnEvent = ignore) -> dict[str, Any]:
    """The folders `house-model` and `open-start` in `out`, each made once."""
    house, start = out / HOUSE, out / START
    if size.teacher == "smollm2":
        on_event(Event("models", 0, 2, "models"))
        if not house.exists():
            _save_smollm2(house, _HOUSE_CARD, halved=False)
        if not start.exists():
            _save_smollm2(start, _START_CARD, halved=True)
        return {"house": house.name, "start": start.name}
    return _train_both(size, out, on_event)


def _train_both(size: Size, out: Path, on_event: OnEvent) -> dict[str, Any]:
    given, chatter = size.tiny, Chatter(size.seed)
    owners = chatter.chats("owner", given.teacher_texts, "owner")
    others = chatter.chats("others", given.start_texts, "others")
    sample = [text for items in (owners[:3000], others[:3000]) for item in items for text in _texts_of(item)]
    tokenizer = tiny.learn_tokenizer(sample, given.vocabulary)
    told: dict[str, Any] = {"house": HOUSE, "start": START, "vocabulary": len(tokenizer)}
    for folder, shape, items, card in (
        (out / HOUSE, given.teacher, owners, _HOUSE_CARD),
        (out / START, given.start, others, _START_CARD),
    ):
        if folder.exists():
            continue
        number = size.seed if folder.name == HOUSE else size.seed + 1
        model = tiny.fresh(shape, tokenizer, number)
        lesson = tiny.Lesson(folder.name, number, 1, given.learning_rate)
        told[f"loss_{folder.name}_nats"] = tiny.teach(
            model, tokenizer, items, lesson, out / "training" / folder.name, on_event
        )
        told[f"parameters_{folder.name}"] = sum(weights.numel() for weights in model.parameters())
        tiny.save(model, tokenizer, folder, card)
    return told


def _texts_of(item: Exchange) -> list[str]:
    return [*(message.content or "" for message in item.messages), item.response or ""]


def _save_smollm2(folder: Path, card: str, *, halved: bool) -> None:
    from stillproof.distill.student import choose_layers, drop_layers
    from stillproof.teacher.weights import load_weights

    model, tokenizer = load_weights("smollm2")
    if halved:
        n = int(model.config.num_hidden_layers)
        model = drop_layers(model, choose_layers(n, n // 2))
    tiny.save(model, tokenizer, folder, card)
