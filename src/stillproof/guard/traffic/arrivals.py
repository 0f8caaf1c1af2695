"""When requests come and how long they are: built-in rhythms, or rhythms and lengths read from a CSV trace.

A trace is a CSV of one row a request with a timestamp and, if it has them, token counts of prompt and response, such
as the Azure LLM inference traces (`TIMESTAMP,ContextTokens,GeneratedTokens`) or BurstGPT. Traces name no users, so they
give lengths, the hour of the day where they last a day or more, and the sub-hour clumping; sessions are our own model.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stillproof.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


@dataclass(frozen=True)
class Window:
    """Half-open span of time, microseconds since 1970 UTC."""

    start_us: int
    end_us: int

    @property
    def days(self) -> float:
        return (self.end_us - self.start_us) / DAY_US


class Times(NamedTuple):
    """Arrivals, one entry an exchange, by account, session, time. `session` numbers runs, unique over accounts."""

    account: NDArray[np.int32]
    time_us: NDArray[np.int64]
    session: NDArray[np.int64]


class Arrivals:
    """Arrival times and lengths. Without a trace: two daily peaks, weak weekends, log-normal lengths."""

    def __init__(self, hour_weights: ArrayLike | None = None, lengths: ArrayLike | None = None) -> None:
        """hour_weights: (24,) local-hour intensities; lengths: (k, 2) pairs of prompt and response tokens."""
        hours = np.arange(24)
        peaks = np.exp(-0.5 * ((hours - 11) / 2.6) ** 2) + 0.9 * np.exp(-0.5 * ((hours - 17.5) / 3.4) ** 2) + 0.02
        self.hour_weights: NDArray[np.float64] = np.asarray(peaks if hour_weights is None else hour_weights, np.float64)
        self.pairs: NDArray[np.int64] | None = None if lengths is None else np.asarray(lengths, np.int64)
        self.within_hour: NDArray[np.int64] | None = None

    @classmethod
    def from_traces(cls, paths: list[Path]) -> Arrivals:
        """Read CSV traces. Raises InputError where a file has no timestamps."""
        stamps: list[float] = []
        pairs: list[tuple[int, int]] = []
        span = 0.0
        for path in paths:
            seconds, lengths = _read_trace(path)
            stamps += seconds
            pairs += lengths
            span = max(span, max(seconds) - min(seconds))
        times = np.asarray(stamps)
        weights = None
        if span >= 86_400:
            # Smoothed by one, so that an hour the trace missed is rare and not impossible.
            weights = np.bincount((times % 86_400 // 3600).astype(int), minlength=24) + 1.0
        arrivals = cls(weights, pairs or None)
        arrivals.within_hour = (times % 3600 * 1e6).astype(np.int64)
        return arrivals

    def lengths(self, rng: np.random.Generator, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,) prompt tokens and (n,) response tokens, drawn as pairs."""
        if self.pairs is not None:
            chosen = self.pairs[rng.integers(0, len(self.pairs), n)]
            return chosen[:, 0].copy(), np.maximum(chosen[:, 1], 1)
        prompt = rng.lognormal(5.6, 1.1, n).astype(np.int64) + 8
        return prompt, rng.lognormal(5.2, 1.0, n).astype(np.int64) + 1

    def human(
        self,
        rng: np.random.Generator,
        n: int,
        rate_per_day: ArrayLike,
        tz_offset_h: ArrayLike,
        window: Window,
    ) -> Times:
        """Sessions of people: (n,) or scalar mean exchanges a day and hours east of UTC.

        Each account has its own phase of the day and its own weekend habit; sessions hold a geometric number of
        exchanges (mean 4) with log-normal pauses (median 50 s), the clumping of Barabasi, Nature 435 (2005).
        """
        mean_session = 4.0
        days = max(1, round(window.days))
        rate = np.broadcast_to(np.asarray(rate_per_day, np.float64), (n,))
        zone = np.broadcast_to(np.asarray(tz_offset_h, np.float64), (n,))
        first_day = window.start_us // DAY_US
        weekend_habit = rng.beta(1.2, 2.0, n)
        sessions = rng.poisson(rate * window.days / mean_session)
        owner = np.repeat(np.arange(n, dtype=np.int32), sessions)
        day = rng.integers(0, days, len(owner))
        # 1 January 1970 was a Thursday: day 0 has weekday 3.
        idle = ((first_day + day + 3) % 7 >= 5) & (rng.random(len(owner)) > weekend_habit[owner])
        day = np.where(idle, rng.integers(0, days, len(owner)), day)
        hour = rng.choice(24, len(owner), p=self.hour_weights / self.hour_weights.sum())
        phase = rng.normal(0.0, 1.8, n)[owner] - zone[owner]
        start = window.start_us + day * DAY_US
        start = start + ((hour + phase) % 24 * HOUR_US).astype(np.int64) + self._minute(rng, len(owner))
        size = rng.geometric(1 / mean_session, len(owner))
        gaps = rng.lognormal(np.log(50e6), 1.0, int(size.sum())).astype(np.int64)
        session = np.repeat(np.arange(len(owner)), size)
        opens = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.int64) if len(size) else np.zeros(0, np.int64)
        gaps[opens] = 0
        elapsed = np.cumsum(gaps)
        time = start[session] + elapsed - elapsed[opens][session]
        return _sorted(owner[session], time, session, window)

    def poisson(self, rng: np.random.Generator, n: int, rate_per_day: ArrayLike, window: Window) -> Times:
        """Requests of programs that run at all hours, at (n,) or scalar exchanges a day. Each is its own session."""
        rate = np.broadcast_to(np.asarray(rate_per_day, np.float64), (n,))
        owner = np.repeat(np.arange(n, dtype=np.int32), rng.poisson(rate * window.days))
        time = rng.integers(window.start_us, window.end_us, len(owner))
        return _sorted(owner, time, np.arange(len(owner)), window)

    def cron(
        self,
        rng: np.random.Generator,
        n: int,
        per_run: ArrayLike,
        window: Window,
        *,
        hour: ArrayLike = 2.0,
        every_h: float = 24.0,
        gap_s: float = 2.0,
        jitter_s: float = 40.0,
    ) -> Times:
        """Scheduled runs: (n,) or scalar mean exchanges a run, `hour` UTC of the first, every `every_h` hours.

        Runs start within `jitter_s` of the clock, as cron jobs of unrelated accounts do; a run is a session.
        """
        runs = max(1, int(window.days * 24 / every_h))
        mean = np.broadcast_to(np.asarray(per_run, np.float64), (n,))
        first = np.broadcast_to(np.asarray(hour, np.float64), (n,))
        owner = np.repeat(np.arange(n, dtype=np.int32), runs)
        number = np.tile(np.arange(runs), n)
        start = window.start_us + ((first[owner] + number * every_h) * HOUR_US).astype(np.int64)
        start = start + (rng.exponential(jitter_s, len(owner)) * 1e6).astype(np.int64)
        size = rng.poisson(mean[owner])
        session = np.repeat(np.arange(len(owner)), size)
        place = np.arange(len(session)) - np.repeat(np.cumsum(size) - size, size)
        noise = rng.uniform(0.0, gap_s, len(session))
        time = start[session] + ((place * gap_s + noise) * 1e6).astype(np.int64)
        return _sorted(owner[session], time, session, window)

    def _minute(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """(n,) microseconds into the hour."""
        if self.within_hour is None:
            return rng.integers(0, HOUR_US, n)
        drawn = self.within_hour[rng.integers(0, len(self.within_hour), n)]
        return (drawn + rng.integers(0, 1_000_000, n)) % HOUR_US


def _sorted(owner: NDArray[np.int32], time: NDArray[np.int64], session: NDArray[np.int64], window: Window) -> Times:
    keep = (time >= window.start_us) & (time < window.end_us)
    owner, time, session = owner[keep].astype(np.int32), time[keep], session[keep]
    order = np.lexsort((time, session, owner))
    return Times(owner[order], time[order], session[order])


def _column(names: list[str], words: tuple[str, ...]) -> int | None:
    """The first column whose name holds one of the words, the earlier words winning."""
    for word in words:
        for place, name in enumerate(names):
            if word in name.lower():
                return place
    return None


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    # Seven decimals, as in the Azure traces, are more than fromisoformat takes before Python 3.11.
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def _read_trace(path: Path) -> tuple[list[float], list[tuple[int, int]]]:
    """Seconds and token pairs of one trace; rows that cannot be read are left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.reader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"an arrival trace cannot be read: {error}", str(path), "give a CSV file") from None
    names = rows[0] if rows else []
    when = _column(names, ("timestamp", "arriv", "time", "date"))
    if when is None:
        raise InputError("an arrival trace has no timestamp column", str(path), "name a column TIMESTAMP")
    ask = _column(names, ("context", "prompt", "request tok", "input"))
    answer = _column(names, ("generated", "response tok", "completion", "output"))
    seconds: list[float] = []
    pairs: list[tuple[int, int]] = []
    for row in rows[1:]:
        moment = _seconds(row[when]) if len(row) > when else None
        if moment is None:
            continue
        seconds.append(moment)
        if ask is not None and answer is not None:
            try:
                pairs.append((int(float(row[ask])), int(float(row[answer]))))
            except (ValueError, IndexError):
                continue
    if not seconds:
        raise InputError("an arrival trace holds no row with a readable timestamp", str(path), "check the file")
    return seconds, pairs
