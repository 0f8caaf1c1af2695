"""What a scan says: findings, totals, what is guaranteed under which assumption, and what was only measured."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stillproof
from stillproof.errors import InputError
from stillproof.finding import Run
from stillproof.guard import edges as relations
from stillproof.guard.decision import Decided, false_alarms, resolution
from stillproof.guard.judging import WEIGHTS, finding, judge
from stillproof.guard.log import log_files
from stillproof.guard.naming import accounts_of, units_of
from stillproof.guard.reference import Reference
from stillproof.guard.scanning import Measured, ScanSettings, gather, sketches_of
from stillproof.guard.signals.view import HOUR_US
from stillproof.progress import OnEvent, ignore

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from stillproof.engine import Engine


HOW = "make one of your own history with `stillproof guard calibrate`, and name it with --reference"


def load_reference(path: Path | None) -> Reference:
    """The operator's own reference. Raises InputError where none is named: no guess stands in for a calibration."""
    if path is None:
        raise InputError("a scan ranks clusters among honest ones, and none were given", "reference", HOW)
    return Reference.load(path)


def scan_log(folder: Path, settings: ScanSettings, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Scan a log folder; see `stillproof.guard.scan`."""
    from stillproof.engine import open_engine

    started_s = time.monotonic()
    reference = load_reference(settings.reference)
    out = settings.out or folder / "guard"
    pieces, counts = sketches_of(folder, out, on_event)
    with open_engine(settings.engine) as engine:
        sketch = relations.distinct_exchanges(engine, engine.read_parquet(pieces))
        measured = gather(folder, settings, on_event, engine, sketch)
        judged = judge(measured, reference, settings.alpha, settings.review_alpha)
        told = [row for row in judged if row[0].tier != "observe"]
        accounts = _name(engine, sketch, folder, measured, [row[0] for row in told])
    run = Run(f"stillproof guard scan {folder.name}", None, stillproof.__version__, None)
    findings = [
        finding(decided, signals, names, settings.alpha, run).to_json() | {"tier": decided.tier}
        for (decided, signals), names in zip(told, accounts, strict=True)
    ]
    return {
        "findings": findings,
        "campaigns": [
            _companion(measured, decided, place, names)
            for place, ((decided, _), names) in enumerate(zip(told, accounts, strict=True))
        ],
        "n_accounts": measured.n_accounts,
        "n_exchanges": measured.n_exchanges,
        "n_clusters": len(measured.frozen),
        "rows": counts,
        "duration_s": round(time.monotonic() - started_s, 3),
        **_promises(measured, reference, judged, settings),
    }


def _name(engine: Engine, sketch: ir.Table, folder: Path, measured: Measured, told: list[Decided]) -> list[list[str]]:
    units = []
    for decided in told:
        frozen = measured.frozen[int(decided.cluster.cluster_id)]
        after = relations.edges(engine, sketch, frozen.frozen_us, measured.end_us, 2)
        units.append(units_of(frozen, after))
    return accounts_of(engine, sketch, log_files(folder), units)


def _companion(measured: Measured, decided: Decided, place: int, names: list[str]) -> dict[str, Any]:
    """What a picture of a campaign needs beside its finding."""
    frozen = measured.frozen[int(decided.cluster.cluster_id)]
    longest = int(
        max((c for c, k in enumerate(measured.case_cluster) if k == int(decided.cluster.cluster_id)), default=0)
    )
    rows = measured.view.row_case == longest
    hours, n = measured.view.row_hour[rows], measured.view.counts["n"][rows]
    totals: dict[int, float] = {}
    for hour, count in zip(hours.tolist(), n.tolist(), strict=True):
        totals[hour] = totals.get(hour, 0.0) + count
    return {
        "id": f"c{decided.cluster.cluster_id}",
        "tier": decided.tier,
        "finding": place,
        "timeline": [{"time_iso": _iso(hour * HOUR_US), "n": int(totals[hour])} for hour in sorted(totals)],
        "frozen_iso": _iso(frozen.frozen_us),
        "n_accounts": len(names),
        "exchanges": int(n.sum()),
    }


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="seconds")


def _promises(
    measured: Measured, reference: Reference, judged: list[tuple[Decided, Any]], settings: ScanSettings
) -> dict[str, Any]:
    counts = reference.counts()
    least = min((n for n in counts.values() if n), default=0)
    can = resolution(least, max(len(judged), 1), WEIGHTS, settings.alpha)
    return {
        "gate": None,
        "guarantee": (
            f"of the clusters named, at most {settings.alpha:.0%} are honest in expectation, if honest clusters here "
            "are exchangeable with those of the reference, class by class"
        ),
        "measured": "recall, and how honest clusters unlike the reference fare",
        "false_alarms_of_30_daily_scans": false_alarms(30, settings.alpha).any_alarm,
        "resolution": str(can),
        "reference": {
            "source": reference.origin.source,
            "made": reference.origin.made,
            "clusters": {f"{name}, {hours} h": n for (name, hours), n in counts.items()},
            "set_aside": reference.origin.set_aside,
        },
    }
