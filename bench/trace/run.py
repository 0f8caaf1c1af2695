"""Calibration and power of trace, on students trained here. Resumable: each student's result is a file.

    python -m bench.trace.run calibrate [--scale full] [--data FOLDER] [--workers N] [--out FOLDER]
    python -m bench.trace.run power     ...
    python -m bench.trace.run tables    --out FOLDER [--page docs/trace_calibration.md]

`tables` only reads what is on disk; `--page` puts tables and curves into a page.

`calibrate` is validity (innocent students), `power` is what is found of guilty ones, attacks included. `--scale full`
is the plan of docs/trace_calibration.md; `small` (default) has the same cases with fewer students. Run again after a
break, or with a larger scale, and only what is missing is made. `--data` is a folder with gsm8k/train.jsonl and
clinc/data_full.json; without it text is composed here.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.trace import calibrate, power, robustness, summary, tables
from bench.trace.jobs import Case, Measure, run_missing
from bench.trace.texts import KINDS
from bench.trace.world import Sizes, prepare

from stillproof.watermark import Scheme

HERE = Path(__file__).resolve().parent

MEASURES: dict[str, Measure] = {
    "null_keys": calibrate.null_keys,
    "null_models": calibrate.null_models,
    "null_stops": calibrate.null_stops,
    "marked": power.marked,
    "twins": power.twins,
    "accounts": power.accounts,
    "attacks": robustness.attacks,
    "cards": robustness.cards,
}

MARKS = {
    "gumbel k1": Scheme("gumbel", 1),
    "gumbel k2": Scheme("gumbel", 2),
    "gumbel k4": Scheme("gumbel", 4),
    "green k1 d1": Scheme("green", 1, delta=1.0),
    "green k1 d2": Scheme("green", 1, delta=2.0),
    "green k1 d3": Scheme("green", 1, delta=3.0),
    "green k2 d2": Scheme("green", 2, delta=2.0),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How many of what. A smaller scale's students are the first of a larger one's, where their settings agree."""

    innocents: int = 200
    of_other_kinds: int = 50
    keys: int = 5_000
    corpora: int = 200
    given: int = 40
    """Of how many corpora each student is given marked text: that is most of the cost of V1b."""
    stop_students: int = 20
    stop_keys: int = 500
    stop_answers: int = 200
    students: int = 20
    shares: tuple[float, ...] = (1.0, 0.5, 0.2, 0.1, 0.01)
    marked_tokens: int = 160_000
    scored: int = 500_000
    pairs: tuple[int, ...] = (1_000, 5_000)
    pool: int = 5_000
    """Pairs that the teacher draws, once for all students."""
    ledgers: int = 20
    """That each innocent student of the twin test is tried on."""
    others: int = 999
    carded: tuple[int, ...] = (2_500, 5_000)
    attacked: int = 20
    attacked_more: int = 20
    attacked_pairs: int = 600
    attacked_marked: int = 3_333
    """Pairs where the answers carry a mark, too: a mark needs more text."""


SCALES = {
    "full": Scale(),
    "medium": Scale(
        shares=(1.0, 0.5, 0.2, 0.1),
        given=20,
        scored=30_000,
        pairs=(1_000, 2_500),
        others=220,
        carded=(2_500,),
        attacked_more=1,
        attacked_marked=600,
    ),
    "small": Scale(
        innocents=18,
        of_other_kinds=3,
        corpora=24,
        given=24,
        students=4,
        shares=(1.0, 0.3),
        scored=100_000,
        others=220,
        attacked=4,
        attacked_more=1,
    ),
    "tiny": Scale(
        innocents=3,
        of_other_kinds=1,
        keys=50,
        corpora=3,
        given=2,
        stop_students=2,
        stop_keys=20,
        stop_answers=10,
        students=1,
        shares=(1.0,),
        marked_tokens=960,
        scored=3_000,
        pairs=(40,),
        pool=40,
        carded=(40,),
        others=4,
        attacked=1,
        attacked_more=1,
        attacked_pairs=40,
        attacked_marked=20,
    ),
}
ATTACKS: dict[str, list[Any]] = {
    "arms": ["none", "paraphrase", "3x clean fine-tuning", "int8", "int4"],
    "shares": [],
    "temperatures": [],
}
MORE = {
    "arms": [
        "innocent",
        "paraphrase, half of all forms reworded",
        "student of the student",
        "30% marked",
        "10% marked",
    ],
    "shares": [0.3, 0.1],
    "temperatures": [0.7, 1.3],
}
TINY_WORLD = Sizes(chars=200_000, teacher_tokens=20_000, base_tokens=20_000, plain_rows=120)


def cases_of(what: str, scale: Scale) -> list[Case]:
    """A run that is stopped early has some students of every group, the costly ones excepted, which come last."""
    return _calibration(scale) if what == "calibrate" else _power(scale)


def _calibration(scale: Scale) -> list[Case]:
    cases: list[Case] = []
    for kind in KINDS:
        n = scale.innocents if kind == "prose" else scale.of_other_kinds
        cases += _cases("null_keys", kind, n, {"kind": kind, "keys": scale.keys, "rows": calibrate.TRAINED_ROWS})
    for name in calibrate.SCHEMES:
        params = {"corpora": scale.corpora, "given": scale.given, "rows": calibrate.TRAINED_ROWS}
        cases += _cases("null_models", name, scale.innocents, params)
    for name in calibrate.SCHEMES:
        params = {"keys": scale.stop_keys, "answers": scale.stop_answers}
        cases += _cases("null_stops", name, scale.stop_students, params)
    return cases


def _power(scale: Scale) -> list[Case]:
    cases: list[Case] = []
    common = {"marked_tokens": scale.marked_tokens, "scored": scale.scored}
    for place, share in enumerate(scale.shares):
        for name, scheme in MARKS.items():
            params = {**common, "scheme": scheme.to_json(), "share": share}
            # What costs much and tells least comes last: a share of 1% is 16 million tokens a student.
            stage = 0 if place == 0 else 2 + place
            cases += _cases("marked", f"{name}, {share:.0%}", scale.students, params, stage=stage, alone=share < 0.2)
    for pairs in scale.pairs:
        for epochs, guilty in ((3, True), (1, True), (2, True), (3, False)):
            params = {"pairs": pairs, "pool": scale.pool, "epochs": epochs, "guilty": guilty}
            params |= {"places": min(power.PLACES, 10 * pairs), "controls": "three imitators"}
            if not guilty:
                params["ledgers"] = scale.ledgers
            name = f"{pairs:,} pairs, {epochs} epochs" + ("" if guilty else ", other coins")
            cases += _cases("twins", name, scale.students, params, stage=1)
    params = {"guilty_pairs": min(600, 10 * max(scale.pairs)), "each": 20, "accounts": scale.others + 1, "epochs": 3}
    cases += _cases("accounts", "3 epochs", scale.students, params, stage=1)
    for answers in scale.carded:
        for paraphrased in (True, False):
            params = {"answers": answers, "pool": scale.pool, "epochs": 2, "paraphrased": paraphrased}
            name = f"{answers:,} answers" + (", paraphrased" if paraphrased else "")
            cases += _cases("cards", name, scale.students, params, stage=2)
    common = {"pairs": scale.attacked_pairs, "pool": scale.pool, "epochs": 3, "scored": min(24_000, scale.scored)}
    for name, n, arms in (("no mark", scale.attacked, ATTACKS), ("no mark, more", scale.attacked_more, MORE)):
        cases += _cases("attacks", name, n, {**common, "scheme": None, **arms}, stage=2, alone=True)
    marked = {
        **common,
        "imitator": True,
        "pairs": scale.attacked_marked,
        "scheme": MARKS["gumbel k1"].to_json(),
        **ATTACKS,
    }
    cases += _cases("attacks", "gumbel k1", scale.attacked, marked, stage=3, alone=True)
    return cases


def _cases(
    experiment: str, group: str, n: int, params: dict[str, Any], *, stage: int = 0, alone: bool = False
) -> list[Case]:
    return [Case(experiment, group, number, params, stage, alone) for number in range(n)]


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.trace.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["calibrate", "power", "tables"])
    parser.add_argument("--scale", choices=list(SCALES), default="small")
    parser.add_argument("--data", type=Path, help="folder with real text; without it text is composed")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "runs" / "bench-trace")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    parser.add_argument("--at-once", type=int, default=4, help="students that train as one stacked model")
    parser.add_argument("--page", type=Path, help="page that the tables and curves are put into")
    parser.add_argument("--device", help="cpu, cuda or mps; the best there is")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="experiments to run; all")
    parser.add_argument("--group", default="", metavar="REGEX", help="groups whose name matches; all")
    parser.add_argument("--first", type=int, default=10**9, metavar="N", help="students of a group, at most")
    options = parser.parse_args(words)
    if options.what != "tables":
        cases = cases_of(options.what, SCALES[options.scale])
        wanted = [case for case in cases if options.only is None or case.experiment in options.only]
        wanted = [case for case in wanted if re.search(options.group, case.group) and case.number < options.first]
        prepare(options.out / "world", options.data, TINY_WORLD if options.scale == "tiny" else Sizes(), options.device)
        run_missing(
            options.out, wanted, MEASURES, workers=options.workers, at_once=options.at_once, device=options.device
        )
    told = tables.write(options.out)
    summary.write_summary(options.out)
    print(told)
    if options.page is not None:
        tables.into_page(told, options.out, options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
