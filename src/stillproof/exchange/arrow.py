"""The Arrow shape of an exchange: one row each, one column a field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from stillproof.errors import SchemaError
from stillproof.exchange.check import check
from stillproof.exchange.record import SCHEMA_VERSION, Exchange, Message, Provenance, ResponseTokens
from stillproof.exchange.text import sampling_of, shallow

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_schema() -> pa.Schema:
    """The Arrow schema of `to_table`, with the schema version in its metadata."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    message = pa.struct(
        [("role", text), ("content", text), ("name", text), ("tool_calls", text), ("tool_call_id", text)]
    )
    tokens = pa.struct(
        [
            ("ids", pa.list_(whole)),
            ("pieces", pa.list_(pa.binary())),
            ("logprobs", pa.list_(real)),
            ("top_ids", pa.list_(pa.list_(whole))),
            ("top_pieces", pa.list_(pa.list_(pa.binary()))),
            ("top_logprobs", pa.list_(pa.list_(real))),
            ("tokenizer", text),
        ]
    )
    sampling = pa.struct(
        [
            ("temperature", real),
            ("top_p", real),
            ("top_k", whole),
            ("max_tokens", whole),
            ("top_logprobs", whole),
            ("seed", whole),
            ("stop", pa.list_(text)),
        ]
    )
    provenance = pa.struct([("source", text), ("detail", text), ("teacher", text), ("terms", text), ("grant", text)])
    columns: dict[str, pa.DataType] = {field.name: text for field in fields(Exchange)}
    columns |= {
        "messages": pa.list_(message),
        "tokens": tokens,
        "time": pa.timestamp("us", tz="UTC"),
        "sampling": sampling,
        "status": pa.int32(),
        "prompt_tokens": whole,
        "response_tokens": whole,
        "latency_s": real,
        "provenance": provenance,
    }
    metadata = {"stillproof.exchange": str(SCHEMA_VERSION)}
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()], metadata=metadata)


def to_table(exchanges: Iterable[Exchange]) -> pa.Table:
    """The Arrow table of some exchanges, in order. Raises InputError where `check` refuses one."""
    import pyarrow as pa

    return pa.Table.from_pylist([_row(exchange) for exchange in exchanges], schema=arrow_schema())


def from_table(table: pa.Table) -> Iterator[Exchange]:
    """The exchanges of a table that `to_table` made. Raises SchemaError for another schema version."""
    check_schema_version(table.schema)
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield _from_row(row)


def check_schema_version(schema: pa.Schema) -> None:
    """Refuse a table whose exchange schema this version does not know."""
    found = (schema.metadata or {}).get(b"stillproof.exchange", b"none").decode()
    if found != str(SCHEMA_VERSION):
        raise SchemaError(
            f"exchange schema version {found}, this version reads {SCHEMA_VERSION}",
            remedy="read it with the stillproof version that wrote it, or import it with a column map",
        )


def _row(exchange: Exchange) -> dict[str, Any]:
    check(exchange)
    row = shallow(exchange)
    row["messages"] = [shallow(message) for message in exchange.messages]
    for name in ("tokens", "sampling", "provenance"):
        if row[name] is not None:
            row[name] = shallow(row[name])
    return row


def _from_row(row: dict[str, Any]) -> Exchange:
    row["messages"] = tuple(Message(**message) for message in row["messages"])
    if row["sampling"] is not None:
        row["sampling"] = sampling_of(row["sampling"])
    if row["provenance"] is not None:
        row["provenance"] = Provenance(**row["provenance"])
    if row["tokens"] is not None:
        row["tokens"] = _tokens_from_row(row["tokens"])
    return Exchange(**row)


def _tokens_from_row(row: dict[str, Any]) -> ResponseTokens:
    for name in ("ids", "pieces", "logprobs"):
        if row[name] is not None:
            row[name] = tuple(row[name])
    for name in ("top_ids", "top_pieces", "top_logprobs"):
        if row[name] is not None:
            row[name] = tuple(tuple(inner) for inner in row[name])
    return ResponseTokens(**row)
