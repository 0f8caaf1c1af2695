"""A suspect against an index of known models: what `trace index match` prints and `trace lineage --index` adds.

A match says that two models' weights have a common origin, not which of them was there first, and nothing about models
that are not in the index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillproof.finding import Decision, Finding
from stillproof.progress import OnEvent, ignore
from stillproof.trace.weights.index import Match, Sketch, match, read_index

ALPHA = 1e-6
"""Chance of any false match over the whole index."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every model of an index against one suspect, the surest first."""

    suspect: Path
    index: Path
    alpha: float
    matches: tuple[Match, ...]

    @property
    def decision(self) -> Decision:
        """found where any model was; inconclusive where none could be compared."""
        decisions = {one.finding.decision for one in self.matches}
        for decision in ("found", "not_found"):
            if decision in decisions:
                return decision
        return "inconclusive"

    @property
    def found(self) -> dict[str, Finding]:
        """The findings of the models that were matched, by name, as the owner of the index calls them."""
        return {one.name: one.finding for one in self.matches if one.finding.decision == "found"}

    def to_json(self) -> dict[str, Any]:
        """The surest finding's fields, beside `matches` and what was compared with what."""
        lead = next(one for one in self.matches if one.finding.decision == self.decision)
        return {
            **lead.finding.to_json(),
            "suspect": str(self.suspect),
            "index": str(self.index),
            "sketches": len(self.matches),
            "compared": sum(one.finding.log10_p is not None for one in self.matches),
            "matches": [_row(one) for one in self.matches],
        }


def _row(one: Match) -> dict[str, Any]:
    found = one.finding.decision == "found"
    return {
        "name": one.name,
        "decision": one.finding.decision,
        "log10_p": one.finding.log10_p,
        "log10_p_adjusted": one.finding.log10_p_adjusted,
        "units_matched": bool(one.placed),
        "layers": [
            {
                "layer_suspect": place.layer_suspect,
                "layer_known": place.layer_known,
                "fixed_points": place.fixed_points,
                "units": place.units,
                "log10_p": place.log10_p,
            }
            for place in sorted(one.placed, key=lambda place: place.layer_suspect)
        ]
        if found
        else [],
    }


def candidates(
    suspect: Path, index: Path, *, alpha: float = ALPHA, seed: int = 0, on_event: OnEvent = ignore
) -> Candidates:
    """Match a suspect against the sketches in a folder. H0 for each: `judging.EXACT_NULL`; Holm over all of them.

    Raises InputError for a suspect or an index that cannot be read, or an index without sketches.
    """
    found = match(suspect, read_index(index), alpha=alpha, seed=seed, on_event=on_event)
    return Candidates(suspect, index, alpha, tuple(found))


def listed(sketches: list[Sketch]) -> list[dict[str, Any]]:
    """One row a known model: its name and shape."""
    return [
        {"name": s.name, "layers": len(s.numbers), "hidden": s.hidden, "units": int(s.units.max())} for s in sketches
    ]


def with_candidates(result: Mapping[str, Any], told: Candidates) -> dict[str, Any]:
    """A result of `check_lineage` with the index's part: `index`, and a line of the tree for each undeclared match."""
    from stillproof.trace.lineage_check import undeclared

    said = told.to_json()
    strangers = undeclared(result["lineage"], told.found)
    lines = [
        f"  ~~ common origin with {one.name} (tested p=1e{one.finding.log10_p or 0:.1f} by the index; not declared)"
        for one in told.matches
        if one.name in strangers
    ]
    part = {
        "path": said["index"],
        "sketches": said["sketches"],
        "compared": said["compared"],
        "alpha": told.alpha,
        "decision": told.decision,
        "found": [row for row in said["matches"] if row["decision"] == "found"],
        "undeclared": strangers,
    }
    return {**result, "tree": [*result["tree"], *lines], "index": part}
