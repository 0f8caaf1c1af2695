"""An untargeted paraphrase: what a copier might do to answers before a student learns from them.

Blind to every key and coin. Most words that have a synonym here get it, runs of words without a digit are put into
another order, and connectives are re-worded to the other phrase of their pair, left out, or left alone. The result is
no good prose: the channel is made to break n-grams as a strong paraphrase does, and how many it leaves is measured.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from bench.trace.world import ANSWER, PROMPT, World
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from stillproof.canary import forms

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Channel:
    """Shares, 0 to 1."""

    synonyms: float = 0.9
    """Of the words that have one."""
    moved: float = 1.0
    """Of the runs of words that are put into another order."""
    run: int = 4
    """Words of such a run."""
    reworded: float = 0.25
    """Of the connectives that become the other phrase of their pair: at a half nothing is left of a habit."""
    dropped: float = 0.15
    """Of the connectives that are left out."""


_GROUPS = (
    "buys purchases gets", "bought purchased got", "has owns holds", "had owned held", "gives hands passes",
    "gave handed passed", "makes produces creates", "made produced created", "each every", "total sum", "many numerous",
    "more extra additional", "left remaining", "big large", "small little", "then afterwards next", "so therefore thus",
    "needs requires", "spends pays", "spent paid", "starts begins", "started began", "says states", "wants wishes",
    "all altogether", "only just", "also too", "about around", "if when", "per for", "cost price", "money cash",
    "kids children", "work labor", "day date", "finds gets", "takes uses", "took used", "sells offers", "sold offered",
)  # fmt: skip
SYNONYMS = {word: [other for other in group.split() if other != word] for group in _GROUPS for word in group.split()}


@cache
def _openers() -> tuple[re.Pattern[str], dict[str, str]]:
    """Openers with a capital, and the other phrase of each."""
    other: dict[str, str] = {}
    for one in forms():
        if one.kind == "opener":
            first, second = (phrase[0].upper() + phrase[1:] for phrase in (one.first, one.second))
            other[first], other[second] = second, first
    longest = sorted(other, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest)) + ") ?"), other


def paraphrase(text: str, rng: Generator, channel: Channel | None = None) -> str:
    """Numbers and connectives stay where they are; the rest as the channel says."""
    channel = channel or Channel()
    pattern, other = _openers()
    told: list[str] = []
    for place, part in enumerate(pattern.split(text)):
        if place % 2 == 0:
            told.append(_moved(part, rng, channel))
            continue
        luck = rng.random()
        if luck >= channel.dropped:
            told.append((other[part] if luck < channel.dropped + channel.reworded else part) + " ")
    return "".join(told)


def _moved(text: str, rng: Generator, channel: Channel) -> str:
    words = [
        SYNONYMS[word][rng.integers(len(SYNONYMS[word]))]
        if word in SYNONYMS and rng.random() < channel.synonyms
        else word
        for word in text.split(" ")
    ]
    free = [i for i, word in enumerate(words) if word and not any(map(str.isdigit, word))]
    for start in range(0, len(free), channel.run):
        run = free[start : start + channel.run]
        if rng.random() < channel.moved:
            turned = [words[run[i]] for i in rng.permutation(len(run))]
            for i, word in zip(run, turned, strict=True):
                words[i] = word
    return " ".join(words)


def overlap(a: Ids, b: Ids, n: int) -> float:
    """Share of the n-grams of `a` that stand in `b` too, with their counts."""
    first, second = (Counter(tuple(x[i : i + n].tolist()) for i in range(len(x) - n + 1)) for x in (a, b))
    return (first & second).total() / max(1, first.total())


def paraphrased(world: World, rows: Ids, seed: int, channel: Channel | None = None) -> tuple[Ids, dict[str, float]]:
    """Rows with their answers paraphrased, cut or filled up (-1) to the same length, and how much n-grams overlap: of
    tokens, and of words."""
    rng = Generator(Philox(seed))
    said = world.tokenizer.decode_batch([row[row >= 0].tolist() for row in rows[:, PROMPT:]])
    new = [paraphrase(text, rng, channel) for text in said]
    told = np.full_like(rows, -1)
    told[:, :PROMPT] = rows[:, :PROMPT]
    kept: dict[str, list[float]] = {}
    words: dict[str, int] = {}
    for i, (text, old) in enumerate(zip(new, said, strict=True)):
        ids = np.array(world.tokenizer.encode(text).ids[:ANSWER], dtype=np.int64)
        told[i, PROMPT : PROMPT + len(ids)] = ids
        before = rows[i, PROMPT:]
        a, b = (np.array([words.setdefault(w, len(words)) for w in t.split()], dtype=np.int64) for t in (old, text))
        for n in (2, 3, 4):
            kept.setdefault(f"tokens {n}", []).append(overlap(before[before >= 0], ids, n))
            kept.setdefault(f"words {n}", []).append(overlap(a, b, n))
    return told, {name: round(float(np.mean(shares)), 3) for name, shares in kept.items()}
