"""Attacks on a student, or on the text before it learned from it: what is left for T1, T2 and T5.

Each student learns from answers that a coin served one of two of, that carry evidence cards, and a mark where `scheme`
is given. Then, one attack at a time, the tests: twins by log-probabilities, cards, and radioactivity in closed and in
open mode. Attacks here are blind to keys and coins: none is aimed at one. The base that a student begins from is tested
beside it, with the same keys and coins: an innocent one.

Word problems have hardly any of the forms that cards are made of, so openers are put before the teacher's sentences,
either side of a form as often, before cards are planted. So small a student spells few of them out in text of its own:
cards are read, from the probabilities that it gives to both phrases where a sentence begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from bench.trace import students as st
from bench.trace import texts
from bench.trace.jobs import Case
from bench.trace.paraphrase import Channel, paraphrased
from bench.trace.power import (
    LESS_BASE,
    _p,
    _served_side,
    audited,
    diluted,
    imitating,
    log10_p,
    of_controls,
    reads_of,
    tossed,
    twin_pool,
    twin_scores,
    twins_of,
)
from bench.trace.world import ANSWER, PROMPT, ROW, World, key_of, served
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from stillproof.canary import forms, plant
from stillproof.trace.cards import Probe, find_cards
from stillproof.trace.evidence import closed_tuples, open_tuples
from stillproof.trace.twins import Scores, TwinSettings, controlled, find_served
from stillproof.watermark import MarkKey, Scheme

Ids = NDArray[np.int64]

CARDS = tuple(one.name for one in forms() if one.kind == "opener")
"""Those whose forms the world's prose has; one scope, so that each is one coin."""

TESTS = ("T1 closed", "T1 open", "T2", "T5")
"""Fixed in advance, those that were made are paid for by Holm."""
OPENERS = 0.8
"""Share of the teacher's sentences that are given one."""
CONTROL_ANSWERS = 2_500
CONTEXTS = 16
"""Places where a sentence begins, at which each card is read."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the owner recorded: the pool of pairs, [2, n, ROW], the coins, and the mark's key if there was one."""

    pool: Ids
    coins: NDArray[np.int64]
    sides: dict[str, int]
    controls: list[list[Scores]]
    """What the base makes of the pool and, where the case says so, an imitator (power.py)."""
    key: MarkKey | None
    seed: int
    scored: int


def attacks(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: log10 p of the tests after each attack."""
    return [_attacked(world, case) for case in cases]


def cards(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: log10 p of its cards, after it learned from `answers` that carry them, paraphrased or not."""
    told = []
    for case in cases:
        params, seed, n = case.params, case.seed, int(case.params["answers"])
        sides = dict(zip(CARDS, tossed(len(CARDS), seed + 7).tolist(), strict=True))
        drawn = _served_side(twin_pool(world.folder, int(params["pool"]))[:, :n], tossed(n, seed))
        learned, row = planted(world, drawn, sides, seed), dict[str, Any]()
        if params["paraphrased"]:
            learned, row["overlap"] = paraphrased(world, learned, seed)
        student = _trained(world.base, learned, seed, st.Schedule(float(params["epochs"]), 32, 1e-3))
        found = find_cards(probes(world, student, sides))
        told.append({**row, "log10_p": _p(found), "cards": found.n, "share": found.effect and found.effect.estimate})
    return told


def recorded(world: World, params: dict[str, Any], seed: int) -> Evidence:
    n, key = int(params["pairs"]), None
    if params["scheme"] is None:
        drawn = twin_pool(world.folder, int(params["pool"]))[:, :n]
    else:
        key = key_of(Scheme(**params["scheme"]), seed)
        prompts = world.prompts("serve", n, seed)
        drawn = np.stack([served(world, prompts, key, seed + nonce) for nonce in (11, 12)])
    sides = dict(zip(CARDS, tossed(len(CARDS), seed + 7).tolist(), strict=True))
    pool = np.stack([planted(world, rows, sides, seed + place) for place, rows in enumerate(drawn)])
    controls = [of_controls(world, pool, ("base",))["base"]]
    if params.get("imitator"):
        controls.append(twin_scores(imitating(world, pool, seed), pool)[0])
    return Evidence(pool, tossed(n, seed), sides, controls, key, seed, int(params["scored"]))


def planted(world: World, rows: Ids, sides: dict[str, int], seed: int, share: float = OPENERS) -> Ids:
    """Rows whose answers have openers, on the sides of their cards; cut, or filled up with -1, to the same length."""
    told, rng = rows.copy(), Generator(Philox(seed))
    for row, text in zip(told, world.tokenizer.decode_batch(rows[:, PROMPT:].tolist()), strict=True):
        ids = world.tokenizer.encode(plant(texts.with_openers(text, share, rng), sides).text).ids[:ANSWER]
        row[PROMPT:] = [*ids, *[-1] * (ANSWER - len(ids))]
    return told


def _attacked(world: World, case: Case) -> dict[str, Any]:
    params, seed = case.params, case.seed
    evidence = recorded(world, params, seed)
    n, learned = len(evidence.coins), _served_side(evidence.pool, evidence.coins)
    schedule = st.Schedule(float(params["epochs"]), 32, 1e-3)
    guilty = _trained(world.base, learned, seed, schedule)
    told: dict[str, Any] = {}

    def rounded(bits: int) -> st.Students:
        student = deepcopy(guilty)
        st.quantise(student, bits)
        return student

    def cleaned() -> st.Students:
        clean = texts.rows_of(world.part("prose", "learn"), 3 * n, ROW, seed + 13)
        return _trained(guilty, clean, seed, st.Schedule(1.0, 32, 1e-3))

    def rephrased(channel: Channel) -> st.Students:
        new, told["overlap"] = paraphrased(world, learned, seed, channel)
        return _trained(world.base, new, seed, schedule)

    def copied() -> st.Students:
        asked = world.prompts("serve", n, seed + 14)
        again = np.concatenate([asked, st.answers(guilty, [asked], ANSWER, [seed])[0]], axis=1)
        return _trained(world.base, again, seed, schedule)

    made: dict[str, Callable[[], st.Students]] = {
        "innocent": lambda: world.base,
        "none": lambda: guilty,
        "int8": lambda: rounded(8),
        "int4": lambda: rounded(4),
        "3x clean fine-tuning": cleaned,
        "paraphrase": lambda: rephrased(Channel()),
        "paraphrase, half of all forms reworded": lambda: rephrased(Channel(reworded=0.5, dropped=0.0)),
        "student of the student": copied,
    }
    for share in params["shares"]:
        made[f"{share:.0%} marked"] = lambda share=share: _trained(
            world.base, diluted(world, learned, share, seed), seed, schedule
        )
    for name in params["arms"]:
        told[name] = tests(world, made[name](), evidence)
    for temperature in params["temperatures"]:
        told[f"temperature {temperature}"] = tests(world, guilty, evidence, temperature)
    return told


def _trained(base: st.Students, rows: Ids, seed: int, schedule: st.Schedule) -> st.Students:
    student = st.students_like(base, 1)
    st.train(student, [rows], [seed], schedule)
    return student


def tests(world: World, student: st.Students, evidence: Evidence, temperature: float = 1.0) -> dict[str, float | None]:
    """log10 p of each test, None where inconclusive; T2 also without its control."""
    key, coins = evidence.key, evidence.coins
    mark = None if key is None else key.commitment
    twins = twins_of(world, evidence.pool, coins, [""] * len(coins), mark=mark)
    scores = twin_scores(student, evidence.pool)[0]
    told = {
        "T2": _p(find_served(twins, controlled(scores, *evidence.controls), TwinSettings(score=LESS_BASE))),
        "T2, no control": _p(find_served(twins, scores, TwinSettings())),
        "T5": _p(find_cards(probes(world, student, evidence.sides))),
    }
    if key is None:
        return told
    ((prompts, answers),) = audited(world, student, evidence.scored, [evidence.seed], temperature)
    read = reads_of(world, evidence.scored)
    reads = st.readings(read, st.expectations(student, [read])[0])
    return {
        "T1 closed": log10_p(closed_tuples(answers, key.scheme.k, prompts), key),
        "T1 open": log10_p(open_tuples(reads, key.scheme.k), key),
        **told,
    }


def probes(world: World, student: st.Students, sides: dict[str, int]) -> list[Probe]:
    """One a card and context. In place of a fake probe stands a control, which no coin has touched."""
    real, fake = opener_preferences(world, student), opener_preferences(world, unplanted(world))
    return [
        Probe("account", "all", name, side, float(shown), float(anyway))
        for name, side in sides.items()
        for shown, anyway in zip(real[name], fake[name], strict=True)
    ]


@lru_cache(maxsize=1)
def unplanted(world: World) -> st.Students:
    """The owner's control: the base after answers with openers on both sides of every form. One for all students."""
    path = world.folder / "unplanted.safetensors"
    if not path.exists():
        rows = planted(world, world.plain[:CONTROL_ANSWERS], {}, 0)
        st.save(_trained(world.base, rows, 0, st.Schedule(2.0, 32, 1e-3)), path)
    return st.load(world.shape(st.STUDENT), path, world.device)


def opener_preferences(world: World, student: st.Students) -> dict[str, NDArray[np.float64]]:
    """(p1 - p0) / (p1 + p0) of each card's phrases where a sentence begins, [CONTEXTS]: text that no key touched."""
    text = world.tokenizer.decode(world.part("prose", "audit")[:40_000].tolist())
    starts = [match.start() for match in re.finditer(r"(?<=[.] )[A-Z]", text) if match.start() > 200][:CONTEXTS]
    told: dict[str, NDArray[np.float64]] = {}
    for one in forms():
        if one.name not in CARDS:
            continue
        logprobs = []
        for phrase in (one.first, one.second):
            before = [world.tokenizer.encode(text[start - 200 : start].rstrip()).ids[-PROMPT:] for start in starts]
            # The space before a word is part of its token.
            spaced = world.tokenizer.encode(" " + phrase[0].upper() + phrase[1:]).ids
            rows = np.array([[*own, *spaced] for own in before], dtype=np.int64)
            logprobs.append(st.mean_logprobs(student, [rows], PROMPT)[0] * len(spaced))
        told[one.name] = np.tanh((logprobs[1] - logprobs[0]) / 2)
    return told
