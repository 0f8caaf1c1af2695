"""The report: the story in pictures, each with the command that computes it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.demo.learning import STUDENTS
from stillproof.demo.models import HOUSE, START
from stillproof.demo.tracing import TESTS
from stillproof.report.text import number

if TYPE_CHECKING:
    from stillproof.demo.sizes import Size

ALPHA = 1e-3
"""Level of the audits."""

LIMITS = (
    "A pool that guard names acts as one; who runs it is not said. Whether anything is done is a person's decision.",
    "A p-value says that a student learned from text that our key or our coins shaped. Not who trained it, nor how the "
    "text was come by.",
    "A test that did not find proves nothing of the contrary.",
    "The customers' texts are composed, and so are their rhythms; the answers to the campaign and to the licensed "
    "customer, the students and all p-values are real.",
    "One run is one draw. What the tests do under their nulls is measured in docs/trace_calibration.md.",
)


def write_report(size: Size, out: Path, result: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Write report.html into the demo's folder."""
    from stillproof.report.story import write_story

    replayed = f"stillproof demo --size {size.name} --out . --if-exists resume --json"
    values = {
        "title": f"stillproof demo, size {size.name}",
        "lead": "One model is served and marked. A licensed customer and a campaign of many accounts learn from it. "
        "What was served proves which student learned from whom. Commands are for the folder of this page.",
        "summary": _summary(result),
        "whole_again": replayed,
        "served": _served(size, told),
        "served_again": "stillproof store stats served\nstillproof keys verify --keys keys",
        **_guard(out, result),
        "students_said": _students_said(told),
        "retention": _retention(result),
        "retention_again": f"rm stages/retention.json\n{replayed}",
        **_trace(result),
        **_lineage(result, told),
        "limits": LIMITS,
    }
    write_story(values, out / "report.html")


def _summary(result: Mapping[str, Any]) -> list[tuple[str, str, bool | None]]:
    best = {name: result["trace"][name]["best_log10_p_adjusted"] for name in STUDENTS}
    return [
        ("campaign found", _yes(result["campaign_found"]), bool(result["campaign_found"])),
        ("honest accounts flagged", number(result["honest_flagged"]), result["honest_flagged"] == 0),
        ("licensed customer flagged", number(result["grant_flagged"]), result["grant_flagged"] == 0),
        *((f"{name}: best log10 p after Holm", number(best[name]), None) for name in STUDENTS),
        ("bundles replayed", _yes(result["bundle_replayed"]), bool(result["bundle_replayed"])),
        ("seconds", number(result["duration_s"]), None),
        ("peak memory, MB", number(result["peak_rss_mb"]), None),
    ]


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _served(size: Size, told: Mapping[str, Any]) -> list[tuple[str, str]]:
    served = told["serve"]
    return [
        ("exchanges in the store", number(served["n_exchanges"])),
        ("of the licensed customer", number(served["n_licensed"])),
        ("share of calls with a twin", number(size.twins)),
        ("watermark", "Gumbel, windows of 1 token, a second key for a tenth of the tokens"),
        ("evidence cards", "one scope, all forms, a coin for each account and form"),
    ]


def _guard(out: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    from stillproof.guard.drawings import graph, timeline, waterfall
    from stillproof.report import read
    from stillproof.report.campaigns import campaigns_of

    scan, found = read(out / "log" / "guard" / "result.json"), result["guard"]
    told = next((one for one in campaigns_of(scan) if one.decision == "found" and one.finding.get("accounts")), None)
    said = (
        f"Of {number(found['honest_accounts'])} honest accounts, one licensed customer and a campaign of "
        f"{number(found['campaign_accounts'])} accounts, {number(found['accounts_named'])} accounts were named. "
        f"The scan read {number(scan['n_exchanges'])} exchanges."
    )
    row: Mapping[str, Any] = {} if told is None else told.drawn
    return {
        "guard_said": said,
        "timeline": timeline(row.get("timeline") or (), row.get("frozen_iso")),
        "graph": graph(row.get("graph") or {}),
        "waterfall": None if told is None else waterfall(told.signals),
        "guard_again": "stillproof guard scan log --grant grant.json --grantor grantor.pem.pub --html scan.html --json",
    }


def _students_said(told: Mapping[str, Any]) -> str:
    counts = told["gather"]
    return (
        f"Same start, same recipe, same seed. The licensed student learned {number(counts['licensed'])} answers under "
        f"its grant, the copier {number(counts['copier'])} answers that the campaign collected, the innocent "
        f"{number(counts['innocent'])} answers that no model wrote. stillproof distill refused the copier: "
        f"{told['learn-copier']['distill_refused']}."
    )


def _retention(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    from stillproof.report.story import bars

    rows, first = result["retention"], result["retention"][STUDENTS[0]]
    charts = []
    for title, key, start, top in (
        ("KL to the house model on held-out prompts, nats a token (lower is nearer)", "kl_nats", "kl_start_nats", None),
        ("Agreement on the likeliest token (higher is nearer)", "agreement", "agreement_start", 1.0),
    ):
        values = [("start", first[start], number(first[start]))]
        values += [(name, rows[name][key], number(rows[name][key])) for name in STUDENTS]
        charts.append({"title": title, **bars(values, top)})
    return charts


def _trace(result: Mapping[str, Any]) -> dict[str, Any]:
    from stillproof.report.story import p_axis

    trace = result["trace"]
    rows = [
        (name, test, number(row["log10_p"]), number(row["log10_p_adjusted"]), f"{number(row['n'])} {row['n_unit']}",
         row["decision"])
        for name in STUDENTS for test in TESTS for row in (trace[name][test],)
    ]  # fmt: skip
    keys = {"radioactivity": "mark.json", "twins": "keys/coins.v1.key", "cards": "keys/cards.v1.key"}
    again = [
        f"stillproof trace replay {trace[name][test]['bundle']} --key {keys[test]} --json"
        for name in STUDENTS
        for test in TESTS
    ]
    return {
        "trace_said": "Nine tests, three a student; Holm pays for all nine. The p-values are exact by design: they "
        "rest on a key and on coins that were committed to before the first answer.",
        "p_axis": p_axis(trace, TESTS, ALPHA),
        "p_rows": rows,
        "whose": [(f"{name}, {test}", _named(trace[name]["accounts_named"][test]))
                  for name in STUDENTS for test in ("twins", "cards")],
        "trace_again": "\n".join(again),
    }  # fmt: skip


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number(n)} of the {group}" for group, n in counts.items())


def _lineage(result: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    from stillproof.report.story import tree

    edges: list[tuple[str, str, str, str]] = []
    rows: list[tuple[str, str]] = []
    again: list[str] = []
    for name in STUDENTS:
        lineage = told["descent"][name]["lineage"]
        grown = lineage["lineage"]
        own = [edge for edge in grown["edges"] if edge["child"] == grown["root"]]
        declared = {(edge["parent"], edge["tie"]): edge["state"] for edge in own}
        for (parent, tie), state in declared.items():
            kind = "tested" if state == "tested" else "declared"
            edges.append((name, parent, kind, f"{name} {tie} {parent}: {state}"))
        knows_house = any(parent == HOUSE for parent, _ in declared)
        best = result["trace"][name]["best_log10_p_adjusted"]
        if (
            not knows_house
            and best is not None
            and any(result["trace"][name][test]["decision"] == "found" for test in TESTS)
        ):
            said = f"{name} learned from what {HOUSE} served: log10 p {number(best)}, declared by nobody"
            edges.append((name, HOUSE, "undeclared", said))
        weights = told["descent"][name]["weights"]
        said = "; ".join(f"weights and {parent}: {row['decision']}, log10 p {number(row['log10_p'])}"
                         for parent, row in weights.items())  # fmt: skip
        rows.append((name, f"{said}; terms: {lineage['decision']}"))
        folder = f"students/{name}/student"
        again.append(f"stillproof trace lineage {folder} --parent {START}={START} --parent {HOUSE}={HOUSE} --json")
        again += [f"stillproof trace weights {parent} {folder} --json" for parent in (START, HOUSE)]
    rows += [(f"duty: {duty['duty']}", duty["state"]) for duty in result["duties"]]
    certificate = told["descent"]["licensed"]["certificate"]
    if certificate is not None:
        rows.append(
            ("certificate of the licensed student", "whole" if certificate["whole"] else str(certificate["gate"]))
        )
        again.append("stillproof trace verify students/licensed/student --json")
    nodes = [(HOUSE, 0), (START, 0), *((name, 1) for name in STUDENTS)]
    return {"tree": tree(nodes, edges), "lineage": rows, "lineage_again": "\n".join(again)}
