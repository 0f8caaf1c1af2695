"""demo: the whole story on one machine, from a served answer to a p-value, with nothing between the parts but files.

plan(size)               what it takes, before anything is made
run(out, size, ...)      serve, guard, distill, trace, report; resumable
distil(out, ...)         the second act: SmolLM2 distilled twice, cut to a time where one is given
brief(result)            the result in a dozen lines

sizes.py          small, laptop; the numbers of a performance
prose.py          prompts and answers that leave a choice
tiny.py           tiny models trained in the run
models.py         the served model, and what students start from
crowd.py          who asks what and when; the log that guard reads
serving.py        the served model behind recorder, mark, twins and cards
learning.py       three students of one recipe
tracing.py        audits, weights, lineage
story.py          the stages in order
page.py           the report
distillation.py   the second act
budget.py         how much of it fits into a given time
speed.py          how fast this machine reads and trains
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.progress import OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.demo.sizes import Size
    from stillproof.demo.story import IfExists

__all__ = ["brief", "distil", "plan", "run"]


def plan(size: Size | str = "small") -> dict[str, Any]:
    """Calls, tokens and minutes that `run` takes. Nothing is made or loaded."""
    from stillproof.demo.estimate import estimate

    return estimate(_size(size))


def run(
    out: Path, size: Size | str = "small", if_exists: IfExists = "fail", on_event: OnEvent = ignore
) -> dict[str, Any]:
    """Play the story in `out`; a stage that is done there is not done again. Returns what result.json holds."""
    from stillproof.demo.story import play

    return play(_size(size), out, if_exists, on_event)


def distil(
    out: Path, if_exists: IfExists = "fail", on_event: OnEvent = ignore, *, budget_s: float | None = None
) -> dict[str, Any]:
    """The second act in `out`: SmolLM2 distilled from its soft targets, and once more through an endpoint.

    `budget_s`: it is cut to what fits, and says so in `budget`.
    """
    from stillproof.demo.distillation import run as distilled

    return distilled(out, if_exists, on_event, budget_s=budget_s)


def brief(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result in a dozen lines; `second_act` whole, where it was played, but for how its cuts were found."""
    from stillproof.report.text import number

    kept = ("size", "campaign_found", "honest_flagged", "grant_flagged", "bundle_replayed", "duration_s", "peak_rss_mb")
    told: dict[str, Any] = {key: result[key] for key in kept}
    for name, tests in result["trace"].items():
        found = [test for test in ("radioactivity", "twins", "cards") if tests[test]["decision"] == "found"]
        best = number(tests["best_log10_p_adjusted"])
        told[name] = f"best log10 p after Holm {best}; found by {', '.join(found) or 'no test'}"
    if "second_act" in result:
        budget = {key: result["second_act"]["budget"][key] for key in ("given_s", "cut")}
        told["second_act"] = {**result["second_act"], "budget": budget}
    return {**told, "report": result["report"], "gate": result["gate"]}


def _size(size: Size | str) -> Size:
    from stillproof.demo.sizes import size_of

    return size_of(size) if isinstance(size, str) else size
