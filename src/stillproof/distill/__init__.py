"""distill: put a teacher that you are entitled to use into a smaller model, and say what was kept and lost.

plan(config)                        what a run would take, before any call
run(config, out, ...)               all stages, from the teacher's terms to the shipped student
stage(name, config, out, ...)       one of them: generate, cache, train, eval, ship

corpus/, builtin/   text, prompts and gold answers, parted by document
generate/           the teacher's answers, each stored before the next is taken
pack.py             exchanges -> rows of tokens
cache.py            the teacher's distributions on those rows, sparse, with their fidelity
losses.py           forward KL with a tail bucket, cross-entropy; never a [positions, vocabulary] matrix
student.py          where the student starts
train.py            the loop, resumable to the bit
retention/          what was kept and lost, beside an untrained and an honestly trained control
card.py, ship.py    the folder that transformers loads, with card and manifest
shipping.py         the stage that ships, and what of a run may stand in a student's folder
admission.py        terms, config and folder, before anything is begun
ancestry.py         what the models ask that a teacher comes from
run_folder.py       one run: its folder, and what its stages share
stages.py           the stages
estimate.py         the plan
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillproof.progress import OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.config import DistillConfig
    from stillproof.distill.admission import IfExists

__all__ = ["plan", "run", "stage"]


def plan(config: DistillConfig) -> dict[str, Any]:
    """Requests, tokens, money, disk and hours that `run` would take. No call is made and no weights are loaded."""
    from stillproof.distill.estimate import estimate

    return estimate(config)


def run(config: DistillConfig, out: Path, if_exists: IfExists = "fail", on_event: OnEvent = ignore) -> dict[str, Any]:
    """Run every stage in `out`; the result is also written to result.json there.

    Raises TermsError before any call where the teacher's terms do not allow it. `gate` in the result says which of
    the config's gates the student did not pass; it is None where all were.
    """
    from stillproof.distill.admission import open_run
    from stillproof.distill.stages import STAGES, finish, timed

    started_s = time.monotonic()
    opened = open_run(config, out, if_exists, on_event)
    return finish(opened, started_s, {name: timed(opened, name) for name in STAGES})


def stage(
    name: str, config: DistillConfig, out: Path, if_exists: IfExists = "resume", on_event: OnEvent = ignore
) -> dict[str, Any]:
    """Run one stage in `out`, on what earlier stages left there. Raises InputError where one of those is missing.

    'replace' makes this stage's results anew, and drops those of later stages; the teacher's answers are kept.
    """
    from stillproof.distill.admission import open_run
    from stillproof.distill.stages import forget_from, timed

    opened = open_run(config, out, "resume" if if_exists == "replace" else if_exists, on_event)
    if if_exists == "replace":
        forget_from(opened, name)
    return timed(opened, name)
