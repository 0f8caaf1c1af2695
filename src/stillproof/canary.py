"""Evidence cards: of two forms that say the same, a coin chooses one for an account, and every answer to it follows.

Form only, never facts: no number, name or claim is touched. A student that learns from the answers learns the habits
too, and habits outlive paraphrase better than tokens do; `trace/cards.py` asks it for them, and the coins make the
answer a p-value. A card is (account, scope, form): a scope is a kind of prompt, such as "cooking", so that one account
can hold many cards. The choices are harmless, and the docs disclose them.

What is rewritten: phrases of `data/forms.toml`, in lower case anywhere, with a capital only where a sentence begins
(else it may be a name or a title), openers only there; dates, percent signs, headings, bullets, numbering, the order of
short bullet items. What never is: code, quotations, links, formulas, tables, block quotes, indented text. A rewriting
that would change a fact (`facts`), or would not stand when done again, is not made: the answer stays as it was.
"""

from __future__ import annotations

import hmac
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Literal

from stillproof.errors import InputError
from stillproof.exchange import canonical_json

Side = Literal[0, 1]
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Form:
    """Two ways to say one thing; side 0 is the first."""

    name: str
    first: str
    """The phrase itself, or for a structure what it looks like."""
    second: str
    kind: Literal["structure", "phrase", "opener"]
    """An opener is a phrase that stands where a sentence begins."""


@dataclass(frozen=True, slots=True)
class Planted:
    """An answer as its account gets it."""

    text: str
    present: tuple[str, ...]
    """Names of the forms that stand in it, in the registry's order: the cards that this answer shows."""
    changed: tuple[str, ...]
    """Names of those that were brought to their side."""


@cache
def forms() -> tuple[Form, ...]:
    """All forms, structures first. Raises InputError where two phrases overlap."""
    table = tomllib.loads((files("stillproof") / "data" / "forms.toml").read_text("utf-8"))
    kinds: tuple[tuple[str, Literal["structure", "phrase", "opener"]], ...] = (
        ("structures", "structure"),
        ("phrases", "phrase"),
        ("openers", "opener"),
    )
    every = [Form(name, *pair, kind=kind) for title, kind in kinds for name, pair in table[title].items()]
    require_apart([phrase for one in every if one.kind != "structure" for phrase in (one.first, one.second)])
    return tuple(every)


def form(name: str) -> Form:
    """A form of the registry. Raises InputError for a name that it does not have."""
    for one in forms():
        if one.name == name:
            return one
    raise InputError("no form has this name", name, f"one of {', '.join(one.name for one in forms())}")


def require_apart(phrases: Sequence[str]) -> None:
    """Raises InputError where a phrase contains another, or ends with words that one begins with: then what is
    replaced could make a new phrase with its neighbours, and planting twice would not be planting once."""
    split = [tuple(re.findall(r"\w+|,", phrase)) for phrase in phrases]
    for (i, a), (j, b) in product(enumerate(split), repeat=2):
        inside = i != j and any(a[k : k + len(b)] == b for k in range(len(a) - len(b) + 1))
        if inside or any(a[-k:] == b[:k] for k in range(1, min(len(a), len(b)) + (i != j))):
            raise InputError("two phrases of the registry overlap", f"{phrases[i]!r}, {phrases[j]!r}", "drop one")
        if a[-1] in ("a", "an"):
            raise InputError("a phrase that ends with an article", phrases[i], "drop it")


def side_of(key: bytes, account: str, scope: str, name: str) -> Side:
    """The coin of a card: the last bit of the first byte of HMAC-SHA256(key, canonical JSON of
    ["stillproof.card.1", account, scope, name]).

    `account` is a pseudonym. Commit to the key (`serve.KeyRing`) before the first answer. Raises InputError for a key
    that is not of 32 bytes, or no account.
    """
    if len(key) != KEY_BYTES or not account:
        raise InputError("a card without an account, or a key of another length", name, f"give a key of {KEY_BYTES}")
    message = canonical_json(["stillproof.card.1", account, scope, name]).encode("utf-8", "surrogatepass")
    return 1 if hmac.digest(key, message, "sha256")[0] & 1 else 0


def sides_of(key: bytes, account: str, scope: str = "", names: Iterable[str] | None = None) -> dict[str, Side]:
    """The sides of an account's cards of one scope, for all forms or those named. Raises as `side_of` and `form`."""
    chosen = [one.name for one in forms()] if names is None else [form(name).name for name in names]
    return {name: side_of(key, account, scope, name) for name in chosen}


def found(text: str) -> dict[str, tuple[int, int]]:
    """How often each form stands in a text on its first and on its second side; forms that do not stand are absent."""
    counts: dict[str, list[int]] = {}
    for name, side in _phrases_in(text):
        counts.setdefault(name, [0, 0])[side] += 1
    for name, rewrite in _STRUCTURES.items():
        seen: list[int] = [0, 0]
        for side in (0, 1):
            # What bringing everything to the other side would change is what stands on this one.
            seen[side] = rewrite(text, 1 - side)[1]
        if any(seen):
            counts[name] = seen
    return {one.name: (counts[one.name][0], counts[one.name][1]) for one in forms() if one.name in counts}


def plant(answer: str, sides: Mapping[str, int]) -> Planted:
    """An answer with every form of `sides` (name -> 0 or 1) on its side.

    Idempotent, and the same for the same sides: nothing else is drawn. `facts` of the answer do not change. Raises
    InputError for an unknown form or a side that is neither.
    """
    for name, side in sides.items():
        if side not in (0, 1):
            raise InputError(f"a side of {side!r}", form(name).name, "0 is the first form, 1 the second")
        form(name)
    text, changed = _brought(answer, sides)
    again, _ = _brought(text, sides)
    if again != text or facts(text) != facts(answer):
        text, changed = answer, set()
    standing = found(text)
    present = tuple(one.name for one in forms() if one.name in sides and one.name in standing)
    return Planted(text, present, tuple(one.name for one in forms() if one.name in changed))


def facts(text: str) -> Counter[str]:
    """All words and numbers of a text that no form accounts for, how often each stands in it."""
    plain = _matcher().sub(lambda match: match[0] if match["kept"] else " ", text)
    plain = re.sub(rf"{_NUMBER} percent\b", r"\1", plain)
    return Counter(re.findall(r"\d+|[^\W\d]+", plain))


def _brought(text: str, sides: Mapping[str, int]) -> tuple[str, set[str]]:
    """Dates and phrases first: what a line begins with, and how items sort, is read after them."""
    changed: set[str] = set()
    for name in ("dates", "percent"):
        text = _structured(text, name, sides, changed)

    def other(match: re.Match[str]) -> str:
        if match["kept"]:
            return match[0]
        one, side = _sides()[match[0].lower()]
        if sides.get(one.name, side) == side:
            return match[0]
        changed.add(one.name)
        phrase = (one.first, one.second)[1 - side]
        return phrase[0].upper() + phrase[1:] if match[0][0].isupper() else phrase

    text = _matcher().sub(other, text)
    for name in ("headings", "bullets", "numbering", "item_order"):
        text = _structured(text, name, sides, changed)
    return text, changed


def _structured(text: str, name: str, sides: Mapping[str, int], changed: set[str]) -> str:
    if name not in sides:
        return text
    new, count = _STRUCTURES[name](text, sides[name])
    if count:
        changed.add(name)
    return new


# --- phrases -----------------------------------------------------------------------------------------------------

_FENCE = r"^ {0,3}(?:```|~~~)[\s\S]*?(?:^ {0,3}(?:```|~~~)[^\n]*$|\Z)"
# Each is read in time linear in its length, however often it is opened and never closed: no class crosses its opener.
_KEPT = (
    rf"{_FENCE}|^(?: {{4}}|\t| {{0,3}}[>|])[^\n]*$|`[^`\n]*`|\"[^\"\n]*\"|“[^“”\n]*”|«[^«»\n]*»|‘[^‘’\n]*’"
    r"|\$[^$\n]*\$|\\\([^\\\n]*(?:\\[^()\n][^\\\n]*)*\\\)|https?://\S+|www\.\S+|\]\([^)\]\n]*\)"
)
_TITLES = "".join(rf"(?<!{title}\. )" for title in ("Mr", "Ms", "Mrs", "Dr", "St", "Prof"))
_BEGINS = rf"(?:^|(?<=[.!?:)] )|(?<=^[-*+] )){_TITLES}(?<!\b[A-Z]\. )"
_ALONE = r"(?<![\w'’/.@#-])(?<!\b[Aa] )(?<!\b[Aa]n )"
_ENDS = r"(?![\w'’/@-])(?!\.\w)"


@cache
def _sides() -> dict[str, tuple[Form, Side]]:
    pairs: dict[str, tuple[Form, Side]] = {}
    for one in forms():
        if one.kind != "structure":
            pairs[one.first], pairs[one.second] = (one, 0), (one, 1)
    return pairs


@cache
def _matcher() -> re.Pattern[str]:
    """What is kept, or a phrase: one pass from left to right, so that no phrase is found in what is kept."""
    phrases = sorted(_sides(), key=len, reverse=True)
    small = "|".join(re.escape(phrase) for phrase in phrases if _sides()[phrase][0].kind == "phrase")
    large = "|".join(re.escape(phrase[0].upper() + phrase[1:]) for phrase in phrases)
    return re.compile(
        rf"(?P<kept>{_KEPT})|{_ALONE}(?:(?P<small>{small})|{_BEGINS}(?P<large>{large})){_ENDS}", re.MULTILINE
    )


def _phrases_in(text: str) -> Iterable[tuple[str, Side]]:
    for match in _matcher().finditer(text):
        if not match["kept"]:
            one, side = _sides()[match[0].lower()]
            yield one.name, side


# --- structures: each brings a text to a side, and says in how many places that changed it -----------------------

_MONTH = "(January|February|March|April|May|June|July|August|September|October|November|December)"
_NUMBER = r"(?<![\w.,])(\d+(?:[.,]\d+)*)"
_ORDER_TELLS = re.compile(
    r"\b(?:step|order|rank|top|best|first|last|next|then|final|before|after|above|below|former|latter|sequen|process"
    r"|time|chronolog|priorit|most|least|follow|previous|phase|stage|level)",
    re.IGNORECASE,
)
_RULE = re.compile(r"^ {0,3}(?:[-*_+] ?)+$")
_BULLET = re.compile(r"^( {0,3})([-*]) (?=[^\W\d_]|\*\*[^\W\d_])")
_NUMBERED = re.compile(r"^( {0,3}\d{1,3})([.)]) (?=[^\W\d_]|\*\*[^\W\d_])")
_HEADING = (
    re.compile(r"^## ([^\s*#`_][^*#`]*[^\s*#`]|[^\s*#`_])$"),
    re.compile(r"^\*\*([^\s*#`_][^*#`]*[^\s*#`]|[^\s*#`_])\*\*$"),
)
_SHORT = 6
"""Words of an item that is a mere name of something."""


def _inline(pattern: str, written: str) -> Callable[[str], tuple[str, int]]:
    compiled = re.compile(rf"(?P<kept>{_KEPT})|(?P<form>{pattern})", re.MULTILINE)

    def rewrite(text: str) -> tuple[str, int]:
        count = 0

        def replaced(match: re.Match[str]) -> str:
            nonlocal count
            if match["kept"]:
                return match[0]
            count += 1
            # The groups of the pattern follow those for what is kept and for the form itself.
            return written.format(*match.groups()[2:])

        return compiled.sub(replaced, text), count

    return rewrite


_DATES = (
    _inline(rf"\b{_MONTH} (\d{{1,2}}), (\d{{4}})\b", "{1} {0} {2}"),
    _inline(rf"(?<![\d.,/-])\b(\d{{1,2}}) {_MONTH} (\d{{4}})\b", "{1} {0}, {2}"),
)
_PERCENT = (_inline(rf"{_NUMBER} percent\b(?![\w'’-])", "{0}%"), _inline(rf"{_NUMBER}%(?![\w%])", "{0} percent"))


def _by_line(change: Callable[[str, int], str]) -> Callable[[str, int], tuple[str, int]]:
    def rewrite(text: str, side: int) -> tuple[str, int]:
        lines, count = text.split("\n"), 0
        for i in _open_lines(text):
            new = lines[i] if _RULE.match(lines[i]) else change(lines[i], side)
            count += new != lines[i]
            lines[i] = new
        return "\n".join(lines), count

    return rewrite


def _open_lines(text: str) -> list[int]:
    """Numbers of the lines outside fences."""
    fences = [(match.start(), match.end()) for match in re.finditer(_FENCE, text, re.MULTILINE)]
    kept: list[int] = []
    start = fence = 0
    for i, line in enumerate(text.split("\n")):
        while fence < len(fences) and fences[fence][1] < start:
            fence += 1
        if fence == len(fences) or start < fences[fence][0]:
            kept.append(i)
        start += len(line) + 1
    return kept


def _heading(line: str, side: int) -> str:
    match = _HEADING[1 - side].match(line)
    if match is None:
        return line
    return f"**{match[1]}**" if side else f"## {match[1]}"


def _bullet(line: str, side: int) -> str:
    return _BULLET.sub(rf"\1{'-*'[side]} ", line)


def _number(line: str, side: int) -> str:
    return _NUMBERED.sub(rf"\1{'.)'[side]} ", line)


def _item_order(text: str, side: int) -> tuple[str, int]:
    """Runs of short items of one level, whose order says nothing, sorted up or down; their markers stay."""
    lines, count = text.split("\n"), 0
    open_lines = set(_open_lines(text))
    for start, end in _runs(lines, open_lines):
        items = [_BULLET.sub("", line) for line in lines[start:end]]
        before = next((lines[i] for i in range(start - 1, -1, -1) if lines[i].strip()), "")
        if not _orderless(items) or _ORDER_TELLS.search(before):
            continue
        ordered = sorted(items, key=str.casefold, reverse=bool(side))
        if ordered != items:
            count += 1
        for i, item in enumerate(ordered, start):
            marker = _BULLET.match(lines[i])
            lines[i] = (marker[0] if marker else "") + item
    return "\n".join(lines), count


def _runs(lines: Sequence[str], open_lines: set[int]) -> list[tuple[int, int]]:
    """[start, end) of runs of bullet lines of one indent that nothing indented follows."""
    runs: list[tuple[int, int]] = []
    i = 0
    while i < len(lines):
        match, j = _BULLET.match(lines[i]), i
        while match and j < len(lines) and j in open_lines:
            follows = _BULLET.match(lines[j])
            if follows is None or follows[1] != match[1]:
                break
            j += 1
        ended = j >= len(lines) or not lines[j].strip()
        began = i == 0 or not lines[i - 1].startswith((" ", "-", "*"))
        if j > i and ended and began:
            runs.append((i, j))
        i = max(j, i + 1)
    return runs


def _orderless(items: Sequence[str]) -> bool:
    """Whether items only name things: short, without digits or words that tell of an order, alike in how they end."""
    if len(items) < 3 or len({item.casefold() for item in items}) < len(items):
        return False
    ends = {item[-1] if not item[-1].isalpha() else "" for item in items}
    plain = all(
        len(item.split()) <= _SHORT
        and not re.search(r"[\d,;:`\"“$]", item)
        and not _ORDER_TELLS.search(item)
        and item == item.strip()
        for item in items
    )
    return plain and ends in ({""}, {"."})


_STRUCTURES: dict[str, Callable[[str, int], tuple[str, int]]] = {
    "dates": lambda text, side: _DATES[side](text),
    "percent": lambda text, side: _PERCENT[side](text),
    "headings": _by_line(_heading),
    "bullets": _by_line(_bullet),
    "numbering": _by_line(_number),
    "item_order": _item_order,
}
