"""Audits by twins and cards, from serving to a replayed bundle: found, not found, inconclusive, refused."""

import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.coined_world import NOUNS, SCOPES, Reader, World, calls, habitual, random_of, reciting
from tests.tiny_model import tiny_folder, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from stillproof.canary import sides_of
from stillproof.cli import app
from stillproof.errors import (
    ConfigError,
    CustodyError,
    InputError,
    MismatchError,
    MissingSignalError,
    StillproofError,
    TeacherError,
)
from stillproof.exchange import Exchange, ResponseTokens
from stillproof.finding import Finding
from stillproof.serve.custody import read_opening
from stillproof.serve.ledger import COIN, Entry
from stillproof.teacher import Identity, Request, Teacher, asked, now
from stillproof.teacher.fake import FakeTeacher
from stillproof.teacher.local import LocalTeacher
from stillproof.trace.auditing import AuditLimits
from stillproof.trace.cards import find_cards, preferences
from stillproof.trace.coin_audit import CoinFiles, audit_coins
from stillproof.trace.coin_bundle import replay_coins
from stillproof.trace.coin_plan import (
    CoinChoices,
    CoinPlan,
    Places,
    PlannedPlace,
    ProbePrompt,
    read_any_plan,
    write_coin_plan,
)
from stillproof.trace.coin_verdict import Verdict, scores_of
from stillproof.trace.continuing import LocalContinuer, open_continuer
from stillproof.trace.control import read_control, read_places
from stillproof.trace.flips import CoinSettings
from stillproof.trace.places import choose, expected_hits, says, worth
from stillproof.trace.reading import LocalReader, _echoed, open_reader
from stillproof.trace.sealing import text_of
from stillproof.trace.served import Served, probes_of, read_served
from stillproof.trace.suspect import suspect_config
from stillproof.trace.twins import TwinSettings, find_served

LEVELS = (0.01, 0.05, 0.2)


class Desk:
    """An audit of a world: its plan and its bundle."""

    def __init__(
        self, world: World, test: str, choices: CoinChoices | None = None, name: str = "a", **plan: Any
    ) -> None:
        self.key = world.coin_key if test == "twins" else world.card_key
        self.opening = read_opening(self.key)
        self.served: Served = read_served(world.store, world.ledger, test, self.opening)
        path, self.bundle = world.folder / f"{name}.json", world.folder / f"{name}.bundle"
        self.plan, self.plan_id = write_coin_plan(path, test, self.served, self.opening, choices, **plan)
        self.files = CoinFiles(path, self.key, world.store, world.ledger, self.bundle)

    def run(self, suspect: Teacher, **limits: Any) -> Verdict:
        return audit_coins(lambda _: suspect, self.files, AuditLimits(**limits))[0]


def is_no_evidence(finding: Finding) -> bool:
    numbers = (finding.log10_p, finding.log10_e, finding.log10_p_adjusted, finding.statistic, finding.effect)
    return finding.decision == "inconclusive" and numbers == (None,) * 5


def texts_of(served: list[Exchange], account: str | None = None) -> list[str]:
    return [one.response or "" for one in served if account is None or one.account == account]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    for account in ("ann", "bob", "cat"):
        made.heard = [*getattr(made, "heard", []), *made.serve(calls(60, account, f"{account} asks"))]
    return made


# --- twins: found and not found --------------------------------------------------------------------------------------


def test_a_student_of_served_answers_is_found_and_a_stranger_replays_it(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", name=f"{tmp_path.name}")
    finding = desk.run(Reader(texts_of(world.heard), lift=0.5), reveal_key=True).finding
    assert (finding.decision, finding.kind, finding.n) == ("found", "design_based", 180)
    assert finding.log10_p is not None and finding.log10_p < -6
    again = replay_coins(desk.bundle)
    assert (again.finding, again.exact, again.same_software) == (finding, True, True)


def test_innocents_are_not_found(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", name=tmp_path.name)
    assert desk.run(Reader()).finding.decision == "not_found"


def test_the_account_whose_answers_were_learned_is_named_and_no_other(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", CoinChoices(accounts=()), name=tmp_path.name)
    learned = world.heard[60].account
    verdict = desk.run(Reader(texts_of(world.heard, learned), lift=0.8), reveal_key=True)
    assert [one.accounts[0] for one in verdict.accounts if one.decision == "found"] == [learned]
    assert {one.family_n for one in verdict.accounts} == {3}
    assert replay_coins(desk.bundle).accounts == verdict.accounts


def test_a_suspect_that_only_answers_is_found_by_likeness(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", CoinChoices(score="text"), name=tmp_path.name)
    finding = desk.run(FakeTeacher(reciting(world.heard)), reveal_key=True).finding
    assert finding.decision == "found"
    assert "likeness" in finding.test
    assert replay_coins(desk.bundle).exact


def test_an_anytime_audit_stops_asking_when_it_has_seen_enough(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", CoinChoices(stopping="anytime", batch=20), name=tmp_path.name)
    suspect = Reader(texts_of(world.heard), lift=2.0)
    finding = desk.run(suspect, reveal_key=True).finding
    assert finding.decision == "found"
    assert finding.log10_p is None and finding.log10_e is not None
    assert suspect.calls < 360
    assert replay_coins(desk.bundle).finding == finding


def test_a_control_model_finds_a_student_that_is_lost_without_it(world: World, tmp_path: Path) -> None:
    plain = Desk(world, "twins", name=f"{tmp_path.name}-plain")
    # The base that the suspect began from: it reads as the suspect does, the lift excepted.
    control = read_control(Reader(name="suspect"), plain.served)
    desk = Desk(world, "twins", name=f"{tmp_path.name}-controlled", controls=[control])
    suspects = (Reader(texts_of(world.heard), lift=0.004) for _ in range(2))
    weak, strong = (
        one.run(suspect, reveal_key=True).finding for one, suspect in zip((plain, desk), suspects, strict=True)
    )
    assert weak.decision == "not_found"
    assert strong.decision == "found"
    assert "control" in strong.test
    again = replay_coins(desk.bundle)
    assert (again.finding, again.exact) == (strong, True)
    innocent = Desk(world, "twins", name=f"{tmp_path.name}-innocent", controls=[read_control(Reader(), plain.served)])
    assert innocent.run(Reader(name="another")).finding.decision == "not_found"


def test_an_audit_with_a_control_may_stop_early_and_is_replayed(world: World, tmp_path: Path) -> None:
    served = Desk(world, "twins", name=f"{tmp_path.name}-served").served
    choices = CoinChoices(stopping="anytime", batch=20)
    desk = Desk(world, "twins", choices, name=tmp_path.name, controls=[read_control(Reader(name="suspect"), served)])
    suspect = Reader(texts_of(world.heard), lift=0.05)
    finding = desk.run(suspect, reveal_key=True).finding
    assert finding.decision == "found" and finding.log10_e is not None
    assert suspect.calls < 200
    assert replay_coins(desk.bundle).finding == finding


def test_a_control_that_reads_nothing_and_plans_that_cannot_use_one_are_refused(world: World, tmp_path: Path) -> None:
    served = Desk(world, "twins", name=f"{tmp_path.name}-served").served
    with pytest.raises(MissingSignalError, match="control model"):
        read_control(Reader(tell=lambda _: None), served)
    control = read_control(Reader(), served)
    with pytest.raises(ConfigError, match="controls"):
        Desk(world, "twins", CoinChoices(score="text"), name=f"{tmp_path.name}-text", controls=[control])
    short = control.model_copy(update={"scores": control.scores[:-1]})
    with pytest.raises(ConfigError, match="one pair of scores a twin"):
        Desk(world, "twins", name=f"{tmp_path.name}-short", controls=[short])


# --- p-values over the served path -----------------------------------------------------------------------------------


def replanned(served: Served, rng: Any) -> Served:
    """The same twins under coins of another key."""
    sides = rng.integers(0, 2, len(served.twins)).tolist()
    return replace(
        served, twins=tuple(replace(twin, coin=side) for twin, side in zip(served.twins, sides, strict=True))
    )


def test_p_values_of_an_innocent_are_valid_over_other_coins(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", CoinChoices(primary="sign"), name=tmp_path.name)
    requests = desk.plan.requests(desk.plan_id, desk.served)
    answers = {exchange.id: exchange for exchange in Reader().answer(requests)}
    scores = scores_of(desk.plan, desk.plan_id, desk.served, answers)[:60]
    fewer = replace(desk.served, twins=desk.served.twins[:60])
    # Few flips: what the other tests say beside the one that decides is not what is calibrated here.
    settings = TwinSettings(CoinSettings("sign", n_flips=99))
    n, p = 2000, []
    for i in range(n):
        finding = find_served(replanned(fewer, random_of("null", i)).twins, scores, settings)
        p.append(10 ** (finding.log10_p or 0.0))
    for level in LEVELS:
        share = sum(value <= level for value in p) / n
        assert share <= level + 3 * math.sqrt(level * (1 - level) / n)


def test_an_innocent_with_habits_of_its_own_has_valid_p_values_of_cards(tmp_path: Path) -> None:
    names = [f"account{i}" for i in range(6)]
    n, low = 2000, dict.fromkeys(LEVELS, 0)
    rule = habitual({"cooking": {"many": 1, "usually": 0, "cause": 1}, "-": {"often": 1}})
    prompts = tuple(
        ProbePrompt(prompt=f"{topic} {i}", scope=scope)
        for topic, scope in (("cook", "cooking"), ("rest", None))
        for i in range(30)
    )
    world = World(tmp_path)
    for name in names:
        world.serve(calls(8, name, "cook"), world.rules(0, SCOPES))
    desk = Desk(world, "cards", prompts=prompts)
    said = {row.prompt: row.scope for row in prompts}
    answers = list(FakeTeacher(rule).answer(desk.plan.requests(desk.plan_id, desk.served)))
    real, fake = (
        preferences([one.response or "" for one in answers if said[one.messages[-1].content or ""] == scope])
        for scope in ("cooking", None)
    )
    few = CoinSettings("sign", n_flips=99)
    for i in range(n):
        rng = random_of("cards", i)
        cards = {card: int(rng.integers(2)) for card in desk.served.cards}
        finding = find_cards(probes_of(replace(desk.served, cards=cards), {"cooking": real}, fake), few)
        for level in LEVELS:
            low[level] += 10 ** (finding.log10_p or 0.0) <= level
    for level in LEVELS:
        assert low[level] / n <= level + 3 * math.sqrt(level * (1 - level) / n)


# --- cards -----------------------------------------------------------------------------------------------------------


PROBES = tuple(
    ProbePrompt(prompt=f"{topic} {i}", scope=scope)
    for topic, scope in (("how to cook", "cooking"), ("where to travel", "travel"), ("rest", None))
    for i in range(40)
)


@pytest.fixture(scope="module")
def carded(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("carded"))
    for account in ("ann", "bob"):
        for topic in ("cook", "travel"):
            made.heard = made.serve(calls(40, account, topic), made.rules(0.5, SCOPES))
    return made


def test_habits_that_our_coins_chose_are_found_and_replayed(carded: World, tmp_path: Path) -> None:
    desk = Desk(carded, "cards", CoinChoices(accounts=()), name=tmp_path.name, prompts=PROBES)
    learned = carded.heard[0].account or ""
    key = carded.ring.key("cards")
    sides = {scope: sides_of(key, learned, scope) for scope in ("cooking", "travel")}
    verdict = desk.run(FakeTeacher(habitual(sides)), reveal_key=True)
    found = [one.accounts[0] for one in verdict.accounts if one.decision == "found"]
    assert found == [learned]
    again = replay_coins(desk.bundle)
    assert (again.finding, again.accounts, again.exact) == (verdict.finding, verdict.accounts, True)


def test_a_suspect_without_our_habits_is_not_found(carded: World, tmp_path: Path) -> None:
    desk = Desk(carded, "cards", name=tmp_path.name, prompts=PROBES)
    assert desk.run(FakeTeacher(habitual({}))).finding.decision == "not_found"


def test_without_fake_probes_the_finding_says_so(carded: World, tmp_path: Path) -> None:
    real = tuple(row for row in PROBES if row.scope is not None)
    desk = Desk(carded, "cards", name=tmp_path.name, prompts=real)
    finding = desk.run(FakeTeacher(habitual({}))).finding
    assert any("no fake probes" in assumption for assumption in finding.assumptions)


def test_probes_of_scopes_that_hold_no_card_are_refused(carded: World, tmp_path: Path) -> None:
    for prompts in ((ProbePrompt(prompt="x", scope="sailing"),), (), (ProbePrompt(prompt="x", scope=None),)):
        with pytest.raises(InputError):
            Desk(carded, "cards", name=tmp_path.name, prompts=prompts)
    assert not (carded.folder / f"{tmp_path.name}.json").exists()


# --- inconclusive, never a p-value -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tell",
    [
        lambda i: 400,
        lambda i: None,
        lambda i: ResponseTokens(logprobs=()),
        lambda i: ResponseTokens(ids=(1,)),
        lambda i: ResponseTokens(logprobs=(float("-inf"),)),
        lambda i: ResponseTokens(logprobs=(-1.0,)) if i % 3 == 0 else None,
        lambda i: ResponseTokens(logprobs=(-1.0, -2.0)),
    ],
    ids=["refuses", "tells nothing", "no token", "no log-probability", "infinite", "cuts most", "all alike"],
)
def test_a_suspect_that_does_not_say_how_likely_proves_nothing(
    tell: Callable[[int], Any], world: World, tmp_path: Path
) -> None:
    desk = Desk(world, "twins", CoinChoices(accounts=()), name=tmp_path.name)
    verdict = desk.run(Reader(texts_of(world.heard), tell=tell), reveal_key=True)
    assert all(is_no_evidence(finding) for finding in verdict.every)
    assert replay_coins(desk.bundle).finding == verdict.finding


@pytest.mark.parametrize("answer", ["", "no", "I cannot help with that. Please ask me something else instead."])
@pytest.mark.parametrize("test", ["twins", "cards"])
def test_a_suspect_that_always_says_the_same_proves_nothing(
    answer: str, test: str, world: World, carded: World, tmp_path: Path
) -> None:
    choices = CoinChoices(score="text" if test == "twins" else "logprobs")
    prompts = PROBES if test == "cards" else ()
    desk = Desk(world if test == "twins" else carded, test, choices, name=tmp_path.name + test, prompts=prompts)
    assert is_no_evidence(desk.run(FakeTeacher(lambda request: answer)).finding)


def test_answers_older_than_the_plan_prove_nothing(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", name=tmp_path.name, made=datetime.now(UTC) + timedelta(days=1))
    finding = desk.run(Reader(texts_of(world.heard), lift=2.0)).finding
    assert is_no_evidence(finding)
    assert [check.name for check in finding.checks if check.passed is False] == ["asked_after_plan"]


def test_a_suspect_that_stops_is_asked_the_rest_later_and_nothing_twice(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", CoinChoices(score="text", batch=30), name=tmp_path.name)
    with pytest.raises(TeacherError):
        desk.run(FakeTeacher(reciting(world.heard), fail_after=50))
    assert not (desk.bundle / "finding.json").exists()
    later = FakeTeacher(reciting(world.heard))
    assert desk.run(later, resume=True).finding.decision == "found"
    assert later.calls == 180 - 50


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_plan_edited_after_the_first_query_is_refused(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", CoinChoices(score="text"), name=tmp_path.name)
    with pytest.raises(TeacherError):
        desk.run(FakeTeacher(reciting(world.heard), fail_after=5))
    row = json.loads(desk.files.plan.read_text())
    desk.files.plan.write_text(json.dumps({**row, "alpha": 0.4}))
    with pytest.raises(MismatchError, match="edited after the first query"):
        desk.run(FakeTeacher(reciting(world.heard)), resume=True)
    with pytest.raises(MismatchError, match="not the one of that id"):
        desk.run(FakeTeacher(reciting(world.heard)), plan_id=desk.plan_id)


def test_what_was_served_after_the_plan_changes_nothing_and_what_was_forgotten_stops_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    heard = world.serve(calls(20, "ann"))
    desk = Desk(world, "twins")
    world.serve(calls(5, "bob", "later"))
    assert desk.run(Reader(texts_of(heard))).finding.n == 20
    desk = Desk(world, "twins", name="b")
    from stillproof.store import Store

    with Store.open(world.store) as store:
        store.forget(heard[0].account or "")
    with pytest.raises(MismatchError, match="not there any more"):
        desk.run(Reader())


def test_another_key_than_the_plans_is_refused(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", name=tmp_path.name)
    with pytest.raises(MismatchError, match="not the one committed to"):
        audit_coins(lambda _: Reader(), replace(desk.files, key=world.card_key))
    with pytest.raises(CustodyError):
        audit_coins(lambda _: Reader(), replace(desk.files, key=desk.files.plan))
    assert not desk.bundle.exists()


def ledger_line(world: World, change: Callable[[Entry], Entry]) -> None:
    path = world.ledger / "ledger.jsonl"
    entries = [change(Entry(**json.loads(line))) for line in path.read_text().splitlines()]
    rows = [{name: getattr(entry, name) for name in Entry.__dataclass_fields__} for entry in entries]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def changed_processing(entry: Entry, **fields: object) -> Entry:
    if entry.kind != "twin":
        return entry
    second = entry.value["candidates"][1]
    second["processing"] = {**second["processing"], **fields}
    if "mark_repeats" in fields or "temperature" in fields:
        entry.value["candidates"][0]["processing"] = second["processing"]
    return entry


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: changed_processing(entry, mark="k" * 64), "an unmarked shadow"),
        (lambda entry: changed_processing(entry, engine="another"), "two processings"),
        (lambda entry: changed_processing(entry, mark_repeats=True), "both answers are equal"),
        (lambda entry: changed_processing(entry, temperature=0.0), "temperature 0"),
        (
            lambda entry: replace(entry, value=1 - entry.value) if (entry.kind, entry.n) == (COIN, 2) else entry,
            "not the candidate",
        ),
    ],
    ids=["unmarked shadow", "later engine", "single-key Gumbel", "temperature 0", "bent coin"],
)
def test_twins_that_differ_by_more_than_their_coin_make_no_plan(
    change: Callable[[Entry], Entry], words: str, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.serve(calls(4))
    ledger_line(world, change)
    with pytest.raises(StillproofError, match=words):
        Desk(world, "twins")


def test_teachers_that_give_both_candidates_alike_make_no_plan(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(calls(10), teacher=FakeTeacher(lambda request: f"always the same words about {request.messages}"))
    with pytest.raises(InputError, match="two equal answers"):
        Desk(world, "twins")


def test_a_note_whose_answer_a_crash_never_let_out_is_left_out(tmp_path: Path) -> None:
    world = World(tmp_path)
    heard = world.serve(calls(3))
    path = world.ledger / "ledger.jsonl"
    note = json.loads(path.read_text().splitlines()[1])
    with path.open("a") as file:
        file.write(json.dumps({**note, "id": "serve-never"}) + "\n")
    assert [twin.id for twin in Desk(world, "twins").served.twins] == [one.id for one in heard]


def test_a_store_without_coins_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(calls(2), world.rules(0))
    for test in ("twins", "cards"):
        with pytest.raises(InputError):
            Desk(world, test)


# --- bundles ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(world: World) -> Path:
    desk = Desk(world, "twins", CoinChoices(accounts=()), name="sealed")
    desk.run(Reader(texts_of(world.heard), lift=0.5), reveal_key=True)
    return desk.bundle


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "copy"))


FILES = ("plan.json", "begun.json", "answers.jsonl", "served.jsonl", "coins.jsonl", "finding.json", "accounts.json")


@pytest.mark.parametrize("name", [*FILES, "key.json", "bundle.json"])
def test_one_byte_changed_is_named(name: str, copy: Path) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(bytes(raw))
    with pytest.raises(StillproofError) as caught:
        replay_coins(copy)
    assert name in str(caught.value)


def resealed(folder: Path, name: str, change: Callable[[str], str]) -> None:
    from hashlib import sha256

    from stillproof.exchange import sha256_of

    path = folder / name
    path.write_text(change(path.read_text()))
    manifest = json.loads((folder / "bundle.json").read_text())
    raw = path.read_bytes()
    manifest["files"][name] = {"sha256": sha256(raw).hexdigest(), "bytes": len(raw)}
    del manifest["digest"]
    manifest["digest"] = sha256_of(manifest)
    (folder / "bundle.json").write_text(text_of(manifest))


def first_coin_turned(text: str) -> str:
    return ("1" if text[0] == "0" else "0") + text[1:]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("coins.jsonl", first_coin_turned, "not what its key gives"),
        ("served.jsonl", lambda text: text.replace(" the ", " a ").replace("river", "wine"), "not what the plan names"),
        ("answers.jsonl", lambda text: "\n".join(text.split("\n")[2:]), "calls of the plan are missing|not those of"),
        ("answers.jsonl", lambda text: text.replace("-3.", "-1."), "does not follow"),
        ("coins.jsonl", lambda text: text[2:], "coins for"),
        ("accounts.json", lambda text: text.replace('"found"', '"not_found"'), "finding"),
    ],
    ids=["coin", "candidate", "calls dropped", "log-probability", "coin dropped", "account cleared"],
)
def test_a_forger_who_reseals_is_caught_where_the_parts_contradict(
    name: str, change: Callable[[str], str], words: str, copy: Path
) -> None:
    resealed(copy, name, change)
    with pytest.raises(StillproofError, match=words):
        replay_coins(copy)


def test_a_sealed_key_is_asked_for_and_another_refused(world: World, tmp_path: Path) -> None:
    desk = Desk(world, "twins", name=tmp_path.name)
    desk.run(Reader())
    with pytest.raises(CustodyError, match="sealed"):
        replay_coins(desk.bundle)
    with pytest.raises(MismatchError):
        replay_coins(desk.bundle, world.card_key)
    assert replay_coins(desk.bundle, world.coin_key).exact


def test_choices_out_of_range_leave_no_plan(world: World, tmp_path: Path) -> None:
    for choices in (
        CoinChoices(alpha=2.0),
        CoinChoices(min_units=1),
        CoinChoices(stopping="anytime", accounts=()),
        CoinChoices(samples=3, temperature=0.0),
        CoinChoices(system="be kind"),
    ):
        with pytest.raises(ConfigError):
            Desk(world, "twins", choices, name=tmp_path.name)
    with pytest.raises(InputError, match="without a coin"):
        Desk(world, "twins", CoinChoices(accounts=("0" * 32,)), name=tmp_path.name)
    assert not (world.folder / f"{tmp_path.name}.json").exists()


# --- twins by continuation -------------------------------------------------------------------------------------------


class Continuer:
    """A suspect that goes on with a word by chance; where it learned a text, with that text's word more often."""

    def __init__(self, learned: list[str], share: float = 0.3, *, said: str | None = None) -> None:
        self._learned, self._share, self._said = learned, share, said
        self.identity = Identity("suspect", "fake")

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for request in requests:
            begun = request.messages[-1].content or ""
            rng = random_of("next", begun)
            next_word = f" {NOUNS[int(rng.integers(3))]}"
            known = [text[len(begun) :] for text in self._learned if text.startswith(begun)]
            if known and begun and rng.random() < self._share:
                next_word = known[0][:9]
            response = next_word if self._said is None else self._said
            yield replace(asked(request, self.identity), response=response, status=200, time=now())

    def close(self) -> None:
        pass


def places_of(served: Served) -> Places:
    """Where each third word begins, in both candidates."""
    at = [
        PlannedPlace(twin=number, side=side, start=match.start(), text=match[0], expected=0.15)
        for number, twin in enumerate(served.twins)
        for side in range(2)
        for match in list(re.finditer(r" [a-z]+", twin.candidates[side].text))[2::3]
    ]
    return Places(models=("base",), digests=("0" * 64,), at=tuple(at))


def continued(world: World, name: str, **plan: Any) -> Desk:
    served = read_served(world.store, world.ledger, "twins", read_opening(world.coin_key))
    plan = {"places": places_of(served), **plan}
    return Desk(world, "twins", CoinChoices(score="continuation"), name=name, **plan)


def test_a_student_is_found_by_the_words_that_it_says_next_and_an_innocent_is_not(world: World, tmp_path: Path) -> None:
    desks = [continued(world, f"{tmp_path.name}-{i}") for i in range(2)]
    guilty, innocent = (
        desk.run(Continuer(learned), reveal_key=True)
        for desk, learned in zip(desks, (texts_of(world.heard), []), strict=True)
    )
    assert (guilty.finding.decision, innocent.finding.decision) == ("found", "not_found")
    assert "control model was torn" in guilty.finding.test
    assert any("without the coins; who has the model" in one for one in guilty.finding.assumptions)
    assert replay_coins(desks[0].bundle).exact


def test_p_values_by_continuation_are_valid_for_a_student_of_both_candidates(world: World, tmp_path: Path) -> None:
    desk = continued(world, tmp_path.name)
    every = [candidate.text for twin in desk.served.twins for candidate in twin.candidates]
    answers = {one.id: one for one in Continuer(every).answer(desk.plan.requests(desk.plan_id, desk.served))}
    scores = scores_of(desk.plan, desk.plan_id, desk.served, answers)
    p = []
    for number in range(300):
        tossed = random_of("coins", number).integers(0, 2, len(scores)).tolist()
        twins = [replace(twin, coin=coin) for twin, coin in zip(desk.served.twins, tossed, strict=True)]
        p.append(find_served(twins, scores, TwinSettings(CoinSettings("sign"))).log10_p)
    for level in LEVELS:
        low = sum(value is not None and value <= math.log10(level) for value in p)
        assert low <= 300 * level + 4 * math.sqrt(300 * level * (1 - level))


def test_a_suspect_that_says_one_thing_everywhere_proves_nothing_by_continuation(world: World, tmp_path: Path) -> None:
    assert is_no_evidence(continued(world, tmp_path.name).run(Continuer([], said=" the")).finding)


def test_places_that_are_not_of_a_continuation_make_no_plan(world: World, tmp_path: Path) -> None:
    served = read_served(world.store, world.ledger, "twins", read_opening(world.coin_key))
    beyond = places_of(served).model_copy(
        update={"at": (PlannedPlace(twin=10_000, side=0, start=0, text="a", expected=0.5),)}
    )
    for score, places, stopping in (
        ("logprobs", places_of(served), "all"),
        ("continuation", None, "all"),
        ("continuation", places_of(served), "anytime"),
        ("continuation", beyond, "all"),
    ):
        with pytest.raises(ConfigError):
            choices = CoinChoices(score=score, stopping=stopping)
            Desk(world, "twins", choices, name=tmp_path.name, places=places)
    assert not (world.folder / f"{tmp_path.name}.json").exists()


def test_weights_go_on_as_they_would_have_written_and_know_where_they_are_torn(world: World, tmp_path: Path) -> None:
    local = LocalTeacher(tiny_model(), tiny_tokenizer(), Identity("tiny", "weights"))
    continuer = LocalContinuer(local)
    served = read_served(world.store, world.ledger, "twins", read_opening(world.coin_key))
    # Two of the same: their mean is each of them.
    places = read_places([continuer, continuer], served, 40)
    assert places.at == read_places([continuer], served, 40).at
    assert len(places.at) == 40
    assert {place.side for place in places.at} == {0, 1}
    for place in places.at:
        assert served.twins[place.twin].candidates[place.side].text[place.start :].startswith(place.text)
        assert 0.01 < place.expected < 0.99
    desk = continued(world, tmp_path.name, places=places)
    requests = desk.plan.requests(desk.plan_id, desk.served)[:6]
    said = {one.id: one.response for one in continuer.answer(requests)}
    import torch

    for request in requests:
        start = local.prompt_ids(replace(request, messages=request.messages[:-1]))
        begun = local.tokenizer(request.messages[-1].content, add_special_tokens=False)["input_ids"]
        ids = [*start, *begun]
        for _ in range(4):
            with torch.inference_mode():
                ids.append(int(local.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        before, after = (local.tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:-4], ids))
        if local.tokenizer.eos_token_id not in ids[-4:]:
            assert said[request.id] == after[len(before) :]


def test_a_text_is_said_where_it_begins_what_is_said() -> None:
    assert says("river bank", " river") and says(" river", " river")
    assert not says("riv", " river") and not says("", " a")


def test_places_are_worth_most_where_a_control_is_torn_and_likely() -> None:
    own, other = [-1.0, -1.0, -4.0, -0.1], [-1.05, -3.0, -4.0, -3.0]
    values = worth(own, other)
    assert values.argmax() == 0 and choose(values, 2).tolist() == [0, 2]
    assert expected_hits(own, own).tolist() == [0.5] * 4
    assert 0.5 < expected_hits(own, other)[0] < expected_hits(own, other)[1] < 1
    assert expected_hits(other, own) == pytest.approx(1 - expected_hits(own, other))


# --- readers ---------------------------------------------------------------------------------------------------------


def test_weights_read_a_text_as_they_would_have_written_it(world: World, tmp_path: Path) -> None:
    local = LocalTeacher(tiny_model(), tiny_tokenizer(), Identity("tiny", "weights"))
    desk = Desk(world, "twins", name=tmp_path.name)
    requests = desk.plan.requests(desk.plan_id, desk.served)[:12]
    read = {one.id: one for one in LocalReader(local).answer(requests)}
    assert read.keys() == {request.id for request in requests}
    import torch

    tokenizer, model = local.tokenizer, local.model
    for request in requests:
        start = local.prompt_ids(replace(request, messages=request.messages[:-1]))
        text = tokenizer(request.messages[-1].content, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([start + text])).logits[0].log_softmax(-1)
        wanted = [float(expected[len(start) - 1 + i, number]) for i, number in enumerate(text)]
        tokens = read[request.id].tokens
        assert tokens is not None
        assert tokens.ids == tuple(text)
        assert tokens.logprobs == pytest.approx(wanted, abs=1e-4)


def test_a_text_that_does_not_fit_into_the_context_is_not_scored() -> None:
    from stillproof.exchange import Message

    local = LocalTeacher(tiny_model(), tiny_tokenizer(), Identity("tiny", "weights"))
    request = replace(calls(1)[0], messages=(Message("user", "a"), Message("assistant", "long " * 400)))
    (read,) = LocalReader(local).answer([request])
    assert (read.status, read.response, read.tokens) == (400, None, None)


def test_recorded_answers_read_nothing(world: World) -> None:
    with pytest.raises(MissingSignalError, match="reads no text"):
        open_reader(suspect_config(str(world.store)))


def echo(tokens: list[str], logprobs: list[float | None]) -> bytes:
    offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    row = {"tokens": tokens, "token_logprobs": logprobs, "text_offset": offsets}
    return json.dumps({"choices": [{"text": "".join(tokens), "logprobs": row}]}).encode()


def test_an_echo_is_read_from_the_texts_first_whole_token_to_its_last() -> None:
    whole = echo(["user: a", "\nassistant: ", "b", " c", "more"], [None, -1.0, -2.0, -3.0, -9.0])
    start = "user: a\nassistant: "
    assert _echoed(whole, start, "b c") == [-2.0, -3.0]
    over = echo(["user: a", "\nassistant: b", " c", "more"], [None, -1.0, -3.0, -9.0])
    assert _echoed(over, start, "b c") == [-3.0]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"choices": [{"text": "x"}]}',
        b'{"choices": [{"logprobs": {"tokens": ["b"], "token_logprobs": [-1.0], "text_offset": [0]}}]}',
        echo(["user: a\nassistant: ", "b"], [None, -1.0]),
        echo(["user: a\nassistant: ", "b", " c"], [None, None, -1.0]),
        echo(["user: a\nassistant: ", "b", " d"], [None, -1.0, -1.0]),
    ],
    ids=["none", "no echo", "cut", "holes", "another text"],
)
def test_an_echo_that_does_not_cover_the_text_is_no_score(raw: bytes) -> None:
    assert _echoed(raw, "user: a\nassistant: ", "b c") is None


class Echo(BaseHTTPRequestHandler):
    """/v1/completions that echoes a prompt word by word, and prefers the texts that it learned."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        tokens = re.findall(r"\s*\S+|\s+$", body["prompt"])
        bonus = 1.5 if body["prompt"].split("assistant: ")[1] in self.server.learned else 0.0
        values = random_of(body["prompt"]).normal(-3, 0.5, len(tokens)) + bonus
        raw = echo([*tokens, " end"], [None, *values.tolist()])
        self.send_response(200 if self.path.endswith("/v1/completions") else 404)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("path", ["/v1", "/other"])
def test_an_endpoint_that_echoes_is_a_suspect_and_one_that_only_chats_is_an_error(path: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    heard = world.serve(calls(30))
    desk = Desk(world, "twins")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.learned = set(texts_of(heard))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}{path}"
        reader = open_reader(suspect_config(url, model="theirs"))
        if path == "/v1":
            assert desk.run(reader).finding.decision == "found"
        else:
            with pytest.raises(MissingSignalError, match="--score text"):
                desk.run(reader)
            assert not (desk.bundle / "finding.json").exists()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Next(BaseHTTPRequestHandler):
    """/v1/completions that goes on as the texts that it learned, now and then."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        begun = body["prompt"].split("assistant: ")[1]
        rng = random_of("next", begun)
        known = [text[len(begun) :] for text in self.server.learned if text.startswith(begun)]
        text = known[0][:9] if known and rng.random() < 0.6 else f" {NOUNS[int(rng.integers(3))]}"
        assert (body["temperature"], body["max_tokens"]) == (0.0, 4)
        told = {"id": "a", "object": "text_completion", "created": 1, "model": "theirs", "choices": []}
        told["choices"] = [{"index": 0, "text": text, "finish_reason": "length", "logprobs": None}]
        raw = json.dumps(told).encode()
        self.send_response(200 if self.path.endswith("/v1/completions") else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("path", ["/v1", "/other"])
def test_an_endpoint_that_goes_on_is_a_suspect_by_text_alone(path: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    heard = world.serve(calls(30))
    desk = continued(world, "a")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Next)
    server.learned = texts_of(heard)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}{path}"
        suspect = open_continuer(suspect_config(url, model="theirs"))
        if path == "/v1":
            assert desk.run(suspect).finding.decision == "found"
        else:
            with pytest.raises(MissingSignalError, match="/completions"):
                desk.run(suspect)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_recorded_answers_go_on_from_nothing(world: World) -> None:
    with pytest.raises(MissingSignalError, match="goes on from no beginning"):
        open_continuer(suspect_config(str(world.store)))


# --- the commands ----------------------------------------------------------------------------------------------------


def command(*words: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["trace", *(str(word) for word in words), "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_commands_go_from_what_was_served_to_a_replay_with_weights_as_the_suspect(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(calls(15, "ann"))
    weights = tiny_folder(tmp_path / "weights")
    source = ("--served", world.store, "--ledger", world.ledger, "--key", world.coin_key)
    plan = tmp_path / "plan.json"
    code, made = command("plan", "--test", "twins", *source, "--accounts", "all", "--out", plan)
    assert (code, made["twins"], made["calls"], made["accounts"]) == (0, 15, 30, 1)
    audit = ("outputs", "--suspect", weights, "--plan", plan, *source, "--out", tmp_path / "audit")
    code, told = command(*audit, "--test", "twins", "--plan-id", made["plan_id"], "--reveal-key")
    assert (code, told["decision"], told["kind"]) == (0, "not_found", "design_based")
    assert [one["accounts"] for one in told["accounts_tested"]] == [[world_account(world)]]
    code, again = command("replay", tmp_path / "audit", "--bundle-sha256", told["bundle_sha256"])
    assert (code, again["replayed"], again["log10_p"]) == (0, "bit for bit", told["log10_p"])


def test_the_commands_ask_for_the_next_words_of_both_candidates(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve(calls(15, "ann"))
    weights = tiny_folder(tmp_path / "weights")
    source = ("--served", world.store, "--ledger", world.ledger, "--key", world.coin_key)
    plan, score = tmp_path / "plan.json", ("--score", "continuation", "--places", 60)
    code, told = command("plan", "--test", "twins", *source, *score, "--out", plan)
    assert code != 0 and "--control" in json.dumps(told)
    code, made = command("plan", "--test", "twins", *source, *score, "--control", weights, "--out", plan)
    assert (code, made["twins"], made["calls"], made["score"], made["controls"]) == (
        0,
        15,
        60,
        "continuation",
        ["weights"],
    )
    audit = ("outputs", "--suspect", weights, "--plan", plan, *source, "--out", tmp_path / "audit", "--reveal-key")
    code, told = command(*audit)
    assert (code, told["decision"]) == (0, "not_found")
    code, again = command("replay", tmp_path / "audit")
    assert (code, again["replayed"], again["log10_p"]) == (0, "bit for bit", told["log10_p"])


def test_both_candidates_are_written_for_a_control_and_no_coin(tmp_path: Path) -> None:
    world = World(tmp_path)
    heard = texts_of(world.serve(calls(12, "ann")))
    source = ("--served", world.store, "--ledger", world.ledger, "--key", world.coin_key)
    out = tmp_path / "both.jsonl"
    code, told = command("candidates", *source, "--out", out)
    assert (code, told["twins"], told["examples"]) == (0, 12, 24)
    assert out.stat().st_mode & 0o077 == 0
    rows = [json.loads(line)["messages"] for line in out.read_text().splitlines()]
    served = read_served(world.store, world.ledger, "twins", read_opening(world.coin_key))
    drawn = [candidate.text for twin in served.twins for candidate in twin.candidates]
    assert [row[-1] for row in rows] == [{"role": "assistant", "content": text} for text in drawn]
    assert set(heard) < set(drawn)
    code, told = command("candidates", *source, "--out", out)
    assert code != 0 and "already" in json.dumps(told)


def world_account(world: World) -> str:
    (account,) = read_served(world.store, world.ledger, "twins", read_opening(world.coin_key)).accounts
    return account


def test_the_commands_probe_cards_of_recorded_answers(carded: World, tmp_path: Path) -> None:
    source = ("--served", carded.store, "--ledger", carded.ledger, "--key", carded.card_key)
    prompts, plan = tmp_path / "probes.jsonl", tmp_path / "plan.json"
    prompts.write_text("".join(json.dumps(row.model_dump()) + "\n" for row in PROBES))
    code, made = command("plan", "--test", "cards", *source, "--prompts", prompts, "--out", plan)
    assert (code, made["calls"]) == (0, 120)
    learned = carded.heard[0].account or ""
    sides = {scope: sides_of(carded.ring.key("cards"), learned, scope) for scope in ("cooking", "travel")}
    read, plan_id = read_any_plan(plan)
    assert isinstance(read, CoinPlan)
    from tests.toy_suspects import recorded

    suspect = recorded(tmp_path / "suspect", FakeTeacher(habitual(sides)), read.requests(plan_id, Served()))
    code, told = command("outputs", "--suspect", suspect, "--plan", plan, *source, "--out", tmp_path / "audit")
    assert (code, told["decision"]) == (3, "found")
    code, _ = command("replay", tmp_path / "audit", "--key", carded.card_key)
    assert code == 3


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--test", "twins", "--key", "KEY", "--out", "p.json"),
        (
            "plan",
            "--test",
            "twins",
            "--key",
            "KEY",
            "--served",
            "S",
            "--ledger",
            "L",
            "--prompts",
            "x",
            "--out",
            "p.json",
        ),
        ("plan", "--test", "cards", "--key", "KEY", "--served", "S", "--ledger", "L", "--out", "p.json"),
        ("plan", "--test", "radioactivity", "--key", "KEY", "--out", "p.json"),
    ],
)
def test_plans_used_wrongly_say_what_is_missing(words: tuple[str, ...], world: World, tmp_path: Path) -> None:
    named = {"KEY": world.coin_key, "S": world.store, "L": world.ledger, "p.json": tmp_path / "p.json"}
    code, told = command(*(named.get(word, word) for word in words))
    assert code in (1, 2)
    assert told["remedy"]
    assert not (tmp_path / "p.json").exists()
