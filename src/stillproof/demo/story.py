"""The story's stages in their order. Each leaves a JSON file when it is done, and is not done again.

What a stage does is elsewhere; here is only what follows what, what is on disk, and what the whole says.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillproof.demo import crowd, learning, models, serving, tracing
from stillproof.demo.learning import STUDENTS
from stillproof.demo.tracing import TESTS
from stillproof.errors import ConfigError, OutputExistsError
from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.demo.sizes import Size

IfExists = Literal["fail", "resume", "replace"]

SIZE_FILE, STAGES, RESULT, REPORT = "size.json", "stages", "result.json", "report.html"

_GUARD_SAID = ("accounts_named", "campaign_named", "campaign_accounts", "honest_accounts", "findings", "grants_refused")

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the story. `share`: of the whole time, as it was measured at size small; it makes the ETA."""

    name: str
    share: float
    work: Callable[[Size, Path, OnEvent], Told]


def stages() -> tuple[Stage, ...]:
    """All of them, in order."""
    learn = tuple(Stage(f"learn-{name}", 0.08, _learn(name)) for name in STUDENTS)
    audits = tuple(Stage(f"trace-{name}", 0.12, _audit(name)) for name in STUDENTS)
    return (
        Stage("models", 0.14, models.make),
        Stage("traffic", 0.03, crowd.compose),
        Stage("serve", 0.22, serving.serve),
        Stage("guard", 0.11, _guard),
        Stage("gather", 0.01, learning.gather),
        *learn,
        Stage("retention", 0.02, learning.retained),
        Stage("plans", 0.01, tracing.plan),
        *audits,
        Stage("descent", 0.02, _descent),
        Stage("replay", 0.05, lambda size, out, on_event: tracing.replay(out)),
    )


def play(size: Size, out: Path, if_exists: IfExists = "fail", on_event: OnEvent = ignore) -> Told:
    """Play what is not played yet in `out`; the result is also in result.json, the page in report.html.

    Raises OutputExistsError where `out` holds something else, ConfigError where it holds another size.
    """
    _open(size, out, if_exists)
    told: dict[str, Told] = {}
    parts = stages()
    whole = sum(part.share for part in parts)
    began, done = time.monotonic(), 0.0
    fresh = 0.0
    for part in parts:
        path = out / STAGES / f"{part.name}.json"
        if path.exists():
            told[part.name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            spent = time.monotonic() - began
            eta_s = None if fresh == 0 else spent / fresh * (whole - done)
            on_event(Event("demo", round(100 * done / whole), 100, "percent", eta_s=eta_s, note=f"now: {part.name}"))
            started, cpu = time.monotonic(), cpu_s()
            made = part.work(size, out, on_event)
            told[part.name] = {
                **made,
                "duration_s": round(time.monotonic() - started, 2),
                "cpu_s": round(cpu_s() - cpu, 2),
                "peak_rss_mb": peak_rss_mb(),
            }
            _write(path, told[part.name])
            fresh += part.share
        done += part.share
    result = concluded(size, out, told)
    from stillproof.demo.page import write_report

    write_report(size, out, result, told)
    _write(out / RESULT, result)
    return result


def concluded(size: Size, out: Path, told: Mapping[str, Told]) -> Told:
    """What the whole says, as `--json` prints it."""
    found = told["guard"]
    verdicts = tracing.verdicts(out)
    members = crowd.members(out / "log")
    trace = {
        name: {
            **{test: verdicts[name][test] for test in TESTS},
            "best_log10_p_adjusted": verdicts[name]["best_log10_p_adjusted"],
            "accounts_named": {
                test: tracing.whose(verdicts[name]["accounts"][test], members) for test in ("twins", "cards")
            },
        }
        for name in STUDENTS
    }
    return {
        "title": "stillproof demo",
        "size": size.name,
        "campaign_found": found["campaign_found"],
        "honest_flagged": found["honest_flagged"],
        "grant_flagged": found["grant_flagged"],
        "guard": {key: found[key] for key in _GUARD_SAID},
        "served": told["serve"],
        "retention": {name: told["retention"][name] for name in STUDENTS},
        "distill_refused_the_copier": told["learn-copier"]["distill_refused"],
        "trace": trace,
        "weights": {name: told["descent"][name]["weights"] for name in STUDENTS},
        "duties": [
            {"duty": duty["duty"], "state": duty["state"]} for duty in told["descent"]["licensed"]["lineage"]["duties"]
        ],
        # A replay raises where anything differs; what is left to compare is that it was of these bundles.
        "bundle_replayed": all(told["replay"][test]["log10_p"] == trace["copier"][test]["log10_p"] for test in TESTS),
        "gate": None,
        "duration_s": round(sum(part["duration_s"] for part in told.values()), 1),
        "cpu_s": round(sum(part["cpu_s"] for part in told.values()), 1),
        "stages": {name: {key: part[key] for key in ("duration_s", "cpu_s")} for name, part in told.items()},
        "peak_rss_mb": max(part["peak_rss_mb"] for part in told.values()),
        "report": str(out / REPORT),
        "out": str(out),
    }


# --- stages that compose others ---------------------------------------------------------------------------------


def _learn(name: str) -> Callable[[Size, Path, OnEvent], Told]:
    return lambda size, out, on_event: learning.learn(size, out, name, on_event)


def _audit(name: str) -> Callable[[Size, Path, OnEvent], Told]:
    def work(size: Size, out: Path, on_event: OnEvent) -> Told:
        return {test: tracing.audit(size, out, name, test, on_event) for test in TESTS}

    return work


def _descent(size: Size, out: Path, on_event: OnEvent) -> Told:
    return {name: tracing.descent(size, out, name) for name in STUDENTS}


def _guard(size: Size, out: Path, on_event: OnEvent) -> Told:
    """The log of everybody, and what a scan of it finds."""
    from stillproof import guard
    from stillproof.guard.scanning import ScanSettings
    from stillproof.store import Store

    custody, log = serving.Custody(out), out / "log"
    with Store.open(custody.store) as store:
        wrote = crowd.write_log(out / "traffic", store, serving.by_row(store), log)
    settings = ScanSettings(grants=(custody.grant,), grantor=custody.grantor_public)
    result = guard.scan(log, settings, on_event)
    members = crowd.members(log)
    found = [row for row in result["findings"] if row["decision"] == "found"]
    named = {account for row in found for account in row["accounts"]}
    caught = named & members["campaign"]
    return {
        **wrote,
        # Found: a finding names at least half of the campaign's accounts, and nobody else.
        "campaign_found": 2 * len(caught) >= len(members["campaign"]),
        "honest_flagged": len(named & members["honest"]),
        "grant_flagged": len(named & members["licensed"]),
        "accounts_named": len(named),
        "campaign_named": len(caught),
        "campaign_accounts": len(members["campaign"]),
        "honest_accounts": len(members["honest"]),
        "findings": len(found),
        "grants_refused": result["grants_refused"],
        "n_exchanges": result["n_exchanges"],
    }


# --- the folder -------------------------------------------------------------------------------------------------


def _open(size: Size, out: Path, if_exists: IfExists) -> None:
    path = out / SIZE_FILE
    if out.exists() and any(out.iterdir()):
        if not path.is_file():
            raise OutputExistsError("is no folder of a demo", str(out), "give another --out")
        if if_exists == "fail":
            raise OutputExistsError("a demo was played there", str(out), "use --if-exists resume, or replace")
        if if_exists == "replace":
            shutil.rmtree(out)
        elif json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(asdict(size))):
            raise ConfigError("the demo there is of another size", str(out), "resume with its size, or another --out")
    (out / STAGES).mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write(path, asdict(size))
    learning.forget_unfinished(out)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    from stillproof.store.disk import replace_file

    text = json.dumps(value, indent=1, default=str, allow_nan=False) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))


def cpu_s() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak_rss_mb() -> int:
    """Largest of this process and of those that it started."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024))
