"""Attacks on a student, or on the text before it learned from it: what is left for T1 and T2.

Each student learns from answers that carry a green list and were served by a coin, one of two. Then, one attack at a
time, three tests: radioactivity in closed and in open mode, and twins by log-probabilities. Attacks here are blind to
the key: none is aimed at the mark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from bench.trace import students as st
from bench.trace import texts
from bench.trace.jobs import Case
from bench.trace.power import (
    FINE_TUNING,
    _p,
    _served_side,
    audited,
    diluted,
    log10_p,
    reads_of,
    tossed,
    twin_scores,
    twins_of,
)
from bench.trace.world import ANSWER, PROMPT, ROW, World, key_of, served
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from stillproof.trace.evidence import closed_tuples, open_tuples
from stillproof.trace.twins import TwinSettings, find_served
from stillproof.watermark import MarkKey, Scheme

Ids = NDArray[np.int64]

SWAPS, SYNONYM = 0.8, 0.9
"""Share of neighbouring words that change places in a paraphrase, and of words with a synonym that get it."""

_GROUPS = (
    "buys purchases gets", "bought purchased got", "has owns holds", "had owned held", "gives hands passes",
    "gave handed passed", "makes produces creates", "made produced created", "each every", "total sum", "many numerous",
    "more extra additional", "left remaining", "big large", "small little", "then afterwards next", "so therefore thus",
    "needs requires", "spends pays", "spent paid", "starts begins", "started began", "says states", "wants wishes",
    "all altogether", "only just", "also too", "about around", "if when", "per for", "cost price", "money cash",
    "kids children", "work labor", "day date", "finds gets", "takes uses", "took used", "sells offers", "sold offered",
)  # fmt: skip
SYNONYMS = {word: [other for other in group.split() if other != word] for group in _GROUPS for word in group.split()}


def paraphrase(text: str, rng: Generator) -> str:
    """Synonyms for most words that have one here, and most neighbours change places; numbers and marks stay."""
    words = [
        SYNONYMS[word][rng.integers(len(SYNONYMS[word]))] if word in SYNONYMS and rng.random() < SYNONYM else word
        for word in text.split(" ")
    ]
    i = 0
    while i + 1 < len(words):
        if rng.random() < SWAPS and not any(map(str.isdigit, words[i] + words[i + 1])):
            words[i], words[i + 1] = words[i + 1], words[i]
            i += 1
        i += 1
    return " ".join(words)


def overlap(a: Ids, b: Ids, n: int) -> float:
    """Share of the n-grams of `a` that stand in `b` too, with their counts."""
    first, second = (Counter(tuple(x[i : i + n].tolist()) for i in range(len(x) - n + 1)) for x in (a, b))
    return (first & second).total() / max(1, first.total())


def paraphrased(world: World, rows: Ids, seed: int) -> tuple[Ids, dict[str, float]]:
    """Rows with their answers paraphrased, cut or filled up (-1) to the same length, and how much n-grams overlap."""
    rng = Generator(Philox(seed))
    said = world.tokenizer.decode_batch(rows[:, PROMPT:].tolist())
    new = np.full_like(rows, -1)
    new[:, :PROMPT] = rows[:, :PROMPT]
    kept: dict[int, list[float]] = {2: [], 3: [], 4: []}
    for i, text in enumerate(said):
        ids = np.array(world.tokenizer.encode(paraphrase(text, rng)).ids[:ANSWER], dtype=np.int64)
        new[i, PROMPT : PROMPT + len(ids)] = ids
        for n, shares in kept.items():
            shares.append(overlap(rows[i, PROMPT:], ids, n))
    return new, {str(n): round(float(np.mean(shares)), 3) for n, shares in kept.items()}


def attacks(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: log10 p of the three tests after each attack."""
    return [_attacked(world, case) for case in cases]


def _attacked(world: World, case: Case) -> dict[str, Any]:
    params, seed = case.params, case.seed
    scheme = Scheme(**params["scheme"])
    key, n = key_of(scheme, seed), int(params["marked_tokens"]) // ANSWER
    prompts = world.prompts("serve", n, seed)
    pool = np.stack([served(world, prompts, key, seed + 11), served(world, prompts, key, seed + 12)])
    coins = tossed(n, seed)
    learned = _served_side(pool, coins)
    told: dict[str, Any] = {}

    def test(name: str, student: st.Students, temperature: float = 1.0) -> None:
        told[name] = _tests(world, student, key, (pool, coins, seed, int(params["scored"])), temperature)

    guilty = _trained(world.base, learned, seed)
    test("none", guilty)
    for temperature in (0.7, 1.3):
        test(f"temperature {temperature}", guilty, temperature)
    for bits in (8, 4):
        rounded = deepcopy(guilty)
        st.quantise(rounded, bits)
        test(f"int{bits}", rounded)
    clean = texts.rows_of(world.part("prose", "learn"), 3 * n, ROW, seed + 13)
    test("3x clean fine-tuning", _trained(guilty, clean, seed, st.Schedule(1.0, 32, 1e-3)))
    new, told["overlap"] = paraphrased(world, learned, seed)
    test("paraphrase", _trained(world.base, new, seed))
    for share in params["shares"]:
        test(f"{share:.0%} marked", _trained(world.base, diluted(world, learned, share, seed), seed))
    asked = world.prompts("serve", n, seed + 14)
    copied = np.concatenate([asked, st.answers(guilty, [asked], ANSWER, [seed])[0]], axis=1)
    test("student of the student", _trained(world.base, copied, seed))
    return told


def _trained(base: st.Students, rows: Ids, seed: int, schedule: st.Schedule = FINE_TUNING) -> st.Students:
    student = st.students_like(base, 1)
    st.train(student, [rows], [seed], schedule)
    return student


def _tests(
    world: World,
    student: st.Students,
    key: MarkKey,
    served_by: tuple[Ids, NDArray[np.int64], int, int],
    temperature: float,
) -> dict[str, float | None]:
    pool, coins, seed, scored = served_by
    ((prompts, answers),) = audited(world, student, scored, [seed], temperature)
    read = reads_of(world, scored)
    reads = st.readings(read, st.expectations(student, [read])[0])
    twins = twins_of(world, pool, coins, [""] * len(coins), mark=key.commitment)
    return {
        "closed": log10_p(closed_tuples(answers, key.scheme.k, prompts), key),
        "open": log10_p(open_tuples(reads, key.scheme.k), key),
        "twins": _p(find_served(twins, twin_scores(student, pool)[0], TwinSettings())),
    }
