"""The log that guard reads: exchanges as flat columns, one row each, in Parquet files that one folder holds.

    FOLDER/log/*.parquet       one row an exchange, `log_schema`; rows of one file roughly in time order
    FOLDER/accounts.parquet    what the operator knows of each account, `accounts_schema`; may be absent

The columns are those of an Exchange with its last user message and system prompt taken out of `messages`, and with
request parameters that only a server sees. Millions of rows pass here, so no object is made of each.
Accounts, organisations, networks and payments are pseudonyms. Absent data is null.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stillproof.errors import InputError, SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

LOG_VERSION = 1


def log_schema() -> pa.Schema:
    """One row an exchange. `id`, `time` and `account` are never null; `prompt` is null where only sketches are kept."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int32(), pa.float32()
    columns = {
        "id": text,
        "time": pa.timestamp("us", tz="UTC"),
        "account": text,  # pseudonym, 32 hex digits
        "organisation": text,  # pseudonym of the declared customer that the account belongs to
        "conversation": text,
        "turn": whole,  # 1 for the opening request of a conversation
        "model": text,
        "system": text,
        "prompt": text,  # last user message
        "tools": text,  # canonical JSON of the tool definitions
        "temperature": real,
        "top_p": real,
        "max_tokens": whole,
        "n_samples": whole,  # answers asked for in one request (`n`)
        "top_logprobs": whole,
        "prompt_tokens": whole,
        "response_tokens": whole,
        "reasoning_tokens": whole,
        "status": whole,  # HTTP status
        "latency_s": real,
        "network": text,  # pseudonym of the client's address prefix
        "client": text,  # user agent or SDK name
        "blob": text,  # digest of an encrypted reasoning block that the client sent back
        "blob_issued": text,  # digest of the encrypted reasoning block that the response carried
    }
    return pa.schema(list(columns.items()), metadata={"stillproof.log": str(LOG_VERSION)})


def accounts_schema() -> pa.Schema:
    """One row an account."""
    import pyarrow as pa

    return pa.schema(
        [
            ("account", pa.string()),
            ("organisation", pa.string()),
            ("signup", pa.timestamp("us", tz="UTC")),
            ("plan", pa.string()),  # 'free', 'pro', 'team', 'enterprise', or the operator's own names
            ("payment", pa.string()),  # pseudonym of the payment instrument
        ],
        metadata={"stillproof.accounts": str(LOG_VERSION)},
    )


def has_log(folder: Path) -> bool:
    """True where the folder holds any file of a log."""
    return any((folder / "log").glob("*.parquet"))


def log_files(folder: Path) -> list[Path]:
    """The Parquet files of a log, by name. Raises InputError where there is none, SchemaError for another schema."""
    import pyarrow.parquet as pq

    files = sorted((folder / "log").glob("*.parquet"))
    if not files:
        remedy = "make one with `stillproof guard import` or `stillproof guard compose`"
        raise InputError("no log here: log/*.parquet is absent", str(folder), remedy)
    for file in files:
        check_log(pq.read_schema(file), file)
    return files


def check_log(schema: pa.Schema, file: Path) -> None:
    """Refuse a file that is not a log of this version."""
    found = (schema.metadata or {}).get(b"stillproof.log", b"none").decode()
    if found != str(LOG_VERSION):
        raise SchemaError(
            f"{file} has log schema version {found}, this version reads {LOG_VERSION}",
            remedy="import it with `stillproof guard import`",
        )
    missing = [name for name in log_schema().names if name not in schema.names]
    if missing:
        raise SchemaError(f"{file} lacks the column {missing[0]!r}", remedy="import it with `stillproof guard import`")
