"""What a whole `make demo` measured, brought to the pages: bench/demo/small.json, docs/story.svg, README, figures.

    make demo && python -m bench.demo.page runs/demo

Writes what stands between `<!-- demo: begin -->` and `<!-- demo: end -->` in README.md and docs/demo.md, and README's
entries of bench/figures.json.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillproof.demo.budget import READ_BY

ROOT = Path(__file__).resolve().parents[2]
FILE, COMMAND = "bench/demo/small.json", "make demo"
TESTS = ("radioactivity", "twins", "cards")
LEARNED = {
    "licensed": "its own answers, by a signed grant",
    "copier": "the campaign's answers",
    "innocent": "other text",
}
BEGIN, END = "<!-- demo: begin -->\n", "<!-- demo: end -->\n"

Told = dict[str, Any]


def measured(folder: Path) -> Told:
    """The story's result, the second act's numbers, and the time of the whole; no path of this machine."""
    told = _read(folder / "result.json")
    second = _read(folder / "distil" / "result.json")
    acts = {name: _act(second[name]) for name in ("laptop", "black_box")}
    kept = {key: value for key, value in told.items() if key not in ("out", "report")}
    act = {**acts, "budget": second["budget"], "duration_s": second["duration_s"]}
    return {**kept, "second_act": act, "whole": _read(folder / "whole.json")}


def _act(result: Told) -> Told:
    retention = {key: value for key, value in result["retention"].items() if key not in ("findings", "elsewhere")}
    keys = ("name", "n_tokens", "duration_s", "tokens_per_s", "peak_rss_mb", "dtype")
    stages = {name: stage["duration_s"] for name, stage in result["stages"].items()}
    return {**{key: result[key] for key in keys}, "retention": retention, "stages_s": stages}


def _read(path: Path) -> Told:
    return dict(json.loads(path.read_text(encoding="utf-8")))


class Page:
    """Lines of a page, each with the figures that it shows."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self.lines: list[str] = []
        self.figures: list[dict[str, Any]] = []

    def value(self, key: str) -> float:
        value: Any = self._told
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return float(value)

    def say(self, text: str, *cells: tuple[str, str]) -> None:
        """A line, {} for each (key, format); * and a factor may follow a key."""
        shown = []
        for key, how in cells:
            path, star, factor = key.partition("*")
            shown.append(format(self.value(path) * (float(factor) if star else 1), how).replace("-0.0", "0.0"))
        line = text.format(*shown)
        self.lines.append(line)
        if cells:
            self.figures.append({"text": line, "keys": [key for key, _ in cells], "file": FILE, "command": COMMAND})


def _log(page: Page, key: str) -> tuple[str, str]:
    return key, ".1f" if abs(page.value(key)) < 100 else ".0f"


def readme(told: Told) -> Page:
    """README's part."""
    page = Page(told)
    page.say(
        "The scan names {} of the campaign's {} accounts, {} of {} honest ones and not the holder of the grant;",
        ("guard.accounts_named", ".0f"), ("guard.campaign_accounts", ".0f"), ("honest_flagged", ".0f"),
        ("guard.honest_accounts", ",.0f"),
    )  # fmt: skip
    page.say(
        "{} answers are served. This act took {} s and {} GB. log10 of p-values of the three students:",
        ("served.n_exchanges", ",.0f"), ("duration_s", ".0f"), ("peak_rss_mb*0.001", ".1f"),
    )  # fmt: skip
    head = "student of", *TESTS, "smallest after Holm", "KL to the served model, nats"
    page.say("")
    page.say(f"| {' | '.join(head)} |")
    page.say(f"|{'---|' * len(head)}")
    for name, what in LEARNED.items():
        row = told["trace"][name]
        best = min(TESTS, key=lambda test: row[test]["log10_p_adjusted"] or 0.0)
        cells = [_log(page, f"trace.{name}.{test}.log10_p") for test in TESTS]
        cells.append(_log(page, f"trace.{name}.{best}.log10_p_adjusted"))
        text = f"| {what} ({name}) | {{}} | {{}} | {{}} | **{{}}** | {{}} |"
        page.say(text, *cells, (f"retention.{name}.kl_nats", ".2f"))
    page.say("")
    _second_act(page, told)
    return page


def _second_act(page: Page, told: Told) -> None:
    act = "second_act"
    words = {name: told[act]["laptop"]["retention"][f"kl_{name}_nats"] for name in ("student", "control")}
    nearer = "nearer to the teacher than" if words["student"] < words["control"] else "no nearer to the teacher than"
    page.say(
        f"In the second act the student of {{}} tokens is {nearer} its control: {{}} to {{}} nats, untrained {{}}.",
        (f"{act}.laptop.n_tokens", ",.0f"), *((f"{act}.laptop.retention.kl_{name}_nats", ".2f")
        for name in ("student", "control", "init")),
    )  # fmt: skip
    right = f"{act}.black_box.retention"
    page.say(
        "Of {} messages in wordings that it never saw, the student of the endpoint's {} answers gets {} right, the",
        (f"{right}.n_answers", ",.0f"), (f"{act}.budget.parts.black_box.amounts.messages", ",.0f"),
        (f"{right}.exact_match_student", ".1%"),
    )  # fmt: skip
    page.say(
        "control that read gold labels {}, the endpoint itself {}.",
        (f"{right}.exact_match_control", ".1%"), (f"{right}.exact_match_teacher", ".1%"),
    )  # fmt: skip
    cut = [
        (name, part, what)
        for part, names in READ_BY.items()
        for name, what in names.items()
        if told[act]["budget"]["parts"][part]["amounts"][name] < told[act]["budget"]["recipe"][name]
    ]
    page.say("")
    if cut:
        page.say("To end in time on this machine it was cut, before it began, to")
    for number, (name, part, what) in enumerate(cut, 1):
        budget = f"{act}.budget"
        end = "." if number == len(cut) else ","
        page.say(
            f"{{}} of {{}} {what}{end}",
            (f"{budget}.parts.{part}.amounts.{name}", ",.0f"), (f"{budget}.recipe.{name}", ",.0f"),
        )  # fmt: skip
    if cut:
        page.say('So little hardly teaches a task: `make demo ARGS="--minutes 1000"` plays all of it.')
    page.say(
        f"The whole `make demo` took {{}} s, set-up of {{}} s included, on {{}} cores of {_machine(told)}.",
        ("whole.duration_s", ".0f"), ("whole.setup_s", ".0f"), ("whole.cores", ".0f"),
    )  # fmt: skip


def _machine(told: Told) -> str:
    """The processor in words without digits, which would be figures."""
    maker = re.match(r"[A-Za-z]+ [A-Za-z]+", re.sub(r"\(\w*\)", "", told["whole"]["processor"]))
    return f"an {maker[0]}" if maker else "this machine"


def table(told: Told) -> list[str]:
    """The rows of docs/demo.md."""

    def logs(name: str) -> str:
        return ", ".join(f"{test} {told['trace'][name][test]['log10_p']:.1f}" for test in TESTS)

    def best(name: str) -> str:
        return f"{told['trace'][name]['best_log10_p_adjusted'] or 0.0:.1f}"

    cpu = {name: stage["cpu_s"] for name, stage in told["stages"].items()}
    training = sum(value for name, value in cpu.items() if name == "models" or name.startswith("learn-"))
    audits = sum(value for name, value in cpu.items() if name.startswith("trace-"))
    closed = ", ".join(f"{name} {told['retention'][name]['gap_closed']:.0%}" for name in LEARNED)
    guard, flagged = told["guard"], told["honest_flagged"]
    rows = {
        "campaign": f"{guard['accounts_named']} of {guard['campaign_accounts']} accounts named; {flagged} of "
        f"{guard['honest_accounts']:,} honest accounts; the licensed customer, whose grant guard read, was not named",
        **{f"{name}, log10 p": f"{logs(name)}; best after Holm {best(name)}" for name in LEARNED},
        "part of the start's KL that was closed (below zero: it moved away)": closed,
        "time": f"{told['duration_s']:.0f} s; processor {told['cpu_s']:.0f} s: training {training:.0f}, serving "
        f"{cpu['serve']:.0f}, audits {audits:.0f}, guard {cpu['guard']:.0f}",
        "peak memory": f"{told['peak_rss_mb']:,} MB",
    }
    return ["| what | figure |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows.items())]


def picture(report: str) -> str:
    """The report's picture of the p-values as a file of its own."""
    (drawn,) = re.findall(r'<svg class="p-values".*?</svg>', report, re.DOTALL)
    style = re.findall(r"<style>(.*?)</style>", report, re.DOTALL)[0].replace("color-scheme: light dark; ", "")
    head = '<svg xmlns="http://www.w3.org/2000/svg" class="p-values" width="800"'
    opened = drawn.replace('<svg class="p-values"', head, 1)
    at = opened.index(">") + 1
    return f"{opened[:at]}<style>{style} svg {{ background: var(--ground); }}</style>{opened[at:]}\n"


def replaced(page: str, part: str) -> str:
    """A page with another part between its marks. Raises ValueError where the marks are not there."""
    start, stop = page.index(BEGIN) + len(BEGIN), page.index(END)
    return page[:start] + part + page[stop:]


def with_figures(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [*(figure for figure in old if figure["file"] != FILE), *new]


def main(words: Sequence[str]) -> int:
    folder = Path(words[0] if words else "runs/demo")
    told = measured(folder)
    _write(ROOT / FILE, json.dumps(told, indent=1))
    (ROOT / "docs" / "story.svg").write_text(picture((folder / "report.html").read_text(encoding="utf-8")), "utf-8")
    page = readme(told)
    block = "\n".join(["<!-- measured: begin -->", *page.lines, "<!-- measured: end -->"])
    for path, part in ((ROOT / "README.md", block), (ROOT / "docs" / "demo.md", "\n".join(table(told)))):
        path.write_text(replaced(path.read_text(encoding="utf-8"), part + "\n"), encoding="utf-8")
    figures = ROOT / "bench" / "figures.json"
    told_figures = with_figures(_read(figures)["figures"], page.figures)
    _write(figures, json.dumps({"figures": told_figures}, indent=1, ensure_ascii=False))
    return 0


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
