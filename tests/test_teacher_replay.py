from dataclasses import replace
from pathlib import Path

import pytest

from stillproof.config import TeacherConfig
from stillproof.errors import ConfigError, InputError
from stillproof.exchange import Exchange, Message, Sampling
from stillproof.store import Store
from stillproof.teacher import Identity, Request, Teacher, identify, open_teacher
from stillproof.teacher.fake import FakeTeacher
from stillproof.teacher.replay import ReplayTeacher


def ask(text: str, sample: int = 0, temperature: float = 1.0) -> Request:
    return Request((Message("user", text),), Sampling(temperature=temperature), sample)


REQUESTS = [ask(text, sample) for text in ("a", "b") for sample in (0, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store.create(tmp_path / "store") as store:
        store.append_many(FakeTeacher().answer(REQUESTS))
    return tmp_path / "store"


def recorded(folder: Path) -> dict[str | None, Exchange]:
    return {exchange.request_key: exchange for exchange in Store.open(folder)}


def test_the_same_request_is_answered_with_the_recorded_response_and_id(folder: Path) -> None:
    config = TeacherConfig(kind="replay", model=str(folder), licence="mit")
    teacher = open_teacher(config)
    assert isinstance(teacher, Teacher)
    assert teacher.identity == identify(config)
    assert (teacher.identity.model, teacher.identity.licence) == ("fake", "mit")
    for answer in teacher.answer(reversed(REQUESTS)):
        original = recorded(folder)[answer.request_key]
        assert (answer.id, answer.response, answer.time) == (original.id, original.response, original.time)
        assert answer.provenance is not None
        assert (answer.provenance.source, answer.provenance.teacher) == ("replay", teacher.identity.digest)


def test_other_sampling_is_answered_by_sample_index_and_keeps_what_was_recorded(folder: Path) -> None:
    teacher = open_teacher(TeacherConfig(kind="replay", model=str(folder)))
    greedy = ask("a", 1, temperature=0.0)
    (answer,) = teacher.answer([greedy])
    original = recorded(folder)[ask("a", 1).key("fake")]
    assert answer.response == original.response
    assert answer.sampling == Sampling(temperature=1.0)
    assert answer.request_key == greedy.key("fake")


def test_a_prompt_or_sample_that_was_not_recorded_is_named_and_nothing_is_guessed(folder: Path) -> None:
    teacher = open_teacher(TeacherConfig(kind="replay", model=str(folder)))
    for request in (ask("never asked"), ask("a", 2)):
        with pytest.raises(InputError, match=request.messages[0].content or ""):
            list(teacher.answer([request]))
    with_tools = replace(REQUESTS[0], tools="[]")
    with pytest.raises(InputError):
        list(teacher.answer([with_tools]))


def test_a_refused_call_is_no_answer() -> None:
    refused = list(FakeTeacher(status=lambda _: 400).answer(REQUESTS))
    with pytest.raises(InputError, match="holds 0 response"):
        list(ReplayTeacher(refused, Identity("fake", "replay")).answer(REQUESTS))


def test_another_store_is_another_teacher_and_no_store_is_refused(folder: Path, tmp_path: Path) -> None:
    config = TeacherConfig(kind="replay", model=str(folder))
    before = identify(config)
    with Store.open(folder) as store:
        store.append_many(FakeTeacher().answer([ask("c")]))
    assert identify(config).digest != before.digest
    with pytest.raises(InputError):
        open_teacher(TeacherConfig(kind="replay", model=str(tmp_path / "absent")))
    with pytest.raises(ConfigError, match="needs a store"):
        open_teacher(TeacherConfig(kind="replay"))
