"""The built-in corpora: what every user can read offline, and that nobody's split leaks into another."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from stillproof.distill.builtin import (
    INTENT_SIZES,
    corpus_digest,
    intent_labels,
    intents,
    intents_gold,
    python_docs,
)
from stillproof.distill.builtin.intents import Split, _intent_book, _new_message, _own
from stillproof.distill.builtin.python_docs import MAX_CHARS, MIN_CHARS
from stillproof.errors import InputError
from stillproof.exchange import Exchange

SPLITS: tuple[Split, ...] = ("teach", "unlabelled", "test")
LONG = "This sentence is here so that the paragraph is long enough to be told apart. "


@pytest.fixture(scope="module")
def docs() -> list[Exchange]:
    return python_docs()


def text_of(exchange: Exchange) -> str:
    assert exchange.response is not None
    return exchange.response


def detail_of(exchange: Exchange) -> str:
    assert exchange.provenance is not None
    assert exchange.provenance.detail is not None
    return exchange.provenance.detail


def utterance(exchange: Exchange) -> str:
    content = exchange.messages[0].content
    assert content is not None
    return content.split("Message: ", 1)[1]


def write_stdlib(root: Path, modules: dict[str, str]) -> Path:
    (root / "pydoc_data").mkdir(parents=True)
    topics = {
        "short": f"Short\n\n{LONG * 8}",
        "long": f"Long\n\n{LONG * 8}\n\n{'Only the long topic says this. ' * 20}",
    }
    (root / "pydoc_data" / "topics.py").write_text(f"topics = {topics!r}\n")
    for name, source in modules.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def module_source(word: str, trap: str = "raise SystemExit('imported')") -> str:
    return f'"""About {word}. {(word + " is described at some length here. ") * 20}"""\n{trap}\n'


# --- python-docs ----------------------------------------------------------------------------------------------


def test_every_installation_offers_two_million_characters_in_documents_of_bounded_size(docs: list[Exchange]) -> None:
    lengths = [len(text_of(exchange)) for exchange in docs]
    assert sum(lengths) > 2_000_000
    assert min(lengths) >= MIN_CHARS
    assert max(lengths) <= MAX_CHARS


def test_no_long_paragraph_occurs_twice_so_held_out_documents_share_no_text(docs: list[Exchange]) -> None:
    paragraphs = Counter(
        " ".join(paragraph.split())
        for exchange in docs
        for paragraph in text_of(exchange).split("\n\n")
        if len(paragraph) > 120 and not paragraph.startswith("## ")
    )
    assert [text for text, count in paragraphs.items() if count > 1] == []


def test_documents_are_plain_texts_that_name_their_module(docs: list[Exchange]) -> None:
    details = {detail_of(exchange) for exchange in docs}
    assert {"python-docs:argparse", "python-docs:asyncio.queues", "python-docs:topics.for"} <= details
    assert not any(re.search(r"\btests?\b|idlelib|encodings", detail) for detail in details)
    assert all(exchange.messages == () and exchange.model is None for exchange in docs)
    assert len({exchange.id for exchange in docs}) == len(docs)


def test_a_heading_shows_the_qualified_name_and_signature(docs: list[Exchange]) -> None:
    texts = [text_of(exchange) for exchange in docs if detail_of(exchange) == "python-docs:textwrap"]
    assert "## textwrap.shorten(text, width, **kwargs)" in "\n".join(texts)


def test_modules_are_read_and_never_imported(tmp_path: Path) -> None:
    root = write_stdlib(tmp_path, {"trap.py": module_source("trap")})
    assert "python-docs:trap" in [detail_of(exchange) for exchange in python_docs(root)]


def test_the_order_and_digest_do_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    modules = {f"{name}.py": module_source(name) for name in ("beta", "alpha", "gamma/__init__", "gamma/delta")}
    one = python_docs(write_stdlib(tmp_path / "one", modules))
    two = python_docs(write_stdlib(tmp_path / "two", dict(reversed(modules.items()))))
    assert one == two
    assert corpus_digest(one) == corpus_digest(two)
    assert [detail_of(e) for e in one][2:] == [f"python-docs:{m}" for m in ("alpha", "beta", "gamma", "gamma.delta")]


def test_the_digest_changes_with_the_text(tmp_path: Path) -> None:
    one = python_docs(write_stdlib(tmp_path / "one", {"alpha.py": module_source("alpha")}))
    two = python_docs(write_stdlib(tmp_path / "two", {"alpha.py": module_source("alphA")}))
    assert corpus_digest(one) != corpus_digest(two)


def test_a_long_topic_loses_what_a_short_one_says_already(tmp_path: Path) -> None:
    documents = {detail_of(e): text_of(e) for e in python_docs(write_stdlib(tmp_path, {}))}
    assert LONG.strip() in documents["python-docs:topics.short"]
    assert LONG.strip() not in documents["python-docs:topics.long"]


@pytest.mark.parametrize("folder", ["test", "site-packages", "encodings", "json/tests", "config-3.11-x86_64"])
def test_tests_tables_and_other_peoples_packages_are_left_out(tmp_path: Path, folder: str) -> None:
    root = write_stdlib(tmp_path, {f"{folder}/thing.py": module_source("thing")})
    assert not any("thing" in detail_of(exchange) for exchange in python_docs(root))


def test_a_docstring_of_one_endless_line_is_cut_to_size(tmp_path: Path) -> None:
    endless = "".join(f"{k} " for k in range(5_000)).strip()
    documents = python_docs(write_stdlib(tmp_path, {"endless.py": f'"""{endless}"""\n'}))
    parts = [text_of(exchange) for exchange in documents if detail_of(exchange) == "python-docs:endless"]
    assert len(parts) > 1
    assert all(len(part) <= MAX_CHARS for part in parts)


def test_a_python_without_sources_is_an_input_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not installed .*Remedy"):
        python_docs(tmp_path)


# --- intents --------------------------------------------------------------------------------------------------


def test_no_ask_or_wording_belongs_to_two_splits() -> None:
    book = _intent_book()
    for texts in (*book.asks.values(), *book.wordings.values()):
        parts = [set(_own(texts, split)) for split in SPLITS]
        assert sum(len(part) for part in parts) == len(set(texts)) == len(texts)
        assert all(parts)


@pytest.mark.parametrize("split", SPLITS)
def test_every_request_is_asked_equally_often_and_every_message_is_new(split: Split) -> None:
    gold = intents_gold() if split == "unlabelled" else intents(split)
    assert len(gold) == INTENT_SIZES[split]
    assert set(Counter(exchange.response for exchange in gold).values()) == {INTENT_SIZES[split] // 20}
    assert len({utterance(exchange) for exchange in gold}) == len(gold)
    assert not any("{" in utterance(exchange) for exchange in gold)


def test_splits_share_no_message() -> None:
    messages = [{utterance(exchange).lower() for exchange in intents(split)} for split in SPLITS]
    assert len(set.union(*messages)) == sum(len(part) for part in messages)


def test_labels_are_distinct_and_of_one_to_three_words() -> None:
    labels = intent_labels()
    assert len(set(labels)) == len(labels) == 20
    assert all(1 <= len(label.split()) <= 3 for label in labels)


def test_no_label_stands_in_the_instruction() -> None:
    instruction = _intent_book().instruction.lower()
    assert not any(label in instruction for label in intent_labels())


def test_unlabelled_messages_carry_no_answer_and_the_gold_follows_their_order() -> None:
    unlabelled, gold = intents("unlabelled", size=200), intents_gold(size=200)
    assert all(exchange.response is None for exchange in unlabelled)
    assert all(exchange.response in intent_labels() for exchange in gold)
    assert [exchange.messages for exchange in unlabelled] == [exchange.messages for exchange in gold]


def test_the_same_seed_gives_the_same_messages_in_every_python_version() -> None:
    digests = [corpus_digest(intents(split)) for split in SPLITS]
    assert digests == [
        "786b0534f09b05ecfbc3a6fa1791100b4431ff0998eae805c0e0f02ab5f45eb3",
        "ea71637ee31ea87e9a0ca1310292dd85aafa338af1d95e95e57f12847fafc777",
        "b580b75dce73869518954ffdabd95fd563d638f73488e0ac2cebcbd00c4bba69",
    ]
    assert corpus_digest(intents("teach", seed=1)) != digests[0]


def test_a_smaller_size_is_a_subset_of_a_larger_one() -> None:
    small, large = ({utterance(exchange) for exchange in intents("unlabelled", size=n)} for n in (200, 3_000))
    assert small < large
    assert len(large) == 3_000


class Everything(set[str]):
    """As if every message had been given out already."""

    def __contains__(self, item: object) -> bool:
        return True


def test_more_messages_than_the_wordings_give_are_refused() -> None:
    with pytest.raises(InputError, match="smaller size"):
        _new_message(_intent_book(), ("renew {book}", "More time please", "both"), Everything(), Random(0))


def words_of(exchange: Exchange) -> set[str]:
    return set(re.findall(r"[a-z']+", utterance(exchange).lower()))


def test_counting_words_solves_part_of_the_task_and_not_all_of_it() -> None:
    """Naive Bayes over words: far above chance (5%), so it can be learnt; far below 100%, so it is not trivial."""
    labels = intent_labels()
    teach, test = intents("teach"), intents("test")
    column = {word: k for k, word in enumerate(sorted(set().union(*map(words_of, teach))))}
    counts = np.full((len(labels), len(column)), 0.1)
    for exchange in teach:
        assert exchange.response is not None
        counts[labels.index(exchange.response), [column[word] for word in words_of(exchange)]] += 1
    log_shares = np.log(counts / counts.sum(axis=1, keepdims=True))
    right = 0
    for exchange in test:
        known = [column[word] for word in words_of(exchange) if word in column]
        right += labels[int(log_shares[:, known].sum(axis=1).argmax())] == exchange.response
    assert 0.5 <= right / len(test) <= 0.9
