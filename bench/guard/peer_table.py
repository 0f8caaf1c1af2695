"""peers.json as text: one line for each method and threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def of(result: dict[str, Any]) -> str:
    """Means over worlds, lowest and highest in brackets."""
    plan = result["plan"]
    lines = [
        f"{plan['recipe']}, seeds {', '.join(map(str, plan['seeds']))}; means [lowest-highest]. Calibrated: "
        f"{plan['n_calibration_accounts']:,} honest accounts of {plan['threshold_worlds']} honest worlds, "
        f"account FPR {plan['rate']:.1e}.",
        "",
        "| method | threshold | account recall | account FPR | campaign recall | worst honest class | s a world |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in result["rows"]]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    worlds = row["worlds"]
    worst = max(worlds, key=lambda world: world["worst_class_fpr"] or 0.0)
    numbers = [_shares([world[name] for world in worlds]) for name in ("account_recall", "account_fpr")]
    found = _shares([world["campaign_recall"] for world in worlds])
    named = f"{worst['worst_class']} {worst['worst_class_fpr']:.1%}" if worst["worst_class_fpr"] else "none"
    seconds = [world["seconds"] for world in worlds]
    return (
        f"| {row['method']} | {row['threshold']} | {numbers[0]} | {numbers[1]} | {found} | {named} "
        f"| {sum(seconds) / len(seconds):.1f} |"
    )


def _shares(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{sum(known) / len(known):.2%} [{min(known):.2%}-{max(known):.2%}]"
