"""Power: what the tests see of students that learned from what the teacher served.

`marked` (T1): the same number of marked tokens in each student's data, more or less plain text around them; log10 p
over the tokens scored, in closed and in open mode. `twins` (T2): no mark; a coin served one of two answers.
`accounts`: one account's answers were learned from, of 1,000 that were served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from bench.trace import students as st
from bench.trace import texts
from bench.trace.jobs import Case
from bench.trace.world import ANSWER, PROMPT, ROW, World, key_of, served
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from stillproof.finding import Finding
from stillproof.trace.evidence import Tuples, closed_tuples, open_tuples
from stillproof.trace.flips import CoinSettings, bets_log10_e, wilcoxon_log10_p
from stillproof.trace.pairs import Candidate, Processing, Twin
from stillproof.trace.places import choose, expected_hits, worth
from stillproof.trace.radioactivity import AnytimeAudit, AuditSettings, log10_p_of
from stillproof.trace.twins import (
    Scores,
    TwinSettings,
    controlled,
    controlled_in_order,
    find_served,
    find_served_accounts,
)
from stillproof.watermark import MarkKey, Scheme, law_of, score_lanes

Ids = NDArray[np.int64]

TOKENS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 500_000)
FINE_TUNING = st.Schedule(2.0, 32, 1e-3)
STREAMS = 4
"""Into how many audits with an early stop a student's answers are cut."""
ANYTIME_ALPHA = 1e-3
PAIRS = (100, 300, 600, 1_000, 2_000, 5_000)


def diluted(world: World, marked: Ids, share: float, seed: int) -> Ids:
    """Marked rows among plain ones: unmarked answers of the teacher and real text, half and half."""
    n = round(len(marked) / share) - len(marked)
    if n == 0:
        return marked
    half = len(world.plain) // 2
    own = world.plain[Generator(Philox(seed)).integers(0, half, size=n // 2)]
    real = texts.rows_of(world.part("prose", "learn"), n - n // 2, ROW, seed)
    return np.concatenate([marked, own, real])


def audited(
    world: World, students: st.Students, n_tokens: int, seeds: Sequence[int], temperature: float = 1.0
) -> list[tuple[Ids, Ids]]:
    """Prompts and what each student answers to them, `n_tokens` in all."""
    n = max(1, n_tokens // ANSWER)
    prompts = [world.prompts("audit", n, seed + 1) for seed in seeds]
    written = st.answers(students, prompts, ANSWER, [seed + 2 for seed in seeds], temperature=temperature)
    return list(zip(prompts, written, strict=True))


def log10_p(tuples: Tuples, key: MarkKey) -> float:
    """Of the true key; 0 where there is nothing to count."""
    if not len(tuples):
        return 0.0
    total = score_lanes(key.lane, tuples.windows, tuples.tokens, key.scheme, weights=tuples.weights)[0]
    return round(log10_p_of(float(total), len(tuples), tuples.weights, law_of(key.scheme)), 3)


def reads_of(world: World, n_tokens: int) -> Ids:
    """Unmarked text that no student learned from, [n, ROW]: `n_tokens` positions, as far as there is text."""
    half = world.plain[len(world.plain) // 2 :]
    return half[: max(1, n_tokens // (ROW - 1))]


def marked(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: log10 p by mode after each number of tokens, and where early stops came."""
    params = cases[0].params
    scheme, share, most = Scheme(**params["scheme"]), float(params["share"]), int(params["scored"])
    seeds, keys = [case.seed for case in cases], [key_of(scheme, case.seed) for case in cases]
    n_rows = int(params["marked_tokens"]) // ANSWER
    rows = []
    for key, seed in zip(keys, seeds, strict=True):
        own = served(world, world.prompts("serve", n_rows, seed), key, seed)
        rows.append(diluted(world, own, share, seed))
    students = st.students_like(world.base, len(cases))
    st.train(students, rows, seeds, FINE_TUNING)
    spoken = audited(world, students, most, seeds)
    read = reads_of(world, most)
    expected = st.expectations(students, [read] * len(cases))
    told: list[dict[str, Any]] = []
    for i, key in enumerate(keys):
        prompts, answers = spoken[i]
        row: dict[str, dict[int, float]] = {"closed": {}, "closed once": {}, "open": {}}
        for n in [count for count in TOKENS if count <= most]:
            first = slice(0, max(1, n // ANSWER))
            row["closed"][n] = log10_p(closed_tuples(answers[first], scheme.k, prompts[first]), key)
            once = closed_tuples(answers[first], scheme.k, prompts[first], repeats="once")
            row["closed once"][n] = log10_p(once, key)
            if n // (ROW - 1) <= len(read):
                part = slice(0, max(1, n // (ROW - 1)))
                reads = st.readings(read[part], (expected[i][0][part], expected[i][1][part]))
                row["open"][n] = log10_p(open_tuples(reads, scheme.k), key)
        told.append({**row, "anytime": [_stop(part, key) for part in _streams(prompts, answers)]})
    return told


def _streams(prompts: Ids, answers: Ids) -> list[tuple[Ids, Ids]]:
    size = len(answers) // STREAMS
    return [(prompts[i * size : (i + 1) * size], answers[i * size : (i + 1) * size]) for i in range(STREAMS)]


def _stop(stream: tuple[Ids, Ids], key: MarkKey) -> dict[str, Any]:
    """Queries until an audit stopped (None: never), and p of the fixed-n test after as many queries."""
    prompts, answers = stream
    audit, stopped = AnytimeAudit(key, key.commitment, AuditSettings(alpha=ANYTIME_ALPHA)), None
    for number, (answer, prompt) in enumerate(zip(answers.tolist(), prompts.tolist(), strict=True), start=1):
        audit.add(answer, prompt)
        if audit.enough:
            stopped = number
            break
    fixed = {}
    for n in sorted({round(10 ** (x / 10)) for x in range(5, 36)}):
        if n <= len(answers):
            fixed[n] = log10_p(closed_tuples(answers[:n], key.scheme.k, prompts[:n]), key)
    return {"stopped": stopped, "fixed": fixed, "queries": len(answers)}


# --- twins ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def twin_pool(folder: Path, n: int) -> Ids:
    """`n` pairs of unmarked answers by the teacher, [2, n, ROW]. One pool serves all students: under the null it is
    the coins that are drawn anew, and each student has its own."""
    path = folder / f"twins_{n}.npz"
    if not path.exists():
        world = World(folder)
        prompts = world.prompts("serve", n, 8)
        made = np.stack([served(world, prompts, None, seed) for seed in (81, 82)])
        np.savez_compressed(path, allow_pickle=False, rows=made.astype(np.uint16))
    with np.load(path, allow_pickle=False) as kept:
        return kept["rows"].astype(np.int64)


def tossed(n: int, seed: int) -> NDArray[np.int64]:
    return Generator(Philox(seed + 9)).integers(0, 2, size=n)


def twins_of(
    world: World, pool: Ids, coins: NDArray[np.int64], accounts: Sequence[str], mark: str | None = None
) -> list[Twin]:
    processing = Processing("teacher", "bench", 1.0, mark=mark, max_tokens=ANSWER)
    both = [world.tokenizer.decode_batch([row[row >= 0].tolist() for row in side[:, PROMPT:]]) for side in pool]
    made = []
    for i, coin in enumerate(coins.tolist()):
        a, b = (Candidate(side[i], f"{i}.{place}", processing) for place, side in enumerate(both))
        # A prompt is a family: prompts are cut from text at random places, and the same place twice is one prompt.
        prompt = pool[0, i, :PROMPT].tobytes().hex()
        made.append(Twin(f"x{i}", accounts[i], prompt, prompt, (a, b), coin))
    return made


def twin_scores(students: st.Students, pool: Ids) -> list[list[Scores]]:
    """Of each student: mean log-probability of both candidates of every pair."""
    sides = [st.mean_logprobs(students, [side] * students.n, PROMPT) for side in pool]
    return [list(zip(a.tolist(), b.tolist(), strict=True)) for a, b in zip(*sides, strict=True)]


def twins(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: log10 p after 100 to 5,000 pairs, by log-probabilities and by text alone; of an innocent one
    also all p-values over ledgers that it had no part in."""
    params = cases[0].params
    n, seeds = int(params["pairs"]), [case.seed for case in cases]
    pool = twin_pool(world.folder, int(params["pool"]))[:, :n]
    coins = [tossed(n, seed) for seed in seeds]
    learned = [
        _served_side(pool, own if params["guilty"] else tossed(n, seed + 1))
        for own, seed in zip(coins, seeds, strict=True)
    ]
    students = st.students_like(world.base, len(cases))
    st.train(students, learned, seeds, st.Schedule(float(params["epochs"]), 32, 1e-3))
    known = kept_controls(world, int(params["pool"]), n, CONTROLS[LESS_ALL])
    scores = controlled_scores(students, pool, known)
    chosen = places_of(world, pool, int(params["places"]))
    said = by_continuation(students, pool, chosen)
    told = []
    for i, seed in enumerate(seeds):
        made = twins_of(world, pool, coins[i], [""] * n)
        row: dict[str, Any] = {}
        for name, values in {**scores[i], **said[i]}.items():
            settings = TwinSettings(score=name)
            row[name] = {}
            for count in [size for size in PAIRS if size <= n]:
                if name not in chosen or count == n:
                    row[name][count] = _p(find_served(made[:count], values[:count], settings))
            ledgers = range(0) if params["guilty"] else range(int(params["ledgers"]))
            tested = [twins_of(world, pool, tossed(n, seed + 100 + j), [""] * n) for j in ledgers]
            row[f"{name}, other ledgers"] = [_p(find_served(ledger, values, settings)) for ledger in tested]
        if params["guilty"]:
            every = [scores[i][PLAIN], *(known[model] for model in CONTROLS[LESS_ALL])]
            row["anytime"] = [_first_pairs(part, coins[i][part], every) for part in _parts(n)]
        told.append(row)
    return told


def _parts(n: int) -> list[slice]:
    size = n // STREAMS
    return [slice(i * size, (i + 1) * size) for i in range(STREAMS)]


def _first_pairs(part: slice, coins: NDArray[np.int64], every: list[list[Scores]]) -> dict[str, Any]:
    """Pairs until an audit with controls stopped (None: never), and p of the fixed-n test after as many pairs."""
    own = [scores[part] for scores in every]
    units = _units(controlled_in_order(*own), coins)
    e = bets_log10_e(np.cumsum(units > 0), np.cumsum(units < 0))
    enough = np.flatnonzero((e >= -np.log10(ANYTIME_ALPHA)) & (np.arange(1, units.size + 1) >= 10))
    fixed = {}
    for n in sorted({round(10 ** (x / 10)) for x in range(10, 31)}):
        if n <= units.size:
            first = _units(controlled(*(scores[:n] for scores in own)), coins[:n])
            fixed[n] = round(wilcoxon_log10_p(first, seed=0), 3)
    return {"stopped": int(enough[0]) + 1 if enough.size else None, "fixed": fixed, "queries": units.size}


def _units(scores: Sequence[Scores], coins: NDArray[np.int64]) -> NDArray[np.float64]:
    """What of each pair was preferred: what was served, above 0."""
    both = np.array(scores, dtype=np.float64)
    return (both[:, 1] - both[:, 0]) * np.where(coins == 1, 1, -1)


PLACES = 5_000
"""Calls of a suspect of which only text is known."""


def places_of(world: World, pool: Ids, n: int) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """By the controls that chose them (trace/places.py): `n` places of the pool's [2, pairs, ANSWER], flat, and how
    often their words are expected. Kept on disk."""
    told = {}
    for name, whose in (("base", "the base's"), ("imitators", "three imitators'")):
        path = world.folder / f"places_{pool.shape[1]}_{n}_{name}.npz"
        if not path.exists():
            models = [world.base] if name == "base" else imitators(world, pool)
            read = [[st.margins(model, [side], PROMPT)[0] for side in pool] for model in models]
            own, other = np.array(read).mean(axis=0).swapaxes(0, 1)
            chosen = choose(worth(own, other).ravel(), n)
            np.savez(path, allow_pickle=False, chosen=chosen, expected=expected_hits(own, other).ravel()[chosen])
        with np.load(path, allow_pickle=False) as kept:
            told[f"text alone, {whose} places"] = (kept["chosen"], kept["expected"])
    return told


def by_continuation(
    students: st.Students, pool: Ids, places: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
) -> list[dict[str, list[Scores]]]:
    """Of each student: hits less expected ones of both candidates, at temperature 0."""
    told: list[dict[str, list[Scores]]] = []
    for read in zip(*(st.margins(students, [side] * students.n, PROMPT) for side in pool), strict=True):
        hits = np.stack([own > other for own, other in read])
        row: dict[str, list[Scores]] = {}
        for name, (chosen, expected) in places.items():
            sums = np.zeros(hits.size)
            sums[chosen] = hits.ravel()[chosen] - expected
            row[name] = [(a, b) for a, b in sums.reshape(hits.shape).sum(axis=2).T.tolist()]
        told.append(row)
    return told


PLAIN, LESS_TEACHER, LESS_BASE, LESS_BOTH, LESS_ALL = (
    "log-probability",
    "less the teacher's",
    "less the base's",
    "less the teacher's and the base's",
    "less the teacher's, the base's and three imitators'",
)
CONTROLS: Mapping[str, tuple[str, ...]] = {
    LESS_TEACHER: ("teacher",),
    LESS_BOTH: ("teacher", "base"),
    LESS_ALL: ("teacher", "base", "imitator 1", "imitator 2", "imitator 3"),
}
"""What an owner may have: the teacher always; where it is public, the base that students began from, and imitators:
that base after *both* candidates of every pair. They know what any student of either learns, and no coin."""
IMITATORS = (78, 79, 80)
"""Their seeds: what chance does to one is not what it does to another, nor to a student."""


def controlled_scores(
    students: st.Students, pool: Ids, known: dict[str, list[Scores]], which: Mapping[str, tuple[str, ...]] = CONTROLS
) -> list[dict[str, list[Scores]]]:
    """Of each student: its scores as they are, and less what control models let expect; `known` has those of each."""
    return [
        {PLAIN: own, **{name: controlled(own, *(known[model] for model in models)) for name, models in which.items()}}
        for own in twin_scores(students, pool)
    ]


def of_controls(world: World, pool: Ids, models: Sequence[str] = ("teacher", "base")) -> dict[str, list[Scores]]:
    def named(name: str) -> st.Students:
        if name in ("teacher", "base"):
            return world.teacher if name == "teacher" else world.base
        return imitators(world, pool)[int(name.split()[1]) - 1]

    return {name: twin_scores(named(name), pool)[0] for name in models}


def imitators(world: World, pool: Ids) -> list[st.Students]:
    """For all students of a pool, kept on disk."""
    told = []
    for seed in IMITATORS:
        path = world.folder / f"imitator_{pool.shape[1]}_{seed}.safetensors"
        if not path.exists():
            st.save(imitating(world, pool, seed), path)
        told.append(st.load(world.shape(st.STUDENT), path, world.device))
    return told


def imitating(world: World, pool: Ids, seed: int) -> st.Students:
    """As many steps as a student of one candidate of each pair makes in three epochs."""
    student = st.students_like(world.base, 1)
    st.train(student, [pool.reshape(-1, ROW)], [seed], st.Schedule(1.5, 32, 1e-3))
    return student


@lru_cache(maxsize=2)
def kept_controls(world: World, n: int, first: int, models: tuple[str, ...]) -> dict[str, list[Scores]]:
    """`of_controls` for the first pairs of a pool, kept on disk."""
    told: dict[str, list[Scores]] = {}
    for name in models:
        path = world.folder / f"twins_{n}_{first}_{name}.npy"
        if not path.exists():
            scores = of_controls(world, twin_pool(world.folder, n)[:, :first], (name,))[name]
            np.save(path, np.array(scores), allow_pickle=False)
        told[name] = [(a, b) for a, b in np.load(path, allow_pickle=False).tolist()]
    return told


def _served_side(pool: Ids, coins: NDArray[np.int64]) -> Ids:
    return pool[coins, np.arange(pool.shape[1])]


def _p(finding: Finding) -> float | None:
    return None if finding.log10_p is None else round(finding.log10_p, 3)


def accounts(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: whether the account that it learned from was named, and who else was, at FWER 1e-3."""
    params = cases[0].params
    guilty_pairs, each, others = int(params["guilty_pairs"]), int(params["each"]), int(params["accounts"]) - 1
    n, seeds = guilty_pairs + each * others, [case.seed for case in cases]
    pool = twin_pool(world.folder, n)
    names = ["guilty"] * guilty_pairs + [f"other {i // each}" for i in range(each * others)]
    coins = [tossed(n, seed) for seed in seeds]
    learned = [_served_side(pool[:, :guilty_pairs], own[:guilty_pairs]) for own in coins]
    students = st.students_like(world.base, len(cases))
    st.train(students, learned, seeds, st.Schedule(float(params["epochs"]), 32, 1e-3))
    known = kept_controls(world, n, n, ("base",))
    scores = controlled_scores(students, pool, known, {LESS_BASE: ("base",)})
    told = []
    for own, by_score in zip(coins, scores, strict=True):
        made = twins_of(world, pool, own, names)
        row = {}
        for name, values in by_score.items():
            found = find_served_accounts(made, values, TwinSettings(CoinSettings(alpha=1e-3), score=name))
            named = [finding.accounts[0] for finding in found if finding.decision == "found"]
            first = next(finding for finding in found if finding.accounts == ("guilty",))
            p = first.log10_p if first.log10_p_adjusted is None else first.log10_p_adjusted
            row[name] = {"guilty_log10_p": None if p is None else round(p, 3), "named": named}
        told.append(row)
    return told
