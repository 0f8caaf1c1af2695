"""What a scan says: findings, totals, what is guaranteed under which assumption, and what was only measured."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import stillproof
from stillproof import stats
from stillproof.errors import InputError
from stillproof.finding import Run, Signal
from stillproof.guard import edges as relations
from stillproof.guard.alternatives import considered, would_clear
from stillproof.guard.decision import Decided, false_alarms, resolution
from stillproof.guard.drift import drifts, warning
from stillproof.guard.freezing import Frozen
from stillproof.guard.judging import by_horizon, finding, judge, weights_of
from stillproof.guard.log import has_log, log_files
from stillproof.guard.naming import accounts_of, units_named
from stillproof.guard.permits import permits, spared
from stillproof.guard.reference import Reference
from stillproof.guard.scanning import Measured, ScanSettings, gather, sketches_of
from stillproof.guard.scoring import standard
from stillproof.guard.signals.view import HOUR_US
from stillproof.guard.ties import ties
from stillproof.guard.watching import Alarm, first_alarms
from stillproof.progress import OnEvent, ignore

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from stillproof.engine import Engine


HOW = "make one of your own history with `stillproof guard calibrate --step-h`, and name it with --reference"


def composed_reference(step_h: float) -> Reference | None:
    """The composed honest clusters that come along for looks `step_h` hours apart; None where there are none."""
    from importlib.resources import as_file

    file = files("stillproof") / "data" / "guard" / f"honest-{step_h:g}h.parquet"
    if not file.is_file():
        return None
    with as_file(file) as path:
        return Reference.load(path)


def load_reference(settings: ScanSettings) -> Reference:
    """The operator's own reference, or the composed one.

    Raises InputError where neither is there, or where it was made with another step: when a cluster is frozen decides
    how it looks afterwards.
    """
    step = f"{settings.step_h:g}h"
    own = settings.reference
    reference = composed_reference(settings.step_h) if own is None else Reference.load(own)
    if reference is None:
        raise InputError(f"no reference for looks {step} apart comes along", "step_h", HOW)
    if reference.origin.step_h != settings.step_h:
        made = f"{reference.origin.step_h:g}h"
        raise InputError(f"a reference of looks {made} apart, and a scan of looks {step} apart", "step_h", HOW)
    return reference


def scan_log(folder: Path, settings: ScanSettings, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Scan a log folder; see `stillproof.guard.scan`."""
    from stillproof.engine import open_engine

    started_s = time.monotonic()
    reference = load_reference(settings)
    out = settings.out or folder / "guard"
    permitted = permits(log_files(folder) if has_log(folder) else [], settings.grants, settings.grantor)
    pieces, counts = sketches_of(folder, out, on_event)
    with open_engine(settings.engine) as engine:
        sketch = relations.distinct_exchanges(engine, engine.read_parquet(pieces))
        measured = gather(folder, settings, on_event, engine, sketch)
        judged = judge(measured, reference, settings)
        told = [row for row in judged if row[0].tier != "observe"]
        called = _name(engine, sketch, folder, measured, [row[0] for row in told])
        accounts, kept, granted = spared(called, permitted)
        told, accounts = [told[place] for place in kept], [accounts[place] for place in kept]
        told = [
            (named_or_reviewed(each, names), signals) for (each, signals), names in zip(told, accounts, strict=True)
        ]
        graphs = ties(engine, sketch, [measured.frozen[int(each.cluster.cluster_id)].cluster for each, _ in told])
    watched = settings.budget is not None
    alarms = _alarms(measured, reference, settings) if watched else {}
    run = Run(f"stillproof guard {'watch' if watched else 'scan'} {folder.name}", None, stillproof.__version__, None)
    findings = [
        finding(decided, signals, names, settings.alpha, run).to_json() | {"tier": decided.tier}
        for (decided, signals), names in zip(told, accounts, strict=True)
    ]
    return {
        "findings": findings,
        "campaigns": [
            _companion(measured, decided, place, names)
            | _explained(signals)
            | {"graph": graph}
            | _alarmed(alarms.get(int(decided.cluster.cluster_id)), watched)
            for place, ((decided, signals), names, graph) in enumerate(zip(told, accounts, graphs, strict=True))
        ],
        "n_accounts": measured.n_accounts,
        "n_exchanges": measured.n_exchanges,
        "n_clusters": len(measured.frozen),
        "rows": counts,
        "granted": granted,
        "grants_refused": permitted.refused,
        "duration_s": round(time.monotonic() - started_s, 3),
        **_promises(measured, reference, judged, settings),
    }


def named_or_reviewed(decided: Decided, accounts: Sequence[object]) -> Decided:
    """A cluster of which nobody can be named (`naming`) is for a person to look at, whatever its evidence."""
    return decided if accounts or decided.tier != "would_block" else replace(decided, tier="review")


def _name(engine: Engine, sketch: ir.Table, folder: Path, measured: Measured, told: list[Decided]) -> list[list[str]]:
    frozen = [measured.frozen[int(decided.cluster.cluster_id)] for decided in told]
    log = log_files(folder) if has_log(folder) else []
    return accounts_of(log, units_named(engine, sketch, frozen, measured.start_us, measured.end_us))


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
        "first_seen_iso": _first_seen(frozen),
        "frozen_iso": _iso(frozen.frozen_us),
        "n_accounts": len(names),
        "exchanges": int(n.sum()),
    }


def _alarms(measured: Measured, reference: Reference, settings: ScanSettings) -> dict[int, Alarm]:
    frozen_us = [entry.frozen_us for entry in measured.frozen]
    e, _, _ = by_horizon(measured, reference, standard(settings.step_h))
    shares = stats.shares(len(frozen_us), settings.budget or 1)
    return first_alarms(frozen_us, e, weights_of(settings.step_h), shares, settings.alpha)


def _alarmed(alarm: Alarm | None, watched: bool) -> dict[str, Any]:
    """When the cluster alarmed first, and with what; nothing in a scan, which has one time only."""
    if not watched:
        return {}
    if alarm is None:
        return {"alarm": None}
    return {"alarm": {"time_iso": _iso(alarm.time_us), "e_value": alarm.e, "e_threshold": alarm.e_threshold}}


def _explained(signals: Sequence[Signal]) -> dict[str, Any]:
    return {"alternatives": considered(signals), "would_clear": would_clear(signals)}


def _first_seen(frozen: Frozen) -> str | None:
    known = frozen.first_us[np.isfinite(frozen.first_us)]
    return _iso(int(known.min())) if known.size else None


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="seconds")


def measured_elsewhere() -> dict[str, Any]:
    """How many honest accounts of composed worlds were named, with 95% interval, and by which scans."""
    return json.loads(files("stillproof").joinpath("data", "guard", "measured.json").read_text(encoding="utf-8"))


def expected_innocent(n_accounts: int, settings: ScanSettings) -> float | None:
    """Innocent accounts to expect among those named, if customers here fare as composed ones did: measured, and no
    bound. None for a level, a step or a reference that it was not measured with."""
    known = measured_elsewhere()
    if settings.reference is not None or (settings.alpha, settings.step_h, settings.budget) != (
        known["alpha"],
        known["step_h"],
        None,
    ):
        return None
    return float(f"{known['honest_accounts_named']['share'] * n_accounts:.2g}")


def _measured_rate(settings: ScanSettings) -> list[str]:
    if expected_innocent(1, settings) is None:
        return []
    known = measured_elsewhere()
    named, days = known["honest_accounts_named"], known["days"]
    return [
        f"of {named['total']:,} composed honest accounts {named['hits']} were named in {days} days: "
        f"{named['share']:.1e}, 95% [{named['low']:.1e}, {named['high']:.1e}] ({known['command']})"
    ]


def _promises(
    measured: Measured, reference: Reference, judged: list[tuple[Decided, Any]], settings: ScanSettings
) -> dict[str, Any]:
    counts = reference.counts()
    least = min((n for n in counts.values() if n), default=0)
    alone = max(len(judged), 1) if settings.budget is None else 1 / float(stats.shares(1, settings.budget)[0])
    can = resolution(least, alone, weights_of(settings.step_h), settings.alpha)
    told = {int(each.cluster.cluster_id) for each, _ in judged if each.tier != "observe"}
    drift = drifts(measured, reference, standard(settings.step_h), told)
    once = settings.budget is None
    period = "" if once else ", at every time of the period watched"
    return {
        "gate": None,
        "guarantee": (
            f"of the clusters named, at most {settings.alpha:.0%} are honest in expectation{period}, if honest "
            "clusters here are exchangeable with those of the reference, class by class"
        ),
        "measured": ["recall, and how honest clusters unlike the reference fare", *_measured_rate(settings)],
        "expected_innocent_accounts": expected_innocent(measured.n_accounts, settings),
        # Where nothing is there to find: the chance of any alarm in so many scans, or in the whole period watched.
        **(
            {"false_alarms_of_30_daily_scans": false_alarms(30, settings.alpha).any_alarm}
            if once
            else {"false_alarms_of_the_period": settings.alpha}
        ),
        "drift": drift,
        "warning": warning(drift),
        "resolution": str(can),
        "decides": can.nameable,
        "reference": {
            "source": reference.origin.source,
            "made": reference.origin.made,
            "clusters": {f"{name}, {hours} h": n for (name, hours), n in counts.items()},
            "set_aside": reference.origin.set_aside,
        },
    }
