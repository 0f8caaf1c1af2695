"""Which accounts of a found cluster are named."""

import numpy as np
import pyarrow as pa

from stillproof.guard.freezing import Frozen
from stillproof.guard.linking import Cluster
from stillproof.guard.naming import _named, accounts_of, like_the_core, one_kind
from stillproof.guard.signals.view import HOUR_US


def manner(rate: np.ndarray, active: float = 0.5, opening: float = 1.0, hours: float = 20.0) -> np.ndarray:
    """[k, 4] accounts that differ in pace alone."""
    return np.column_stack([rate, *(np.full(rate.size, value) for value in (active, opening, hours))])


def crowd(seed: int, size: int) -> np.ndarray:
    """[size, 4] customers: pace, activity, openings and hours of the day differ widely."""
    rng = np.random.Generator(np.random.Philox(seed))
    return np.column_stack(
        [rng.lognormal(0, 1.5, size), rng.beta(1, 3, size), rng.beta(1, 2, size), rng.uniform(1, 16, size)]
    )


def test_workers_on_one_queue_are_told_from_twice_as_many_strangers() -> None:
    rng = np.random.Generator(np.random.Philox(3))
    workers = manner(3.0 * rng.lognormal(0, 0.05, 40))
    kind = np.concatenate([workers, crowd(4, 80)])
    named = one_kind(kind, np.arange(120) < 100)
    assert named[:40].all()
    assert not named[40:].any()


def test_a_crowd_of_customers_has_no_kind_that_stands_apart() -> None:
    found = [one_kind(crowd(seed, 200), np.ones(200, bool)).any() for seed in range(50)]
    assert not any(found)


def test_a_spot_that_thins_out_into_the_crowd_is_no_kind() -> None:
    near = manner(3.0 * 2 ** np.linspace(-4, 4, 100))
    assert not one_kind(near, np.ones(100, bool)).any()


def test_fewer_than_eight_of_the_core_are_no_kind() -> None:
    assert not one_kind(manner(np.full(30, 3.0)), np.arange(30) < 7).any()


def test_strangers_of_another_pace_or_manner_are_not_like_the_core() -> None:
    kind = manner(np.array([10.0, 11.0, 9.5, 10.5, 10.2, 0.4, 10.0, 10.0]))
    kind[6, 2], kind[7, 3] = 0.2, 3.0
    core = np.arange(8) < 4
    assert like_the_core(kind, np.ones((8, 4)), core).tolist() == [True] * 5 + [False] * 3


def test_a_core_that_is_wide_does_not_open_the_door_to_everybody() -> None:
    rate = np.array([1.0, 4.0, 16.0, 64.0, 256.0, 2000.0])
    core = np.array([True] * 5 + [False])
    assert like_the_core(manner(rate), np.ones((6, 3)), core)[5] == np.False_


def test_a_stranger_of_the_same_pace_and_another_rhythm_is_not_like_the_core() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    steady = rng.poisson(20.0, (40, 28)).astype(float)
    bursts = rng.poisson(20.0 * rng.lognormal(0, 1.2, (20, 28)) / np.exp(0.72)).astype(float)
    late = rng.poisson(20.0, (5, 28)).astype(float)
    late[:, :14] = np.nan
    counts = np.concatenate([steady, bursts, late])
    core = np.arange(65) < 30
    named = like_the_core(manner(np.full(65, 3.0)), counts, core)
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


def pool_and_customers() -> tuple[np.ndarray, np.ndarray]:
    """[30, 96] exchanges by the hour of workers on one queue, and of as many customers."""
    rng = np.random.Generator(np.random.Philox(6))
    pool = rng.poisson(1.0, (30, 96))
    return pool, rng.poisson(rng.lognormal(0, 2.0, (30, 1)) * rng.lognormal(0, 1.5, (30, 96)) / 4)


def test_a_pool_is_named_alone_and_among_strangers_and_strangers_are_not() -> None:
    pool, customers = pool_and_customers()
    alone = _named(frozen_of(30, 400_000), log_of(pool), 400_000 - 100, 400_096.0)
    mixed = _named(frozen_of(60, 400_000), log_of(np.concatenate([pool, customers])), 400_000 - 100, 400_096.0)
    assert alone.size >= 28
    assert 27 <= mixed.size <= 30
    assert mixed.max() <= 30


def test_in_a_core_of_customers_nobody_is_named() -> None:
    _, customers = pool_and_customers()
    assert not _named(frozen_of(30, 400_000), log_of(customers), 400_000 - 100, 400_096.0).size


def test_accounts_that_a_few_fixed_hours_of_the_day_make_alike_are_not_named() -> None:
    jobs = np.zeros((30, 96), int)
    jobs[:, [3, 27, 51, 75]] = 10
    assert not _named(frozen_of(30, 400_000), log_of(jobs), 400_000 - 100, 400_096.0).size


def loose_pool(size: int) -> np.ndarray:
    """[size, 96] exchanges by the hour of workers whose paces differ by half."""
    rng = np.random.Generator(np.random.Philox(8))
    return rng.poisson(2.0 * rng.lognormal(0, 0.45, (size, 1)), (size, 96))


def test_those_who_joined_a_loose_core_later_are_named_where_nobody_else_joined() -> None:
    named = _named(frozen_of(30, 400_000), log_of(loose_pool(40)), 400_000 - 100, 400_096.0)
    assert named.size >= 38


def test_those_who_joined_a_loose_core_among_strangers_are_not_named() -> None:
    _, customers = pool_and_customers()
    together = np.concatenate([loose_pool(40), customers[:10]])
    named = _named(frozen_of(30, 400_000), log_of(together), 400_000 - 100, 400_096.0)
    assert named.size >= 27
    assert named.max() <= 30


def test_without_a_core_nobody_is_named() -> None:
    assert not like_the_core(manner(np.ones(3)), np.ones((3, 2)), np.zeros(3, bool)).any()


def test_without_a_log_accounts_go_by_the_digits_of_their_number() -> None:
    assert accounts_of([], [np.array([255, 1], np.uint64)]) == [[f"{1:016x}", f"{255:016x}"]]
