"""Best of m: what is served keeps its law, and what was chosen shows under the key and under no other."""

import numpy as np
import pytest
from numpy.random import Generator, Philox
from scipy import stats as scipy_stats

from stillproof.errors import ConfigError, InputError
from stillproof.watermark import MarkKey, Scheme, score_lanes, window_codes
from stillproof.watermark.best_of import choose_best

SCHEME = Scheme("gumbel", 2)


def keys(n: int, scheme: Scheme = SCHEME, seed: int = 1) -> list[MarkKey]:
    rng = Generator(Philox(seed))
    return [MarkKey(scheme, rng.bytes(32)) for _ in range(n)]


def served_counts(candidates: list[list[int]], n: int = 800) -> np.ndarray:
    return np.bincount([choose_best(candidates, key).index for key in keys(n)], minlength=len(candidates))


def test_every_candidate_is_served_as_often_as_any_whatever_its_length() -> None:
    rng = Generator(Philox(2))
    candidates = [rng.integers(0, 50, n).tolist() for n in (5, 12, 40, 90)]
    assert scipy_stats.chisquare(served_counts(candidates)).pvalue > 1e-3


def test_an_answer_unlike_the_others_is_served_no_more_often_than_they() -> None:
    # Two that share all but their ends, and a third: scoring shared tuples would serve the third half the time.
    shared = list(range(100, 160))
    counts = served_counts([[*shared, 1, 2], [*shared, 3, 4], list(range(200, 262))])
    assert scipy_stats.chisquare(counts).pvalue > 1e-3


def test_equal_answers_are_served_as_often_as_they_were_drawn() -> None:
    one, other = list(range(20)), list(range(50, 70))
    counts = served_counts([one, other, one, one])
    assert counts[2] == counts[3] == 0
    assert scipy_stats.binomtest(int(counts[0]), int(counts.sum()), 0.75).pvalue > 1e-3


def test_answers_without_a_tuple_of_their_own_are_served_too() -> None:
    counts = served_counts([[1], [2, 3], list(range(30)), []])
    assert scipy_stats.chisquare(counts).pvalue > 1e-3


def answers_of(key: MarkKey | None, n: int, m: int, seed: int) -> list[list[int]]:
    rng = Generator(Philox(seed))
    drawn = [[rng.integers(0, 400, 20).tolist() for _ in range(m)] for _ in range(n)]
    return [c[choose_best(c, key).index] if key else c[0] for c in drawn]


def log_p(answers: list[list[int]], key: MarkKey) -> float:
    """p-value of the sum over distinct tuples, Gamma(n, 1) under a key that had no part."""
    pairs = {p for a in answers for p in zip(window_codes(a, 2)[:-1].tolist(), a[2:], strict=True)}
    windows = np.array([w for w, _ in pairs], dtype=np.uint64)
    tokens = np.array([t for _, t in pairs])
    total = score_lanes(key.lane, windows, tokens, key.scheme)[0]
    return float(scipy_stats.gamma.logsf(total, len(pairs)) / np.log(10))


def test_what_was_chosen_shows_under_its_key_alone() -> None:
    own, other = keys(2)
    answers = answers_of(own, 150, 4, 3)
    assert log_p(answers, own) < -12
    assert log_p(answers, other) > -3


def test_p_values_of_text_that_was_chosen_by_another_key_are_uniform() -> None:
    chosen = answers_of(keys(1)[0], 20, 3, 4)
    p = [10 ** log_p(chosen, key) for key in keys(2000, seed=9)]
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(p) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 2000)
    assert scipy_stats.kstest(p, "uniform").pvalue > 1e-3


def test_windows_of_the_prompt_have_no_say() -> None:
    key, candidates = keys(1)[0], [[1, 2, 3, 4], [1, 2, 5, 6]]
    assert choose_best(candidates, key).own_tuples == (2, 2)
    assert choose_best(candidates, key, prompt=[1, 2]).own_tuples == (1, 1)
    assert not choose_best(candidates, key, prompt=[1, 2, 3, 9, 2, 5]).marked


def test_sub_keys_choose_on_the_windows_that_carry_them() -> None:
    scheme = Scheme("gumbel", 2, account_share=0.9)
    rng = Generator(Philox(6))
    candidates = [[rng.integers(0, 400, 30).tolist() for _ in range(3)] for _ in range(60)]
    key = keys(1, scheme)[0]
    a, b = ([choose_best(c, key, account=name).index for c in candidates] for name in ("a", "b"))
    assert a == [choose_best(c, key, account="a").index for c in candidates]
    assert np.mean(np.array(a) == np.array(b)) < 0.75
    with pytest.raises(ConfigError, match="account"):
        choose_best(candidates[0], key)


def test_what_cannot_be_chosen_from_is_refused() -> None:
    key = keys(1)[0]
    with pytest.raises(ConfigError, match="kind gumbel"):
        choose_best([[1]], MarkKey(Scheme("green", 2), bytes(32)))
    for candidates in ([], [[1]] * 65, [[-1, 2]]):
        with pytest.raises(InputError):
            choose_best(candidates, key)
    assert choose_best([[1, 2, 3]], key).index == 0
