"""Terms along a lineage: the strictest ancestor decides, and every ancestor's duties are owed.

A model owes to an ancestor as a derivative of its weights where every step between them hands weights on; one step of
learning from outputs, anywhere on the way, makes it a student of outputs. Where both kinds of way lead to one
ancestor, both are asked and the stricter answer stands.

Five rules keep a wrong yes out, besides those of `terms`:
- A licence expression is read as SPDX reads it: AND binds to all, OR lets one choose, WITH and `+` are unknown here.
- An ancestor without a declared licence is unknown, and so is whatever comes from it.
- A lineage with a cycle, or with an edge that the weights contradict, is false somewhere: at best unknown.
- A model's own licence counts as well: whoever teaches with it is bound by it and by all that it comes from, and its
  answers are outputs of every model whose weights it holds.
- Of texts that let their weights improve nothing but their own derivatives, two in one model are unknown: neither says
  that the other's derivative is one of its own.

`repositories` holds which licence a (repository, revision) is under, each with its evidence, for ancestors of which
only the name is known. This is a reading of public texts for engineers. It is not legal advice.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from stillproof.errors import InputError, SchemaError
from stillproof.terms import STRICTNESS, Verdict, ask
from stillproof.terms.records import Decision, Duty, Evidence, TermsRecord

MAX_EXPRESSION_CHARS = 1_000
MAX_NESTING = 20
_NO_DAY = date.min


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a lineage, as far as terms look at it."""

    name: str
    licence: str | None
    declared_by: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """`child` comes from `parent`; weights: it holds or held its weights, else it learned from its outputs."""

    child: str
    parent: str
    weights: bool


@dataclass(frozen=True, slots=True)
class Repository:
    """Which licence a repository's model is under, at one revision or (None) at all that were seen."""

    repository: str
    revision: str | None
    licence: str
    evidence: Evidence
    source: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model of the lineage asks of the root. `way` leads from the root to it."""

    model: Model
    derivative: bool
    verdict: Verdict
    """Shared by all models under one licence, so it names none."""
    declared_by: str
    way: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Composed:
    """The answer for the root: the strictest of all, with every duty once."""

    decision: Decision
    answers: tuple[Answer, ...]
    duties: tuple[tuple[TermsRecord, Duty], ...]
    faults: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        return self.decision in ("allow", "allow_with_duties")

    @property
    def binding(self) -> tuple[Answer, ...]:
        """The answers that decide: those of the strictest decision."""
        return tuple(answer for answer in self.answers if answer.verdict.decision == self.decision)

    @property
    def why(self) -> str:
        """One sentence: who decides, or which fault does."""
        decided = [f"{answer.model.name}: {answer.verdict.why}" for answer in self.binding[:3]]
        more = len(self.binding) - len(decided)
        return "; ".join([*self.faults, *decided, *([f"and {more:,} more"] if more else [])])


def compose(
    root: str, models: Mapping[str, Model], steps: Iterable[Step], *, faults: Sequence[str] = (), own: bool = True
) -> Composed:
    """What all ancestors of `root` together say, and `root` itself where `own`. Linear in models and steps.

    own=True answers "may this model teach another?"; own=False "may this model be, given what it comes from?".
    faults: what makes the lineage doubtful; any makes the decision unknown at best.
    Raises InputError where a step names a model that is not in `models`.
    """
    answers = [
        Answer(models[name], derivative, verdict, said_by, way)
        for name, derivative, way in _ways(root, models, steps, teaches=own)
        if own or name != root
        for said_by, verdicts in [ask_all(models[name], derivative=derivative)]
        for verdict in verdicts
    ]
    if not answers:
        faults = (*faults, "nothing is declared about where it comes from")
    faults = (*faults, *_jealous(answers))
    answers.sort(key=lambda answer: -STRICTNESS[answer.verdict.decision])
    # A duty is owed to everybody on the way, also where a stricter ancestor already decides.
    duties: dict[tuple[str, str], tuple[TermsRecord, Duty]] = {}
    for answer in answers:
        if answer.verdict.record is not None:
            record = answer.verdict.record
            duties |= {(record.id, duty.id): (record, duty) for duty in answer.verdict.duties}
    worst: Decision = answers[0].verdict.decision if answers else "allow"
    if faults and STRICTNESS[worst] < STRICTNESS["unknown"]:
        worst = "unknown"
    return Composed(worst, tuple(answers), tuple(duties.values()), tuple(faults))


def ancestors_of(
    root: str, models: Mapping[str, Model], steps: Iterable[Step], *, weights: bool, faults: Sequence[str] = ()
) -> tuple[Verdict, ...]:
    """What the models that `root` comes from ask of a student of `root`, the strictest first; `root` is left out.

    weights: the student starts from the weights of `root`; else it learns from its outputs. Each verdict has the way
    from `root` to its model. Of models that allow on the same terms the first stands for all; of the others each one
    is given. A fault of the lineage is a verdict of its own, 'unknown', on `root`.
    """
    student = ""  # A name that no model bears.
    steps = [Step(student, root, weights), *steps]
    composed = compose(student, {**models, student: Model(student, None)}, steps, faults=faults, own=False)
    doubts = [
        Verdict("unknown", None, (), (), None, "its lineage", root, models[root].licence, why)
        for why in composed.faults
    ]
    found: dict[tuple[object, ...], Verdict] = {}
    for answer in composed.answers:
        name, verdict = answer.model.name, answer.verdict
        if name in (root, student):
            continue
        allows = verdict.decision in ("allow", "allow_with_duties")
        same = (verdict.licence, answer.derivative) if allows else (name, answer.derivative, verdict.licence)
        way = tuple(step for step in answer.way if step != student)
        found.setdefault(same, replace(verdict, model=name, declared_by=answer.declared_by, way=way))
    return (*doubts, *found.values())


def _jealous(answers: Iterable[Answer]) -> list[str]:
    """A fault where the weights of two texts are in one model, and each forbids all but its own derivatives."""
    held: dict[str, str] = {}
    for answer in answers:
        record = answer.verdict.record
        excepts = record is not None and (record.decision, record.own_derivative) == ("deny", "allow_with_duties")
        if record is not None and excepts and answer.derivative:
            held.setdefault(record.id, record.title)
    if len(held) < 2:
        return []
    return [f"{' and '.join(held.values())} each let weights improve their own derivatives only, and it holds both"]


def _ways(
    root: str, models: Mapping[str, Model], steps: Iterable[Step], *, teaches: bool
) -> Iterable[tuple[str, bool, tuple[str, ...]]]:
    """(model, reached by weights alone, way) once for each kind of way; the first way found is the one shown.

    teaches: ask also about the outputs of all whose weights the root holds, for a student of it learns from them.
    """
    parents: dict[str, list[Step]] = {}
    for step in steps:
        for name in (step.child, step.parent):
            if name not in models:
                raise InputError("a step of the lineage names a model that is not in it", name, "give every model")
        parents.setdefault(step.child, []).append(step)
    # The root itself is asked about as a teacher of others: its outputs, not a copy of its weights.
    waiting = [(root, True), *([(root, False)] if teaches else [])]
    came: dict[tuple[str, bool], tuple[str, bool] | None] = dict.fromkeys(waiting)
    for name, by_weights in waiting:
        for step in parents.get(name, ()):
            reached = (step.parent, by_weights and step.weights)
            if reached not in came:
                came[reached] = (name, by_weights)
                waiting.append(reached)
    for state in waiting:
        if state != (root, False) or not teaches:
            yield state[0], state[1] and state[0] != root, _way(state, came)


def _way(state: tuple[str, bool], came: Mapping[tuple[str, bool], tuple[str, bool] | None]) -> tuple[str, ...]:
    """The way back to the root; its middle is left out where it is long, so that 10,000 ways stay small."""
    way: list[str] = [state[0]]
    before = came[state]
    while before is not None and len(way) < 8:
        way.append(before[0])
        before = came[before]
    return tuple(reversed(way if before is None else [*way, "..."]))


# --- one model ------------------------------------------------------------------------------------------------


def ask_all(model: Model, *, derivative: bool) -> tuple[str, tuple[Verdict, ...]]:
    """Who says a model's licence, and the verdicts of that expression: one for each licence that binds, never none."""
    held = None if model.licence else repository_of(model.name, model.revision)
    licence, said_by = model.licence, model.declared_by or "not declared"
    if held is not None:
        licence, said_by = held.licence, f"repository record ({held.evidence}: {held.source})"
    verdicts = _verdicts(licence, derivative)
    if held is not None and held.evidence != "primary_text":
        verdicts = tuple(_only_reported(verdict) for verdict in verdicts)
    return said_by, verdicts


def _only_reported(verdict: Verdict) -> Verdict:
    """A licence known at second hand neither forbids nor allows; its duties are shown, for they may be owed."""
    return replace(verdict, decision="unknown", why=f"{verdict.why}, as reported only")


@lru_cache(maxsize=4_096)
def _verdicts(licence: str | None, derivative: bool) -> tuple[Verdict, ...]:
    whole = _ask(licence, derivative)
    if whole.record is not None or licence is None:
        return (whole,)
    try:
        return _read_expression(licence, derivative)
    except _NoExpression:
        return (whole,)


def _ask(licence: str | None, derivative: bool) -> Verdict:
    return ask(
        licence=licence, provider=None, model="", declared_by="", grant=None, today=_NO_DAY, derivative=derivative
    )


class _NoExpression(Exception):
    """It is one name, or no expression that is read here."""


def _read_expression(text: str, derivative: bool) -> tuple[Verdict, ...]:
    """AND: the verdicts of both sides. OR: those of the side whose strictest is the more lenient; left where equal."""
    if len(text) > MAX_EXPRESSION_CHARS:
        raise _NoExpression
    words = re.findall(r"[()]|[^\s()]+", text)
    if not any(word.upper() in ("AND", "OR") or word in "()" for word in words):
        raise _NoExpression
    verdicts, rest = _either(words, derivative, 0)
    if rest:
        raise _NoExpression
    return verdicts


def _either(words: list[str], derivative: bool, depth: int) -> tuple[tuple[Verdict, ...], list[str]]:
    best, words = _both(words, derivative, depth)
    while words and words[0].upper() == "OR":
        other, words = _both(words[1:], derivative, depth)
        if _worst(other) < _worst(best):
            best = other
    return best, words


def _both(words: list[str], derivative: bool, depth: int) -> tuple[tuple[Verdict, ...], list[str]]:
    all_of, words = _one(words, derivative, depth)
    while words and words[0].upper() == "AND":
        more, words = _one(words[1:], derivative, depth)
        all_of = (*all_of, *more)
    return all_of, words


def _one(words: list[str], derivative: bool, depth: int) -> tuple[tuple[Verdict, ...], list[str]]:
    if not words or depth > MAX_NESTING:
        raise _NoExpression
    if words[0] == "(":
        inner, rest = _either(words[1:], derivative, depth + 1)
        if not rest or rest[0] != ")":
            raise _NoExpression
        return inner, rest[1:]
    end = next((at for at, word in enumerate(words) if word in "()" or word.upper() in ("AND", "OR")), len(words))
    if end == 0:
        raise _NoExpression
    # "Apache-2.0 WITH x" is no record's name, so it is unknown, as it should be.
    return (_ask(" ".join(words[:end]), derivative),), words[end:]


def _worst(verdicts: Iterable[Verdict]) -> int:
    return max(STRICTNESS[verdict.decision] for verdict in verdicts)


# --- repositories ---------------------------------------------------------------------------------------------


def repository_of(name: str, revision: str | None) -> Repository | None:
    """The record of a repository: that of the revision, else that of all revisions. Names are compared without case."""
    held = repositories()
    return held.get((name.casefold(), revision)) or held.get((name.casefold(), None))


@cache
def repositories() -> Mapping[tuple[str, str | None], Repository]:
    """Which licence a (repository, revision) is under; the file data/repositories.toml of this package."""
    file = resources.files("stillproof") / "data" / "repositories.toml"
    return parse_repositories(file.read_text(encoding="utf-8"), "repositories.toml")


def parse_repositories(text: str, name: str) -> dict[tuple[str, str | None], Repository]:
    """The records in a TOML text. Raises SchemaError for a fault, and where a (repository, revision) stands twice."""
    held: dict[tuple[str, str | None], Repository] = {}
    try:
        for row in tomllib.loads(text).get("repositories", ()):
            record = _repository(row)
            key = (record.repository.casefold(), record.revision)
            if key in held:
                raise SchemaError(f"{record.repository!r} stands twice at one revision", name, "keep one")
            held[key] = record
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise SchemaError(f"not repository records: {error}", name, "see docs/terms.md") from None
    return held


def _repository(row: Mapping[str, Any]) -> Repository:
    unknown = sorted(set(row) - {field.name for field in fields(Repository)})
    texts = [row.get(name) for name in ("repository", "licence", "source")]
    if unknown or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TypeError(f"unknown key {unknown[0]!r}" if unknown else "repository, licence and source are texts")
    if row.get("evidence") not in get_args(Evidence):
        raise TypeError(f"evidence {row.get('evidence')!r}")
    return Repository(row["repository"], row.get("revision"), row["licence"], row["evidence"], row["source"])


def read_repositories(path: Path) -> dict[tuple[str, str | None], Repository]:
    """Records of your own, in a TOML file of the same form."""
    try:
        return parse_repositories(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", str(path), "give a TOML file in UTF-8") from None
