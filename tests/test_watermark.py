"""Watermarks: pseudo-random words, keys and commitments, marking, scoring."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, Philox
from scipy import stats as scipy_stats

from stillproof.errors import ConfigError, CustodyError, InputError, MismatchError
from stillproof.watermark import (
    Marker,
    MarkKey,
    RowPrf,
    Scheme,
    Stream,
    decoy_lanes,
    green_bias,
    gumbel_uniforms,
    law_of,
    philox,
    prf_words,
    score_lanes,
    top_candidates,
    verify_commitment,
    window_code,
    window_codes,
)

GREEN, GUMBEL = Scheme("green", 2), Scheme("gumbel", 2)
SECRET = bytes(range(32))

words = st.integers(0, 2**32 - 1)
tokens = st.integers(0, 2**32 - 2)


def reference_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10 as the paper writes it, one word after another in Python's own integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)
def test_philox_gives_its_published_vectors(counter: list[int], key: list[int], expected: list[int]) -> None:
    assert philox(counter, key).tolist() == expected


@given(st.lists(words, min_size=4, max_size=4), st.lists(words, min_size=2, max_size=2))
def test_philox_on_arrays_is_philox_on_integers(counter: list[int], key: list[int]) -> None:
    assert philox(counter, key).tolist() == reference_philox(counter, key)


@given(st.lists(words, min_size=4, max_size=4), st.integers(0, 2**64 - 1), tokens, st.sampled_from(Stream))
def test_a_word_is_philox_of_the_whitened_window_and_the_token(
    lane: list[int], window: int, token: int, stream: Stream
) -> None:
    counter = [(window % 2**32) ^ lane[2], (window >> 32) ^ lane[3], token, int(stream)]
    word = prf_words(lane, np.uint64(window), token, stream)
    assert int(word) == reference_philox(counter, lane[:2])[0]


@given(st.lists(words, min_size=4, max_size=4), st.integers(0, 2**64 - 1), st.lists(tokens, min_size=1, max_size=70))
def test_a_row_of_words_in_one_integer_is_the_same_words(lane: list[int], window: int, ids: list[int]) -> None:
    row, counters = RowPrf(lane, len(ids)), np.array(ids, dtype=np.int64)
    for stream in (Stream.MAIN, Stream.SECOND):
        expected = prf_words(lane, np.uint64(window), counters, stream)
        assert (row.words(window, counters, int(stream)) == expected).all()
        assert (row.uniforms(window, counters, int(stream)) == (expected.astype(float) + 0.5) / 2**32).all()


@given(st.lists(tokens, min_size=1, max_size=8))
def test_the_code_of_one_window_is_that_of_many(run: list[int]) -> None:
    assert window_code(run) == window_codes(run, len(run))[0]


@pytest.mark.parametrize("bad", [[], [-1], [3, 2**32 - 1]])
def test_one_window_of_what_is_no_token_id_is_refused(bad: list[int]) -> None:
    with pytest.raises(InputError, match="token ids"):
        window_code(bad)


def test_words_broadcast_over_keys_windows_and_tokens() -> None:
    lanes, windows, ids = decoy_lanes(3, 1), np.array([5, 6], np.uint64), np.array([7, 8])
    table = prf_words(lanes[:, None, :], windows, ids)
    assert table.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert table[i, j] == prf_words(lanes[i], windows[j], ids[j])


def test_what_was_marked_years_ago_is_scored_today() -> None:
    key = MarkKey(Scheme("green", 4, account_share=0.25), SECRET)
    window = window_codes([11, 22, 33, 44], 4)
    assert key.lane.tolist() == [2974338199, 3764319093, 3423659760, 2630787325]
    assert window.tolist() == [15273365926107772443]
    assert prf_words(key.lane, window, 55).tolist() == [1943035490]
    assert key.account_lane("a1").tolist() == [3124057365, 1996230323, 2648960424, 1756598215]
    assert decoy_lanes(2, 7).tolist() == [
        [407685168, 3374592829, 37506411, 877477262],
        [3339964855, 1807158779, 390172064, 3452226782],
    ]
    assert key.commitment == "bef4557d6bfd7e152a4ee1e4f6f1af3cfeb3e412e662daf1dd44e35ca9ad0f53"


@given(st.lists(tokens, max_size=12), st.integers(1, 6))
def test_a_window_code_belongs_to_its_run_of_tokens_alone(text: list[int], k: int) -> None:
    codes = window_codes(text, k)
    assert codes.shape == (max(0, len(text) - k + 1),)
    for i, code in enumerate(codes.tolist()):
        assert window_codes(text[i : i + k], k).tolist() == [code]


@given(st.lists(tokens, min_size=3, max_size=3), st.lists(tokens, min_size=3, max_size=3))
def test_other_runs_have_other_codes(one: list[int], other: list[int]) -> None:
    assert (window_codes(one, 3) == window_codes(other, 3)).all() == (one == other)


@pytest.mark.parametrize("bad", [[-1, 2], [1.5, 2.0], ["a", "b"], [2**32], [2**32 - 1]])
def test_what_is_no_token_id_is_refused(bad: list[object]) -> None:
    with pytest.raises(InputError, match="token ids"):
        window_codes(bad, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "red"),
        ("k", 0),
        ("k", 2.0),
        ("gamma", 0.0),
        ("delta", float("nan")),
        ("second_share", 0.6),
        ("account_share", -0.1),
        ("top", 1),
    ],
)
def test_a_scheme_out_of_range_names_the_parameter(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        Scheme(**{"kind": "green", "k": 2, field: value})


def test_generated_keys_differ_and_never_show_their_secret() -> None:
    one, other = MarkKey.generate(GREEN), MarkKey.generate(GREEN)
    assert one.secret != other.secret
    assert one.commitment != other.commitment
    assert one.secret.hex() not in repr(one) and repr(one.secret) not in repr(one)
    assert one.commitment in repr(one)


def test_a_commitment_verifies_its_key_and_no_other() -> None:
    key = MarkKey(GREEN, SECRET)
    verify_commitment(key, key.commitment)
    verify_commitment(key, f" {key.commitment.upper()}\n")
    for other in (
        MarkKey(GREEN, SECRET[::-1]),
        MarkKey(Scheme("green", 2, delta=1.0), SECRET),
        MarkKey(GUMBEL, SECRET),
    ):
        with pytest.raises(MismatchError, match="not the one committed to"):
            verify_commitment(other, key.commitment)


def test_a_whole_number_and_its_float_are_one_parameter() -> None:
    assert MarkKey(Scheme("green", 2, delta=2), SECRET).commitment == MarkKey(GREEN, SECRET).commitment


def test_another_scheme_or_account_is_another_lane() -> None:
    key = MarkKey(GREEN, SECRET)
    lanes = [
        key.lane,
        MarkKey(Scheme("green", 3), SECRET).lane,
        MarkKey(GREEN, SECRET[::-1]).lane,
        key.account_lane("a"),
        key.account_lane("b"),
    ]
    assert len({tuple(lane.tolist()) for lane in lanes}) == len(lanes)
    with pytest.raises(CustodyError, match="without an account"):
        key.account_lane("")


def test_a_key_comes_back_from_json() -> None:
    key = MarkKey.generate(Scheme("gumbel", 4, account_share=0.25))
    back = MarkKey.from_json(json.loads(json.dumps(key.to_json())))
    assert (back.scheme, back.secret, back.commitment) == (key.scheme, key.secret, key.commitment)


def test_a_key_that_was_changed_on_disk_is_refused() -> None:
    row = MarkKey(GREEN, SECRET).to_json()
    for broken in (
        {**row, "secret": "00" * 31},
        {**row, "secret": "no hex"},
        {**row, "scheme": {"kind": "green", "k": 2}},
        {"scheme": row["scheme"]},
        {**row, "secret": None},
    ):
        with pytest.raises(CustodyError):
            MarkKey.from_json(broken)
    with pytest.raises(MismatchError):
        MarkKey.from_json({**row, "secret": "00" * 32})


def test_a_broken_key_file_does_not_quote_the_secret() -> None:
    row = {**MarkKey(GREEN, SECRET).to_json(), "secret": SECRET.hex() + "zz"}
    with pytest.raises(CustodyError) as caught:
        MarkKey.from_json(row)
    assert SECRET.hex() not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_declared_share_of_windows_carries_sub_keys() -> None:
    windows = np.arange(20_000, dtype=np.uint64)
    assert not MarkKey(GREEN, SECRET).for_account(windows).any()
    chosen = MarkKey(Scheme("green", 2, account_share=0.25), SECRET).for_account(windows)
    assert scipy_stats.binomtest(int(chosen.sum()), chosen.size, 0.25).pvalue > 1e-3


def test_decoys_are_uniform_distinct_and_the_same_for_a_seed() -> None:
    lanes = decoy_lanes(10_000, 3)
    assert (lanes == decoy_lanes(10_000, 3)).all()
    assert (lanes[:10] == decoy_lanes(10, 3)).all()
    assert not (lanes == decoy_lanes(10_000, 4)).any(axis=1).any()
    assert np.unique(lanes, axis=0).shape == (10_000, 4)
    assert scipy_stats.kstest(lanes.ravel() / 2**32, "uniform").pvalue > 1e-3


def test_words_of_one_window_and_of_one_token_are_uniform() -> None:
    lane, ids = MarkKey(GREEN, SECRET).lane, np.arange(20_000)
    for table in (prf_words(lane, np.uint64(5), ids), prf_words(lane, ids.astype(np.uint64), 5)):
        assert scipy_stats.kstest(table / 2**32, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("scheme", [GREEN, GUMBEL], ids=lambda scheme: scheme.kind)
def test_scores_over_random_keys_have_their_law(scheme: Scheme) -> None:
    windows, ids = np.arange(300, dtype=np.uint64), np.arange(300) % 7
    sums, law = score_lanes(decoy_lanes(4000, 1), windows, ids, scheme), law_of(scheme)
    z = (sums - 300 * law.mean) / np.sqrt(300 * law.variance)
    assert abs(z.mean()) < 4 / np.sqrt(4000)
    assert abs(z.std() - 1) < 0.05


@pytest.mark.parametrize("scheme", [GREEN, GUMBEL], ids=lambda scheme: scheme.kind)
@pytest.mark.parametrize("n", [0, 1, 100, 20_000])
def test_a_sum_of_scores_is_the_sum_of_the_tuples_own(scheme: Scheme, n: int) -> None:
    rng = Generator(Philox(4))
    windows, ids, weights = rng.integers(0, 2**63, n).astype(np.uint64), rng.integers(0, 99, n), rng.random(n)
    lanes = decoy_lanes(3, 2)
    u = (prf_words(lanes[:, None, :], windows, ids).astype(float) + 0.5) / 2**32
    each = (u < scheme.gamma).astype(float) if scheme.kind == "green" else -np.log1p(-u)
    assert score_lanes(lanes, windows, ids, scheme) == pytest.approx(each.sum(axis=1), rel=1e-6)
    assert score_lanes(lanes, windows, ids, scheme, weights=weights) == pytest.approx(each @ weights, rel=1e-6)


def test_scoring_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(InputError):
        score_lanes(decoy_lanes(1, 1), np.zeros(3, np.uint64), np.zeros(2, np.int64), GREEN)


@given(st.integers(1, 5), st.integers(1, 700), st.integers(1, 80), st.integers(0, 99))
def test_top_candidates_are_the_largest_logits(rows: int, vocab: int, m: int, seed: int) -> None:
    # Few distinct values, so that ties occur.
    logits = Generator(Philox(seed)).integers(0, 50, (rows, vocab)).astype(np.float32)
    found = top_candidates(logits, m)
    m = min(m, vocab)
    assert found.shape == (rows, m)
    for row, ids in zip(logits, found, strict=True):
        assert np.unique(ids).size == m
        assert (np.sort(row[ids]) == np.sort(row)[vocab - m :]).all()


def test_green_bias_is_delta_on_the_keyed_share() -> None:
    key, windows = MarkKey(GREEN, SECRET), np.arange(400, dtype=np.uint64)
    bias = green_bias(key.lane, windows, np.tile(np.arange(50), (400, 1)), GREEN)
    assert set(np.unique(bias)) == {0.0, GREEN.delta}
    assert scipy_stats.binomtest(int((bias > 0).sum()), bias.size, GREEN.gamma).pvalue > 1e-3


def test_the_second_key_has_uniforms_of_its_own() -> None:
    key, windows = MarkKey(GUMBEL, SECRET), np.zeros(2, np.uint64)
    first, second = gumbel_uniforms(key.lane, windows, np.tile(np.arange(9), (2, 1)), np.array([False, True]))
    assert (first == gumbel_uniforms(key.lane, windows, np.tile(np.arange(9), (2, 1)))[0]).all()
    assert not (first == second).any()


def drawn(scheme: Scheme, contexts: list[list[int]], logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    marker = Marker(MarkKey(scheme, SECRET), Generator(Philox(5)), temperature=temperature)
    n = len(contexts)
    return marker.step(np.tile(logits, (n, 1)), contexts, [set() for _ in range(n)])


@pytest.mark.parametrize("top", [8, 64])
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_gumbel_marks_leave_the_distribution_as_it_was(top: int, temperature: float) -> None:
    logits = Generator(Philox(6)).normal(0, 1, 40).astype(np.float32)
    contexts = [[i, i + 1] for i in range(20_000)]
    ids = drawn(Scheme("gumbel", 2, top=top), contexts, logits, temperature)
    expected = np.exp(logits.astype(float) / temperature)
    counts = np.bincount(ids, minlength=40)
    assert scipy_stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-3


def test_over_keys_a_gumbel_mark_is_the_softmax() -> None:
    # One window, one text so far, 4,000 keys: what a student of many keys would learn is the teacher, and no key.
    logits = Generator(Philox(12)).normal(0, 1.5, (1, 12)).astype(np.float32)
    rng, counts = Generator(Philox(13)), np.zeros(12)
    for _ in range(4000):
        marker = Marker(MarkKey(Scheme("gumbel", 2, top=6), rng.bytes(32)), rng, temperature=0.8)
        counts[marker.step(logits, [[3, 4]], [set()])[0]] += 1
    expected = np.exp(logits[0].astype(float) / 0.8)
    assert scipy_stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-3


@pytest.mark.parametrize("scheme", [GREEN, GUMBEL, Scheme("gumbel", 2, account_share=0.5)], ids=str)
def test_one_request_alone_is_drawn_as_in_a_batch(scheme: Scheme) -> None:
    key, logits = MarkKey(scheme, SECRET), Generator(Philox(14)).normal(0, 3, (300, 90)).astype(np.float32)
    drawn_alone, drawn_twice = [], []
    for i, row in enumerate(logits):
        one, two = Marker(key, Generator(Philox(i))), Marker(key, Repeating(i))
        accounts = ["a"] if scheme.account_share else None
        drawn_alone += one.step(row[None], [[i, 7]], [set()], accounts).tolist()
        both = two.step(np.stack([row, row]), [[i, 7]] * 2, [set(), set()], accounts and ["a", "a"])
        assert both[0] == both[1]
        drawn_twice.append(int(both[0]))
    assert drawn_alone == drawn_twice


class Repeating(Generator):
    """Gives both requests of a batch the uniforms that one alone would have."""

    def __init__(self, seed: int) -> None:
        super().__init__(Philox(seed))

    def random(self, size: tuple[int, int]) -> np.ndarray:  # pyrefly: ignore[bad-override]
        return np.repeat(super().random((size[0], 1)), size[1], axis=1)


def test_green_marks_spare_the_windows_they_are_told_of() -> None:
    key, logits = MarkKey(Scheme("green", 1, delta=20.0, top=50), SECRET), np.zeros((400, 50), np.float32)
    marker = Marker(key, Generator(Philox(15)))
    ids = np.tile(np.arange(50), (1, 1))
    green = np.flatnonzero(green_bias(key.lane, np.array([9], np.uint64), ids, key.scheme)[0] > 0)
    assert np.isin(marker.step(logits, [[9]] * 400, [set() for _ in range(400)]), green).all()
    spared = np.isin(marker.step(logits, [[9]] * 400, [{9} for _ in range(400)]), green).mean()
    assert spared == pytest.approx(green.size / 50, abs=0.09)


def test_green_marks_favour_green_tokens_and_leave_the_share_of_the_rest_lower() -> None:
    logits, contexts = np.zeros(100, np.float32), [[i, i + 1] for i in range(4000)]
    key = MarkKey(Scheme("green", 2, top=50), SECRET)
    ids = drawn(key.scheme, contexts, logits)
    marked = top_candidates(logits[None], 50)[0]
    windows = np.array([window_codes(context, 2)[0] for context in contexts])
    inside = np.isin(ids, marked)
    green = score_lanes(key.lane, windows[inside], ids[inside], key.scheme)[0] / inside.sum()
    boost = np.exp(2.0)
    assert green == pytest.approx(0.25 * boost / (0.25 * boost + 0.75), abs=0.03)
    assert inside.mean() == pytest.approx((0.25 * boost + 0.75) / (0.25 * boost + 1.75), abs=0.03)


def test_a_window_used_in_the_request_is_sampled_without_the_mark() -> None:
    key, logits = MarkKey(Scheme("gumbel", 1, second_share=0.0), SECRET), np.zeros((300, 50), np.float32)
    marker = Marker(key, Generator(Philox(7)))
    used: list[set[int]] = [set() for _ in range(300)]
    first = marker.step(logits, [[9]] * 300, used)
    again = marker.step(logits, [[9]] * 300, used)
    assert np.unique(first).size == 1
    assert np.unique(again).size > 30
    assert used == [{9}] * 300


def test_without_enough_context_nothing_is_marked() -> None:
    ids = drawn(Scheme("gumbel", 3, second_share=0.0), [[1, 2]] * 300, np.zeros(50, np.float32))
    assert np.unique(ids).size > 30


def test_the_second_key_gives_one_prompt_more_than_one_answer() -> None:
    contexts, logits = [[1, 2]] * 2000, np.zeros(50, np.float32)
    single = drawn(Scheme("gumbel", 2, second_share=0.0), contexts, logits)
    dual = drawn(Scheme("gumbel", 2, second_share=0.2), contexts, logits)
    assert np.unique(single).size == 1
    values, counts = np.unique(dual, return_counts=True)
    assert values.size == 2
    assert scipy_stats.binomtest(int(counts.min()), 2000, 0.2).pvalue > 1e-3


def test_windows_of_accounts_are_marked_with_their_sub_keys() -> None:
    scheme = Scheme("gumbel", 1, second_share=0.0, account_share=0.5, top=200)
    key, n = MarkKey(scheme, SECRET), 400
    contexts, logits = [[i] for i in range(n)], np.zeros((n, 200), np.float32)
    windows = np.arange(n, dtype=np.uint64)
    chosen = {
        account: Marker(key, Generator(Philox(8))).step(logits, contexts, [set() for _ in range(n)], [account] * n)
        for account in ("a", "b")
    }
    own = key.for_account(windows)
    assert (chosen["a"][~own] == chosen["b"][~own]).all()
    assert (chosen["a"][own] == chosen["b"][own]).mean() < 0.05
    right = score_lanes(key.account_lane("a"), windows[own], chosen["a"][own], scheme)[0] / own.sum()
    wrong = score_lanes(key.account_lane("b"), windows[own], chosen["a"][own], scheme)[0] / own.sum()
    assert right > 3 and wrong < 1.3


def test_nothing_is_marked_at_temperature_zero() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        Marker(MarkKey(GREEN, SECRET), Generator(Philox(1)), temperature=0.0)


def test_the_sampler_refuses_what_does_not_fit() -> None:
    marker = Marker(MarkKey(GREEN, SECRET), Generator(Philox(1)))
    with pytest.raises(InputError, match="contexts"):
        marker.step(np.zeros((2, 9)), [[1, 2]], [set()])
    with pytest.raises(InputError, match="account"):
        marker.step(np.zeros((1, 9)), [[1, 2]], [set()], ["a"])
    with pytest.raises(InputError, match="finite"):
        marker.step(np.full((1, 9), -np.inf), [[1, 2]], [set()])


def test_masked_tokens_are_never_served() -> None:
    logits = np.full(200, -np.inf, np.float32)
    logits[[3, 150]] = 0.0
    for scheme in (GREEN, GUMBEL):
        assert set(drawn(scheme, [[i, i] for i in range(200)], logits).tolist()) == {3, 150}


def test_one_seed_marks_the_same_text_again() -> None:
    logits, contexts = np.zeros(300, np.float32), [[i, 2] for i in range(50)]
    for scheme in (GREEN, GUMBEL):
        assert (drawn(scheme, contexts, logits) == drawn(scheme, contexts, logits)).all()
