import ast
import http.client
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_model import tiny_model, tiny_tokenizer

from stillproof.config import TeacherConfig
from stillproof.errors import (
    BudgetError,
    CustodyError,
    InputError,
    OutputExistsError,
    StorageError,
    TeacherError,
)
from stillproof.exchange import Exchange, Message, Sampling, canonical_json, sha256_of, to_json
from stillproof.serve import KeyRing, Ledger, Opening, Recorder, coin, endpoint, new_id, opens
from stillproof.serve.ledger import reduced
from stillproof.store import Store, pseudonym
from stillproof.teacher import Identity, Request, Teacher
from stillproof.teacher.fake import FakeTeacher
from stillproof.teacher.local import LocalTeacher
from stillproof.teacher.openai import OpenAITeacher

MOMENT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys", clock=lambda: MOMENT)


@pytest.fixture
def ledger(tmp_path: Path, ring: KeyRing) -> Iterator[Ledger]:
    ring.create("coins")
    with Ledger(tmp_path / "ledger", ring, "coins", clock=lambda: MOMENT) as ledger:
        yield ledger


# --- Keys -----------------------------------------------------------------------------------------------------


def test_a_key_is_created_once_and_rotated_without_losing_the_old_one(ring: KeyRing) -> None:
    ring.create("mark")
    first = ring.key("mark")
    with pytest.raises(OutputExistsError):
        ring.create("mark")
    assert ring.key("mark") == first
    ring.rotate("mark")
    assert ring.versions("mark") == (1, 2)
    assert ring.key("mark", 1) == first
    assert ring.key("mark") == ring.key("mark", 2) != first
    assert len(first) == 32


def test_key_files_are_the_owner_s_alone_and_open_ones_are_refused(ring: KeyRing) -> None:
    ring.create("mark")
    path = ring.folder / "mark.v1.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert ring.folder.stat().st_mode & 0o777 == 0o700
    path.chmod(0o640)
    with pytest.raises(CustodyError, match="chmod 600"):
        ring.key("mark")
    path.chmod(0o600)
    ring.folder.chmod(0o755)
    with pytest.raises(CustodyError, match="chmod 700"):
        KeyRing(ring.folder)


def test_a_key_file_that_is_a_link_broken_or_another_s_is_refused(ring: KeyRing) -> None:
    ring.create("mark")
    ring.create("other")
    path = ring.folder / "mark.v1.key"
    whole = path.read_text()
    for broken in ("", "{}", whole[:-9], (ring.folder / "other.v1.key").read_text()):
        path.write_text(broken)
        with pytest.raises(CustodyError, match="not a key file"):
            ring.key("mark")
    path.unlink()
    path.symlink_to(ring.folder / "other.v1.key")
    with pytest.raises(CustodyError, match="link"):
        ring.key("mark")


def test_unknown_names_and_versions_are_refused(ring: KeyRing) -> None:
    with pytest.raises(CustodyError, match="create it first"):
        ring.key("absent")
    ring.create("mark")
    with pytest.raises(CustodyError, match="no version 7"):
        ring.key("mark", 7)
    for name in ("", "../up", "A", "a/b", "a\n", "." * 3):
        with pytest.raises(InputError):
            ring.create(name)


def test_a_stranger_can_check_an_opening_with_the_published_line_alone(ring: KeyRing) -> None:
    published = ring.create("mark")
    opening = ring.opening("mark")
    assert opening.key not in repr(opening), "a traceback must not show it"
    assert opening.key not in canonical_json(asdict(published))
    assert opening.nonce not in canonical_json(asdict(published))
    assert opens(opening, published)
    by_hand = sha256_of(["stillproof.commitment.1", "mark", 1, opening.nonce, opening.key])
    assert published.commitment == by_hand
    for lie in (
        replace(opening, key="0" * 64),
        replace(opening, nonce="0" * 64),
        replace(opening, version=2),
        Opening("other", 1, opening.nonce, opening.key),
    ):
        assert not opens(lie, published)


def test_commitments_are_chained_so_that_an_edit_is_seen(ring: KeyRing) -> None:
    for name in ("a", "b", "c"):
        ring.create(name)
    ring.verify_commitments()
    path = ring.folder / "commitments.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    edited = lines[0].replace("2026-03-01", "2025-03-01")
    assert edited != lines[0]
    for wrong in ([edited, *lines[1:]], lines[1:], [lines[0], lines[2]], [lines[1], lines[0], lines[2]]):
        path.write_text("".join(wrong))
        with pytest.raises(CustodyError, match="chain"):
            ring.verify_commitments()
    path.write_text("".join(lines))
    ring.verify_commitments()


def test_lines_dropped_at_the_end_are_seen_against_a_published_head(ring: KeyRing) -> None:
    ring.create("a")
    early = ring.head()
    ring.create("b")
    ring.verify_commitments(ring.head())
    ring.verify_commitments(early)
    late = ring.head()
    path = ring.folder / "commitments.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    ring.verify_commitments()
    with pytest.raises(CustodyError, match="published head"):
        ring.verify_commitments(late)


def test_a_swapped_key_no_longer_opens_its_commitment(ring: KeyRing) -> None:
    ring.create("mark")
    path = ring.folder / "mark.v1.key"
    path.write_text(path.read_text().replace(ring.opening("mark").key, "0" * 64))
    with pytest.raises(CustodyError, match="does not open"):
        ring.verify_commitments()


def test_a_key_without_its_commitment_and_a_torn_line_are_mended(ring: KeyRing) -> None:
    first = ring.create("a")
    path = ring.folder / "commitments.jsonl"
    path.write_text("")
    assert ring.commitment("a") == first
    with path.open("a") as file:
        file.write('{"name": "to')
    assert ring.commitments() == [first]
    second = ring.create("b")
    assert ring.commitments() == [first, second]
    ring.verify_commitments()
    assert ring.commitment("b") == second


def test_keys_and_ledgers_are_not_kept_inside_a_store(tmp_path: Path, ring: KeyRing) -> None:
    ring.create("coins")
    with Store.create(tmp_path / "store"):
        for inside in (tmp_path / "store", tmp_path / "store" / "sub" / "deep"):
            with pytest.raises(CustodyError, match="inside a store"):
                KeyRing(inside)
            with pytest.raises(CustodyError, match="inside a store"):
                Ledger(inside, ring, "coins")
        (tmp_path / "link").symlink_to(tmp_path / "store")
        with pytest.raises(CustodyError, match="inside a store"):
            KeyRing(tmp_path / "link" / "keys")


# --- Coins ----------------------------------------------------------------------------------------------------


def test_every_side_is_exactly_equally_likely_for_a_uniform_word() -> None:
    for n in range(1, 257):
        sides = Counter(reduced(word, n, bits=8) for word in range(256))
        rejected = sides.pop(None, 0)
        assert set(sides) == set(range(n))
        assert len(set(sides.values())) == 1
        assert rejected == 256 % n


def test_coins_match_their_test_vectors() -> None:
    # Computed once by `by_the_docstring`, which shares no code with the ledger.
    key = bytes(range(32))
    assert [coin(key, 1, "twin", f"x{i}", 2) for i in range(12)] == VECTOR_TWIN
    assert [coin(key, 2, "card", "x0", n) for n in (1, 3, 10, 1000, 1 << 32)] == VECTOR_CARD
    for i in range(200):
        n = 3 + 7 * i
        assert coin(key, 1, "card", f"x{i}", n) == by_the_docstring(key, 1, "card", f"x{i}", n)


def by_the_docstring(key: bytes, version: int, purpose: str, exchange_id: str, n: int) -> int:
    import hashlib
    import hmac

    for c in range(1000):
        text = json.dumps(["stillproof.coin.1", version, purpose, exchange_id, n, c], separators=(",", ":"))
        word = int(hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:16], 16)
        if word < 2**64 - 2**64 % n:
            return word % n
    raise AssertionError


VECTOR_TWIN = [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1]
VECTOR_CARD = [0, 1, 3, 94, 3825836525]


def test_coins_are_fair_and_independent_of_one_another_across_ids_purposes_and_keys() -> None:
    key, other = bytes(32), bytes([1]) * 32
    n = 4000
    variants = [
        [coin(key, 1, "a", str(i), 2) for i in range(n)],
        [coin(key, 1, "b", str(i), 2) for i in range(n)],
        [coin(key, 2, "a", str(i), 2) for i in range(n)],
        [coin(other, 1, "a", str(i), 2) for i in range(n)],
    ]
    five_sigma = 5 * (n / 4) ** 0.5
    for i, first in enumerate(variants):
        assert abs(sum(first) - n / 2) < five_sigma
        for second in variants[i + 1 :]:
            assert abs(sum(a == b for a, b in zip(first, second, strict=True)) - n / 2) < five_sigma


def test_a_coin_needs_at_least_one_side_and_not_too_many() -> None:
    for n in (0, -1, (1 << 32) + 1):
        with pytest.raises(InputError):
            coin(bytes(32), 1, "a", "x", n)


# --- Ledger ---------------------------------------------------------------------------------------------------


def test_a_coin_is_on_disk_before_it_is_used_and_shows_the_same_side_again(ledger: Ledger, ring: KeyRing) -> None:
    value = ledger.toss("x1", "twin", 6)
    (line,) = (ledger.folder / "ledger.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "id": "x1",
        "kind": "coin",
        "purpose": "twin",
        "n": 6,
        "value": value,
        "key": "coins",
        "version": 1,
        "time": "2026-03-01T12:00:00.000000+00:00",
    }
    assert value == coin(ring.key("coins"), 1, "twin", "x1", 6)
    assert ledger.toss("x1", "twin", 6) == value
    assert len((ledger.folder / "ledger.jsonl").read_text().splitlines()) == 1
    with pytest.raises(CustodyError, match="6 sides"):
        ledger.toss("x1", "twin", 2)


def test_a_ledger_that_is_opened_again_knows_what_it_recorded(ledger: Ledger, ring: KeyRing) -> None:
    ledger.toss("x1", "twin", 2)
    ledger.note("x1", "unserved", {"text": "the other answer"})
    ledger.note("x2", "card", None)
    before = (ledger.read("x1"), ledger.read("x2"))
    ledger.close()
    with Ledger(ledger.folder, ring, "coins") as again:
        assert (again.read("x1"), again.read("x2")) == before
        assert again.read("x3") == ()
        assert [entry.kind for entry in again.read("x1")] == ["coin", "unserved"]
        again.verify()
    with pytest.raises(StorageError, match="closed"):
        ledger.toss("x9", "twin", 2)


def test_one_writer_at_a_time_and_a_closed_ledger_lets_the_next_in(ledger: Ledger, ring: KeyRing) -> None:
    with pytest.raises(StorageError, match="another writer"):
        Ledger(ledger.folder, ring, "coins")


def test_coins_under_a_rotated_key_are_verified_under_the_old_one(ledger: Ledger, ring: KeyRing) -> None:
    ledger.toss("x1", "twin", 1000)
    ledger.close()
    ring.rotate("coins")
    with Ledger(ledger.folder, ring, "coins") as again:
        again.toss("x2", "twin", 1000)
        assert [entry.version for name in ("x1", "x2") for entry in again.read(name)] == [1, 2]
        again.verify()


def test_a_bent_coin_is_found(ledger: Ledger, ring: KeyRing) -> None:
    value = ledger.toss("x1", "twin", 1000)
    ledger.close()
    path = ledger.folder / "ledger.jsonl"
    path.write_text(path.read_text().replace(f'"value":{value}', f'"value":{(value + 1) % 1000}'))
    with Ledger(ledger.folder, ring, "coins") as again, pytest.raises(CustodyError, match="x1: twin"):
        again.verify()


def test_a_torn_last_line_was_never_used_and_a_broken_line_inside_is_refused(ledger: Ledger, ring: KeyRing) -> None:
    value = ledger.toss("x1", "twin", 1000)
    path = ledger.folder / "ledger.jsonl"
    whole = path.read_bytes()
    ledger.close()
    path.write_bytes(whole + whole[:-20])
    with Ledger(ledger.folder, ring, "coins") as again:
        assert [entry.value for entry in again.read("x1")] == [value]
        again.toss("x2", "twin", 2)
    assert path.read_bytes().startswith(whole)
    assert len(path.read_bytes().splitlines()) == 2
    path.write_bytes(whole[:-20] + b"\n" + whole)
    with pytest.raises(CustodyError, match=r"ledger.jsonl:1"):
        Ledger(ledger.folder, ring, "coins")
    path.write_bytes(whole)
    path.chmod(0o644)
    with pytest.raises(CustodyError, match="chmod 600"):
        Ledger(ledger.folder, ring, "coins")


def test_forgetting_erases_from_disk_and_leaves_the_rest(ledger: Ledger, ring: KeyRing) -> None:
    ledger.toss("x1", "twin", 2)
    ledger.note("x1", "unserved", "a private sentence")
    kept = ledger.toss("x2", "twin", 1000)
    assert ledger.forget(["x1", "never seen"]) == 2
    assert ledger.forget(["x1"]) == 0
    everything = b"".join(file.read_bytes() for file in ledger.folder.rglob("*") if file.is_file())
    assert b"private" not in everything
    assert b"x1" not in everything
    assert (ledger.folder / "ledger.jsonl").stat().st_mode & 0o777 == 0o600
    ledger.close()
    with Ledger(ledger.folder, ring, "coins") as again:
        assert [entry.value for entry in again] == [kept]


def test_a_coin_cannot_be_noted(ledger: Ledger) -> None:
    with pytest.raises(InputError, match="tossed"):
        ledger.note("x1", "coin", 1)


def test_a_coin_survives_kill_9_the_moment_after_it_was_returned(tmp_path: Path, ring: KeyRing) -> None:
    ring.create("coins")
    code = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from stillproof.serve.custody import KeyRing
        from stillproof.serve.ledger import Ledger
        root = Path(sys.argv[1])
        value = Ledger(root / "ledger", KeyRing(root / "keys"), "coins").toss("x1", "twin", 1000)
        os.write(1, str(value).encode())
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    source = str(Path(__file__).parent.parent / "src")
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": source},
        check=False,
        capture_output=True,
    )
    assert run.returncode == -9, run.stderr
    with Ledger(tmp_path / "ledger", ring, "coins") as ledger:
        assert [entry.value for entry in ledger.read("x1")] == [int(run.stdout)]


def test_many_threads_toss_without_losing_a_line(ledger: Ledger, ring: KeyRing) -> None:
    threads = [
        threading.Thread(target=lambda k=k: [ledger.toss(f"x{k}-{i}", "twin", 2) for i in range(10)]) for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    with Ledger(ledger.folder, ring, "coins") as again:
        assert len(list(again)) == 40
        again.verify()


# --- Recorder -------------------------------------------------------------------------------------------------


def ask(text: str, account: str | None = None, identity: str = "", **sampling: Any) -> Request:
    return Request((Message("user", text),), Sampling(**sampling), account=account, id=identity)


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def test_what_is_served_is_stored_first_under_a_pseudonym_and_with_provenance_serve(tmp_path: Path) -> None:
    with Store.create(tmp_path / "store") as store:
        recorder = Recorder(FakeTeacher(), store, clock=lambda: MOMENT)
        assert isinstance(recorder, Teacher)
        served = []
        for exchange in recorder.answer([ask("a", "alice@example.com"), ask("b"), ask("c", identity="mine")]):
            assert exchange.id in {stored.id for stored in store}, "handed out before it was stored"
            served.append(exchange)
        assert served == list(store)
        first, second, third = served
        assert first.account == pseudonym(store.pseudonym_key(), "alice@example.com")
        assert second.account is None
        assert third.id == "mine"
        assert first.id.startswith("serve-")
        assert len({exchange.id for exchange in served}) == 3
        for exchange in served:
            assert exchange.time == MOMENT
            assert exchange.provenance is not None
            assert exchange.provenance.source == "serve"
            assert exchange.provenance.teacher == recorder.identity.digest
        assert b"alice" not in bytes_of(tmp_path / "store")


def test_no_coin_and_no_fact_of_the_ledger_is_in_the_store_or_in_what_it_exports(
    tmp_path: Path, ledger: Ledger, ring: KeyRing
) -> None:
    with Store.create(tmp_path / "store") as store:
        recorder = Recorder(FakeTeacher(), store, ledger)
        requests = [ask(f"p{i}", "bob", identity=new_id()) for i in range(5)]
        for request in requests:
            ledger.toss(request.id, "purpose-zebra", 2)
            ledger.note(request.id, "kind-zebra", "fact-zebra")
        served = list(recorder.answer(requests))
        assert {exchange.id for exchange in served} == {request.id for request in requests}
        exported = "".join(json.dumps(to_json(exchange)) for exchange in store) + str(store.table().to_pylist())
        before = bytes_of(tmp_path / "store")
        store.seal()
    for place in (before, bytes_of(tmp_path / "store"), exported.encode()):
        assert b"zebra" not in place
        assert ring.key("coins").hex().encode() not in place
    assert all(len(ledger.read(exchange.id)) == 2 for exchange in served)


def test_nothing_that_reads_or_exports_exchanges_imports_the_ledger() -> None:
    source = Path(__file__).parent.parent / "src" / "stillproof"
    modules = [
        *(source / "store").rglob("*.py"),
        *(source / "exchange").rglob("*.py"),
        *(source / "distill").rglob("*.py"),
    ]
    assert len(modules) > 10
    for module in modules:
        names = [
            node.module or "" for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        assert not any(name.startswith("stillproof.serve") for name in names), module


def test_forgetting_an_account_erases_exchanges_and_ledger_alike(tmp_path: Path, ledger: Ledger) -> None:
    with Store.create(tmp_path / "store") as store:
        recorder = Recorder(FakeTeacher(), store, ledger)
        requests = [ask(f"p{i}", name, identity=new_id()) for i in range(2) for name in ("bob", "eve")]
        for request in requests:
            ledger.toss(request.id, "twin", 2)
        list(recorder.answer(requests))
        assert recorder.forget("bob") == 2
        assert {exchange.id for exchange in store} == {requests[1].id, requests[3].id}
    assert {entry.id for entry in ledger} == {requests[1].id, requests[3].id}
    assert recorder.ledger is ledger


def test_a_ledger_that_came_to_lie_in_the_store_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    Store.create(tmp_path / "store").close()
    shutil.copytree(tmp_path / "store", tmp_path, dirs_exist_ok=True)
    with Store.open(tmp_path) as store, pytest.raises(CustodyError, match="inside the store"):
        Recorder(FakeTeacher(), store, ledger)


# --- Endpoint -------------------------------------------------------------------------------------------------


def post(url: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return call(url, "POST", "/v1/chat/completions", raw, headers)


def call(
    url: str, method: str, path: str, raw: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(url.removeprefix("http://").removesuffix("/v1"), timeout=20)
    try:
        connection.request(method, path, raw, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": text}], **fields}


class Grouping:
    """Notes how many requests came in one call, and holds the first call until told to go on."""

    def __init__(self) -> None:
        self.inner = FakeTeacher()
        self.groups: list[int] = []
        self.go = threading.Event()
        self.entered = threading.Event()

    @property
    def identity(self) -> Any:
        return self.inner.identity

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        batch = list(requests)
        self.groups.append(len(batch))
        self.entered.set()
        self.go.wait(20)
        yield from self.inner.answer(reversed(batch))

    def close(self) -> None:
        pass


def test_the_endpoint_speaks_to_the_official_client_and_its_answers_are_the_teacher_s() -> None:
    fake = FakeTeacher(logprobs_seed=1)
    with endpoint(fake) as server:
        client = OpenAITeacher(TeacherConfig(kind="openai", model="fake", base_urls=(server.url,)))
        requests = [ask(f"p{i}", temperature=0.0, max_tokens=5, top_logprobs=3) for i in range(6)]
        through = {answer.request_key: answer for answer in client.answer(requests)}
        client.close()
    direct = {answer.request_key: answer for answer in FakeTeacher(logprobs_seed=1).answer(requests)}
    assert through.keys() == direct.keys()
    for key, answer in through.items():
        assert answer.response == direct[key].response
        assert answer.tokens == direct[key].tokens
        assert answer.prompt_tokens == direct[key].prompt_tokens
        assert answer.id.startswith("chatcmpl-")


def test_local_weights_served_over_http_give_the_tokens_they_give_directly() -> None:
    teacher = LocalTeacher(tiny_model(), tiny_tokenizer(), Identity("tiny", "weights"), batch_size=8)
    requests = [ask(f"p{i}", temperature=1.0, max_tokens=9, top_logprobs=3, seed=i) for i in range(5)]
    with endpoint(teacher) as server:
        client = OpenAITeacher(TeacherConfig(kind="openai", model="tiny", base_urls=(server.url,)))
        through = {answer.request_key: answer for answer in client.answer(requests)}
        client.close()
    for direct in teacher.answer(requests):
        served = through[direct.request_key]
        assert served.response == direct.response
        assert served.tokens is not None
        assert direct.tokens is not None
        assert served.tokens.ids == direct.tokens.ids
        assert served.tokens.pieces == direct.tokens.pieces
        assert served.tokens.top_ids == direct.tokens.top_ids
        assert served.tokens.top_pieces == direct.tokens.top_pieces
        assert served.tokens.logprobs == pytest.approx(direct.tokens.logprobs, abs=1e-4)


def test_calls_that_arrive_together_are_one_batch_and_each_gets_its_own_answer() -> None:
    teacher = Grouping()
    with endpoint(teacher, window_s=0.05) as server:
        answers: dict[str, str] = {}

        def one(text: str) -> None:
            answers[text] = post(server.url, chat(text, temperature=0))[1]["choices"][0]["message"]["content"]

        threads = [threading.Thread(target=one, args=(f"p{i}",)) for i in range(8)]
        threads[0].start()
        teacher.entered.wait(20)
        for thread in threads[1:]:
            thread.start()
        for _ in range(2000):
            if server._jobs.qsize() == 8 - sum(teacher.groups):
                break
            threading.Event().wait(0.01)
        teacher.go.set()
        for thread in threads:
            thread.join()
    assert sum(teacher.groups) == 8
    assert len(teacher.groups) <= 3
    expected = {
        e.messages[0].content: e.response
        for e in FakeTeacher().answer([ask(f"p{i}", temperature=0.0) for i in range(8)])
    }
    assert answers == expected


def test_equal_calls_without_a_seed_are_different_samples_and_with_one_the_same() -> None:
    with endpoint(FakeTeacher()) as server:
        free = [post(server.url, chat("x", temperature=1))[1]["choices"][0]["message"]["content"] for _ in range(4)]
        fixed = [post(server.url, chat("x", seed=3, n=2))[1]["choices"] for _ in range(2)]
    assert len(set(free)) > 1
    assert fixed[0] == fixed[1]
    assert fixed[0][0]["message"] != fixed[0][1]["message"]


def test_a_served_call_is_recorded_under_its_key_s_pseudonym_and_the_id_the_client_saw(tmp_path: Path) -> None:
    with Store.create(tmp_path / "store") as store, endpoint(Recorder(FakeTeacher(), store)) as server:
        _, body = post(server.url, chat("x"), authorization="Bearer sk-secret")
        post(server.url, chat("y"), authorization="Bearer sk-secret")
        post(server.url, chat("z"))
        stored = list(store)
    assert stored[0].id == body["id"]
    assert stored[0].account == stored[1].account is not None
    assert stored[2].account is None
    assert b"sk-secret" not in bytes_of(tmp_path / "store")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "JSON"),
        (b"[]", 400, "object"),
        (chat("x", stream=True), 501, "streaming"),
        (chat("x", model="other"), 404, "'fake'"),
        ({"model": "fake"}, 400, "'messages'"),
        ({"model": "fake", "messages": [{"content": "x"}]}, 400, "messages[0]"),
        ({"model": "fake", "messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
        ({"model": "fake", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "not text"),
        (chat("x", temperature=3), 400, "'temperature'"),
        (chat("x", temperature=True), 400, "'temperature'"),
        (chat("x", max_tokens=0), 400, "'max_tokens'"),
        (chat("x", n=1.5), 400, "'n'"),
        (chat("x", n=1000), 400, "'n'"),
        (chat("x", stop=[1]), 400, "'stop'"),
        (chat("x", top_logprobs=3), 400, "'logprobs'"),
        (chat("x", response_format={"type": "json_object"}), 400, "'response_format'"),
    ],
)
def test_a_call_that_cannot_be_served_is_refused_in_openai_s_error_form(body: Any, status: int, words: str) -> None:
    with endpoint(FakeTeacher()) as server:
        got, answer = post(server.url, body)
    assert got == status
    assert set(answer) == {"error"}
    assert words in answer["error"]["message"]
    assert answer["error"]["code"]


def test_text_parts_and_every_sampling_parameter_reach_the_teacher() -> None:
    seen: list[Request] = []

    def rule(request: Request) -> str:
        seen.append(request)
        return "ok"

    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {
        "model": "fake",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": parts}],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "max_completion_tokens": 11,
        "seed": 5,
        "stop": "end",
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    with endpoint(FakeTeacher(rule)) as server:
        status, answer = post(server.url, body)
    assert status == 200
    assert answer["choices"][0]["logprobs"] is None
    (request,) = seen
    assert [message.content for message in request.messages] == ["s", "ab"]
    assert request.sampling == Sampling(0.5, 0.9, 7, 11, 2, 5, ("end",))
    assert json.loads(request.tools or "") == body["tools"]


def test_a_fault_of_one_call_is_not_its_neighbour_s() -> None:
    class Picky(Grouping):
        def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
            for request in super().answer(requests):
                if request.messages[0].content == "bad":
                    raise InputError("this one is bad")
                yield request

    teacher = Picky()
    got: dict[str, int] = {}
    with endpoint(teacher, window_s=0.2) as server:

        def one(text: str) -> None:
            got[text] = post(server.url, chat(text))[0]

        threads = [threading.Thread(target=one, args=(text,)) for text in ("a", "bad", "c")]
        for thread in threads:
            thread.start()
        teacher.go.set()
        for thread in threads:
            thread.join()
    assert got == {"a": 200, "bad": 400, "c": 200}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (TeacherError("gone"), 503),
        (BudgetError("spent"), 429),
        (InputError("bad"), 400),
        (ZeroDivisionError("bug"), 500),
    ],
)
def test_a_teacher_s_fault_is_a_status_and_the_server_goes_on(fault: Exception, status: int) -> None:
    def rule(request: Request) -> str:
        if request.messages[0].content == "bad":
            raise fault
        return "fine"

    with endpoint(FakeTeacher(rule)) as server:
        assert post(server.url, chat("bad"))[0] == status
        assert post(server.url, chat("good"))[0] == 200


def test_a_teacher_s_refusal_is_passed_on_and_a_silent_one_is_an_error() -> None:
    class Silent(FakeTeacher):
        def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
            yield from ()

    with endpoint(FakeTeacher(status=lambda _: 422)) as server:
        assert post(server.url, chat("x"))[0] == 422
    with endpoint(Silent()) as server:
        status, answer = post(server.url, chat("x"))
    assert status == 503
    assert "no answer" in answer["error"]["message"]


def test_a_body_that_is_too_large_or_of_unknown_length_is_not_read() -> None:
    with endpoint(FakeTeacher(), max_body_bytes=1000) as server:
        assert post(server.url, chat("x" * 2000))[0] == 413
        assert call(server.url, "POST", "/v1/chat/completions", b"", {"content-length": "-1"})[0] == 411
        assert call(server.url, "POST", "/v1/chat/completions", b"", {"content-length": "²"})[0] in (400, 411)


def test_models_health_and_unknown_paths() -> None:
    with endpoint(FakeTeacher()) as server:
        assert call(server.url, "GET", "/health") == (200, {"status": "ok"})
        status, models = call(server.url, "GET", "/v1/models")
        assert (status, [row["id"] for row in models["data"]]) == (200, ["fake"])
        assert call(server.url, "GET", "/v1/nothing")[0] == 404
        assert call(server.url, "GET", "/v1/chat/completions")[0] == 405


def test_closing_refuses_later_calls_and_may_be_done_twice() -> None:
    server = endpoint(FakeTeacher())
    assert post(server.url, chat("x"))[0] == 200
    url = server.url
    server.close()
    server.close()
    with pytest.raises(OSError):
        post(url, chat("x"))
