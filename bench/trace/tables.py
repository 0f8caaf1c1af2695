"""What the students' files say, as tables and curves: OUT/tables.md and OUT/*.svg. Nothing is measured here."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench.trace.calibrate import LEVELS, two_way_interval
from bench.trace.curves import Chart, Points, svg
from bench.trace.jobs import results
from bench.trace.robustness import TESTS

from stillproof import stats

WANTED = -10.0
"""log10 p that power is measured at."""
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
WEAKER = 75
"""Percentile of log10 p over students: three of four students do as well or better."""
FIXED_POWER = 0.9


def write(out: Path) -> str:
    """Write the tables and curves of what is there; returns the tables."""
    sections = [
        validity_over_keys,
        validity_over_models,
        stops,
        t1_power,
        anytime,
        t2_power,
        anytime_twins,
        t2_validity,
        named,
        t5_power,
        robust,
    ]
    told = [text for text in (section(out) for section in sections) if text]
    _draw(out)
    text = "\n\n".join(told) + "\n"
    (out / "tables.md").write_text(text, encoding="utf-8")
    return text


def into_page(told: str, out: Path, page: Path) -> None:
    """Put the tables between the two marks of a page, and the curves into the folder beside it that has its name."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{page} needs one line {BEGIN!r} and one line {END!r}")
    before, rest = text.split(BEGIN)
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    charts = sorted(out.glob("*.svg"))
    for chart in charts:
        shutil.copy(chart, folder / chart.name)
    shown = "\n".join(f"![{chart.stem}]({folder.name}/{chart.name})" for chart in charts)
    page.write_text(f"{before}{BEGIN}\n{told}\n{shown}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def validity_over_keys(out: Path) -> str:
    rows = []
    for kind, found in results(out, "null_keys").items():
        for mode in [name for name in found[0]["result"] if name not in ("origin", "keys")]:
            keys = [row["result"]["keys"] for row in found]
            cells: list[str] = []
            for place, _ in enumerate(LEVELS):
                alarms = [row["result"][mode]["alarms"][place] for row in found]
                cells.append(_share(alarms, keys))
            sd = float(
                np.mean([row["result"][mode]["z_sd"] for row in found if row["result"][mode]["n"]] or [math.nan])
            )
            n = float(np.mean([row["result"][mode]["n"] for row in found]))
            rows.append((kind, mode, len(found), sum(keys), f"{n:.0f}", *cells, f"{sd:.4f}"))
    head = (
        "text",
        "mode",
        "students",
        "p-values",
        "tuples each",
        *(f"share with p <= {level:g}" for level in LEVELS),
        "sd of z",
    )
    return table("V1a: innocent students, keys that marked nothing", head, rows)


def _share(alarms: Sequence[int], keys: Sequence[int]) -> str:
    """With an interval over students: the keys of one student share its text."""
    if sum(alarms) == 0 or len(alarms) < 3:
        return f"{sum(alarms) / sum(keys):.2e}"
    found = stats.cluster_bootstrap(alarms, keys, seed=0, bounds=(0, 1))
    return f"{found.estimate:.2e} [{found.low:.1e}, {found.high:.1e}]"


def validity_over_models(out: Path) -> str:
    rows = []
    for scheme, found in results(out, "null_models").items():
        for mode in [name for name in found[0]["result"] if name != "origin"]:
            log10_p = np.array([row["result"][mode] for row in found], dtype=np.float64)
            tried = np.isfinite(log10_p)
            share, low, high = two_way_interval(np.where(tried, log10_p <= -2, np.nan), seed=0)
            rows.append(
                (
                    scheme,
                    mode,
                    "{} x {}".format(*log10_p.shape),
                    f"{tried.sum():,}",
                    f"{share:.2e}",
                    f"[{low:.1e}, {high:.1e}]",
                    f"{np.nanmin(log10_p):.1f}",
                )
            )
    head = (
        "mark", "mode", "students x corpora", "of these tried", "share with p <= 1e-2", "95%, two-way bootstrap",
        "smallest log10 p",
    )  # fmt: skip
    return table("V1b: innocent students, the true keys of corpora that they never saw", head, rows)


def stops(out: Path) -> str:
    rows = []
    for scheme, found in results(out, "null_stops").items():
        audits = sum(row["result"]["audits"] for row in found)
        for alpha in found[0]["result"]["alarms"]:
            alarms = sum(row["result"]["alarms"][alpha] for row in found)
            rows.append((scheme, audits, found[0]["result"]["answers"], alpha, alarms, f"{alarms / audits:.1e}"))
    head = ("mark", "audits", "looks each", "alpha", "false alarms", "share")
    return table("Audits of innocent students with an early stop", head, rows)


def curve(found: Sequence[dict[str, Any]], mode: str) -> Points:
    """(tokens, log10 p of the weaker quartile)."""
    counts = [int(n) for n in found[0]["result"][mode]]
    return [(n, float(np.percentile([row["result"][mode][str(n)] for row in found], WEAKER))) for n in counts]


def needed(points: Points, wanted: float = WANTED) -> float | None:
    """Where a curve first comes to `wanted`, between its points along straight lines in log n and log10 p; its first
    point, an upper bound, where that is there already."""
    for (n, p), (m, q) in zip([points[0], *points], points, strict=False):
        if q <= wanted:
            part = 1.0 if p == q else (wanted - p) / (q - p)
            return 10 ** (math.log10(n) + part * (math.log10(m) - math.log10(n)))
    return None


def t1_power(out: Path) -> str:
    rows = []
    for group, found in results(out, "marked").items():
        curves = {mode: curve(found, mode) for mode in ("closed", "closed once", "open")}
        most = curves["closed"][-1][0]
        at_most = [f"{curves[mode][-1][1]:.1f}" for mode in curves]
        closed, open_ = needed(curves["closed"]), needed(curves["open"])
        ratio = "" if open_ is None else f"{closed / open_:.1f}" if closed else f"> {most / open_:.1f}"
        rows.append((group, len(found), f"{most:,.0f}", *at_most, _tokens(closed, most), _tokens(open_, most), ratio))
    head = (
        "mark, share marked",
        "students",
        "tokens scored",
        "closed",
        "closed, each tuple once",
        "open",
        "closed: tokens to 1e-10, at most",
        "open: tokens to 1e-10, at most",
        "closed / open",
    )
    return table("T1: log10 p of the weaker quartile of students", head, rows)


def _tokens(n: float | None, most: float) -> str:
    return f"> {most:,.0f}" if n is None else f"{n:,.0f}"


def anytime(out: Path) -> str:
    rows = [_stopped(group, found) for group, found in results(out, "marked").items()]
    title = "Early stops at alpha 1e-3 on guilty students, closed mode"
    return table(title, ("mark, share marked", *_STOPPED), rows)


def anytime_twins(out: Path) -> str:
    groups = results(out, "twins").items()
    rows = [_stopped(group, found) for group, found in groups if all("anytime" in row["result"] for row in found)]
    title = "Early stops at alpha 1e-3, twins with all three controls; a query is a pair"
    return table(title, ("student", *_STOPPED), rows)


_STOPPED = ("audits", "stopped", "mean queries", f"fixed n for power {FIXED_POWER:.0%}", "ratio")


def _stopped(group: str, found: Sequence[dict[str, Any]]) -> tuple[object, ...]:
    audits = [audit for row in found for audit in row["result"]["anytime"]]
    fixed = _fixed_n(audits)
    queries = [audit["stopped"] or audit["queries"] for audit in audits]
    stopped = sum(audit["stopped"] is not None for audit in audits)
    mean = float(np.mean(queries))
    ratio = "" if fixed is None else f"{mean / fixed:.2f}"
    return group, len(audits), f"{stopped / len(audits):.0%}", f"{mean:.0f}", fixed or "more than asked", ratio


def _fixed_n(audits: Sequence[dict[str, Any]]) -> int | None:
    """The least number of queries, fixed in advance, at which FIXED_POWER of the audits find at 1e-3."""
    for n in audits[0]["fixed"]:
        if np.mean([audit["fixed"][n] <= -3 for audit in audits]) >= FIXED_POWER:
            return int(n)
    return None


def t2_power(out: Path) -> str:
    rows = []
    for group, found in results(out, "twins").items():
        for score, counts in found[0]["result"].items():
            if score.endswith(LEDGERS) or score == "anytime" or not counts or "other" in group:
                continue
            cells = []
            for n in counts:
                values = [row["result"][score][n] for row in found]
                cells.append(f"{n}: " + ("inconclusive" if None in values else f"{np.percentile(values, WEAKER):.1f}"))
            last = [row["result"][score][list(counts)[-1]] for row in found]
            reached = _proportion(sum(p is not None and p < WANTED for p in last), len(last))
            rows.append((group, score, len(found), ", ".join(cells), _quartiles(last), reached))
    head = ("student", "score", "students", "pairs: log10 p, weaker quartile", "all pairs: quartiles", "p < 1e-10")
    return table("T2: log10 p of students that learned from what was served", head, rows)


LEDGERS = ", other ledgers"


def t2_validity(out: Path) -> str:
    rows = []
    for group, found in results(out, "twins").items():
        for score in [name for name in found[0]["result"] if name.endswith(LEDGERS)]:
            values = np.array([row["result"][score] for row in found], dtype=float)
            if values.size:
                ks = stats_of_uniform(10**values)
                shares = [
                    f"{int((values <= math.log10(a)).sum())} ({a * values.size:g} expected)" for a in (0.01, 0.05, 0.2)
                ]
                rows.append((group, score.removesuffix(LEDGERS), "{} x {}".format(*values.shape), *shares, f"{ks:.2f}"))
    head = ("student", "score", "students x ledgers", "p <= 0.01", "p <= 0.05", "p <= 0.2", "KS test of uniform, p")
    return table("T2: innocent students, ledgers that they had no part in", head, rows)


def stats_of_uniform(p: Any) -> float:
    from scipy.stats import kstest

    return float(kstest(np.ravel(p), "uniform").pvalue)


def _quartiles(values: Sequence[float | None]) -> str:
    if None in values:
        return ""
    a, b, c = np.percentile(np.array(values, dtype=float), (25, 50, 75))
    return f"{a:.1f}, {b:.1f}, {c:.1f}"


def named(out: Path) -> str:
    rows = []
    for group, found in results(out, "accounts").items():
        for score in found[0]["result"]:
            own = [row["result"][score] for row in found]
            right = _proportion(sum("guilty" in row["named"] for row in own), len(own))
            wrong = sum(len(set(row["named"]) - {"guilty"}) for row in own)
            p = [row["guilty_log10_p"] for row in own]
            accounts = found[0]["params"]["accounts"]
            rows.append((group, score, len(found), accounts, right, wrong, f"{np.median(p):.1f}", f"{max(p):.1f}"))
    head = (
        "student", "score", "students", "accounts", "right account named", "other accounts named",
        "median log10 p after Holm", "weakest",
    )  # fmt: skip
    return table("T2 by account, family-wise error 1e-3", head, rows)


def robust(out: Path) -> str:
    rows = []
    found_of = results(out, "attacks")
    for group, found in found_of.items():
        tried = found[0]["result"]
        for attack in [name for name in tried if isinstance(tried[name], dict) and name != "overlap"]:
            made = [test for test in TESTS if test in tried[attack]]
            values = np.array([[row["result"][attack][test] or 0.0 for test in made] for row in found])
            # The smallest p-value times the number of tests: Holm's of the best.
            best = np.minimum(values.min(axis=1) + math.log10(len(made)), 0.0)
            of_test = dict(zip(made, values.T, strict=True))
            cells = [f"{np.percentile(of_test[test], WEAKER):.1f}" if test in of_test else "" for test in TESTS]
            cards = _proportion(int(np.sum(of_test["T5"] < -3)), len(found))
            rows.append((group, attack, len(found), *cells, cards, _proportion(int(np.sum(best < -6)), len(found))))
    shares = [row["result"]["overlap"] for found in found_of.values() for row in found if "overlap" in row["result"]]
    head = ("mark", "attack", "students", *TESTS, "T5 < 1e-3", "smallest after Holm < 1e-6")
    told = table("Attacks: log10 p of the weaker quartile", head, rows)
    if not shares:
        return told
    means = ", ".join(f"{n}-grams {np.mean([share[n] for share in shares]):.2f}" for n in shares[0])
    return f"{told}\n\nOverlap of paraphrase and original: {means}."


def t5_power(out: Path) -> str:
    rows = []
    for group, found in results(out, "cards").items():
        p = [row["result"]["log10_p"] or 0.0 for row in found]
        share = float(np.mean([row["result"]["share"] or 0.0 for row in found]))
        overlaps = [row["result"]["overlap"] for row in found if "overlap" in row["result"]]
        told = ", ".join(f"{n} {np.mean([one[n] for one in overlaps]):.2f}" for n in overlaps[0]) if overlaps else ""
        reached = _proportion(sum(value < -3 for value in p), len(p))
        cards = found[0]["result"]["cards"]
        rows.append((group, len(found), cards, f"{share:.0%}", _quartiles(p), reached, told))
    head = (
        "learned from",
        "students",
        "cards",
        "on their side",
        "log10 p: quartiles",
        "p < 1e-3",
        "overlap of n-grams",
    )
    return table("T5: cards, read by log-probabilities", head, rows)


def _proportion(k: int, n: int) -> str:
    """With its exact 95% interval."""
    found = stats.proportion_interval(k, n)
    return f"{k} of {n} [{found.low:.0%}, {found.high:.0%}]"


def _draw(out: Path) -> None:
    """One chart a share, modes side by side; one a group of twins; and of validity."""
    t1 = results(out, "marked")
    for share in sorted({group.split(", ")[1] for group in t1}):
        own = {group.split(", ")[0]: found for group, found in t1.items() if group.endswith(f", {share}")}
        for mode in ("closed", "open"):
            chart = Chart(
                f"T1, {mode} mode, {share} of the data marked", "tokens scored", "log10 p, weaker quartile", WANTED
            )
            lines = {name: curve(found, mode) for name, found in own.items()}
            _save(out / f"t1_{mode}_{share.rstrip('%')}.svg", chart, lines)
    for group, found in results(out, "twins").items():
        kept = found[0]["result"].items()
        scores = [name for name, counts in kept if counts and name != "anytime" and not name.endswith(LEDGERS)]
        if "other" not in group and scores:
            chart = Chart(f"T2, students of {group}", "pairs", "log10 p, weaker quartile", WANTED, floor=-80.0)
            _save(out / f"t2_{_file(group)}.svg", chart, {name: curve(found, name) for name in scores})
    models = results(out, "null_models")
    for scheme, found in models.items():
        modes = [name for name in found[0]["result"] if name != "origin"]
        lines = {_short(mode): _cumulative(_tried(found, mode)) for mode in modes}
        lines = {"exact": [(10.0**-x, 10.0**-x) for x in (3.0, 0.0)], **lines}
        chart = Chart(f"V1b, {scheme}: innocent students under true keys", "1e6 x p", "share at or below", log_y=True)
        lines = {name: [(x * 1e6, y) for x, y in points] for name, points in lines.items()}
        _save(out / f"v1b_{scheme.replace(' ', '_')}.svg", chart, lines)


def _file(group: str) -> str:
    return group.replace(",", "").replace(" ", "_")


def _short(mode: str) -> str:
    return mode.replace(", marked text given", ", marked *").replace(", no mark near", "").split(":")[0]


def _tried(found: Sequence[dict[str, Any]], mode: str) -> Any:
    values = np.array([row["result"][mode] for row in found], dtype=np.float64)
    return values[np.isfinite(values)]


def _cumulative(log10_p: Any) -> Points:
    """(level, share at or below it), down to the level that so many p-values resolve."""
    levels = [x / 4 for x in range(0, -17, -1)]
    shares = [(10**level, float(np.mean(log10_p <= level))) for level in levels]
    return [(level, share) for level, share in shares if share > 0]


def _save(path: Path, chart: Chart, lines: Mapping[str, Points]) -> None:
    if any(lines.values()):
        path.write_text(svg(chart, lines), encoding="utf-8")
