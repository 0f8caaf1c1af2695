"""An audit of a suspect that is there and lets nobody ask: inconclusive, not an error. Nothing is tested or sealed."""

from __future__ import annotations

from pathlib import Path

from stillproof.errors import BusyError
from stillproof.finding import Check, Finding, Run
from stillproof.store.journal import read_journal
from stillproof.trace import cards, radioactivity, twins
from stillproof.trace.coin_plan import CoinPlan
from stillproof.trace.plan import Plan
from stillproof.trace.suspect import ANSWERS_FILE

_NULLS = {"radioactivity": radioactivity.NULL, "twins": twins.NULL, "cards": cards.NULL}


def unfinished(plan: Plan | CoinPlan, plan_id: str, folder: Path, error: BusyError) -> Finding:
    """The finding of an audit that a rate limit stopped: no statistic and no p-value of the answers so far, which are
    kept in `folder`. H0: that of the plan's test, neither rejected nor looked at."""
    answers = folder / ANSWERS_FILE
    kept = len({exchange.id for exchange in read_journal(answers)}) if answers.exists() else 0
    detail = f"{kept} answers are kept; {error.what}. Go on with --if-exists resume"
    return Finding(
        claim="nothing: the suspect let nobody ask what the plan asks",
        verb="trace",
        test=plan.test,
        kind="design_based",
        null=_NULLS[plan.test],
        statistic=None,
        n=0,
        n_unit="answers tested",
        decision="inconclusive",
        alpha=plan.alpha,
        checks=(Check("answered", False, detail),),
        run=Run("stillproof trace outputs --if-exists resume", plan_id, plan.stillproof, plan.seed),
    )
