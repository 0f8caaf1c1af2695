"""Text of simulated traffic: prompts, task templates, system prompts and follow-ups from a grammar of our own.

Word lists and sentence patterns are data (`data/guard/wording.toml`, `scripts.toml`). Things carry adjectives and
half of the slots are made-up names, so that two prompts rarely share eight words by accident: what real traffic
shares, it shares because somebody copied it. Everything is drawn column by column, which is what makes it fast.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLOT = re.compile(r"\{(\w+)\}")


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    folder = files("stillproof") / "data" / "guard"
    return tomllib.loads((folder / "wording.toml").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _scripts() -> dict[str, dict[str, Any]]:
    folder = files("stillproof") / "data" / "guard"
    return tomllib.loads((folder / "scripts.toml").read_text(encoding="utf-8"))


def _objects(values: Sequence[str]) -> NDArray[np.object_]:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


@lru_cache(maxsize=1)
def _lists() -> dict[str, NDArray[np.object_]]:
    """Every slot that is a list. A thing appears once plain for each two times with an adjective."""
    data = _data()
    lists = {name: _objects(text.split("|")) for name, text in data["plain"].items()}
    adjectives = data["adjective"].split("|")
    for name, text in data["things"].items():
        things = text.split("|")
        with_adjective = [f"{adjective} {thing}" for thing in things for adjective in adjectives]
        lists[name] = _objects(things * (len(adjectives) // 2) + with_adjective)
    lists["did"] = _objects(data["passage"]["did"].split("|"))
    lists["num"] = _objects([str(number) for number in range(2, 60)])
    lists["big"] = _objects([str(number) for number in (*range(60, 1000), *range(1000, 20_000, 50))])
    lists["year"] = _objects([str(number) for number in range(1820, 2027)])
    lists["clock"] = _objects([f"{hour}:{minute:02d}" for hour in range(24) for minute in range(60)])
    return lists | _made_up()


def _made_up() -> dict[str, NDArray[np.object_]]:
    pieces = {name: text.split("|") for name, text in _data()["made_up"].items()}
    stems = [head + middle for head in pieces["heads"] for middle in pieces["middles"]]
    names = [f"{head}_{tail}" for head in pieces["code_heads"] for tail in pieces["code_tails"]]
    long_names = [f"{name}_{stem}" for name in names for stem in stems[::9]]
    return {
        "name": _objects([(stem + tail).capitalize() for stem in stems for tail in pieces["tails"]]),
        "place": _objects([(stem + tail).capitalize() for stem in stems for tail in pieces["place_tails"]]),
        "product": _objects([stem.capitalize() + tail for stem in stems for tail in pieces["product_tails"]]),
        "ident": _objects(long_names + names * 10),
    }


@lru_cache(maxsize=4096)
def _parsed(pattern: str) -> tuple[str, tuple[str, ...]]:
    """A pattern as a %-format and its slots."""
    pieces = SLOT.split(pattern.replace("%", "%%"))
    constants = [piece.replace("{{", "{").replace("}}", "}") for piece in pieces[::2]]
    return "%s".join(constants), tuple(pieces[1::2])


def draw(rng: np.random.Generator, slot: str, n: int) -> list[str]:
    """n words of one slot. Raises KeyError for an unknown slot."""
    if slot == "thing":  # left for the language at hand
        return ["\0"] * n
    if slot == "time":
        return mixed(rng, _data()["passage"]["time"].split("|"), n)
    words = _lists()[slot]
    return words[rng.integers(0, len(words), n)].tolist()


def fill(pattern: str, rng: np.random.Generator, n: int) -> list[str]:
    """n sentences of one pattern, its slots drawn anew for each."""
    form, slots = _parsed(pattern)
    if not slots:
        return [form.replace("%%", "%")] * n
    columns = [draw(rng, slot, n) for slot in slots]
    return [form % row for row in zip(*columns, strict=True)]


def mixed(rng: np.random.Generator, patterns: Sequence[str], n: int) -> list[str]:
    """n sentences, each of a random one of the patterns, its slots drawn anew."""
    chosen = rng.integers(0, len(patterns), n)
    order = np.argsort(chosen, kind="stable")
    counts = np.bincount(chosen, minlength=len(patterns)).tolist()
    drawn = [
        text for pattern, count in zip(patterns, counts, strict=True) if count for text in fill(pattern, rng, count)
    ]
    made = np.empty(n, dtype=object)
    made[order] = drawn
    return made.tolist()


def _joined(rng: np.random.Generator, patterns: Sequence[str], counts: NDArray[np.int64], mark: str) -> list[str]:
    """(len(counts)) texts of counts[i] sentences each."""
    sentences = mixed(rng, patterns, int(counts.sum()))
    ends = list(accumulate(counts.tolist()))
    starts = [0, *ends][:-1]
    return [mark.join(sentences[start:end]) for start, end in zip(starts, ends, strict=True)]


def _scatter(rng: np.random.Generator, n: int, share: float, make: Callable[[int], list[str]]) -> list[str]:
    """n texts of which a share comes from `make`; the others are empty."""
    rows = np.flatnonzero(rng.random(n) < share)
    made = np.full(n, "", dtype=object)
    made[rows] = make(len(rows))
    return made.tolist()


def passages(rng: np.random.Generator, n: int) -> list[str]:
    """n paragraphs as people paste them: 2 to 40 sentences, long-tailed; one in six is code or a log."""
    data = _data()["passage"]
    counts = np.clip(rng.lognormal(1.3, 0.7, n), 2, 40).astype(np.int64)
    code = rng.random(n) < 1 / 6
    made = np.empty(n, dtype=object)
    made[~code] = _joined(rng, data["patterns"], counts[~code], " ")
    made[code] = _joined(rng, data["code"], np.minimum(counts[code], 12), "\n")
    return made.tolist()


@lru_cache(maxsize=1)
def _asks() -> tuple[str, ...]:
    return tuple(pattern for patterns in _data()["asks"].values() for pattern in patterns)


def prompts(rng: np.random.Generator, n: int) -> list[str]:
    """n opening requests of unrelated people over fifteen domains, about 350 characters in the mean, long-tailed."""
    details = _data()["details"]
    asks = mixed(rng, _asks(), n)
    leads = _scatter(rng, n, 0.35, lambda count: mixed(rng, details["lead"], count))
    more = _joined(rng, details["patterns"], np.minimum(rng.geometric(0.26, n) - 1, 16).astype(np.int64), " ")
    pasted = _scatter(rng, n, 0.4, lambda count: _pasted(rng, count))
    before = (rng.random(n) < 0.2).tolist()
    lower = (rng.random(n) < 0.15).tolist()
    made: list[str] = []
    for lead, ask, rest, paste, first, small in zip(leads, asks, more, pasted, before, lower, strict=True):
        text = f"{lead} {rest} {ask}" if first else f"{lead} {ask} {rest}"
        text = text.strip().replace("  ", " ")
        text = text.lower() if small else text[:1].upper() + text[1:]
        made.append(f"{text}\n\n{paste}" if paste else text)
    return made


def _pasted(rng: np.random.Generator, n: int) -> list[str]:
    heads = mixed(rng, _data()["details"]["paste"], n)
    return [f"{head}\n{body}" for head, body in zip(heads, passages(rng, n), strict=True)]


@dataclass(frozen=True)
class Template:
    """A program's request: constant text around slots. `kinds` names what fills each slot, in order of `form`.

    `form` is a %-format. A kind is 'passage', 'prompt', 'number', or a slot of the word lists.
    """

    form: str
    kinds: tuple[str, ...]

    def fill(self, rng: np.random.Generator, n: int) -> list[str]:
        """n requests with fresh contents."""
        return self.around(*(self.contents(rng, kind, n) for kind in self.kinds))

    def around(self, *contents: Sequence[str]) -> list[str]:
        """One request a row of given contents, one sequence a slot."""
        return [self.form % row for row in zip(*contents, strict=True)]

    @staticmethod
    def contents(rng: np.random.Generator, kind: str, n: int) -> list[str]:
        """n contents of a slot of that kind."""
        if kind == "passage":
            return passages(rng, n)
        if kind == "prompt":
            return prompts(rng, n)
        return draw(rng, kind, n)


def _once(rng: np.random.Generator, patterns: Sequence[str], n: int) -> list[str]:
    """n different patterns, each filled once."""
    chosen = rng.permutation(len(patterns))[:n].tolist()
    return [fill(patterns[place], rng, 1)[0] for place in chosen]


def template(rng: np.random.Generator, kind: str | None = None) -> Template:
    """A random task template. Its constant text holds made-up names and is unique with high probability.

    Half have text before and after the slot, a third only before, the rest only after, or in several places. `kind`
    says what fills the main slot ('passage' or 'prompt'); by default either.
    """
    data = _data()["templates"]
    main = kind or ("passage" if rng.random() < 0.6 else "prompt")
    shape = rng.random()
    before = _once(rng, data["role"], 1) + _once(rng, data["rule"], int(rng.integers(0, 5)))
    after = _once(rng, data["rule"], int(rng.integers(0, 2))) + _once(rng, data["ending"], 1)
    mark = " " if rng.random() < 0.6 else "\n"
    head = mark.join(before).replace("%", "%%")
    tail = mark.join(after).replace("%", "%%")
    label = _once(rng, data["label"], 1)[0].replace("%", "%%")
    if shape < 0.5:
        return Template(f"{head}\n{label}\n%s\n{tail}", (main,))
    if shape < 0.8:
        return Template(f"{head}\n{label}\n%s", (main,))
    if shape < 0.9:
        rules = mark.join(before[1:]).replace("%", "%%")
        return Template(f"{label} %s\n{rules}{mark}{tail}", (main,))
    extra = ("name", "num", "noun", "language", "quality")[int(rng.integers(0, 5))]
    return Template(f"{head}\n{_once(rng, data['label'], 1)[0]} %s\n{label}\n%s\n{tail}", (extra, main))


def harness(rng: np.random.Generator) -> str:
    """One system prompt of 2 to 14 sentences; two draws are equal with negligible probability."""
    data = _data()["systems"]
    return " ".join(_once(rng, data["role"], 1) + _once(rng, data["rule"], int(rng.integers(1, 14))))


def follow_up(rng: np.random.Generator, n: int) -> list[str]:
    """n later turns of conversations; a third are what everybody says ('continue')."""
    data = _data()["follow_ups"]
    made = _objects(mixed(rng, data["patterns"], n))
    common = _objects(data["common"])
    rows = np.flatnonzero(rng.random(n) < 0.33)
    # What everybody says is said by rank: the first few make up most of it.
    rank = np.minimum(rng.geometric(0.12, len(rows)) - 1, len(common) - 1)
    made[rows] = common[rank]
    return made.tolist()


def languages() -> tuple[str, ...]:
    """The languages of `other_scripts`."""
    return tuple(_scripts())


def other_scripts(rng: np.random.Generator, n: int, language: str | None = None) -> list[str]:
    """n requests in Spanish, German, Russian, Arabic, Hindi, Chinese or Japanese (or one of them), mixed."""
    chosen = languages() if language is None else (language,)
    which = rng.integers(0, len(chosen), n)
    made = np.empty(n, dtype=object)
    for place, name in enumerate(chosen):
        rows = np.flatnonzero(which == place)
        made[rows] = _in_language(rng, name, len(rows))
    return made.tolist()


def _in_language(rng: np.random.Generator, language: str, n: int) -> list[str]:
    words = _scripts()[language]
    things = _objects(words["things"].split("|"))
    tails = _joined(rng, words["ends"], np.minimum(rng.geometric(0.35, n), 8).astype(np.int64), " ")
    texts = [f"{ask} {tail}" for ask, tail in zip(mixed(rng, words["asks"], n), tails, strict=True)]
    places = [text.count("\0") for text in texts]
    drawn = iter(things[rng.integers(0, len(things), sum(places))].tolist())
    return [
        "".join(piece + next(drawn) for piece in text.split("\0")[:-1]) + text.rsplit("\0", 1)[-1] for text in texts
    ]


def trace_wordings(language: str) -> list[str]:
    """Ways of asking for the written steps of an answer, in one language of `other_scripts`."""
    return list(_scripts()[language]["trace"])
