"""Validity: how often are students accused that learned nothing from the key?

`null_keys` (V1a): innocent students, each under thousands of keys that never marked anything.
`null_models` (V1b): the same kind of students, each under the true key of corpora that it never saw, text of which it
is given to read or to go on from: random keys are null for everybody and cannot show a student that copies.
`null_stops`: audits of innocent students that stop as soon as the evidence is enough.

A third of the students learned real text, a third unmarked answers of the teacher that marked the corpora, and a third
its answers marked under a key of another owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from bench.trace import students as st
from bench.trace import texts
from bench.trace.jobs import Case
from bench.trace.many_keys import sums_under
from bench.trace.world import PROMPT, ROW, World, key_of, served
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from stillproof.device import best_device
from stillproof.trace.evidence import Tuples, TupleStream, closed_tuples, open_tuples
from stillproof.trace.radioactivity import AuditSettings, _cumulants, _mixed_log10, _tilts, log10_p_of
from stillproof.watermark import Law, Scheme, decoy_lanes, law_of, window_codes

Ids = NDArray[np.int64]
Reals = NDArray[np.float64]

LEVELS = (1e-2, 1e-3, 1e-5)
SCHEMES = {"green k1": Scheme("green", 1), "gumbel k2": Scheme("gumbel", 2)}
ORIGINS = ("real", "teacher", "other key")
TRAINED_ROWS = 800
N_ANSWERS, N_READ = 48, 12
"""A student: 2,300 tokens written, 760 positions read. Small, since thousands of keys are tried on each."""


OTHER_KEYS = 4
"""Of each scheme, keys of other owners."""


def innocents(world: World, cases: Sequence[Case]) -> tuple[st.Students, list[str]]:
    """One innocent student a case, of a kind of text, and what each learned from. The same students serve all
    experiments and marks: what is random under the null is the keys, and each student is trained once."""
    kind, n = str(cases[0].params.get("kind", "prose")), int(cases[0].params.get("rows", TRAINED_ROWS))
    numbers = [case.number for case in cases]
    paths = [world.folder / "innocents" / f"{kind}_{n}_{number:04d}.safetensors" for number in numbers]
    missing = [number for number, path in zip(numbers, paths, strict=True) if not path.exists()]
    if missing:
        seeds = [_seed_of(kind, number) for number in missing]
        students = st.Students(world.shape(st.INNOCENT), seeds).to(world.device or best_device())
        st.train(students, [_learned(world, kind, number, n) for number in missing], seeds, st.Schedule(2.0, 32, 3e-3))
        for place, number in enumerate(missing):
            st.save(st.one_of(students, place), paths[numbers.index(number)])
    known = [st.load(world.shape(st.INNOCENT), path, world.device) for path in paths]
    return st.beside(known), [_origin(kind, number) for number in numbers]


def _seed_of(kind: str, number: int) -> int:
    return int.from_bytes(sha256(f"innocent/{kind}/{number}".encode()).digest()[:4])


def _origin(kind: str, number: int) -> str:
    return ORIGINS[number % 3] if kind == "prose" else "real"


def _learned(world: World, kind: str, number: int, n: int) -> Ids:
    """What an innocent student learns, rows [n, ROW]."""
    seed, origin = _seed_of(kind, number), _origin(kind, number)
    if origin == "real":
        return texts.rows_of(world.part(kind, "learn"), n, ROW, seed)
    rng = Generator(Philox(seed))
    if origin == "teacher":
        return world.plain[rng.integers(0, len(world.plain) // 2, size=n)]
    pool = _of_other_keys(world, number % (2 * OTHER_KEYS), 3 * n // 2)
    return pool[rng.integers(0, len(pool), size=n)]


@lru_cache(maxsize=2 * OTHER_KEYS)
def _of_other_keys(world: World, number: int, n: int) -> Ids:
    """What the teacher answered under another owner's key, `n` rows: more than a student learns, so that no two learn
    the same."""
    path = world.folder / f"other_key_{number}_{n}.npz"
    if not path.exists():
        key, seed = key_of(list(SCHEMES.values())[number % 2], 10_000_000 + number), 60_000 + number
        rows = served(world, world.prompts("serve", n, seed), key, seed)
        np.savez_compressed(path, allow_pickle=False, rows=rows.astype(np.uint16))
    with np.load(path, allow_pickle=False) as kept:
        return kept["rows"].astype(np.int64)


def null_keys(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: how many keys give p at or below each level, by mode and scheme."""
    students, origins = innocents(world, cases)
    kind, seeds = str(cases[0].params.get("kind", "prose")), [case.seed for case in cases]
    prompts = [world.prompts("audit", N_ANSWERS, seed, kind) for seed in seeds]
    written = st.answers(students, prompts, ROW - PROMPT, seeds)
    read = [texts.rows_of(world.part(kind, "audit"), N_READ, ROW, seed + 1) for seed in seeds]
    expected = st.expectations(students, read)
    told: list[dict[str, Any]] = []
    for i, case in enumerate(cases):
        lanes = decoy_lanes(int(case.params["keys"]), case.seed)
        row: dict[str, Any] = {"origin": origins[i], "keys": len(lanes)}
        for name, scheme in SCHEMES.items():
            for mode, tuples in _three_modes(written[i], prompts[i], st.readings(read[i], expected[i]), scheme.k):
                row[f"{mode}, {name}"] = _false_alarms(tuples, scheme, lanes)
        told.append(row)
    return told


def _three_modes(answers: Ids, prompts: Ids, reads: list[Any], k: int) -> list[tuple[str, Tuples]]:
    return [
        ("closed once", closed_tuples(answers, k, prompts, repeats="once")),
        ("closed share", closed_tuples(answers, k, prompts)),
        ("open", open_tuples(reads, k)),
    ]


def _false_alarms(tuples: Tuples, scheme: Scheme, lanes: NDArray[np.uint64]) -> dict[str, Any]:
    if not len(tuples):
        return {"n": 0, "alarms": [0] * len(LEVELS), "z_sd": None}
    law = law_of(scheme)
    sums = sums_under(lanes, tuples.windows, tuples.tokens, scheme, weights=tuples.weights)
    weights = np.ones(len(tuples)) if tuples.weights is None else tuples.weights
    z = (sums - law.mean * weights.sum()) / np.sqrt(law.variance * (weights**2).sum())
    counts = [int((sums >= least_total(tuples, law, level)).sum()) for level in LEVELS]
    return {"n": len(tuples), "alarms": counts, "z_sd": float(np.sqrt(np.mean(z**2)))}


def least_total(tuples: Tuples, law: Law, level: float) -> float:
    """The smallest sum of scores whose analytic p is at `level` or below: p falls as the sum rises, so counting sums
    above it is counting p-values, without one search a key."""
    weights = np.ones(len(tuples)) if tuples.weights is None else tuples.weights
    mean, sd = law.mean * float(weights.sum()), float(np.sqrt(law.variance * (weights**2).sum()))
    whole = law.kind == "green" and tuples.weights is None
    low, high = mean, mean + 40 * sd + 40 * float(weights.max())
    while high - low > (0.5 if whole else 1e-7 * sd):
        middle = (low + high) / 2
        if log10_p_of(middle, len(tuples), tuples.weights, law) <= np.log10(level):
            high = middle
        else:
            low = middle
    # A count is whole, and its p is that of the count that `middle` was rounded to.
    return float(round(high)) if whole else high


# --- under the true keys of corpora that they never saw ---------------------------------------------------------

CORPUS_ROWS = 24
NAIVE = "naive: reads marked text, best guess, each tuple once"


@lru_cache(maxsize=4)
def corpora(folder: Path, name: str, n: int) -> Ids:
    """Marked rows of `n` corpora [n, CORPUS_ROWS, ROW], each under its own key; made on first use."""
    path = folder / f"corpora_{name.replace(' ', '_')}_{n}.npz"
    if not path.exists():
        world = World(folder)
        made = [
            served(world, world.prompts("serve", CORPUS_ROWS, 50_000 + i), key_of(SCHEMES[name], i), 70_000 + i)
            for i in range(n)
        ]
        np.savez_compressed(path, allow_pickle=False, rows=np.stack(made).astype(np.uint16))
    with np.load(path, allow_pickle=False) as kept:
        return kept["rows"].astype(np.int64)


def null_models(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: log10 p under the true key of every corpus, by mode. Where marked text is given, of as many
    corpora as `given` says, drawn for each student, and None of the others."""
    students, origins = innocents(world, cases)
    name, n = cases[0].group, int(cases[0].params["corpora"])
    scheme, marked = SCHEMES[name], corpora(world.folder, name, n)
    lanes = np.stack([key_of(scheme, i).lane for i in range(n)])
    seeds = [case.seed for case in cases]
    prompts = [world.prompts("audit", N_ANSWERS, seed) for seed in seeds]
    written = st.answers(students, prompts, ROW - PROMPT, seeds)
    read = [world.plain[-N_READ:]] * len(cases)
    expected = st.expectations(students, read)
    told: list[dict[str, Any]] = [{"origin": origin} for origin in origins]
    for i, row in enumerate(told):
        for mode, tuples in _three_modes(written[i], prompts[i], st.readings(read[i], expected[i]), scheme.k):
            row[f"{mode}, no mark near"] = _log10_ps(tuples, scheme, lanes)
    # The end of a marked row as a prompt: the student goes on from marked text, and copies from it.
    given = int(cases[0].params.get("given", n))
    own = [np.sort(Generator(Philox(seed)).permutation(n)[:given]) for seed in seeds]
    flat = [marked[chosen].reshape(-1, ROW) for chosen in own]
    heads = [rows[:, -PROMPT:] for rows in flat]
    went_on = st.answers(students, heads, ROW - PROMPT, [seed + 2 for seed in seeds])
    saw = st.expectations(students, flat)
    for i, row in enumerate(told):
        by_mode: dict[str, list[float | None]] = {}
        for place, j in enumerate(own[i].tolist()):
            part = slice(place * CORPUS_ROWS, (place + 1) * CORPUS_ROWS)
            reads = st.readings(flat[i][part], (saw[i][0][part], saw[i][1][part]))
            modes = [
                (f"{mode}, marked text given", t)
                for mode, t in _three_modes(went_on[i][part], heads[i][part], reads, scheme.k)
            ]
            modes.append((NAIVE, naive_tuples(flat[i][part], saw[i][0][part], scheme.k)))
            for mode, tuples in modes:
                by_mode.setdefault(mode, list[float | None]([None] * n))[j] = _log10_ps(
                    tuples, scheme, lanes[j : j + 1]
                )[0]
        row.update(by_mode)
    return told


def naive_tuples(rows: Ids, expected: Ids, k: int) -> Tuples:
    """The textbook test that accuses innocent students: the best guess at each place of marked text, each (window,
    token) once, and nothing said of what already stood in the text. A control that must fail."""
    windows = np.concatenate([window_codes(row, k) for row in rows])
    guesses = expected[:, k - 1 :, 0].ravel()
    _, first = np.unique(np.stack([windows, guesses.astype(np.uint64)]), axis=1, return_index=True)
    return Tuples(k, windows[first], guesses[first], None, "open")


def _log10_ps(tuples: Tuples, scheme: Scheme, lanes: NDArray[np.uint64]) -> list[float]:
    if not len(tuples):
        return [0.0] * len(lanes)
    law = law_of(scheme)
    sums = sums_under(lanes, tuples.windows, tuples.tokens, scheme, weights=tuples.weights)
    return [round(log10_p_of(float(total), len(tuples), tuples.weights, law), 4) for total in sums]


def two_way_interval(hits: Reals, seed: int, resamples: int = 2000) -> tuple[float, float, float]:
    """Share of hits in [students, corpora] with a 95% interval: both are resampled, so that a student that is always
    accused, or a key that always accuses, counts as one. NaN: not tried, left out. Source: Owen, The pigeonhole
    bootstrap, Annals of Applied Statistics 1, 2007, p. 386; wider than needed where cells are independent."""
    rng, tried = Generator(Philox(seed)), np.isfinite(hits)
    x, (m, n) = np.where(tried, hits, 0.0), hits.shape
    of_students = rng.multinomial(m, np.full(m, 1 / m), size=resamples).astype(np.float64)
    of_corpora = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    found, of = (np.einsum("rj,rj->r", of_students @ cells, of_corpora) for cells in (x, tried.astype(np.float64)))
    low, high = np.quantile(found / np.maximum(of, 1.0), [0.025, 0.975])
    return float(x.sum() / tried.sum()), float(low), float(high)


# --- audits that stop early -------------------------------------------------------------------------------------


def null_stops(world: World, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each student: how many audits, one a key, ever had enough evidence while its answers came in, at each alpha.

    The same sums as `AnytimeAudit`, for all keys at once; a test holds the two together.
    """
    students, origins = innocents(world, cases)
    name = cases[0].group
    scheme, n_answers, seeds = SCHEMES[name], int(cases[0].params["answers"]), [case.seed for case in cases]
    prompts = [world.prompts("audit", n_answers, seed) for seed in seeds]
    written = st.answers(students, prompts, ROW - PROMPT, seeds)
    told = []
    for i, case in enumerate(cases):
        lanes = decoy_lanes(int(case.params["keys"]), case.seed + 1)
        best = best_evidence(written[i], prompts[i], scheme, lanes)
        alarms = {str(alpha): int((best >= -np.log10(alpha)).sum()) for alpha in (0.1, 1e-2, 1e-3)}
        told.append({"origin": origins[i], "audits": len(lanes), "answers": n_answers, "alarms": alarms})
    return told


def best_evidence(answers: Ids, prompts: Ids, scheme: Scheme, lanes: NDArray[np.uint64]) -> Reals:
    """The largest log10 e that an audit under each key ever has, one look an answer, once it has tuples enough."""
    law, stream = law_of(scheme), TupleStream(scheme.k, fading=True)
    tilts = _tilts(law)
    totals, cumulants, n = np.zeros(len(lanes)), np.zeros(tilts.size), 0
    best = np.full(len(lanes), -np.inf)
    for answer, prompt in zip(answers, prompts, strict=True):
        new = stream.add(answer.tolist(), prompt.tolist())
        totals += sums_under(lanes, new.windows, new.tokens, scheme, weights=new.weights)
        cumulants, n = cumulants + _cumulants(tilts, new, law), n + len(new)
        if n >= AuditSettings().min_tuples:
            best = np.maximum(best, _mixed_log10(tilts * totals[:, None] - cumulants))
    return best
