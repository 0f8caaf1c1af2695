"""One audit by twins or cards, from a plan to a sealed bundle. Goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stillproof.errors import MismatchError
from stillproof.exchange import Exchange
from stillproof.progress import OnEvent, ignore
from stillproof.serve.custody import read_opening
from stillproof.teacher import Teacher
from stillproof.trace.auditing import AuditLimits
from stillproof.trace.coin_bundle import seal_coins
from stillproof.trace.coin_plan import CoinPlan, check_opening, check_served, read_any_plan
from stillproof.trace.coin_verdict import TwinWatch, Verdict
from stillproof.trace.sealing import Sealed
from stillproof.trace.served import read_served
from stillproof.trace.suspect import Interview


@dataclass(frozen=True, slots=True)
class CoinFiles:
    """Where an audit reads and writes."""

    plan: Path
    key: Path
    """Of the coins: NAME.vN.key of the key ring."""
    store: Path
    ledger: Path
    out: Path


def audit_coins(
    open_suspect: Callable[[CoinPlan], Teacher],
    files: CoinFiles,
    limits: AuditLimits | None = None,
    on_event: OnEvent = ignore,
) -> tuple[Verdict, Sealed]:
    """Ask a suspect what the plan says, and conclude. Nothing is opened or asked before plan, key and what was served
    agree.

    Raises MismatchError where they do not, or where plan or suspect changed after the first query; CustodyError,
    OutputExistsError, MissingSignalError; TeacherError and BudgetError where it stops early: what was answered is kept,
    and nothing is tested.
    """
    limits = limits or AuditLimits()
    plan, plan_id = read_any_plan(files.plan, plan_id=limits.plan_id)
    if not isinstance(plan, CoinPlan):
        raise MismatchError(
            "the plan is of radioactivity, not of twins or cards", str(files.plan), "leave out --served"
        )
    opening = read_opening(files.key)
    check_opening(plan, opening)
    served = read_served(files.store, files.ledger, plan.test, opening, ids=plan.ids or None)
    check_served(plan, served)
    requests = plan.requests(plan_id, served)
    watch = TwinWatch(plan, plan_id, served) if plan.stopping == "anytime" else None

    def enough(so_far: Sequence[Exchange]) -> bool:
        return watch is not None and watch.add({exchange.id: exchange for exchange in so_far})

    given = files.plan.read_bytes()
    with (
        closing(open_suspect(plan)) as suspect,
        Interview(files.out, plan, plan_id, given, resume=limits.resume) as interview,
    ):
        answers = interview.ask(suspect, requests, enough=enough, max_calls=limits.max_calls, on_event=on_event)
        sealed, verdict = seal_coins(
            files.out, plan, plan_id, served, answers, opening=opening, reveal_key=limits.reveal_key
        )
    return verdict, sealed
