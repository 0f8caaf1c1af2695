"""The built-in requests to a general small assistant: many, all different, well-formed, and mixed in any prefix."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from stillproof.config import DataConfig
from stillproof.distill.builtin import corpus_digest, prompts
from stillproof.distill.builtin.prompts import _Drawn, _drawn, _prompt_book
from stillproof.distill.corpus import read_prompts, split
from stillproof.exchange import Exchange, Provenance


@pytest.fixture(scope="module")
def drawn() -> list[_Drawn]:
    return list(_drawn(_prompt_book()))


@pytest.fixture(scope="module")
def asked() -> list[Exchange]:
    return prompts()


def request_of(exchange: Exchange) -> str:
    (message,) = exchange.messages
    assert message.role == "user"
    assert message.content is not None
    return message.content


def test_there_are_thousands_of_prompts_and_no_two_are_equal(asked: list[Exchange]) -> None:
    assert len(asked) >= 4_000
    # Neither in their letters nor as a reader sees them.
    assert len({re.sub(r"\W+", " ", request_of(exchange)).lower() for exchange in asked}) == len(asked)


def test_a_prompt_is_one_user_turn_without_an_answer_under_its_content_hash(asked: list[Exchange]) -> None:
    assert all(exchange.response is None and exchange.model is None for exchange in asked)
    assert {exchange.provenance for exchange in asked} == {Provenance("dataset", "prompts")}
    assert all(re.fullmatch(r"[0-9a-f]{40}-0", exchange.id) for exchange in asked)


def test_the_same_prompts_come_in_the_same_order_in_every_python_version(asked: list[Exchange]) -> None:
    assert asked == prompts()
    assert corpus_digest(asked) == "a9875968ae569c89fc5210dd0817b5232ba1f3df3664fb29b109a82e1c4f9354"
    assert [request_of(exchange) for exchange in asked[:3]] == [
        "Plan a short lesson about the age of sailing ships for twelve-year-olds.",
        "Suggest three small things that could help somebody who is homesick.",
        'Which words mean nearly the same as "whisper"?',
    ]


def test_the_lists_are_many_and_long_and_no_subject_stands_in_two() -> None:
    book = _prompt_book()
    subjects = [subject for listed in book.subjects.values() for subject in listed]
    assert len(book.subjects) >= 25
    assert len(set(subjects)) == len(subjects) >= 700
    assert sum(len(forms) for forms in book.forms.values()) >= 45


def test_every_list_belongs_to_a_kind_and_every_kind_has_forms() -> None:
    book = _prompt_book()
    assert {name for lists in book.kinds.values() for name in lists} == set(book.subjects)
    assert set(book.kinds) == set(book.forms)


def test_no_two_forms_share_a_wording_and_each_wording_has_one_slot() -> None:
    wordings = [w for forms in _prompt_book().forms.values() for texts in forms.values() for w in texts]
    assert len(set(wordings)) == len(wordings)
    assert all(wording.count("{x}") == 1 for wording in wordings)


def test_every_form_and_every_subject_takes_its_share(drawn: list[_Drawn]) -> None:
    book = _prompt_book()
    forms = Counter((prompt.kind, prompt.form) for prompt in drawn)
    subjects = Counter(prompt.subject for prompt in drawn)
    assert set(forms) == {(kind, form) for kind, named in book.forms.items() for form in named}
    assert set(subjects) == {subject for listed in book.subjects.values() for subject in listed}
    assert max(forms.values()) <= len(drawn) * 0.02
    assert min(subjects.values()) >= 3
    assert max(subjects.values()) <= 8


def test_a_form_uses_all_its_wordings_and_no_subject_twice(drawn: list[_Drawn]) -> None:
    pairs = Counter((prompt.kind, prompt.form, prompt.subject) for prompt in drawn)
    assert set(pairs.values()) == {1}
    made = {(p.kind, p.form, p.text.replace(p.subject, "{x}")) for p in drawn}
    for kind, forms in _prompt_book().forms.items():
        for form, wordings in forms.items():
            assert {(kind, form, wording) for wording in wordings} <= made


@pytest.mark.parametrize("start", [0, 1_000, 3_800])
def test_any_two_hundred_in_a_row_are_of_many_forms_kinds_and_subjects(drawn: list[_Drawn], start: int) -> None:
    row = drawn[start : start + 200]
    assert len({(prompt.kind, prompt.form) for prompt in row}) >= 100
    assert len({prompt.kind for prompt in row}) >= 20
    assert len({prompt.subject for prompt in row}) >= 150
    assert max(Counter(prompt.form for prompt in row).values()) <= 6


def test_prompts_are_plain_sentences(asked: list[Exchange]) -> None:
    for exchange in asked:
        text = request_of(exchange)
        assert text.isascii() and text.isprintable() and "  " not in text
        assert not re.search(r"[{}\[\]<>]", text), text
        assert re.match(r"[A-Z]", text), text
        assert re.search(r'[.?:]"?$', text), text
        assert not re.search(r"[.?!:] ?[.?!:,]", text), text
        assert not re.search(r"[.?!] +[a-z]", text), text
        assert text.count('"') % 2 == 0, text


def test_no_word_is_doubled_and_no_article_clashes(asked: list[Exchange]) -> None:
    for exchange in asked:
        text = request_of(exchange)
        assert not re.search(r"\b(\w+) \1\b", text, re.IGNORECASE), text
        assert not re.search(r"\b(a|an|the) (a|an|the)\b", text, re.IGNORECASE), text
        # "an hour" and "a university" are the exceptions by sound.
        assert not re.search(r"\ba [aeio]\w|\ban (?!hour)[bcdfghjklmnpqrstvwxyz]\w", text, re.IGNORECASE), text


def test_the_source_prompts_is_read_and_parted_by_document(asked: list[Exchange]) -> None:
    documents = read_prompts("prompts", DataConfig())
    assert list(documents.items) == asked
    parted = split(documents, 0.1, 0)
    sides = [{request_of(item) for item in side.items} for side in (parted.train, parted.heldout)]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == len(documents.items)
    assert 0.08 < len(sides[1]) / len(documents.items) < 0.12


def test_a_smaller_corpus_is_a_prefix_of_the_whole(asked: list[Exchange]) -> None:
    some = read_prompts("prompts", DataConfig(max_documents=200))
    assert list(some.items) == asked[:200]
