"""The files that an import leaves: parts of the log, the accounts, and what was rejected. All or nothing.

Everything is written to `OUT/.importing` and moved in place at the end: a failed import leaves the earlier log.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from stillproof.errors import ConfigError, OutputExistsError
from stillproof.guard.importers.source import masked
from stillproof.guard.log import accounts_schema, log_schema
from stillproof.store.disk import refusing

if TYPE_CHECKING:
    import pyarrow.parquet as pq

GROUP_ROWS = 32_768
GROUP_CHARS = 32 << 20
PART_ROWS = 1_000_000
MAX_EXCERPTS = 1_000
MAX_EXCERPT_BYTES = 2_000
_PLAIN = frozenset(
    {
        "timestamp",
        "time",
        "created",
        "created_at",
        "startTime",
        "endTime",
        "start_time",
        "end_time",
        "request_created_at",
        "type",
        "object",
        "role",
        "status",
        "status_code",
        "call_type",
        "operation",
        "method",
        "temperature",
        "top_p",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "top_logprobs",
        "logprobs",
        "stream",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "kind",
    }
)
"""Keys whose values may be shown of a rejected row: those that say why it could not be read."""
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US


class LogWriter:
    """A new log in a folder. Use it as a context manager; without `finish` it leaves nothing behind."""

    def __init__(self, out: Path, if_exists: str) -> None:
        """Raises OutputExistsError where a log is there, ConfigError for an unknown `if_exists`."""
        if if_exists not in ("fail", "replace"):
            raise ConfigError(f"if_exists is {if_exists!r}", "if_exists", "choose 'fail' or 'replace'")
        there = [name for name in ("log", "accounts.parquet", "rejected.jsonl") if (out / name).exists()]
        if there and if_exists == "fail":
            raise OutputExistsError("is there already", str(out / there[0]), "name a new folder, or replace it")
        self._out, self._work = out, out / ".importing"
        self._made_out = not out.exists()
        self._rows: list[dict[str, Any]] = []
        self._chars = 0
        self._part: pq.ParquetWriter | None = None
        self._part_rows = 0
        self._parts = 0
        self._hours: Counter[int] = Counter()
        self._latest = 0
        self._rejected_file: TextIO | None = None
        self._excerpts = 0
        self.first: int | None = None
        self.last: int | None = None
        self.late = 0
        """Rows whose time is before that of a row above them."""

    def __enter__(self) -> Self:
        with refusing(self._out):
            shutil.rmtree(self._work, ignore_errors=True)  # of a run that was killed
            (self._work / "log").mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        shutil.rmtree(self._work, ignore_errors=True)
        if self._made_out and error is not None and self._out.is_dir() and not any(self._out.iterdir()):
            self._out.rmdir()

    def add(self, row: dict[str, Any]) -> None:
        time = row["time"]
        self._hours[time // _HOUR_US] += 1
        if time < self._latest:
            self.late += 1
        else:
            self._latest = time
        self.first = time if self.first is None or time < self.first else self.first
        self.last = time if self.last is None or time > self.last else self.last
        self._rows.append(row)
        self._chars += len(row.get("prompt") or "") + len(row.get("system") or "") + len(row.get("tools") or "")
        if len(self._rows) >= GROUP_ROWS or self._chars >= GROUP_CHARS:
            self._flush()

    def reject(self, reason: str, where: str, excerpt: object) -> None:
        """Keep an excerpt of the first thousand."""
        if self._excerpts >= MAX_EXCERPTS:
            return
        self._excerpts += 1
        shown = excerpt if isinstance(excerpt, str) else json.dumps(_shape(excerpt))
        shown = json.dumps(shown)[1:-1]  # escaped: only ASCII that is shown by any tool
        with refusing(self._work):
            if self._rejected_file is None:
                self._rejected_file = (self._work / "rejected.jsonl").open("w", encoding="ascii")
            line = {"reason": reason, "where": where, "excerpt": shown[:MAX_EXCERPT_BYTES]}
            self._rejected_file.write(json.dumps(line) + "\n")

    def skewed(self) -> int:
        """Rows further than the log's own span outside of it. The span holds all but the outer 1% of the rows at
        each end, and is a day at least, so it is the same in any order of the rows."""
        total, below = sum(self._hours.values()), 0
        hours = sorted(self._hours)
        low = high = hours[0] if hours else 0
        for hour in hours:
            if below <= total // 100:
                low = hour
            if below < total - total // 100:
                high = hour
            below += self._hours[hour]
        margin = max(high - low + 1, _DAY_US // _HOUR_US)
        return sum(n for hour, n in self._hours.items() if hour < low - margin or hour > high + margin)

    def finish(self, facts: Mapping[str, list[Any]]) -> int:
        """Write what is left and put all in place. Returns the number of parts."""
        self._flush()
        self._close()
        if facts:
            self._write_accounts(facts)
        with refusing(self._out):
            shutil.rmtree(self._out / "log", ignore_errors=True)
            for name in ("log", "accounts.parquet", "rejected.jsonl"):
                (self._out / name).unlink(missing_ok=True)
                if (self._work / name).exists():
                    (self._work / name).rename(self._out / name)
        return self._parts

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        self._rows.sort(key=lambda row: row["time"])
        schema = log_schema()
        arrays = [pa.array([row.get(name) for row in self._rows], schema.field(name).type) for name in schema.names]
        path = self._work / "log" / f"part-{self._parts:05d}.parquet"
        with refusing(path):
            if self._part is None:
                self._part = pq.ParquetWriter(path, schema, compression="zstd")
            self._part.write_table(pa.table(arrays, schema=schema))
        self._part_rows += len(self._rows)
        self._rows.clear()
        self._chars = 0
        if self._part_rows >= PART_ROWS:
            self._close_part()

    def _close_part(self) -> None:
        if self._part is not None:
            with refusing(self._work):
                self._part.close()
            self._part, self._part_rows = None, 0
            self._parts += 1

    def _close(self) -> None:
        self._close_part()
        if self._rejected_file is not None:
            self._rejected_file.close()
            self._rejected_file = None

    def _write_accounts(self, facts: Mapping[str, list[Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema, names = accounts_schema(), sorted(facts)
        columns = [names, *([facts[name][index] for name in names] for index in range(4))]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        with refusing(self._out):
            pq.write_table(pa.table(arrays, schema=schema), self._work / "accounts.parquet", compression="zstd")


def _shape(value: object, key: str = "", depth: int = 0) -> object:
    """The record with its values masked, but for those that say why it was rejected: names and keys stay out."""
    if depth > 8:
        return "..."
    if isinstance(value, Mapping):
        held = list(value.items())[:50]
        return {masked_key(str(name)): _shape(item, str(name), depth + 1) for name, item in held}
    if isinstance(value, list):
        return [_shape(item, key, depth + 1) for item in value[:5]]
    if value is None or isinstance(value, bool):
        return value
    shown = str(value)[:200] if not isinstance(value, int) or value.bit_length() < 10_000 else "0"
    return shown if key in _PLAIN else masked(shown)


def masked_key(name: str) -> str:
    """A key as it is where it looks like the name of a field, else masked."""
    plain = len(name) <= 60 and not any(char.isdigit() or char in "@:/" for char in name)
    return name if plain else masked(name[:60])
