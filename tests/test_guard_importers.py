"""Importers: every row is kept or counted, nothing raw is written, and what real packages emit is understood.

The fixtures of tests/data/logs were written by the scripts of dev/logs.
"""

import gzip
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillproof.errors import ConfigError, InputError, OutputExistsError
from stillproof.guard.importers import FORMATS, import_log
from stillproof.guard.importers.fields import when
from stillproof.guard.importers.writer import MAX_EXCERPT_BYTES, MAX_EXCERPTS
from stillproof.guard.log import accounts_schema, log_files, log_schema
from stillproof.store import pseudonym

LOGS = Path(__file__).parent / "data" / "logs"
KEY = b"k" * 32
T0 = 1_790_000_000


def line(**fields) -> dict:
    """An exchange in OpenAI style; `prompt` is its user message."""
    prompt = fields.pop("prompt", "What is a monad?")
    request = {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields.pop("request", {})}
    return {"timestamp": T0, "account": "alice", "request": request, **fields}


def run(tmp_path, rows, format="openai", columns=None, name="source.jsonl"):
    """Import these rows (objects or lines); the result and the log's rows in order of the file."""
    source, out = tmp_path / name, tmp_path / "out"
    texts = [row if isinstance(row, (str, bytes)) else json.dumps(row) for row in rows]
    source.write_bytes(b"".join((t.encode() if isinstance(t, str) else t) + b"\n" for t in texts))
    result = import_log(source, out, format, columns, KEY, if_exists="replace")
    assert adds_up(result)
    return result, read(out)


def read(out):
    return [row for file in log_files(out) for row in pq.read_table(file).to_pylist()]


def adds_up(result) -> bool:
    rejected = sum(result["rejected"].values())
    return result["read"] == result["kept"] + rejected + result["skipped"] + result["duplicates"]


def fixture(tmp_path, name, format):
    result = import_log(LOGS / name, tmp_path / name, format, None, KEY)
    assert adds_up(result)
    return result, read(tmp_path / name)


def columns_of(row, *names):
    return tuple(row[name] for name in names)


# What real packages emit


def test_bodies_of_the_openai_client_are_understood(tmp_path):
    result, rows = fixture(tmp_path, "openai.jsonl", "openai")
    assert (result["kept"], result["rejected"], result["blanked"]) == (5, {}, {})
    first, tools, responses, _, refused = rows
    assert columns_of(first, "id", "system", "prompt", "turn") == ("req-0", "You are terse.", "What is a monad?", 1)
    assert columns_of(first, "max_tokens", "n_samples", "top_logprobs", "reasoning_tokens") == (64, 3, 5, 3)
    assert columns_of(tools, "prompt", "turn") == ("And <b>=1+1</b>?", 2)
    assert json.loads(tools["tools"])[0]["function"]["name"] == "weather"
    assert columns_of(responses, "system", "prompt", "response_tokens") == ("Think first.", "Prove it.", 12)
    assert refused["status"] == 429
    assert first["client"].startswith("OpenAI/Python")
    assert first["account"] == pseudonym(KEY, "customer-0")


def test_a_reasoning_block_sent_back_has_the_digest_of_the_one_issued(tmp_path):
    _, rows = fixture(tmp_path, "openai.jsonl", "openai")
    assert rows[2]["blob_issued"] is not None
    assert rows[3]["blob"] == rows[2]["blob_issued"] != rows[3]["blob_issued"]


@pytest.mark.parametrize("name", ["litellm_spend.jsonl", "litellm_standard.jsonl"])
def test_rows_of_litellm_are_understood(tmp_path, name):
    result, rows = fixture(tmp_path, name, "litellm")
    assert (result["kept"], result["skipped"], result["rejected"]) == (4, 1, {})  # the embedding is no exchange
    first, tools, keyed, refused = rows
    assert columns_of(first, "system", "prompt", "temperature") == (
        "You are terse.",
        "What is a monad?",
        pytest.approx(0.7),
    )
    assert columns_of(first, "n_samples", "max_tokens", "status", "prompt_tokens") == (2, 64, 200, 10)
    assert columns_of(tools, "prompt", "turn") == ("And <b>=1+1</b>?", 2)
    assert tools["tools"] is not None
    assert keyed["account"] == pseudonym(KEY, "0" * 64)  # no user: the key's hash
    assert keyed["top_logprobs"] == 5
    assert refused["status"] == 429
    assert {row["organisation"] for row in rows} == {pseudonym(KEY, "org-3")}
    assert {row["network"] for row in rows} == {pseudonym(KEY, "198.51.100.0/24")}


def test_both_shapes_of_litellm_give_the_same_rows(tmp_path):
    _, spend = fixture(tmp_path, "litellm_spend.jsonl", "litellm")
    _, standard = fixture(tmp_path, "litellm_standard.jsonl", "litellm")
    for a, b in zip(spend, standard, strict=True):
        assert {**a, "latency_s": None} == {**b, "latency_s": None}


@pytest.mark.parametrize("shape", ["otlp", "spans"])
@pytest.mark.parametrize("emitter", ["old", "openllmetry"])
def test_spans_of_openllmetry_are_understood_under_old_and_new_names(tmp_path, emitter, shape):
    result, rows = fixture(tmp_path, f"otel_{emitter}.{shape}.jsonl", "otel")
    assert result["skipped"] == 1  # the span of a database
    first, tools = rows[:2]
    assert columns_of(first, "id", "system", "prompt") == ("chatcmpl-0001", "You are terse.", "What is a monad?")
    assert columns_of(first, "n_samples", "max_tokens", "prompt_tokens", "status") == (3, 64, 21, 200)
    assert columns_of(tools, "prompt", "turn") == ("And <b>=1+1</b>?", 2)
    assert json.loads(tools["tools"])[0]["name"] == "weather"
    assert first["account"] == pseudonym(KEY, "customer-1")
    assert rows[-1]["status"] == 429


@pytest.mark.parametrize("shape", ["otlp", "spans"])
def test_spans_of_the_contrib_instrumentation_are_understood_and_their_missing_prompts_counted(tmp_path, shape):
    result, rows = fixture(tmp_path, f"otel_contrib.{shape}.jsonl", "otel")
    assert (result["kept"], result["skipped"], result["without_prompt"]) == (3, 1, 3)
    assert columns_of(rows[0], "model", "n_samples", "max_tokens") == ("m-large", 3, 64)
    assert rows[0]["network"] == pseudonym(KEY, "203.0.113.0/24")


def test_system_instructions_of_a_span_are_the_system_prompt(tmp_path):
    attributes = {
        "gen_ai.operation.name": "chat",
        "enduser.id": "a",
        "gen_ai.system_instructions": '[{"type":"text","content":"Be brief."}]',
        "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}],
        "gen_ai.usage.reasoning.output_tokens": 7,
    }
    flat = {"start_time": T0, "span_id": "1", "trace_id": "2", **attributes}
    _, rows = run(tmp_path, [flat], "otel")
    assert columns_of(rows[0], "system", "prompt", "reasoning_tokens", "id") == ("Be brief.", "Hi", 7, "2-1")


@pytest.mark.parametrize("name", sorted(path.name for path in LOGS.glob("*.jsonl")))
def test_a_fixture_read_as_another_format_is_refused_and_its_own_format_named(tmp_path, name):
    own = name.split(".")[0].split("_")[0]
    for other in FORMATS.keys() - {own}:
        with pytest.raises(InputError, match=f"it looks like '{own}'"):
            import_log(LOGS / name, tmp_path / "out", other, None, KEY)
        assert not (tmp_path / "out").exists()


# Column maps


def test_a_column_map_follows_dotted_paths_through_json_text(tmp_path):
    row = {"who": {"id": "a"}, "at": T0, "body": json.dumps({"q": "Hi", "list": [{"m": "x"}]}), "dotted.key": 3}
    columns = {"account": "who.id", "time": "at", "prompt": "body.q", "model": "body.list.0.m", "turn": "dotted.key"}
    _, rows = run(tmp_path, [row], "columns", columns)
    assert columns_of(rows[0], "account", "prompt", "model", "turn") == (pseudonym(KEY, "a"), "Hi", "x", 3)


def test_csv_and_parquet_with_our_names_need_no_map(tmp_path):
    text = 'time,account,prompt,temperature\n2026-01-01T00:00:00Z,a,"two\nlines",0.5\n'
    (tmp_path / "log.csv").write_text(text)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    table = pa.table({"time": [moment], "account": ["a"], "prompt": ["two\nlines"], "temperature": [0.5]})
    pq.write_table(table, tmp_path / "log.parquet")
    for name in ("log.csv", "log.parquet"):
        import_log(tmp_path / name, tmp_path / "out", "columns", None, KEY, if_exists="replace")
        (row,) = read(tmp_path / "out")
        assert columns_of(row, "time", "prompt", "temperature") == (moment, "two\nlines", 0.5)


def test_a_csv_row_with_too_many_fields_is_rejected_and_a_short_one_read(tmp_path):
    rows = ["time,account,prompt", f"{T0},a,x,SECRET", f"{T0},a"]
    result, kept = run(tmp_path, rows, "columns", name="log.csv")
    assert result["rejected"] == {"more fields than the header": 1}
    assert kept[0]["prompt"] is None


def test_presets_read_the_tables_of_langfuse_and_helicone(tmp_path):
    langfuse = {
        "span_id": "s1",
        "type": "GENERATION",
        "start_time": "2026-01-01 00:00:00.000",
        "user_id": "a",
        "session_id": "c",
        "provided_model_name": "m",
        "model_parameters": '{"temperature": 0.5, "n": 2}',
        "usage_details": [("input", 7), ("output", 9)],
        "input": '[{"role":"system","content":"S"},{"role":"user","content":"Q"}]',
    }
    types = {"usage_details": pa.map_(pa.string(), pa.int64())}
    arrays = {key: pa.array([value], types.get(key)) for key, value in langfuse.items()}
    pq.write_table(pa.table(arrays), tmp_path / "log.parquet")
    import_log(tmp_path / "log.parquet", tmp_path / "l", "langfuse", None, KEY)
    (row,) = read(tmp_path / "l")
    assert columns_of(row, "id", "system", "prompt", "temperature", "n_samples") == ("s1", "S", "Q", 0.5, 2)
    assert columns_of(row, "prompt_tokens", "response_tokens") == (7, 9)
    helicone = {
        "request_id": "r1",
        "request_created_at": "2026-01-01 00:00:00",
        "user_id": "a",
        "model": "m",
        "latency": 250,
        "status": 200,
        "properties": {"Helicone-Session-Id": "c"},
        "country_code": "XX",
        "request_body": '{"messages":[{"role":"user","content":"Q"}],"top_logprobs":3}',
        "response_body": '{"usage":{"completion_tokens":4}}',
    }
    _, (row,) = run(tmp_path, [helicone], "helicone")
    assert columns_of(row, "prompt", "top_logprobs", "response_tokens", "latency_s") == ("Q", 3, 4, 0.25)
    assert row["conversation"] == pseudonym(KEY, "c")
    _, (row,) = run(tmp_path, [helicone | {"own_id": "b"}], "helicone", {"account": "own_id"})
    assert row["account"] == pseudonym(KEY, "b")


def test_a_span_of_langfuse_that_is_no_generation_is_skipped(tmp_path):
    row = {"span_id": "s", "type": "GENERATION", "start_time": T0, "user_id": "a", "input": "Q"}
    result, rows = run(tmp_path, [row, row | {"span_id": "t", "type": "SPAN"}], "langfuse")
    assert result["skipped"] == 1
    assert [r["prompt"] for r in rows] == ["Q"]


@pytest.mark.parametrize(
    "columns", [{"time": "t"}, {"time": "t", "account": "a", "nope": "x"}, {"time": "", "account": "a"}]
)
def test_a_column_map_that_cannot_work_is_refused(tmp_path, columns):
    with pytest.raises(ConfigError):
        run(tmp_path, [{}], "columns", columns)


# Names


def test_no_raw_identity_is_written_anywhere(tmp_path):
    secrets = {
        "account": "alice@example.org",
        "organisation": "Acme Ltd",
        "ip": "203.0.113.77",
        "session_id": "session-raw",
        "payment": "card-4242",
    }
    good = line(**secrets, signup="2026-01-01", plan="pro")
    bad = [line(**secrets, timestamp="never"), json.dumps(line(**secrets))[:-5], {**secrets, "alice@example.org": 1}]
    run(tmp_path, [good, *bad])
    written = b""
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix == ".parquet":
            written += json.dumps(pq.read_table(file).to_pylist(), default=str).encode()
        written += file.read_bytes() if file.is_file() else b""
    for raw in secrets.values():
        assert raw.encode() not in written
    assert b"never" in written  # what made the row malformed is shown


def test_networks_are_named_by_their_prefix(tmp_path):
    pairs = [
        ("203.0.113.9", "203.0.113.0/24"),
        ("203.0.113.9:443, 10.0.0.1", "203.0.113.0/24"),
        ("::ffff:203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2::9", "2001:db8:1::/48"),
        ("[2001:db8:1:2::9]:443", "2001:db8:1::/48"),
        ("unknown", None),
    ]
    result, rows = run(tmp_path, [line(id=str(i), ip=ip) for i, (ip, _) in enumerate(pairs)])
    assert [r["network"] for r in rows] == [prefix and pseudonym(KEY, prefix) for _, prefix in pairs]
    assert result["blanked"] == {"network": 1}


def test_account_facts_have_a_table_of_their_own(tmp_path):
    run(
        tmp_path,
        [line(account="b"), line(account="a", plan="pro"), line(account="a", signup="2026-01-02", plan="free")],
    )
    table = pq.read_table(tmp_path / "out" / "accounts.parquet")
    assert table.schema.equals(accounts_schema(), check_metadata=True)
    (row,) = table.to_pylist()
    expected = {"organisation": None, "signup": datetime(2026, 1, 2, tzinfo=UTC), "plan": "pro", "payment": None}
    assert row == {"account": pseudonym(KEY, "a"), **expected}


def test_a_log_without_account_facts_has_no_table_of_accounts_nor_of_rejects(tmp_path):
    run(tmp_path, [line()])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["log"]


def test_what_the_client_wrote_names_the_account_only_where_the_operator_did_not(tmp_path):
    with_user = {"user": "claimed"}
    rows = [line(id="1", request=with_user), line(id="2", account=None, request=with_user)]
    _, kept = run(tmp_path, rows)
    assert [row["account"] for row in kept] == [pseudonym(KEY, "alice"), pseudonym(KEY, "claimed")]


# Ids and duplicates


def test_a_replayed_log_is_dropped_and_counted(tmp_path):
    rows = [line(id=str(i), timestamp=T0 + i) for i in range(5)]
    result, kept = run(tmp_path, rows + rows)
    assert (result["duplicates"], len(kept)) == (5, 5)


def test_one_id_used_again_does_not_hide_another_exchange(tmp_path):
    result, kept = run(tmp_path, [line(id="x", timestamp=T0 + i) for i in range(3)])
    assert (result["duplicates"], len(kept)) == (0, 3)


def test_identical_samples_without_ids_stay_rows_of_their_own(tmp_path):
    _, kept = run(tmp_path, [line(), line(), line(prompt="Other")])
    first, second, other = sorted((row["id"] for row in kept), key=lambda i: (i[:4] != kept[0]["id"][:4], i))
    assert first.rpartition("-")[0] == second.rpartition("-")[0]
    assert (first[-2:], second[-2:]) == ("-0", "-1")
    assert other.rpartition("-")[0] != first.rpartition("-")[0]


def test_the_ids_of_a_log_do_not_depend_on_the_run(tmp_path):
    rows = [line(prompt=str(i % 3)) for i in range(9)]
    assert run(tmp_path, rows)[1] == run(tmp_path, rows)[1]


# Time


@pytest.mark.parametrize(
    "value",
    [
        T0,
        T0 * 1.0,
        str(T0),
        T0 * 10**3,
        T0 * 10**6,
        T0 * 10**9,
        str(T0 * 10**9),
        "2026-09-21T14:13:20Z",
        "2026-09-21 14:13:20",
        "2026-09-21T16:13:20+02:00",
        "2026-09-21T14:13:20.000000000Z",
        datetime(2026, 9, 21, 14, 13, 20),
    ],
)
def test_one_moment_is_read_from_all_its_forms(value):
    assert when(value) == T0 * 10**6


@pytest.mark.parametrize(
    "value", [0, -1, True, None, "", "yesterday", "NaN", 1e30, float("inf"), "0001-01-01T00:00:00+14:00", [], {}]
)
def test_what_is_no_time_is_none(value):
    assert when(value) is None


def test_rows_out_of_order_are_counted_and_sorted(tmp_path):
    result, kept = run(tmp_path, [line(id=str(t), timestamp=T0 + t) for t in (5, 1, 9, 2)])
    assert result["late"] == 2
    assert [row["id"] for row in kept] == ["1", "2", "5", "9"]


def test_rows_with_a_skewed_clock_are_kept_and_counted(tmp_path):
    times = [T0 + 60 * i for i in range(300)] + [T0 - 10**8, T0 + 10**8]
    result, kept = run(tmp_path, [line(id=str(t), timestamp=t) for t in times])
    assert (result["skewed"], len(kept)) == (2, 302)
    assert result["first"] == kept[0]["time"].isoformat()
    assert result["last"] == kept[-1]["time"].isoformat()


def test_a_row_without_time_or_account_is_rejected_by_that_reason(tmp_path):
    rows = [line(), line(timestamp=None), line(account=" "), line(timestamp="soon")]
    result, _ = run(tmp_path, rows)
    assert result["rejected"] == {"no time": 1, "no account": 1, "time cannot be read": 1}


# Bad input


def test_malformed_lines_are_set_aside_escaped_and_counted(tmp_path):
    bad = [b"\xff\xfe", b"{", b"[1]", b"3", b"[" * 100_000, b'"\xe2\x80\xae' + b"x" * 9_000]
    result, kept = run(tmp_path, [line(), *bad])
    assert len(kept) == 1
    assert sum(result["rejected"].values()) == len(bad)
    lines = (tmp_path / "out" / "rejected.jsonl").read_bytes().splitlines()
    assert len(lines) == len(bad)
    for text in lines:
        assert text.isascii()
        assert len(json.loads(text)["excerpt"]) <= MAX_EXCERPT_BYTES


def test_only_the_first_thousand_rejected_rows_are_kept_aside(tmp_path):
    result, _ = run(tmp_path, [line(), *[b"x"] * (MAX_EXCERPTS + 5)])
    assert result["rejected"] == {"not JSON": MAX_EXCERPTS + 5}
    assert len((tmp_path / "out" / "rejected.jsonl").read_bytes().splitlines()) == MAX_EXCERPTS


@pytest.mark.parametrize(
    "prompt",
    [
        "x" * (1 << 20),
        "\0\1\x7f" * 99,
        "\u202eabc\u202c",
        "a\u200bb\ufeff",
        "=1+1",
        "<script>alert(1)</script>",
        "שלום",
    ],
)
def test_any_text_of_a_prompt_arrives_as_it_is(tmp_path, prompt):
    _, kept = run(tmp_path, [line(prompt=prompt)])
    assert kept[0]["prompt"] == prompt


def test_half_a_surrogate_pair_in_a_prompt_becomes_the_replacement_character(tmp_path):
    _, kept = run(tmp_path, [line(prompt="a\ud800b")])
    assert kept[0]["prompt"] == "a\ufffdb"


def test_a_parameter_that_does_not_fit_is_blank_and_the_row_is_kept(tmp_path):
    request = {"max_tokens": "many", "temperature": 1e300, "n": -1, "top_p": float("nan"), "top_logprobs": 10**400}
    result, kept = run(tmp_path, [line(request=request)])
    assert result["blanked"] == {"max_tokens": 1, "temperature": 1, "n_samples": 1, "top_p": 1, "top_logprobs": 1}
    assert kept[0]["prompt"] == "What is a monad?"


def test_an_empty_log_is_refused(tmp_path):
    with pytest.raises(InputError, match="the log is empty"):
        run(tmp_path, [])
    assert not (tmp_path / "out").exists()


def test_a_log_of_no_known_format_is_refused_with_its_keys(tmp_path):
    with pytest.raises(InputError, match="'colour', 'taste'"):
        run(tmp_path, [{"colour": "red", "taste": 1}] * 3)


def test_a_log_of_another_schema_is_refused_before_it_is_read_to_the_end(tmp_path):
    with pytest.raises(InputError, match="10000 rows read"):
        run(tmp_path, [{"colour": "red"}] * 10_001)


def test_damaged_compressed_data_is_counted_and_what_came_before_it_kept(tmp_path):
    data = gzip.compress(b"".join(json.dumps(line(id=str(i))).encode() + b"\n" for i in range(2_000)))
    (tmp_path / "log.jsonl.gz").write_bytes(data[: len(data) // 2])
    result = import_log(tmp_path / "log.jsonl.gz", tmp_path / "out", "openai", None, KEY)
    assert result["rejected"].get("compressed data damaged") == 1
    assert result["kept"] > 0
    assert adds_up(result)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    with pytest.raises(InputError, match="Parquet file damaged"):
        run(tmp_path, [b"PAR1 not really"], name="log.parquet")


def test_a_json_array_and_a_folder_of_files_are_read(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps([line(id="1"), line(id="2")], indent=1))
    (folder / "b.jsonl").write_text(json.dumps(line(id="3")))
    import_log(folder, tmp_path / "out", "openai", None, KEY)
    assert sorted(row["id"] for row in read(tmp_path / "out")) == ["1", "2", "3"]


def test_a_log_that_is_there_is_kept_unless_it_is_to_be_replaced(tmp_path):
    run(tmp_path, [line(plan="pro"), b"{"])
    with pytest.raises(OutputExistsError):
        import_log(tmp_path / "source.jsonl", tmp_path / "out", "openai", None, KEY)
    with pytest.raises(InputError):
        run(tmp_path, [b"nothing"])
    assert len(read(tmp_path / "out")) == 1
    run(tmp_path, [line(prompt="new")])
    assert [row["prompt"] for row in read(tmp_path / "out")] == ["new"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["log"]


@pytest.mark.parametrize(
    ("format", "columns", "if_exists"),
    [("nope", None, "fail"), ("otel", {"time": "t"}, "fail"), ("otel", None, "maybe")],
)
def test_an_unknown_wish_is_refused(tmp_path, format, columns, if_exists):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ConfigError):
        import_log(tmp_path / "a.jsonl", tmp_path / "out", format, columns, KEY, if_exists=if_exists)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(T0),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        *(
            "request",
            "response",
            "messages",
            "input",
            "role",
            "content",
            "type",
            "usage",
            "choices",
            "message",
            "tools",
        ),
        *("timestamp", "account", "body", "n", "logprobs", "ip", "status", "id", "output", "startTime", "call_type"),
        *("metadata", "model_parameters", "proxy_server_request", "error_information", "user", "attributes", "key"),
        *("value", "stringValue", "resourceSpans", "scopeSpans", "spans", "resource", "gen_ai.operation.name"),
        *("gen_ai.prompt.0.content", "gen_ai.input.messages", "gen_ai.request.model", "enduser.id", "start_time"),
        *(
            "context",
            "span_id",
            "start_time",
            "user_id",
            "request_body",
            "usage_details",
            "time",
            "prompt",
            "conversation",
        ),
    ]
)
LIKE_A_LOG = st.recursive(
    JSON | st.sampled_from(["user", "system", "text", "chat", "acompletion", "[{", "[]", '{"a":1}', "2026-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=30,
)
LINES = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")) | LIKE_A_LOG.map(lambda v: json.dumps(v).encode())
GOOD = {
    "openai": line(),
    "litellm": {"startTime": T0, "call_type": "completion", "user": "a"},
    "otel": {"start_time": T0, "gen_ai.operation.name": "chat", "enduser.id": "a"},
    "langfuse": {"start_time": T0, "user_id": "a"},
    "helicone": {"request_created_at": T0, "user_id": "a"},
    "columns": {"time": T0, "account": "a"},
}


@pytest.mark.parametrize("format", list(FORMATS))
@given(lines=st.lists(LINES, max_size=6))
def test_no_line_stops_an_import_and_every_line_is_counted(format, lines):
    with tempfile.TemporaryDirectory() as folder:
        result, rows = run(Path(folder), [*lines, GOOD[format]], format)
        written = log_files(Path(folder) / "out")
        assert pq.read_schema(written[0]).equals(log_schema(), check_metadata=True)
    assert len(rows) == result["kept"] >= 1
    for row in rows:
        assert row["id"] and row["time"] and len(row["account"]) == 32


@pytest.mark.parametrize("format", list(FORMATS))
@given(record=st.dictionaries(KEYS, LIKE_A_LOG, max_size=10))
def test_any_record_under_the_keys_of_a_format_is_taken_or_refused(format, record):
    with tempfile.TemporaryDirectory() as folder:
        result, rows = run(Path(folder), [record, GOOD[format]], format)
    assert len(rows) == result["kept"] >= 1


@given(data=st.binary(max_size=300))
def test_any_bytes_as_csv_are_counted(data):
    with tempfile.TemporaryDirectory() as folder:
        result, rows = run(Path(folder), [f"time,account,prompt\n{T0},a,x", data], "columns", name="log.csv")
    assert len(rows) == result["kept"] <= result["read"] >= 1
