"""The shapes of an exchange are one: object, JSON text and Arrow hold the same, and refuse the same."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillproof.errors import InputError, SchemaError
from stillproof.exchange import (
    Exchange,
    Message,
    Provenance,
    ResponseTokens,
    Sampling,
    check,
    check_header,
    content_hash,
    document,
    from_line,
    from_table,
    header,
    request_key,
    to_json,
    to_line,
    to_table,
    with_ids,
)

settings.register_profile("codec", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
codec = settings(settings.get_profile("codec"))

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
some_text = st.none() | texts
int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
logprobs = st.floats(max_value=0, allow_nan=False)


@st.composite
def response_tokens(draw: st.DrawFn) -> ResponseTokens:
    n = draw(st.integers(0, 3))

    def column(values: st.SearchStrategy) -> tuple | None:  # type: ignore[type-arg]
        return draw(st.none() | st.tuples(*[values] * n))

    def row(values: st.SearchStrategy) -> st.SearchStrategy:  # type: ignore[type-arg]
        return st.lists(values, max_size=3).map(tuple)

    return ResponseTokens(
        ids=column(int64),
        pieces=column(st.binary(max_size=4)),
        logprobs=column(logprobs),
        top_ids=column(row(int64)),
        top_pieces=column(row(st.binary(max_size=4))),
        top_logprobs=column(row(logprobs)),
        tokenizer=draw(some_text),
    )


messages = st.builds(
    Message, role=texts, content=some_text, name=some_text, tool_calls=some_text, tool_call_id=some_text
)
samplings = st.builds(
    Sampling,
    temperature=st.none() | finite,
    top_p=st.none() | finite,
    top_k=st.none() | int64,
    max_tokens=st.none() | int64,
    top_logprobs=st.none() | int64,
    seed=st.none() | int64,
    stop=st.none() | st.lists(texts, max_size=2).map(tuple),
)
times = st.datetimes(
    datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])
)
exchanges = st.builds(
    Exchange,
    id=texts,
    messages=st.lists(messages, max_size=3).map(tuple),
    response=some_text,
    reasoning=some_text,
    tools=some_text,
    tokens=st.none() | response_tokens(),
    model=some_text,
    time=st.none() | times,
    sampling=st.none() | samplings,
    finish_reason=some_text,
    status=st.none() | st.integers(-(2**31), 2**31 - 1),
    prompt_tokens=st.none() | int64,
    response_tokens=st.none() | int64,
    latency_s=st.none() | finite,
    account=some_text,
    organisation=some_text,
    network=some_text,
    client=some_text,
    conversation=some_text,
    request_key=some_text,
    provenance=st.none()
    | st.builds(Provenance, source=texts, detail=some_text, teacher=some_text, terms=some_text, grant=some_text),
)


def exchange(**values: object) -> Exchange:
    row: dict[str, object] = {"id": "x1", "messages": (Message("user", "hi"),), "response": "ho"}
    return Exchange(**(row | values))  # type: ignore[arg-type]


@codec
@given(st.lists(exchanges, max_size=3))
def test_an_arrow_table_gives_back_every_field_of_every_exchange(items: list[Exchange]) -> None:
    assert list(from_table(to_table(items))) == items


@codec
@given(st.lists(exchanges, max_size=2))
def test_a_parquet_file_gives_back_every_field_of_every_exchange(items: list[Exchange]) -> None:
    file = io.BytesIO()
    pq.write_table(to_table(items), file, compression="zstd")
    file.seek(0)
    assert list(from_table(pq.read_table(file))) == items


@codec
@given(exchanges)
def test_a_line_of_json_gives_back_every_field_and_stays_one_line_of_utf8(item: Exchange) -> None:
    line = to_line(item)
    assert "\n" not in line
    assert from_line(line.encode().decode()) == item
    assert to_line(from_line(line)) == line


@codec
@given(exchanges)
def test_hashes_are_the_same_before_and_after_a_file(item: Exchange) -> None:
    (arrow,) = from_table(to_table([item]))
    assert content_hash(arrow) == content_hash(from_line(to_line(item))) == content_hash(item)
    if item.sampling is not None and arrow.sampling is not None:
        assert request_key("m", arrow.messages, arrow.sampling, 0) == request_key("m", item.messages, item.sampling, 0)


def test_every_field_is_in_the_arrow_schema_and_in_the_json_object() -> None:
    names = [field.name for field in fields(Exchange)]
    assert to_table([]).schema.names == names
    full = exchange(**{name: "t" for name in names if name not in ("id", "messages", "response")} | {
        "tokens": ResponseTokens(ids=()), "time": datetime(2025, 1, 1, tzinfo=UTC), "sampling": Sampling(),
        "status": 200, "prompt_tokens": 1, "response_tokens": 1, "latency_s": 0.5, "provenance": Provenance("serve"),
    })  # fmt: skip
    assert set(to_json(full)) == set(names)


def test_absent_and_empty_stay_two_things_in_every_shape() -> None:
    absent = exchange(response=None)
    empty = exchange(
        response="", sampling=Sampling(stop=()), tokens=ResponseTokens(ids=(), top_ids=()), messages=(), model=""
    )
    for shape in (lambda e: from_line(to_line(e)), lambda e: next(from_table(to_table([e])))):
        assert shape(absent) == absent != empty == shape(empty)
        assert json.loads(to_line(shape(empty)))["sampling"] == {"stop": []}
        assert json.loads(to_line(shape(empty)))["tokens"] == {"ids": [], "top_ids": []}


def test_bytes_that_are_no_utf8_survive_in_pieces() -> None:
    item = exchange(tokens=ResponseTokens(pieces=(b"\xf0\x9f", b"\x98\x80", b"\xff\x00")))
    assert from_line(to_line(item)) == item == next(from_table(to_table([item])))


def test_minus_infinity_is_a_log_probability_and_is_text_in_json() -> None:
    item = exchange(tokens=ResponseTokens(logprobs=(-math.inf, -0.5), top_logprobs=((-0.5, -math.inf), ())))
    assert to_json(item)["tokens"]["logprobs"] == ["-inf", -0.5]
    assert json.loads(to_line(item))["tokens"]["top_logprobs"] == [[-0.5, "-inf"], []]
    assert from_line(to_line(item)) == item == next(from_table(to_table([item])))


TOKEN_FAULTS = [
    (ResponseTokens(logprobs=(math.nan,)), "tokens.logprobs holds NaN"),
    (ResponseTokens(logprobs=(-math.inf, math.inf)), "tokens.logprobs holds NaN or"),
    (ResponseTokens(top_logprobs=((-1.0, math.nan),)), "tokens.top_logprobs holds NaN"),
    (ResponseTokens(ids=(2**63,)), "tokens.ids holds a number that does not fit"),
    (ResponseTokens(ids=(1, 2), logprobs=(-1.0,)), "columns of different lengths: .1, 2."),
    (ResponseTokens(ids=(1,), top_ids=((1,), (2,))), "columns of different lengths"),
    (ResponseTokens(pieces=("text",)), "tokens.pieces holds something else than bytes"),  # type: ignore[arg-type]
    (ResponseTokens(ids=[1]), "tokens.ids is a list"),  # type: ignore[arg-type]
]
FAULTS: list[tuple[dict[str, object], str]] = [
    ({"response": "a\ud83db"}, r"response has a lone surrogate \('.ud83d'\) at character 1"),
    ({"messages": (Message("user", "\udc80"),)}, "messages.content has a lone surrogate"),
    ({"messages": (Message(None, "a"),)}, "messages.role is NoneType"),  # type: ignore[arg-type]
    ({"messages": None}, "messages is None"),
    ({"sampling": Sampling(temperature=math.nan)}, "sampling.temperature is nan"),
    ({"sampling": Sampling(seed=2**64)}, "sampling.seed does not fit 64 bits"),
    ({"sampling": Sampling(stop=(None,))}, "sampling.stop holds None"),  # type: ignore[arg-type]
    ({"latency_s": math.inf}, "latency_s is inf"),
    ({"status": 2**31}, "status does not fit 32 bits"),
    ({"status": True}, "status is bool"),
    ({"response": 5}, "response is int, not text"),
    *(({"tokens": tokens}, message) for tokens, message in TOKEN_FAULTS),
]


@pytest.mark.parametrize(("values", "message"), FAULTS)
def test_what_some_shape_cannot_hold_is_refused_at_every_door_with_the_exchange_named(
    values: dict[str, object], message: str
) -> None:
    item = exchange(**values)
    for door in (check, to_line, lambda e: to_table([exchange(), e])):
        with pytest.raises(InputError, match=message) as caught:
            door(item)
        assert caught.value.which == "x1"


def test_the_error_for_a_bad_id_can_itself_be_printed() -> None:
    with pytest.raises(InputError) as caught:
        check(exchange(id="\ud800"))
    assert str(caught.value).encode()


LINES = [
    ('{"id":"a"}', "KeyError: 'messages'"),
    ('{"id":"a","messages":[],"extra":1}', "unknown field 'extra'"),
    ('{"id":"a","messages":[{"role":"user","content":7}]}', "messages.content is int"),
    ('{"id":"a","messages":[{"role":"user","content":"x","extra":1}]}', "extra"),
    ('{"id":"a","messages":[],"time":"2025-01-01T00:00:00"}', "time has no timezone"),
    ('{"id":"a","messages":[],"response":"\\ud800"}', "lone surrogate"),
    ('{"id":"a","messages":[],"latency_s":NaN}', "NaN is not JSON"),
    ('{"id":"a","messages":[],"tokens":{"logprobs":["-Infinity"]}}', "something else than numbers"),
    ('{"id":"a","messages":[],"tokens":{"pieces":["%%%"]}}', "not an exchange"),
    ('{"id":"a","messages":"hi"}', "not an exchange"),
    ("[1]", "not an exchange but a JSON list"),
    ('{"id":"a"', "not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), LINES)
def test_a_line_that_is_no_exchange_is_refused_with_its_reason(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_line(line)


@given(st.lists(st.sampled_from("abc"), max_size=8), st.randoms())
@codec
def test_k_identical_samples_stay_k_and_unrelated_records_do_not_change_their_ids(
    letters: list[str], random: object
) -> None:
    items = [exchange(id="", response=letter) for letter in letters]
    named = list(with_ids(items))
    assert len({item.id for item in named}) == len(items)
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Counter(item.id for item in with_ids(shuffled)) == Counter(item.id for item in named)


def test_with_ids_goes_on_over_batches_and_keeps_ids_that_are_there() -> None:
    seen: Counter[str] = Counter()
    first = [item.id for item in with_ids([exchange(id="")], seen)]
    second = [item.id for item in with_ids([exchange(id=""), exchange(id="api-7")], seen)]
    assert first[0].endswith("-0")
    assert second == [first[0][:-1] + "1", "api-7"]


def test_content_is_what_was_asked_and_answered_not_when_or_by_whom() -> None:
    item = exchange()
    same = replace(item, id="x2", time=datetime(2025, 1, 1, tzinfo=UTC), account="0" * 32)
    assert content_hash(same) == content_hash(item)
    assert content_hash(replace(item, response="hm")) != content_hash(item)


def test_one_temperature_is_one_request_key_however_it_was_written() -> None:
    keys = {request_key("m", (), Sampling(temperature=value), 0) for value in (0, 0.0, -0.0)}
    assert len(keys) == 1
    assert request_key("m", (), Sampling(temperature=1), 0) == request_key("m", (), Sampling(temperature=1.0), 0)
    assert request_key("m", (), Sampling(), 0) != request_key("m", (), Sampling(), 1)


def test_time_is_kept_in_utc() -> None:
    item = exchange(time=datetime(2025, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert item.time is not None
    assert (item.time.hour, item.time.tzinfo) == (0, UTC)
    with pytest.raises(InputError, match="years 1 to 9999"):
        exchange(time=datetime.min.replace(tzinfo=timezone(timedelta(hours=1))))
    with pytest.raises(InputError, match="no timezone"):
        exchange(time=datetime(2025, 1, 1))


@pytest.mark.parametrize("metadata", [None, {"stillproof.exchange": "2"}])
def test_a_table_of_unknown_schema_version_is_refused(metadata: dict[str, str] | None) -> None:
    table: pa.Table = to_table([exchange()]).replace_schema_metadata(metadata)
    with pytest.raises(SchemaError, match=r"schema version (2|none)"):
        list(from_table(table))


def test_a_header_names_the_schema_version_and_another_is_refused() -> None:
    assert check_header(json.loads(header()), "f.jsonl")
    assert not check_header(to_json(exchange()), "f.jsonl")
    with pytest.raises(SchemaError, match=r"version 2.*f\.jsonl"):
        check_header({"stillproof.exchange": 2}, "f.jsonl")


def test_a_document_has_no_messages_and_no_model() -> None:
    item = document("text", "corpus.txt")
    assert (item.messages, item.model, item.response, item.id) == ((), None, "text", "")
