"""From ranks at several horizons to one e-value and its bound."""

from types import SimpleNamespace

import numpy as np

from stillproof.guard.judging import score
from stillproof.guard.reference import Origin, Reference
from stillproof.guard.scoring import Scoring


def reference_of(sizes: dict[int, int]) -> Reference:
    """Honest automated clusters with one signal, so many at each horizon."""
    hours = np.repeat(list(sizes), list(sizes.values()))
    columns = {
        "cluster_id": np.arange(hours.size).astype(str),
        "window_id": np.full(hours.size, "w"),
        "horizon_h": hours,
        "cluster_class": np.full(hours.size, "automated"),
        "n_units": np.full(hours.size, 9),
        "x": np.random.Generator(np.random.Philox(1)).normal(size=hours.size),
    }
    return Reference.of(columns, Origin("composed", "2026", "0"))


def test_a_cluster_first_at_every_horizon_has_no_more_evidence_than_its_largest_reference_can_give() -> None:
    sizes = {1: 4000, 3: 3000, 12: 2000, 48: 800, 168: 100}
    reference = reference_of(sizes)
    member = SimpleNamespace(cluster=SimpleNamespace(units=np.arange(9)))
    measured = SimpleNamespace(
        frozen=[member, member],
        case_cluster=np.array([0] * 5 + [1] * 2),
        case_horizon_h=np.array([1.0, 3, 12, 48, 168, 1, 3]),
        case_class=["automated"] * 7,
        signals={"x": np.array([9.0] * 7)},
    )
    far, early = score(measured, reference, Scoring({"x": 1.0}, reference.scale()))[0]
    assert (far.n_reference, early.n_reference) == (4000, 4000)
    assert far.rank == 1
    # More than the last horizon's reference alone could give, which a finding would refuse.
    assert 101 < far.e <= 4001
    assert early.e < far.e
