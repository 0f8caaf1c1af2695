"""A plan: fixed before the first query, named by its digest, refused where it is unsound."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.toy_suspects import GREEN, PROMPTS, toy_tokenizer

from stillproof.errors import ConfigError, InputError, MismatchError, OutputExistsError
from stillproof.trace.key_file import create_mark_key
from stillproof.trace.plan import Choices, Plan, check_key, read_plan, read_prompts, write_plan
from stillproof.trace.suspect import suspect_config
from stillproof.trace.tokens import TextToIds, open_tokenizer
from stillproof.watermark import MarkKey

KEY = MarkKey(GREEN, bytes(range(32)))
MADE = datetime(2026, 5, 1, 12, tzinfo=UTC)


def planned(folder: Path, choices: Choices | None = None, prompts: tuple[str, ...] = PROMPTS) -> tuple[Plan, str]:
    tokenizer = TextToIds(str(toy_tokenizer(folder / "tokenizer"))).id
    return write_plan(folder / "plan.json", KEY, tokenizer, prompts, choices, made=MADE)


def test_a_plans_id_is_the_digest_of_its_file(tmp_path: Path) -> None:
    plan, plan_id = planned(tmp_path)
    assert plan_id == sha256((tmp_path / "plan.json").read_bytes()).hexdigest()
    assert read_plan(tmp_path / "plan.json", plan_id=plan_id.upper()) == (plan, plan_id)
    assert (plan.commitment, plan.made, plan.prompts) == (KEY.commitment, MADE, PROMPTS)


def test_the_same_choices_at_the_same_time_are_one_plan(tmp_path: Path) -> None:
    one, two = (tmp_path / name for name in "ab")
    tokenizer = TextToIds(str(toy_tokenizer(tmp_path / "tokenizer"))).id
    ids = [write_plan(path / "plan.json", KEY, tokenizer, PROMPTS, made=MADE)[1] for path in (one, two)]
    assert ids[0] == ids[1]
    assert write_plan(tmp_path / "c.json", KEY, tokenizer, PROMPTS, Choices(seed=1), made=MADE)[1] != ids[0]


def test_a_plan_is_never_overwritten(tmp_path: Path) -> None:
    _, plan_id = planned(tmp_path)
    with pytest.raises(OutputExistsError):
        planned(tmp_path, Choices(alpha=0.05))
    assert read_plan(tmp_path / "plan.json")[1] == plan_id


def test_an_edited_plan_has_another_id(tmp_path: Path) -> None:
    _, plan_id = planned(tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace('"alpha": 0.001', '"alpha": 0.05'))
    with pytest.raises(MismatchError, match="not the one of that id"):
        read_plan(path, plan_id=plan_id)


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ["other"]},
        {"alpha": 0},
        {"n_decoys": 10},
        {"min_tuples": 1},
        {"commitment": "abc"},
        {"test": "twins"},
        {"mode": "open"},
        {"made": "2026-05-01"},
        {"unknown": 1},
        {"format": "stillproof-trace-plan/2"},
        {"seed": -1},
    ],
    ids=str,
)
def test_a_plan_that_is_unsound_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    planned(tmp_path)
    row = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "bad.json").write_text(json.dumps({**row, **change}))
    with pytest.raises(ConfigError, match=next(iter(change))):
        read_plan(tmp_path / "bad.json")


@pytest.mark.parametrize("choices", [Choices(alpha=2), Choices(n_decoys=5), Choices(samples=0), Choices(batch=0)])
def test_a_choice_out_of_range_leaves_no_plan(choices: Choices, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        planned(tmp_path, choices)
    assert not (tmp_path / "plan.json").exists()


def test_samples_at_temperature_0_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all samples of a prompt are one"):
        planned(tmp_path, Choices(temperature=0, samples=2))


def test_open_mode_asks_for_candidates_and_looks_once(tmp_path: Path) -> None:
    plan, plan_id = planned(tmp_path, Choices(mode="open", top_logprobs=7))
    assert {request.sampling.top_logprobs for request in plan.requests(plan_id)} == {7}
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ConfigError, match="anytime"):
        planned(tmp_path, Choices(mode="open", stopping="anytime"))
    closed, closed_id = planned(tmp_path)
    assert {request.sampling.top_logprobs for request in closed.requests(closed_id)} == {None}


@pytest.mark.parametrize("prompts", [(), ("a", "a"), ("a", " ")])
def test_prompts_that_are_missing_doubled_or_empty_are_refused(prompts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        planned(tmp_path, prompts=prompts)


def test_each_call_has_its_own_id_and_each_sample_its_own_seed(tmp_path: Path) -> None:
    plan, plan_id = planned(tmp_path, Choices(samples=3, system="Be brief."))
    requests = plan.requests(plan_id)
    assert len({request.id for request in requests}) == len(requests) == 3 * len(PROMPTS)
    assert len({request.key("m") for request in requests}) == len(requests)
    assert [request.sampling.seed for request in requests[:3]] == [0, 1, 2]
    assert [message.role for message in requests[0].messages] == ["system", "user"]


def test_a_key_of_another_secret_or_another_scheme_is_not_the_plans(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path)
    check_key(plan, KEY)
    for other in (MarkKey(GREEN, bytes(32)), MarkKey(replace(GREEN, delta=3.0), KEY.secret)):
        with pytest.raises(MismatchError):
            check_key(plan, other)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "p.jsonl:2"),
        ("p.jsonl", '{"prompt": "a"}\n[', "p.jsonl:2"),
        ("p.txt", "a\nb\na\n", "p.txt"),
        ("p.txt", "\n\n", "p.txt"),
    ],
)
def test_prompts_that_cannot_be_used_are_named(name: str, text: str, where: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=where):
        read_prompts(tmp_path / name)


def test_prompts_are_lines_or_json_lines(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\n two \n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "one\\ntwo"}\n\n{"prompt": "three"}\n')
    assert read_prompts(tmp_path / "p.txt") == ("one", "two")
    assert read_prompts(tmp_path / "p.jsonl") == ("one\ntwo", "three")


def test_a_missing_file_of_prompts_or_plan_is_an_input_error(tmp_path: Path) -> None:
    for read in (read_prompts, read_plan):
        with pytest.raises(InputError):
            read(tmp_path / "none.json")


@given(st.binary(max_size=200))
def test_what_is_no_plan_is_refused_whatever_it_is(raw: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_bytes(raw)
        with pytest.raises((ConfigError, InputError)):
            read_plan(path)


# --- tokenizers and suspects ---------------------------------------------------------------------------------------


def test_text_is_cut_into_the_ids_of_the_marked_vocabulary(tmp_path: Path) -> None:
    to_ids = TextToIds(str(toy_tokenizer(tmp_path)))
    assert to_ids("w3 w199  w0") == [3, 199, 0]
    assert to_ids("") == []
    assert to_ids("w1 \ud800 w2") == [1, 200, 2]


def test_a_tokenizer_that_has_moved_is_known_by_its_digest(tmp_path: Path) -> None:
    planned = TextToIds(str(toy_tokenizer(tmp_path / "a"))).id
    moved = (tmp_path / "a").rename(tmp_path / "b")
    assert open_tokenizer(planned, str(moved)).id.file_sha256 == planned.file_sha256
    with pytest.raises(InputError):
        open_tokenizer(planned)
    other = toy_tokenizer(tmp_path / "c", ("w1", "w0"))
    with pytest.raises(MismatchError, match="other ids"):
        open_tokenizer(planned, str(other))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": {"type": "none"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        TextToIds(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer"):
        TextToIds(str(tmp_path))


def test_a_suspect_is_known_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    store = tmp_path / "store"
    store.mkdir()
    (store / "store.json").touch()
    kinds = {str(tmp_path): "weights", str(tmp_path / "m.gguf"): "gguf", str(store): "replay", "smollm2": "smollm2"}
    assert {suspect: suspect_config(suspect).kind for suspect in kinds} == kinds
    assert suspect_config("https://example.com/v1", model="m").base_urls == ("https://example.com/v1",)
    with pytest.raises(ConfigError):
        suspect_config("https://example.com/v1")
    with pytest.raises(ConfigError):
        suspect_config(str(tmp_path), model="m")
    with pytest.raises(InputError):
        suspect_config(str(tmp_path / "none"))


def test_a_key_file_is_created_once(tmp_path: Path) -> None:
    create_mark_key(tmp_path / "key.json", GREEN)
    with pytest.raises(OutputExistsError):
        create_mark_key(tmp_path / "key.json", GREEN)
