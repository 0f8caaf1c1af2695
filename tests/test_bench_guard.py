"""The peers that guard is measured beside: closed forms of each, and one run of the whole bench on a tiny world."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.guard import run
from bench.guard.assessment import resolvable, threshold
from bench.guard.embedding import CELLS, embed
from bench.guard.infrastructure import component_sizes
from bench.guard.median_mad import centre
from bench.guard.mmd_windows import kernel, median_distance, null_windows, squared_mmd, unlike
from bench.guard.prada import LEAST, minimum_distances, statistic
from scipy.stats import shapiro


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


# --- PRADA ----------------------------------------------------------------------------------------------------


def test_distances_are_to_the_growing_set_and_not_to_all_earlier_queries() -> None:
    # T after 4: 4. 3 lies 1 from 4 and does not enter, so that 2.5 lies 1.5 from 4 and not 0.5 from 3.
    points = np.array([[0], [4], [3], [2.5], [9]], dtype=np.float32)
    assert minimum_distances(points).tolist() == [4, 1, 1.5, 5]


def test_a_query_that_enters_moves_the_threshold_to_mean_less_deviation_and_never_down() -> None:
    # Entered: 1, then 3 (mean 2, deviation 1: T stays 1), then 8 (mean 4, deviation 2.94: T 1.06); 1.03 stays out.
    points = np.array([[0], [1], [4], [12], [13.03], [14]], dtype=np.float32)
    assert minimum_distances(points) == pytest.approx([1, 3, 8, 1.03, 2], abs=1e-5)


def test_w_is_that_of_the_distances_within_three_deviations() -> None:
    planted = rng().normal(1.0, 0.1, 300)
    spoiled = np.r_[planted, 50.0]
    near = planted[np.abs(planted - spoiled.mean()) <= 3 * spoiled.std()]
    assert statistic(spoiled) == pytest.approx(shapiro(near).statistic)
    assert statistic(spoiled) > 0.98


def test_two_sizes_of_distance_are_far_from_normal() -> None:
    assert statistic(np.r_[rng(1).normal(0.1, 0.01, 200), rng(2).normal(1.0, 0.01, 200)]) < 0.8


@pytest.mark.parametrize("distances", [np.zeros(0), np.arange(LEAST, dtype=float), np.ones(500)])
def test_too_few_or_equal_distances_are_no_attack(distances: np.ndarray) -> None:
    assert statistic(distances) == 1.0


# --- MMD ------------------------------------------------------------------------------------------------------


def test_mmd_of_two_normals_is_its_closed_form() -> None:
    # E k(x, y) = s / sqrt(s^2 + 2) exp(-d^2 / (2 (s^2 + 2))) for unit normals that lie d apart, kernel width s.
    shift, width = 1.0, 1.5
    left, right = (rng(seed).normal(at, 1, (3_000, 1)).astype(np.float32) for seed, at in ((3, 0.0), (4, shift)))
    scale = width / np.sqrt(width**2 + 2)
    expected = 2 * scale * (1 - np.exp(-(shift**2) / (2 * (width**2 + 2))))
    assert squared_mmd(left, right, width) == pytest.approx(expected, rel=0.1)


def test_mmd_of_equal_samples_is_one_of_its_permutations() -> None:
    points = rng(5).normal(size=(120, 4)).astype(np.float32)
    width = median_distance(points)
    observed = squared_mmd(points[:60], points[60:], width)
    orders = [rng(seed).permutation(120) for seed in range(100, 299)]
    null = [squared_mmd(points[order[:60]], points[order[60:]], width) for order in orders]
    assert (1 + sum(value >= observed for value in null)) / 200 > 0.05
    assert np.mean(null) == pytest.approx(0, abs=3 * np.std(null) / np.sqrt(len(null)))


def test_the_kernel_and_the_median_distance_by_hand() -> None:
    points = np.array([[0, 0], [3, 4], [0, 1]], dtype=np.float32)
    assert kernel(points, points, 5.0)[0] == pytest.approx([1, np.exp(-0.5), np.exp(-1 / 50)])
    assert median_distance(points) == pytest.approx(np.sqrt(18))


def test_benign_windows_have_the_mmd_of_their_points() -> None:
    others, pool = (rng(seed).normal(size=(40, 3)).astype(np.float32) for seed in (7, 8))
    chosen = rng(9).choice(40, 10, replace=False)
    gram, cross = kernel(others, others, 1.0), kernel(others, pool, 1.0).mean(1)
    first = null_windows(rng(9), 10, gram, cross)[0] + unlike(kernel(pool, pool, 1.0))
    assert first == pytest.approx(squared_mmd(others[chosen], pool, 1.0), abs=1e-6)


# --- closure, median and MAD, embedding -----------------------------------------------------------------------


def test_sharing_is_passed_on_and_kinds_of_value_are_kept_apart() -> None:
    pairs = [
        ("a", "network", "1"),
        ("b", "network", "1"),
        ("b", "payment", "2"),
        ("c", "payment", "2"),
        ("d", "network", "2"),
    ]
    assert component_sizes(["a", "b", "c", "d", "e"], pairs) == [3, 3, 3, 1, 1]


def test_nothing_shared_is_one_component_each() -> None:
    assert component_sizes(["a", "b"], []) == [1, 1]


def test_median_and_mad_by_hand() -> None:
    table = np.array([[1, 0, 7], [2, 0, 7], [3, 0, 7], [4, 0, 7], [100, 5, 7]], dtype=float)
    median, scale = centre(table)
    assert median.tolist() == [3, 0, 7]
    assert scale.tolist() == pytest.approx([1 / 0.6745, 1.253314, np.inf])


def test_an_embedding_has_length_one_or_none_and_knows_the_order_of_words() -> None:
    points = embed(["one two three", "One two  three", "three two one", "", None])
    assert points.shape == (5, CELLS)
    assert np.linalg.norm(points, axis=1) == pytest.approx([1, 1, 1, 0, 0])
    assert np.array_equal(points[0], points[1])
    assert not np.array_equal(points[0], points[2])


# --- thresholds, and the whole --------------------------------------------------------------------------------


def test_a_threshold_lets_through_the_share_that_was_asked_for() -> None:
    scores = rng(6).permutation(np.arange(9_999.0)).tolist()
    for rate, n in ((1e-3, 9), (1e-4, 0)):
        at_least = threshold(scores, rate)
        assert sum(score >= at_least for score in scores) == n


def test_a_rate_that_scores_cannot_resolve_is_raised() -> None:
    assert resolvable(1e-4, 99) == 0.01
    assert threshold([1.0, 3.0, 2.0], 1e-4) == np.nextafter(3.0, np.inf)


def ran(words: list[str], out: Path) -> dict[str, Any]:
    """The result, without what differs between runs."""
    assert run.main([*words, "--out", str(out)]) == 0
    result: dict[str, Any] = json.loads((out / "peers.json").read_text())
    for world in (world for row in result["rows"] for world in row["worlds"]):
        assert world.pop("seconds") > 0
    return result


def test_the_bench_runs_on_a_tiny_world_and_says_the_same_again(tmp_path: Path) -> None:
    recipe = tmp_path / "world.toml"
    recipe.write_text(
        'name = "t"\nseed = 3\ndays = 3\nn_ordinary = 40\n'
        '[[groups]]\nkind = "campaign"\nfamily = "fixed_injected_prompt"\nsize = 20\nsettings = { rate_per_day = 40 }\n'
    )
    words = ["--recipe", str(recipe), "--seeds", "1", "--honest-worlds", "2", "--work", str(tmp_path / "work")]
    told = [ran(words, tmp_path / "one"), ran([*words, "--methods", *run.PEERS], tmp_path / "two")]
    assert told[0]["rows"][1:] == told[1]["rows"]
    assert {row["method"] for row in told[0]["rows"]} == {run.OURS, *run.PEERS}
    for row in told[0]["rows"]:
        assert row["worlds"][0]["n_honest_accounts"] == 40
        assert 0 <= row["worlds"][0]["account_recall"] <= 1
    assert "| PRADA | W below 0.95 |" in (tmp_path / "one" / "peers.md").read_text()
