"""The twin test: exact p-values under the null, power where served answers are preferred, and what it refuses."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, Philox
from scipy import stats as scipy_stats

from stillproof.errors import ConfigError, InputError
from stillproof.finding import Finding
from stillproof.serve import KeyRing, Ledger
from stillproof.trace.flips import (
    AnytimeCoins,
    CoinSettings,
    Told,
    bets_log10_e,
    coin_finding,
    flip_log10_p,
    sign_log10_p,
    signs_log10_bound,
    wilcoxon_log10_p,
)
from stillproof.trace.pairs import Blind, Candidate, Processing, Twin, blind, likeness, mean_logprob, twins_in
from stillproof.trace.twins import (
    AnytimeTwins,
    TwinSettings,
    controlled,
    controlled_in_order,
    find_served,
    find_served_accounts,
)

LEVELS = (0.01, 0.05, 0.2)
ALPHA = 1e-3
PROCESSING = Processing("teacher", "engine 1", 0.8, max_tokens=200)

Scored = tuple[list[Twin], list[tuple[float | None, float | None]]]


def twin(i: int, coin: int = 0, **fields: object) -> Twin:
    texts = (f"the first answer to question {i}", f"another answer to question {i}")
    first, second = (Candidate(text, f"{i}.{side}", PROCESSING) for side, text in enumerate(texts))
    return replace(Twin(f"x{i}", "a", f"p{i}", f"f{i}", (first, second), coin), **fields)


def altered(pair: Twin, side: int, **fields: object) -> Twin:
    candidates = list(pair.candidates)
    candidates[side] = replace(candidates[side], **fields)
    return replace(pair, candidates=tuple(candidates))


def told() -> Told:
    return Told("claim", "test", "null", "units")


# --- tails against closed forms ------------------------------------------------------------------------------------


def test_the_sign_test_is_the_binomial_tail_without_the_ties() -> None:
    units = np.r_[np.full(70, 0.1), np.full(30, -5.0), np.zeros(11)]
    assert sign_log10_p(units) == pytest.approx(math.log10(scipy_stats.binom.sf(69, 100, 0.5)))
    assert sign_log10_p(np.zeros(4)) == flip_log10_p(np.zeros(4), seed=0) == wilcoxon_log10_p(np.zeros(4), seed=0) == 0


def test_wilcoxon_is_counted_out_as_scipy_does() -> None:
    rng = Generator(Philox(1))
    for n in (3, 10, 50, 200):
        units = rng.normal(0.2, 1, n)
        expected = scipy_stats.wilcoxon(units, alternative="greater", method="exact").pvalue
        assert wilcoxon_log10_p(units, seed=0) == pytest.approx(math.log10(expected), rel=1e-9)


def test_wilcoxon_with_equal_sizes_is_the_binomial_tail() -> None:
    units = np.r_[np.ones(40), -np.ones(12)]
    assert wilcoxon_log10_p(units, seed=0) == pytest.approx(sign_log10_p(units), rel=1e-9)


def test_all_signs_alike_give_two_to_the_minus_n() -> None:
    units = np.arange(1, 61) / 7
    least = -60 * math.log10(2)
    assert sign_log10_p(units) == pytest.approx(least)
    assert wilcoxon_log10_p(units, seed=0) == pytest.approx(least)
    assert least <= flip_log10_p(units, seed=0) < -15


@given(st.lists(st.floats(-100, 100).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=14))
def test_the_bound_is_never_below_the_tail(units: list[float]) -> None:
    exact = flip_log10_p(units, seed=0)
    assert signs_log10_bound(units) >= exact - 1e-9


@pytest.mark.parametrize("lead", [0, 40, 90, 150, 300])
def test_the_bound_is_near_the_binomial_tail_and_above_it(lead: int) -> None:
    units = np.r_[np.ones(500 + lead), -np.ones(500 - lead)]
    exact = sign_log10_p(units)
    assert exact <= signs_log10_bound(units) <= exact + 1.5


def test_a_sampled_p_is_used_down_to_its_floor_and_the_bound_only_there() -> None:
    rng = Generator(Philox(2))
    weak, strong = rng.normal(0.1, 1, 300), rng.normal(0.5, 1, 300)
    assert -4 < flip_log10_p(weak, seed=0) < 0
    assert flip_log10_p(strong, seed=0) == pytest.approx(signs_log10_bound(strong))
    assert flip_log10_p(strong, seed=0) < -10


# --- calibration: innocent suspects --------------------------------------------------------------------------------


def innocent_units(rng: Generator, n_families: int, shared_coin: bool) -> np.ndarray:
    """Preferences of a suspect that never saw an answer: alike within a family, heavy-tailed, some of them ties.

    With `shared_coin` one coin decided a whole family, as where answers are cached."""
    sizes = 1 + rng.geometric(0.4, n_families)
    family = np.repeat(np.arange(n_families), sizes)
    size = rng.standard_t(1.5, n_families)[family] + 0.2 * rng.normal(size=family.size)
    size[rng.random(family.size) < 0.1] = 0.0
    coins = rng.integers(0, 2, n_families)[family] if shared_coin else rng.integers(0, 2, family.size)
    return np.bincount(family, weights=np.where(coins == 1, size, -size), minlength=n_families)


@pytest.mark.parametrize("shared_coin", [False, True])
@pytest.mark.parametrize("n_families", [12, 40])
def test_every_p_value_is_valid_under_the_null(n_families: int, shared_coin: bool) -> None:
    rng, n = Generator(Philox([3, n_families])), 2000
    p = np.empty((n, 4))
    for i in range(n):
        units = innocent_units(rng, n_families, shared_coin)
        p[i] = (
            sign_log10_p(units),
            flip_log10_p(units, seed=i, n_flips=199),
            wilcoxon_log10_p(units, seed=i),
            signs_log10_bound(units),
        )
    for level in LEVELS:
        allowed = level + 3 * math.sqrt(level * (1 - level) / n)
        assert ((10**p <= level * (1 + 1e-9)).mean(axis=0) <= allowed).all()


def test_one_coin_for_many_answers_needs_families() -> None:
    rng = Generator(Philox(4))
    alarms = {"pairs": 0, "families": 0}
    for _ in range(400):
        units = np.where(rng.integers(0, 2, 12) == 1, 1.0, -1.0)
        alarms["pairs"] += sign_log10_p(np.repeat(units, 30)) <= -3
        alarms["families"] += sign_log10_p(units) <= -3
    assert alarms["pairs"] > 100
    assert alarms["families"] <= 3


def test_bets_alarm_no_more_often_than_declared_whenever_they_stop() -> None:
    rng, alpha, n = Generator(Philox(5)), 0.05, 10_000
    above = np.zeros(n, dtype=np.int64)
    most = np.zeros(n)
    for t in range(1, 301):
        above += rng.integers(0, 2, n)
        most = np.maximum(most, bets_log10_e(above, t - above))
    assert (most >= -math.log10(alpha)).mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / n)


def test_bets_have_mean_one() -> None:
    for n in (1, 7, 40):
        above = np.arange(n + 1)
        assert (scipy_stats.binom.pmf(above, n, 0.5) @ 10 ** bets_log10_e(above, n - above)) == pytest.approx(1)


# --- a world of served and sealed answers --------------------------------------------------------------------------


def served(rng: Generator, accounts: dict[str, int], effect: dict[str, float], per_family: int = 1) -> Scored:
    """Twins of accounts, and what a suspect makes of them: it prefers what was served by `effect` standard deviations
    of a preference, in mean."""
    twins: list[Twin] = []
    scores: list[tuple[float | None, float | None]] = []
    for account, count in accounts.items():
        for j in range(count):
            i, coin = len(twins), int(rng.integers(0, 2))
            twins.append(twin(i, coin, account=account, family=f"{account}/{j // per_family}"))
            first, second = rng.normal(-2, math.sqrt(0.5), 2)
            raised = effect.get(account, 0.0)
            scores.append((first + raised * (coin == 0), second + raised * (coin == 1)))
    return twins, scores


def test_a_slight_preference_of_a_quarter_sd_is_proof_with_2000_pairs() -> None:
    twins, scores = served(Generator(Philox(6)), {"a": 2000}, {"a": 0.25}, per_family=2)
    for primary in ("sign", "flip", "wilcoxon"):
        found = find_served(twins, scores, TwinSettings(CoinSettings(primary)))
        assert (found.decision, found.kind, found.n) == ("found", "design_based", 1000)
        assert found.log10_p < -10
        assert found.test == f"twins, mean log-probability, {primary}"
        assert len(found.evidence) == 2000
        assert Finding.from_json(found.to_json()) == found


def test_innocents_are_not_found() -> None:
    twins, scores = served(Generator(Philox(7)), {"a": 1000}, {}, per_family=4)
    found = find_served(twins, scores)
    assert (found.decision, found.n) == ("not_found", 250)


def test_holm_finds_the_right_account_among_a_thousand() -> None:
    """Effect: a preference of 0.3 sd, by which 62% of served answers are preferred."""
    accounts = {f"account {i}": 20 for i in range(999)} | {"guilty": 600}
    twins, scores = served(Generator(Philox(8)), accounts, {"guilty": 0.3})
    # Sampled p-values have a floor, which 1,000 accounts do not get over; the exact tests and the bound do.
    settings = TwinSettings(CoinSettings("wilcoxon", alpha=ALPHA, n_flips=999))
    found = find_served_accounts(twins, scores, settings)
    assert len(found) == 1000
    assert [f.accounts for f in found if f.decision == "found"] == [("guilty",)]
    guilty = found[-1]
    assert (guilty.n, guilty.family_n) == (600, 1000)
    assert guilty.log10_p_adjusted <= math.log10(ALPHA)
    assert "resale" in guilty.claim and "leak" in guilty.claim and "compromised" in guilty.claim


def test_an_account_that_was_served_the_same_text_is_not_named_by_another_coin() -> None:
    rng = Generator(Philox(9))
    twins, scores = served(rng, {"a": 600, "b": 600}, {"a": 0.5})
    found = {f.accounts[0]: f.decision for f in find_served_accounts(twins, scores)}
    assert found == {"a": "found", "b": "not_found"}


def test_text_only_suspects_are_found_by_likeness() -> None:
    rng = Generator(Philox(10))
    words = [f"word{i}" for i in range(40)]
    twins, scores = [], []
    for i in range(400):
        texts = [" ".join(rng.choice(words, 30)) for _ in range(2)]
        coin = int(rng.integers(0, 2))
        pair = altered(altered(twin(i, coin), 0, text=texts[0]), 1, text=texts[1])
        own = " ".join([*rng.choice(words, 24), *texts[coin].split()[:6]])
        twins.append(pair)
        scores.append((likeness(own, texts[0]), likeness(own, texts[1])))
    found = find_served(twins, scores, TwinSettings(score="likeness of its own answer"))
    assert found.decision == "found" and found.log10_p < -10


# --- blind to the coin ---------------------------------------------------------------------------------------------

texts = st.text(max_size=60)


@given(texts, texts, st.integers(1, 30), st.floats(1, 10))
def test_which_pairs_are_kept_does_not_change_when_the_candidates_swap(
    a: str, b: str, min_chars: int, ratio: float
) -> None:
    first, second = Candidate(a, "0", PROCESSING), Candidate(b, "1", PROCESSING)
    rules = Blind(min_chars, ratio)
    assert blind(first, second, rules) == blind(second, first, rules)


@given(st.integers(0, 2**32 - 1))
def test_other_coins_keep_the_same_pairs_and_turn_every_preference(seed: int) -> None:
    rng = Generator(Philox(seed))
    twins, scores = served(rng, {"a": 30}, {})
    scores[3] = (None, -1.0)
    turned = [replace(pair, coin=1 - pair.coin) for pair in twins]
    found, other = find_served(twins, scores), find_served(turned, scores)
    assert found.evidence == other.evidence
    assert found.statistic == pytest.approx(-other.statistic)


@given(st.integers(0, 2**32 - 1))
def test_naming_the_candidates_the_other_way_round_changes_nothing(seed: int) -> None:
    twins, scores = served(Generator(Philox(seed)), {"a": 30}, {"a": 0.3})
    swapped = [replace(pair, candidates=pair.candidates[::-1], coin=1 - pair.coin) for pair in twins]
    assert find_served(swapped, [pair[::-1] for pair in scores]) == find_served(twins, scores)


def test_ties_and_what_could_not_be_scored_are_left_out() -> None:
    twins, scores = served(Generator(Philox(11)), {"a": 40}, {"a": 1.0})
    scores[0], scores[1] = (-1.0, -1.0), (None, -2.0)
    found = find_served(twins, scores)
    assert found.n == 38
    assert any("1 ties left out" in check.detail for check in found.checks)
    assert any("1 of 40 pairs could not be scored" in check.detail for check in found.checks)


def test_a_suspect_that_hardly_answers_is_inconclusive() -> None:
    twins, scores = served(Generator(Philox(12)), {"a": 200}, {"a": 2.0})
    found = find_served(twins, [pair if i % 3 == 0 else (None, None) for i, pair in enumerate(scores)])
    assert (found.decision, found.log10_p) == ("inconclusive", None)


def test_too_few_pairs_are_inconclusive() -> None:
    twins, scores = served(Generator(Philox(13)), {"a": 9}, {"a": 9.0})
    assert find_served(twins, scores).decision == "inconclusive"
    few = CoinSettings(alpha=1e-6, min_units=5)
    assert find_served(twins, scores, TwinSettings(few)).decision == "inconclusive"


# --- conversations -------------------------------------------------------------------------------------------------


def adaptive(rng: Generator, n: int) -> Scored:
    """Innocent: where the first coin served the answer that the suspect prefers, the next turn's answers are alike;
    where it did not, they differ widely, so what comes second tells how the first coin fell."""
    twins, scores = [], []
    for c in range(n):
        coins = rng.integers(0, 2, 2)
        won = coins[0] == 0
        for turn, gap in ((0, 1.0), (1, 0.1 if won else 3.0)):
            twins.append(twin(2 * c + turn, int(coins[turn]), conversation=f"c{c}", turn=turn))
            scores.append((gap, 0.0))
    return twins, scores


def test_one_pair_of_each_conversation_is_kept_the_first_that_passes() -> None:
    twins, scores = adaptive(Generator(Philox(14)), 30)
    assert find_served(twins, scores).evidence == tuple(pair.id for pair in twins[::2])
    scores[0] = (None, None)
    assert find_served(twins, scores).evidence[0] == twins[1].id


def test_conversations_that_follow_their_coins_are_valid_by_first_turns_and_by_bets() -> None:
    rng, n = Generator(Philox(15)), 400
    settings = TwinSettings(CoinSettings("flip", alpha=0.05, n_flips=199))
    alarms = {"first": 0, "bets": 0}
    for _ in range(n):
        twins, scores = adaptive(rng, 12)
        alarms["first"] += find_served(twins, scores, settings).log10_p <= math.log10(0.05)
        audit = AnytimeTwins(settings)
        for pair, score in zip(twins, scores, strict=True):
            if not audit.enough:
                audit.add(pair, score)
        alarms["bets"] += audit.enough
    assert max(alarms.values()) <= n * (0.05 + 3 * math.sqrt(0.05 * 0.95 / n))


def test_whole_conversations_are_flipped_with_every_family_that_they_touch() -> None:
    twins = [
        twin(0, conversation="c", turn=0, family="f"),
        twin(1, conversation="c", turn=1, family="g"),
        twin(2, family="g"),
        twin(3, family="h"),
    ]
    settings = TwinSettings(CoinSettings(min_units=2, alpha=0.3), conversations="whole")
    found = find_served(twins, [(1.0, 0.0)] * 4, settings)
    assert found.n == 2 and len(found.evidence) == 4
    assert any("turns of a conversation did not depend" in line for line in found.assumptions)


# --- stopping early ------------------------------------------------------------------------------------------------


def test_an_audit_may_stop_when_it_has_seen_enough() -> None:
    twins, scores = served(Generator(Philox(16)), {"a": 2000}, {"a": 0.5})
    audit = AnytimeTwins()
    for pair, score in zip(twins, scores, strict=True):
        audit.add(pair, score)
        if audit.enough:
            break
    found = audit.finding()
    assert found.decision == "found" and found.log10_p is None and found.log10_e >= 3
    assert found.n < 400 and found.test.endswith("bets on signs")
    with pytest.raises(InputError, match="decided"):
        audit.add(twins[-1], scores[-1])


def test_an_audit_of_an_innocent_ends_without_a_finding() -> None:
    twins, scores = served(Generator(Philox(17)), {"a": 300}, {})
    audit = AnytimeTwins()
    for pair, score in zip(twins, scores, strict=True):
        audit.add(pair, score)
    assert audit.finding().decision == "not_found"
    assert AnytimeTwins().finding().decision == "inconclusive"


def test_turns_come_to_a_running_audit_in_order() -> None:
    audit = AnytimeTwins()
    audit.add(twin(0, conversation="c", turn=1), (0.0, 1.0))
    with pytest.raises(InputError, match="out of order"):
        audit.add(twin(1, conversation="c", turn=0), (0.0, 1.0))


# --- refused -------------------------------------------------------------------------------------------------------

MARKED = replace(PROCESSING, mark="commitment")
REFUSED = {
    "an unmarked shadow": altered(altered(twin(0), 0, processing=MARKED), 1, processing=PROCESSING),
    "the candidates differ in engine": altered(twin(0), 1, processing=replace(PROCESSING, engine="engine 2")),
    "the candidates differ in max_tokens, cut": altered(
        twin(0), 1, processing=replace(PROCESSING, cut="stop at a blank line", max_tokens=50)
    ),
    "temperature 0": altered(
        altered(twin(0), 0, processing=replace(PROCESSING, temperature=0.0)),
        1,
        processing=replace(PROCESSING, temperature=0.0),
    ),
    "a mark under which both answers are equal": altered(
        altered(twin(0), 0, processing=replace(MARKED, mark_repeats=True)),
        1,
        processing=replace(MARKED, mark_repeats=True),
    ),
    "drawn with one nonce": altered(twin(0), 1, nonce="0.0"),
    "from a cache": altered(twin(0), 1, cached=True),
    "a coin of 2": twin(0, 2),
}


@pytest.mark.parametrize("what", REFUSED)
def test_pairs_that_differ_by_more_than_the_coin_are_refused(what: str) -> None:
    with pytest.raises(InputError, match=what) as refusal:
        find_served([REFUSED[what]], [(0.0, 1.0)])
    assert refusal.value.which == "x0" and refusal.value.remedy
    with pytest.raises(InputError, match=what):
        AnytimeTwins().add(REFUSED[what], (0.0, 1.0))


def test_undeclared_temperature_0_is_seen_by_equal_answers() -> None:
    pairs = [altered(altered(twin(i), 0, text="the same answer"), 1, text="the same answer") for i in range(30)]
    with pytest.raises(InputError, match="30 of 30 pairs have two equal answers"):
        find_served(pairs, [(0.0, 0.0)] * 30)


def test_one_prompt_in_two_families_is_refused() -> None:
    with pytest.raises(InputError, match="two prompt families"):
        find_served([twin(0, prompt="p"), twin(1, prompt="p")], [(0.0, 1.0)] * 2)


def test_answers_that_come_again_are_refused() -> None:
    again = replace(twin(0), id="x1")
    with pytest.raises(InputError, match="cache"):
        find_served([twin(0), again], [(0.0, 1.0)] * 2)
    fresh = altered(altered(again, 0, nonce="1.0"), 1, nonce="1.1")
    with pytest.raises(InputError, match="earlier pair"):
        find_served([twin(0), replace(fresh, candidates=fresh.candidates[::-1])], [(0.0, 1.0)] * 2)


@pytest.mark.parametrize("scores", [[], [(math.nan, 0.0)], [(math.inf, 0.0)]])
def test_scores_that_are_none_are_refused(scores: list[tuple[float, float]]) -> None:
    with pytest.raises(InputError):
        find_served([twin(0)], scores)


def test_accounts_are_named_once_and_known() -> None:
    for accounts in ([], ["a", "a"], ["nobody"]):
        with pytest.raises(InputError):
            find_served_accounts([twin(0)], [(0.0, 1.0)], accounts=accounts)


@pytest.mark.parametrize("fields", [{"primary": "t"}, {"alpha": 0.0}, {"min_units": 1}, {"n_flips": 5}])
def test_settings_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        CoinSettings(**fields)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(InputError):
        coin_finding([0.0, math.nan], CoinSettings(), told())
    with pytest.raises(InputError):
        AnytimeCoins(CoinSettings(), told()).add(math.nan)
    with pytest.raises(ConfigError):
        Blind(0)


# --- scores and the ledger -----------------------------------------------------------------------------------------


def test_scores_of_nothing_are_none() -> None:
    assert mean_logprob([]) is None and mean_logprob([-1.0, -math.inf]) is None
    assert mean_logprob([-1.0, -3.0]) == -2.0
    assert likeness("", "an answer") is None
    assert likeness("An  Answer", "an answer") == 1.0


def test_twins_are_noted_tossed_and_read_back(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    ring.create("coins")
    with Ledger(tmp_path / "ledger", ring, "coins") as ledger:
        for i in range(40):
            ledger.note(f"x{i}", "twin", twin(i, conversation="c", turn=i).note())
            ledger.toss(f"x{i}", "twin", 2)
        read = twins_in(ledger)
        ledger.verify()
    assert {pair.coin for pair in read} == {0, 1}
    assert read == [twin(i, read[i].coin, conversation="c", turn=i) for i in range(40)]


@pytest.mark.parametrize("fault", ["no coin", "no note", "three sides", "another shape"])
def test_a_ledger_without_sound_twins_is_refused(tmp_path: Path, fault: str) -> None:
    ring = KeyRing(tmp_path / "keys")
    ring.create("coins")
    with Ledger(tmp_path / "ledger", ring, "coins") as ledger:
        if fault != "no note":
            ledger.note("x0", "twin", {"account": "a"} if fault == "another shape" else twin(0).note())
        if fault != "no coin":
            ledger.toss("x0", "twin", 3 if fault == "three sides" else 2)
        with pytest.raises(InputError) as refusal:
            twins_in(ledger)
    assert refusal.value.which == "x0"


# --- control models ----------------------------------------------------------------------------------------------


def both_sides(rng: Generator, n: int, noise: float, gain: float) -> tuple[Scored, list[tuple[float, float]]]:
    """Twins of which the suspect likes the served one `gain` better, and a control that knows how usual each is."""
    usual, coins = rng.normal(0, 1, (n, 2)), rng.integers(0, 2, n)
    own = 0.8 * usual + rng.normal(0, noise, (n, 2))
    own[np.arange(n), coins] += gain
    pairs = [twin(i, int(coin)) for i, coin in enumerate(coins)]
    return (pairs, [(a, b) for a, b in own.tolist()]), [(a, b) for a, b in usual.tolist()]


def test_a_control_leaves_what_it_cannot_expect() -> None:
    (pairs, scores), control = both_sides(Generator(Philox(3)), 400, 0.1, 0.0)
    left = np.array(controlled(scores, control))
    expected = np.array(scores) - 0.8 * np.array(control)
    assert np.abs(left - expected).max() < 0.1
    spread = (np.diff(left).std(), np.diff(np.array(scores)).std())
    assert spread[0] < spread[1] / 5
    assert find_served(pairs, controlled(scores, control)).decision == "not_found"


def test_a_control_finds_what_is_lost_without_it() -> None:
    (pairs, scores), control = both_sides(Generator(Philox(4)), 400, 0.1, 0.05)
    plain, less = (find_served(pairs, values).log10_p for values in (scores, controlled(scores, control)))
    assert plain is not None and less is not None
    assert plain > -3
    assert less < -8


def test_under_the_null_controlled_scores_are_found_no_more_often_than_the_level() -> None:
    rng, n_audits = Generator(Philox(5)), 2000
    (pairs, scores), control = both_sides(rng, 40, 0.3, 0.0)
    left = controlled(scores, control)
    settings = TwinSettings(CoinSettings("sign"))
    p = np.empty(n_audits)
    for i in range(n_audits):
        tossed = [replace(pair, coin=int(coin)) for pair, coin in zip(pairs, rng.integers(0, 2, 40), strict=True)]
        p[i] = 10 ** (find_served(tossed, left, settings).log10_p or 0.0)
    for level in LEVELS:
        assert (p <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / n_audits)


def test_controls_in_order_know_nothing_of_what_comes_later() -> None:
    rng = Generator(Philox(5))
    control = rng.normal(size=(300, 2))
    scores = 2 * control + rng.normal(0, 0.1, size=(300, 2))
    both = [tuple(row) for row in scores.tolist()], [tuple(row) for row in control.tolist()]
    whole, part = controlled_in_order(*both), controlled_in_order(*(rows[:120] for rows in both))
    assert whole[:120] == part
    late, all_at_once = np.array(whole[20:]), np.array(controlled(*both)[20:])
    assert np.abs(late - all_at_once).max() < 0.2
    assert whole[0] == both[0][0]


def test_bets_on_scores_controlled_in_order_alarm_no_more_often_than_declared() -> None:
    rng, alarms = Generator(Philox(6)), 0
    for _ in range(400):
        scores, control = (rng.normal(size=(150, 2)) for _ in range(2))
        left = np.array(controlled_in_order([tuple(r) for r in scores.tolist()], [tuple(r) for r in control.tolist()]))
        signs = (left[:, 1] - left[:, 0]) * rng.choice([-1, 1], size=150) > 0
        e = bets_log10_e(np.cumsum(signs), np.cumsum(~signs))
        alarms += bool((e >= 1).any())
    assert alarms <= 400 * 0.1 + 3 * math.sqrt(400 * 0.1 * 0.9)


def test_exchanging_candidates_exchanges_controlled_scores() -> None:
    (_, scores), control = both_sides(Generator(Philox(6)), 30, 0.3, 0.0)
    turned = [3, 7, 20]

    def swapped(rows: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [row[::-1] if i in turned else row for i, row in enumerate(rows)]

    assert np.allclose(controlled(swapped(scores), swapped(control)), swapped(controlled(scores, control)))


def test_a_pair_that_a_control_could_not_score_is_left_out_and_controls_must_fit() -> None:
    scores, control = [(0.1, 0.2), (0.3, 0.1), (0.5, 0.9)], [(0.2, 0.4), (None, 0.1), (0.0, 1.0)]
    left = controlled(scores, control)
    assert left[1] == (None, None)
    assert None not in left[0]
    for wrong in ([], [control[:2]]):
        with pytest.raises(InputError):
            controlled(scores, *wrong)
