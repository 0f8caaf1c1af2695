"""Signals of clusters, on hand-made views whose answers are known."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stillproof.guard.signals import SIGNALS, View, measure, weights
from stillproof.guard.signals.view import HOUR_US

DAY_US = 24 * HOUR_US
COUNTS = (
    "n", "n_opening", "n_sampled", "n_logprobs", "n_flag0", "n_flag1", "n_flag2", "n_short_gap", "n_status_blocked",
    "response_tokens", "reasoning_tokens",
)  # fmt: skip
VARIETY = (
    "n", "n_prompts", "n_unit_prompts", "share", "top_params_share", "n_networks",
    "top_client_share", "n_borrowed",
)  # fmt: skip


def view(
    per_member_hour: list[NDArray[np.float64]],
    horizon_h: float = 168,
    counts: dict[str, float] | None = None,
    variety: dict[str, float] | None = None,
    first_us: list[NDArray[np.float64]] | None = None,
) -> View:
    """One case for each array [members, hours] of exchanges; other counts as shares of those."""
    sizes = [array.shape[0] for array in per_member_hour]
    member_case = np.repeat(np.arange(len(sizes)), sizes)
    member, hour, n = [], [], []
    for case, array in enumerate(per_member_hour):
        rows, columns = np.nonzero(array)
        member.append(rows + sum(sizes[:case]))
        hour.append(columns)
        n.append(array[rows, columns])
    exchanges = np.concatenate(n).astype(float)
    shares = dict.fromkeys(COUNTS, 0.0) | {"n": 1.0} | (counts or {})
    totals = np.array([array.sum() for array in per_member_hour], float)
    distinct = dict.fromkeys(VARIETY, np.nan) | (variety or {})
    return View(
        n_cases=len(sizes),
        horizon_h=np.full(len(sizes), float(horizon_h)),
        member_case=member_case,
        member_first_us=np.full(member_case.size, np.nan) if first_us is None else np.concatenate(first_us),
        member_signup_us=np.full(member_case.size, np.nan),
        row_member=np.concatenate(member),
        row_hour=np.concatenate(hour),
        counts={name: exchanges * share for name, share in shares.items()},
        variety={name: np.full(len(sizes), share) for name, share in distinct.items()} | {"n": totals},
    )


def users(seed: int, sigma: float, members: int = 100, mean: float = 40) -> NDArray[np.float64]:
    """[members, 168] Poisson exchanges at log-normal rates, hours uniform."""
    rng = np.random.Generator(np.random.Philox(seed))
    rates = mean * np.exp(sigma * rng.standard_normal(members) - sigma**2 / 2)
    return rng.poisson(np.repeat(rates[:, None] / 168, 168, axis=1)).astype(float)


def test_workers_on_one_queue_are_more_even_than_users_of_one_tool() -> None:
    pool, organic = SIGNALS["evenness"].of(view([users(1, 0.0), users(2, 1.2)]))
    assert pool > organic + 2


def test_evenness_counts_members_that_fell_silent() -> None:
    active = users(3, 0.0)
    half = np.vstack([active[:50], np.zeros((50, 168))])
    pool, silent = SIGNALS["evenness"].of(view([active, half]))
    assert pool > silent + 2


def test_a_handful_of_exchanges_is_no_evidence_of_evenness() -> None:
    many, few = SIGNALS["evenness"].of(view([users(4, 0.0), users(5, 0.0, members=10, mean=1)]))
    assert few < many


def test_eight_even_strangers_are_less_evidence_than_eighty() -> None:
    few, many = SIGNALS["evenness"].of(view([users(5, 0.0, members=8), users(5, 0.0, members=80)]))
    assert few < many - 0.5


def test_spacing_at_random_is_calm_and_bursts_are_not() -> None:
    spread = users(6, 0.0)
    random = 1 - np.exp(-spread.sum(1).mean() / 168 / 6)
    calm, bursts = (SIGNALS["calm"].of(view([spread], counts={"n_short_gap": share}))[0] for share in (random, 0.8))
    assert abs(calm) < 0.3
    assert bursts < -2


def test_members_that_never_sleep_cover_the_hours_and_daytime_users_do_not() -> None:
    never = users(7, 0.0)
    day = never * (np.arange(168) % 24 < 8)
    awake, asleep = SIGNALS["round_the_clock"].of(view([never, day]))
    assert awake == pytest.approx(1.0, abs=0.05)
    assert asleep < 0.7


def test_the_hours_of_a_day_are_not_told_from_less_than_a_day() -> None:
    assert np.isnan(SIGNALS["round_the_clock"].of(view([users(8, 0.0)[:, :12]], horizon_h=12))).all()


def test_runs_that_start_and_stop_together_are_in_step_and_common_daytime_is_not() -> None:
    daytime = users(9, 0.5) * (np.arange(168) % 24 < 10)
    runs = users(10, 0.5) * (np.arange(168) // 11 % 3 == 0)
    together, apart = SIGNALS["in_step"].of(view([runs, daytime]))
    assert together > 0.5
    assert abs(apart) < 0.3


def test_a_joint_start_is_seen_and_slow_adoption_is_not() -> None:
    burst = np.linspace(0, DAY_US / 2, 50)
    slow = np.linspace(0, 30 * DAY_US, 50)
    shared = view([users(11, 0.5, 50), users(12, 0.5, 50)], first_us=[burst, slow])
    together, apart = SIGNALS["joint_start"].of(shared)
    assert together == 1.0
    assert apart == pytest.approx(2 / 50, abs=0.021)


def test_unknown_start_times_are_unknown_not_zero() -> None:
    assert np.isnan(SIGNALS["joint_start"].of(view([users(13, 0.5)]))).all()


def test_a_partitioned_list_is_complementary_and_a_shared_benchmark_is_not() -> None:
    partition = {"n_prompts": 100.0, "n_unit_prompts": 100.0}
    benchmark = {"n_prompts": 10.0, "n_unit_prompts": 100.0}
    given = [SIGNALS["complementary"].of(view([users(14, 0.5)], variety=each))[0] for each in (partition, benchmark)]
    assert given == pytest.approx([1.0, 0.1])


def test_volume_is_that_of_the_median_member_and_one_heavy_account_does_not_move_it() -> None:
    counts = np.zeros((11, 168))
    counts[:, 0] = 7
    counts[0, 0] = 100_000
    assert SIGNALS["volume"].of(view([counts])) == pytest.approx([np.log2(1.5)])


def test_every_signal_gives_one_number_a_case_and_none_for_cases_without_exchanges() -> None:
    quiet = np.zeros((8, 168))
    measured = measure(view([users(15, 0.5), quiet]))
    assert set(measured) == set(SIGNALS) == set(weights())
    for name, values in measured.items():
        assert np.shape(values) == (2,), name
        assert not np.isinf(np.asarray(values, float)).any(), name


def test_a_view_without_cases_measures_nothing() -> None:
    empty = np.zeros(0, np.int64)
    nothing = View(
        n_cases=0, horizon_h=np.zeros(0), member_case=empty, member_first_us=np.zeros(0), member_signup_us=np.zeros(0),
        row_member=empty, row_hour=empty, counts=dict.fromkeys(COUNTS, np.zeros(0)),
        variety=dict.fromkeys(VARIETY, np.zeros(0)),
    )  # fmt: skip
    assert all(np.shape(values) == (0,) for values in measure(nothing).values())


def test_signals_say_who_else_shows_them_and_what_would_clear_them() -> None:
    for name, entry in SIGNALS.items():
        assert entry.honest_causes and entry.cleared_by and entry.unit, name
        assert entry.of.__doc__, name


def test_no_signal_reads_nationality_language_or_names() -> None:
    assert not {"country", "language", "nationality", "name"} & {*COUNTS, *VARIETY}


def test_a_queue_among_strangers_shows_and_customers_alone_do_not() -> None:
    pool, strangers = users(1, 0.2, members=60, mean=100), users(2, 1.2, members=60)
    many, few = users(3, 1.2, members=200), users(4, 0.2, members=8)
    queue = measure(view([pool, np.concatenate([pool, strangers]), strangers, many, few]))["one_queue"]
    assert queue[0] > 60
    assert queue[1] > 30
    assert queue[2] < 10
    assert queue[3] < 20
    assert few.shape[0] / 2 < queue[4] < queue[0] / 3


def test_a_queue_is_not_told_of_members_that_sent_nothing() -> None:
    assert np.isnan(measure(view([np.zeros((9, 5)), users(1, 0.2)]))["one_queue"][0])


def test_the_weights_are_those_that_were_fitted() -> None:
    fitted = json.loads((Path(__file__).parents[1] / "bench" / "guard" / "weights.json").read_text())["all"]
    assert weights() == fitted
