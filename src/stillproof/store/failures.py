"""The record of calls that gave no answer worth keeping. Not data: nothing trains on it, resume asks again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillproof.exchange import Exchange
from stillproof.store.disk import refusing, replace_file
from stillproof.store.pseudonym import is_pseudonym

_NAME = "failures.jsonl"


def record(folder: Path, exchange: Exchange, reason: str) -> None:
    """Append one line: why, and what was asked. An account that is no pseudonym is left out."""
    row = {
        "reason": reason,
        "status": exchange.status,
        "request_key": exchange.request_key,
        "id": exchange.id,
        "time": exchange.time.isoformat() if exchange.time else None,
        "account": exchange.account if exchange.account and is_pseudonym(exchange.account) else None,
        "messages": [asdict(message) for message in exchange.messages],
        "response": exchange.response,
    }
    # ASCII, since what could not be stored may be the very text: a lone surrogate has an escape, but no UTF-8.
    line = json.dumps(row, ensure_ascii=True, default=repr) + "\n"
    path = folder / _NAME
    with refusing(path), path.open("ab") as file:
        if file.tell() and not _ends_with_newline(path):
            file.write(b"\n")
        file.write(line.encode())


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """What was recorded, in order, without a line that a crash cut."""
    path = folder / _NAME
    if not path.exists():
        return
    with path.open("rb") as file:
        for raw in file:
            row = _row(raw)
            if row is not None:
                yield row


def forget(folder: Path, accounts: set[str]) -> None:
    """Erase what was recorded for some accounts, and every line that cannot be read."""
    path = folder / _NAME
    if not path.exists():
        return
    with path.open("rb") as file:
        lines = list(file)
    kept = [raw for raw in lines if (row := _row(raw)) is not None and row.get("account") not in accounts]
    if len(kept) < len(lines):
        replace_file(path, lambda file: file.writelines(kept))


def _row(raw: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(raw)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
