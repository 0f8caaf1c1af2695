"""The twin test: of two exchangeable answers a coin served one. Does the suspect prefer those that were served?

Two candidates are drawn in one call, with the same processing and key but nonces of their own; then a recorded coin
decides which is served, and the other stays sealed. H0: given the two candidates, the coin is fair and independent of
the suspect. Nothing is assumed of the suspect, of the prompts, or of how likely either answer was; no watermark is
needed. Nearest in print: STAMP (ICML 2025), for documents.

What would make the two differ by more than the coin is refused: a shadow drawn later, by another engine, unmarked, or
cut differently; a mark under which both come out the same (Gumbel, one key); temperature 0; answers from a cache;
one prompt in two families. What is kept is decided by `blind`, which sees both candidates and not the coin.

- *Families.* Coins are flipped by prompt family, all pairs of a family together, so that near-duplicate prompts, whose
  answers may be correlated, are one unit.
- *Conversations.* The answer that a coin served shapes the turns after it, so those turns' candidates are not fixed
  when that coin is flipped. `conversations="first"` keeps the first pair that passes of each conversation: exact.
  `"whole"` keeps all and flips a conversation, and all families it touches, as one: exact where turns are fixed in
  advance, which is then an assumption. `AnytimeTwins` takes all turns in order and needs neither.

`controlled` takes out of the scores what control models expect: with the base that a student began from, that is
worth more than ten times the pairs.

Found by account, it names the account *to which the answers were served*, not who trained the suspect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import InputError
from stillproof.finding import Check, Finding, Run, holm
from stillproof.trace.flips import AnytimeCoins, CoinSettings, Told, by_account, coin_finding
from stillproof.trace.pairs import Blind, Door, Twin, blind

NULL = "given the two candidates, the coin that chose which was served is fair and independent of the suspect"
Scores = tuple[float | None, float | None]
"""What the suspect makes of candidates 0 and 1, in the order drawn; None where it could not be scored."""


@dataclass(frozen=True, slots=True)
class TwinSettings:
    """Fixed before the suspect is asked."""

    coins: CoinSettings = field(default_factory=CoinSettings)
    blind: Blind = field(default_factory=Blind)
    conversations: Literal["first", "whole"] = "first"
    score: str = "mean log-probability"
    """What the scores are, in words: it becomes part of the test's name."""


def find_served(
    twins: Sequence[Twin], scores: Sequence[Scores], settings: TwinSettings | None = None, *, run: Run | None = None
) -> Finding:
    """One finding over all accounts: did the suspect learn from answers that we served?

    `scores`: one pair a twin, candidates in the order drawn, computed without the coin. H0: NULL. Raises InputError
    for twins that are not exchangeable (see the module), and for scores that do not fit.
    """
    settings = settings or TwinSettings()
    kept, checks = _kept(twins, scores, settings)
    claim = "this model prefers answers that we served over twins of them that we never served: it learned from ours"
    return coin_finding(_units(kept, settings), settings.coins, _told(claim, settings, kept, checks, run))


def find_served_accounts(
    twins: Sequence[Twin],
    scores: Sequence[Scores],
    settings: TwinSettings | None = None,
    *,
    accounts: Sequence[str] | None = None,
    run: Run | None = None,
) -> list[Finding]:
    """One finding an account, in the order named or met, paid for by Holm over all of them. H0 of each: NULL, for the
    account's coins. Raises as `find_served`, and for an account named twice or without a twin."""
    settings = settings or TwinSettings()
    wanted = by_account([twin.account for twin in twins], accounts)
    kept, checks = _kept(twins, scores, settings)
    of_account: dict[str, list[tuple[Twin, float]]] = {account: [] for account in wanted}
    for twin, value in kept:
        if twin.account in of_account:
            of_account[twin.account].append((twin, value))
    found: list[Finding] = []
    for account, own in of_account.items():
        claim = (
            "this model prefers answers served to this account over twins of them that nobody was served: it learned "
            "from what was served to the account (resale, a leak or a compromised account are other explanations)"
        )
        told = _told(claim, settings, own, checks, run, (account,))
        found.append(coin_finding(_units(own, settings), settings.coins, told))
    return holm(found)


def controlled(scores: Sequence[Scores], *controls: Sequence[Scores]) -> list[Scores]:
    """Scores of a suspect less what control models would have let expect of them: the same null, far more power.

    Most of what tells two candidates apart is how usual each is, of which any model of the language knows much: the
    teacher that drew them, or an open model that the suspect may have begun from. `controls`: what each made of the
    same candidates, in the same order. From both scores of a pair `b` times the controls' are taken, `b` being fitted
    by least squares to the differences over all pairs. H0: twins.NULL, still: which candidate was served enters
    nowhere, and exchanging two candidates exchanges their scores and leaves `b` as it is. A pair that somebody could
    not score is (None, None). Raises InputError for controls of other lengths, or none.
    """
    whole, table = _table(scores, controls)
    differences = table[..., 1] - table[..., 0]
    slopes = np.linalg.lstsq(differences[:, 1:], differences[:, 0], rcond=None)[0]
    left = table[:, 0] - np.einsum("ncs,c->ns", table[:, 1:], slopes)
    told: list[Scores] = [(None, None)] * len(scores)
    for i, (first, second) in zip(whole, left.tolist(), strict=True):
        told[i] = (first, second)
    return told


def controlled_in_order(scores: Sequence[Scores], *controls: Sequence[Scores]) -> list[Scores]:
    """`controlled` for an audit that may stop early: `b` of each pair is fitted to the pairs before it alone.

    So it is known before the pair's coin is, also where later candidates depend on earlier coins, and bets on signs
    stay fair. The first pairs, of which nothing is known yet, are left as they are. H0, and errors, as `controlled`.
    """
    whole, table = _table(scores, controls)
    differences = table[..., 1] - table[..., 0]
    seen, hit = np.zeros((len(controls), len(controls))), np.zeros(len(controls))
    told: list[Scores] = [(None, None)] * len(scores)
    for place, i in enumerate(whole):
        slopes = np.linalg.lstsq(seen, hit, rcond=None)[0] if place >= _FITTED else np.zeros(len(controls))
        first, second = (table[place, 0] - slopes @ table[place, 1:]).tolist()
        told[i] = (first, second)
        seen += np.outer(differences[place, 1:], differences[place, 1:])
        hit += differences[place, 1:] * differences[place, 0]
    return told


_FITTED = 10
"""Pairs that a slope is fitted to, at least."""


def _table(scores: Sequence[Scores], controls: Sequence[Sequence[Scores]]) -> tuple[list[int], NDArray[np.float64]]:
    """Which pairs everybody scored, and their scores [pairs, 1 + controls, 2]."""
    if not controls or any(len(own) != len(scores) for own in controls):
        raise InputError("controls do not fit the scores", remedy="give one pair of scores a twin for each control")
    every = [scores, *controls]
    whole = [i for i in range(len(scores)) if all(None not in own[i] for own in every)]
    table = np.array([[own[i] for own in every] for i in whole], dtype=np.float64)
    return whole, table.reshape(-1, len(every), 2)


class AnytimeTwins:
    """Twins one by one, in the order in which they were served; stop as soon as the evidence is enough.

    Bets on the sign of each pair, every turn of a conversation included: a coin is fair given all before it. H0: NULL.
    The order is fixed before the suspect is asked. By Ville's inequality it ever finds under H0 with probability alpha
    at most.
    """

    def __init__(self, settings: TwinSettings | None = None, run: Run | None = None) -> None:
        self.settings = settings or TwinSettings()
        claim = "this model prefers answers that we served over twins of them that we never served"
        told = _told(claim, self.settings, (), (), run, unit="pairs")
        self._coins, self._door = AnytimeCoins(self.settings.coins, told), Door()
        self._turns: dict[tuple[str, str], int] = {}
        self._evidence: list[str] = []

    @property
    def log10_e(self) -> float:
        return self._coins.log10_e

    @property
    def enough(self) -> bool:
        return self._coins.enough

    def add(self, twin: Twin, scores: Scores) -> float:
        """log10 e after one more pair; one that is not kept changes nothing. Raises InputError for a pair that is not
        exchangeable, or once there is enough."""
        if self.enough:
            raise InputError("the audit is decided", twin.id, "report it with finding()")
        self._door.admit(twin)
        if twin.conversation is not None:
            place = (twin.account, twin.conversation)
            if self._turns.get(place, -1) >= twin.turn:
                raise InputError(
                    "the turns of a conversation are out of order", twin.id, "add them as they were served"
                )
            self._turns[place] = twin.turn
        value = _preference(twin, scores, self.settings.blind)
        if value is None:
            return self.log10_e
        self._evidence.append(twin.id)
        return self._coins.add(value)

    def finding(self) -> Finding:
        """What the evidence says now. Raises InputError where most answers are equal."""
        self._door.close()
        return replace(self._coins.finding(), evidence=tuple(self._evidence))


def _preference(twin: Twin, scores: Scores, rules: Blind) -> float | None:
    """The score of what was served less that of what was sealed; None where the pair is not kept."""
    first, second = scores
    if first is None or second is None or not blind(*twin.candidates, rules):
        return None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise InputError(f"scores {first!r} and {second!r}", twin.id, "give None where there is no score")
    return (second - first) if twin.coin else (first - second)


def _kept(
    twins: Sequence[Twin], scores: Sequence[Scores], settings: TwinSettings
) -> tuple[list[tuple[Twin, float]], tuple[Check, ...]]:
    if len(scores) != len(twins):
        raise InputError(f"{len(scores)} pairs of scores for {len(twins)} twins", remedy="give one pair a twin")
    door = Door()
    for twin in twins:
        door.admit(twin)
    door.close()
    passed: list[tuple[Twin, float]] = []
    silent = 0
    for twin, pair in zip(twins, scores, strict=True):
        silent += None in pair
        value = _preference(twin, pair, settings.blind)
        if value is not None:
            passed.append((twin, value))
    kept = passed if settings.conversations == "whole" else _first_of_each(passed)
    answered = Check("answered", silent <= len(twins) / 2, f"{silent} of {len(twins)} pairs could not be scored")
    detail = f"{len(kept)} of {len(twins)} pairs; {len(passed) - len(kept)} later turns of conversations left out"
    return kept, (answered, Check("kept", None, detail))


def _first_of_each(passed: Sequence[tuple[Twin, float]]) -> list[tuple[Twin, float]]:
    """The first pair of each conversation. An earlier one that was not kept is fine: nobody flips its coin."""
    first: dict[tuple[str, str], int] = {}
    for twin, _ in passed:
        if twin.conversation is not None:
            place = (twin.account, twin.conversation)
            if first.get(place) == twin.turn:
                raise InputError("two pairs of one turn of a conversation", twin.id, "number the turns")
            first[place] = min(twin.turn, first.get(place, twin.turn))
    return [
        (twin, value)
        for twin, value in passed
        if twin.conversation is None or first[twin.account, twin.conversation] == twin.turn
    ]


def _units(kept: Sequence[tuple[Twin, float]], settings: TwinSettings) -> list[float]:
    """Sums over what is flipped together: prompt families, joined where a whole conversation touches several."""
    roots: dict[tuple[str, ...], tuple[str, ...]] = {}

    def root(node: tuple[str, ...]) -> tuple[str, ...]:
        while roots.setdefault(node, node) != node:
            roots[node] = node = roots[roots[node]]
        return node

    whole = settings.conversations == "whole"
    for twin, _ in kept:
        if whole and twin.conversation is not None:
            roots[root(("conversation", twin.account, twin.conversation))] = root(("family", twin.family))
    sums: dict[tuple[str, ...], list[float]] = {}
    for twin, value in kept:
        sums.setdefault(root(("family", twin.family)), []).append(value)
    return [math.fsum(values) for values in sums.values()]


def _told(
    claim: str,
    settings: TwinSettings,
    kept: Sequence[tuple[Twin, float]],
    checks: tuple[Check, ...],
    run: Run | None,
    accounts: tuple[str, ...] = (),
    *,
    unit: str = "prompt families",
) -> Told:
    assumptions = [
        "the coins' key was committed to before serving, and the coins are those that it gives",
        "both candidates were drawn in one call, each with a nonce of its own; the sealed one was never shown",
        "families, rules and the test were fixed before the suspect was asked; scores were made without the coins",
        "unscored pairs and ties are left out, whichever candidate was served",
    ]
    if unit != "pairs":
        assumptions.append("which prompts came in other conversations did not depend on which answers were served")
        if settings.conversations == "whole":
            assumptions.append("the turns of a conversation did not depend on which earlier answers were served")
    if accounts:
        assumptions.append(
            "the account is the one to which the answers were served; resale, a leak or a compromised account "
            "would show the same"
        )
    evidence = tuple(twin.id for twin, _ in kept)
    return Told(claim, f"twins, {settings.score}", NULL, unit, tuple(assumptions), checks, evidence, accounts, run)
