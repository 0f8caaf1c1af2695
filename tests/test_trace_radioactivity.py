"""Radioactivity: exact p-values, what they refuse, and what they find in students of a marked toy teacher."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, Philox
from scipy import stats as scipy_stats

from stillproof.errors import ConfigError, InputError, MismatchError
from stillproof.finding import Finding, holm
from stillproof.trace.evidence import Reading, Tuples, TupleStream, closed_tuples, open_tuples
from stillproof.trace.radioactivity import (
    AnytimeAudit,
    AuditSettings,
    Decoys,
    _cumulants,
    _mixed_log10,
    _tilts,
    decoys_of,
    e_process_log10,
    find_accounts,
    find_mark,
    rank_check,
)
from stillproof.trace.tails import gamma_log10_p, log10_p_of, weighted_log10_p
from stillproof.watermark import (
    Marker,
    MarkKey,
    Scheme,
    decoy_lanes,
    law_of,
    score_lanes,
    window_codes,
)

GREEN, GUMBEL = Scheme("green", 1), Scheme("gumbel", 1)
SCHEMES = [GREEN, GUMBEL]
SECRET = bytes(range(32))
VOCAB = 200
LEVELS = (0.01, 0.05, 0.2)

Texts = list[list[int]]


def by_kind(scheme: Scheme) -> str:
    return scheme.kind


# --- a toy world: a bigram teacher that marks, students that count its bigrams -------------------------------------


def teacher_logits(seed: int = 0) -> np.ndarray:
    return Generator(Philox(seed)).normal(0, 1.2, (VOCAB, VOCAB)).astype(np.float32)


def served(key: MarkKey | None, n: int, length: int, seed: int, account: str | None = None) -> Texts:
    """What the teacher serves: marked under a key, or plain."""
    rng, logits = Generator(Philox(seed)), teacher_logits()
    texts = rng.integers(0, VOCAB, (n, 1)).tolist()
    marker, used = Marker(key or MarkKey(Scheme("green", 8), SECRET), rng), [set() for _ in range(n)]
    accounts = None if account is None else [account] * n
    for _ in range(length):
        rows = logits[[text[-1] for text in texts]]
        contexts = texts if key is not None else [[]] * n
        for text, token in zip(texts, marker.step(rows, contexts, used, accounts).tolist(), strict=True):
            text.append(token)
    return texts


def student_of(texts: Texts, strength: float = 1.0) -> np.ndarray:
    """Next-token probabilities, [vocab, vocab], of a student that knew the teacher's language and then counted."""
    logits = teacher_logits().astype(float)
    prior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counts = np.zeros((VOCAB, VOCAB))
    for text in texts:
        np.add.at(counts, (text[:-1], text[1:]), 1.0)
    mixed = 20.0 * prior + strength * counts
    return mixed / mixed.sum(axis=1, keepdims=True)


def answers_of(student: np.ndarray, n: int, length: int, seed: int) -> Texts:
    rng = Generator(Philox(seed))
    sums = np.cumsum(student, axis=1)
    texts = rng.integers(0, VOCAB, (n, 1))
    for _ in range(length):
        draws = rng.random(n)[:, None]
        texts = np.c_[texts, np.minimum((sums[texts[:, -1]] < draws).sum(axis=1), VOCAB - 1)]
    return texts.tolist()


def reading_of(student: np.ndarray, text: list[int], *, copying: float = 0.0) -> Reading:
    """What a student expects while it reads; `copying`: how much it trusts what followed the same token before."""
    probabilities = student[text].copy()
    for i, token in enumerate(text):
        earlier = [text[j + 1] for j in range(i) if text[j] == token]
        if earlier:
            probabilities[i] *= 1 - copying
            probabilities[i, earlier[-1]] += copying
    ids = np.argsort(-probabilities, axis=1)[:, :20]
    return Reading(text, ids, np.log(np.take_along_axis(probabilities, ids, axis=1)))


def audited(tuples: Tuples, key: MarkKey, **settings: object) -> Finding:
    return find_mark(tuples, key, key.commitment, AuditSettings(**settings))


# --- tails against closed forms ------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.floats(0.0, 3.0))
def test_gamma_tail_is_scipys_where_it_does_not_underflow(n: int, ratio: float) -> None:
    expected = scipy_stats.gamma.logsf(n * ratio, n) / math.log(10)
    if expected > -250:
        assert gamma_log10_p(n * ratio, n) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 50, 5000])
def test_gamma_tail_goes_on_below_what_a_float_holds(n: int) -> None:
    # P(Gamma(n) > x) = exp(-x) x^(n-1) / (n-1)! * (1 + (n-1)/x + (n-1)(n-2)/x^2 + ...)
    x = 10.0 * n + 5000.0
    terms, term = 1.0, 1.0
    for j in range(n - 1, 0, -1):
        term *= j / x
        terms += term
    expected = -x + (n - 1) * math.log(x) - math.lgamma(n) + math.log(terms)
    assert gamma_log10_p(x, n) == pytest.approx(expected / math.log(10), rel=1e-10)
    assert gamma_log10_p(x, n) < -300


def test_gamma_tail_never_rises_with_the_sum() -> None:
    tails = [gamma_log10_p(x, 400) for x in np.linspace(0, 1500, 3001)]
    assert tails[0] == 0.0
    assert all(later <= earlier for earlier, later in pairwise(tails))


@pytest.mark.parametrize(("total", "n"), [(-1.0, 3), (1.0, 0), (math.nan, 3), (math.inf, 3)])
def test_gamma_tail_refuses_what_is_no_sum(total: float, n: int) -> None:
    with pytest.raises(InputError):
        gamma_log10_p(total, n)


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
@given(n=st.integers(1, 500), excess=st.floats(-0.2, 0.6))
def test_the_bound_for_weights_is_above_the_exact_tail_and_not_far(scheme: Scheme, n: int, excess: float) -> None:
    law = law_of(scheme)
    total = float(round(n * min(1.0, law.mean + excess))) if scheme.kind == "green" else n * (law.mean + excess)
    exact, bound = log10_p_of(total, n, None, law), weighted_log10_p(total, np.ones(n), law)
    assert exact - 1e-9 <= bound <= max(0.0, exact + 2.0)


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [1.0, -1.0], [math.inf]])
def test_weights_that_are_not_positive_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError):
        weighted_log10_p(1.0, weights, law_of(GREEN))


# --- evidence ------------------------------------------------------------------------------------------------------

texts_strategy = st.lists(st.lists(st.integers(0, 5), max_size=20), max_size=6)


@given(texts_strategy, st.integers(1, 3), st.data())
def test_closed_tuples_are_what_a_slow_loop_finds(texts: Texts, k: int, data: st.DataObject) -> None:
    prompts = [data.draw(st.lists(st.integers(0, 5), max_size=8)) for _ in texts]
    found = closed_tuples(texts, k, prompts, repeats="once")
    seen: list[tuple[tuple[int, ...], int]] = []
    for text, prompt in zip(texts, prompts, strict=True):
        in_prompt = {tuple(prompt[i : i + k]) for i in range(len(prompt) - k + 1)}
        for i in range(k, len(text)):
            pair = (tuple(text[i - k : i]), text[i])
            if pair[0] not in in_prompt and pair not in seen:
                seen.append(pair)
    codes = [int(window_codes(window, k)[0]) for window, _ in seen]
    assert found.windows.tolist() == codes
    assert found.tokens.tolist() == [token for _, token in seen]
    scorable = sum(max(0, len(text) - k) for text in texts)
    assert len(found) + found.n_repeated + found.n_in_context + found.n_filtered == scorable


@given(texts_strategy, st.integers(1, 2))
def test_a_tuple_weighs_its_share_of_what_follows_its_window(texts: Texts, k: int) -> None:
    found = closed_tuples(texts, k)
    after: dict[int, list[int]] = {}
    for text in texts:
        for code, token in zip(window_codes(text, k).tolist(), text[k:], strict=False):
            after.setdefault(code, []).append(token)
    expected = {(w, v): ts.count(v) / len(ts) for w, ts in after.items() for v in ts}
    weights = np.ones(len(found)) if found.weights is None else found.weights
    pairs = zip(found.windows.tolist(), found.tokens.tolist(), strict=True)
    assert dict(zip(pairs, weights.tolist(), strict=True)) == pytest.approx(expected)


def test_the_weight_of_a_first_meeting_is_known_before_its_token() -> None:
    stream = TupleStream(1, fading=True)
    one, two = stream.add([1, 2, 1, 3]), stream.add([1, 2, 1, 4])
    assert one.weights.tolist() == pytest.approx([1, 1, 2**-0.5])
    assert (two.tokens.tolist(), two.weights.tolist()) == ([4], pytest.approx([0.5]))


@given(texts_strategy)
def test_a_stream_gives_each_tuple_once(texts: Texts) -> None:
    stream = TupleStream(2)
    parts = [stream.add(text) for text in [*texts, *texts]]
    assert all(len(part) == 0 for part in parts[len(texts) :])
    assert sum(map(len, parts)) == len(closed_tuples(texts, 2)) == len(closed_tuples(texts, 2, repeats="once"))


def test_a_filter_is_a_set_of_windows_and_never_of_pairs() -> None:
    texts = [[1, 2, 3, 1, 4]]
    found = closed_tuples(texts, 1, windows_only=np.array([1], np.uint64))
    assert (found.windows.tolist(), found.tokens.tolist(), found.n_filtered) == ([1, 1], [2, 4], 2)
    for pairs in (np.array([[1, 2]], np.uint64), {(1, 2)}, [(1, 2)]):
        with pytest.raises(InputError, match="set of windows"):
            closed_tuples(texts, 1, windows_only=pairs)
        with pytest.raises(InputError, match="set of windows"):
            open_tuples([], 1, windows_only=pairs)


def test_prompts_and_answers_go_in_pairs() -> None:
    with pytest.raises(InputError, match="1 prompts for 2 answers"):
        closed_tuples([[1], [2]], 1, [[1]])


def reading(tokens: list[int], rows: list[dict[int, float]], start: int = 0) -> Reading:
    width = max(map(len, rows))
    ids = np.full((len(rows), width), -1)
    logprobs = np.full((len(rows), width), -np.inf)
    for i, row in enumerate(rows):
        ids[i, : len(row)], logprobs[i, : len(row)] = list(row), np.log(list(row.values()))
    return Reading(tokens, ids, logprobs, start)


def test_reading_counts_the_first_of_each_window_and_averages_over_texts() -> None:
    one = reading([7, 8, 7], [{1: 0.6, 2: 0.4}, {1: 1.0}, {3: 1.0}])
    two = reading([7], [{1: 0.2, 4: 0.8}])
    found = open_tuples([one, two], 1)
    pairs = dict(zip(zip(found.windows.tolist(), found.tokens.tolist(), strict=True), found.weights, strict=True))
    assert pairs == pytest.approx({(7, 1): 0.4, (7, 2): 0.2, (7, 4): 0.4, (8, 1): 1.0})
    assert (found.n_positions, found.n_in_context, found.n_repeated) == (4, 1, 1)


def test_a_window_that_stands_in_the_prompt_is_not_read() -> None:
    found = open_tuples([reading([7, 8, 7, 9], [{1: 1.0}] * 4, start=2)], 1)
    assert found.windows.tolist() == [9]


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), max_size=4), st.integers(1, 2), st.integers(0, 3))
def test_weights_of_a_window_sum_to_one_and_no_prediction_from_the_context_stays(
    texts: Texts, k: int, start: int
) -> None:
    found = open_tuples([reading(text, [{1: 0.5, 2: 0.5}] * len(text), start) for text in texts], k)
    sums = {int(w): float(found.weights[found.windows == w].sum()) for w in found.windows}
    assert sums == pytest.approx(dict.fromkeys(sums, 1.0))
    expected = set()
    for text in texts:
        codes = window_codes(text, k).tolist()
        expected |= {code for i, code in enumerate(codes) if i + k - 1 >= start and code not in codes[:i]}
    assert set(sums) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [({1: 0.9, 2: 0.9}, "more than 1"), ({1: 2.0}, "no log-probabilities"), ({1: math.nan}, "no log-probabilities")],
)
def test_what_is_no_distribution_is_refused(row: dict[int, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_tuples([reading([5], [row])], 1)


def test_a_candidate_listed_twice_or_rows_missing_are_refused() -> None:
    with pytest.raises(InputError, match="twice"):
        open_tuples([Reading([5], np.array([[3, 3]]), np.log([[0.1, 0.1]]))], 1)
    with pytest.raises(InputError, match="for 2 tokens"):
        open_tuples([Reading([5, 6], np.array([[3]]), np.log([[0.1]]))], 1)


# --- validity: p-values under the null -----------------------------------------------------------------------------


def template_texts() -> Texts:
    """Forms filled in: nine tokens in ten are the same from text to text."""
    rng = Generator(Philox(11))
    form = rng.integers(0, 5000, 40)
    return [np.where(rng.random(40) < 0.1, rng.integers(0, 5000, 40), form).tolist() for _ in range(200)]


def looping_texts() -> Texts:
    rng = Generator(Philox(12))
    return [(rng.integers(0, 300, 12).tolist() * 20)[:150] for _ in range(100)]


def random_texts() -> Texts:
    return Generator(Philox(13)).zipf(1.3, (60, 80)).clip(max=40_000).tolist()


def assert_uniform(p: np.ndarray, lowest: float = 0.5) -> None:
    """Valid at every level and, for exact p-values, not much too large either."""
    for a in LEVELS:
        share, error = float((p <= a).mean()), math.sqrt(a * (1 - a) / p.size)
        assert share <= a + 3.5 * error, f"p <= {a} in {share:.4f} of {p.size}"
        assert share >= lowest * a - 3.5 * error, f"p <= {a} in only {share:.4f} of {p.size}"


def p_of_keys(tuples: Tuples, scheme: Scheme, n: int = 2000) -> np.ndarray:
    sums = score_lanes(decoy_lanes(n, 99), tuples.windows, tuples.tokens, scheme, weights=tuples.weights)
    return np.array([10 ** log10_p_of(total, len(tuples), tuples.weights, law_of(scheme)) for total in sums.tolist()])


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("texts", [random_texts, template_texts, looping_texts])
@pytest.mark.parametrize("kind", ["green", "gumbel"])
def test_p_is_uniform_over_keys_on_any_text(kind: str, texts: Callable[[], Texts], k: int) -> None:
    assert_uniform(p_of_keys(closed_tuples(texts(), k, repeats="once"), Scheme(kind, k)))


@pytest.mark.parametrize("texts", [random_texts, template_texts, looping_texts])
@pytest.mark.parametrize("kind", ["green", "gumbel"])
def test_p_of_shares_is_valid_over_keys_on_any_text(kind: str, texts: Callable[[], Texts]) -> None:
    assert_uniform(p_of_keys(closed_tuples(texts(), 2), Scheme(kind, 2)), lowest=0.0)


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
def test_p_of_probabilities_is_valid_over_keys(scheme: Scheme) -> None:
    student = student_of([])
    found = open_tuples([reading_of(student, text) for text in served(None, 10, 40, 1)], 1)
    assert_uniform(p_of_keys(found, scheme), lowest=0.0)


def copied_from(prompt: list[int], rng: Generator, length: int = 60) -> list[int]:
    """An answer that quotes its prompt in runs of five, with words of its own between."""
    answer: list[int] = []
    while len(answer) < length:
        at = int(rng.integers(0, len(prompt) - 5))
        answer += [*prompt[at : at + 5], *rng.integers(0, VOCAB, 2).tolist()]
    return answer


@pytest.mark.parametrize("kind", ["green", "gumbel"])
def test_an_innocent_suspect_that_quotes_marked_prompts_has_uniform_p(kind: str) -> None:
    scheme, p, naive = Scheme(kind, 1), [], []
    for i in range(60):
        key, rng = MarkKey(scheme, bytes([i, *range(31)])), Generator(Philox(i))
        prompts = served(key, 8, 60, i)
        answers = [copied_from(prompt, rng) for prompt in prompts]
        for before, into in ((prompts, p), (None, naive)):
            found = closed_tuples(answers, 1, before, repeats="once")
            total = float(score_lanes(key.lane, found.windows, found.tokens, scheme)[0])
            into.append(10 ** log10_p_of(total, len(found), None, law_of(scheme)))
    assert scipy_stats.kstest(p, "uniform").pvalue > 1e-3
    assert np.median(naive) < 1e-4  # the trap is real: without the prompts every one of them is accused


@pytest.mark.parametrize("kind", ["green", "gumbel"])
def test_an_innocent_suspect_that_copies_marked_text_while_reading_is_not_accused(kind: str) -> None:
    scheme, z, naive = Scheme(kind, 1), [], []
    student = student_of([])
    for i in range(60):
        key = MarkKey(scheme, bytes([i, *range(31)]))
        readings = [reading_of(student, text, copying=0.9) for text in served(key, 4, 80, 100 + i)]
        found = open_tuples(readings, 1)
        law, weights = law_of(scheme), found.weights
        total = float(score_lanes(key.lane, found.windows, found.tokens, scheme, weights=weights)[0])
        z.append((total - law.mean * weights.sum()) / math.sqrt(law.variance * (weights**2).sum()))
        naive.append(naive_z(readings, key))
    assert abs(np.mean(z)) < 4 / math.sqrt(60)  # neither way: what is dropped does not depend on the tokens
    assert 0.7 < np.std(z) < 1.4
    assert np.mean(naive) > 3  # de-duplicated by pair alone, as the textbook has it


def naive_z(readings: list[Reading], key: MarkKey) -> float:
    pairs = {(t, int(i[0])) for one in readings for t, i in zip(one.tokens, one.suspect_ids, strict=True)}
    windows, tokens = np.array(sorted(pairs)).T
    law = law_of(key.scheme)
    total = float(score_lanes(key.lane, windows.astype(np.uint64), tokens, key.scheme)[0])
    return (total - law.mean * len(pairs)) / math.sqrt(law.variance * len(pairs))


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
def test_the_e_process_rarely_reaches_its_threshold_however_long_it_is_watched(scheme: Scheme) -> None:
    rng, law, n = Generator(Philox(14)), law_of(scheme), 1500
    scores = rng.random((2000, n)) < law.mean if scheme.kind == "green" else rng.exponential(1.0, (2000, n))
    sums = np.cumsum(scores, axis=1)
    paths = e_process_log10(sums, np.arange(1, n + 1), law)
    for alpha in (0.2, 0.05, 0.01):
        share = float((paths.max(axis=1) >= -math.log10(alpha)).mean())
        assert share <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 2000)


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
@pytest.mark.parametrize("texts", [random_texts, template_texts])
def test_an_audit_of_text_that_repeats_itself_rarely_alarms_at_any_answer(
    scheme: Scheme, texts: Callable[[], Texts]
) -> None:
    law, tilts, stream, lanes = (
        law_of(scheme),
        _tilts(law_of(scheme)),
        TupleStream(1, fading=True),
        decoy_lanes(2000, 7),
    )
    exponents, best = np.zeros((2000, tilts.size)), np.full(2000, -np.inf)
    for text in texts()[:60]:
        new = stream.add(text)
        sums = score_lanes(lanes, new.windows, new.tokens, scheme, weights=new.weights)
        exponents += sums[:, None] * tilts - _cumulants(tilts, new, law)
        best = np.maximum(best, _mixed_log10(exponents))
    for alpha in (0.2, 0.05, 0.01):
        assert (best >= -math.log10(alpha)).mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 2000)


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
def test_an_e_value_has_mean_one_under_the_null(scheme: Scheme) -> None:
    law, n = law_of(scheme), 12
    if scheme.kind == "green":
        totals = np.arange(n + 1)
        density = scipy_stats.binom.pmf(totals, n, law.mean)
        mean = float(density @ 10 ** e_process_log10(totals, n, law))
    else:
        totals = np.linspace(0, 300, 100_001)
        mean = float(np.trapezoid(10 ** e_process_log10(totals, n, law) * scipy_stats.gamma.pdf(totals, n), totals))
    assert mean == pytest.approx(1.0, abs=1e-3)


# --- findings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
def test_a_student_of_marked_text_is_found_from_its_text_and_an_innocent_one_is_not(scheme: Scheme) -> None:
    key = MarkKey(scheme, SECRET)
    guilty = audited(closed_tuples(answers_of(student_of(served(key, 200, 100, 21)), 60, 60, 22), 1), key)
    innocent = audited(closed_tuples(answers_of(student_of(served(None, 200, 100, 21)), 60, 60, 22), 1), key)
    assert (guilty.decision, innocent.decision) == ("found", "not_found")
    assert guilty.log10_p < -10
    assert innocent.log10_p > -3
    assert guilty.kind == "design_based"
    assert all(check.passed for check in (*guilty.checks, *innocent.checks))
    assert "learned from text that carries our key" in guilty.claim
    assert Finding.from_json(guilty.to_json()) == guilty


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
def test_more_text_does_not_weaken_the_evidence(scheme: Scheme) -> None:
    key, law = MarkKey(scheme, SECRET), law_of(scheme)
    answers = answers_of(student_of(served(key, 100, 100, 21)), 600, 60, 22)

    def log10_p(n: int, repeats: str) -> float:
        found = closed_tuples(answers[:n], 1, repeats=repeats)
        total = float(score_lanes(key.lane, found.windows, found.tokens, scheme, weights=found.weights)[0])
        return log10_p_of(total, len(found), found.weights, law)

    assert log10_p(600, "share") < log10_p(60, "share") < -10
    assert log10_p(600, "once") > log10_p(60, "once")  # why tuples are weighed


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
def test_a_student_is_found_from_its_probabilities_with_fewer_tokens(scheme: Scheme) -> None:
    key, plain = MarkKey(scheme, SECRET), served(None, 6, 60, 31)
    marked, clean = student_of(served(key, 200, 100, 32)), student_of(served(None, 200, 100, 32))
    guilty = audited(open_tuples([reading_of(marked, text) for text in plain], 1), key)
    innocent = audited(open_tuples([reading_of(clean, text) for text in plain], 1), key)
    assert (guilty.decision, innocent.decision) == ("found", "not_found")
    text = audited(closed_tuples(answers_of(marked, 6, 60, 33), 1), key)
    assert guilty.log10_p < text.log10_p
    assert "open mode" in guilty.test


def test_reading_marked_text_takes_no_rank_among_decoys() -> None:
    key = MarkKey(GREEN, SECRET)
    found = open_tuples([reading_of(student_of([]), text) for text in served(key, 6, 60, 34)], 1)
    names = [check.name for check in find_mark(found, key, key.commitment, text_is_marked=True).checks]
    assert names == ["enough_tuples", "decoy_sd"]


def test_a_key_that_marked_nothing_finds_nothing() -> None:
    answers = answers_of(student_of(served(MarkKey(GREEN, SECRET), 200, 100, 21)), 30, 60, 22)
    for i in range(3):
        assert audited(closed_tuples(answers, 1), MarkKey(GREEN, bytes([i] * 32))).decision == "not_found"


def test_sub_keys_tell_the_account() -> None:
    key = MarkKey(Scheme("green", 1, account_share=0.5), SECRET)
    student = student_of(served(key, 300, 100, 41, account="a7"))
    tuples = closed_tuples(answers_of(student, 80, 60, 42), 1)
    findings = find_accounts(tuples, key, key.commitment, [f"a{i}" for i in range(12)])
    assert [f.accounts[0] for f in findings if f.decision == "found"] == ["a7"]
    assert {f.family_n for f in findings} == {12}
    assert findings[7].log10_p_adjusted < -6
    assert find_mark(tuples, key, key.commitment).decision == "found"


def test_accounts_need_a_scheme_with_sub_keys_and_names_of_their_own() -> None:
    tuples, plain = closed_tuples(random_texts(), 1), MarkKey(GREEN, SECRET)
    with pytest.raises(InputError, match="no sub-keys"):
        find_accounts(tuples, plain, plain.commitment, ["a"])
    key = MarkKey(Scheme("green", 1, account_share=0.5), SECRET)
    for accounts in ([], ["a", "a"]):
        with pytest.raises(InputError, match="named twice"):
            find_accounts(tuples, key, key.commitment, accounts)


def test_accounts_with_too_little_text_stay_inconclusive() -> None:
    key = MarkKey(Scheme("green", 1, account_share=0.5), SECRET)
    findings = find_accounts(closed_tuples([[1, 2, 3]], 1), key, key.commitment, ["a", "b"])
    assert [(f.decision, f.log10_p, f.log10_p_adjusted) for f in findings] == [("inconclusive", None, None)] * 2


@pytest.mark.parametrize("answers", [[], [[]], [[5]], [[5, 6]], [[5, 5, 5, 5] * 100]], ids=str)
def test_too_little_text_is_inconclusive_and_has_no_p_value(answers: Texts) -> None:
    finding = audited(closed_tuples(answers, 1), MarkKey(GREEN, SECRET))
    assert (finding.decision, finding.log10_p, finding.log10_e) == ("inconclusive", None, None)
    assert [check.name for check in finding.checks if not check.passed] == ["enough_tuples"]


def test_no_reading_is_inconclusive() -> None:
    assert audited(open_tuples([], 1), MarkKey(GREEN, SECRET)).decision == "inconclusive"


def test_a_key_other_than_the_one_committed_to_is_refused() -> None:
    key, other = MarkKey(GREEN, SECRET), MarkKey(GREEN, SECRET[::-1])
    tuples = closed_tuples(random_texts(), 1)
    with pytest.raises(MismatchError, match="not the one committed to"):
        find_mark(tuples, other, key.commitment)
    with pytest.raises(MismatchError):
        AnytimeAudit(other, key.commitment)
    with pytest.raises(MismatchError):
        find_accounts(tuples, other, key.commitment, ["a"])


def test_windows_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="windows of 2 tokens"):
        audited(closed_tuples(random_texts(), 2), MarkKey(GREEN, SECRET))


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
def test_tuples_counted_twice_are_refused_by_the_spread_of_the_decoys(scheme: Scheme) -> None:
    once = closed_tuples(random_texts()[:5], 1)
    twice = Tuples(1, np.tile(once.windows, 3), np.tile(once.tokens, 3))
    finding = audited(twice, MarkKey(scheme, SECRET))
    assert (finding.decision, finding.log10_p) == ("inconclusive", None)
    assert "decoy_sd" in [check.name for check in finding.checks if not check.passed]


def test_decoys_spread_as_the_law_says_and_rank_the_key() -> None:
    tuples, key = closed_tuples(random_texts()[:10], 1), MarkKey(GREEN, SECRET)
    decoys = decoys_of(tuples, key, AuditSettings())
    assert decoys.sums.shape == (10_000,)
    assert float(decoys.z.std()) == pytest.approx(1.0, abs=0.03)
    assert Decoys(np.array([1.0, 2.0, 3.0]), 0.0, 1.0).rank(2.0) == 3
    assert decoys.rank(math.inf) == 1


def test_a_p_value_that_the_decoys_contradict_is_refused() -> None:
    decoys = Decoys(np.arange(10_000.0), 0.0, 1.0)
    assert rank_check(decoys, 20_000.0, -50.0).passed
    assert rank_check(decoys, 9_990.0, -3.0).passed
    assert rank_check(decoys, 0.0, 0.0).passed
    assert not rank_check(decoys, 9_990.0, -5.0).passed


@given(texts_strategy, st.integers(1, 3))
def test_cached_answers_and_repeated_prompts_add_nothing(texts: Texts, k: int) -> None:
    once, thrice = closed_tuples(texts, k), closed_tuples(texts * 3, k)
    assert (once.windows.tolist(), once.tokens.tolist()) == (thrice.windows.tolist(), thrice.tokens.tolist())


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"n_decoys": 9999}, {"min_tuples": 1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        AuditSettings(**settings)


@pytest.mark.parametrize("scheme", SCHEMES, ids=by_kind)
def test_an_audit_stops_as_soon_as_there_is_enough(scheme: Scheme) -> None:
    key = MarkKey(scheme, SECRET)
    answers = answers_of(student_of(served(key, 200, 100, 21)), 200, 60, 22)
    audit = AnytimeAudit(key, key.commitment)
    used = 0
    while not audit.enough:
        audit.add(answers[used])
        used += 1
    finding = audit.finding()
    assert used < len(answers)
    assert (finding.decision, finding.n) == ("found", audit.n)
    assert finding.log10_e >= 3 and finding.log10_p is None
    with pytest.raises(InputError, match="decided"):
        audit.add(answers[used])


def test_an_audit_of_an_innocent_suspect_finds_nothing() -> None:
    key = MarkKey(GUMBEL, SECRET)
    audit = AnytimeAudit(key, key.commitment)
    for answer in answers_of(student_of([]), 40, 60, 51):
        audit.add(answer)
    finding = audit.finding()
    assert finding.decision == "not_found"
    assert finding.log10_e < 1


def test_an_audit_without_answers_is_inconclusive() -> None:
    audit = AnytimeAudit(MarkKey(GREEN, SECRET), MarkKey(GREEN, SECRET).commitment)
    assert audit.log10_e == 0.0
    audit.add([3])
    finding = audit.finding()
    assert (finding.decision, finding.log10_e) == ("inconclusive", None)


def test_findings_of_several_keys_are_paid_for_together() -> None:
    tuples = closed_tuples(random_texts()[:5], 1)
    findings = [audited(tuples, MarkKey(GREEN, bytes([i] * 32)), alpha=0.05) for i in range(2)]
    adjusted = holm(findings)
    assert [f.family_n for f in adjusted] == [2, 2]
