"""Finding: a claim with its null hypothesis, its number and the run that recomputes it.

Guard and trace return nothing else.

A finding that nobody should believe cannot be made. The constructor refuses a decision without a p-value or
e-value, a p-value above 1 or below what its reference set can give, and a decision that its own number contradicts.
Where `e_threshold` is given (e-BH, online e-BH) the e-value decides; else the p-value; else the e-value against
1/alpha.

- design_based: the null rests on coins that the owner tossed and recorded; p-values are exact.
- reference_based: the null rests on a population (null models, benign accounts, exchangeable documents); the best
  p-value is a rank, 1 / (n_reference + 1).
The two are never mixed in one number: `holm` takes findings of one kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from stillproof.errors import InputError, SchemaError

SCHEMA = "finding/1"

Verb = Literal["distill", "guard", "trace"]
Kind = Literal["design_based", "reference_based"]
Decision = Literal["found", "not_found", "inconclusive"]
Combined = Literal["added", "averaged"]

_LISTS = ("assumptions", "checks", "evidence", "accounts", "signals")

LOG10_E_ZERO = -300.0
"""How an e-value of 0 is written: no evidence at all, yet a finite number."""

EXIT_CODES: dict[Decision, int] = {"not_found": 0, "found": 3, "inconclusive": 4}


@dataclass(frozen=True, slots=True)
class Effect:
    """How large, beside how sure: an estimate with its interval, in `unit`."""

    name: str
    unit: str
    estimate: float
    low: float | None = None
    high: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One diagnosis made on the way. `passed` is None where it could not be made."""

    name: str
    passed: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """One bar of a waterfall. `bits` is log2 evidence; what decides is the finding's own number, not their sum."""

    name: str
    group: str
    """Bits of one group are averaged, bits of groups declared disjoint are added."""
    value: float | None
    """As measured, in `unit`; None where it was not."""
    unit: str
    bits: float
    combined: Combined
    note: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What recomputes a finding."""

    command: str
    config_sha256: str | None
    stillproof: str
    """Version of stillproof."""
    seed: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """See the module's rules. Raises InputError that names the rule broken."""

    claim: str
    """No more than was tested: "this model learned from text that carries our key", not "they stole it"."""
    verb: Verb
    test: str
    kind: Kind
    null: str
    statistic: float | None
    n: int
    """Independent units of evidence, of the kind `n_unit` names: 'documents', 'pairs', 'tokens'."""
    n_unit: str
    decision: Decision
    alpha: float
    """Level of the decision."""
    log10_p: float | None = None
    log10_e: float | None = None
    n_reference: int | None = None
    """Null draws that the statistic was ranked among, where it was: null models, benign accounts, decoy keys, sign
    flips. None for a reference_based finding means `n`."""
    log10_p_adjusted: float | None = None
    """After Holm, over the `family_n` findings that were tested together; it then decides."""
    family_n: int | None = None
    effect: Effect | None = None
    assumptions: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    evidence: tuple[str, ...] = ()
    """Exchange ids."""
    run: Run | None = None
    accounts: tuple[str, ...] = ()
    """Pseudonyms of the accounts that the claim is about."""
    rank: int | None = None
    """1 + null draws at or above the statistic, rounded up where they are weighted."""
    e_threshold: float | None = None
    """What the e-value had to reach: 1/alpha or more, several hypotheses paid for."""
    signals: tuple[Signal, ...] = ()

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            remedy = "give what the rule asks for, or decide 'inconclusive'"
            raise InputError(f"not a sound finding: {fault}", self.claim, remedy)

    @property
    def e_value(self) -> float | None:
        """10^log10_e; 0 from LOG10_E_ZERO down, and no more than 1e308, which a float still holds."""
        if self.log10_e is None or self.log10_e <= LOG10_E_ZERO:
            return None if self.log10_e is None else 0.0
        return 10.0 ** min(self.log10_e, 308.0)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the same fields, `schema`, and `e_value`. Absent data stays null."""
        row = asdict(self)
        for name in _LISTS:
            row[name] = list(row[name])
        return {"schema": SCHEMA, **row, "e_value": self.e_value}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Finding:
        """The inverse of `to_json`. Raises SchemaError for another schema, InputError that names the field at fault."""
        values = dict(row)
        values.pop("e_value", None)  # derived from log10_e
        found = values.pop("schema", None)
        if found != SCHEMA:
            raise SchemaError(f"finding schema {found!r}, this version reads {SCHEMA!r}", remedy="update stillproof")
        claim = str(row.get("claim", ""))
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"unknown field {unknown[0]!r} in a finding", claim, "write it with Finding.to_json")
        try:
            for name, kind in (("effect", Effect), ("run", Run)):
                if values.get(name) is not None:
                    values[name] = kind(**values[name])
            values["checks"] = tuple(Check(**check) for check in values.get("checks", ()))
            values["signals"] = tuple(Signal(**signal) for signal in values.get("signals", ()))
            for name in ("assumptions", "evidence", "accounts"):
                values[name] = _texts(values.get(name, ()), name)
            return cls(**values)
        except TypeError as error:
            raise InputError(f"not a finding: {error}", claim, "write it with Finding.to_json") from error


def log10_e(e: float) -> float:
    """log10 of an e-value as a finding holds it: LOG10_E_ZERO for 0. Raises InputError for e < 0 or not finite."""
    if not (math.isfinite(e) and e >= 0):
        raise InputError(f"an e-value of {e!r}", remedy="give a finite number of 0 or more")
    return max(LOG10_E_ZERO, math.log10(e)) if e > 0 else LOG10_E_ZERO


def decide(log10_p: float, alpha: float, *, log10_floor: float = -math.inf) -> Decision:
    """found where p <= alpha; inconclusive where even the best p of these data would not have been enough."""
    if log10_floor > math.log10(alpha):
        return "inconclusive"
    return "found" if log10_p <= math.log10(alpha) else "not_found"


def holm(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with their p-values paid for by Holm, and decided again at their own alpha; inconclusive ones stay.

    The family is all findings that have a p-value, inconclusive ones included: they were looked at too. Raises
    InputError where design-based and reference-based findings, or none and some p-values, are mixed, or where e-BH has
    decided already.
    """
    from stillproof import stats

    if len({finding.kind for finding in findings}) > 1:
        raise InputError("design-based and reference-based findings in one family", remedy="correct each kind alone")
    if any(finding.e_threshold is not None for finding in findings):
        raise InputError("a finding selected by its e-value in Holm's family", remedy="it is paid for already")
    raw = [finding.log10_p for finding in findings if finding.log10_p is not None]
    if len(raw) < sum(finding.decision != "inconclusive" for finding in findings):
        raise InputError("a finding without a p-value in Holm's family", remedy="select e-values with e-BH instead")
    adjusted = iter(stats.holm_log10(raw).tolist())
    return [f if f.log10_p is None else _adjust(f, next(adjusted), len(raw)) for f in findings]


def _adjust(finding: Finding, log10_p: float, family_n: int) -> Finding:
    decision = finding.decision if finding.decision == "inconclusive" else decide(log10_p, finding.alpha)
    return replace(finding, log10_p_adjusted=log10_p, family_n=family_n, decision=decision)


def exit_code(findings: Iterable[Finding]) -> int:
    """3 where any finding found, else 4 where any is inconclusive, else 0."""
    decisions = {finding.decision for finding in findings}
    for decision in ("found", "inconclusive"):
        if decision in decisions:
            return EXIT_CODES[decision]
    return 0


def _fault(f: Finding) -> str | None:
    return _shape_fault(f) or _number_fault(f) or _decision_fault(f)


def _shape_fault(f: Finding) -> str | None:
    for name, allowed in (("verb", Verb), ("kind", Kind), ("decision", Decision)):
        if getattr(f, name) not in get_args(allowed):
            return f"{name} is {getattr(f, name)!r}, not one of {', '.join(get_args(allowed))}"
    for name in ("claim", "test", "null", "n_unit"):
        if not isinstance(getattr(f, name), str) or not getattr(f, name).strip():
            return f"{name} is empty"
    for signal in f.signals:
        if signal.combined not in get_args(Combined):
            return f"signal {signal.name!r} is combined {signal.combined!r}, not added or averaged"
    for name in ("n", "n_reference", "family_n", "rank"):
        value = getattr(f, name)
        if (value is not None or name == "n") and (type(value) is not int or value < 0):
            return f"{name} is {value!r}, not a count"
    return None


def _number_fault(f: Finding) -> str | None:
    for name, value in _numbers(f):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"{name} is {value!r}, not a number"
        if value is not None and not math.isfinite(value):
            return f"{name} is {value!r}; a p-value is never zero, and an unknown number is null"
    if not 0 < f.alpha < 1:
        return f"alpha is {f.alpha!r}"
    for name in ("log10_p", "log10_p_adjusted"):
        value = getattr(f, name)
        if value is not None and value > 0:
            return f"{name} is {value}, above 0"
    if f.log10_p_adjusted is not None and (f.log10_p is None or f.log10_p_adjusted < f.log10_p - 1e-9):
        return "log10_p_adjusted is below log10_p: a correction never makes a p-value smaller"
    return _floor_fault(f) or _e_fault(f)


def _numbers(f: Finding) -> Iterator[tuple[str, object]]:
    for name in ("statistic", "log10_p", "log10_e", "log10_p_adjusted", "alpha", "e_threshold"):
        yield name, getattr(f, name)
    for signal in f.signals:
        yield f"value of signal {signal.name!r}", signal.value
        yield f"bits of signal {signal.name!r}", signal.bits


def _e_fault(f: Finding) -> str | None:
    if f.rank is not None and (f.rank < 1 or (f.n_reference is not None and f.rank > f.n_reference + 1)):
        return f"rank is {f.rank} among {f.n_reference} null draws"
    if f.e_threshold is not None and f.log10_e is None:
        return "e_threshold without an e-value"
    if f.e_threshold is not None and f.e_threshold < (1 - 1e-9) / f.alpha:
        return f"e_threshold {f.e_threshold} is below 1/alpha: several hypotheses never need less than one"
    if f.log10_e is None or f.n_reference is None or f.kind != "reference_based":
        return None
    if f.log10_e > math.log10(f.n_reference + 1) + 1e-9:
        return f"log10_e is {f.log10_e}, more than a rank among {f.n_reference} null draws can give"
    return None


def _floor_fault(f: Finding) -> str | None:
    reference = f.n if f.n_reference is None and f.kind == "reference_based" else f.n_reference
    if f.log10_p is None or reference is None:
        return None
    floor = -math.log10(reference + 1)
    if f.log10_p < floor - 1e-9:
        return f"log10_p is {f.log10_p}, below the floor {floor:.4f} of a rank among {reference} null draws"
    return None


def _decision_fault(f: Finding) -> str | None:
    if f.decision == "inconclusive":
        return None
    if f.n == 0:
        return "n is 0 and yet it is decided"
    p = f.log10_p if f.log10_p_adjusted is None else f.log10_p_adjusted
    if f.log10_e is not None and (p is None or f.e_threshold is not None):
        needed = -math.log10(f.alpha) if f.e_threshold is None else math.log10(f.e_threshold)
        enough, number = f.log10_e >= needed - 1e-12, f"log10 e {f.log10_e}, to reach {needed},"
    elif p is not None:
        enough, number = p <= math.log10(f.alpha) + 1e-12, f"log10 p {p}"
    else:
        return "neither a p-value nor an e-value, and not inconclusive"
    if enough != (f.decision == "found"):
        return f"decision {f.decision!r} contradicts {number} at alpha {f.alpha}"
    return None


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{name} of a finding is not a list of texts", remedy="write it with Finding.to_json")
    return tuple(value)
