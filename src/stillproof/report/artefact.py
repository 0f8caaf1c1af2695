"""An artefact of ours as a mapping: what `stillproof show` shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stillproof.errors import InputError
from stillproof.finding import Finding


def read(path: Path) -> dict[str, Any]:
    """A JSON file; a run folder (its result.json); a store (counts); a model folder (its stillproof.json).

    Raises InputError where it is none of them or no JSON object, and what Finding.from_json raises for a finding.
    """
    path = Path(path)
    if path.is_file():
        return _json_object(path)
    if not path.is_dir():
        raise InputError("no such file or folder", str(path), "give a JSON file, run, store or model folder")
    if (path / "store.json").is_file():
        return _store_summary(path)
    for name in ("result.json", "stillproof.json"):
        if (path / name).is_file():
            return _json_object(path / name)
    raise InputError(
        "not a folder of ours: it has no result.json (run), store.json (store) or stillproof.json (model)",
        str(path),
        "give the folder that --out named, or one inside it",
    )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", str(path), "give a JSON file that stillproof wrote") from error
    if not isinstance(value, dict):
        raise InputError(
            f"a JSON {type(value).__name__}, not an object", str(path), "give a file that stillproof wrote"
        )
    if str(value.get("schema", "")).startswith("finding/"):
        return Finding.from_json(value).to_json()
    return value


def _store_summary(path: Path) -> dict[str, Any]:
    """Counts by model and status, and the time span; no text of any exchange."""
    from stillproof.store import Store

    store = Store.open(path)
    table = store.table(["model", "status", "time"])
    groups = table.group_by(["model", "status"]).aggregate([([], "count_all"), ("time", "min"), ("time", "max")])
    rows = [_group(row) for row in groups.to_pylist()]
    firsts = [row["first"] for row in rows if row["first"] is not None]
    lasts = [row["last"] for row in rows if row["last"] is not None]
    return {
        "store": str(path),
        "exchanges": table.num_rows,
        "digest": store.digest,
        "first": min(firsts, default=None),
        "last": max(lasts, default=None),
        "models": sorted(rows, key=_largest_first),
    }


def _group(row: dict[str, Any]) -> dict[str, Any]:
    first, last = row["time_min"], row["time_max"]
    return {
        "model": row["model"],
        "status": row["status"],
        "exchanges": row["count_all"],
        "first": first.isoformat(timespec="seconds") if first is not None else None,
        "last": last.isoformat(timespec="seconds") if last is not None else None,
    }


def _largest_first(row: dict[str, Any]) -> tuple[int, str, str]:
    return (-row["exchanges"], str(row["model"]), str(row["status"]))
