"""guard: find campaigns of linked accounts that harvest a model's answers, with a false-alarm rate that holds.

compose(world, out, ...)        labelled traffic with account structure, to test any detector on
import_log(source, out, ...)    another tool's log as the log that guard reads
scan(folder, settings)          campaigns in a log, as Findings; with a budget, of a log that grows (`guard watch`)
calibrate(folders, out)         honest clusters of one's own history, which scans then rank against
explain(folder, campaign)       one of the findings
evaluate(folder)                a scan against the truth of a composed world

log.py          the log: exchanges as flat columns
importers/      logs of other tools, row by row
traffic/        worlds: pools, arrivals, honest groups, campaign families
sketch/         exchanges as integers: the only code that touches text
edges.py        who shares what with whom, by the hour (relational)
ledger.py       the same for every look of a scan, from one relational pass
tally.py        edges and pairs of one look, in numpy
codes.py        hashes as small integers
linking/        dense blocks of units that share rare fingerprints
freezing.py     clusters as they come up, frozen when first seen
evidence.py     what the frozen members did afterwards (relational)
cases.py        each cluster up to each horizon
signals/        what tells a pool from customers that share a tool
reference.py    honest clusters, and ranks among them
decision.py     e-values, tiers, resolution
watching.py     when each cluster alarmed in a log that grows
drift.py        does the reference look like this log?
judging.py      from ranks to Findings
naming.py       which accounts belong
permits.py      which of them hold a signed permission to distil, and are not named
scanning.py     the steps of one scan
results.py      what a scan says
evaluation.py   against the truth
ties.py         which member used what links the cluster
alternatives.py honest explanations and the evidence against each
picture.py      one page for people
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.guard.importers import import_log
from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.guard.scanning import ScanSettings
    from stillproof.guard.traffic.world import World

__all__ = ["calibrate", "compose", "evaluate", "import_log", "scan"]


def compose(world: World, out: Path, if_exists: str = "fail", on_event: OnEvent = ignore) -> dict[str, Any]:
    """Write a labelled world of traffic. Raises OutputExistsError where `out` holds something, unless 'replace'."""
    import shutil

    from stillproof.errors import OutputExistsError
    from stillproof.guard.traffic.writing import write_world

    if out.exists() and any(out.iterdir()):
        if if_exists != "replace" or not (out / "world.json").is_file():
            raise OutputExistsError(
                "is there already", str(out), "name a new folder, or --if-exists replace for a world"
            )
        shutil.rmtree(out)
    done = 0

    def tell(group: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        on_event(Event("compose", done, None, "groups"))

    return write_world(world, out, tell)


def scan(folder: Path, settings: ScanSettings | None = None, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Find campaigns in the log of a folder; the result is also written to guard/result.json there.

    Null of each finding: the cluster is honest, exchangeable with the reference's clusters of its class.
    Raises InputError where the folder holds no log.
    """
    import json

    from stillproof.guard.picture import write_page
    from stillproof.guard.results import scan_log
    from stillproof.guard.scanning import ScanSettings

    chosen = settings or ScanSettings()
    result = scan_log(folder, chosen, on_event)
    out = chosen.out or folder / "guard"
    (out / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False), encoding="utf-8")
    write_page(result, out / "scan.html")
    return result


def calibrate(
    folders: Sequence[Path],
    out: Path,
    source: str = "own history",
    step_h: float = 24.0,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Make a reference of the clusters in some logs, one window each. `source`: 'own history' or 'composed'. `step_h`:
    hours between two looks; scans with this reference must look as often. What a scan of one's own history against the
    composed reference tells of is set aside; `screened` is false where none comes along for that step."""
    from stillproof.guard.calibration import reference_of
    from stillproof.guard.results import composed_reference

    against = composed_reference(step_h) if source == "own history" else None
    reference = reference_of(folders, source, step_h, on_event, against)
    reference.save(out)
    counts = {f"{name}, {hours} h": n for (name, hours), n in reference.counts().items()}
    about = {"screened": against is not None, "set_aside": reference.origin.set_aside}
    return {"out": str(out), "windows": len(folders), "clusters": counts, **about}


def explain(folder: Path, campaign: str) -> dict[str, Any]:
    """The finding of one campaign of a scan, by its id ('c17'), with the honest `alternatives` to it and what
    `would_clear` its accounts, as in `stillproof.guard.alternatives`. Raises InputError for another id."""
    from stillproof.errors import InputError
    from stillproof.report import read

    result = read(folder)
    for companion in result["campaigns"]:
        if companion["id"] == campaign:
            told = {name: companion.get(name) or [] for name in ("alternatives", "would_clear")}
            return {"id": campaign, **result["findings"][companion["finding"]], **told}
    ids = ", ".join(each["id"] for each in result["campaigns"]) or "none"
    raise InputError(f"no campaign {campaign!r} in this scan", str(folder), f"campaigns here: {ids}")


def evaluate(folder: Path) -> dict[str, Any]:
    """The folder's latest scan against the truth of the composed world. Raises InputError where either is missing."""
    from stillproof.guard.evaluation import against_truth
    from stillproof.report import read

    return against_truth(
        folder, [f for f in read(folder / "guard" / "result.json")["findings"] if f["decision"] == "found"]
    )
