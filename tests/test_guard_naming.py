"""Which accounts of a found cluster are named."""

import numpy as np
import pyarrow as pa

from stillproof.guard.freezing import Frozen
from stillproof.guard.linking import Cluster
from stillproof.guard.naming import _named, accounts_of, like_the_core
from stillproof.guard.signals.view import HOUR_US


def test_strangers_of_another_pace_or_manner_are_not_like_the_core() -> None:
    rate = np.array([10.0, 11.0, 9.5, 10.5, 10.2, 0.4, 10.0])
    opening = np.array([1.0, 1.0, 0.98, 1.0, 1.0, 1.0, 0.2])
    core = np.array([True, True, True, True, False, False, False])
    assert like_the_core(rate, opening, np.ones((7, 4)), core).tolist() == [True] * 5 + [False] * 2


def test_a_core_that_is_wide_does_not_open_the_door_to_everybody() -> None:
    rate = np.array([1.0, 4.0, 16.0, 64.0, 256.0, 2000.0])
    core = np.array([True] * 5 + [False])
    assert like_the_core(rate, np.ones(6), np.ones((6, 3)), core)[5] == np.False_


def test_a_stranger_of_the_same_pace_and_another_rhythm_is_not_like_the_core() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    steady = rng.poisson(20.0, (40, 28)).astype(float)
    bursts = rng.poisson(20.0 * rng.lognormal(0, 1.2, (20, 28)) / np.exp(0.72)).astype(float)
    late = rng.poisson(20.0, (5, 28)).astype(float)
    late[:, :14] = np.nan
    counts = np.concatenate([steady, bursts, late])
    core = np.arange(65) < 30
    named = like_the_core(np.full(65, 3.0), np.ones(65), counts, core)
    assert named[:40].mean() >= 0.95
    assert named[40:60].mean() <= 0.1
    assert named[60:].all()


def log_of(counts: np.ndarray, start_h: int = 400_000) -> pa.Table:
    """Activity of one cluster: [units, hours] exchanges, all of them openings, units numbered from 1."""
    unit, hour = np.nonzero(counts)
    n = counts[unit, hour].astype(np.int64)
    return pa.table({"unit": pa.array(unit + 1, pa.uint64()), "hour": pa.array(hour + start_h), "n": n, "n_opening": n})


def frozen_of(n_units: int, frozen_h: int) -> Frozen:
    units = np.arange(1, n_units + 1, dtype=np.uint64)
    cluster = Cluster(units, np.array([7], np.uint64), "template", 1.0)
    return Frozen(0, frozen_h * HOUR_US, cluster, np.full(n_units, np.nan), np.zeros(0, np.uint64))


def test_where_the_core_is_of_several_kinds_nobody_is_named() -> None:
    rng = np.random.Generator(np.random.Philox(6))
    pool = rng.poisson(1.0, (30, 96))
    customers = rng.poisson(rng.lognormal(0, 2.0, (30, 1)) * rng.lognormal(0, 1.5, (30, 96)) / 4)
    alone = _named(frozen_of(30, 400_000), log_of(pool), 400_000 - 100, 400_096.0)
    mixed = _named(frozen_of(60, 400_000), log_of(np.concatenate([pool, customers])), 400_000 - 100, 400_096.0)
    assert alone.size >= 28
    assert mixed.size == 0


def test_without_a_core_nobody_is_named() -> None:
    assert not like_the_core(np.ones(3), np.ones(3), np.ones((3, 2)), np.zeros(3, bool)).any()


def test_without_a_log_accounts_go_by_the_digits_of_their_number() -> None:
    assert accounts_of([], [np.array([255, 1], np.uint64)]) == [[f"{1:016x}", f"{255:016x}"]]
