"""Labelled traffic with account structure, composed from prompts, arrival rhythms and documented behaviour.

Calling `write_world(world, out)` makes a world folder: log, accounts, truth of each account and exchange, world.json.
Everything that a campaign is here is simulated traffic; honest groups have templates as rare and sizes as large.
"""

from __future__ import annotations

from stillproof.guard.traffic.world import GroupConfig, ReleaseConfig, World
from stillproof.guard.traffic.writing import write_world

__all__ = ["GroupConfig", "ReleaseConfig", "World", "write_world"]
