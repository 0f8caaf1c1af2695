"""Generation: planned first, deduplicated, durable as it arrives, resumable, within its caps."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stillproof.config import GenerateConfig, TeacherConfig
from stillproof.distill.generate import Budget, answers, generate, plan, requests_for
from stillproof.errors import BudgetError, ConfigError, InputError, MismatchError, StorageError, TeacherError
from stillproof.exchange import Exchange, Message, Sampling
from stillproof.progress import Event
from stillproof.store import Store
from stillproof.teacher import Identity, Request
from stillproof.teacher.fake import FakeTeacher


def ask(text: str, *, sample: int = 0, max_tokens: int | None = 16) -> Request:
    return Request((Message("user", text),), Sampling(temperature=1.0, max_tokens=max_tokens), sample)


ASKED = tuple(ask(f"question {number}") for number in range(12))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "s") as created:
        yield created


class Window(FakeTeacher):
    """Takes requests n at a time, and answers each such window backwards, as a concurrent endpoint may."""

    def __init__(self, n: int, **values: object) -> None:
        super().__init__(**values)  # type: ignore[arg-type]
        self._n = n
        self.most_in_flight = 0

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        window: list[Request] = []
        for request in requests:
            window.append(request)
            self.most_in_flight = max(self.most_in_flight, len(window))
            if len(window) == self._n:
                yield from super().answer(reversed(window))
                window = []
        yield from super().answer(reversed(window))


# --- requests and answers --------------------------------------------------------------------------------------


def test_requests_are_each_prompt_with_its_samples_system_message_and_sampling() -> None:
    prompts = [Exchange("1", (Message("user", "a"),), "gold"), Exchange("2", (Message("user", "b"),), None)]
    config = GenerateConfig(samples=2, system="be brief", max_tokens=9, top_logprobs=5)
    requests = requests_for(prompts, config, seed=10)
    assert [(request.messages[1].content, request.sample, request.sampling.seed) for request in requests] == [
        ("a", 0, 10), ("a", 1, 11), ("b", 0, 10), ("b", 1, 11),
    ]  # fmt: skip
    assert requests[0].messages[0] == Message("system", "be brief")
    assert requests[0].sampling == Sampling(1.0, None, None, 9, 5, 10)
    assert requests_for(prompts, GenerateConfig())[0].sampling.seed is None
    assert len({request.key("m") for request in requests}) == 4


def test_a_plain_document_or_a_second_system_message_makes_no_request() -> None:
    with pytest.raises(InputError, match="plain document"):
        requests_for([Exchange("1", (), "text")], GenerateConfig())
    with pytest.raises(InputError, match="system message already"):
        requests_for([Exchange("1", (Message("system", "x"),), None)], GenerateConfig(system="y"))


def test_answers_come_in_the_order_of_the_requests_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    got, digests = [], set()
    for number, teacher in enumerate((FakeTeacher(), Window(5), Window(12))):
        with Store.create(tmp_path / str(number)) as store:
            generate(teacher, ASKED, store, terms_id="t")
            got.append([(item.messages, item.response) for item in answers(store, ASKED, "fake")])
            digests.add(store.digest)
        assert [messages for messages, _ in got[-1]] == [request.messages for request in ASKED]
    assert got[0] == got[1] == got[2]
    assert len(digests) == 1


def test_answers_leave_out_what_has_no_response(store: Store) -> None:
    generate(FakeTeacher(status=lambda request: 400 if request == ASKED[1] else 200), ASKED[:3], store, terms_id="t")
    store.append(Exchange("tool", ASKED[3].messages, None, status=200, request_key=ASKED[3].key("fake")))
    assert [item.messages for item in answers(store, ASKED, "fake")] == [ASKED[0].messages, ASKED[2].messages]


def test_of_two_stored_answers_to_one_call_the_same_is_taken_whichever_came_first(tmp_path: Path) -> None:
    twice = [
        Exchange(key, ASKED[0].messages, f"answer {key}", status=200, request_key=ASKED[0].key("fake")) for key in "ab"
    ]
    for name, order in (("one", twice), ("two", twice[::-1])):
        with Store.create(tmp_path / name) as store:
            store.append_many(order)
            assert [item.id for item in answers(store, ASKED, "fake")] == ["a"]


# --- generate --------------------------------------------------------------------------------------------------


def test_every_answer_is_stored_with_the_terms_and_grant_under_which_it_was_made(store: Store) -> None:
    done = generate(FakeTeacher(), ASKED, store, terms_id="apache-2.0", grant_id="g1")
    assert (done.n_requests, done.n_answered, done.n_failed, done.n_stored_before) == (12, 12, 0, 0)
    assert len(store) == 12
    identity = FakeTeacher().identity
    for item in store:
        assert item.provenance is not None
        assert (item.provenance.terms, item.provenance.grant) == ("apache-2.0", "g1")
        assert item.provenance.teacher == identity.digest
    assert store.teachers()[identity.digest]["model"] == "fake"
    assert done.response_tokens == sum(item.response_tokens or 0 for item in store)


def test_equal_requests_are_asked_once_and_samples_of_one_prompt_each(store: Store) -> None:
    teacher = FakeTeacher()
    done = generate(teacher, [ask("a"), ask("a", sample=1), ask("a"), ask("b"), ask("a")], store, terms_id="t")
    assert (done.n_requests, done.n_duplicates, teacher.calls, len(store)) == (3, 2, 3, 3)


def test_a_second_run_asks_only_what_is_missing_and_a_third_nothing(store: Store) -> None:
    teacher = FakeTeacher()
    generate(teacher, ASKED[:5], store, terms_id="t")
    done = generate(teacher, ASKED, store, terms_id="t")
    assert (done.n_stored_before, done.n_answered) == (5, 7)
    assert generate(teacher, ASKED, store, terms_id="t").n_answered == 0
    assert set(teacher.calls_by_key.values()) == {1}
    assert teacher.calls == 12


def test_failed_calls_are_recorded_apart_and_asked_again_by_the_next_run(store: Store) -> None:
    teacher = FakeTeacher(status=lambda request: 500 if request in ASKED[:3] else 200)
    done = generate(teacher, ASKED, store, terms_id="t")
    assert (done.n_answered, done.n_failed) == (9, 3)
    assert len(store) == 9
    assert [row["reason"] for row in store.failures()] == ["status 500"] * 3
    again = generate(FakeTeacher(), ASKED, store, terms_id="t")
    assert (again.n_stored_before, again.n_answered, again.n_failed) == (9, 3, 0)


def test_an_answer_that_no_store_can_hold_is_a_failure_and_the_run_goes_on(store: Store) -> None:
    teacher = FakeTeacher(lambda request: "\ud800" if request == ASKED[1] else "fine")
    done = generate(teacher, ASKED[:3], store, terms_id="t")
    assert (done.n_answered, done.n_failed) == (2, 1)
    assert [row["reason"][:28] for row in store.failures()] == ["response has a lone surrogate"[:28]]


def test_where_every_call_fails_there_is_an_error_not_an_empty_store(store: Store) -> None:
    with pytest.raises(TeacherError, match="every call failed, the first with status 401"):
        generate(FakeTeacher(status=lambda _: 401), ASKED, store, terms_id="t")
    assert len(list(store.failures())) == 12


def test_a_request_that_cannot_be_stored_is_refused_before_any_call(store: Store) -> None:
    teacher = FakeTeacher()
    for bad in (ask("\ud800"), replace(ASKED[0], account="alice@example.com")):
        with pytest.raises(InputError, match=r"lone surrogate|not a pseudonym"):
            generate(teacher, [ASKED[1], bad], store, terms_id="t")
    assert teacher.calls == 0


def test_a_teacher_that_dies_half_way_leaves_its_answers_and_the_error_says_how_to_go_on(store: Store) -> None:
    teacher = FakeTeacher(fail_after=7)
    with pytest.raises(TeacherError, match=r"7 of 12 answers are stored.*resume: only the 5 missing") as caught:
        generate(teacher, ASKED, store, terms_id="t")
    assert isinstance(caught.value.__cause__, TeacherError)
    assert len(store) == 7
    assert generate(FakeTeacher(), ASKED, store, terms_id="t").n_answered == 5


def test_a_teacher_that_leaves_requests_unanswered_or_answers_others_is_an_error(store: Store) -> None:
    class Silent(FakeTeacher):
        def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
            yield from super().answer([*requests][:4])

    class Twice(FakeTeacher):
        def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
            for exchange in super().answer(requests):
                yield from (exchange, exchange)

    with pytest.raises(TeacherError, match=r"left 8 request\(s\) unanswered; 4 of 12"):
        generate(Silent(), ASKED, store, terms_id="t")
    with pytest.raises(MismatchError, match="not asked, or one twice"):
        generate(Twice(), ASKED, store, terms_id="t")
    assert len(store) == 5


def test_another_teacher_of_the_same_name_does_not_pass_for_the_one_that_answered(store: Store) -> None:
    class Known(FakeTeacher):
        def __init__(self, **fields: str) -> None:
            super().__init__()
            self._identity = Identity("fake", "openai", **fields)  # type: ignore[arg-type]

    generate(Known(weights="w1", endpoint="http://a:1/v1"), ASKED[:2], store, terms_id="t")
    moved = Known(weights="w1", endpoint="http://b:2/v1")
    assert generate(moved, ASKED[:3], store, terms_id="t").n_stored_before == 2
    other = Known(weights="w2", endpoint="http://a:1/v1")
    with pytest.raises(MismatchError, match="another teacher"):
        generate(other, ASKED[:3], store, terms_id="t")
    assert other.calls == 0
    assert generate(other, ASKED[3:], store, terms_id="t").n_answered == 9


def test_requests_are_taken_as_the_teacher_asks_for_them(store: Store) -> None:
    class Lazy(FakeTeacher):
        def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
            source = iter(requests)
            yield from super().answer([next(source), next(source)])
            raise TeacherError("stops", "lazy", "")

    with pytest.raises(TeacherError):
        generate(Lazy(), ASKED, store, terms_id="t", budget=Budget(max_requests=2))
    assert len(store) == 2


def test_when_an_answer_cannot_be_stored_the_calls_in_flight_are_ended_and_the_error_goes_on(
    store: Store, tmp_path: Path
) -> None:
    ended: list[int] = []

    class Robbed(FakeTeacher):
        """While it answers its third request, another writer takes the store."""

        def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
            self.running = self._running(requests)
            return self.running

        def _running(self, requests: Iterable[Request]) -> Iterator[Exchange]:
            try:
                for exchange in super().answer(requests):
                    if self.calls == 3:
                        store.close()
                        other.append(Exchange("by another", (), "text"))
                    yield exchange
            finally:
                ended.append(self.calls)

    other, robbed = Store.open(tmp_path / "s"), Robbed()
    with pytest.raises(StorageError, match="another writer"):
        generate(robbed, ASKED, store, terms_id="t")
    assert ended == [3]
    assert len(other) == 3
    other.close()


def test_progress_tells_done_of_total_and_what_failed(store: Store) -> None:
    events: list[Event] = []
    generate(FakeTeacher(), ASKED[:4], store, terms_id="t")
    teacher = FakeTeacher(status=lambda request: 500 if request == ASKED[5] else 200)
    generate(teacher, ASKED, store, terms_id="t", on_event=events.append)
    assert [event.done for event in events] == list(range(4, 13))
    assert {(event.stage, event.total, event.unit) for event in events} == {("generate", 12, "requests")}
    assert events[0].note == "4 of 12 answers are stored already"
    assert events[-1].metrics is not None
    assert events[-1].metrics["failed"] == 1
    assert events[-1].eta_s == 0


# --- caps ------------------------------------------------------------------------------------------------------


def test_the_cap_on_requests_stops_before_it_is_exceeded_and_keeps_what_was_stored(store: Store) -> None:
    teacher = Window(4)
    with pytest.raises(BudgetError, match=r"cap of 6 requests is reached.*6 of 12 answers are stored.*raise the cap"):
        generate(teacher, ASKED, store, terms_id="t", budget=Budget(max_requests=6))
    assert (teacher.calls, len(store)) == (6, 6)
    assert generate(teacher, ASKED, store, terms_id="t", budget=Budget(max_requests=6)).n_answered == 6


def used(exchanges: Iterable[Exchange]) -> int:
    return sum((item.prompt_tokens or 0) + (item.response_tokens or 0) for item in exchanges)


@pytest.mark.parametrize("window", [1, 5, 50])
def test_the_cap_on_tokens_is_never_exceeded_and_nearly_used_up_however_many_are_in_flight(
    tmp_path: Path, window: int
) -> None:
    asked = [ask(f"question {number}") for number in range(40)]
    with Store.create(tmp_path / "s") as store:
        with pytest.raises(BudgetError, match=r"could exceed the cap of 250 tokens, \d+ are spent"):
            generate(Window(window), asked, store, terms_id="t", budget=Budget(max_tokens_total=250))
        # The reserve of one call: at most 12 bytes of prompt, 64 for the template, 16 for the response.
        assert 250 - 92 <= used(store) <= 250


def test_a_cap_that_the_run_fits_into_does_not_stop_it_though_the_reserves_exceed_it(store: Store) -> None:
    done = generate(Window(50), ASKED, store, terms_id="t", budget=Budget(max_tokens_total=200))
    assert done.n_answered == 12
    assert used(store) <= 200


def test_the_cap_on_money_counts_prompt_and_response_at_their_prices(store: Store) -> None:
    budget = Budget(max_usd=0.0004, usd_per_million_prompt_tokens=1.0, usd_per_million_response_tokens=10.0)
    with pytest.raises(BudgetError, match=r"cap of 0\.0004 USD, 0\.000\d are spent"):
        generate(FakeTeacher(), ASKED, store, terms_id="t", budget=budget)
    spent = sum((item.prompt_tokens or 0) + 10 * (item.response_tokens or 0) for item in store) / 1e6
    assert 0 < spent <= 0.0004


def test_an_answer_without_usage_is_counted_at_its_worst_case(store: Store) -> None:
    class NoUsage(FakeTeacher):
        def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
            for exchange in super().answer(requests):
                yield replace(exchange, prompt_tokens=None, response_tokens=None)

    done = generate(NoUsage(), [ask("four")], store, terms_id="t")
    assert (done.prompt_tokens, done.response_tokens) == (4 + 64, 16)


def test_a_failed_call_without_usage_costs_no_tokens_but_counts_as_a_request(store: Store) -> None:
    teacher = FakeTeacher(status=lambda request: 500 if request in ASKED[:6] else 200)
    done = generate(teacher, ASKED, store, terms_id="t", budget=Budget(max_tokens_total=160, max_requests=12))
    assert (done.n_failed, done.n_answered) == (6, 6)
    assert done.prompt_tokens + done.response_tokens == used(store)
    with pytest.raises(BudgetError, match="cap of 5 requests"):
        generate(teacher, ASKED, store, terms_id="t", budget=Budget(max_requests=5))


def test_caps_that_cannot_be_kept_are_refused_before_any_call(store: Store) -> None:
    teacher = FakeTeacher()
    with pytest.raises(ConfigError, match="longest response"):
        generate(teacher, [ask("a", max_tokens=None)], store, terms_id="t", budget=Budget(max_tokens_total=99))
    with pytest.raises(ConfigError, match="max_usd needs prices"):
        Budget.of(TeacherConfig(max_usd=1.0))
    assert teacher.calls == 0


# --- plan ------------------------------------------------------------------------------------------------------


def test_a_plan_counts_calls_tokens_money_time_and_disk_before_any_call(store: Store) -> None:
    generate(FakeTeacher(), ASKED[:2], store, terms_id="t")
    config = TeacherConfig(
        usd_per_million_prompt_tokens=1.0, usd_per_million_response_tokens=2.0, requests_per_minute=30, max_requests=5
    )
    got = plan([*ASKED, ASKED[0]], config, store, model="fake")
    assert (got.n_requests, got.n_duplicates, got.n_stored, got.n_to_do) == (12, 1, 2, 10)
    # The stored prompts have 10 bytes and 2 tokens each; of the ten to do, two have 11 bytes.
    assert got.prompt_tokens == round((8 * 10 + 2 * 11) / 5)
    assert got.prompt_tokens_how == "5.00 bytes a token, as in 2 stored exchanges"
    assert got.max_response_tokens == 160
    assert got.usd == pytest.approx((20 + 2 * 160) / 1e6)
    assert got.seconds == 20
    assert 0 < got.disk_mb < 1
    assert got.caps == ("max_requests",)


def test_a_plan_says_how_it_estimated_and_leaves_out_what_it_cannot_know() -> None:
    got = plan([ask("12345678", max_tokens=None)], TeacherConfig(), None, model="m")
    assert (got.prompt_tokens, got.max_response_tokens, got.usd, got.seconds) == (2 + 4, None, None, None)
    assert got.prompt_tokens_how.startswith("rule of thumb")
    counted = plan(
        [ask("one two three")], TeacherConfig(), None, model="m", count_tokens=lambda text: len(text.split())
    )
    assert (counted.prompt_tokens, counted.prompt_tokens_how[:7]) == (3 + 4, "counted")
    assert plan([ask("a")], TeacherConfig(), None, model="m", requests_per_s=2.0).seconds == 0.5


def test_a_plan_of_nothing_left_to_do_is_zero(store: Store) -> None:
    generate(FakeTeacher(), ASKED, store, terms_id="t")
    got = plan(ASKED, TeacherConfig(max_requests=1), store, model="fake")
    assert (got.n_to_do, got.prompt_tokens, got.max_response_tokens, got.disk_mb, got.caps) == (0, 0, 0, 0, ())


# --- kill -9 ---------------------------------------------------------------------------------------------------

RUN = """
    import os, sys
    from pathlib import Path
    from stillproof.distill.generate import generate
    from stillproof.exchange import Message, Sampling
    from stillproof.store import Store
    from stillproof.teacher import Request
    from stillproof.teacher.fake import FakeTeacher

    folder, in_flight = Path(sys.argv[1]), int(sys.argv[2])
    log = os.open(folder / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class Logged(FakeTeacher):
        def answer(self, requests):
            window = []
            for request in requests:
                os.write(log, request.key("fake").encode() + b"\\n")
                window.append(request)
                if len(window) == in_flight:
                    yield from super().answer(window)
                    window = []
            yield from super().answer(window)

    store = Store.open(folder / "s") if Store.is_store(folder / "s") else Store.create(folder / "s")
    asked = [Request((Message("user", f"question {n}"),), Sampling(max_tokens=16)) for n in range(40)]
    generate(Logged(latency_s=0.005), asked, store, terms_id="t")
"""


def test_after_kill_9_no_stored_answer_is_asked_for_again_and_only_calls_in_flight_repeat(tmp_path: Path) -> None:
    in_flight, rng = 3, random.Random(7)
    log = tmp_path / "calls"
    log.touch()
    n_kills, calls_before, stored = 0, 0, set[str]()
    for kill_at in (*sorted(rng.sample(range(1, 35), 3)), None):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(RUN), str(tmp_path), str(in_flight)])
        while process.poll() is None:
            if kill_at is not None and log.read_bytes().count(b"\n") >= kill_at + 3 * n_kills:
                process.send_signal(signal.SIGKILL)
                process.wait()
                n_kills += 1
            time.sleep(0.01)
        calls = log.read_text().split()
        assert stored.isdisjoint(calls[calls_before:])
        calls_before = len(calls)
        store = Store.open(tmp_path / "s") if Store.is_store(tmp_path / "s") else None
        stored = store.request_keys() if store is not None else set()
    assert process.returncode == 0
    assert n_kills >= 2
    times = Counter(log.read_text().split())
    assert len(times) == len(stored) == 40
    assert sum(times.values()) - 40 <= in_flight * n_kills
