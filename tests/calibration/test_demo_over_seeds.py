"""The innocent student of the demo over seeds: `make calibrate` plays its part of the story 20 times, keys anew."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.test_demo_story import TINY

from stillproof.demo import crowd, learning, models, serving, tracing
from stillproof.finding import Finding, holm
from stillproof.report import read
from stillproof.stats import binomial_log10_p

SEEDS = 20
LEVEL = 0.01


def innocents_best_log10_p(folder: Path, seed: int) -> float:
    """The smallest of its three p-values after Holm."""
    size = replace(TINY, seed=seed)
    steps: list[Callable[..., object]] = [models.make, crowd.compose, serving.serve, learning.gather]
    for step in steps:
        step(size, folder)
    learning.learn(size, folder, "innocent")
    tracing.plan(size, folder)
    for test in tracing.TESTS:
        tracing.audit(size, folder, "innocent", test)
    bundles = [tracing.Bench(folder).bundle("innocent", test) for test in tracing.TESTS]
    found = [Finding.from_json(read(bundle / "finding.json")) for bundle in bundles]
    paid = holm([finding for finding in found if finding.log10_p is not None])
    return min((finding.log10_p_adjusted or 0.0 for finding in paid), default=0.0)


def test_innocents_of_many_seeds_are_accused_no_more_often_than_the_level_says(
    tmp_path: Path, n_simulations: int
) -> None:
    if n_simulations < 10_000:
        pytest.skip("minutes a seed: only with `make calibrate`")
    best = [innocents_best_log10_p(tmp_path / str(seed), seed) for seed in range(SEEDS)]
    accused = sum(value <= math.log10(LEVEL) for value in best)
    # Of 20 innocents one may have p <= .01 by chance (18 times in a hundred); three of them once in a thousand.
    assert accused == 0 or binomial_log10_p(accused, SEEDS, LEVEL) > -3, best
