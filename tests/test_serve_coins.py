"""Serving under coins: what is noted, tossed and stored before an answer leaves, and what is refused."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from openai import OpenAI
from tests.coined_world import SCOPES, World, calls, story
from tests.tiny_model import tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from stillproof.canary import found, sides_of
from stillproof.cli import app
from stillproof.config import TeacherConfig
from stillproof.errors import ConfigError, StorageError, TeacherError
from stillproof.exchange import Exchange, Message, Sampling
from stillproof.serve import Coined, KeyRing, Ledger, Scopes, read_scopes
from stillproof.serve.foreground import Proof, serve_until_interrupted
from stillproof.serve.ledger import read_entries
from stillproof.serve.marked import MarkedTeacher, open_marked
from stillproof.serve.recorder import Recorder
from stillproof.serve.twins import twins_in
from stillproof.store import Store
from stillproof.teacher import Identity, Request
from stillproof.teacher.fake import FakeTeacher
from stillproof.teacher.local import LocalTeacher
from stillproof.trace.evidence import closed_tuples
from stillproof.trace.key_file import create_mark_key
from stillproof.trace.radioactivity import find_mark
from stillproof.watermark import MarkKey, Scheme


def kinds_of(world: World, exchange_id: str) -> list[str]:
    return [entry.purpose or entry.kind for entry in read_entries(world.ledger) if entry.id == exchange_id]


# --- twins ---------------------------------------------------------------------------------------------------------


def test_both_candidates_are_noted_then_the_coin_is_tossed_then_one_is_served(tmp_path: Path) -> None:
    world = World(tmp_path)
    served = world.serve(calls(6))
    twins = twins_in(read_entries(world.ledger))
    assert [twin.id for twin in twins] == [exchange.id for exchange in served]
    for twin, exchange in zip(twins, served, strict=True):
        assert exchange.response == twin.candidates[twin.coin].text != twin.candidates[1 - twin.coin].text
        assert kinds_of(world, exchange.id) == ["twin", "twin"]
        assert exchange.sampling == Sampling()
    assert {twin.coin for twin in twins} <= {0, 1}


def test_note_and_coin_are_on_disk_before_the_answer_is_stored(tmp_path: Path) -> None:
    world = World(tmp_path)

    class FullStore(Store):
        def append(self, exchange: Exchange) -> Exchange:
            raise StorageError("the disk is full", exchange.id)

    with FullStore.create(tmp_path / "full") as store, Ledger(world.ledger, world.ring, "coins") as ledger:
        recorder = Recorder(Coined(FakeTeacher(story), ledger, world.rules()), store, ledger)
        with pytest.raises(StorageError):
            next(recorder.answer(calls(1)))
        assert len(store) == 0
    assert len(twins_in(read_entries(world.ledger))) == 1


def test_the_share_of_calls_that_get_a_twin_is_the_one_asked_for_and_recorded(tmp_path: Path) -> None:
    world = World(tmp_path)
    served = world.serve(calls(300), world.rules(0.25))
    n = len(twins_in(read_entries(world.ledger)))
    assert 45 <= n <= 108  # 75 expected, standard deviation 7.5
    assert all("twin-share" in kinds_of(world, exchange.id) for exchange in served[:5])


def test_calls_that_leave_no_free_draw_get_no_twin_and_are_answered_as_before(tmp_path: Path) -> None:
    world = World(tmp_path)
    later = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    requests = [*calls(1, temperature=0.0), *calls(1, topic="seeded", seed=5), Request(later)]
    served = world.serve(requests)
    assert twins_in(read_entries(world.ledger)) == []
    assert [exchange.response for exchange in served] == [story(request) for request in requests]


def test_a_candidate_that_was_refused_leaves_a_plain_answer_and_no_coin(tmp_path: Path) -> None:
    world, seen = World(tmp_path), Counter[str]()

    def status(request: Request) -> int:
        seen[request.id.partition(".")[0]] += 1
        return 400 if seen[request.id.partition(".")[0]] == 1 else 200

    (exchange,) = world.serve(calls(1), teacher=FakeTeacher(story, status=status))
    assert exchange.response
    assert twins_in(read_entries(world.ledger)) == []


def test_a_teacher_that_breaks_off_between_two_candidates_leaves_nothing_half_known(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(TeacherError):
        world.serve(calls(1), teacher=FakeTeacher(story, fail_after=1))
    assert twins_in(read_entries(world.ledger)) == []
    with Store.open(world.store) as store:
        assert len(store) == 0


class Shuffled(FakeTeacher):
    """Answers in another order than it is asked."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        yield from reversed(list(super().answer(requests)))


def test_candidates_that_finish_in_any_order_are_put_together_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    served = world.serve(calls(9), teacher=Shuffled(story))
    assert len({exchange.messages for exchange in served}) == 9
    for twin in twins_in(read_entries(world.ledger)):
        (exchange,) = [one for one in served if one.id == twin.id]
        assert exchange.response == twin.candidates[twin.coin].text


def test_single_key_gumbel_and_recorded_answers_give_no_twins(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(ConfigError, match="both answers of a twin are equal"):
        world.rules(0.5, mark="0" * 64, mark_repeats=True)
    with pytest.raises(ConfigError, match="a share of twins"):
        world.rules(1.5)

    class Recorded(FakeTeacher):
        @property
        def identity(self) -> Identity:
            return Identity("recorded", "replay")

    with pytest.raises(ConfigError, match="repeats recorded answers"):
        world.serve(calls(1), teacher=Recorded(story))


# --- cards ---------------------------------------------------------------------------------------------------------


def test_cards_are_planted_by_the_keys_coins_and_noted(tmp_path: Path) -> None:
    world = World(tmp_path)
    served = world.serve(calls(8, topic="how to cook"), world.rules(0, SCOPES))
    notes = {entry.id: entry.value for entry in read_entries(world.ledger) if entry.kind == "card"}
    assert len(notes) == 8
    for exchange in served:
        note = notes[exchange.id]
        expected = sides_of(world.ring.key("cards"), exchange.account or "", "cooking", note["sides"])
        assert note["sides"] == expected
        counts = found(exchange.response or "")
        assert all(counts[name][1 - side] == 0 < counts[name][side] for name, side in note["sides"].items())


def test_prompts_of_no_scope_get_no_card(tmp_path: Path) -> None:
    world = World(tmp_path)
    requests = calls(3, topic="something else")
    served = world.serve(requests, world.rules(0, SCOPES))
    assert [exchange.response for exchange in served] == [story(request) for request in requests]
    assert list(read_entries(world.ledger)) == []


def test_a_card_is_fixed_in_both_candidates_before_the_coin(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(calls(5, topic="cook"), world.rules(1, SCOPES))
    for twin in twins_in(read_entries(world.ledger)):
        sides = sides_of(world.ring.key("cards"), twin.account, "cooking")
        for candidate in twin.candidates:
            assert all(counts[1 - sides[name]] == 0 for name, counts in found(candidate.text).items())
        assert twin.candidates[0].processing == twin.candidates[1].processing


@pytest.mark.parametrize(
    "text", ["", "[scopes]\n", "[scopes]\ncooking = []", "[scopes]\n'../x' = ['a']", "[other]\na = ['b']", "not toml ="]
)
def test_a_file_that_names_no_scopes_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "scopes.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_scopes(path)


def test_the_first_scope_that_has_a_whole_word_is_the_prompts(tmp_path: Path) -> None:
    path = tmp_path / "scopes.toml"
    path.write_text('[scopes]\ncooking = ["oven", "cook"]\ntravel = ["flight"]\n')
    scopes = read_scopes(path)
    assert scopes.of_text("COOK on a flight") == "cooking"
    assert scopes.of_text("a flight") == "travel"
    assert scopes.of_text("cookery") is None
    assert Scopes({}).of_text("anything") == ""


# --- marks ---------------------------------------------------------------------------------------------------------


def test_a_mark_needs_logits_in_our_hands() -> None:
    key = MarkKey.generate(Scheme("green", 1))
    with pytest.raises(ConfigError, match="shows no logits") as caught:
        open_marked(TeacherConfig(kind="openai", model="m"), key)
    assert "--twins" in str(caught.value)


@pytest.mark.parametrize("scheme", [Scheme("green", 1), Scheme("gumbel", 1), Scheme("green", 1, account_share=0.3)])
def test_what_marked_weights_say_carries_the_key_and_no_other(scheme: Scheme) -> None:
    key, other = MarkKey(scheme, bytes(range(32))), MarkKey(scheme, bytes(32))
    plain = LocalTeacher(tiny_model(), tiny_tokenizer(), Identity("tiny", "weights"))
    requests = [replace(request, account="0" * 32) for request in calls(24, max_tokens=60, seed=3)]
    answers = [exchange.tokens.ids for exchange in MarkedTeacher(plain, key).answer(requests) if exchange.tokens]
    tuples = closed_tuples([ids or () for ids in answers], 1)
    assert find_mark(tuples, key, key.commitment).decision == "found"
    assert find_mark(tuples, other, other.commitment).decision == "not_found"


def test_marked_answers_do_not_depend_on_the_batch_and_temperature_0_is_not_marked() -> None:
    key = MarkKey(Scheme("green", 1), bytes(range(32)))
    plain = LocalTeacher(tiny_model(), tiny_tokenizer(), Identity("tiny", "weights"))
    requests = calls(3, max_tokens=12, seed=4, top_k=20, top_p=0.9)
    together = {exchange.messages: exchange.response for exchange in MarkedTeacher(plain, key).answer(requests)}
    for request in requests:
        (alone,) = MarkedTeacher(plain, key).answer([request])
        assert together[request.messages] == alone.response
    cold = calls(1, max_tokens=12, temperature=0.0)
    assert [one.response for one in MarkedTeacher(plain, key).answer(cold)] == [
        one.response for one in plain.answer(cold)
    ]


def test_twins_of_marked_weights_share_the_key_and_differ(tmp_path: Path) -> None:
    key = MarkKey(Scheme("gumbel", 1), bytes(range(32)))
    world = World(tmp_path)
    plain = LocalTeacher(tiny_model(), tiny_tokenizer(), Identity("tiny", "weights"))
    world.serve(calls(3, max_tokens=16), world.rules(1, mark=key.commitment), MarkedTeacher(plain, key))
    twins = twins_in(read_entries(world.ledger))
    assert len(twins) == 3
    assert {candidate.processing.mark for twin in twins for candidate in twin.candidates} == {key.commitment}
    assert all(twin.candidates[0].text != twin.candidates[1].text for twin in twins)
    assert all("mark" in kinds_of(world, twin.id) for twin in twins)


def test_the_ledger_holds_no_raw_account_name(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(calls(2, account="ann@example.com", topic="cook"), world.rules(1, SCOPES))
    text = (world.ledger / "ledger.jsonl").read_text()
    assert "ann@example.com" not in text
    assert all(json.loads(line)["id"].startswith("serve-") for line in text.splitlines())
    assert KeyRing(world.ring.folder).key("coins").hex() not in text


# --- the command -----------------------------------------------------------------------------------------------------


def test_an_endpoint_serves_under_coins_until_interrupted_and_says_how_many(tmp_path: Path) -> None:
    world = World(tmp_path)
    proof = Proof(world.ring.folder, world.ledger, twins=1.0, scopes=Scopes({}))
    heard: list[str] = []

    def call(url: str) -> None:
        with OpenAI(base_url=url, api_key="secret of ann") as client:
            for word in ("one", "two"):
                said = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": word}])
                heard.append(said.choices[0].message.content or "")
        raise KeyboardInterrupt

    told = serve_until_interrupted(FakeTeacher(story), port=0, record=world.store, proof=proof, on_start=call)
    assert (told["recorded"], told["twins"], told["cards"]) == (2, 2, 2)
    twins = twins_in(read_entries(world.ledger))
    assert [twin.candidates[twin.coin].text for twin in twins] == heard
    assert len({twin.account for twin in twins}) == 1
    assert "secret of ann" not in (world.ledger / "ledger.jsonl").read_text()


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("--twins", "0.5"), "--keys"),
        (("--cards", "all"), "--keys"),
        (("--twins", "7", "--keys", "K", "--ledger", "L"), "--twins"),
        (("--twins", "0.5", "--keys", "K", "--ledger", "L"), "--record"),
        (("--mark", "absent.json"), "--key"),
        (("--mark", "MARK", "--teacher", "openai", "--model", "m"), "--mark"),
    ],
)
def test_coins_without_what_they_need_serve_nothing(words: tuple[str, ...], missing: str, tmp_path: Path) -> None:
    create_mark_key(tmp_path / "mark.json", Scheme("green", 1))
    named = {"K": str(tmp_path / "keys"), "L": str(tmp_path / "ledger"), "MARK": str(tmp_path / "mark.json")}
    result = CliRunner().invoke(app, ["serve", "--json", *(named.get(word, word) for word in words)])
    assert result.exit_code in (1, 2)
    assert missing in result.output
    assert not (tmp_path / "ledger").exists()
