"""From what was measured to Findings: which tests, at which level, and what is concluded.

The level is halved between the exact tests and the reference-based ones, which are never mixed in one number; within
each half Holm pays for every test that was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillproof.errors import InputError
from stillproof.finding import Check, Decision, Finding, Run, decide, holm
from stillproof.progress import OnEvent, ignore
from stillproof.trace.weights.comparing import Measured, measure
from stillproof.trace.weights.direction import Hint, direction, hints, traces
from stillproof.trace.weights.layers import Model, model_of
from stillproof.trace.weights.matching import fisher_log10_p, fixed_points_log10_p, spearman_log10_p
from stillproof.trace.weights.reading import read_model
from stillproof.trace.weights.reference import TESTS, Reference, read_reference

EXACT_NULL = (
    "the weights of at least one of the two models come from an initialisation that is independent of the other model, "
    "and its training treats hidden units alike"
)
REFERENCE_NULL = "the pair is exchangeable with the pairs of independently trained models of the reference"
CLAIM = "the weights of A and B have a common origin"
EXACT_ASSUMES = (
    "hidden units are initialised alike and independently, and the optimiser treats them alike (SGD, Adam, Lion, Muon)",
    "equal seeds of one initialiser count as a common origin",
)
_MIN_UNITS = 16


@dataclass(frozen=True, slots=True)
class Compared:
    """The verdict on two models."""

    findings: tuple[Finding, ...]
    layers: tuple[Mapping[str, Any], ...]
    hints: tuple[Hint, ...]
    measured: Measured

    @property
    def decision(self) -> Decision:
        """found where any test found; inconclusive where no test could decide."""
        decisions = {finding.decision for finding in self.findings}
        for decision in ("found", "not_found"):
            if decision in decisions:
                return decision
        return "inconclusive"

    @property
    def lead(self) -> Finding:
        """The finding that decided: an exact one before a reference-based one, then the smaller p-value."""
        same = [finding for finding in self.findings if finding.decision == self.decision]
        exact = [finding for finding in same if finding.kind == "design_based"] if self.decision == "found" else []
        return min(exact or same, key=lambda f: 0.0 if f.log10_p_adjusted is None else f.log10_p_adjusted)

    def to_json(self) -> dict[str, Any]:
        """The leading finding's fields, beside `layers`, `direction`, `hints` and all `findings`."""
        lead = self.lead
        related = self.decision == "found"
        return {
            **lead.to_json(),
            "layers": [dict(row) for row in self.layers],
            "direction": direction(self.hints) if related else "unknown",
            "hints": [asdict(hint) for hint in self.hints] if related else [],
            "findings": [finding.to_json() for finding in self.findings],
        }


def compare(
    a: Path,
    b: Path,
    *,
    alpha: float = 0.01,
    seed: int = 0,
    reference: Path | None = None,
    on_event: OnEvent = ignore,
) -> Compared:
    """Do the weights of A and B have a common origin? H0: EXACT_NULL, REFERENCE_NULL.

    alpha: over everything that is tried. Raises InputError for what cannot be read as a model, MissingExtraError for a
    GGUF without the package gguf.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}", remedy="choose a level between 0 and 1")
    table = read_reference(reference)
    models = [model_of(read_model(path)) for path in (a, b)]
    run = Run(f"stillproof trace weights A B --seed {seed} --alpha {alpha:g}", None, _version(), seed)
    return judge(models[0], models[1], measure(models[0], models[1], seed, on_event), (table, alpha, run))


def judge(a: Model, b: Model, measured: Measured, given: tuple[Reference, float, Run | None]) -> Compared:
    """The verdict from what `measure` gave and (reference, alpha, run)."""
    table, alpha, run = given
    exact = holm(_exact(measured, alpha / 2, run))
    ranked = holm(_ranked(measured, table, alpha / 2, run))
    if not measured.matched:
        return Compared((*exact, *ranked), (), (), measured)
    traced = [traces(m, n) for m, n in ((a, [p.layer_a for p in measured.matched]), (b, _of_b(measured)))]
    return Compared((*exact, *ranked), _rows(measured, table, alpha / 2), tuple(hints(*traced)), measured)


def _of_b(measured: Measured) -> list[int]:
    return [pair.layer_b for pair in measured.matched]


def _exact(measured: Measured, alpha: float, run: Run | None) -> list[Finding]:
    square = [pair for pair in measured.matched if pair.units_a >= _MIN_UNITS and pair.units_b >= _MIN_UNITS]
    count, rate = sum(pair.fixed_points for pair in square), sum(pair.rate for pair in square)
    orders = [spearman_log10_p(pair.spearman, min(pair.units_a, pair.units_b)) for pair in square]
    units = sum(min(pair.units_a, pair.units_b) for pair in square)
    mean = sum(pair.spearman for pair in square) / len(square) if square else None
    tests = (
        ("unit_labels", float(count) if square else None, fixed_points_log10_p(count, rate) if square else None),
        ("unit_order", mean, fisher_log10_p(orders) if square else None),
    )
    # A combination of m floored p-values that could never decide says nothing by being large; fixed points always can.
    return [
        Finding(
            claim=CLAIM,
            verb="trace",
            test=test,
            kind="design_based",
            null=EXACT_NULL,
            statistic=statistic,
            n=units,
            n_unit="units",
            decision="inconclusive" if log10_p is None else decide(log10_p, alpha),
            alpha=alpha,
            log10_p=log10_p,
            assumptions=EXACT_ASSUMES,
            checks=tuple(measured.checks),
            run=run,
        )
        for test, statistic, log10_p in tests
    ]


def _ranked(measured: Measured, table: Reference, alpha: float, run: Run | None) -> list[Finding]:
    values = dict(
        zip(TESTS, (measured.unit_agreement, measured.embedding_rotation, measured.embedding_cka), strict=True)
    )
    reach = Check(
        "reference",
        (len(table.rows) + 1) * alpha >= len(TESTS),
        f"{len(table.rows)} pairs of {table.models} models: {table.about}",
    )
    return [_ranked_one(name, value, (table, alpha, run), (*measured.checks, reach)) for name, value in values.items()]


def _ranked_one(
    name: str, value: float | None, given: tuple[Reference, float, Run | None], checks: tuple[Check, ...]
) -> Finding:
    table, alpha, run = given
    known = value is not None and checks[-1].passed
    log10_p = table.log10_p(name, value) if value is not None and known else None
    return Finding(
        claim=CLAIM,
        verb="trace",
        test=name,
        kind="reference_based",
        null=REFERENCE_NULL,
        statistic=value,
        n=len(table.rows),
        n_unit="independent pairs",
        decision="inconclusive" if log10_p is None else decide(log10_p, alpha),
        alpha=alpha,
        log10_p=log10_p,
        n_reference=len(table.rows),
        rank=table.rank(name, value) if value is not None and known else None,
        assumptions=(
            f"pairs share models ({table.models} of them), so the rank of a pair of new models is approximate",
            "strangers of other shapes and data are no more alike than those of the reference",
        ),
        checks=checks,
        run=run,
    )


def _rows(measured: Measured, table: Reference, alpha: float) -> tuple[dict[str, Any], ...]:
    """One row for each layer of B that was paired: where it stands in A, and by which evidence.

    `by`: 'unit_labels' (exact, Bonferroni over the layers), 'unit_agreement' (above every layer of the reference), or
    null where this layer alone shows nothing.
    """
    turned = {pair.layer_b: pair for pair in measured.agreements}
    highest = max(table.column("layer_agreement"))
    level = alpha / max(1, len(measured.matched))
    rows: list[dict[str, Any]] = []
    for pair in measured.matched:
        other = turned.get(pair.layer_b)
        share = None if other is None else max(0.0, (other.agreeing - 1) / other.units)
        by = "unit_labels" if decide(pair.log10_p, level) == "found" else None
        if by is None and share is not None and share > highest:
            by = "unit_agreement"
        layer_a = other.layer_a if other is not None and by == "unit_agreement" else pair.layer_a
        rows.append(
            {
                "layer_b": pair.layer_b,
                "layer_a": layer_a,
                "by": by,
                "log10_p": pair.log10_p,
                "fixed_points": pair.fixed_points,
                "units": min(pair.units_a, pair.units_b),
                "spearman": pair.spearman,
                "cosine": pair.cosine,
                "agreement": share,
                "likeness": measured.likeness[pair.layer_a, pair.layer_b],
            }
        )
    return tuple(rows)


def _version() -> str:
    import stillproof

    return stillproof.__version__
