"""Reading marks that transformers made: equal g-values, exact p-values, and what is marked is found."""

import sys

import numpy as np
import pytest
import torch
from numpy.random import Generator, Philox
from scipy import stats as scipy_stats
from transformers.generation.logits_process import SynthIDTextWatermarkLogitsProcessor, WatermarkLogitsProcessor

from stillproof import stats
from stillproof.errors import ConfigError, InputError, MissingExtraError
from stillproof.watermark.kgw import green_tail_log10, read_kgw
from stillproof.watermark.reading import Law, ngrams_of, upper_tail_log10
from stillproof.watermark.synthid import g_values, ngram_hashes, read_synthid, sampling_table

VOCAB = 400
KEYS = [int(key) for key in Generator(Philox(1)).integers(-(2**62), 2**62, 12)]


def synthid(keys: list[int] = KEYS, seed: int = 0) -> SynthIDTextWatermarkLogitsProcessor:
    return SynthIDTextWatermarkLogitsProcessor(5, keys, 2**16, seed, 1024, torch.device("cpu"))


def text_of(processor: object, n: int, rows: int = 4) -> list[list[int]]:
    """Token ids drawn from random logits, passed through a marking processor of transformers."""
    rng, generator = Generator(Philox(7)), torch.Generator().manual_seed(5)
    ids = torch.from_numpy(rng.integers(0, VOCAB, (rows, 1)))
    for _ in range(n):
        scores = torch.from_numpy(rng.normal(0, 1.5, (rows, VOCAB)).astype(np.float32))
        chosen = torch.multinomial(torch.softmax(processor(ids, scores), 1), 1, generator=generator)
        ids = torch.cat([ids, chosen], 1)
    return ids[:, 1:].tolist()


def uniform_enough(p: list[float]) -> bool:
    """The share at or below each level is within three standard errors of it, or lower."""
    return all(np.mean(np.array(p) <= a) <= a + 3 * np.sqrt(a * (1 - a) / len(p)) for a in (0.01, 0.05, 0.2))


@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5])
def test_the_table_of_bits_is_torchs_own(seed: int) -> None:
    assert (sampling_table(2**16, seed) == synthid(seed=seed).sampling_table.numpy()).all()


def test_g_values_are_those_of_transformers_bit_for_bit() -> None:
    ids = Generator(Philox(2)).integers(0, 150_000, 500)
    theirs = synthid().compute_g_values(torch.from_numpy(ids)[None])[0].numpy()
    assert (g_values(np.lib.stride_tricks.sliding_window_view(ids, 5), KEYS) == theirs).all()
    assert 0.45 < theirs.mean() < 0.55


@pytest.mark.parametrize("score", ["mean", "weighted"])
def test_synthid_marks_are_found_under_their_keys_alone(score: str) -> None:
    answers = text_of(synthid(), 120)
    found = read_synthid(answers, KEYS, 5, score=score)
    assert found.decision == "found"
    assert found.log10_p < -10
    other = read_synthid(answers, [key + 1 for key in KEYS], 5, score=score)
    assert other.log10_p > -3
    assert (found.kind, found.verb, found.n) == ("design_based", "trace", other.n)


@pytest.mark.parametrize("score", ["mean", "weighted"])
def test_p_values_of_synthid_are_valid_over_keys(score: str) -> None:
    rng = Generator(Philox(3))
    # Few distinct tokens: many runs share a hash or a window, and a text like this fools counts by position.
    text = [rng.integers(0, 9, 150).tolist() for _ in range(2)]
    p = [
        10 ** read_synthid(text, rng.integers(0, 2**62, 4).tolist(), 3, score=score, table_size=2**10).log10_p
        for _ in range(2000)
    ]
    assert uniform_enough(p)
    assert 0.45 < np.mean(p) < 0.58


def test_runs_with_one_hash_are_one_tuple() -> None:
    ids = Generator(Philox(4)).integers(0, 50_000, 700).tolist()
    hashes = ngram_hashes(np.lib.stride_tricks.sliding_window_view(np.array(ids), 5)) % 2**8
    assert read_synthid([ids], KEYS, 5, table_size=2**8).n == np.unique(hashes).size < 256


@pytest.mark.parametrize(("seeding", "width"), [("lefthash", 1), ("lefthash", 3), ("selfhash", 1), ("selfhash", 3)])
def test_green_lists_of_transformers_are_found_under_their_key_alone(seeding: str, width: int) -> None:
    marker = WatermarkLogitsProcessor(VOCAB, "cpu", 0.25, 4.0, 15485863, seeding, width)
    answers = text_of(marker, 60, rows=2)
    given = {"seeding_scheme": seeding, "context_width": width}
    found = read_kgw(answers, VOCAB, **given)
    assert found.decision == "found"
    assert found.log10_p < -8
    assert read_kgw(answers, VOCAB, hashing_key=32452843, **given).log10_p > -3


@pytest.mark.parametrize(("seeding", "width"), [("lefthash", 1), ("selfhash", 3)])
def test_green_counts_are_those_of_transformers_lists_each_coin_once(seeding: str, width: int) -> None:
    marker = WatermarkLogitsProcessor(VOCAB, "cpu", seeding_scheme=seeding, context_width=width)
    ids = Generator(Philox(5)).integers(0, 60, 150)
    coins = {}
    for run in np.lib.stride_tricks.sliding_window_view(ids, max(2, width)):
        window = torch.from_numpy((run if seeding == "selfhash" else run[:-1]).copy())
        green = int(run[-1] in marker._get_greenlist_ids(window))
        coins[marker.rng.initial_seed(), int(run[-1])] = green
    found = read_kgw([ids.tolist()], VOCAB, seeding_scheme=seeding, context_width=width)
    assert found.n == len(coins) < 149
    assert found.effect.estimate == pytest.approx(sum(coins.values()) / len(coins) - 0.25)


def test_p_values_of_green_lists_are_valid_over_keys() -> None:
    rng = Generator(Philox(6))
    text = [rng.integers(0, 8, 30).tolist()]
    p = [10 ** read_kgw(text, 30, hashing_key=int(rng.integers(1, 2**40))).log10_p for _ in range(2000)]
    assert uniform_enough(p)
    assert 0.45 < np.mean(p) < 0.6


def test_small_tails_are_exact() -> None:
    coins = [Law(np.array([0.0, 1.0]), np.array([0.75, 0.25]), n) for n in (400, 600)]
    for total in (200, 260, 300, 500, 600, 999):
        exact = stats.binomial_log10_p(total, 1000, 0.25)
        assert upper_tail_log10(coins, total, step=None) == pytest.approx(exact, abs=1e-6)
    assert upper_tail_log10(coins, 1001, step=None) == -np.inf
    assert upper_tail_log10(coins, 0, step=None) == 0


def test_a_grid_makes_tails_larger_and_little_so() -> None:
    laws = [Law(np.array([0.0, w]), np.array([0.5, 0.5])) for w in np.linspace(10, 1, 18)]
    table = (np.arange(2**18)[:, None] >> np.arange(18) & 1) @ np.linspace(10, 1, 18)
    for total in (30.0, 60.0, 75.0, 98.5):
        exact = np.log10(np.mean(table >= total - 1e-9))
        assert exact - 1e-9 <= upper_tail_log10(laws, total, step=0.005) <= exact + 0.02


def test_seeds_with_several_tokens_draw_without_replacement() -> None:
    # Two seeds with three tokens each, of a vocabulary of five with two green: by counting.
    one = scipy_stats.hypergeom.pmf(np.arange(4), 5, 2, 3)
    assert green_tail_log10(4, [0, 0, 0, 2], 5, 2) == pytest.approx(np.log10(one[2] ** 2))
    assert green_tail_log10(5, [0, 0, 0, 2], 5, 2) == -np.inf


def test_runs_after_a_window_of_the_prompt_are_left_out() -> None:
    runs, positions = ngrams_of([[1, 2, 3, 4], [1, 2, 3]], [[9, 1, 2], [7]], 3)
    assert runs.tolist() == [[1, 2, 3], [2, 3, 4]]
    assert positions == 3
    with pytest.raises(InputError, match="prompts"):
        ngrams_of([[1]], [], 2)


def test_too_little_text_decides_nothing() -> None:
    for found in (read_synthid([[1, 2]], KEYS, 5), read_synthid([[1, 2, 3, 4, 5, 6]], KEYS, 5), read_kgw([[]], VOCAB)):
        assert (found.decision, found.log10_p) == ("inconclusive", None)
        assert not found.checks[0].passed


def test_parameters_that_no_marker_has_are_refused() -> None:
    for given in ({"score": "max"}, {"table_size": 1000}, {"alpha": 0.0}):
        with pytest.raises(ConfigError):
            read_synthid([list(range(60))], KEYS, 5, **given)
    for keys, length in (([], 5), ([3, 3], 5), (KEYS, 1)):
        with pytest.raises(ConfigError):
            read_synthid([list(range(60))], keys, length)
    for given in ({"greenlist_ratio": 0.0}, {"seeding_scheme": "right"}, {"context_width": 0}):
        with pytest.raises(ConfigError):
            read_kgw([list(range(60))], VOCAB, **given)
    with pytest.raises(InputError, match="vocabulary of 400"):
        read_kgw([[1, 400, 2]], VOCAB)


def test_without_torch_green_lists_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="permutations"):
        read_kgw([list(range(60))], VOCAB)
    assert read_synthid([list(range(60))], KEYS, 5).n > 20
