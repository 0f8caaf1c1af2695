"""What a long stage tells while it runs, and how a person sees it: a bar in a terminal, plain lines elsewhere.

A stage calls `on_event(Event(...))` as often as it likes; the renderer decides what is worth showing. Everything
goes to standard error, so that standard output stays clean for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class Event:
    """How far one stage has come."""

    stage: str
    done: int
    total: int | None = None
    """None where the end is not known."""
    unit: str = ""
    """What `done` and `total` count: 'tokens', 'requests', 'steps'."""
    rate: float | None = None
    """`unit` per second."""
    eta_s: float | None = None
    note: str | None = None
    """Something to be read, such as a warning; always shown."""
    metrics: Mapping[str, float] | None = None


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The `on_event` of a caller who wants no progress."""


def renderer(stream: TextIO | None = None) -> Bar | Lines:
    """A context manager to use as `on_event`: a bar where the stream is a terminal, else plain lines."""
    stream = sys.stderr if stream is None else stream
    return Bar(stream) if stream.isatty() else Lines(stream)


class Lines(AbstractContextManager["Lines"]):
    """Plain lines, at most one each `LINE_INTERVAL_S`; a stage's first and last event and every note are shown."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._stage: str | None = None
        self._last_s = 0.0

    def __call__(self, event: Event) -> None:
        now_s = self._clock()
        finished = event.total is not None and event.done >= event.total
        due = event.stage != self._stage or now_s - self._last_s >= LINE_INTERVAL_S
        if not (due or finished or event.note):
            return
        self._stage, self._last_s = event.stage, now_s
        self._stream.write(line(event) + "\n")
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()


class Bar(AbstractContextManager["Bar"]):
    """One bar for each stage, with count, rate and time left; notes stand above the bars."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description:<9}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(file=self._stream),
        )
        self._progress.start()
        return self

    def __call__(self, event: Event) -> None:
        progress = self._progress
        if progress is None:
            raise RuntimeError("a Bar shows events only inside its `with` block")
        if event.note:
            progress.console.print(f"{plain(event.stage)}: {plain(event.note)}", markup=False, highlight=False)
        if event.stage not in self._tasks:
            self._tasks[event.stage] = progress.add_task(plain(event.stage), total=event.total, figures="")
        progress.update(
            self._tasks[event.stage], completed=event.done, total=event.total, figures=" ".join(_figures(event))
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def line(event: Event) -> str:
    """The event as one plain line."""
    words = [f"{plain(event.stage)}:", *_figures(event)]
    if event.note:
        words.append(f"- {plain(event.note)}")
    return " ".join(words)


def plain(text: str) -> str:
    """The text without control characters: it may come from a log or a teacher, and must not steer a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def duration(seconds: float) -> str:
    """'12 s', '3 min 05 s', '2 h 07 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _figures(event: Event) -> list[str]:
    of_total = "" if event.total is None else f"/{event.total:,}"
    words = [f"{event.done:,}{of_total}"]
    if event.unit:
        words.append(plain(event.unit))
    if event.rate is not None:
        words.append(f"{event.rate:,.0f}/s" if event.rate >= 10 else f"{event.rate:.2g}/s")
    if event.eta_s is not None:
        words.append(f"{duration(event.eta_s)} left")
    words += [f"{plain(name)}={value:.4g}" for name, value in (event.metrics or {}).items()]
    return words
