from itertools import pairwise
from math import exp, factorial, log10

import numpy as np
import pyarrow as pa
import pytest

from stillproof.errors import ConfigError, InputError, SchemaError
from stillproof.guard.linking import Cluster, LinkSettings, link, match, match_all
from stillproof.guard.linking.peeling import Graphs, densest, k_core
from stillproof.guard.linking.set_groups import intersections, leaders, sets_from_rows
from stillproof.guard.linking.tails import poisson_log10_tail

N_UNITS = 20_000
ACTIVITY = 100
EXCHANGES = N_UNITS * ACTIVITY
HARNESS = 10**9  # the fingerprints of popular harnesses start here


def rng(seed):
    return np.random.Generator(np.random.Philox(seed))


class Traffic:
    """Rows (unit, fp, kind, n); the expectation is computed at the end, from the margins, as the aggregates do it."""

    def __init__(self):
        self.rows = []

    def add(self, units, fps, n, kind=1):
        units, fps, n, kind = np.broadcast_arrays(units, fps, n, kind)
        self.rows.append(np.stack([units, fps, kind, n]).astype(np.int64))

    def harnesses(self, seed, n=20):
        # 40% of all units share a popular harness (Zipf) and use it for all that they do.
        draw = rng(seed)
        units = np.flatnonzero(draw.random(N_UNITS) < 0.4)
        weights = 1 / np.arange(1, n + 1)
        self.add(units, HARNESS + draw.choice(n, len(units), p=weights / weights.sum()), 80, kind=0)

    def honest_templates(self, seed, n=400):
        draw = rng(seed)
        for i in range(n):
            units = draw.choice(N_UNITS, int(draw.integers(8, 60)), replace=False)
            self.add(units, 2 * HARNESS + i, draw.poisson(15, len(units)) + 1)

    def table(self, order=None):
        unit, fp, kind, n = np.concatenate(self.rows, axis=1)
        _, first, inverse = np.unique(fp * N_UNITS + unit, return_index=True, return_inverse=True)
        n = np.bincount(inverse, n).astype(np.int64)
        unit, fp, kind = unit[first], fp[first], kind[first]
        codes, code = np.unique(fp, return_inverse=True)
        total = np.bincount(code, n, len(codes))
        expected = ACTIVITY * total[code] / EXCHANGES
        keep = np.bincount(code)[code] >= 8
        columns = {"unit": unit.astype(np.uint64), "fp": fp.astype(np.uint64), "kind": kind.astype(np.uint8), "n": n}
        table = pa.table({**columns, "expected": expected}).filter(pa.array(keep))
        return table if order is None else table.take(order.permutation(len(table)))


def best_for(clusters, units):
    units = np.asarray(units, np.uint64)
    return max(clusters, key=lambda c: len(np.intersect1d(c.units, units)) / len(np.union1d(c.units, units)))


def precision_recall(cluster, units):
    common = len(np.intersect1d(cluster.units, np.asarray(units, np.uint64)))
    return common / len(cluster.units), common / len(units)


def as_set(clusters):
    return {(c.units.tobytes(), c.fps.tobytes(), c.kind, round(c.density, 9)) for c in clusters}


def planted(size, seed=1, kinds=(1, 2, 3, 4)):
    """A campaign of one template in four fingerprints, 20% of its traffic; the rest is everybody's harness."""
    traffic = Traffic()
    traffic.harnesses(seed)
    traffic.honest_templates(seed + 1)
    draw = rng(seed + 2)
    units = draw.choice(N_UNITS, size, replace=False)
    for i, kind in enumerate(kinds):
        seen = units[draw.random(size) < 0.95]
        traffic.add(seen, 100 + i, draw.poisson(20, len(seen)) + 1, kind)
    # Chance hits of people who have nothing to do with it: one exchange each.
    traffic.add(draw.choice(N_UNITS, size // 5, replace=False), 100, 1)
    # Camouflage: the accounts share a popular harness with thousands.
    traffic.add(units, HARNESS + draw.integers(0, 3, size), 80, kind=0)
    return traffic, units


def all_pairs(items_of_unit, n_items):
    """The pairs table of a (units, draws) array of items, with the expectation from the items' popularity."""
    from scipy.sparse import csr_array, triu

    n_units, draws = items_of_unit.shape
    rows = np.repeat(np.arange(n_units), draws)
    held = csr_array((np.ones(rows.size, np.int64), (rows, items_of_unit.ravel())), shape=(n_units, n_items))
    held.data[:] = 1
    shared = triu(held @ held.T, k=1).tocoo()
    share = np.asarray(held.sum(axis=0)).ravel() / n_units
    mean = np.full(shared.nnz, float((share**2).sum()))
    a, b = shared.row.astype(np.uint64), shared.col.astype(np.uint64)
    return pa.table({"unit_a": a, "unit_b": b, "n_shared": shared.data, "expected": mean})


def no_edges():
    types = {"unit": pa.uint64(), "fp": pa.uint64(), "kind": pa.uint8(), "n": pa.int64(), "expected": pa.float64()}
    return pa.schema(types).empty_table()


@pytest.mark.parametrize("size", [12, 50, 500, 5000])
def test_a_planted_campaign_with_80_percent_camouflage_is_recovered(size):
    traffic, units = planted(size)
    found = best_for(link(traffic.table(), None, N_UNITS, LinkSettings()), units)
    precision, recall = precision_recall(found, units)
    assert precision >= 0.97
    assert recall >= 0.97
    assert set(found.fps.tolist()) == {100, 101, 102, 103}


def test_chance_holders_of_a_campaigns_fingerprint_are_no_members():
    traffic, units = planted(50)
    table = traffic.table()
    hit = table.filter(pa.compute.and_(pa.compute.equal(table["fp"], 100), pa.compute.equal(table["n"], 1)))
    bystanders = np.setdiff1d(hit["unit"].to_numpy(), units)
    assert len(bystanders) >= 5
    found = best_for(link(table, None, N_UNITS, LinkSettings()), units)
    assert not len(np.intersect1d(found.units, bystanders))


@pytest.mark.parametrize(("wordings", "used"), [(20, 10), (100, 10), (400, 40)])
def test_a_campaign_of_many_wordings_is_one_cluster(wordings, used):
    traffic, draw = Traffic(), rng(5)
    traffic.harnesses(6)
    traffic.honest_templates(7)
    units = draw.choice(N_UNITS, 500, replace=False)
    for unit in units:
        traffic.add(unit, 1000 + draw.choice(wordings, used, replace=False), 2)
    clusters = link(traffic.table(), None, N_UNITS, LinkSettings())
    own = [c for c in clusters if np.isin(c.fps, np.arange(1000, 1000 + wordings)).any()]
    assert len(own) == 1
    precision, recall = precision_recall(own[0], units)
    assert precision >= 0.97
    assert recall >= 0.97
    assert len(own[0].fps) >= 0.95 * wordings


def test_busy_and_quiet_members_of_a_campaign_are_one_cluster():
    traffic, draw = Traffic(), rng(15)
    traffic.harnesses(16)
    units = draw.choice(N_UNITS, 1000, replace=False)
    # Each account sends 4 to 100 exchanges, in 40 wordings drawn at random.
    for unit, n in zip(units, draw.integers(4, 100, len(units)), strict=True):
        wording, count = np.unique(draw.integers(0, 40, n), return_counts=True)
        traffic.add(unit, 1000 + wording, count)
    clusters = link(traffic.table(), None, N_UNITS, LinkSettings())
    own = [c for c in clusters if (c.fps < HARNESS).any()]
    assert len(own) == 1
    precision, recall = precision_recall(own[0], units)
    assert precision == 1
    assert recall >= 0.9


@pytest.mark.parametrize("n_templates", [1, 5])
def test_a_popular_harness_does_not_glue_two_campaigns(n_templates):
    traffic, draw = Traffic(), rng(9)
    traffic.honest_templates(10)
    both = draw.choice(N_UNITS, 200, replace=False)
    first, second = both[:100], both[100:]
    for start, units in ((100, first), (200, second)):
        for i in range(n_templates):
            seen = units[draw.random(len(units)) < 0.8]
            traffic.add(seen, start + i, draw.poisson(10, len(seen)) + 1)
    harness = np.union1d(draw.choice(N_UNITS, 3000, replace=False), both)
    traffic.add(harness, HARNESS, 60, kind=0)
    clusters = link(traffic.table(), None, N_UNITS, LinkSettings())
    for start, units in ((100, first), (200, second)):
        own = [c for c in clusters if np.isin(c.fps, np.arange(start, start + n_templates)).any()]
        precision, recall = precision_recall(best_for(own, units), units)
        assert precision >= 0.95
        assert recall >= 0.75
        assert all(precision_recall(c, units)[0] >= 0.95 for c in own)
    popular = best_for(clusters, harness)
    assert popular.fps.tolist() == [HARNESS]
    assert precision_recall(popular, harness)[1] >= 0.97


def test_a_fingerprint_of_more_than_half_of_the_units_is_in_no_cluster():
    traffic, _ = planted(50)
    traffic.add(np.arange(0, 11_000), 77, np.where(np.arange(11_000) % 2, 90, 200))
    assert not any(77 in c.fps for c in link(traffic.table(), None, N_UNITS, LinkSettings()))


def test_random_edges_without_surprise_yield_no_cluster():
    draw, traffic = rng(11), Traffic()
    # A finite pool of texts that everybody draws from: the counts are Poisson with the expected mean.
    unit, fp = draw.integers(0, N_UNITS, 200_000), draw.integers(0, 50, 200_000)
    traffic.add(unit, fp, 1)
    table = traffic.table()
    clusters = link(table, None, N_UNITS, LinkSettings(max_share=1.0))
    assert not clusters


@pytest.mark.parametrize("pool", [500, 5000])
def test_chance_sharing_from_a_finite_pool_of_prompts_yields_no_items_cluster(pool):
    items = rng(12).integers(0, pool, (1500, 40))
    assert not link(no_edges(), all_pairs(items, pool), 1500, LinkSettings())


def test_units_that_draw_from_one_list_are_an_items_cluster():
    draw = rng(13)
    items = draw.integers(0, 50_000, (2000, 60))
    campaign = np.sort(draw.choice(2000, 60, replace=False))
    items[campaign, :30] = 50_000 + draw.integers(0, 60, (60, 30))
    clusters = link(no_edges(), all_pairs(items, 50_060), 2000, LinkSettings())
    assert [c.kind for c in clusters] == ["items"]
    assert clusters[0].fps.tolist() == []
    assert precision_recall(clusters[0], campaign) == (1.0, 1.0)


def test_units_that_share_a_prompt_or_two_each_of_one_long_list_are_an_items_cluster():
    """60 units, each prompt of the list asked of three: a pair has about 1.7 in common, too few to link by itself."""
    draw = rng(40)
    asked = np.array([draw.permutation(60)[:3] for _ in range(1000)])
    shared = np.zeros((60, 60), np.int64)
    for row in asked:
        shared[np.ix_(row, row)] += 1
    a, b = np.nonzero(np.triu(shared, 1))
    columns = {"unit_a": a.astype(np.uint64), "unit_b": b.astype(np.uint64), "n_shared": shared[a, b]}
    found = link(no_edges(), pa.table(columns | {"expected": np.full(a.size, 1e-3)}), 2000, LinkSettings())
    assert max(len(c.units) for c in found) >= 50


def test_single_prompts_in_common_with_few_partners_link_nobody():
    a = np.arange(0, 100, dtype=np.uint64)
    columns = {"unit_a": a, "unit_b": a + np.uint64(1), "n_shared": np.ones(100, np.int64)}
    assert not link(no_edges(), pa.table(columns | {"expected": np.full(100, 1e-3)}), 2000, LinkSettings())


def test_a_bridge_between_two_blocks_of_items_does_not_join_them():
    pairs = [(a, b) for a in range(20) for b in range(a)] + [(a, b) for a in range(20, 50) for b in range(20, a)]
    pairs += [(19, 20), (18, 21)]
    a, b = np.array(pairs, np.uint64).T
    table = pa.table({"unit_a": a, "unit_b": b, "n_shared": np.full(len(a), 9), "expected": np.full(len(a), 1e-3)})
    units = sorted(c.units.tolist() for c in link(no_edges(), table, 1000, LinkSettings()))
    assert units == [list(range(20)), list(range(20, 50))]


def test_the_order_of_rows_changes_nothing():
    traffic, _ = planted(50)
    expected = as_set(link(traffic.table(), None, N_UNITS, LinkSettings()))
    for seed in (1, 2):
        assert as_set(link(traffic.table(rng(seed)), None, N_UNITS, LinkSettings())) == expected


def test_two_runs_give_the_same_list():
    traffic, _ = planted(50)
    runs = [link(traffic.table(), None, N_UNITS, LinkSettings()) for _ in range(2)]
    assert [c.units.tolist() for c in runs[0]] == [c.units.tolist() for c in runs[1]]
    assert [c.density for c in runs[0]] == [c.density for c in runs[1]]


def test_rows_of_two_hours_add_up_to_those_of_the_whole():
    traffic, _ = planted(50)
    table = traffic.table()
    n, expected = table["n"].to_numpy(), table["expected"].to_numpy()
    halves = [
        table.set_column(3, "n", pa.array(part)).set_column(4, "expected", pa.array(expected / 2))
        for part in (n // 2, n - n // 2)
    ]
    whole = link(table, None, N_UNITS, LinkSettings())
    summed = link(pa.concat_tables(halves), None, N_UNITS, LinkSettings())
    assert [c.units.tolist() for c in summed] == [c.units.tolist() for c in whole]


def test_exact_prompts_make_no_template_cluster():
    traffic = Traffic()
    traffic.add(np.arange(40), 100, 10, kind=7)
    assert not link(traffic.table(), None, N_UNITS, LinkSettings())


def test_clusters_below_min_units_are_left_out():
    traffic = Traffic()
    traffic.add(np.arange(9), 100, 10)
    assert len(link(traffic.table(), None, N_UNITS, LinkSettings())) == 1
    assert not link(traffic.table(), None, N_UNITS, LinkSettings(min_units=10))


def test_empty_tables_yield_no_clusters():
    pairs = all_pairs(np.arange(20).reshape(10, 2), 20)
    assert len(pairs) == 0
    assert link(no_edges(), None, 0, LinkSettings()) == []
    assert link(no_edges(), pairs, 0, LinkSettings()) == []


def test_bad_tables_are_refused():
    table = planted(12)[0].table()
    with pytest.raises(SchemaError, match="expected"):
        link(table.drop_columns("expected"), None, N_UNITS, LinkSettings())
    with pytest.raises(InputError, match="nulls"):
        link(table.set_column(3, "n", pa.nulls(len(table), pa.int64())), None, N_UNITS, LinkSettings())
    with pytest.raises(InputError, match="negative"):
        link(table.set_column(3, "n", pa.array([-1] * len(table))), None, N_UNITS, LinkSettings())
    with pytest.raises(InputError, match="n_units"):
        link(table, None, 10, LinkSettings())


@pytest.mark.parametrize("bad", [{"max_share": 0.0}, {"pair_log10_p": 0.0}, {"min_units": 1}, {"cap_bits": 0.0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        LinkSettings(**bad)


def cluster(units, fps):
    kind = "template" if len(fps) else "items"
    return Cluster(np.array(units, np.uint64), np.array(fps, np.uint64), kind, 1.0)


def test_a_known_cluster_is_found_again():
    frozen = [cluster(range(100), [1, 2]), cluster(range(200, 300), [3]), cluster(range(500, 540), [])]
    assert match(cluster(range(20, 120), [9]), frozen) == 0  # units
    assert match(cluster(range(900, 950), [1, 2, 8]), frozen) == 0  # fingerprints
    assert match(cluster(range(270, 300), [3, 4, 5, 6]), frozen) == 1  # part of the units, and a fingerprint
    assert match(cluster(range(500, 515), []), frozen) == 2  # items: part of the units
    assert match(cluster(range(1000, 1100), [7]), frozen) is None
    assert match(cluster(range(10), [1]), []) is None
    assert match_all([cluster(range(1000, 1010), []), cluster(range(100), [1])], frozen) == [None, 0]


def test_a_campaign_inside_a_popular_harness_is_not_that_harness():
    assert match(cluster(range(50), [1, 2]), [cluster(range(5000), [HARNESS])]) is None


@pytest.mark.parametrize(("n", "mean"), [(1, 0.3), (3, 0.001), (12, 2.0), (40, 10.0)])
def test_tails_are_exact(n, mean):
    exact = sum(mean**k * exp(-mean) / factorial(k) for k in range(n, n + 120))
    assert poisson_log10_tail(np.array([n]), np.array([mean]))[0] == pytest.approx(log10(exact), rel=1e-9)


def test_tails_go_on_where_the_probability_underflows():
    counts = np.arange(100, 2000, 7).astype(float)
    found = poisson_log10_tail(counts, np.full(len(counts), 1.0))
    assert np.isfinite(found).all()
    assert all(later < earlier for earlier, later in pairwise(found))
    # The step from the ordinary to the deep computation is smooth, and slow convergence ends where it should.
    assert np.abs(np.diff(found, 3)).max() < 0.02
    assert poisson_log10_tail(np.array([1_040_000.0]), np.array([1e6]))[0] == pytest.approx(-345.4, abs=3)


def test_counts_of_zero_and_unknown_expectations_are_no_evidence():
    assert poisson_log10_tail(np.array([0.0, 5.0, np.nan]), np.array([1.0, np.nan, 1.0])).tolist() == [0, 0, 0]


def test_leaders_have_no_chains():
    # Each set overlaps with the next by 0.6 and with the one after it by less than 0.5.
    member = np.concatenate([np.arange(i * 25, i * 25 + 100) for i in range(4)])
    sets = sets_from_rows(np.repeat(np.arange(4), 100), member, 4, 200)
    assert leaders(sets, np.arange(4), 0.5, 0).tolist() == [0, 0, 2, 2]
    assert intersections(sets, np.array([0, 0, 3]), np.array([1, 3, 3])).tolist() == [75, 25, 100]


def test_peeling_keeps_the_dense_part_of_each_graph():
    clique = [(a, b) for a in range(10) for b in range(a)]
    edges = np.array([*clique, *((20, i) for i in range(3)), *((11 + i, 10 + i) for i in range(5)), (9, 10)])
    group = np.zeros(24, np.int64)
    group[21:] = 1
    edges = np.vstack([edges, [[21, 22], [22, 23], [21, 23]]])
    graphs = Graphs(group, 2, edges[:, 0], edges[:, 1], np.ones(len(edges)))
    assert np.flatnonzero(densest(graphs, 0.1)).tolist() == [*range(10), 21, 22, 23]
    assert np.flatnonzero(k_core(graphs, 3)).tolist() == [*range(10), 20]
