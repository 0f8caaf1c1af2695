"""When clusters are frozen, on a planted template whose holders grow in number."""

import numpy as np
import pyarrow as pa

from stillproof.guard.freezing import Linked, first_uses, freeze
from stillproof.guard.linking import Cluster, LinkSettings
from stillproof.guard.signals.view import DAY_US, HOUR_US

N_UNITS = 2000
TEMPLATE = 77


def look_at(holders: int) -> Linked:
    """`holders` units that use one rare template far beyond chance."""
    unit = np.arange(1, holders + 1, dtype=np.uint64)
    columns = {
        "unit": unit,
        "fp": np.full(holders, TEMPLATE, np.uint64),
        "kind": np.ones(holders, np.uint8),
        "n": np.full(holders, 30),
        "expected": np.full(holders, 0.01),
        "first_time": np.full(holders, 2 * DAY_US),
    }
    return Linked(pa.table(columns), None, N_UNITS, 0)


def test_members_are_those_of_the_first_look_and_later_ones_only_candidates() -> None:
    sizes = {1: 20, 2: 30}
    (entry,) = freeze(lambda day: look_at(sizes[day]), [1, 2], LinkSettings())
    assert entry.cluster.units.tolist() == list(range(1, 21))
    assert entry.joined.tolist() == list(range(21, 31))
    assert entry.frozen_us == 1


def test_a_cluster_that_doubles_is_frozen_again_with_the_newcomers_alone() -> None:
    sizes = {1: 20, 2: 45, 3: 45}
    first, second = freeze(lambda day: look_at(sizes[day]), [1, 2, 3], LinkSettings())
    assert first.cluster.units.tolist() == list(range(1, 21))
    assert second.cluster.units.tolist() == list(range(21, 46))
    assert (first.joined.size, second.joined.size, second.frozen_us) == (0, 0, 2)


def test_growth_is_counted_since_the_freeze_and_not_a_look() -> None:
    sizes = {1: 20, 2: 32, 3: 44, 4: 50}
    first, second = freeze(lambda day: look_at(sizes[day]), [1, 2, 3, 4], LinkSettings())
    assert (second.frozen_us, second.cluster.units.tolist()) == (3, list(range(21, 45)))
    assert first.joined.size + second.joined.size == 6


def test_a_first_use_near_the_begin_of_what_is_seen_is_unknown() -> None:
    edges = look_at(3).edges.set_column(5, "first_time", pa.array([HOUR_US, DAY_US, 5 * DAY_US]))
    cluster = Cluster(np.array([1, 2, 3], np.uint64), np.array([TEMPLATE], np.uint64), "template", 1.0)
    (first,) = first_uses([cluster], edges, DAY_US)
    assert np.isnan(first[0])
    assert first[1:].tolist() == [DAY_US, 5 * DAY_US]
