"""Foreign logs into ours: the only door by which an operator's traffic comes in.

    __init__.py      `import_log`, and the formats by name
    source.py        records of JSONL, JSON, CSV and Parquet files
    openai_log.py    request and response bodies, as a proxy writes them
    litellm_log.py   LiteLLM's spend logs and logging payloads
    otel_log.py      OpenTelemetry GenAI spans
    column_map.py    any other log, by a column map; presets for Langfuse and Helicone
    chat.py          what a chat request asks: system, prompt, turn, tools
    fields.py        values of any type made values of ours, or nothing
    seal.py          pseudonyms, ids, duplicates
    writer.py        Parquet parts, accounts, rejected rows

Every row is kept, or counted as rejected (malformed), as skipped (no model call) or as a duplicate.
Time is the event's, never the clock's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stillproof.errors import ConfigError, InputError
from stillproof.guard.importers import litellm_log, openai_log, otel_log
from stillproof.guard.importers.column_map import ONLY, PRESETS, check_columns, mapped, own_row
from stillproof.guard.importers.fields import Malformed, NotACall, Record
from stillproof.guard.importers.seal import Sealer
from stillproof.guard.importers.source import Bad, records, source_files
from stillproof.guard.importers.writer import LogWriter
from stillproof.progress import Event, OnEvent, ignore

__all__ = ["FORMATS", "PRESETS", "import_log"]

_UNKNOWN_AFTER = 10_000
"""So many rows without one that the format recognises, and the import stops."""
_SAMPLE = 100
_EVENT_EVERY = 10_000


def _alone(record: dict[str, Any]) -> Iterable[dict[str, Any]]:
    return (record,)


@dataclass(frozen=True, slots=True)
class Format:
    """How records of one kind are read. `row` raises Malformed or NotACall."""

    row: Callable[[Record], dict[str, Any]]
    telltales: frozenset[str]
    """Top-level keys by which a log of this format is known."""
    split: Callable[[dict[str, Any]], Iterable[dict[str, Any]]] = _alone
    """The records that one line holds."""


def _preset(name: str) -> Format:
    columns = PRESETS[name]
    keys = frozenset(path.split(".")[0] for theirs in columns.values() for path in theirs.split("|"))
    return Format(mapped(columns, ONLY.get(name)), keys - {"model", "status"})


FORMATS: dict[str, Format] = {
    "openai": Format(openai_log.openai_row, openai_log.TELLTALES),
    "litellm": Format(litellm_log.litellm_row, litellm_log.TELLTALES),
    "otel": Format(otel_log.otel_row, otel_log.TELLTALES, otel_log.spans),
    "langfuse": _preset("langfuse"),
    "helicone": _preset("helicone"),
    "columns": Format(own_row, frozenset(("time", "account", "prompt"))),
}


def import_log(
    source: Path,
    out: Path,
    format: str,
    columns: dict[str, str] | None,
    key: bytes,
    on_event: OnEvent = ignore,
    if_exists: str = "fail",
) -> dict[str, Any]:
    """Write `source` (a file or folder) as a log: `out/log/part-*.parquet`, `out/accounts.parquet` where the source
    holds facts of accounts, `out/rejected.jsonl` where rows were malformed (masked excerpts of the first 1,000).

    `format` is a name of FORMATS; `columns` maps our columns to theirs for 'columns', and amends the map of a preset.
    `key` makes the pseudonyms of accounts, organisations, conversations, payments and networks (/24, /48); the same key
    gives the same names in every import. Of raw values only texts (system, prompt, tools), model, client and request id
    are written.

    Returns {read, kept, rejected: {reason: n}, skipped, duplicates, files, first, last, skewed, late, without_prompt,
    blanked: {column: n}, accounts}; read = kept + rejected + skipped + duplicates. `skipped` rows are no model calls;
    `skewed` ones lie further outside the log's span than it is long and are kept; `late` ones stand below a later row;
    `blanked` values did not fit and became null; `accounts` counts those of `accounts.parquet`. `first` and `last` are
    ISO times (UTC).

    Raises InputError where nothing can be kept (naming the format that the log looks like), OutputExistsError where a
    log is there and `if_exists` is not 'replace', ConfigError for an unknown format or column, StorageError.
    """
    reader = _format(format, columns)
    files = source_files(source)
    with LogWriter(out, if_exists) as writer:
        run = _Run(reader, Sealer(key), writer)
        for path in files:
            for number, record in enumerate(records(path), 1):
                run.take(record, f"{path.name}:{number}")
                if run.read % _EVENT_EVERY == 0:
                    on_event(Event("import", run.read, unit="rows"))
                if run.read >= _UNKNOWN_AFTER and not run.recognised:
                    raise _unknown(source, format, run)
        if not run.kept:
            raise _unknown(source, format, run)
        skewed = writer.skewed()
        parts = writer.finish(run.sealer.facts)
    on_event(Event("import", run.read, run.read, "rows"))
    return run.counts() | {"files": parts, "skewed": skewed}


class _Run:
    """What happened to the rows so far."""

    def __init__(self, reader: Format, sealer: Sealer, writer: LogWriter) -> None:
        self.reader, self.sealer, self.writer = reader, sealer, writer
        self.read = self.kept = self.skipped = self.duplicates = 0
        self.rejected: Counter[str] = Counter()
        self.sample: list[dict[str, Any]] = []
        self.recognised = False
        self.without_prompt = 0

    def take(self, record: dict[str, Any] | Bad, where: str) -> None:
        if isinstance(record, Bad):
            self._reject(record.reason, where, record.excerpt)
            return
        if len(self.sample) < _SAMPLE and not self.recognised:
            self.sample.append(record)
        for item in _split(self.reader, record):
            self._item(item, where)

    def _item(self, item: dict[str, Any], where: str) -> None:
        try:
            raw = self.reader.row(item)
            self.recognised = True
            row = self.sealer.row(raw)
        except NotACall:
            self.read += 1
            self.skipped += 1
        except Malformed as error:
            self._reject(str(error), where, item)
        except RecursionError:
            self._reject("nested too deeply", where, "")
        else:
            self.read += 1
            if row is None:
                self.duplicates += 1
            else:
                self.kept += 1
                self.without_prompt += row.get("prompt") is None
                self.writer.add(row)

    def _reject(self, reason: str, where: str, excerpt: object) -> None:
        self.read += 1
        self.rejected[reason] += 1
        self.writer.reject(reason, where, excerpt)

    def counts(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "kept": self.kept,
            "rejected": dict(self.rejected),
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "first": _iso(self.writer.first),
            "last": _iso(self.writer.last),
            "late": self.writer.late,
            "without_prompt": self.without_prompt,
            "blanked": dict(self.sealer.blanked),
            "accounts": len(self.sealer.facts),
        }


def _format(name: str, columns: Mapping[str, str] | None) -> Format:
    if name not in FORMATS:
        raise ConfigError(f"no format {name!r}", "format", f"choose of {', '.join(FORMATS)}")
    if name in PRESETS or name == "columns":
        if not columns:
            return FORMATS[name]
        merged = PRESETS.get(name, {}) | dict(columns)
        check_columns(merged)
        return Format(mapped(merged, ONLY.get(name)), frozenset())
    if columns:
        raise ConfigError(f"the format {name!r} takes no column map", "columns", "use the format 'columns'")
    return FORMATS[name]


def _split(reader: Format, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    empty = True
    for item in reader.split(record):
        empty = False
        yield item
    if empty:  # an export without spans is a row all the same, and is counted
        yield {"attributes": {}}


def _unknown(source: Path, name: str, run: _Run) -> InputError:
    """Why nothing was kept, and which format the log looks like."""
    if not run.read:
        return InputError("the log is empty", str(source), "name a log with at least one row")
    told = ", ".join(f"{n} x {reason}" for reason, n in run.rejected.most_common(3)) or f"{run.skipped} no model calls"
    what = f"nothing of this log could be kept as {name!r} ({run.read} rows read: {told})"
    nearest = _nearest(run.sample)
    if nearest is not None and nearest != name:
        return InputError(what, str(source), f"it looks like {nearest!r}: import it as that")
    keys = sorted({str(key)[:40] for record in run.sample for key in record})[:12]
    if not keys:
        return InputError(what, str(source), "it holds no records: see whether it is JSONL, JSON, CSV or Parquet")
    remedy = f"import it as 'columns' with a map of ours to theirs; its keys are {', '.join(map(ascii, keys))}"
    return InputError(what, str(source), remedy)


def _nearest(sample: list[dict[str, Any]]) -> str | None:
    """The format that reads most rows of the sample, or shares two telltale keys with them."""
    scores: dict[str, tuple[int, int]] = {}
    for name, form in FORMATS.items():
        read = sum(_readable(form, item) for record in sample for item in form.split(record))
        shared = len(form.telltales & {str(key) for record in sample for key in record})
        scores[name] = (read, shared)
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best][0] or scores[best][1] >= 2 else None


def _readable(form: Format, item: dict[str, Any]) -> bool:
    try:
        row = form.row(item)
    except (Malformed, NotACall, RecursionError):
        return False
    return bool(row.get("time")) and bool(row.get("account"))


def _iso(micros: int | None) -> str | None:
    if micros is None:
        return None
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat()
