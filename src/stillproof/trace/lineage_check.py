"""`trace lineage`: where a model says it comes from, what that obliges it to, and which duties its folder meets.

lineage gives the tree, terms the duties; here each duty is held against the files. A duty is

    met      the artefact that it asks for is there
    unmet    it is not
    open     no file can show it: it is the operator's to answer (user limits, notices of a parent that is not at hand)

A file met is not a duty honoured: whether terms are passed on to users is not in a folder. Not legal advice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stillproof import lineage, terms
from stillproof.errors import InputError
from stillproof.finding import Finding
from stillproof.lineage.declared import MAX_CARD_BYTES
from stillproof.lineage.tree import Tester
from stillproof.terms.path import Composed, Model, Step, compose
from stillproof.terms.records import Duty, TermsRecord

DISCLAIMER = "A reading of declarations and public texts by a program; not legal advice."
NOTICE_FILES = ("notice", "notice.txt", "notice.md", "notices", "notices.txt")
UNDECLARED = "its weights match a model of the index that it does not declare"
MAX_FILES = 10_000

State = Literal["met", "unmet", "open"]


@dataclass(frozen=True, slots=True)
class DutyState:
    """One duty of one text, and whether the folder meets it."""

    record: str
    duty: str
    kind: str
    text: str
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a folder duties are held against: small texts by file, and the model's name."""

    name: str
    texts: Mapping[str, str]

    @property
    def card(self) -> str:
        return self.texts.get("README.md", "")

    @property
    def notice(self) -> str:
        return "\n".join(text for file, text in self.texts.items() if file.lower() in NOTICE_FILES)


def check_lineage(
    folder: Path,
    *,
    known: Mapping[str, Path] | None = None,
    test: Tester | None = None,
    monthly_users: int | None = None,
    matched: Mapping[str, Finding] | None = None,
) -> dict[str, Any]:
    """The tree of a model's folder, the terms along it, and the state of every duty.

    known: folders of parents by the name under which they are claimed. test: see `lineage.grow`.
    monthly_users: answers duties that bind from a number of users on.
    matched: findings of a fingerprint index, by the name of the model that was found.
    Keys of the result: model, licence, decision, why, tree, terms, duties, licence_conflict, as_teacher, gate,
    disclaimer. `gate` says why the terms or an unmet duty stand in the way; None where nothing does.
    Raises InputError where the folder cannot be read.
    """
    grown = _with_matches(lineage.grow(folder, known, test), matched or {})
    models = {node.name: Model(node.name, node.licence, node.declared_by, node.revision) for node in _nodes(grown)}
    steps = [Step(edge.child, edge.parent, edge.tie != "distilled_from") for edge in grown.edges]
    doubts = (*_doubts(grown), *(f"{UNDECLARED}: {name}" for name in undeclared(grown.to_json(), matched or {})))
    owed = compose(grown.root, models, steps, faults=doubts, own=False)
    teaching = compose(grown.root, models, steps, faults=doubts)
    shown = read_shown(folder)
    parents = {name: read_notices(at) for name, at in (known or {}).items() if name in models and at.is_dir()}
    duties = [duty_state(record, duty, shown, parents, monthly_users) for record, duty in owed.duties]
    own = compose(grown.root, models, ())
    conflict = _conflict(own, owed, models[grown.root].licence)
    unmet = [duty for duty in duties if duty.state == "unmet"]
    return {
        "model": grown.root,
        "licence": models[grown.root].licence,
        "decision": owed.decision,
        "why": owed.why,
        "tree": tree_lines(grown, owed),
        "lineage": grown.to_json(),
        "terms": [_answer_row(answer) for answer in owed.answers],
        "duties": [asdict(duty) for duty in duties],
        "licence_conflict": conflict,
        "as_teacher": {"decision": teaching.decision, "why": teaching.why},
        "gate": _gate(owed, unmet, conflict),
        "disclaimer": DISCLAIMER,
    }


def findings_as_test(findings: Mapping[Path, Finding]) -> Tester:
    """A tester that answers with findings made before, by the parent's folder."""
    held = {path.resolve(): finding for path, finding in findings.items()}
    return lambda child, parent: held.get(parent.resolve())


def _with_matches(grown: lineage.Lineage, matched: Mapping[str, Finding]) -> lineage.Lineage:
    """Edges of the root to models that its weights match are tested; a test of the weights themselves stands."""

    def tested(edge: lineage.Edge) -> lineage.Edge:
        finding = matched.get(edge.parent)
        held = edge.child != grown.root or edge.tie == "distilled_from" or edge.finding is not None
        return edge if finding is None or held else replace(edge, state="tested", finding=finding)

    return replace(grown, edges=tuple(map(tested, grown.edges)))


def undeclared(grown: Mapping[str, Any], matched: Mapping[str, Finding]) -> list[str]:
    """Models of the index that the weights match and that the lineage (`Lineage.to_json`) does not know."""
    return sorted(set(matched) - {node["name"] for node in grown["nodes"]})


def _nodes(grown: lineage.Lineage) -> list[lineage.Node]:
    return list(grown.nodes.values())


def _doubts(grown: lineage.Lineage) -> tuple[str, ...]:
    doubts = [f"the lineage goes round: {' -> '.join(cycle)}" for cycle in grown.cycles[:5]]
    doubts += [
        f"the weights contradict that {edge.child} comes from {edge.parent} ({edge.tie}, by {', '.join(edge.said_by)})"
        for edge in grown.edges
        if edge.state == "contradicted"
    ]
    return tuple(doubts)


def _conflict(own: Composed, owed: Composed, licence: str | None) -> str | None:
    """Why the licence that a model declares promises more than its ancestors let it; None where it does not."""
    if licence is None or terms.STRICTNESS[own.decision] >= terms.STRICTNESS[owed.decision]:
        return None
    return f"it declares {licence!r} ({own.decision}), and what it comes from is {owed.decision}: {owed.why}"


def _gate(owed: Composed, unmet: list[DutyState], conflict: str | None) -> str | None:
    if not owed.allowed:
        return f"the terms along the lineage are {owed.decision}: {owed.why}"
    if unmet:
        return f"{len(unmet)} duty(s) not met: {', '.join(f'{duty.record} {duty.duty}' for duty in unmet)}"
    return conflict if owed.decision != "allow_with_duties" else None


def _answer_row(answer: Any) -> dict[str, Any]:
    verdict = answer.verdict
    return {
        "model": answer.model.name,
        "use": "weights" if answer.derivative else "outputs",
        "licence": verdict.licence,
        "declared_by": answer.declared_by,
        "decision": verdict.decision,
        "record": None if verdict.record is None else verdict.record.id,
        "evidence": None if verdict.record is None else verdict.record.evidence,
        "why": verdict.why,
        "way": list(answer.way),
    }


# --- duties ---------------------------------------------------------------------------------------------------


def duty_state(
    record: TermsRecord, duty: Duty, shown: Shown, parents: Mapping[str, Shown], monthly_users: int | None
) -> DutyState:
    """Hold one duty against a folder. `parents`: what the parents' folders show, where they are at hand."""
    state, detail = _STATES[duty.kind](record, duty, shown, parents, monthly_users)
    return DutyState(record.id, duty.id, duty.kind, duty.text, state, detail)


def read_shown(folder: Path) -> Shown:
    """The small text files of a folder, by relative path, and the name that the model bears.

    Links are not followed. Raises InputError for more than MAX_FILES files.
    """
    if not folder.is_dir():
        return Shown(folder.stem, {})
    texts: dict[str, str] = {}
    for count, path in enumerate(sorted(folder.rglob("*"))):
        if count >= MAX_FILES:
            raise InputError(f"more than {MAX_FILES:,} files", str(folder), "give the folder of one model")
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_CARD_BYTES:
            texts[path.relative_to(folder).as_posix()] = path.read_bytes().decode("utf-8", "replace")
    return Shown(_model_name(folder, texts), texts)


def read_notices(folder: Path) -> Shown:
    """Of a parent: its NOTICE files alone. Links are not followed."""
    texts: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.lower() not in NOTICE_FILES or path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size <= MAX_CARD_BYTES:
            texts[name] = path.read_bytes().decode("utf-8", "replace")
    return Shown(folder.name, texts)


def _model_name(folder: Path, texts: Mapping[str, str]) -> str:
    """The manifest's name, else the card's first heading, else the folder's name."""
    if lineage.MANIFEST in texts:
        try:
            return lineage.read_manifest(folder).name
        except ValueError:
            pass  # A broken manifest is said by `declared`; it names nothing.
    heading = re.search(r"^# +(\S.*)$", texts.get("README.md", ""), re.MULTILINE)
    return heading[1].strip() if heading else folder.resolve().name


def _fold(text: str) -> str:
    return " ".join(text.split())


def _holds(text: str, words: str) -> bool:
    """Whether a Markdown text shows these words: escapes that keep them from being markup do not count."""
    return _fold(words) in _fold(re.sub(r"\\([^\w\s])", r"\1", text))


def _name_prefix(record: TermsRecord, duty: Duty, shown: Shown, *_: object) -> tuple[State, str]:
    return ("met" if shown.name.startswith(duty.value) else "unmet"), f"the name is {shown.name!r}"


def _attribution(record: TermsRecord, duty: Duty, shown: Shown, *_: object) -> tuple[State, str]:
    if _holds(shown.card, duty.value):
        return "met", "the words stand in README.md; repeat them where you present the model"
    return "unmet", f"README.md does not show {duty.value!r}"


def _agreement_copy(record: TermsRecord, duty: Duty, shown: Shown, *_: object) -> tuple[State, str]:
    file = _file_with(shown, duty.value)
    return ("met", f"in {file}") if file else ("unmet", f"no file is the text of {record.title}")


def _notice_text(record: TermsRecord, duty: Duty, shown: Shown, *_: object) -> tuple[State, str]:
    if _holds(shown.notice, duty.value):
        return "met", "in the NOTICE file"
    return "unmet", f"no NOTICE file holds {duty.value!r}"


def _change_notice(record: TermsRecord, duty: Duty, shown: Shown, *_: object) -> tuple[State, str]:
    met = re.search(r"\bmodified\b", shown.notice + shown.card, re.IGNORECASE)
    return ("met", "NOTICE or README.md says so") if met else ("unmet", "neither NOTICE nor README.md says 'modified'")


def _keep_notices(
    record: TermsRecord, duty: Duty, shown: Shown, parents: Mapping[str, Shown], *_: object
) -> tuple[State, str]:
    if not parents:
        return "open", "no parent's folder is at hand: give it with --parent NAME=DIR"
    missing = [name for name, parent in parents.items() if parent.notice and not _holds(shown.notice, parent.notice)]
    if missing:
        return "unmet", f"the NOTICE of {', '.join(missing)} is not carried on"
    return "met", "every NOTICE of the parents at hand is carried on"


def _use_restrictions(record: TermsRecord, duty: Duty, shown: Shown, *_: object) -> tuple[State, str]:
    if not duty.value.endswith(".txt"):
        met = _holds(shown.card, duty.value) or _holds(shown.notice, duty.value)
        return ("met", "the policy is named") if met else ("unmet", f"neither README.md nor NOTICE names {duty.value}")
    file = _file_with(shown, duty.value)
    if file is None:
        return "unmet", "the text of the restrictions is not among the files"
    if re.search(r"use[- ]restrictions?|use-based restrictions?", shown.card, re.IGNORECASE):
        return "met", f"the text is in {file}, and README.md binds the user to it"
    return "unmet", f"the text is in {file}, but README.md does not bind the user to use restrictions"


def _user_limit(
    record: TermsRecord, duty: Duty, shown: Shown, parents: Mapping[str, Shown], monthly_users: int | None
) -> tuple[State, str]:
    limit = int(duty.value)
    if monthly_users is None:
        return "open", f"say how many monthly users your products have with --users; the limit is {limit:,}"
    if monthly_users > limit:
        return "unmet", f"{monthly_users:,} monthly users, above {limit:,}: ask the licensor"
    return "met", f"{monthly_users:,} monthly users as you say, at most {limit:,}"


_STATES = {
    "name_prefix": _name_prefix,
    "attribution": _attribution,
    "agreement_copy": _agreement_copy,
    "notice_text": _notice_text,
    "change_notice": _change_notice,
    "keep_notices": _keep_notices,
    "use_restrictions": _use_restrictions,
    "user_limit": _user_limit,
}


def _file_with(shown: Shown, licence_file: str) -> str | None:
    """The file that is this text, white space folded; None where no file is."""
    wanted = _fold(terms.read_licence(licence_file))
    return next((file for file, text in shown.texts.items() if _fold(text) == wanted), None)


# --- the tree as lines ----------------------------------------------------------------------------------------


def tree_lines(grown: lineage.Lineage, owed: Composed, max_lines: int = 200) -> list[str]:
    """One line a model below the one that comes from it: how, the state of that claim, licence and decision."""
    decisions = {answer.model.name: answer.verdict.decision for answer in reversed(owed.answers)}
    parents = grown.parents()
    lines = [f"{grown.root} [{grown.nodes[grown.root].licence or 'no licence'}]"]
    waiting = [(edge, 1) for edge in reversed(parents[grown.root])]
    seen: set[str] = {grown.root}
    while waiting:
        edge, depth = waiting.pop()
        if len(lines) >= max_lines:
            return [*lines, f"... {len(grown.nodes):,} models in all"]
        node = grown.nodes[edge.parent]
        log10_p = edge.finding.log10_p if edge.finding else None
        state = edge.state if log10_p is None else f"{edge.state} p=1e{log10_p:.1f}"
        decided = decisions.get(edge.parent, "not asked")
        again = ", shown above" if edge.parent in seen else ""
        tail = f"{state} by {', '.join(edge.said_by)}; {node.licence or 'no licence'}: {decided}{again}"
        lines.append(f"{'  ' * depth}<- {edge.tie} {edge.parent} ({tail})")
        if edge.parent not in seen:
            seen.add(edge.parent)
            waiting += [(inner, depth + 1) for inner in reversed(parents[edge.parent])]
    return lines
