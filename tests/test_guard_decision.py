import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator, Philox

from stillproof import stats
from stillproof.errors import InputError
from stillproof.finding import Finding, log10_e
from stillproof.guard.decision import (
    DriftMonitor,
    ScoredCluster,
    decide_batch,
    decide_watch,
    false_alarms,
    resolution,
)


def cluster(name: str, e: float, n: int = 10_000, reached: float = 1.0) -> ScoredCluster:
    return ScoredCluster(name, e, 0.5, 1, n, "automated", 40, reached)


def test_tiers_follow_e_bh_at_their_own_levels() -> None:
    decided = decide_batch([cluster("a", 900), cluster("b", 20), cluster("c", 0.0), cluster("d", 300)])
    assert [one.tier for one in decided] == ["would_block", "review", "observe", "would_block"]
    assert [one.decision for one in decided] == ["found", "not_found", "not_found", "found"]
    assert decided[0].e_threshold == pytest.approx(4 / (0.05 * 2))
    assert decided[0].review_threshold == pytest.approx(4 / (0.2 * 3))


def test_clusters_that_could_not_be_scored_are_paid_for() -> None:
    assert decide_batch([cluster("a", 30)])[0].tier == "would_block"
    assert decide_batch([cluster("a", 30)], n_hypotheses=2)[0].tier == "review"
    with pytest.raises(InputError, match="no fewer hypotheses"):
        decide_batch([cluster("a", 30)] * 2, n_hypotheses=1)


def test_what_no_rank_could_have_named_is_inconclusive() -> None:
    rows = [cluster("a", 3, n=50), cluster("b", 3, n=500), cluster("c", 3, n=500, reached=0.1)]
    assert [one.decision for one in decide_batch(rows)] == ["inconclusive", "not_found", "inconclusive"]


def test_no_cluster_is_no_decision_and_a_stricter_review_is_refused() -> None:
    assert decide_batch([]) == []
    with pytest.raises(InputError, match="laxer"):
        decide_batch([], alpha=0.05, review_alpha=0.01)


@given(st.lists(st.one_of(st.sampled_from([0.0, 1.0, 40.0, 80.0]), st.floats(0, 1e6)), max_size=12))
@settings(deadline=None)
def test_every_decision_makes_a_sound_finding(e: list[float]) -> None:
    for one in decide_batch([cluster(str(i), value, n=10**9) for i, value in enumerate(e)]):
        made = Finding(
            claim="the accounts share templates more than honest clusters do",
            verb="guard",
            test="rank among honest clusters",
            kind="reference_based",
            null="honest, exchangeable with the reference",
            statistic=None,
            n=one.cluster.n_units,
            n_unit="accounts",
            decision=one.decision,
            alpha=0.05,
            log10_e=log10_e(one.cluster.e),
            e_threshold=one.e_threshold,
            n_reference=one.cluster.n_reference,
        )
        assert made.decision == ("found" if one.tier == "would_block" else "not_found")


def test_resolution_says_how_large_a_reference_a_lone_campaign_needs() -> None:
    short = resolution(500, 100, [0.5, 0.3, 0.2])
    assert not short.nameable
    assert "inconclusive" in str(short)
    assert f"{short.n_needed:,}" in str(short)
    assert resolution(short.n_needed, 100, [1.0]).nameable
    assert not resolution(short.n_needed - 1, 100, [1.0]).nameable
    assert "can be named" in str(resolution(short.n_needed, 100, [1.0]))
    early = resolution(500, 100, [0.5])
    assert early.n_needed == pytest.approx(2 * short.n_needed, rel=0.01)
    with pytest.raises(InputError):
        resolution(500, 100, [0.9, 0.9])


@given(st.integers(0, 3000), st.integers(0, 200))
@settings(deadline=None)
def test_resolution_and_decision_agree(n: int, clusters: int) -> None:
    e = stats.ladder_best(n)
    rows = [cluster("lone", e, n=n)] + [cluster(str(i), 0.0, n=n) for i in range(clusters)]
    found = decide_batch(rows)[0].decision == "found"
    assert found == resolution(n, len(rows), [1.0]).nameable


def test_false_alarms_of_batch_scans_add_up() -> None:
    month = false_alarms(30, 0.05)
    assert (month.alarmed_scans, month.any_alarm) == (pytest.approx(1.5), 1.0)
    assert false_alarms(1, 0.05).any_alarm == 0.05
    with pytest.raises(InputError):
        false_alarms(-1)


def test_drift_reopens_calibration_and_stays_reopened() -> None:
    rng = Generator(Philox(3))
    monitor = DriftMonitor(rng.normal(size=400), seed=1)
    for score in rng.normal(size=200):
        monitor.observe(score)
    assert not monitor.reopened
    for score in rng.normal(1.0, 1, size=200):
        monitor.observe(score)
    assert monitor.reopened
    for score in rng.normal(size=300):
        monitor.observe(score)
    assert monitor.reopened


def test_a_monitor_saved_between_scans_goes_on_as_if_it_never_stopped() -> None:
    rng = Generator(Philox(5))
    reference, incoming = rng.integers(0, 9, size=50), rng.integers(0, 9, size=60)
    through, saved = DriftMonitor(reference, seed=2), DriftMonitor(reference, seed=2)
    p = [through.observe(float(score)) for score in incoming]
    q = [saved.observe(float(score)) for score in incoming[:30]]
    saved = DriftMonitor.from_json(json.loads(json.dumps(saved.to_json())))
    q += [saved.observe(float(score)) for score in incoming[30:]]
    assert p == q
    assert through.log10_wealth == saved.log10_wealth
    assert (saved.n_seen, saved.reopened) == (60, through.reopened)


def test_broken_drift_input_is_an_input_error() -> None:
    with pytest.raises(InputError):
        DriftMonitor([math.nan], seed=1)
    with pytest.raises(InputError):
        DriftMonitor([1.0], seed=1).observe(math.nan)
    state = DriftMonitor([1.0], seed=1).to_json()
    for change in (
        {"bets": {}},
        {"scores": "x"},
        {"n_seen": None},
        {"bets": {"jump": 0.1, "capital": [], "log_scale": 0}},
    ):
        with pytest.raises(InputError):
            DriftMonitor.from_json({**state, **change})


def test_conformal_p_counts_ties_against_the_claim_and_groups_as_one() -> None:
    assert stats.conformal_p([3.0, 2.0, 0.0], [1.0, 2.0, 3.0]).tolist() == [0.5, 0.75, 1.0]
    assert stats.conformal_p([3.0], [3.0] * 9 + [1.0], ["a"] * 9 + ["b"]).tolist() == [2 / 3]
    assert stats.conformal_p([2.0], [3.0, 1.0, 1.0], ["a", "a", "b"]).tolist() == [1.5 / 3]
    assert stats.conformal_p([2.0], []).tolist() == [1.0]
    with pytest.raises(InputError):
        stats.conformal_p([math.nan], [1.0])
    with pytest.raises(InputError, match="one label a row"):
        stats.conformal_p([1.0], [1.0], ["a", "b"])


@given(st.integers(0, 400), st.data())
def test_the_ladder_has_mean_one_over_all_ranks(n: int, data: st.DataObject) -> None:
    e = stats.rank_e(np.arange(1, n + 2), n)
    assert e.mean() == pytest.approx(1.0)
    assert (np.diff(e) <= 0).all()
    with pytest.raises(InputError):
        stats.rank_e(data.draw(st.sampled_from([0, n + 2, math.nan])), n)


def test_horizon_evidence_never_falls_and_waits_for_what_is_not_reached() -> None:
    e = stats.horizon_e([[10.0, np.nan, np.nan], [0.0, 4.0, 8.0]], [0.5, 0.3, 0.2])
    np.testing.assert_allclose(e, [[5, 5, 5], [0, 1.2, 2.8]])
    for weights in ([0.9, 0.9, 0.0], [1.0], [-0.1, 0.5, 0.5]):
        with pytest.raises(InputError):
            stats.horizon_e([1.0, 1.0, 1.0], weights)


def test_shares_never_exceed_one_and_those_of_a_budget_are_equal() -> None:
    gamma = stats.shares(3000, budget=10)
    assert gamma[0] == gamma[9] == pytest.approx(0.09)
    assert gamma[10] == pytest.approx(0.1 * 6 / math.pi**2)
    assert 0.999 < gamma.sum() <= 1
    with pytest.raises(InputError, match="budget"):
        stats.shares(3, budget=0)


def test_each_rejection_makes_the_next_one_easier() -> None:
    gamma = stats.shares(3, budget=9)
    named, needed = stats.online_e_bh([110.0, 500.0, 3.0], gamma, 0.05)
    assert named.tolist() == [True, True, False]
    assert needed.tolist() == pytest.approx([100.0] * 3)
    alone, needed_alone = stats.online_e_bh([110.0, 0.0, 3.0], gamma, 0.05)
    assert not alone.any()
    assert needed_alone.tolist() == pytest.approx([200.0] * 3)


@given(st.lists(st.one_of(st.sampled_from([0.0, 1.0, 40.0, 80.0, 240.0]), st.floats(0, 1e6)), max_size=12))
@settings(deadline=None)
def test_online_e_bh_with_equal_shares_of_a_known_number_is_e_bh(e: list[float]) -> None:
    batch, threshold = stats.e_bh(e, 0.05)
    online, needed = stats.online_e_bh(e, np.full(len(e), 1 / max(len(e), 1)), 0.05)
    assert online.tolist() == batch.tolist()
    assert needed.tolist() == pytest.approx([threshold] * len(e))


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)), min_size=1, max_size=9), st.data())
@settings(deadline=None)
def test_what_was_rejected_stays_so_when_evidence_grows_and_hypotheses_come_up(
    grown: list[tuple[float, float]], data: st.DataObject
) -> None:
    gamma = stats.shares(len(grown), budget=5)
    early = data.draw(st.integers(1, len(grown)))
    first, _ = stats.online_e_bh([e for e, _ in grown[:early]], gamma[:early], 0.5)
    later, _ = stats.online_e_bh([e + more for e, more in grown], gamma, 0.5)
    assert (later[:early] | ~first).all()


def test_online_e_bh_refuses_what_would_break_its_proof() -> None:
    for e, gamma in (([1.0, -1.0], [0.5, 0.5]), ([1.0], [0.5, 0.5]), ([1.0, 1.0], [0.9, 0.9]), ([1.0], [0.0])):
        with pytest.raises(InputError):
            stats.online_e_bh(e, gamma, 0.05)


def test_a_watched_cluster_needs_its_share_of_the_whole_period() -> None:
    rows = [cluster("0", 500), cluster("2", 1100), cluster("3", 1.0, n=50)]
    shares = stats.shares(4, budget=30)
    decided = decide_watch(rows, shares)
    assert [one.decision for one in decided] == ["found", "found", "inconclusive"]
    assert decided[0].e_threshold == pytest.approx(30 / (0.9 * 0.05 * 2))
    assert [one.tier for one in decide_watch(rows[:1], shares)] == ["review"]
    with pytest.raises(InputError, match="laxer"):
        decide_watch(rows, shares, 0.05, 0.01)
