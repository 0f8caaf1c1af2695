"""The plan of an audit by twins or cards, fixed before the first query. What it shares with others: `plan.py`.

It names what was served by the digest of everything but the coins, and the coins' key by its commitment, so that
neither the pairs nor the coins can be chosen by looking at the suspect. Which accounts are tested is part of it too:
Holm pays for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

import stillproof
from stillproof.config import Section, dump
from stillproof.errors import ConfigError, InputError, MismatchError
from stillproof.exchange import Message, Sampling
from stillproof.serve.custody import Opening, committed
from stillproof.teacher import Request
from stillproof.trace.flips import CoinSettings, Primary
from stillproof.trace.plan import PLAN_FORMAT, Asking, Digest, Plan, Stopping, parsed_plan, plan_bytes, write_new_plan
from stillproof.trace.served import CoinTest, Served
from stillproof.trace.twins import TwinSettings

Score = Literal["logprobs", "text", "continuation"]
SCORES: dict[Score, str] = {
    "logprobs": "mean log-probability",
    "text": "likeness of the suspect's own answer",
    "continuation": "words said at places where a control model was torn",
}


NEXT_TOKENS = 4
"""What a suspect says at a place, at most: its tokens may be shorter than those of the control."""


class ProbePrompt(Section):
    """A prompt of a cards' audit."""

    prompt: str
    scope: str | None
    """Whose cards it probes; None where nothing was planted: a fake probe."""


class Control(Section):
    """What a model of the owner's makes of both candidates of every twin: read when the plan is made, without coins."""

    model: str
    digest: str
    """Of its identity."""
    scores: tuple[tuple[float | None, float | None], ...]
    """In the order of the plan's ids; None where it could not read one."""


class PlannedPlace(Section):
    """`places.Place`, as a plan keeps it."""

    twin: Annotated[int, Field(ge=0)]
    side: Literal[0, 1]
    start: Annotated[int, Field(ge=0)]
    text: Annotated[str, Field(min_length=1)]
    expected: Annotated[float, Field(ge=0, le=1)]


class Places(Section):
    """Where words are asked for, and the models of the owner's that chose the places, without coins."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    digests: tuple[str, ...]
    """Of their identities."""
    at: tuple[PlannedPlace, ...]


class CoinPlan(Section):
    """An audit by coins, whole."""

    format: Literal["stillproof-trace-plan/1"]
    stillproof: str
    made: AwareDatetime
    test: CoinTest
    commitment: Digest
    """Of the coins' key, as the key ring publishes it."""
    key_name: str
    key_version: Annotated[int, Field(ge=1)]
    served_sha256: Digest
    """Of what was served, without the coins."""
    ids: tuple[str, ...]
    """Exchanges with twins, in the order in which they were served."""
    n_cards: Annotated[int, Field(ge=0)]
    accounts: tuple[str, ...] | None
    """Pseudonyms that get a finding each; None tests no account by itself."""
    score: Score
    """twins: does the suspect read both candidates, or answer itself."""
    prompts: tuple[ProbePrompt, ...]
    """cards: what it is asked."""
    asking: Asking
    alpha: Annotated[float, Field(gt=0, lt=1)]
    primary: Primary
    min_units: Annotated[int, Field(ge=2)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    stopping: Stopping
    batch: Annotated[int, Field(ge=1)]
    controls: tuple[Control, ...] = ()
    """twins: what is taken out of the suspect's scores (`twins.controlled`)."""
    places: Places | None = None
    """twins by continuation: one call each."""

    @model_validator(mode="after")
    def _is_sound(self) -> CoinPlan:
        if (self.test == "twins") != bool(self.ids) or (self.test == "cards") != bool(self.prompts):
            raise ValueError("twins have ids and no prompts, cards have prompts and no ids")
        if len(set(self.ids)) < len(self.ids) or len({row.prompt for row in self.prompts}) < len(self.prompts):
            raise ValueError("an exchange or a prompt stands in the plan twice")
        if self.asking.temperature == 0 and self.asking.samples > 1:
            raise ValueError("at temperature 0 all samples of a prompt are one: set samples to 1")
        if self.stopping == "anytime" and (self.test != "twins" or self.accounts is not None):
            raise ValueError("stopping: an anytime audit is of twins, and of no account by itself")
        if self.score != "logprobs" and self.test == "cards":
            raise ValueError("score: cards are always read in the suspect's own text")
        if self.controls and (self.test != "twins" or self.score != "logprobs"):
            raise ValueError("controls: for twins by log-probabilities")
        if any(len(control.scores) != len(self.ids) for control in self.controls):
            raise ValueError("controls: one pair of scores a twin")
        if (self.score == "continuation") != (self.places is not None):
            raise ValueError("places: of a continuation, and of nothing else")
        if self.places is not None and (self.test != "twins" or self.stopping != "all" or self.asking.temperature > 0):
            raise ValueError("places: for twins, all of which are asked, at temperature 0")
        if self.places is not None and any(place.twin >= len(self.ids) for place in self.places.at):
            raise ValueError("places: in twins of the plan")
        return self

    @property
    def coins(self) -> CoinSettings:
        return CoinSettings(self.primary, self.alpha, self.min_units, seed=self.seed)

    @property
    def twins(self) -> TwinSettings:
        less = ", less what control models expect" if self.controls else ""
        return TwinSettings(self.coins, score=SCORES[self.score] + less)

    def requests(self, plan_id: str, served: Served) -> tuple[Request, ...]:
        """The calls in their order. None depends on a coin."""
        if self.test == "cards":
            before = () if self.asking.system is None else (Message("system", self.asking.system),)
            asked = [(*before, Message("user", row.prompt)) for row in self.prompts]
            return self._answers(plan_id, asked)
        if self.score == "text":
            return self._answers(plan_id, [served.prompts[twin.id] for twin in served.twins])
        if self.places is not None:
            return self._continuations(plan_id, served, self.places.at)
        return reads(served, plan_id)

    def _continuations(self, plan_id: str, served: Served, places: Sequence[PlannedPlace]) -> tuple[Request, ...]:
        """The last message is how the answer begins, up to the place."""
        asked: list[Request] = []
        for number, place in enumerate(places):
            twin = served.twins[place.twin]
            begun = Message("assistant", twin.candidates[place.side].text[: place.start])
            sampling = Sampling(temperature=0.0, max_tokens=self.asking.max_tokens)
            asked.append(Request((*served.prompts[twin.id], begun), sampling, id=call_id(plan_id, number, 0)))
        return tuple(asked)

    def _answers(self, plan_id: str, prompts: Sequence[tuple[Message, ...]]) -> tuple[Request, ...]:
        asking = self.asking
        return tuple(
            Request(
                messages,
                Sampling(
                    temperature=asking.temperature, max_tokens=asking.max_tokens, seed=(self.seed + sample) % 2**31
                ),
                sample,
                id=call_id(plan_id, number, sample),
            )
            for number, messages in enumerate(prompts)
            for sample in range(asking.samples)
        )


def reads(served: Served, plan_id: str) -> tuple[Request, ...]:
    """Both candidates of every twin. The last message is what is read, not a turn that is answered."""
    return tuple(
        Request(
            (*served.prompts[twin.id], Message("assistant", candidate.text)),
            Sampling(temperature=1.0, max_tokens=1, top_logprobs=0),
            id=call_id(plan_id, number, side),
        )
        for number, twin in enumerate(served.twins)
        for side, candidate in enumerate(twin.candidates)
    )


def call_id(plan_id: str, number: int, sample: int) -> str:
    return f"{plan_id[:16]}-{number}-{sample}"


@dataclass(frozen=True, slots=True)
class CoinChoices:
    """What an auditor chooses beside what was served and the key."""

    alpha: float = 1e-3
    primary: Primary | None = None
    """None: Wilcoxon's signed ranks for twins, signs for cards."""
    min_units: int = 10
    seed: int = 0
    stopping: Stopping = "all"
    batch: int = 64
    samples: int = 1
    max_tokens: int = 128
    temperature: float = 1.0
    system: str | None = None
    score: Score = "logprobs"
    accounts: tuple[str, ...] | None = None
    """() names every account that was served."""


def write_coin_plan(
    path: Path,
    test: CoinTest,
    served: Served,
    opening: Opening,
    choices: CoinChoices | None = None,
    *,
    prompts: Sequence[ProbePrompt] = (),
    controls: Sequence[Control] = (),
    places: Places | None = None,
    made: datetime | None = None,
) -> tuple[CoinPlan, str]:
    """Write a plan and give it with its id. `prompts`: of cards. `controls`, `places`: of twins. `made`: now, if left
    out.

    Raises OutputExistsError where something is there, ConfigError that names every value out of range, InputError for
    an account that no coin was tossed for, or prompts that no card has a scope for.
    """
    chosen = choices or CoinChoices()
    if test == "cards":
        _check_probes(prompts, served)
    if chosen.system is not None and test == "twins":
        raise ConfigError("twins are asked as their callers asked", "--system", "leave it out")
    accounts = chosen.accounts if chosen.accounts else None if chosen.accounts is None else served.accounts
    unknown = sorted(set(accounts or ()) - set(served.accounts))
    if unknown or len(set(accounts or ())) < len(accounts or ()):
        raise InputError("an account without a coin, or named twice", (unknown or [""])[0][:64], "name those served")
    plan = CoinPlan.model_construct(
        format=PLAN_FORMAT,
        stillproof=stillproof.__version__,
        made=(made or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0),
        test=test,
        commitment=committed(opening),
        key_name=opening.name,
        key_version=opening.version,
        served_sha256=served.blind_sha256,
        ids=tuple(twin.id for twin in served.twins),
        n_cards=len(served.cards),
        accounts=accounts,
        score=chosen.score,
        prompts=tuple(prompts),
        asking=Asking.model_construct(
            samples=chosen.samples,
            max_tokens=chosen.max_tokens if places is None else NEXT_TOKENS,
            temperature=chosen.temperature if places is None else 0.0,
            system=chosen.system,
            top_logprobs=None,
        ),
        alpha=chosen.alpha,
        primary=chosen.primary or ("sign" if test == "cards" else "wilcoxon"),
        min_units=chosen.min_units,
        seed=chosen.seed,
        stopping=chosen.stopping,
        batch=chosen.batch,
        controls=tuple(controls),
        places=places,
    )
    return write_new_plan(path, dump(plan).encode(), CoinPlan)


def read_any_plan(path: Path, *, plan_id: str | None = None) -> tuple[Plan | CoinPlan, str]:
    """A plan of whatever test, and its id. Raises ConfigError for what is no plan, MismatchError where its id is not
    `plan_id`."""
    raw, found = plan_bytes(path, plan_id)
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        row = None
    by_coins = isinstance(row, dict) and row.get("test") in ("twins", "cards")
    return (parsed_plan(raw, path, CoinPlan) if by_coins else parsed_plan(raw, path, Plan)), found


def check_opening(plan: CoinPlan, opening: Opening) -> None:
    """Raises MismatchError unless the key is the one that the plan commits to."""
    if committed(opening) != plan.commitment or (opening.name, opening.version) != (plan.key_name, plan.key_version):
        remedy = f"give the key {plan.key_name}, version {plan.key_version}, of the ring that served"
        raise MismatchError("the key is not the one committed to", plan.commitment[:16], remedy)


def check_served(plan: CoinPlan, served: Served) -> None:
    """Raises MismatchError unless what was served is what the plan names."""
    if served.blind_sha256 != plan.served_sha256:
        remedy = "give the store and ledger that the plan was made of; for new answers make a new plan"
        raise MismatchError("what was served is not what the plan names", plan.served_sha256[:16], remedy)


def read_probes(path: Path) -> tuple[ProbePrompt, ...]:
    """Prompts of a cards' audit: .jsonl with `prompt` and, for those that probe a scope, `scope`. A fake probe has
    none. Raises InputError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts cannot be read: {error}", str(path), "give a UTF-8 .jsonl file") from None
    rows: list[ProbePrompt] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append(ProbePrompt(prompt=row["prompt"], scope=row.get("scope")))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            remedy = 'write {"prompt": "...", "scope": "..."}, without scope for a fake probe'
            raise InputError("no object with a text `prompt`", f"{path}:{number}", remedy) from None
    return tuple(rows)


def _check_probes(prompts: Sequence[ProbePrompt], served: Served) -> None:
    scopes = {scope for _, scope, _ in served.cards}
    asked = {row.scope for row in prompts if row.scope is not None}
    if not asked or any(not row.prompt.strip() for row in prompts):
        remedy = f"give at least one with a scope of {', '.join(map(repr, sorted(scopes)))[:300]}"
        raise InputError("prompts that probe a scope are missing, or one is empty", "--prompts", remedy)
    unknown = sorted(asked - scopes)
    if unknown:
        raise InputError("no card was planted in this scope", unknown[0][:64], f"one of {sorted(scopes)}"[:300])
    seen: set[str] = set()
    for row in prompts:
        if row.prompt in seen:
            raise InputError(f"a prompt stands there twice: {row.prompt[:60]!r}", "--prompts", "name it once")
        seen.add(row.prompt)
