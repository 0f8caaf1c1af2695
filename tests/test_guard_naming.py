"""Which accounts of a found cluster are named."""

import numpy as np

from stillproof.guard.naming import accounts_of, like_the_core


def test_strangers_of_another_pace_or_manner_are_not_like_the_core() -> None:
    rate = np.array([10.0, 11.0, 9.5, 10.5, 10.2, 0.4, 10.0])
    opening = np.array([1.0, 1.0, 0.98, 1.0, 1.0, 1.0, 0.2])
    core = np.array([True, True, True, True, False, False, False])
    assert like_the_core(rate, opening, core).tolist() == [True] * 5 + [False] * 2


def test_a_core_that_is_wide_does_not_open_the_door_to_everybody() -> None:
    rate = np.array([1.0, 4.0, 16.0, 64.0, 256.0, 2000.0])
    core = np.array([True] * 5 + [False])
    assert like_the_core(rate, np.ones(6), core).tolist() == [False, False, True, False, False, False]


def test_without_a_core_nobody_is_named() -> None:
    assert not like_the_core(np.ones(3), np.ones(3), np.zeros(3, bool)).any()


def test_without_a_log_accounts_go_by_the_digits_of_their_number() -> None:
    assert accounts_of([], [np.array([255, 1], np.uint64)]) == [[f"{1:016x}", f"{255:016x}"]]
