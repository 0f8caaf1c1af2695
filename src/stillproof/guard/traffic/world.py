"""What a world holds: the config behind `guard compose`, a TOML file.

    seed, start, days, n_ordinary, rate_per_day     size
    [[groups]] kind, family, size, count, settings  honest heavy classes and campaigns
    [pools] name = "path" or "path#column"          prompts from files; none: the built-in generator
    traces = ["trace.csv"]                          arrival traces; none: the built-in rhythm
    [[releases]] model, day                         models released inside the window

A world without groups of kind 'campaign' is a null world.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from stillproof.config import Section, Texts
from stillproof.guard.traffic.stream import DAY_US, Arrivals, Pools, Window

Share = Annotated[float, Field(ge=0, le=1)]


class GroupConfig(Section):
    kind: Literal["honest_heavy", "campaign"]
    family: str
    """A name of traffic.honest.HONEST or traffic.families.FAMILIES."""
    size: Annotated[int, Field(ge=1)]
    """Accounts of one group."""
    count: Annotated[int, Field(ge=1)] = 1
    """How many groups of this sort, each with a seed, texts and templates of its own."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What the builder reads: rate_per_day, camouflage, pool and what its docstring names."""


class ReleaseConfig(Section):
    model: str
    day: Annotated[float, Field(ge=0)]
    """Days after the start."""


class World(Section):
    """A whole world of traffic; the same config gives the same bytes of text, times and labels."""

    name: str = "world"
    seed: Annotated[int, Field(ge=0)] = 7
    start: datetime = datetime(2026, 9, 1, tzinfo=UTC)
    days: Annotated[int, Field(ge=1, le=400)] = 14
    n_ordinary: Annotated[int, Field(ge=0)] = 1500
    rate_per_day: Annotated[float, Field(gt=0)] = 4.0
    """Mean exchanges an ordinary account and day; accounts differ log-normally."""
    harnesses: Annotated[int, Field(ge=1)] = 20
    """Popular harness system prompts, Zipf-distributed over accounts."""
    harness_zipf: Annotated[float, Field(gt=0)] = 1.1
    harness_share: Share = 0.45
    """Share of ordinary accounts that use one of them."""
    niche_apps: Annotated[int, Field(ge=0)] | None = None
    """Small apps, each with a rare template of its own and many unrelated accounts; None: one for 150 accounts."""
    groups: tuple[GroupConfig, ...] = ()
    pools: dict[str, str] = Field(default_factory=dict)
    pool_half: Literal["all", "even", "odd"] = "all"
    """even, odd: only half of every pool, by a digest of the text: a split by base prompt."""
    traces: Texts = ()
    releases: tuple[ReleaseConfig, ...] = (ReleaseConfig(model="large-2", day=6.0),)
    camouflage: Share | None = None
    """Share of a campaign's traffic that is ordinary use; None: each draws its own. A group's settings come first."""
    language_share: Share = 0.1
    timezone_share: Share = 0.4
    vpn_share: Share = 0.1

    @field_validator("start")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @model_validator(mode="after")
    def _known_families(self) -> World:
        from stillproof.guard.traffic.registry import known

        for group in self.groups:
            names = known(group.kind)
            if group.family not in names:
                raise ValueError(f"no {group.kind} group is called {group.family!r}; known: {', '.join(names)}")
        return self

    @property
    def window(self) -> Window:
        start = int(self.start.timestamp()) * 1_000_000
        return Window(start, start + self.days * DAY_US)

    def release_times(self) -> list[tuple[int, str]]:
        """(time_us, model) in order of time."""
        return sorted((self.window.start_us + int(item.day * DAY_US), item.model) for item in self.releases)

    def load_pools(self) -> Pools:
        from zlib import crc32

        pools = Pools.from_files(self.pools)
        if self.pool_half == "all":
            return pools
        odd = int(self.pool_half == "odd")
        return Pools({k: [t for t in v if crc32(t.encode()) % 2 == odd] for k, v in pools.lists.items()})

    def load_arrivals(self) -> Arrivals:
        return Arrivals.from_traces([Path(path) for path in self.traces]) if self.traces else Arrivals()

    def rng(self, *names: str) -> np.random.Generator:
        """A stream of random numbers for one part of the world, independent of the other parts."""
        from hashlib import sha256

        digest = sha256("\0".join((str(self.seed), *names)).encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
