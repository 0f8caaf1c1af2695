"""From what a suspect answered to the findings of twins or cards: what an audit concludes, and a replay again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stillproof.exchange import Exchange
from stillproof.finding import Check, Finding, Run
from stillproof.trace.cards import find_card_accounts, find_cards, preferences
from stillproof.trace.coin_plan import CoinPlan, PlannedPlace, call_id, check_served
from stillproof.trace.pairs import likeness, mean_logprob
from stillproof.trace.places import says
from stillproof.trace.served import Served, probes_of, require_sound
from stillproof.trace.twins import (
    AnytimeTwins,
    Scores,
    controlled,
    controlled_in_order,
    find_served,
    find_served_accounts,
)
from stillproof.trace.verdict import after_plan, without_number

_ONE_ANSWER = 0.5
"""Where more of a suspect's answers than this are one text, it says the same whatever it is asked."""

_SILENT = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit concludes."""

    finding: Finding
    accounts: tuple[Finding, ...] = field(default=())
    """One an account that the plan names, after Holm."""

    @property
    def every(self) -> tuple[Finding, ...]:
        return (self.finding, *self.accounts)


def judge_coins(plan: CoinPlan, plan_id: str, served: Served, answers: Mapping[str, Exchange], version: str) -> Verdict:
    """The findings of an audit that went as the plan says. H0: twins.NULL or cards.NULL.

    `answers`: by the ids of the plan's calls. A check that fails makes a finding inconclusive, without a p-value.
    Raises MismatchError where `served` is not the plan's, InputError where its twins are not exchangeable.
    """
    check_served(plan, served)
    run = Run("stillproof trace replay BUNDLE", plan_id, version, plan.seed)
    if plan.test == "cards":
        verdict = _cards(plan, plan_id, served, answers, run)
    else:
        require_sound(served)
        verdict = _twins(plan, served, scores_of(plan, plan_id, served, answers), run)
    checks = _checks(plan, answers.values())
    return Verdict(*_completed(plan, plan_id, verdict, checks))


def scores_of(plan: CoinPlan, plan_id: str, served: Served, answers: Mapping[str, Exchange]) -> list[Scores]:
    """What the suspect makes of both candidates of each twin that was asked, the coins unseen."""
    if plan.places is not None:
        return _scores_at(plan.places.at, plan_id, served, answers)
    scores: list[Scores] = []
    for number, twin in enumerate(served.twins):
        if plan.score == "logprobs":
            read = [answers.get(call_id(plan_id, number, side)) for side in (0, 1)]
            if None in read:
                break
            first, second = (_logprob(exchange) for exchange in read)
        else:
            own = [answers.get(call_id(plan_id, number, sample)) for sample in range(plan.asking.samples)]
            if None in own:
                break
            first, second = (_likeness(own, candidate.text) for candidate in twin.candidates)
        scores.append((first, second))
    return scores


def _scores_at(
    places: Sequence[PlannedPlace], plan_id: str, served: Served, answers: Mapping[str, Exchange]
) -> list[Scores]:
    """Hits less expected ones over a candidate's places. A twin without any is a tie, one with a place that was not
    answered has no score."""
    sums = [[0.0, 0.0] for _ in served.twins]
    silent: set[int] = set()
    for number, place in enumerate(places):
        exchange = answers.get(call_id(plan_id, number, 0))
        if exchange is None or not answered(exchange):
            silent.add(place.twin)
        else:
            hit = says(exchange.response or "", place.text)
            sums[place.twin][place.side] += hit - place.expected
    return [(None, None) if i in silent else (first, second) for i, (first, second) in enumerate(sums)]


class TwinWatch:
    """An anytime audit that looks at the answers so far, batch by batch."""

    def __init__(self, plan: CoinPlan, plan_id: str, served: Served) -> None:
        self._plan, self._plan_id, self._served = plan, plan_id, served
        self._audit, self._done = AnytimeTwins(plan.twins), 0

    def add(self, answers: Mapping[str, Exchange]) -> bool:
        """Whether there is enough evidence in the answers so far."""
        scores = _less_controls(self._plan, scores_of(self._plan, self._plan_id, self._served, answers))
        for twin, pair in zip(self._served.twins[self._done : len(scores)], scores[self._done :], strict=True):
            if self._audit.enough:
                break
            self._audit.add(twin, pair)
            self._done += 1
        return self._audit.enough


def _twins(plan: CoinPlan, served: Served, scores: Sequence[Scores], run: Run) -> Verdict:
    twins, scores = served.twins[: len(scores)], _less_controls(plan, scores)
    if plan.stopping == "anytime":
        audit = AnytimeTwins(plan.twins, run)
        for twin, pair in zip(twins, scores, strict=True):
            if audit.enough:
                break
            audit.add(twin, pair)
        return Verdict(audit.finding())
    accounts: list[Finding] = []
    if plan.accounts is not None:
        accounts = find_served_accounts(twins, scores, plan.twins, accounts=plan.accounts, run=run)
    return Verdict(find_served(twins, scores, plan.twins, run=run), tuple(accounts))


def _less_controls(plan: CoinPlan, scores: Sequence[Scores]) -> Sequence[Scores]:
    if not plan.controls:
        return scores
    less = controlled if plan.stopping == "all" else controlled_in_order
    return less(scores, *(control.scores[: len(scores)] for control in plan.controls))


def _cards(plan: CoinPlan, plan_id: str, served: Served, answers: Mapping[str, Exchange], run: Run) -> Verdict:
    said: dict[str | None, list[str]] = {}
    for number, row in enumerate(plan.prompts):
        for sample in range(plan.asking.samples):
            exchange = answers.get(call_id(plan_id, number, sample))
            if exchange is not None and answered(exchange):
                said.setdefault(row.scope, []).append(exchange.response or "")
    real = {scope: preferences(texts) for scope, texts in said.items() if scope is not None}
    planned_fakes = any(row.scope is None for row in plan.prompts)
    probes = probes_of(served, real, preferences(said.get(None, [])) if planned_fakes else None)
    accounts: list[Finding] = []
    if plan.accounts is not None:
        accounts = find_card_accounts(probes, plan.coins, accounts=plan.accounts, run=run)
    return Verdict(find_cards(probes, plan.coins, run=run), tuple(accounts))


def _checks(plan: CoinPlan, answers: Iterable[Exchange]) -> tuple[Check, ...]:
    every = list(answers)
    fine = [exchange for exchange in every if answered(exchange)]
    reads = plan.test == "twins" and plan.score == "logprobs"
    told = sum(_logprob(exchange) is not None for exchange in fine) if reads else None
    said = sum(bool((exchange.response or "").strip()) for exchange in fine)
    what = f"{told} with log-probabilities" if told is not None else f"{said} with text"
    detail = f"of {len(every)} calls {len(fine)} were answered, {what}, {len(every) - len(fine)} refused"
    good = said if told is None else told
    checks = [Check("answered", bool(good) and good >= (1 - _SILENT) * len(every), detail)]
    if not reads and len(fine) > 1:
        common = max(Counter((exchange.response or "").strip() for exchange in fine).values())
        varied = common <= max(1, _ONE_ANSWER * len(fine))
        checks.append(Check("answers_differ", varied, f"the commonest answer came {common} times of {len(fine)}"))
    return (*checks, after_plan(plan.made, every))


def _completed(
    plan: CoinPlan, plan_id: str, verdict: Verdict, checks: tuple[Check, ...]
) -> tuple[Finding, tuple[Finding, ...]]:
    further = [
        f"the plan {plan_id} was fixed before the first query",
        "of a key that was not revealed, the coins are its own as far as who holds it can be believed",
    ]
    if plan.test == "cards" and all(row.scope is not None for row in plan.prompts):
        further.append("no fake probes: a habit is compared with no habit, not with what the model does elsewhere")
    if plan.controls or plan.places is not None:
        what = (
            "where words are asked for, and what is expected,"
            if plan.places is not None
            else "what control models expect"
        )
        further.append(f"{what} was made without the coins; who has the model that the plan names can make it again")
    failed = any(check.passed is False for check in checks)

    def one(finding: Finding) -> Finding:
        finding = replace(finding, checks=(*checks, *finding.checks), assumptions=(*finding.assumptions, *further))
        return without_number(finding) if failed else finding

    return one(verdict.finding), tuple(one(finding) for finding in verdict.accounts)


def answered(exchange: Exchange) -> bool:
    return exchange.response is not None and exchange.status in (None, 200)


def _logprob(exchange: Exchange | None) -> float | None:
    if exchange is None or not answered(exchange) or exchange.tokens is None or exchange.tokens.logprobs is None:
        return None
    return mean_logprob(exchange.tokens.logprobs)


def _likeness(own: Sequence[Exchange | None], candidate: str) -> float | None:
    """Mean over the suspect's own answers; None where none of them can be compared."""
    texts = [exchange.response or "" for exchange in own if exchange is not None and answered(exchange)]
    values = [value for value in (likeness(text, candidate) for text in texts) if value is not None]
    return math.fsum(values) / len(values) if values else None
