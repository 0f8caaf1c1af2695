"""From a world's config to the groups that are built: names, sizes, cohorts and what their builders are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillproof.guard.traffic.ordinary import ZONES, Catalogue, catalogue, ordinary
from stillproof.guard.traffic.registry import builders
from stillproof.guard.traffic.stream import Builder

if TYPE_CHECKING:
    import numpy as np

    from stillproof.guard.traffic.world import GroupConfig, World

BLOCK = 2000
"""Ordinary accounts built at once: what bounds the memory."""
APP_ACCOUNTS = 150
"""Ordinary accounts for each niche app; about 21 of them use it, log-normally more or fewer."""
LANGUAGES = 7
VPNS = 12


@dataclass(frozen=True)
class Group:
    """One group to build."""

    name: str
    kind: str
    family: str
    size: int
    build: Builder
    settings: dict[str, Any]
    cohorts: list[str]

    @property
    def campaign(self) -> str | None:
        return self.name if self.kind == "campaign" else None


def planned(world: World) -> Iterator[Group]:
    """The groups of a world in a fixed order. Each cohort is drawn without a look at what the group does."""
    shared = _catalogue(world)
    told: dict[str, Any] = {
        "releases": world.release_times(),
        "harnesses": [text for text, _ in shared.harnesses],
        "catalogue": shared,
    }
    if world.camouflage is not None:
        told["camouflage"] = world.camouflage
    for number, first in enumerate(range(0, world.n_ordinary, BLOCK)):
        size = min(BLOCK, world.n_ordinary - first)
        name = f"ordinary-{number}"
        cohorts = _account_cohorts(world, world.rng(name, "cohorts"), size)
        rates = {"harness_share": world.harness_share, "rate_per_day": world.rate_per_day, "cohorts": cohorts}
        yield Group(name, "ordinary", "ordinary", size, ordinary, told | rates, cohorts)
    numbers: dict[str, int] = {}
    for group in world.groups:
        for _ in range(group.count):
            numbers[group.family] = numbers.get(group.family, -1) + 1
            yield _group(world, group, f"{group.family}-{numbers[group.family]}", told)


def _catalogue(world: World) -> Catalogue:
    n_apps = max(1, world.n_ordinary // APP_ACCOUNTS) if world.niche_apps is None else world.niche_apps
    return catalogue(world.rng("catalogue"), world.window, world.harnesses, world.harness_zipf, n_apps)


def _group(world: World, group: GroupConfig, name: str, told: dict[str, Any]) -> Group:
    build = builders(group.kind)[group.family]
    rng = world.rng(name, "cohorts")
    if group.kind == "campaign":
        return Group(name, group.kind, group.family, group.size, build, told | group.settings, ["none"] * group.size)
    cohorts = _group_cohorts(world, rng, group.size)
    zone = next((ZONES[int(c.removeprefix("timezone_"))] for c in cohorts if c.startswith("timezone_")), 0.0)
    settings = told | {"tz_offset_h": zone, "cohorts": cohorts} | group.settings
    return Group(name, group.kind, group.family, group.size, build, settings, cohorts)


def _draw_cohort(world: World, rng: np.random.Generator, draw: float) -> str:
    if draw < world.language_share:
        return f"language_{int(rng.integers(0, LANGUAGES))}"
    if draw < world.language_share + world.timezone_share:
        return f"timezone_{int(rng.integers(0, len(ZONES)))}"
    return "none"


def _account_cohorts(world: World, rng: np.random.Generator, size: int) -> list[str]:
    """One cohort an account: unrelated people live in all of them."""
    hidden = rng.random(size).tolist()
    drawn = rng.random(size).tolist()
    return [
        "vpn" if hide < world.vpn_share else _draw_cohort(world, rng, draw)
        for hide, draw in zip(hidden, drawn, strict=True)
    ]


def _group_cohorts(world: World, rng: np.random.Generator, size: int) -> list[str]:
    """A group works in one place and language; who of it uses a VPN is each account's own affair."""
    common = _draw_cohort(world, rng, float(rng.random()))
    return ["vpn" if hide < world.vpn_share else common for hide in rng.random(size).tolist()]
