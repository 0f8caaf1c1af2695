"""What a store promises after kill -9, on a full disk, with two writers, and when an account is forgotten."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import stillproof.store as store_module
from stillproof.errors import CustodyError, InputError, OutputExistsError, SchemaError, StorageError
from stillproof.exchange import Exchange, Message, ResponseTokens, arrow_schema, header, to_line
from stillproof.store import Store, pseudonym, read_jsonl, write_jsonl
from stillproof.store.segments import write_segment

ALICE, BOB = pseudonym(b"k", "alice"), pseudonym(b"k", "bob")


def exchange(text: str, **values: object) -> Exchange:
    row: dict[str, object] = {
        "id": "",
        "messages": (Message("user", f"say {text}"),),
        "response": text,
        "time": datetime(2025, 1, 1, tzinfo=UTC),
        "status": 200,
        "request_key": f"key of {text}",
    }
    return Exchange(**(row | values))  # type: ignore[arg-type]


def filled(path: Path, *texts: str, seal: bool = False) -> list[Exchange]:
    with Store.create(path) as store:
        stored = [store.append(exchange(text)) for text in texts]
        if seal:
            store.seal()
    return stored


def in_a_process(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    source = "import sys\nfrom pathlib import Path\nfrom stillproof.store import Store\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", source, *words], capture_output=True, text=True, check=False)


# --- what goes in comes out ------------------------------------------------------------------------------------


def test_what_was_appended_is_read_back_in_order_by_another_object(tmp_path: Path) -> None:
    stored = filled(tmp_path / "s", "a", "b", "c")
    reader = Store.open(tmp_path / "s")
    assert list(reader) == stored
    assert len(reader) == 3
    assert all(item.id for item in stored)


def test_sealing_changes_where_exchanges_are_but_neither_they_nor_their_order_nor_the_digest(tmp_path: Path) -> None:
    tokens = ResponseTokens(pieces=(b"\xff", b""), logprobs=(-0.5, float("-inf")))
    with Store.create(tmp_path / "s") as store:
        store.append(exchange("a", tokens=tokens))
        before = (list(store), store.digest, store.table().to_pylist())
        store.seal()
        assert [path.name for path in (tmp_path / "s").glob("journal-*")] == []
        assert (list(store), store.digest, store.table().to_pylist()) == before
        store.append(exchange("b"))
        store.seal()
        store.append(exchange("c"))
        assert [item.response for item in store] == ["a", "b", "c"]
        assert len(store) == 3
        assert store.table(["response"])["response"].to_pylist() == ["a", "b", "c"]
    assert len(Store.open(tmp_path / "s")) == 3


def test_sealing_an_empty_store_makes_no_segment(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        store.seal()
        assert list(store) == []
        assert store.table().schema.equals(arrow_schema())
    assert list((tmp_path / "s" / "segments").iterdir()) == []


def test_a_journal_that_has_grown_is_sealed_before_the_next_append(tmp_path: Path) -> None:
    limit = store_module.SEAL_BYTES
    text = "x" * (1 << 20)
    with Store.create(tmp_path / "s") as store:
        store.append_many(exchange(f"{number} {text}") for number in range(limit // len(text) // 2 + 1))
        assert list((tmp_path / "s" / "segments").iterdir()) == []
        store.append(exchange("next"))
        assert [path.name for path in (tmp_path / "s" / "segments").iterdir()] == ["000001.parquet"]
        assert [path.name for path in (tmp_path / "s").glob("journal-*")] == ["journal-000002.jsonl"]


def test_the_digest_depends_on_what_is_stored_not_on_order_time_or_file(tmp_path: Path) -> None:
    filled(tmp_path / "one", "a", "b", "a", seal=True)
    filled(tmp_path / "two", "a", "a", "b")
    filled(tmp_path / "three", "a", "b")
    one, two, three = (Store.open(tmp_path / name).digest for name in ("one", "two", "three"))
    assert one == two != three


def test_identical_samples_stay_as_many_as_they_were_across_sessions_and_seals(tmp_path: Path) -> None:
    filled(tmp_path / "s", "a", "a", seal=True)
    with Store.open(tmp_path / "s") as store:
        store.append(exchange("a"))
        ids = [item.id for item in store]
    assert len(set(ids)) == 3
    assert sorted(key[-2:] for key in ids) == ["-0", "-1", "-2"]


def test_an_id_given_twice_is_stored_once_if_equal_and_refused_if_not(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        first = store.append(exchange("a", id="api-1"))
        store.seal()
        assert store.append(exchange("a", id="api-1")) == first
        with pytest.raises(InputError, match="different content") as caught:
            store.append_many([exchange("b"), exchange("other", id="api-1")])
        assert caught.value.which == "api-1"
        with pytest.raises(InputError, match="different content"):
            store.append_many([exchange("b", id="x"), exchange("c", id="x")])
        assert [item.response for item in store] == ["a"]
        store.append(exchange("b"))
        assert [item.id[-2:] for item in store] == ["-1", "-0"]


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        with pytest.raises(InputError, match="lone surrogate"):
            store.append_many([exchange("a"), exchange("\ud800")])
        assert list(store) == []
        assert len(store.append_many([exchange("a"), exchange("b")])) == 2
        assert store.append_many([]) == []


def test_request_keys_are_those_answered_with_the_status_asked_for(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        store.append_many([exchange("a"), exchange("b", status=429), exchange("c", request_key=None)])
        store.seal()
        store.append(exchange("d"))
        assert store.request_keys() == {"key of a", "key of d"}
        assert store.request_keys(status=None) == {"key of a", "key of b", "key of d"}


def test_create_refuses_a_folder_with_something_in_it_and_accepts_an_empty_one(tmp_path: Path) -> None:
    Store.create(tmp_path)
    with pytest.raises(OutputExistsError, match="is there already"):
        Store.create(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExistsError):
        Store.create(tmp_path / "file")


def test_what_is_no_store_or_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a store"):
        Store.open(tmp_path)
    filled(tmp_path / "s", "a", seal=True)
    about = tmp_path / "s" / "store.json"
    about.write_text(about.read_text().replace('"stillproof.exchange": 1', '"stillproof.exchange": 2'))
    with pytest.raises(SchemaError, match="exchange schema 2"):
        Store.open(tmp_path / "s")


def test_a_segment_names_its_schema_version_and_another_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "s", "a", seal=True)
    segment = tmp_path / "s" / "segments" / "000001.parquet"
    table = pq.read_table(segment)
    assert table.schema.metadata[b"stillproof.exchange"] == b"1"
    assert pq.ParquetFile(segment).metadata.row_group(0).column(0).compression == "ZSTD"
    pq.write_table(table.replace_schema_metadata({"stillproof.exchange": "9"}), segment)
    with pytest.raises(SchemaError, match="version 9") as caught:
        list(Store.open(tmp_path / "s"))
    assert caught.value.which == str(segment)


def test_a_damaged_segment_is_named_with_the_remedy(tmp_path: Path) -> None:
    filled(tmp_path / "s", "a", seal=True)
    segment = tmp_path / "s" / "segments" / "000001.parquet"
    segment.write_bytes(segment.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"segment is damaged.*Remedy: restore") as caught:
        list(Store.open(tmp_path / "s"))
    assert caught.value.which == str(segment)


# --- kill -9 ---------------------------------------------------------------------------------------------------


def test_a_journal_cut_at_any_byte_keeps_every_whole_line_and_sets_the_rest_aside(tmp_path: Path) -> None:
    stored = filled(tmp_path / "s", "ä", "b")
    journal = tmp_path / "s" / "journal-000001.jsonl"
    whole = journal.read_bytes()
    ends = [len(header())]
    for item in stored:
        ends.append(ends[-1] + 1 + len(to_line(item).encode()))
    for cut in range(len(whole)):
        for path in (tmp_path / "s").glob("*.torn"):
            path.unlink()
        journal.write_bytes(whole[:cut])
        store = Store.open(tmp_path / "s")
        n_whole = sum(cut >= end for end in ends[1:])
        assert list(store) == stored[:n_whole], cut
        assert len(store) == n_whole, cut
        half = whole[:cut].split(b"\n")[-1] if cut not in ends else b""
        assert b"".join(torn.path.read_bytes().rstrip(b"\n") for torn in store.torn) == half, cut
        with store:
            store.append(exchange("next"))
        assert [item.response for item in Store.open(tmp_path / "s")] == [*["ä", "b"][:n_whole], "next"], cut


def test_a_torn_line_is_reported_once_and_its_bytes_are_kept(tmp_path: Path) -> None:
    stored = filled(tmp_path / "s", "a", "b")
    journal = tmp_path / "s" / "journal-000001.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    (torn,) = Store.open(tmp_path / "s").torn
    assert (torn.lines, torn.path.name) == ((3,), "journal-000001.torn")
    assert to_line(stored[1]).encode().startswith(torn.path.read_bytes().rstrip(b"\n"))
    assert Store.open(tmp_path / "s").torn == ()


def test_a_damaged_line_in_the_middle_costs_that_line_alone(tmp_path: Path) -> None:
    stored = filled(tmp_path / "s", "a", "b", "c")
    journal = tmp_path / "s" / "journal-000001.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = b"\x00" * len(lines[2])
    journal.write_bytes(b"\n".join(lines))
    store = Store.open(tmp_path / "s")
    assert list(store) == [stored[0], stored[2]]
    assert [torn.lines for torn in store.torn] == [(3,)]


def test_a_second_torn_line_does_not_overwrite_the_first(tmp_path: Path) -> None:
    filled(tmp_path / "s", "a")
    journal = tmp_path / "s" / "journal-000001.jsonl"
    for tail in (b'{"half', b'{"other'):
        with journal.open("ab") as file:
            file.write(tail)
        assert len(Store.open(tmp_path / "s").torn) == 1
    aside = sorted(path.read_bytes() for path in (tmp_path / "s").glob("*.torn"))
    assert aside == [b'{"half\n', b'{"other\n']


def test_a_journal_of_an_unknown_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    filled(tmp_path / "s", "a")
    journal = tmp_path / "s" / "journal-000001.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'exchange":1', b'exchange":2'))
    before = journal.read_bytes()
    with pytest.raises(SchemaError, match="version 2"):
        Store.open(tmp_path / "s")
    assert journal.read_bytes() == before


def test_a_kill_between_segment_and_deletion_of_the_journal_gives_no_duplicates(tmp_path: Path) -> None:
    stored = filled(tmp_path / "s", "a", "b")
    journal = tmp_path / "s" / "journal-000001.jsonl"
    copy = journal.read_bytes()
    with Store.open(tmp_path / "s") as store:
        store.seal()
    journal.write_bytes(copy)
    store = Store.open(tmp_path / "s")
    assert list(store) == stored
    assert not journal.exists()
    with store:
        store.append(exchange("c"))
    assert [item.response for item in Store.open(tmp_path / "s")] == ["a", "b", "c"]


def test_a_kill_while_a_segment_is_written_leaves_the_journal_in_force(tmp_path: Path) -> None:
    stored = filled(tmp_path / "s", "a")
    (tmp_path / "s" / "segments" / ".000001.parquet.tmp").write_bytes(b"PAR1 half a segment")
    assert list(Store.open(tmp_path / "s")) == stored
    assert list((tmp_path / "s" / "segments").iterdir()) == []


def test_a_kill_while_a_store_is_created_does_not_block_creating_it_again(tmp_path: Path) -> None:
    (tmp_path / "s" / "segments").mkdir(parents=True)
    (tmp_path / "s" / ".store.json.tmp").write_bytes(b"{")
    Store.create(tmp_path / "s")
    assert list(Store.open(tmp_path / "s")) == []


def test_a_process_killed_while_appending_loses_nothing_that_append_returned(tmp_path: Path) -> None:
    code = """
        import os, signal
        from stillproof.exchange import Exchange, Message
        store = Store.create(Path(sys.argv[1]))
        for number in range(20):
            print(store.append(Exchange("", (Message("user", "q"),), f"answer {number}")).id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = in_a_process(code, str(tmp_path / "s"))
    assert done.returncode == -9
    store = Store.open(tmp_path / "s")
    assert [item.id for item in store] == done.stdout.split()
    with store:
        store.append(exchange("after the lock's holder died"))
    assert len(Store.open(tmp_path / "s")) == 21


# --- two writers, full disk ------------------------------------------------------------------------------------


def test_two_writers_are_refused_readers_are_not_and_closing_lets_the_next_one_in(tmp_path: Path) -> None:
    first = Store.create(tmp_path / "s")
    first.append(exchange("a"))
    second = Store.open(tmp_path / "s")
    assert len(second) == 1
    with pytest.raises(StorageError, match=r"another writer has this store open \(process \d+\)"):
        second.append(exchange("b"))
    done = in_a_process("Store.open(Path(sys.argv[1])).record_failure(None, '')", str(tmp_path / "s"))
    assert "another writer" in done.stderr
    first.append(exchange("b"))
    first.close()
    second.append(exchange("c"))
    assert [item.response for item in second] == ["a", "b", "c"]
    second.close()


def test_a_writer_that_comes_back_takes_up_what_another_wrote_meanwhile(tmp_path: Path) -> None:
    first = Store.create(tmp_path / "s")
    first.append(exchange("a"))
    first.close()
    with Store.open(tmp_path / "s") as second:
        second.append(exchange("a"))
        second.append(exchange("b", id="api-1"))
    with first:
        assert first.append(exchange("a")).id.endswith("-2")
        with pytest.raises(InputError, match="different content"):
            first.append(exchange("c", id="api-1"))
    assert len(first) == 4


def test_a_reader_beside_a_writer_sees_only_whole_lines_and_recovers_nothing(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as writer:
        stored = writer.append(exchange("a"))
        journal = tmp_path / "s" / "journal-000001.jsonl"
        with journal.open("ab") as file:
            file.write(b'{"being writ')
        reader = Store.open(tmp_path / "s")
        assert list(reader) == [stored]
        assert len(reader) == 1
        assert journal.read_bytes().endswith(b'{"being writ')


def test_a_full_disk_is_a_storage_error_with_a_remedy_and_costs_nothing_stored_before(tmp_path: Path) -> None:
    code = """
        import resource
        from stillproof.errors import StorageError
        from stillproof.exchange import Exchange, Message
        store = Store.create(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        stored = 0
        try:
            while True:
                store.append(Exchange("", (Message("user", "q" * 700),), f"answer {stored}"))
                stored += 1
        except StorageError as error:
            assert len(list(store)) == stored
            print(stored, error)
        store.append(Exchange("", (Message("user", "q"),), "small enough"))
    """
    done = in_a_process(code, str(tmp_path / "s"))
    assert done.returncode == 0, done.stderr
    n_stored, message = done.stdout.split(" ", 1)
    assert 1 < int(n_stored) < 6
    assert "free some space" in message
    store = Store.open(tmp_path / "s")
    assert store.torn == ()
    assert [item.response for item in store] == [*(f"answer {n}" for n in range(int(n_stored))), "small enough"]


def test_a_seal_that_the_disk_refuses_leaves_the_journal_in_force(tmp_path: Path) -> None:
    stored = filled(tmp_path / "s", "a", "b")
    code = """
        import resource
        store = Store.open(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
        store.seal()
    """
    done = in_a_process(code, str(tmp_path / "s"))
    assert "StorageError: the disk refused" in done.stderr
    assert list(Store.open(tmp_path / "s")) == stored
    assert list((tmp_path / "s" / "segments").iterdir()) == []


def test_a_torn_store_on_a_full_disk_still_opens_for_reading(tmp_path: Path) -> None:
    stored = filled(tmp_path / "s", "a", "b")
    with (tmp_path / "s" / "journal-000001.jsonl").open("ab") as file:
        file.write(b'{"half')
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        print(*(item.id for item in Store.open(Path(sys.argv[1]))))
    """
    done = in_a_process(code, str(tmp_path / "s"))
    assert done.stdout.split() == [item.id for item in stored], done.stderr


# --- forget ----------------------------------------------------------------------------------------------------


def folder_bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def test_forgetting_an_account_leaves_no_byte_of_it_in_journal_segments_failures_or_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "s"
    secret = "wombat"
    with Store.create(path) as store:
        erased = [store.append(exchange(f"{secret} {number}", account=ALICE)).id for number in range(2)]
        kept = [store.append(exchange("bob's", account=BOB)), store.append(exchange("nobody's"))]
        store.seal()
        erased.append(store.append(exchange(f"{secret} alone in a segment", account=ALICE)).id)
        store.seal()
        erased.append(store.append(exchange(f"{secret} in the journal", account=ALICE)).id)
        kept.append(store.append(exchange("after", account=BOB)))
        store.record_failure(exchange(f"{secret} failed", account=ALICE), "429")
        store.record_failure(exchange("bob failed", account=BOB), "429")
    with (path / "journal-000003.jsonl").open("ab") as file:
        file.write(f'{{"account":"{ALICE}","messages":[{{"content":"{secret}'.encode())
    (path / ".journal-000001.jsonl.tmp").write_text(f"left by a kill: {secret}")
    assert Store.open(path).torn
    store = Store.open(path)
    assert secret.encode() in folder_bytes(path)
    with store:
        assert store.ids_of(ALICE) == tuple(erased)
        assert store.forget(ALICE) == tuple(erased)
        assert store.forget(ALICE) == ()
        assert list(store) == kept
    left = folder_bytes(path)
    assert secret.encode() not in left
    assert ALICE.encode() not in left
    assert [row["account"] for row in Store.open(path).failures()] == [BOB]
    assert list(Store.open(path)) == kept


def test_ids_given_after_forgetting_never_repeat_one_that_is_still_there(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        store.append(exchange("a", account=ALICE))
        store.append(exchange("a", account=BOB))
        store.forget(ALICE)
        store.append(exchange("a", account=BOB))
        assert [item.id[-2:] for item in store] == ["-1", "-2"]


def test_forget_takes_the_raw_name_where_the_store_has_the_key(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        key = store.pseudonym_key()
        stored = store.append(exchange("a", account=pseudonym(key, "alice@example.com")))
        assert b"alice@example.com" not in folder_bytes(tmp_path / "s")
        assert store.forget("bob@example.com") == ()
        assert store.forget("alice@example.com") == (stored.id,)


def test_a_kill_in_the_middle_of_forgetting_is_finished_by_forgetting_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Store.create(path) as store:
        for _ in range(2):
            store.append_many([exchange("wombat", account=ALICE), exchange("b", account=BOB)])
            store.seal()
    # As after a kill between the two files: the first is rewritten, the second is half-written beside.
    first, second = sorted((path / "segments").iterdir())
    write_segment(first, [item for item in Store.open(path) if item.account == BOB][:1])
    shutil.copy(second, second.with_name(f".{second.name}.tmp"))
    with Store.open(path) as store:
        assert len(store.forget(ALICE)) == 1
        assert [item.account for item in store] == [BOB, BOB]
    assert ALICE.encode() not in folder_bytes(path)


def test_a_raw_account_name_is_refused_and_not_repeated_in_the_message(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        with pytest.raises(InputError, match="not a pseudonym") as caught:
            store.append(exchange("a", account="alice@example.com"))
        assert "alice" not in str(caught.value)
        store.record_failure(exchange("a", account="alice@example.com"), "500")
    assert b"alice" not in folder_bytes(tmp_path / "s")


def test_the_pseudonym_key_is_made_once_is_the_owners_alone_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    key = store.pseudonym_key()
    file = tmp_path / "s" / "pseudonym.key"
    assert Store.open(tmp_path / "s").pseudonym_key() == key
    assert len(key) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("not a key")
    with pytest.raises(CustodyError, match="not a pseudonym key"):
        store.pseudonym_key()


def test_pseudonyms_are_equal_only_for_equal_name_and_key() -> None:
    names = [pseudonym(key, raw) for key in (b"1", b"2") for raw in ("a", "b", "\ud800")]
    assert len(set(names)) == 6
    assert {len(name) for name in names} == {32}
    assert pseudonym(b"1", "a") == names[0]


# --- failures, teachers, JSONL ---------------------------------------------------------------------------------


def test_failures_are_recorded_apart_even_where_their_text_could_not_be_stored(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        store.record_failure(exchange("\ud800"), "not text")
        with (tmp_path / "s" / "failures.jsonl").open("ab") as file:
            file.write(b'{"cut by a ki')
        store.record_failure(exchange("b", status=500), "500")
        assert [(row["reason"], row["status"]) for row in store.failures()] == [("not text", 200), ("500", 500)]
        assert list(store) == []


def test_teachers_are_noted_by_digest(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        store.record_teacher("d1", {"model": "m", "weights": None})
        store.record_teacher("d2", {"model": "n", "weights": "w"})
    assert Store.open(tmp_path / "s").teachers() == {
        "d1": {"model": "m", "weights": None},
        "d2": {"model": "n", "weights": "w"},
    }


def test_a_jsonl_file_gives_back_its_exchanges_with_or_without_its_header(tmp_path: Path) -> None:
    items = [exchange("a\u2028b", id="1"), exchange("c", id="2")]
    file = tmp_path / "e.jsonl"
    write_jsonl(file, items)
    assert list(read_jsonl(file)) == items
    assert json.loads(file.read_text().split("\n")[0]) == {"stillproof.exchange": 1}
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().split(b"\n", 1)[1].replace(b"\n", b"\r\n\n"))
    assert list(read_jsonl(file)) == items


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a":1}\n', r"unknown field.*e\.jsonl:1"), (b"\n\xff\n", r"not UTF-8.*e\.jsonl:2"), (b"x\n", "not JSON")],
)
def test_a_bad_line_of_a_jsonl_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "e.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_jsonl(tmp_path / "e.jsonl"))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_jsonl(tmp_path / "absent.jsonl"))


def test_writing_jsonl_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    write_jsonl(file, [exchange("a", id="1")])
    with pytest.raises(InputError, match="lone surrogate"):
        write_jsonl(file, [exchange("b", id="2"), exchange("\ud800", id="3")])
    assert [item.id for item in read_jsonl(file)] == ["1"]
    assert [path.name for path in tmp_path.iterdir()] == ["e.jsonl"]


def test_content_with_equal_text_from_two_requests_keeps_both(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        one = store.append(exchange("a"))
        two = store.append(replace(exchange("a"), request_key="another call"))
        assert Counter(item.request_key for item in store) == Counter(["key of a", "another call"])
        assert one.id != two.id
