"""From the transcripts of an audit to its Finding: what the audit concludes, and what a replay concludes again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from stillproof.errors import MissingSignalError
from stillproof.exchange import Exchange
from stillproof.finding import Check, Finding, Run
from stillproof.trace.evidence import Reading, Tuples, closed_tuples, open_tuples
from stillproof.trace.plan import check_key
from stillproof.trace.radioactivity import AnytimeAudit, find_accounts, find_mark

if TYPE_CHECKING:
    from stillproof.teacher import Request
    from stillproof.trace.plan import Plan
    from stillproof.trace.tokens import TextToIds
    from stillproof.watermark import MarkKey


Candidates = tuple[tuple[int, float], ...]

_LEAST_LOGPROB = -4.7
"""Candidates below are not written down: open_tuples takes those of probability .01 or more."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One call of an audit, as token ids of the marked model's tokenizer."""

    id: str
    status: int | None
    time: datetime | None
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...] | None
    """None where there was no answer."""
    top: tuple[Candidates, ...] | None = None
    """Open mode: of each token of the answer, candidates in its place with their natural log-probabilities."""


def transcript_of(exchange: Exchange, request: Request, plan: Plan, to_ids: TextToIds) -> Transcript:
    """Raises MissingSignalError in open mode, where the suspect gave no log-probabilities over the plan's token ids."""
    answered = exchange.response is not None and exchange.status in (None, 200)
    prompt_ids = tuple(to_ids(plan.prompt_text(request)))
    start = Transcript(exchange.id, exchange.status, exchange.time, prompt_ids, None)
    if not answered:
        return start
    if plan.mode == "closed":
        return replace(start, answer_ids=tuple(to_ids(exchange.response or "")))
    return replace(start, **_own_tokens(exchange, plan))


def _own_tokens(exchange: Exchange, plan: Plan) -> dict[str, Any]:
    tokens, remedy = exchange.tokens, "plan closed mode, which needs the text alone"
    if tokens is None or tokens.ids is None or tokens.top_ids is None or tokens.top_logprobs is None:
        raise MissingSignalError("the suspect gave no log-probabilities of candidate ids", exchange.id, remedy)
    if tokens.tokenizer != plan.tokenizer.vocabulary_sha256:
        raise MissingSignalError("the suspect's token ids are not those of the plan's tokenizer", exchange.id, remedy)
    rows = zip(tokens.top_ids, tokens.top_logprobs, strict=True)
    return {"answer_ids": tuple(tokens.ids), "top": tuple(_likely(ids, logprobs) for ids, logprobs in rows)}


def _likely(ids: Sequence[int], logprobs: Sequence[float]) -> Candidates:
    return tuple((i, p) for i, p in zip(ids, logprobs, strict=True) if p >= _LEAST_LOGPROB)


class Watch:
    """An anytime audit that looks at the answers so far, batch by batch."""

    def __init__(self, plan: Plan, key: MarkKey) -> None:
        self._audit = AnytimeAudit(key, plan.commitment, plan.settings)
        self.counted: list[str] = []

    def add(self, rows: Sequence[Transcript]) -> bool:
        """Whether there is enough evidence, after these further rows or before their last."""
        for row in rows:
            if self._audit.enough:
                break
            if row.answer_ids is not None:
                self._audit.add(row.answer_ids, row.prompt_ids)
                self.counted.append(row.id)
        return self._audit.enough

    def finding(self, run: Run) -> Finding:
        return replace(self._audit.finding(run), evidence=tuple(self.counted))


def judge(plan: Plan, plan_id: str, key: MarkKey, rows: Sequence[Transcript], version: str) -> Finding:
    """The Finding of an audit that went as the plan says. H0: radioactivity.NULL.

    `version`: of stillproof, when the audit was made. A check that fails makes it inconclusive, without a p-value.
    Raises MismatchError where the key is not the plan's.
    """
    check_key(plan, key)
    run = Run("stillproof trace replay BUNDLE", plan_id, version, plan.seed)
    if plan.stopping == "anytime":
        watch = Watch(plan, key)
        watch.add(rows)
        finding = watch.finding(run)
    else:
        ids = [row.id for row in rows if row.answer_ids is not None]
        finding = find_mark(_tuples(plan, rows), key, plan.commitment, plan.settings, exchange_ids=ids, run=run)
    return _checked(_assuming(finding, plan, plan_id), [_answered(rows), after_plan(plan.made, rows)])


def judge_accounts(
    plan: Plan, plan_id: str, key: MarkKey, rows: Sequence[Transcript], version: str
) -> list[Finding] | None:
    """One Finding an account that the plan names, after Holm; None where it names none. Raises as `judge`."""
    if plan.accounts is None:
        return None
    check_key(plan, key)
    run = Run("stillproof trace replay BUNDLE", plan_id, version, plan.seed)
    found = find_accounts(_tuples(plan, rows), key, plan.commitment, plan.accounts, plan.settings, run=run)
    checks = [_answered(rows), after_plan(plan.made, rows)]
    return [_checked(_assuming(finding, plan, plan_id), checks) for finding in found]


def _assuming(finding: Finding, plan: Plan, plan_id: str) -> Finding:
    assumptions = (
        *finding.assumptions,
        f"the plan {plan_id} was fixed before the first query",
        f"answers are cut by the tokenizer of the model that served, vocabulary {plan.tokenizer.vocabulary_sha256}",
    )
    return replace(finding, assumptions=assumptions)


def _tuples(plan: Plan, rows: Sequence[Transcript]) -> Tuples:
    k = plan.scheme.k
    if plan.mode == "open":
        return open_tuples([_reading(row, k) for row in rows if row.answer_ids and row.top], k)
    answered = [(row.prompt_ids, row.answer_ids) for row in rows if row.answer_ids is not None]
    return closed_tuples([answer for _, answer in answered], k, [prompt for prompt, _ in answered])


def _reading(row: Transcript, k: int) -> Reading:
    """The suspect reading its prompt and then its own answer: what it expected in place of each token that it drew.

    Windows lie within the answer, whose start a chat template may hide from us."""
    answer, top = row.answer_ids or (), row.top or ()
    tokens = (*row.prompt_ids, *answer[:-1])
    shape = (len(tokens), max(1, *map(len, top)))
    ids, logprobs = np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf)
    for at, candidates in enumerate(top, len(row.prompt_ids) - 1):
        if at >= 0 and candidates:
            ids[at, : len(candidates)], logprobs[at, : len(candidates)] = zip(*candidates, strict=True)
    return Reading(tokens, ids, logprobs, len(row.prompt_ids) + k - 1)


def _checked(finding: Finding, checks: Sequence[Check]) -> Finding:
    finding = replace(finding, checks=(*checks, *finding.checks))
    if all(check.passed is not False for check in checks):
        return finding
    return without_number(finding)


def without_number(finding: Finding) -> Finding:
    """The finding as inconclusive, without a p-value or anything else that may be read as one."""
    return replace(
        finding,
        decision="inconclusive",
        log10_p=None,
        log10_e=None,
        log10_p_adjusted=None,
        family_n=None,
        effect=None,
        statistic=None,
    )


def _answered(rows: Sequence[Transcript]) -> Check:
    answers = [row.answer_ids for row in rows if row.answer_ids is not None]
    empty = sum(not ids for ids in answers)
    refused = len(rows) - len(answers)
    detail = (
        f"of {len(rows)} calls {len(answers) - empty} were answered, {empty} with nothing, {refused} refused; "
        f"{len(set(answers))} answers are distinct"
    )
    return Check("answered", len(answers) > empty, detail)


def after_plan(made: datetime, rows: Iterable[Transcript | Exchange]) -> Check:
    """Whether no answer is older than the plan."""
    times = [row.time for row in rows if row.time is not None]
    if not times:
        return Check("asked_after_plan", None, "answers carry no time")
    early = sum(time < made for time in times)
    detail = f"plan of {made.isoformat()}, first answer of {min(times).isoformat()}, {early} answers before it"
    return Check("asked_after_plan", early == 0, detail)
