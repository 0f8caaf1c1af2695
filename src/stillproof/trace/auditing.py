"""One audit by outputs, from a plan to a sealed bundle: asks, cuts, tests, seals. Goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stillproof.exchange import Exchange
from stillproof.finding import Finding
from stillproof.progress import OnEvent, ignore
from stillproof.teacher import Request, Teacher
from stillproof.trace.bundle import seal
from stillproof.trace.key_file import read_mark_key
from stillproof.trace.plan import Plan, check_key, read_plan
from stillproof.trace.sealing import Sealed
from stillproof.trace.suspect import Interview
from stillproof.trace.tokens import TextToIds, open_tokenizer
from stillproof.trace.verdict import Transcript, Watch, transcript_of


@dataclass(frozen=True, slots=True)
class AuditFiles:
    """Where an audit reads and writes."""

    plan: Path
    key: Path
    out: Path
    tokenizer: str | None = None
    """Where the plan's tokenizer is now, if it has moved."""


@dataclass(frozen=True, slots=True)
class AuditLimits:
    """What a run keeps to."""

    plan_id: str | None = None
    """As it was published; another plan is refused."""
    max_calls: int | None = None
    resume: bool = False
    reveal_key: bool = False


def audit_outputs(
    open_suspect: Callable[[], Teacher],
    files: AuditFiles,
    limits: AuditLimits | None = None,
    on_event: OnEvent = ignore,
) -> tuple[Finding, Sealed]:
    """Ask a suspect what the plan says, and conclude. Nothing is opened or asked before plan, key and tokenizer agree.

    Raises MismatchError where they do not, or where plan or suspect changed after the first query; CustodyError for a
    key that cannot be read; OutputExistsError; TeacherError and BudgetError where it stops early: what was answered is
    kept, and nothing is tested.
    """
    limits = limits or AuditLimits()
    plan, plan_id = read_plan(files.plan, plan_id=limits.plan_id)
    key = read_mark_key(files.key)
    check_key(plan, key)
    cut = _Cut(plan, open_tokenizer(plan.tokenizer, files.tokenizer))
    requests = plan.requests(plan_id)
    watch = Watch(plan, key) if plan.stopping == "anytime" else None

    def enough(so_far: Sequence[Exchange]) -> bool:
        new = cut.rows_after(so_far, requests)
        return watch is not None and watch.add(new)

    given = files.plan.read_bytes()
    with (
        closing(open_suspect()) as teacher,
        Interview(files.out, plan, plan_id, given, resume=limits.resume) as interview,
    ):
        interview.ask(teacher, requests, enough=enough, max_calls=limits.max_calls, on_event=on_event)
        sealed, finding = seal(files.out, plan, plan_id, key, cut.rows, reveal_key=limits.reveal_key)
    return finding, sealed


class _Cut:
    """Answers as transcripts, each cut once."""

    def __init__(self, plan: Plan, to_ids: TextToIds) -> None:
        self._plan, self._to_ids = plan, to_ids
        self.rows: list[Transcript] = []

    def rows_after(self, answers: Sequence[Exchange], requests: Sequence[Request]) -> list[Transcript]:
        done = len(self.rows)
        pairs = zip(answers[done:], requests[done:], strict=False)
        new = [transcript_of(exchange, request, self._plan, self._to_ids) for exchange, request in pairs]
        self.rows += new
        return new
