"""Estimates with intervals over documents, and the finding that compares the student with the control."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stillproof import stats
from stillproof.distill.retention.scoring import TEACHER, Scores, Sums
from stillproof.finding import Effect, Finding, Run, decide

REFERENCES = ("init", "student", "control")


def retention(
    scores: Scores,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int,
    run: Run | None = None,
    control_text: str = "the same text",
) -> dict[str, Any]:
    """Estimates per token position, each with `<key>_interval: [low, high]` by cluster bootstrap over documents.

    Keys, for each name in (init, student, control): `kl_<name>_nats`, `agreement_<name>`; for those and the teacher:
    `perplexity_<name>`, `bits_per_byte_<name>`; `kl_student_over_control`, the paired ratio. What was not measured,
    and an interval over fewer than two documents, is None. `findings` holds whether the student is nearer to the
    teacher than the control is, as JSON. `control_text` says what the control, which took as many steps under plain
    cross-entropy, learned from; the finding tells it among its assumptions.

    Intervals say how the numbers would vary over documents like these, not over trainings: one training run each was
    measured. They take the documents as independent; those that share wordings or prompts are not, and then the
    intervals are too narrow. Their true coverage where documents are independent: `stats.cluster_bootstrap`.
    """

    def estimate(key: str, numerators: Sums | None, denominators: ArrayLike | None, top: float) -> dict[str, Any]:
        if numerators is None or denominators is None:
            return {key: None, f"{key}_interval": None}
        value, interval = _ratio(numerators, denominators, confidence, resamples, seed, top)
        return {key: value, f"{key}_interval": interval}

    n = scores.n_positions
    result: dict[str, Any] = {}
    for name in REFERENCES:
        result |= estimate(f"kl_{name}_nats", scores.kl_nats.get(name), n, math.inf)
        result |= estimate(f"agreement_{name}", scores.agreements.get(name), n, 1.0)
    for name in (TEACHER, *REFERENCES):
        nll = scores.nll_nats.get(name)
        result |= _exponential(estimate(f"perplexity_{name}", nll, n, math.inf))
        bits = None if nll is None else nll / math.log(2)
        result |= estimate(f"bits_per_byte_{name}", bits, scores.n_bytes, math.inf)
    student, control = scores.kl_nats.get("student"), scores.kl_nats.get("control")
    usable = control if control is not None and control.sum() > 0 else None
    result |= estimate("kl_student_over_control", student, usable, math.inf)
    result["n_positions"] = int(n.sum())
    result["n_documents"] = int(np.count_nonzero(n))
    result["confidence"] = confidence
    compared = student is not None and control is not None
    result["findings"] = [_nearer(scores, result, control_text, seed=seed, run=run).to_json()] if compared else []
    return result


def _ratio(
    numerators: Sums, denominators: ArrayLike, confidence: float, resamples: int, seed: int, top: float
) -> tuple[float, list[float] | None]:
    x, y = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if np.count_nonzero((x != 0) | (y != 0)) < 2:
        return float(x.sum() / y.sum()), None
    interval = stats.cluster_bootstrap(x, y, confidence=confidence, resamples=resamples, seed=seed, bounds=(0.0, top))
    return interval.estimate, [interval.low, interval.high]


def _exponential(values: dict[str, Any]) -> dict[str, Any]:
    """Perplexity is exp of the mean NLL; an interval passes through a monotone function unchanged in coverage."""

    largest = math.log(sys.float_info.max)  # a wild interval of few documents ends at the largest number, not at inf

    def exp(value: float) -> float:
        return math.exp(min(value, largest))

    return {
        key: [exp(end) for end in value] if isinstance(value, list) else value if value is None else exp(value)
        for key, value in values.items()
    }


def _nearer(scores: Scores, result: Mapping[str, Any], control_text: str, *, seed: int, run: Run | None) -> Finding:
    used = scores.n_positions > 0
    n_positions = int(scores.n_positions.sum())
    test = stats.paired_sign_flip((scores.kl_nats["control"] - scores.kl_nats["student"])[used], seed=seed)
    alpha = round(1 - result["confidence"], 12)  # 0.05, not 0.050000000000000044
    low, high = result["kl_student_over_control_interval"] or (None, None)
    ratio = result["kl_student_over_control"]
    effect = Effect("KL of the student over KL of the control", "ratio", ratio, low, high, result["confidence"])
    return Finding(
        claim="on held-out documents like these, the student's next-token distributions are nearer to the teacher's "
        "than those of a control that took as many steps under plain cross-entropy",
        verb="distill",
        test="paired sign flip over documents, one-sided",
        kind="reference_based",
        null="for each document, the KL of the control minus that of the student is symmetric about zero",
        statistic=test.statistic / n_positions,
        n=test.n,
        n_unit="documents",
        n_reference=test.n_null,
        decision=decide(test.log10_p, alpha, log10_floor=math.log10(test.floor)),
        alpha=alpha,
        log10_p=test.log10_p,
        effect=None if ratio is None else effect,
        assumptions=(
            f"the control learned {control_text}",
            "documents are independent draws from one source; documents that share wordings or prompts are not, and "
            "then the interval is too narrow and the p-value too small",
            "one student and one control were trained: nothing is said of other seeds",
        ),
        run=run,
    )
