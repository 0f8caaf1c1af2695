"""What links the accounts of a cluster, for a person to look at: who of the frozen members used which fingerprint.

Counts over the whole log, of members and of what linked them; nothing here is evidence. A cluster that a list of
prompts links has no fingerprints: the prompts that its members share stand in for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stillproof.guard.edges import KINDS, fingerprints
from stillproof.guard.evidence import UNUSED, listed

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from stillproof.engine import Engine
    from stillproof.guard.linking import Cluster

MAX_UNITS = 60
MAX_FINGERPRINTS = 24
"""A drawing with more is not read; how many there are is said beside it."""

_WORDS = {0: "system prompt", 1: "first 8 words", 2: "first 24 words", 3: "last 8 words", 4: "skeleton", 5: "tools"}
_WORDS |= {6: "passage", 7: "prompt", 8: "reasoning block"}
_PROMPT = KINDS["fp_prompt"]


def ties(engine: Engine, sketch: ir.Table, clusters: Sequence[Cluster]) -> list[dict[str, Any]]:
    """One graph a cluster, in their order; `sketch` has one row per id.

    n_units, n_fingerprints: all; units: [{unit: 16 hex digits, n exchanges}], those with most exchanges;
    fingerprints: [{kind, fp: 16 hex digits, n_units}], those of most members; edges: [[place in units, place in
    fingerprints, n exchanges]]. At most MAX_UNITS and MAX_FINGERPRINTS are listed.
    """
    if not clusters:
        return []
    volumes, uses = _counted(engine, sketch, clusters)
    return [_graph(volumes.get(place, {}), uses.get(place, {}), cluster) for place, cluster in enumerate(clusters)]


_Volumes = dict[int, dict[int, int]]
_Uses = dict[int, dict[tuple[int, int], dict[int, int]]]


def _counted(engine: Engine, sketch: ir.Table, clusters: Sequence[Cluster]) -> tuple[_Volumes, _Uses]:
    """Exchanges by cluster and unit; and by cluster, fingerprint (kind, fp) and unit."""
    kept = [name for name in sketch.columns if name not in UNUSED]
    members = engine.from_arrow(listed("unit", [cluster.units for cluster in clusters]))
    rows = engine.keep(sketch.select(*kept).join(members, "unit").select("cluster", *kept), "member_ties")
    linking = engine.from_arrow(listed("fp", [cluster.fps for cluster in clusters]))
    present = fingerprints(rows, ("cluster", "unit"))
    of_prompts = present.filter(present.kind == _PROMPT).anti_join(linking, "cluster")
    shared = of_prompts.group_by(["cluster", "fp"]).agg(n_units=of_prompts.unit.nunique())
    found = present.semi_join(linking, ["cluster", "fp"]).union(
        of_prompts.semi_join(shared.filter(shared.n_units > 1), ["cluster", "fp"])
    )
    volumes: _Volumes = {}
    for row in engine.to_arrow(rows.group_by(["cluster", "unit"]).agg(n=rows.count())).to_pylist():
        volumes.setdefault(row["cluster"], {})[row["unit"]] = row["n"]
    uses: _Uses = {}
    counts = engine.to_arrow(found.group_by(["cluster", "kind", "fp", "unit"]).agg(n=found.count()))
    for row in counts.to_pylist():
        own = uses.setdefault(row["cluster"], {})
        own.setdefault((row["kind"], row["fp"]), {})[row["unit"]] = row["n"]
    return volumes, uses


def _graph(volumes: dict[int, int], uses: dict[tuple[int, int], dict[int, int]], cluster: Cluster) -> dict[str, Any]:
    units = sorted(volumes, key=lambda unit: (-volumes[unit], unit))[:MAX_UNITS]
    prints = sorted(uses, key=lambda key: (-len(uses[key]), key))[:MAX_FINGERPRINTS]
    place = {unit: at for at, unit in enumerate(units)}
    return {
        "n_units": int(cluster.units.size),
        "n_fingerprints": len(uses),
        "units": [{"unit": f"{unit:016x}", "n": volumes[unit]} for unit in units],
        "fingerprints": [
            {"kind": _WORDS.get(key[0], str(key[0])), "fp": f"{key[1]:016x}", "n_units": len(uses[key])}
            for key in prints
        ],
        "edges": [
            [place[unit], at, n]
            for at, key in enumerate(prints)
            for unit, n in sorted(uses[key].items())
            if unit in place
        ],
    }
