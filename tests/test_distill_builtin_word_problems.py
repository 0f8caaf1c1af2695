"""The built-in word problems: many, all different, right in every calculation, and in sound English."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import chain

import pytest

from stillproof.config import DataConfig
from stillproof.distill.builtin import WORD_PROBLEM_SIZES, corpus_digest, word_problems
from stillproof.distill.builtin.word_problems import (
    WordProblemSplit,
    _evaluated,
    _new_problem,
    _problem_book,
    _ProblemBook,
    _problems,
    _quantities,
    _Scenario,
    _told,
)
from stillproof.distill.corpus import check_no_overlap, read_documents
from stillproof.errors import InputError
from stillproof.exchange import Exchange

SPLITS: tuple[WordProblemSplit, ...] = ("train", "test", "new")
NUMBER = r"\$?\d+(?:\.\d\d)?"
CALCULATION = re.compile(rf"({NUMBER}(?: [-+x/] {NUMBER})+) = ({NUMBER})")
PRONOUN = re.compile(r"\{(she|her|them|herself)\}")


class FixedRandom:
    """Draws that are all the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.fixture(scope="module")
def problems() -> dict[WordProblemSplit, list[Exchange]]:
    return {split: word_problems(split) for split in SPLITS}


def problem_of(exchange: Exchange) -> str:
    (message,) = exchange.messages
    assert message.role == "user"
    assert message.content is not None
    return message.content


def solution_of(exchange: Exchange) -> str:
    assert exchange.response is not None
    return exchange.response


def folded(text: str) -> str:
    return " ".join(text.split())


def number(shown: str) -> Fraction:
    return Fraction(shown.removeprefix("$"))


def worked_out(calculation: str) -> Fraction:
    """The value of 'a x b + c', products and quotients first, each from left to right."""
    total = Fraction(0)
    for term in re.split(r" (?=[-+] )", f"+ {calculation}"):
        sign, first, *rest = term.split()
        value = number(first)
        for operator, shown in zip(rest[::2], rest[1::2], strict=True):
            value = value * number(shown) if operator == "x" else value / number(shown)
        total += -value if sign == "-" else value
    return total


def test_the_splits_have_their_sizes_and_the_length_of_a_short_paragraph(
    problems: dict[WordProblemSplit, list[Exchange]],
) -> None:
    assert {split: len(items) for split, items in problems.items()} == WORD_PROBLEM_SIZES
    assert WORD_PROBLEM_SIZES == {"train": 3_600, "test": 200, "new": 120}
    lengths = [len(problem_of(item)) + len(solution_of(item)) for item in problems["train"]]
    assert 350 <= sum(lengths) / len(lengths) <= 450
    assert min(lengths) >= 200
    assert max(lengths) <= 700


def test_no_problem_comes_twice_in_any_split(problems: dict[WordProblemSplit, list[Exchange]]) -> None:
    texts = [folded(problem_of(item)) for item in chain(*problems.values())]
    assert len(set(texts)) == len(texts)


def test_new_tells_of_situations_that_occur_nowhere_else_and_every_scenario_is_used() -> None:
    used = {split: {problem.scenario for problem in _problems(split)} for split in SPLITS}
    assert used["train"] == used["test"]
    assert not used["new"] & used["train"]
    assert len(used["new"]) >= 10
    assert used["new"] | used["train"] == set(_problem_book().scenarios)
    assert len(_problem_book().scenarios) >= 70


def test_any_prefix_is_varied() -> None:
    shared = len({problem.scenario for problem in _problems("test")})
    for start in range(0, 3_000, shared):
        assert len({problem.scenario for problem in _problems("train")[start : start + shared]}) == shared


def test_the_same_problems_come_in_the_same_order_in_every_python_version(
    problems: dict[WordProblemSplit, list[Exchange]],
) -> None:
    assert {split: corpus_digest(items) for split, items in problems.items()} == {
        "train": "6957d145ffe5eb7ff07b296b948f29f408e6a08c09b812df0f73dfc7bbeeb659",
        "test": "701891d3808cfeba69539a5e51af6da3c87e4a3cd112c41510176208d5397d1d",
        "new": "d9a54634bccebe2f313b25502e171ab4fbcc19a1192f8e4fd0a0bafc479fa7ae",
    }
    _problems.cache_clear()
    assert word_problems("test") == problems["test"]
    assert problem_of(problems["train"][0]) == (
        "On 6 days of the week Oyin plays the violin for 20 minutes. Once a week there is also a lesson of 60"
        " minutes with Naomi. Oyin has 8 weeks to learn 3 pieces and spends equally long on each. How many "
        "minutes is that for each piece?"
    )


def test_every_calculation_is_right_and_the_last_one_gives_the_answer(
    problems: dict[WordProblemSplit, list[Exchange]],
) -> None:
    for item in chain(*problems.values()):
        solution = solution_of(item)
        steps = CALCULATION.findall(solution)
        assert len(steps) >= 2, solution
        assert len(steps) == solution.count(" = "), solution
        for calculation, result in steps:
            assert worked_out(calculation) == number(result), solution
        answer = re.fullmatch(rf".* The answer is ({NUMBER})\.", solution)
        assert answer, solution
        assert answer[1] == steps[-1][1], solution


def test_the_check_of_calculations_would_notice_a_wrong_one() -> None:
    assert worked_out("2 + 3 x 4") == 14
    assert worked_out("$80 x 25 / 100") == 20
    assert worked_out("9 - 2 - 3") != 10


def test_what_a_solution_starts_from_stands_in_the_problem_or_was_computed(
    problems: dict[WordProblemSplit, list[Exchange]],
) -> None:
    for item in chain(*problems.values()):
        known = set(re.findall(NUMBER, problem_of(item))) | {"2", "3", "100"}
        for calculation, result in CALCULATION.findall(solution_of(item)):
            assert set(re.findall(NUMBER, calculation)) <= known, (problem_of(item), solution_of(item))
            known.add(result)


def test_texts_are_plain_ascii_sentences_without_open_slots(problems: dict[WordProblemSplit, list[Exchange]]) -> None:
    for text in chain(*((problem_of(item), solution_of(item)) for item in chain(*problems.values()))):
        assert text.isascii()
        assert not re.search(r"[{}_*]|  |\bNone\b|\s[.,?]", text), text
        assert all(sentence[0].isupper() for sentence in re.split(r"(?<=[.?!]) ", text)), text
        assert text[-1] in ".?"


def test_numbers_and_articles_agree_with_their_nouns(problems: dict[WordProblemSplit, list[Exchange]]) -> None:
    for text in chain(*((problem_of(item), solution_of(item)) for item in chain(*problems.values()))):
        # Only money may be less than two: no "1 apples", nothing with zero or below.
        assert not re.search(r"(?<![\d.$])[01](?![\d.])|-\d|-\$", text), text
        assert not re.search(r"\b[Aa] (?:[aeioAEIOU]|8|11\b|18\b)", text), text
        assert not re.search(r"\b[Aa]n (?!hour\b|[aeiouAEIOU]|8|11\b|18\b)", text), text


def test_a_problem_names_the_person_before_a_pronoun_stands_for_them() -> None:
    for key, scenario in _problem_book().scenarios.items():
        named = False
        for wordings in scenario.problem:
            for wording in wordings:
                pronoun = PRONOUN.search(wording)
                # "For her classroom, Ana orders ..." looks ahead, inside one sentence.
                assert named or not pronoun or "{name}" in wording, (key, wording)
            named = named or all("{name}" in wording for wording in wordings)


def test_a_problem_that_speaks_of_a_person_at_the_end_has_named_them(
    problems: dict[WordProblemSplit, list[Exchange]],
) -> None:
    names = set(_problem_book().women + _problem_book().men)
    for item in chain(*problems.values()):
        told = set(re.findall(r"[A-Z][\w-]+", problem_of(item))) & names
        assert set(re.findall(r"[A-Z][\w-]+", solution_of(item))) & names <= told, solution_of(item)
        assert told or not re.search(r"\b(she|he|her|his|him)\b", solution_of(item), re.IGNORECASE), solution_of(item)


def test_every_sentence_has_three_wordings_or_more_and_names_are_many() -> None:
    book = _problem_book()
    for key, scenario in book.scenarios.items():
        assert 3 <= len(scenario.problem) <= 5, key
        assert 2 <= len(scenario.solution) <= 4, key
        for wordings in scenario.problem + scenario.solution:
            assert len(set(wordings)) >= 3, (key, wordings)
    names = book.women + book.men
    assert len(set(names)) == len(names) >= 120


def test_every_quantity_is_told_or_shown() -> None:
    for key, scenario in _problem_book().scenarios.items():
        sentences = " ".join(chain(*scenario.problem, *scenario.solution))
        for entry in scenario.numbers:
            quantity = re.match(r"\$?(\w+) (?:=|\d)", entry)
            if quantity:
                assert re.search(rf"\{{=?{quantity[1]}\}}", sentences), (key, quantity[1])


def test_quantities_that_cannot_be_sensible_are_an_error_that_names_the_scenario() -> None:
    scenario = _Scenario(["few 2..5", "left = few - 9"], [], [], {}, False)
    with pytest.raises(InputError, match="odd one"):
        _quantities("odd one", scenario, FixedRandom(0.5))


def test_a_scenario_that_has_no_more_problems_is_an_error_and_not_a_repeat() -> None:
    scenario = _Scenario(["few 3..3", "more = few + few"], [["Only one."]], [["It is {=more}."]], {}, False)
    book = _ProblemBook({}, ["Ana"], ["Ben", "Leo"], {"single": scenario})
    taken: set[str] = set()
    assert _new_problem(book, "single", taken, FixedRandom(0.5)).solution == "It is 3 + 3 = 6. The answer is 6."
    with pytest.raises(InputError, match="single"):
        _new_problem(book, "single", taken, FixedRandom(0.5))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a * b + 1", 13),
        ("b // a", None),
        ("a * b // 6", 2),
        ("a - b", -1),
        ("a < b", 1),
        ("a > b", 0),
        ("a // 0", None),
    ],
)
def test_expressions_are_exact_arithmetic(expression: str, value: int | None) -> None:
    assert _evaluated(expression, {"a": 3, "b": 4}) == value


@pytest.mark.parametrize(
    "expression", ["a ** 2", "c + 1", "print(a)", "a / 2", "1.5 * a", "a if a else 1", "a < 2 < 3"]
)
def test_anything_else_is_refused(expression: str) -> None:
    with pytest.raises(InputError):
        _evaluated(expression, {"a": 3})


def test_slots_are_filled_with_the_right_article_and_a_capital() -> None:
    slots = {"n": "8", "thing": "{colour} hat", "colour": "old", "she": "she"}
    told = _told([["{she} has a {thing}."], ["It is a {n}-year-old a uniform did not fit."]], slots, FixedRandom(0))
    assert told == "She has an old hat. It is an 8-year-old a uniform did not fit."


def test_the_splits_are_read_by_name_and_train_shares_no_text_with_test() -> None:
    data = DataConfig(train="word-problems:train")
    train, test = (read_documents(f"word-problems:{split}", data) for split in ("train", "test"))
    assert read_documents("word-problems", data).digest == train.digest
    assert check_no_overlap(train, test).overlaps == ()
    with pytest.raises(InputError, match="train, test, new"):
        read_documents("word-problems:dev", data)


def test_the_gold_labels_of_the_unlabelled_intents_are_read_by_name() -> None:
    data = DataConfig(train="intents:gold")
    gold, unlabelled = (read_documents(f"intents:{part}", data).items for part in ("gold", "unlabelled"))
    assert [item.messages for item in gold] == [item.messages for item in unlabelled]
    assert all(item.response for item in gold)
