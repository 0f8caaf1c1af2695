"""Agreement: does a suspect answer as our model did, more than models that never learned from it do?

Reference-based, so supporting evidence and never proof: the suspect is ranked among null models, and the least p-value
is 1 / (bases + 1). It needs no mark, no coin and nothing but text; and it holds only where an innocent suspect is like
one more of the null models. Siblings of one base are not independent: each base weighs one (`stats.conformal_p`).

- *paired*: how like a suspect's answer is to ours to the same prompt, less how like it is to ours to another prompt.
  What one language, domain or style makes alike is in both.
- *rare*: the share of our answers that a model gives back, each weighing as much as it is rare among all models.

Nearest in print: Nikolic et al., Model provenance testing, 2025, for agreement with control models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stillproof import stats
from stillproof.errors import ConfigError, InputError
from stillproof.finding import Check, Finding, Run, decide
from stillproof.store import Store
from stillproof.trace.pairs import likeness

Statistic = Literal["paired", "rare"]
Answers = Sequence[str | None]
"""To each prompt, in one order for all models; None where there is no answer."""

NULL = "the suspect is one more model of a base exchangeable with those of the null models, and never learned from ours"
SAME = 0.5
"""Likeness from which on two answers count as one, for rare agreement."""
_SILENT = 0.5


@dataclass(frozen=True, slots=True)
class AgreementSettings:
    """Fixed before the suspect is asked. Raises ConfigError for values out of range."""

    statistic: Statistic = "paired"
    alpha: float = 0.01
    min_prompts: int = 30

    def __post_init__(self) -> None:
        if self.statistic not in get_args(Statistic) or not 0 < self.alpha < 1 or self.min_prompts < 2:
            raise ConfigError(f"settings {self!r}", remedy="paired or rare, a level between 0 and 1, 2 prompts or more")


def find_agreement(
    ours: Sequence[str],
    suspect: Answers,
    nulls: Mapping[str, Answers],
    settings: AgreementSettings | None = None,
    *,
    bases: Mapping[str, str] | None = None,
    run: Run | None = None,
) -> Finding:
    """Rank a suspect among null models by how it agrees with `ours`, one answer a prompt. H0: NULL.

    `nulls`: answers of each null model. `bases`: what each of them was made from; each is its own, if left out.
    Inconclusive with too few prompts or bases for the level, or where the suspect left most prompts unanswered. Raises
    InputError for answers of another number than prompts, or no null model.
    """
    settings = settings or AgreementSettings()
    names = sorted(nulls)
    every = [suspect, *(nulls[name] for name in names)]
    if not names or any(len(own) != len(ours) for own in every):
        raise InputError("null models are missing, or answers do not fit the prompts", remedy="one answer a prompt")
    groups = [(bases or {}).get(name, name) for name in names]
    values = _paired(ours, every) if settings.statistic == "paired" else _rare(ours, every)
    n_bases, answered = len(set(groups)), sum(bool(text) for text in suspect)
    p = float(stats.conformal_p(values[:1], values[1:], groups)[0])
    checks = (
        Check("answered", answered >= _SILENT * len(ours), f"{answered} of {len(ours)} prompts were answered"),
        Check("prompts", len(ours) >= settings.min_prompts, f"{len(ours)}, {settings.min_prompts} needed"),
        Check("bases", 1 / (n_bases + 1) <= settings.alpha, f"{len(names)} null models of {n_bases} bases"),
    )
    sound = all(check.passed for check in checks)
    return Finding(
        claim="this model agrees with ours more than models that never learned from it: supports, and does not prove, "
        "that it learned from our answers",
        verb="trace",
        test=f"agreement, {settings.statistic}",
        kind="reference_based",
        null=NULL,
        statistic=float(values[0]) if sound else None,
        n=len(ours),
        n_unit="prompts",
        decision=decide(math.log10(p), settings.alpha) if sound else "inconclusive",
        alpha=settings.alpha,
        log10_p=math.log10(p) if sound else None,
        n_reference=n_bases,
        assumptions=(
            "null models, prompts, statistic and level were chosen before the suspect was asked",
            "an innocent suspect is exchangeable with the null models: of like size, training and language",
            "no null model learned from our answers",
        ),
        checks=checks,
        run=run,
    )


def _paired(ours: Sequence[str], every: Sequence[Answers]) -> NDArray[np.float64]:
    """Of each model, mean over prompts."""
    shifted = [*ours[1:], *ours[:1]]
    gains = [
        [_alike(text, own) - _alike(text, other) for text, own, other in zip(told, ours, shifted, strict=True)]
        for told in every
    ]
    return np.array(gains, dtype=np.float64).mean(axis=1)


def _rare(ours: Sequence[str], every: Sequence[Answers]) -> NDArray[np.float64]:
    """Weights are of all models together, the suspect too: symmetric, so exchangeable models stay so."""
    same = np.array([[_alike(text, own) >= SAME for text, own in zip(told, ours, strict=True)] for told in every])
    weights = -np.log((same.sum(axis=0) + 1) / (len(every) + 1))
    return (same * weights).sum(axis=1) / max(float(weights.sum()), 1e-300)


def _alike(text: str | None, own: str) -> float:
    plain, other = " ".join((text or "").lower().split()), " ".join(own.lower().split())
    if plain and plain == other:
        return 1.0
    return likeness(plain, other) or 0.0


def answers_in(stores: Sequence[Path]) -> tuple[list[str], list[list[str | None]]]:
    """Prompts of the first store that all have, and each store's first answers to them, in the order of the first.

    A prompt is the text of its messages. Raises InputError for a folder that is no store, or prompts in common
    missing.
    """
    read: list[dict[str, str | None]] = []
    for path in stores:
        if not Store.is_store(path):
            raise InputError("no store of answers", str(path), "give folders with store.json")
        own: dict[str, str | None] = {}
        with Store.open(path) as opened:
            for exchange in opened:
                asked = "\n".join(f"{message.role}: {message.content or ''}" for message in exchange.messages)
                own.setdefault(asked, exchange.response)
        read.append(own)
    common = [asked for asked, text in read[0].items() if text and all(asked in own for own in read[1:])]
    if not common:
        raise InputError("no prompt stands in all stores", str(stores[0]), "ask every model the same prompts")
    return common, [[own[asked] for asked in common] for own in read]


def null_stores(folder: Path) -> dict[Path, str]:
    """Stores of null models below a folder, and the base of each: FOLDER/MODEL is a base of its own, FOLDER/BASE/MODEL
    one of several. Raises InputError where there is none."""
    found: dict[Path, str] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        inner = [path] if Store.is_store(path) else sorted(path.iterdir()) if path.is_dir() else []
        found.update({store: path.name for store in inner if Store.is_store(store)})
    if not found:
        raise InputError("no null models", str(folder), "record the answers of models that never learned from yours")
    return found
