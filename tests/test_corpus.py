"""Reading documents and prompts, bad lines named, and parting training from held-out data."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillproof.config import DataConfig
from stillproof.distill.corpus import Documents, check_no_overlap, read_documents, read_prompts, split
from stillproof.errors import InputError, MissingExtraError
from stillproof.exchange import Exchange, Message, document, to_table, with_ids
from stillproof.store import Store, write_jsonl

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def plain(item: Exchange) -> tuple[list[tuple[str, str | None]], str | None]:
    return [(message.role, message.content) for message in item.messages], item.response


def read(source: str, **values: object) -> list[tuple[list[tuple[str, str | None]], str | None]]:
    return [plain(item) for item in read_documents(source, DataConfig(**values)).items]  # type: ignore[arg-type]


def documents(*texts: str) -> Documents:
    return Documents(tuple(with_ids(document(text, "test") for text in texts)), "test")


def prompts(*texts: str) -> Documents:
    items = (Exchange("", (Message("user", text),), f"answer {number}") for number, text in enumerate(texts))
    return Documents(tuple(with_ids(items)), "test")


# --- formats ---------------------------------------------------------------------------------------------------


def test_a_jsonl_row_is_a_prompt_with_gold_a_prompt_alone_a_document_or_a_chat(write: Write) -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    rows = [
        {"prompt": "q", "response": "a"},
        {"prompt": "q"},
        {"text": "a document", "extra": 1},
        {"messages": [*chat, {"role": "assistant", "content": "ho"}]},
        {"messages": chat},
        "a bare prompt",
        ["prompt", "label"],
    ]
    source = write("d.jsonl", "\n".join(json.dumps(row) for row in rows))
    asked = [("system", "be brief"), ("user", "hi")]
    assert read(source) == [
        ([("user", "q")], "a"),
        ([("user", "q")], None),
        ([], "a document"),
        (asked, "ho"),
        (asked, None),
        ([("user", "a bare prompt")], None),
        ([("user", "prompt")], "label"),
    ]


def test_fields_are_named_by_the_config_and_may_be_dotted_paths(write: Write) -> None:
    source = write("d.jsonl", json.dumps({"turns": ["first", "second"], "gold": {"text": "a"}, "a.b": "c"}))
    assert read(source, prompt_field="turns.0", response_field="gold.text") == [([("user", "first")], "a")]
    assert read(source, prompt_field="a.b") == [([("user", "c")], None)]


def test_a_json_file_of_splits_is_read_by_the_split_that_label_map_names(write: Write) -> None:
    source = write("d.json", json.dumps({"train": [["book a table", "book"]], "val": [["hi", "greet"]], "n": 3}))
    assert read(source, label_map="train") == [([("user", "book a table")], "book")]
    with pytest.raises(InputError, match=r"not an array of rows.*one of its splits: train, val"):
        read(source)
    with pytest.raises(InputError, match="no split 'test'"):
        read(source, label_map="test")
    assert read(write("l.json", '[{"text":"t"}]')) == [([], "t")]


def test_a_txt_file_is_paragraphs_for_documents_and_lines_for_prompts(write: Write) -> None:
    source = write("d.txt", "\nfirst\nstill first\n \n\nsecond\n")
    assert read(source) == [([], "first\nstill first"), ([], "second")]
    assert [plain(item) for item in read_prompts(source, DataConfig()).items] == [
        ([("user", text)], None) for text in ("first", "still first", "second")
    ]


def test_csv_and_parquet_are_read_by_their_columns(write: Write, tmp_path: Path) -> None:
    source = write("d.csv", 'text,category\n"a, ""b""\nc",x\nplain,y\n')
    want = [([("user", 'a, "b"\nc')], "x"), ([("user", "plain")], "y")]
    assert read(source, prompt_field="text", response_field="category") == want
    table = pa.table({"text": ['a, "b"\nc', "plain"], "category": ["x", "y"], "other": [1, 2]})
    pq.write_table(table, tmp_path / "d.parquet")
    assert read(str(tmp_path / "d.parquet"), prompt_field="text", response_field="category") == want
    for path in (source, str(tmp_path / "d.parquet")):
        with pytest.raises(InputError, match=r"none of the columns q.*; it has text, category"):
            read(path, prompt_field="q", text_field="t")


def test_stores_and_files_that_stillproof_wrote_give_their_answered_exchanges(tmp_path: Path) -> None:
    items = [
        Exchange("1", (Message("user", "q"),), "a", status=200, model="m"),
        Exchange("2", (Message("user", "q"),), None, status=500, model="m"),
    ]
    with Store.create(tmp_path / "s") as store:
        store.append_many(items)
    write_jsonl(tmp_path / "e.jsonl", items)
    pq.write_table(to_table(items), tmp_path / "e.parquet")
    for name in ("s", "e.jsonl", "e.parquet"):
        assert read_documents(str(tmp_path / name), DataConfig()).items == (items[0],)


def test_built_in_corpora_are_read_by_name() -> None:
    some = read_documents("python-docs", DataConfig(max_documents=3))
    assert len(some.items) == 3
    assert all(item.response and not item.messages and item.id for item in some.items)
    asked = read_prompts("intents", DataConfig())
    test = read_prompts("intents:test", DataConfig())
    assert all(item.response is None and item.messages for item in asked.items)
    assert all(item.response and item.messages for item in test.items)
    with pytest.raises(InputError, match=r"no split 'train'.*test"):
        read("intents:train")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="datasets is installed here")
def test_a_hub_dataset_without_the_package_names_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match="pip install datasets"):
        read("hub:openai/gsm8k#main")


# --- bad input -------------------------------------------------------------------------------------------------

BAD = [
    ("d.jsonl", b'{"text":"ok"}\n{"text":\n', "d.jsonl:2", "not JSON"),
    ("d.jsonl", b'\n{"text":"ok"}\n{"text":"\xff"}\n', "d.jsonl:3", "not UTF-8: invalid start byte at byte 9"),
    ("d.jsonl", b'{"text":"ok"}\n{"txt":"x","n":1}', "d.jsonl:2", "it has 'txt', 'n'"),
    ("d.jsonl", b'{"text":"ok"}\n{"text":" "}', "d.jsonl:2", "field 'text' is empty"),
    ("d.jsonl", b'{"text":"ok"}\n{"prompt":"x","response":5}', "d.jsonl:2", "'response' is int, not text"),
    ("d.jsonl", b'{"text":"ok"}\n{"text":"\\ud800"}', "d.jsonl:2", "lone surrogate"),
    ("d.jsonl", b'{"text":"ok"}\n7', "d.jsonl:2", "a JSON int"),
    ("d.jsonl", b'{"text":"ok"}\n{"messages":[{"content":"x"}]}', "d.jsonl:2", "without a role"),
    ("d.jsonl", b'{"text":"ok"}\n{"messages":[{"role":"assistant","content":"x"}]}', "d.jsonl:2", "no prompt"),
    ("d.jsonl", b'{"text":"ok"}\n{"messages":[{"role":"user","content":[{"type":"image"}]}]}', "d.jsonl:2", "not text"),
    ("d.jsonl", b'{"text":"ok"}\n' + b"[" * 100_000, "d.jsonl:2", "not JSON"),
    ("d.json", b'[["a","b"],["a"]]', "d.json#[1]", "a JSON list"),
    ("d.txt", b"ok\n\nhalf\n\xe4bad\nrest\n\nok", "d.txt:4", "not UTF-8"),
    ("d.csv", b"text,n\nok,1\nx\n", "d.csv:3", "1 fields, the header has 2"),
    ("d.csv", b"text,n\nok,1\n\xff,1\n", "d.csv:3", "not UTF-8"),
    ("d.csv", b'text,n\nok,1\n"a"b,1\n', "d.csv:3", "not CSV"),
]


@pytest.mark.parametrize(("name", "content", "where", "reason"), BAD)
def test_a_bad_line_is_named_with_its_reason_refused_or_skipped_by_choice(
    write: Write, name: str, content: bytes, where: str, reason: str
) -> None:
    source = write(name, content)
    with pytest.raises(InputError, match=r"1 line\(s\) cannot be used") as caught:
        read(source)
    assert where in caught.value.what
    assert reason in caught.value.what
    got = read_documents(source, DataConfig(on_bad_line="skip"))
    assert len(got.items) >= 1
    assert all("half" not in str(item.response) for item in got.items)
    ((bad),) = got.bad
    assert bad.where.endswith(where)
    assert reason in bad.reason


def test_twenty_bad_lines_are_shown_and_all_are_counted(write: Write) -> None:
    source = write("d.jsonl", '{"text":"ok"}\n' + "x\n" * 33)
    with pytest.raises(InputError, match=r"33 line\(s\)") as caught:
        read(source)
    assert caught.value.what.count("not JSON") == 20
    assert "and 13 more" in caught.value.what
    assert len(read_documents(source, DataConfig(on_bad_line="skip")).bad) == 33


WHOLE = [
    ("d.jsonl", b"", "the file is empty"),
    ("d.txt", b" \r\n \n", "the file is empty"),
    ("d.jsonl", b"\xef\xbb\xbf\n", "no document in it"),
    ("d.jsonl", '{"text":"a"}'.encode("utf-16"), "UTF-16"),
    ("d.json", b'{"text":"a"}\n{"text":"b"}\n', "rename it to .jsonl"),
    ("d.json", b'[{"text":"\xff"}]', "not UTF-8"),
    ("d.json", b"[1,", "not JSON"),
    ("d.json", b'"text"', "not an array"),
    ("d.parquet", b"PAR1", "not a Parquet file"),
    ("d.xml", b"<a/>", "unknown kind of file"),
    ("d.csv", b"text\n", "no document in it"),
]


@pytest.mark.parametrize(("name", "content", "message"), WHOLE)
def test_a_file_that_cannot_be_read_at_all_is_refused_even_when_bad_lines_are_skipped(
    write: Write, name: str, content: bytes, message: str
) -> None:
    source = write(name, content)
    with pytest.raises(InputError, match=message):
        read(source, on_bad_line="skip")


def test_where_no_line_is_good_skipping_refuses_and_shows_why(write: Write) -> None:
    with pytest.raises(InputError, match=r"none of 2 line\(s\) can be used(.|\n)*not JSON"):
        read(write("d.jsonl", "x\ny\n"), on_bad_line="skip")


def test_an_absent_file_and_a_folder_that_is_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(str(tmp_path / "absent.jsonl"))
    with pytest.raises(InputError, match="not a store"):
        read(str(tmp_path))


def test_a_plain_document_is_no_prompt(write: Write) -> None:
    with pytest.raises(InputError, match=r"a plain document.*data\.prompt_field"):
        read_prompts(write("d.jsonl", '{"text":"a"}'), DataConfig())


def test_byte_order_mark_crlf_and_a_long_line_are_read_as_text(write: Write) -> None:
    long = "x" * (1 << 20)
    assert read(write("d.jsonl", f'\ufeff{{"text":"a"}}\r\n{{"text":"{long}"}}\r\n')) == [([], "a"), ([], long)]
    assert read(write("d.txt", f"\ufeffa\r\nb\r\n\r\n{long}")) == [([], "a\nb"), ([], long)]
    assert read(write("d.csv", f"\ufefftext,n\r\na,1\r\n{long},2\r\n")) == [([], "a"), ([], long)]


def test_reading_stops_at_the_number_of_documents_asked_for(write: Write) -> None:
    source = write("d.jsonl", '{"text":"a"}\n{"text":"b"}\nbroken')
    assert read(source, max_documents=2) == [([], "a"), ([], "b")]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([".jsonl", ".json", ".txt", ".csv", ".parquet"]))
def test_no_bytes_whatever_raise_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        got = read_documents(str(path), DataConfig(on_bad_line="skip"))
    except InputError:
        return
    assert got.items


# --- ids and digest --------------------------------------------------------------------------------------------


def test_ids_are_the_same_from_any_file_format_and_the_digest_from_any_order(write: Write) -> None:
    one = read_documents(write("one.jsonl", '{"text":"a"}\n{"text":"b"}\n{"text":"a"}'), DataConfig())
    two = read_documents(write("two.txt", "a\n\na\n\nb"), DataConfig())
    assert sorted(item.id for item in one.items) == sorted(item.id for item in two.items)
    assert len({item.id for item in one.items}) == 3
    assert one.digest == two.digest != documents("a", "b").digest


# --- parting ---------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.permutations([f"text {number}" for number in range(40)]), st.integers(0, 9), st.lists(st.text(), max_size=5))
def test_a_documents_side_depends_on_its_text_and_the_seed_alone(order: list[str], seed: int, more: list[str]) -> None:
    first = split(documents(*(f"text {number}" for number in range(40))), 0.3, seed)
    other = split(documents(*more, *order), 0.3, seed)
    sides = [{item.response for item in parted.heldout.items} for parted in (first, other)]
    assert sides[1] - set(more) == sides[0] - set(more)


def test_equal_texts_are_on_one_side_whatever_their_white_space_and_prompts_whatever_their_answers() -> None:
    doubled = documents(*(text for n in range(50) for text in (f"text {n}", f" text\n\t{n} ")))
    parted = split(doubled, 0.5, 1)
    folded = [
        {" ".join((item.response or "").split()) for item in side.items} for side in (parted.train, parted.heldout)
    ]
    assert folded[0].isdisjoint(folded[1])
    asked = split(prompts(*(f"q {n}" for n in range(50) for _ in range(2))), 0.5, 1)
    sides = [{item.messages[0].content for item in side.items} for side in (asked.train, asked.heldout)]
    assert sides[0].isdisjoint(sides[1])
    assert sum(map(len, sides)) == 50


def test_about_the_share_asked_for_is_held_out_and_another_seed_holds_out_others() -> None:
    all_of_them = documents(*(f"text {number}" for number in range(2000)))
    one, two = (split(all_of_them, 0.1, seed) for seed in (1, 2))
    # Binomial(2000, 0.1): mean 200, standard deviation 13.4; five of them either side.
    assert 133 < len(one.heldout.items) < 267
    assert {item.id for item in one.heldout.items} != {item.id for item in two.heldout.items}
    assert len(one.train.items) + len(one.heldout.items) == 2000


def test_a_side_left_empty_is_refused() -> None:
    with pytest.raises(InputError, match=r"no (held-out|training) document among 1"):
        split(documents("only"), 0.5, 1)


def test_overlapping_documents_are_dropped_from_training_named_and_counted() -> None:
    train, heldout = documents("a", "b  c", "d", "a"), documents("b c", "a ", "e")
    parted = check_no_overlap(train, heldout)
    assert [item.response for item in parted.train.items] == ["d"]
    assert set(parted.overlaps) == {item.id for item in train.items if item.response != "d"}
    assert parted.heldout == heldout
    assert check_no_overlap(parted.train, heldout).overlaps == ()
    with pytest.raises(InputError, match="every training document is held out"):
        check_no_overlap(heldout, heldout)


def test_prompts_overlap_by_prompt_even_with_another_answer() -> None:
    parted = check_no_overlap(prompts("q", "r"), prompts("s", "q"))
    assert [item.messages[0].content for item in parted.train.items] == ["r"]
    assert len(parted.overlaps) == 1


# --- data sets that may be at hand -----------------------------------------------------------------------------

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder shared/data is not beside the checkout")
@pytest.mark.parametrize(
    ("path", "fields", "n"),
    [
        ("gsm8k/test.jsonl", {"prompt_field": "question", "response_field": "answer"}, 1319),
        ("clinc/data_full.json", {"label_map": "val"}, 3000),
        ("banking77/test.csv", {"prompt_field": "text", "response_field": "category"}, 3080),
        ("alpaca-seeds/seed_tasks.jsonl",
         {"prompt_field": "instruction", "response_field": "instances.0.output"}, 175),
        ("mt-bench/question.jsonl", {"prompt_field": "turns.0"}, 80),
    ],
)  # fmt: skip
def test_public_data_sets_are_read_whole(path: str, fields: dict[str, str], n: int) -> None:
    got = read_prompts(str(SHARED / path), DataConfig(**fields))  # type: ignore[arg-type]
    assert len(got.items) == n
    assert got.bad == ()
