"""Evidence cards: planting changes form and no fact, and the test finds the habits in students, and only there."""

import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator, Philox
from scipy import stats as scipy_stats

from stillproof import canary
from stillproof.canary import Form, facts, form, forms, found, plant, require_apart, side_of, sides_of
from stillproof.errors import InputError
from stillproof.trace.cards import AnytimeCards, Probe, find_card_accounts, find_cards, preferences
from stillproof.trace.flips import CoinSettings

KEY = bytes(range(32))
LEVELS = (0.01, 0.05, 0.2)
NAMES = ["Ada Lovelace", "Oslo", "Kim", "Mr. Maybe", "Müller & Sons", "the Perhaps", "O'Neill", "R. Often"]
PHRASES = [phrase for one in forms() if one.kind != "structure" for phrase in (one.first, one.second)]
PIECES = [
    *PHRASES,
    *(phrase[0].upper() + phrase[1:] for phrase in PHRASES),
    *NAMES,
    *("5 March 2024", "March 5, 2024", "12%", "12 percent", "3.5%", "1,200 percent", "2024", "7", "0.5", "-3"),
    *("- pears", "* apples", "- Figs", "* 5 March 2024", "1. Note that it boils", "2) stir", "12) May 1, 2024", "---"),
    *("## Soups", "**Soups of Oslo**", "## For example, Kim", "**x", "* * *"),
    *(
        '"for example, however"',
        "`often`",
        "```",
        "> perhaps",
        "| often | maybe |",
        "$often$",
        "https://often.org/maybe",
    ),
    *("a", "an", "not", "and", ",", ".", ":", "The", "often-used", "perhaps's"),
]

answers = st.lists(
    st.tuples(st.sampled_from(PIECES) | st.text(max_size=5), st.sampled_from([" ", "\n", "\n\n", ". ", ", ", ""])),
    max_size=25,
).map(lambda parts: "".join(piece + space for piece, space in parts))
choices = st.fixed_dictionaries({one.name: st.integers(0, 1) for one in forms()})
some_choices = st.dictionaries(st.sampled_from([one.name for one in forms()]), st.integers(0, 1))


def numbers(text: str) -> Counter[str]:
    return Counter(re.findall(r"\d+", text))


# --- planting ------------------------------------------------------------------------------------------------------


@given(answers, some_choices)
def test_planting_changes_no_number_name_or_other_fact(answer: str, sides: dict[str, int]) -> None:
    planted = plant(answer, sides).text
    assert numbers(planted) == numbers(answer)
    assert facts(planted) == facts(answer)
    for name in NAMES:
        assert planted.count(name) == answer.count(name)


@given(answers, choices)
def test_planting_twice_is_planting_once(answer: str, sides: dict[str, int]) -> None:
    once = plant(answer, sides)
    again = plant(once.text, sides)
    assert (again.text, again.present) == (once.text, once.present)


@given(answers, choices)
def test_what_was_planted_stands_on_its_side_only(answer: str, sides: dict[str, int]) -> None:
    planted = plant(answer, sides)
    if planted.changed:
        for name, counts in found(planted.text).items():
            assert counts[1 - sides[name]] == 0, name
    assert set(planted.changed) <= set(planted.present)


@given(answers, choices, choices)
def test_the_last_planting_decides(answer: str, before: dict[str, int], sides: dict[str, int]) -> None:
    if plant(answer, sides).changed and plant(answer, before).changed:
        assert found(plant(plant(answer, before).text, sides).text).keys() == found(plant(answer, sides).text).keys()


@given(answers)
def test_what_is_not_asked_for_is_left_alone(answer: str) -> None:
    assert plant(answer, {}).text == answer


TEXT = """## Soups of Oslo

On 5 March 2024, Kim often ate soup for example with 12% salt. However, it was hot.

- Pears
- apples
- figs

1. Boil it
2. Maybe stir
"""

TURNED = """**Soups of Oslo**

On March 5, 2024, Kim frequently ate soup for instance with 12 percent salt. Nevertheless, it was hot.

* Pears
* figs
* apples

1) Boil it
2) Maybe stir
"""


def test_an_answer_takes_every_form_that_it_has() -> None:
    planted = plant(TEXT, {one.name: 1 for one in forms()})
    assert planted.text == TURNED
    assert planted.present == (
        *("dates", "percent", "headings", "bullets", "numbering", "item_order"),
        *("example", "perhaps", "often", "however"),
    )
    assert set(planted.present) - set(planted.changed) == {"perhaps"}


@pytest.mark.parametrize(
    "kept",
    [
        'She said "for example, however" then.',
        "Call `often` now.",
        "```\nfor example 5% - x\n- b\n```",
        "~~~\n* often\n",
        "    for example, indented",
        "> for example, as he wrote",
        "| often | 5% |",
        "See https://often.org/for-example and $often$.",
        "The often-used word; O'Perhaps; perhaps's; maybe/perhaps; perhaps.org",
        "We met Mr. Perhaps, and J. Often sang Maybe Baby.",
        "an often heard word, a perhaps",
        "denim overall, the general moreover, it",
        "- 5 apples\n- 7 pears",
        "* * *",
        "1. 5 is odd",
        "Version 1.5 March 20245",
    ],
)
def test_what_is_quoted_code_a_name_or_a_formula_is_kept(kept: str) -> None:
    for side in (0, 1):
        assert plant(kept, {one.name: side for one in forms()}).text == kept


@pytest.mark.parametrize(
    "before, items",
    [
        ("The steps:", "- mix\n- cut\n- eat"),
        ("Do this:", "- first mix\n- cut\n- eat"),
        ("Two:", "- mix\n- cut"),
        ("Prices:", "- pear 3\n- apple 2\n- fig 1"),
        ("Long:", "- one two three four five six seven\n- b\n- a"),
        ("Nested:", "- pear\n- fig\n  - green"),
        ("Twice:", "- fig\n- apple\n- Fig"),
        ("A sentence goes on:", "- pear,\n- fig, and\n- apple."),
    ],
)
def test_items_whose_order_may_say_something_keep_it(before: str, items: str) -> None:
    text = f"{before}\n\n{items}\n"
    assert plant(text, {"item_order": 0}).text == plant(text, {"item_order": 1}).text == text


# --- coins ---------------------------------------------------------------------------------------------------------


def test_a_card_s_coin_is_fixed_by_key_account_scope_and_form() -> None:
    assert side_of(KEY, "a", "", "often") == sides_of(KEY, "a")["often"]
    assert [side_of(KEY, "account", "cooking", one.name) for one in forms()[:16]] == VECTOR
    others = (sides_of(bytes(32), "a"), sides_of(KEY, "b"), sides_of(KEY, "a", "cooking"))
    assert all(other != sides_of(KEY, "a") for other in others)


VECTOR = [0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0]


def test_coins_are_fair_and_differ_between_cards() -> None:
    names = [one.name for one in forms()]
    tossed = np.array([[side_of(KEY, f"account {i}", "", name) for name in names] for i in range(400)])
    assert scipy_stats.binomtest(int(tossed.sum()), tossed.size, 0.5).pvalue > 1e-4
    together = np.corrcoef(tossed.T) - np.eye(len(names))
    assert np.abs(together).max() < 5 / math.sqrt(400)


def test_only_forms_asked_for_are_tossed() -> None:
    assert sides_of(KEY, "a", names=["often", "dates"]).keys() == {"often", "dates"}


@pytest.mark.parametrize("key, account", [(b"short", "a"), (KEY, "")])
def test_a_card_needs_a_key_and_an_account(key: bytes, account: str) -> None:
    with pytest.raises(InputError):
        side_of(key, account, "", "often")


def test_unknown_forms_and_sides_are_refused() -> None:
    for wrong in ({"colour": 0}, {"often": 2}):
        with pytest.raises(InputError):
            plant("often", wrong)
    with pytest.raises(InputError, match="no form"):
        form("colour")


@pytest.mark.parametrize("phrases", [["in order to", "to be"], ["as well", "well"], ["so and so"], ["such a"]])
def test_phrases_that_overlap_are_refused(phrases: list[str]) -> None:
    with pytest.raises(InputError):
        require_apart(phrases)


def test_every_form_has_two_sides_that_differ() -> None:
    assert len({one.name for one in forms()}) == len(forms()) >= 40
    assert all(isinstance(one, Form) and one.first != one.second for one in forms())
    assert {one.name for one in forms() if one.kind == "structure"} == set(canary._STRUCTURES)


# --- the test ------------------------------------------------------------------------------------------------------


def test_a_preference_is_counted_over_answers() -> None:
    texts = ["We often met. Often, frequently.", "frequently", "nothing"]
    assert preferences(texts) == {"often": 0.0}
    assert preferences(["often, frequently, frequently, frequently"]) == {"often": 0.5}
    assert preferences(["nothing"]) == {}


def probes_of(rng: Generator, account: str, n: int, learned: float, scopes: int = 2) -> list[Probe]:
    """A student that took on `learned` of an account's habits; forms have preferences of their own, in all scopes."""
    names = [one.name for one in forms()]
    own = {name: float(rng.uniform(-0.9, 0.9)) for name in names}
    probes = []
    for i in range(n):
        name, coin = names[(i // scopes) % len(names)], int(rng.integers(0, 2))
        real = (1 - learned) * own[name] + learned * (2 * coin - 1)
        shown = [2 * rng.binomial(20, (1 + rate) / 2) / 20 - 1 for rate in (real, own[name])]
        probes.append(Probe(account, f"scope {i % scopes}", name, coin, *shown))
    return probes


def test_all_cards_alike_give_two_to_the_minus_n() -> None:
    probes = [Probe("a", str(i), "often", i % 2, 1.0 if i % 2 else -1.0, 0.0) for i in range(12)]
    found_them = find_cards(probes)
    assert found_them.log10_p == pytest.approx(-12 * math.log10(2))
    assert (found_them.decision, found_them.n, found_them.n_unit) == ("found", 12, "cards")
    assert found_them.kind == "design_based" and found_them.test == "evidence cards, sign"


def test_innocent_students_have_valid_p_values_whatever_they_prefer() -> None:
    rng, n = Generator(Philox(1)), 2000
    p = np.empty((n, 3))
    for i in range(n):
        probes = probes_of(rng, "a", 50, 0.0)
        # Without fake probes a student's strong own habits are all there is, in every scope alike.
        bare = [replace(probe, fake=0.0) for probe in probes]
        sign, ranks = (CoinSettings(name, n_flips=99) for name in ("sign", "wilcoxon"))
        p[i] = [
            find_cards(probes, sign).log10_p,
            find_cards(bare, sign).log10_p,
            find_cards(bare, ranks).log10_p,
        ]
    for level in LEVELS:
        assert ((10**p <= level * (1 + 1e-9)).mean(axis=0) <= level + 3 * math.sqrt(level * (1 - level) / n)).all()


def test_holm_names_the_account_whose_habits_were_learned() -> None:
    """Effect: three tenths of the planted habit, 80 cards of 20 probes; 39 others of 40 cards."""
    rng = Generator(Philox(2))
    probes = [probe for i in range(39) for probe in probes_of(rng, f"account {i}", 40, 0.0)]
    probes += probes_of(rng, "guilty", 80, 0.3)
    findings = find_card_accounts(probes)
    assert [one.accounts for one in findings if one.decision == "found"] == [("guilty",)]
    assert all(one.family_n == 40 for one in findings) and "resale" in findings[-1].claim


def test_cards_that_do_not_come_up_are_left_out_and_probes_of_one_card_count_once() -> None:
    card = Probe("a", "s", "often", 1, 0.5, 0.0)
    others = [replace(card, form=one.name) for one in forms()[:11]]
    probes = [card, replace(card, real=-0.1), *others, replace(card, scope="t", real=None)]
    result = find_cards(probes)
    assert result.n == 12
    assert any("12 of 13 cards" in check.detail for check in result.checks)


def test_few_cards_are_inconclusive() -> None:
    probes = [Probe("a", str(i), "often", 1, 1.0, 0.0) for i in range(9)]
    assert find_cards(probes).decision == "inconclusive"
    assert find_cards(probes, CoinSettings("sign", min_units=5)).decision == "inconclusive"
    assert find_cards([]).decision == "inconclusive"


@pytest.mark.parametrize(
    "fields", [{"coin": 2}, {"real": 1.5}, {"fake": math.nan}, {"form": "colour"}, {"account": ""}]
)
def test_probes_that_are_none_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        find_cards([replace(Probe("a", "s", "often", 1, 0.5, 0.0), **fields)])


def test_a_card_has_one_coin() -> None:
    card = Probe("a", "s", "often", 1, 0.5, 0.0)
    with pytest.raises(InputError, match="two coins"):
        find_cards([card, replace(card, coin=0)])


def test_cards_may_be_tested_one_by_one() -> None:
    rng = Generator(Philox(3))
    audit = AnytimeCards()
    for probe in probes_of(rng, "a", 100, 0.6):
        audit.add([probe])
        if audit.enough:
            break
    assert audit.finding().decision == "found" and audit.log10_e >= 3
    with pytest.raises(InputError):
        audit.add([probe])


# --- the closed loop: plant, paraphrase, learn, ask ----------------------------------------------------------------

WORDS = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(10) for j in range(10)]
SENTENCES = [one for one in forms() if one.kind in ("phrase", "opener")]
SCOPES = ("cooking", "travel")


def sentence(one: Form, side: int, rng: Generator) -> str:
    phrase = (one.first, one.second)[side]
    filler = " ".join(rng.choice(WORDS, 6))
    opened = phrase[0].upper() + phrase[1:]
    return f"{opened} {filler}." if one.kind == "opener" else f"It {filler} {phrase} {filler}."


def written(rates: dict[str, float], n: int, rng: Generator) -> list[str]:
    """Answers of a writer that takes a form's second side at its rate; every form stands in each."""
    return [" ".join(sentence(one, int(rng.random() < rates[one.name]), rng) for one in SENTENCES) for _ in range(n)]


def paraphrased(answer: str, own: dict[str, float], rng: Generator) -> str:
    """Seven words in ten replaced, and each form chosen anew by the paraphraser's own taste four times in ten."""
    fresh = {one.name: int(rng.random() < own[one.name]) for one in SENTENCES if rng.random() < 0.4}
    words = plant(answer, fresh).text.split(" ")
    return " ".join(
        str(rng.choice(WORDS)) + word[3:] if word[:3] in WORDS and rng.random() < 0.7 else word for word in words
    )


def overlap(a: str, b: str) -> float:
    grams = [Counter(zip(*(text.lower().split()[i:] for i in range(4)), strict=False)) for text in (a, b)]
    return (grams[0] & grams[1]).total() / grams[0].total()


def taste(rng: Generator) -> dict[str, float]:
    return {one.name: float(rng.uniform(0.1, 0.9)) for one in SENTENCES}


def student(rng: Generator, guilty: bool) -> list[Probe]:
    """A student whose rates move seven tenths of the way from its own to those of what it read, scope by scope."""
    own, teacher, paraphraser = taste(rng), taste(rng), taste(rng)
    key = rng.bytes(32)
    probes = []
    for scope in SCOPES:
        sides = sides_of(key, "account", scope, [one.name for one in SENTENCES])
        served = [plant(answer, sides).text for answer in written(teacher, 8, rng)]
        read = [paraphrased(answer, paraphraser, rng) for answer in served]
        assert np.mean([overlap(a, b) for a, b in zip(served, read, strict=True)]) <= 0.3
        learned = dict(own)
        if guilty:
            shown = preferences(read)
            learned = {name: 0.3 * own[name] + 0.7 * (1 + shown[name]) / 2 for name in own}
        real, fake = preferences(written(learned, 8, rng)), preferences(written(own, 8, rng))
        for name, coin in sides.items():
            probes.append(Probe("account", scope, name, coin, real.get(name), fake.get(name)))
    return probes


def test_habits_are_found_in_students_of_paraphrased_answers_and_not_in_others() -> None:
    """Paraphrase: 70% of words replaced, 40% of forms re-chosen, 4-gram overlap of at most .3."""
    decisions = {
        guilty: [find_cards(student(Generator(Philox([seed, guilty])), guilty)).decision for seed in range(12)]
        for guilty in (True, False)
    }
    assert decisions[True].count("found") >= 10
    assert decisions[False].count("found") == 0
