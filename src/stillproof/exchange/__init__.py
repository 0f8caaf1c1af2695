"""Exchange: one prompt and the response a model gave to it. The record that flows through every verb.

    record.py   the records, and what is hashed of them
    check.py    what an exchange may hold, so that every shape can hold it
    text.py     the JSON shape: an object, or a line of text
    arrow.py    the Arrow shape: a table with the same columns for millions

`tests/test_exchange.py` pins the shapes together by round-trip properties.

Rules:
- Absent data is `None`; an empty tuple means "present, and empty".
- An exchange is immutable. `id` is the source's own request id, else the content hash and an occurrence index,
  so that k identical samples stay k records, with the same ids on every machine.
- Coins (which twin was served, which card, which key) are never here: they live in the ledger of `serve.py`.
- A text that no model gave (a gold answer, a document) is an exchange whose `model` is None; a plain document has
  no messages.
- Text is Unicode text: a lone surrogate is refused by `check`, at every door (`to_json`, `to_table`, `from_json`),
  for neither UTF-8 nor Arrow can hold it. Bytes that are no text live in `tokens.pieces`.
- A log-probability may be -inf (JSON text holds it as "-inf"), never NaN or +inf; every other float is finite.
"""

from stillproof.exchange.arrow import arrow_schema, check_schema_version, from_table, to_table
from stillproof.exchange.check import check
from stillproof.exchange.record import (
    SCHEMA_VERSION,
    Exchange,
    Message,
    Provenance,
    ResponseTokens,
    Sampling,
    canonical_json,
    content_hash,
    document,
    request_key,
    sha256_of,
    with_ids,
)
from stillproof.exchange.text import check_header, from_json, from_line, header, to_json, to_line

__all__ = [
    "SCHEMA_VERSION",
    "Exchange",
    "Message",
    "Provenance",
    "ResponseTokens",
    "Sampling",
    "arrow_schema",
    "canonical_json",
    "check",
    "check_header",
    "check_schema_version",
    "content_hash",
    "document",
    "from_json",
    "from_line",
    "from_table",
    "header",
    "request_key",
    "sha256_of",
    "to_json",
    "to_line",
    "to_table",
    "with_ids",
]
