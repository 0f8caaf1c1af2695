"""The builders by kind and name; the modules that hold them are loaded when first asked for."""

from __future__ import annotations

from stillproof.guard.traffic.stream import Builder


def builders(kind: str) -> dict[str, Builder]:
    """The builders of a kind of group: 'honest_heavy' or 'campaign'."""
    if kind == "campaign":
        from stillproof.guard.traffic.families import FAMILIES

        return FAMILIES
    from stillproof.guard.traffic.honest import HONEST

    return HONEST


def known(kind: str) -> list[str]:
    return sorted(builders(kind))
