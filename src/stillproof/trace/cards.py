"""Evidence cards: does a suspect have the habits of form that coins gave to an account's answers?

A card is (account, scope, form): a coin chose on which of two sides of a form (`canary.py`) all answers of that scope
to that account were. H0: the coins are fair and independent of the suspect. The suspect is probed in pairs: *real*
probes are prompts of the card's scope, *fake* ones of a scope for which no card was planted. A preference is how much
more often it takes the form's second side than its first; the real one less the fake one, turned by the coin, is the
unit. The fake probe takes out what any model prefers by itself; the p-value is valid without it.

One card is one coin, however often it is probed: n is the number of cards, and the least p is 2^-n, so ten cards are
the fewest for p < 1e-3. Probes are counted in the suspect's own words, so nothing of ours need survive but the habit.
Nearest in print: AuxMark (NeurIPS 2026), for auxiliary actions of agents.

Found by account, it names the account *to which the answers were served*, not who trained the suspect.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stillproof.canary import form, found
from stillproof.errors import InputError
from stillproof.finding import Check, Finding, Run, holm
from stillproof.trace.flips import AnytimeCoins, CoinSettings, Told, by_account, coin_finding

NULL = "the coins that chose the side of each card are fair and independent of the suspect"

SIGN = CoinSettings("sign")
"""Declared in advance unless other settings are: the exact sign test over cards."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a suspect showed of one card in one pair of probes. A card may have several; their mean counts once."""

    account: str
    """Pseudonym."""
    scope: str
    form: str
    """Name in the registry of forms."""
    coin: int
    """0 or 1: the side that was planted."""
    real: float | None
    """Preference for side 1 over side 0 under the card's scope, -1 to 1; None where the form did not come up."""
    fake: float | None
    """The same where nothing was planted."""

    @property
    def card(self) -> tuple[str, str, str]:
        return self.account, self.scope, self.form


def preferences(answers: Iterable[str]) -> dict[str, float]:
    """(n1 - n0) / (n1 + n0) of each form's sides over a suspect's answers; forms that stand in none are absent."""
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for answer in answers:
        for name, (n0, n1) in found(answer).items():
            first[name] += n0
            second[name] += n1
    return {name: (second[name] - first[name]) / (second[name] + first[name]) for name in first}


def find_cards(probes: Sequence[Probe], settings: CoinSettings = SIGN, *, run: Run | None = None) -> Finding:
    """One finding over all accounts: did the suspect take on habits that our coins chose?

    H0: NULL. Cards whose form did not come up in both probes, and ties, are left out: neither depends on the coin under
    H0. Raises InputError for a card with two coins, an unknown form, or preferences out of range.
    """
    units = _units(probes)
    claim = "this model has habits of form that our coins gave to what we served: it learned from our answers"
    return coin_finding(list(units.values()), settings, _told(claim, probes, units, run))


def find_card_accounts(
    probes: Sequence[Probe],
    settings: CoinSettings = SIGN,
    *,
    accounts: Sequence[str] | None = None,
    run: Run | None = None,
) -> list[Finding]:
    """One finding an account, in the order named or met, paid for by Holm over all of them. Raises as `find_cards`,
    and for an account named twice or without a card."""
    wanted = by_account([probe.account for probe in probes], accounts)
    units = _units(probes)
    of_account: dict[str, list[Probe]] = {account: [] for account in wanted}
    for probe in probes:
        if probe.account in of_account:
            of_account[probe.account].append(probe)
    findings: list[Finding] = []
    for account, own in of_account.items():
        claim = (
            "this model has habits of form that coins gave to what was served to this account: it learned from that "
            "(resale, a leak or a compromised account are other explanations)"
        )
        mine = {card: value for card, value in units.items() if card[0] == account}
        findings.append(coin_finding(list(mine.values()), settings, _told(claim, own, mine, run, (account,))))
    return holm(findings)


class AnytimeCards:
    """Cards one by one, in an order fixed in advance; stop as soon as the evidence is enough. H0: NULL."""

    def __init__(self, settings: CoinSettings = SIGN, run: Run | None = None) -> None:
        claim = "this model has habits of form that our coins gave to what we served: it learned from our answers"
        self._coins = AnytimeCoins(settings, _told(claim, (), {}, run))
        self._seen: set[tuple[str, str, str]] = set()

    @property
    def log10_e(self) -> float:
        return self._coins.log10_e

    @property
    def enough(self) -> bool:
        return self._coins.enough

    def add(self, probes: Sequence[Probe]) -> float:
        """log10 e after all probes of one more card. Raises InputError for those of several cards, a card that was
        added before, or once there is enough."""
        cards = {probe.card for probe in probes}
        if len(cards) != 1 or cards & self._seen:
            raise InputError("probes of several cards, or of one added before", str(sorted(cards)), "add card by card")
        units = _units(probes)
        self._seen |= cards
        return self._coins.add(next(iter(units.values()), 0.0))

    def finding(self) -> Finding:
        """What the evidence says now."""
        return self._coins.finding()


def _units(probes: Sequence[Probe]) -> dict[tuple[str, str, str], float]:
    """One number a card that came up: the mean over its probes of real less fake, turned by its coin."""
    coins: dict[tuple[str, str, str], int] = {}
    contrasts: dict[tuple[str, str, str], list[float]] = {}
    for probe in probes:
        _check(probe)
        if coins.setdefault(probe.card, probe.coin) != probe.coin:
            raise InputError("a card with two coins", "/".join(probe.card), "one coin decides a card for good")
        if probe.real is not None and probe.fake is not None:
            contrasts.setdefault(probe.card, []).append(probe.real - probe.fake)
    return {card: math.fsum(values) / len(values) * (2 * coins[card] - 1) for card, values in contrasts.items()}


def _check(probe: Probe) -> None:
    form(probe.form)
    if probe.coin not in (0, 1) or not probe.account:
        raise InputError(
            f"a coin of {probe.coin!r}, or no account", "/".join(probe.card), "take it from canary.side_of"
        )
    if any(value is not None and not -1 <= value <= 1 for value in (probe.real, probe.fake)):
        raise InputError(
            f"preferences {probe.real!r} and {probe.fake!r}", "/".join(probe.card), "give -1 to 1, or None"
        )


def _told(
    claim: str,
    probes: Sequence[Probe],
    units: dict[tuple[str, str, str], float],
    run: Run | None,
    accounts: tuple[str, ...] = (),
) -> Told:
    cards = len({probe.card for probe in probes})
    checks = (Check("cards", None, f"{len(units)} of {cards} cards came up in both probes"),) if probes else ()
    assumptions = [
        "the key of the cards was committed to before serving, and the coins are those that it gives",
        "which cards, prompts and test are used was fixed before the suspect was asked, without the coins",
        "cards that do not come up, and ties, are left out",
    ]
    if accounts:
        assumptions.append(
            "the account is the one to which the answers were served; resale, a leak or a compromised account "
            "would show the same"
        )
    return Told(claim, "evidence cards", NULL, "cards", tuple(assumptions), checks, (), accounts, run)
