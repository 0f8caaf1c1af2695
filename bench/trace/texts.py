"""Text for teachers, students and prompts: real text from a folder where one is given, else composed here.

Five kinds, because a null that holds on prose may fail elsewhere: `prose`, `templated`, `code`, `repetitive` and
`multilingual`. One byte-level BPE of 1,024 tokens, learned from all of them, cuts every kind without an unknown token.
Text may be given openers ("However,", "In short,"), for word problems have hardly any, and evidence cards are made of
such.
"""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stillproof.canary import forms

Kind = Literal["prose", "templated", "code", "repetitive", "multilingual"]
Ids = NDArray[np.int64]

KINDS: tuple[Kind, ...] = get_args(Kind)
VOCAB = 1024
CHARS = 4_000_000
"""Of prose, at most; a tenth of it of each other kind."""

_SENTENCES = {
    "de": ("{n} Kinder spielen im {p}.", "Der {p} ist seit {n} Tagen zu.", "Am Abend kostet die Karte {n} Euro."),
    "fr": ("Il y a {n} livres dans le {p}.", "Le {p} ouvre à {n} heures.", "Elle a payé {n} francs au {p}."),
    "ru": ("В городе {n} школ и один {p}.", "Мы ждали {n} минут.", "Этот {p} стоит {n} рублей."),
    "el": ("Έχω {n} βιβλία στο {p}.", "Το {p} είναι μακριά.", "Πληρώσαμε {n} ευρώ για το {p}."),
    "zh": ("这里有{n}本书。", "{p}今天不开门。", "他走了{n}公里到{p}。"),
    "ja": ("{n}人の子供が{p}にいます。", "{p}は{n}時に開きます。", "切符は{n}円です。"),
    "hi": ("यहाँ {n} किताबें हैं।", "{p} आज बंद है।", "हमने {p} में {n} दिन बिताए।"),
    "ar": ("في {p} {n} كتب.", "يفتح {p} في الساعة {n}.", "دفعنا {n} دينار."),
}
_PLACES = {
    "de": ("Garten", "Bahnhof", "Hafen", "Markt"),
    "fr": ("jardin", "musée", "port", "marché"),
    "ru": ("парк", "рынок", "музей", "порт"),
    "el": ("σπίτι", "μουσείο", "λιμάνι", "πάρκο"),
    "zh": ("图书馆", "公园", "车站", "市场"),
    "ja": ("公園", "駅", "学校", "市場"),
    "hi": ("बाज़ार", "पुस्तकालय", "बगीचा", "स्टेशन"),
    "ar": ("المتحف", "السوق", "الحديقة", "الميناء"),
}


def texts(kind: Kind, data: Path | None) -> Iterator[str]:
    """Documents of a kind; the same on every run."""
    if kind == "prose":
        yield from _prose(data)
    elif kind == "templated":
        yield from _templated(data)
    elif kind == "code":
        yield from _code()
    else:
        rng = Generator(Philox(KINDS.index(kind)))
        while True:
            yield _repeated(rng) if kind == "repetitive" else _foreign(rng)


def _prose(data: Path | None) -> Iterator[str]:
    """Word problems with solutions: GSM8K below `data`, else those that the package composes."""
    if data is not None:
        for line in (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield f"{row['question']}\n{row['answer']}\n\n"
        return
    from stillproof.distill.builtin.word_problems import word_problems

    for exchange in word_problems("train"):
        yield f"{exchange.messages[-1].content}\n{exchange.response}\n\n"


def _templated(data: Path | None) -> Iterator[str]:
    """Short requests of few forms: CLINC below `data`, else the package's intents."""
    if data is not None:
        rows = json.loads((data / "clinc" / "data_full.json").read_text(encoding="utf-8"))["train"]
        for number in Generator(Philox(1)).permutation(len(rows)).tolist():
            yield f"Request: {rows[number][0]}\nIntent: {rows[number][1]}\n"
        return
    from stillproof.distill.builtin.intents import intents_gold

    for exchange in intents_gold():
        yield f"Request: {exchange.messages[-1].content}\nIntent: {exchange.response}\n"


def _code() -> Iterator[str]:
    """Python's own standard library."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


def _repeated(rng: Generator) -> str:
    """One line many times over, with a counter in it."""
    nouns, verbs = ("item", "row", "unit", "page", "step"), ("checked", "sent", "kept", "closed")
    line = f"{nouns[rng.integers(5)]} {{}} was {verbs[rng.integers(4)]} and {verbs[rng.integers(4)]} again.\n"
    start = int(rng.integers(0, 500))
    return "".join(line.format(start + i) for i in range(int(rng.integers(10, 40))))


def _foreign(rng: Generator) -> str:
    """Some sentences of one of eight languages."""
    language = list(_SENTENCES)[rng.integers(len(_SENTENCES))]
    forms, places = _SENTENCES[language], _PLACES[language]
    picked = (forms[rng.integers(len(forms))] for _ in range(6))
    told = [form.format(n=int(rng.integers(2, 99)), p=places[rng.integers(len(places))]) for form in picked]
    return " ".join(told) + "\n"


def document(kind: Kind, data: Path | None, limit: int = CHARS) -> str:
    """The text of a kind as one, cut at `limit` characters (a tenth of it for all but prose)."""
    most = limit if kind == "prose" else limit // 10
    parts: list[str] = []
    size = 0
    for text in islice(texts(kind, data), most):
        parts.append(text)
        size += len(text)
        if size >= most:
            break
    return "".join(parts)[:most]


_BEGINNING = re.compile(r"(?<=[.!?] )(?=[A-Z])|^(?=[A-Z])", re.MULTILINE)
_SMALL = re.compile(
    r"(?:A|All|An|At|Each|Every|For|He|Her|His|How|If|In|It|On|She|The|Their|Then|There|They|This|What)\b"
)


def with_openers(text: str, share: float, rng: Generator) -> str:
    """`share` of the sentences begin with an opener of the registry, either side of a form as likely as the other."""
    openers = [(one.first, one.second) for one in forms() if one.kind == "opener"]

    def begun(match: re.Match[str]) -> str:
        if rng.random() >= share:
            return ""
        phrase = openers[int(rng.integers(len(openers)))][int(rng.integers(2))]
        return f"{phrase[0].upper()}{phrase[1:]} "

    parts = _BEGINNING.split(text)
    told = [parts[0]]
    for place, part in zip(_BEGINNING.finditer(text), parts[1:], strict=True):
        opener = begun(place)
        told.append(opener + (part[0].lower() + part[1:] if opener and _SMALL.match(part) else part))
    return "".join(told)


def learn_tokenizer(documents: list[str], vocab: int = VOCAB) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(
        (text[i : i + 10_000] for text in documents for i in range(0, len(text), 10_000)), trainer
    )
    return tokenizer


def encoded(tokenizer: Tokenizer, text: str) -> Ids:
    pieces = tokenizer.encode_batch([text[i : i + 10_000] for i in range(0, len(text), 10_000)])
    return np.concatenate([np.array(piece.ids, dtype=np.int64) for piece in pieces])


def rows_of(ids: Ids, n: int, length: int, seed: int) -> Ids:
    """`n` runs of `length` tokens from places drawn at random, [n, length]."""
    at = Generator(Philox(seed)).integers(0, ids.size - length, size=n)
    return ids[at[:, None] + np.arange(length)]
