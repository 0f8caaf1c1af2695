"""A reference from logs: every cluster found there, frozen and measured just as a scan would."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import stillproof
from stillproof.guard.judging import columns, judge
from stillproof.guard.reference import Origin, Reference, joined
from stillproof.guard.scanning import ScanSettings, measure_log
from stillproof.progress import OnEvent, ignore


def reference_of(
    folders: Sequence[Path],
    source: str,
    step_h: float = 24.0,
    on_event: OnEvent = ignore,
    against: Reference | None = None,
) -> Reference:
    """The clusters of every folder's log, one window each, found at looks `step_h` hours apart.

    A past that nobody labelled holds campaigns as well. Those that a scan against the reference `against` names, or
    puts up for review, are set aside and counted in the origin. What is left of campaigns makes later scans careful,
    not wrong: they only raise the bar.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    note = "" if against is not None else "not screened for campaigns"
    origin = Origin(source, made, stillproof.__version__, note=note, step_h=step_h)
    settings = ScanSettings(step_h=step_h)
    parts = []
    for place, folder in enumerate(folders):
        measured, _ = measure_log(folder, settings, on_event)
        window = f"{place}:{folder.name}"
        part = Reference.of(columns(measured, window), origin)
        if against is not None:
            judged = judge(measured, against, settings)
            told = [each.cluster for each, _ in judged if each.tier != "observe"]
            part = part.without([f"{window}/{cluster.cluster_id}" for cluster in told])
        parts.append(part)
    return joined(parts)
