import math
from typing import Any

import pytest

from stillproof.config import TeacherConfig
from stillproof.errors import ConfigError, TeacherError
from stillproof.exchange import Message, Sampling
from stillproof.teacher import Identity, Request, Teacher, identify, open_teacher
from stillproof.teacher.fake import FakeTeacher


def ask(text: str, **sampling: Any) -> Request:
    return Request((Message("user", text),), Sampling(**sampling))


def test_the_fake_teacher_is_a_teacher() -> None:
    assert isinstance(FakeTeacher(), Teacher)


def test_the_same_request_has_the_same_answer_and_another_sample_another() -> None:
    request = ask("a prompt", temperature=1.0)
    again = Request(request.messages, request.sampling, sample=1)
    first, same, other = FakeTeacher().answer([request, request, again])
    assert first.response == same.response
    assert first.response != other.response
    assert first.request_key != other.request_key


def test_every_exchange_names_its_request_its_teacher_and_has_no_id() -> None:
    teacher = FakeTeacher({"2+2": "4"})
    (exchange,) = teacher.answer([ask("2+2")])
    assert (exchange.response, exchange.status, exchange.finish_reason) == ("4", 200, "stop")
    assert exchange.id == ""
    assert exchange.request_key == ask("2+2").key("fake")
    assert exchange.provenance is not None
    assert exchange.provenance.teacher == teacher.identity.digest
    assert exchange.tokens is None


def test_a_given_id_is_kept_and_is_no_part_of_the_key() -> None:
    plain, named = ask("x"), Request((Message("user", "x"),), id="call-1")
    (exchange,) = FakeTeacher().answer([named])
    assert exchange.id == "call-1"
    assert exchange.request_key == plain.key("fake")


def test_calls_are_counted_and_failure_comes_after_the_answers() -> None:
    teacher = FakeTeacher(fail_after=2)
    answers = teacher.answer([ask("a"), ask("b"), ask("c")])
    assert len([next(answers), next(answers)]) == 2
    with pytest.raises(TeacherError, match="resume"):
        next(answers)
    assert teacher.calls == 2
    assert set(teacher.calls_by_key.values()) == {1}


def test_a_refused_call_has_its_status_and_no_response() -> None:
    (exchange,) = FakeTeacher(status=lambda _: 400).answer([ask("a")])
    assert (exchange.status, exchange.response) == (400, None)


def test_tokens_spell_the_response_and_a_row_of_top_logprobs_has_mass_below_one() -> None:
    (exchange,) = FakeTeacher(logprobs_seed=3).answer([ask("a", top_logprobs=5)])
    tokens = exchange.tokens
    assert tokens is not None
    assert tokens.pieces is not None
    assert tokens.top_logprobs is not None
    assert exchange.response is not None
    assert b"".join(tokens.pieces).decode() == exchange.response
    assert all(sum(map(math.exp, row)) < 1 for row in tokens.top_logprobs)
    assert all(len(row) == 5 for row in tokens.top_logprobs)


def test_the_digest_of_an_identity_covers_every_field() -> None:
    plain = Identity("m", "weights")
    others = [
        Identity("n", "weights"),
        Identity("m", "gguf"),
        Identity("m", "weights", revision="1"),
        Identity("m", "weights", weights="1"),
        Identity("m", "weights", tokenizer="1"),
        Identity("m", "weights", chat_template="1"),
        Identity("m", "weights", licence="1"),
        Identity("m", "weights", endpoint="1"),
    ]
    assert len({identity.digest for identity in [plain, *others]}) == 9


def test_an_unknown_kind_is_refused_with_the_nearest_known_one() -> None:
    for refuse in (open_teacher, identify):
        with pytest.raises(ConfigError, match="'openai'"):
            refuse(TeacherConfig(kind="opnai"))
