"""Arithmetic word problems with worked solutions: a narrow domain in plain language whose answers can be checked.

A problem is a scenario (`data/word_problems.toml`): quantities that depend on each other, and sentences in several
wordings about people who buy, bake or travel. Quantities are drawn until all of them are sensible, and a solution
shows its calculations with the numbers in them ("4 x 6 = 24"), which are computed here and never written by hand.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from operator import add, eq, ge, gt, le, lt, mul, ne, sub
from random import Random
from typing import Literal, TypeVar

from stillproof.errors import InputError
from stillproof.exchange import Exchange, Message, document, with_ids

_T = TypeVar("_T")

WordProblemSplit = Literal["train", "test", "new"]

WORD_PROBLEM_SIZES: dict[WordProblemSplit, int] = {"train": 3_600, "test": 200, "new": 120}

_LEAST = 2
"""No quantity is smaller, so that every noun stays in the plural and nothing is negative."""
_ATTEMPTS = 2_000
_DRAW = re.compile(r"(\$?)(\w+) (\d+)\.\.(\d+)(?: by (\d+))?")
_EQUATION = re.compile(r"(\$?)(\w+) = (.+)")
_SLOT = re.compile(r"\{(=?)(\w+)\}")
# 'a' that has to be 'an': before a vowel that is heard (not in 'one', 'uniform' or 'used'), and before 8, 11 and 18.
_BEFORE_A_VOWEL = re.compile(r"\b([Aa]) (?=(?!one\b|once\b|uni|use|eu)[aeiouAEIOU]|8|11\b|18\b)")
_SENTENCE_START = re.compile(r"(^|[.?!] )([a-z])")
_PRONOUNS = {"she": ("she", "he"), "her": ("her", "his"), "them": ("her", "him"), "herself": ("herself", "himself")}


@dataclass(frozen=True, slots=True)
class _Scenario:
    numbers: list[str]
    """In order: draws ("boxes 3..9", "$price 150..400 by 25", both ends included), equations ("total = boxes * per")
    and conditions ("used < total"). A quantity with a $ is money, in cents. The last equation is the answer."""
    problem: list[list[str]]
    """The wordings of each sentence of the problem."""
    solution: list[list[str]]
    """The wordings of each sentence of the solution, where {=total} stands for a calculation."""
    words: dict[str, list[str]]
    """The slots of this scenario alone. "pen/pens" fills {thing} and {things}."""
    new: bool
    """Whether the scenario is kept for the split `new`."""


@dataclass(frozen=True, slots=True)
class _ProblemBook:
    words: dict[str, list[str]]
    women: list[str]
    men: list[str]
    scenarios: dict[str, _Scenario]


@dataclass(frozen=True, slots=True)
class _Problem:
    scenario: str
    text: str
    solution: str
    answer: str


def word_problems(split: WordProblemSplit) -> list[Exchange]:
    """Problems of one user turn, each with a worked solution that ends with "The answer is N." as response.

    `train` and `test` tell of the same situations and share no problem; `new` tells of situations that neither has.
    WORD_PROBLEM_SIZES has their sizes. The same on every machine and Python version. Scenarios take turns, in an
    order shuffled anew every round, so that any prefix is varied. Money is written as $3 or $3.50: the pattern
    `The answer is \\$?(\\d+(?:\\.\\d\\d)?)\\.` finds every answer.
    """
    detail = f"word-problems:{split}"
    return list(with_ids(document(item.solution, detail, (Message("user", item.text),)) for item in _problems(split)))


@cache
def _problems(split: WordProblemSplit) -> tuple[_Problem, ...]:
    taken = {problem.text for problem in _problems("test")} if split == "train" else set[str]()
    return tuple(_drawn(_problem_book(), split, taken))


@cache
def _problem_book() -> _ProblemBook:
    table = tomllib.loads((files("stillproof") / "data" / "word_problems.toml").read_text("utf-8"))
    scenarios = {name: _Scenario(**({"words": {}, "new": False} | row)) for name, row in table["scenarios"].items()}
    return _ProblemBook(table["words"], table["women"], table["men"], scenarios)


def _drawn(book: _ProblemBook, split: WordProblemSplit, taken: set[str]) -> Iterator[_Problem]:
    """The problems of a split, none of them in `taken`, which grows."""
    rng = Random(f"word problems {split}")
    names = [name for name, scenario in book.scenarios.items() if scenario.new == (split == "new")]
    for k in range(WORD_PROBLEM_SIZES[split]):
        if k % len(names) == 0:
            # Only Random.random() is promised to be the same in every Python version; shuffle() is not.
            names = sorted(names, key=lambda _: rng.random())
        yield _new_problem(book, names[k % len(names)], taken, rng)


def _new_problem(book: _ProblemBook, name: str, taken: set[str], rng: Random) -> _Problem:
    for _ in range(_ATTEMPTS):
        problem = _problem(book, name, rng)
        if problem.text not in taken:
            taken.add(problem.text)
            return problem
    raise InputError("no more distinct problems of this scenario", name, "give it wider ranges or more wordings")


def _problem(book: _ProblemBook, name: str, rng: Random) -> _Problem:
    scenario = book.scenarios[name]
    quantities = _quantities(name, scenario, rng)
    slots = _people(book, rng) | _words(book.words | scenario.words, rng)
    slots |= {key: quantity.shown for key, quantity in quantities.items()}
    slots |= {f"={key}": quantity.calculation for key, quantity in quantities.items()}
    answer = list(quantities.values())[-1].shown
    text, solution = (_told(sentences, slots, rng) for sentences in (scenario.problem, scenario.solution))
    return _Problem(name, text, f"{solution} The answer is {answer}.", answer)


@dataclass(frozen=True, slots=True)
class _Quantity:
    value: int
    """In cents where it is money."""
    shown: str
    calculation: str
    """How it was computed, such as "4 x 6 = 24"; of a drawn one just the number."""


def _quantities(name: str, scenario: _Scenario, rng: Random) -> dict[str, _Quantity]:
    for _ in range(_ATTEMPTS):
        quantities = _sensible(scenario.numbers, rng)
        if quantities is not None:
            return quantities
    raise InputError("its conditions leave no numbers", name, "give the scenario wider ranges")


def _sensible(entries: Sequence[str], rng: Random) -> dict[str, _Quantity] | None:
    """The quantities of one draw, or None where one is too small, not whole, or against a condition."""
    found: dict[str, _Quantity] = {}
    for entry in entries:
        draw, equation = _DRAW.fullmatch(entry), _EQUATION.fullmatch(entry)
        if draw:
            money, key, low, high, step = draw.groups()
            value = int(low) + int(step or 1) * int(rng.random() * ((int(high) - int(low)) // int(step or 1) + 1))
            shown = _shown(value, money)
            found[key] = _Quantity(value, shown, shown)
        elif equation:
            money, key, expression = equation.groups()
            value = _evaluated(expression, {key: quantity.value for key, quantity in found.items()})
            if value is None or value < _LEAST:
                return None
            shown = _shown(value, money)
            found[key] = _Quantity(value, shown, f"{_spelled(expression, found)} = {shown}")
        elif not _evaluated(entry, {key: quantity.value for key, quantity in found.items()}):
            return None
    return found


def _shown(value: int, money: str) -> str:
    if not money:
        return str(value)
    return f"${value // 100}.{value % 100:02}" if value % 100 else f"${value // 100}"


def _spelled(expression: str, quantities: Mapping[str, _Quantity]) -> str:
    """A calculation with the numbers in it."""
    named = re.sub(r"[a-z]\w*", lambda match: quantities[match[0]].shown, expression)
    return named.replace("//", "/").replace("*", "x")


_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {ast.Add: add, ast.Sub: sub, ast.Mult: mul}
_COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Lt: lt, ast.LtE: le, ast.Gt: gt, ast.GtE: ge, ast.Eq: eq, ast.NotEq: ne,
}  # fmt: skip


def _evaluated(expression: str, values: Mapping[str, int]) -> int | None:
    """The value of an expression in whole numbers, names, + - * // and one comparison (1 where it holds, else 0).

    // is exact division: None where it leaves a remainder. Raises InputError on anything else, and on unknown names.
    """
    return _value(ast.parse(expression, mode="eval").body, values)


def _value(node: ast.expr, values: Mapping[str, int]) -> int | None:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.BinOp(left=left, op=operator, right=right):
            return _combined(operator, _value(left, values), _value(right, values))
        case ast.Compare(left=left, ops=[comparison], comparators=[right]) if type(comparison) in _COMPARISONS:
            a, b = _value(left, values), _value(right, values)
            return None if a is None or b is None else int(_COMPARISONS[type(comparison)](a, b))
    raise InputError("not arithmetic in known quantities", ast.unparse(node), "use + - * //, numbers and names")


def _combined(operator: ast.operator, a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return None
    if isinstance(operator, ast.FloorDiv):
        return None if b == 0 or a % b else a // b
    if type(operator) not in _OPERATIONS:
        raise InputError("not an operation of these problems", type(operator).__name__, "use + - * //")
    return _OPERATIONS[type(operator)](a, b)


def _people(book: _ProblemBook, rng: Random) -> dict[str, str]:
    """{name} with pronouns (she, her, them, herself), and two others, {friend} and {other_friend}, without."""
    woman = rng.random() < 0.5
    name = _choice(book.women if woman else book.men, rng)
    others = sorted((other for other in book.women + book.men if other != name), key=lambda _: rng.random())
    pronouns = {key: pair[0 if woman else 1] for key, pair in _PRONOUNS.items()}
    return {"name": name, "friend": others[0], "other_friend": others[1]} | pronouns


def _words(lists: Mapping[str, list[str]], rng: Random) -> dict[str, str]:
    slots: dict[str, str] = {}
    for slot, values in lists.items():
        singular, _, plural = _choice(values, rng).partition("/")
        slots |= {slot: singular, f"{slot}s": plural} if plural else {slot: singular}
    return slots


def _told(sentences: Sequence[Sequence[str]], slots: Mapping[str, str], rng: Random) -> str:
    """A wording of each sentence with its slots filled, 'a' or 'an' put right, and capitals at the beginnings."""
    text = " ".join(_choice(wordings, rng) for wordings in sentences)
    for _ in range(2):  # a word may have a slot of its own, as "{her} garden"
        text = _SLOT.sub(lambda match: slots[match[1] + match[2]], text)
    text = _BEFORE_A_VOWEL.sub(r"\1n ", text)
    return _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)


def _choice(options: Sequence[_T], rng: Random) -> _T:
    return options[int(rng.random() * len(options))]
