"""What guard promises of its ranks, e-values, selections and alarms, simulated where nobody coordinates."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator, Philox

from stillproof import stats
from stillproof.guard.decision import DriftMonitor, ScoredCluster, decide_batch
from stillproof.guard.reference import Origin, Reference, assess
from stillproof.guard.scoring import Scoring

Check = Callable[[np.ndarray], None]

WEIGHTS = {"timing": 1.1, "list": 0.4, "rubric": 0.7}
ALPHA = 0.05

DRAWS: dict[str, Callable[[Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tail": lambda rng, n: rng.standard_t(1.2, size=n),
    "ties": lambda rng, n: rng.integers(0, 4, size=n).astype(float),
}


def excess(mean: float, bound: float, error: float) -> float:
    """How many standard errors the mean is above its bound."""
    return (mean - bound) / max(error, 1e-12)


@pytest.mark.parametrize("n", [19, 400])
@pytest.mark.parametrize("name", DRAWS)
def test_conformal_p_values_are_valid(n_simulations: int, assert_valid_p_values: Check, name: str, n: int) -> None:
    rng, draw = Generator(Philox(21)), DRAWS[name]
    p = np.array([stats.conformal_p(draw(rng, 1), draw(rng, n))[0] for _ in range(n_simulations)])
    assert_valid_p_values(p)
    if name != "ties":
        assert (p <= 0.2).mean() >= 0.2 - 3 * np.sqrt(0.16 / n_simulations)


def grouped(rng: Generator, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups of 1 to 60 rows, the smaller ones with larger values: groups are exchangeable, rows are not."""
    sizes = np.minimum(60, rng.geometric(0.15, size=n_groups))
    group = np.repeat(np.arange(n_groups), sizes)
    return rng.normal(size=group.size) * 0.3 + rng.normal(size=n_groups)[group] - 0.2 * sizes[group], group


def test_p_values_among_groups_are_valid(n_simulations: int, assert_valid_p_values: Check) -> None:
    rng = Generator(Philox(22))
    p, blind = np.empty(n_simulations), np.empty(n_simulations)
    for i in range(n_simulations):
        values, group = grouped(rng, 61)
        new = rng.choice(values[group == 60])
        p[i] = stats.conformal_p([new], values[group < 60], group[group < 60])[0]
        blind[i] = stats.conformal_p([new], values[group < 60])[0]
    assert_valid_p_values(p)
    assert (p <= 0.2).mean() > 0.1
    with pytest.raises(AssertionError, match="nulls"):
        assert_valid_p_values(blind)  # these nulls are hard: a rank among rows is not valid here


def test_class_conditional_p_values_of_ambiguous_rows_are_valid(
    n_simulations: int, assert_valid_p_values: Check
) -> None:
    rng = Generator(Philox(23))
    p = np.empty(n_simulations)
    for i in range(n_simulations):
        true = rng.integers(2)
        new = rng.normal(2.0 * true)
        by_class = {name: stats.conformal_p([new], rng.normal(2.0 * k, 1, size=80)) for k, name in enumerate("ab")}
        p[i] = stats.mondrian(by_class, ["ab" if rng.random() < 0.5 else "ab"[true]])[0]
    assert_valid_p_values(p)


def honest(rng: Generator, n: int) -> dict[str, np.ndarray]:
    """Dependent, heavy-tailed and tied signals with values missing not at random; weights of no meaning."""
    shared = rng.normal(size=n)
    timing = np.exp(shared + rng.normal(size=n))
    items = shared + rng.normal(size=n)
    return {
        "timing": timing,
        "list": np.where(items < -0.3, np.nan, items),
        "rubric": np.floor(np.maximum(0, shared + 0.5 * rng.normal(size=n))),
    }


def reference_of(signals: dict[str, np.ndarray], cluster: np.ndarray) -> Reference:
    n = cluster.size
    fixed = {
        "cluster_id": cluster.astype(str),
        "window_id": np.full(n, "w"),
        "horizon_h": np.full(n, 24),
        "cluster_class": np.full(n, "automated"),
        "n_units": np.full(n, 9),
    }
    return Reference.of({**fixed, **signals}, Origin("composed", "2026", "0"))


def scoring_of(rng: Generator) -> Scoring:
    """Weights of no meaning, on the scale of a few clusters that are in no test."""
    return Scoring(WEIGHTS, reference_of(honest(rng, 40), np.arange(40)).scale())


@pytest.mark.parametrize("n", [30, 150])
def test_ranks_of_honest_clusters_are_valid_on_any_fixed_scale(
    n_simulations: int, assert_valid_p_values: Check, n: int
) -> None:
    rng = Generator(Philox(24))
    scoring = scoring_of(rng)
    p, e = np.empty(n_simulations), np.empty(n_simulations)
    for i in range(n_simulations):
        found = assess(honest(rng, 1), [["automated"]], reference_of(honest(rng, n), np.arange(n)), 24, scoring)
        p[i], e[i] = found.p[0], found.e[0]
    assert_valid_p_values(p)
    assert excess(e.mean(), 1.0, e.std() / np.sqrt(e.size)) <= 3
    assert (p <= 0.2).mean() > 0.1


def test_ranks_are_valid_where_honest_clusters_come_in_families_of_rows(
    n_simulations: int, assert_valid_p_values: Check
) -> None:
    """A cluster that stands in many windows is many rows that are nearly copies of one another."""
    rng = Generator(Philox(25))
    scoring = scoring_of(rng)
    p, e = np.empty(n_simulations), np.empty(n_simulations)
    for i in range(n_simulations):
        sizes = np.minimum(20, rng.geometric(0.2, size=51))
        cluster = np.repeat(np.arange(51), sizes)
        each = honest(rng, 51)
        rows = {name: column[cluster] + 0.1 * rng.normal(size=cluster.size) for name, column in each.items()}
        new = {name: [rng.choice(column[cluster == 50])] for name, column in rows.items()}
        known = {name: column[cluster < 50] for name, column in rows.items()}
        found = assess(new, [["automated"]], reference_of(known, cluster[cluster < 50]), 24, scoring)
        p[i], e[i] = found.p[0], found.e[0]
    assert_valid_p_values(p)
    assert excess(e.mean(), 1.0, e.std() / np.sqrt(e.size)) <= 3


@pytest.mark.parametrize("n", [10, 80, 2000])
def test_rank_e_values_have_mean_one_at_most(n_simulations: int, n: int) -> None:
    rng = Generator(Philox(26))
    e = stats.rank_e(rng.integers(1, n + 2, size=50 * n_simulations), n)
    assert excess(e.mean(), 1.0, e.std() / np.sqrt(e.size)) <= 3
    assert e.mean() > 0.8


def one_reference_scan(rng: Generator, n_reference: int, n_honest: int, n_campaigns: int) -> tuple[np.ndarray, float]:
    """Rejections among honest clusters first, then campaigns, all ranked among one shared reference."""
    scores = np.concatenate([rng.normal(size=n_honest), rng.normal(9, 1, size=n_campaigns)])
    p = stats.conformal_p(scores, rng.normal(size=n_reference))
    rejected, threshold = stats.e_bh(stats.rank_e(p * (n_reference + 1), n_reference), ALPHA)
    return rejected, threshold


@pytest.mark.parametrize(("n_reference", "n_honest", "n_campaigns"), [(2000, 50, 0), (2000, 50, 5), (300, 10, 10)])
def test_e_bh_keeps_the_false_discovery_rate_among_clusters_that_share_a_reference(
    n_simulations: int, n_reference: int, n_honest: int, n_campaigns: int
) -> None:
    rng = Generator(Philox(27))
    share = np.empty(n_simulations)
    for i in range(n_simulations):
        rejected, _ = one_reference_scan(rng, n_reference, n_honest, n_campaigns)
        share[i] = rejected[:n_honest].sum() / max(1, rejected.sum())
    assert excess(share.mean(), ALPHA, np.sqrt(ALPHA * (1 - ALPHA) / n_simulations)) <= 3


def test_e_bh_names_campaigns_that_stand_out() -> None:
    rng = Generator(Philox(28))
    found = [one_reference_scan(rng, 2000, 50, 5)[0][50:].mean() for _ in range(200)]
    assert np.mean(found) > 0.95


def test_tiers_keep_their_levels_where_all_clusters_are_honest(n_simulations: int) -> None:
    rng = Generator(Philox(29))
    blocked, reviewed = np.zeros(n_simulations), np.zeros(n_simulations)
    for i in range(n_simulations):
        p = stats.conformal_p(rng.normal(size=30), rng.normal(size=3000))
        e = stats.rank_e(p * 3001, 3000)
        rows = [ScoredCluster(str(k), float(e[k]), float(p[k]), 1, 3000, "automated", 9) for k in range(30)]
        tiers = {one.tier for one in decide_batch(rows)}
        blocked[i], reviewed[i] = "would_block" in tiers, bool(tiers & {"would_block", "review"})
    assert excess(blocked.mean(), 0.05, np.sqrt(0.05 * 0.95 / n_simulations)) <= 3
    assert excess(reviewed.mean(), 0.2, np.sqrt(0.2 * 0.8 / n_simulations)) <= 3


HORIZONS = np.array([0.5, 0.3, 0.2])


def streamed(rng: Generator, n_reference: int, shift: np.ndarray) -> np.ndarray:
    """Running e-values, shape [m, 3], of clusters whose horizons overlap, all among one reference."""
    common = rng.normal(size=(n_reference + shift.size, 1))
    scores = 0.8 * common + 0.6 * rng.normal(size=(n_reference + shift.size, 3))
    scores[n_reference:] += shift[:, None]
    e = np.empty((shift.size, 3))
    for h in range(3):
        p = stats.conformal_p(scores[n_reference:, h], scores[:n_reference, h])
        e[:, h] = stats.rank_e(p * (n_reference + 1), n_reference)
    return stats.horizon_e(e, HORIZONS)


def test_horizon_evidence_is_valid_at_a_stopping_time(n_simulations: int) -> None:
    """Stopped at the first horizon that looks good enough, else at the last: mean 1 at most, and Markov's bound."""
    rng = Generator(Philox(30))
    stopped = np.concatenate([_stopped(streamed(rng, 200, np.zeros(20))) for _ in range(n_simulations // 2)])
    assert excess(stopped.mean(), 1.0, stopped.reshape(-1, 20).mean(axis=1).std() / np.sqrt(n_simulations // 2)) <= 3
    assert excess((stopped >= 20).mean(), 1 / 20, np.sqrt(0.05 * 0.95 / (n_simulations // 2))) <= 3


def _stopped(running: np.ndarray) -> np.ndarray:
    good = running >= 5
    at = np.where(good.any(axis=1), good.argmax(axis=1), 2)
    return running[np.arange(running.shape[0]), at]


@pytest.mark.parametrize("n_campaigns", [0, 4])
def test_a_watched_period_keeps_the_false_discovery_rate_at_its_worst_moment(
    n_simulations: int, n_campaigns: int
) -> None:
    """Clusters are born day by day and read at three horizons each; the largest share of honest ones among the named,
    over all days, has mean alpha at most."""
    rng = Generator(Philox(31))
    worst, found = np.empty(n_simulations), []
    for i in range(n_simulations):
        shift = np.zeros(16)
        shift[rng.permutation(16)[:n_campaigns]] = 9.0
        worst[i], named = watched_period(rng, streamed(rng, 1500, shift), shift == 0)
        found.append(named[shift > 0])
    assert excess(worst.mean(), ALPHA, np.sqrt(ALPHA * (1 - ALPHA) / n_simulations)) <= 3
    if n_campaigns:
        assert np.mean(np.concatenate(found)) > 0.9


def watched_period(rng: Generator, running: np.ndarray, honest: np.ndarray) -> tuple[float, np.ndarray]:
    """The worst share of honest clusters among those named on any day, and who is named in the end."""
    births = np.sort(rng.integers(0, 10, size=running.shape[0]))
    gamma = stats.shares(running.shape[0], budget=12)
    worst, named = 0.0, np.zeros(running.shape[0], bool)
    for day in range(20):
        read = np.array([(day - births >= age) for age in (1, 3, 7)]).sum(axis=0)
        e = np.where(read > 0, running[np.arange(read.size), np.maximum(read, 1) - 1], 0.0)
        born = int((births <= day).sum())
        named[:born], _ = stats.online_e_bh(e[:born], gamma[:born], ALPHA)
        worst = max(worst, float((named & honest).sum() / max(1, named.sum())))
    return worst, named


def test_the_drift_monitor_seldom_reopens_calibration_for_nothing(n_simulations: int) -> None:
    """Wealth 100 is ever reached with probability 1/100 at most; 150 clusters after a reference of 60."""
    rng = Generator(Philox(33))
    false = np.array([_reopened(rng, i, rng.normal(size=60), rng.normal(size=150)) for i in range(n_simulations)])
    assert excess(false.mean(), 0.01, np.sqrt(0.01 * 0.99 / n_simulations)) <= 3


def _reopened(rng: Generator, seed: int, reference: np.ndarray, incoming: np.ndarray) -> bool:
    monitor = DriftMonitor(reference, seed)
    for score in incoming:
        monitor.observe(float(score))
    return monitor.reopened


def test_drift_p_values_are_valid_and_not_wasteful(n_simulations: int, assert_valid_p_values: Check) -> None:
    rng = Generator(Philox(34))
    monitor = DriftMonitor(rng.integers(0, 5, size=20), seed=3)
    p = np.array([monitor.observe(float(score)) for score in rng.integers(0, 5, size=n_simulations)])
    assert_valid_p_values(p)
    assert (p <= 0.2).mean() >= 0.2 - 3 * np.sqrt(0.16 / n_simulations)


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_the_drift_monitor_sees_a_shift_of_one_standard_deviation_either_way(shift: float) -> None:
    rng = Generator(Philox(36))
    seen = [
        _reopened(rng, i, rng.normal(size=300), np.concatenate([rng.normal(size=100), rng.normal(shift, 1, size=150)]))
        for i in range(100)
    ]
    assert np.mean(seen) > 0.9
