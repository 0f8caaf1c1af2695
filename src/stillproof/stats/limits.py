"""What the functions of this package refuse to take."""

from __future__ import annotations

from stillproof.errors import InputError


def check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} is {value!r}", remedy="give a number between 0 and 1, both excluded")


def check_counts(successes: int, n: int) -> None:
    if not (n >= 1 and 0 <= successes <= n):
        raise InputError(f"{successes} successes of {n} trials", remedy="give 0 <= successes <= n, n at least 1")
