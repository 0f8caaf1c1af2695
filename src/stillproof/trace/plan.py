"""What an audit will do, written down before the first query, so that nothing can be chosen by looking at the answers.

A plan fixes the test, the key (by its commitment), the tokenizer, the prompts, how they are asked, the level, the decoy
keys and when to stop. Its id is the SHA-256 of its file, as `sha256sum plan.json` prints it: publish that before the
audit. The plan itself holds the prompts, which a suspect should not see beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, Field, ValidationError, model_validator

import stillproof
from stillproof.config import Section, dump
from stillproof.errors import ConfigError, InputError, MismatchError, OutputExistsError
from stillproof.exchange import Message, Sampling, sha256_of
from stillproof.store.disk import refusing, replace_file
from stillproof.teacher import Request
from stillproof.trace.evidence import Mode
from stillproof.trace.radioactivity import MIN_DECOYS, AuditSettings
from stillproof.trace.tokens import TokenizerId
from stillproof.watermark import MarkKey, Scheme, verify_commitment

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Stopping = Literal["all", "anytime"]

P = TypeVar("P", bound=Section)

PLAN_FORMAT = "stillproof-trace-plan/1"
MAX_PLAN_BYTES = 256 << 20
MAX_DECOYS = 1_000_000
"""A replay computes them all again, whoever wrote the plan."""


class PlanScheme(Section):
    """The public parameters of the mark, as `watermark.Scheme` has them."""

    kind: Literal["green", "gumbel"]
    k: int
    gamma: float
    delta: float
    second_share: float
    account_share: float
    top: int


class Asking(Section):
    """How prompts are asked."""

    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    """Answers to each prompt."""
    max_tokens: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(ge=0, le=5)] = 1.0
    system: str | None = None
    top_logprobs: Annotated[int, Field(ge=2, le=1024)] | None = None
    """Open mode: candidates at each token whose log-probabilities are asked for."""


class Plan(Section):
    """An audit, whole. Closed mode scores the suspect's text alone; open mode what else it would have written."""

    format: Literal["stillproof-trace-plan/1"]
    stillproof: str
    """Version that made the plan."""
    made: AwareDatetime
    test: Literal["radioactivity"]
    mode: Mode
    commitment: Digest
    """Of the key; see MarkKey.commitment."""
    scheme: PlanScheme
    tokenizer: TokenizerId
    """Of the model that served the marked text: the key is over its token ids."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    prompts_sha256: Digest
    asking: Asking
    alpha: Annotated[float, Field(gt=0, lt=1)]
    n_decoys: Annotated[int, Field(ge=MIN_DECOYS, le=MAX_DECOYS)]
    min_tuples: Annotated[int, Field(ge=2)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Of the decoy keys, and of what the suspect is asked to sample with."""
    stopping: Stopping
    """all: every prompt is asked, then tested once. anytime: an e-process, after every batch, stops when it is enough;
    otherwise after the last prompt."""
    batch: Annotated[int, Field(ge=1)]
    """Calls between two looks of an anytime audit."""
    accounts: tuple[str, ...] | None = None
    """Pseudonyms that get a finding each, under their sub-keys; None tests no account by itself."""

    @model_validator(mode="after")
    def _is_sound(self) -> Plan:
        if self.prompts_sha256 != sha256_of(self.prompts):
            raise ValueError("prompts_sha256 is not that of the prompts")
        if len(set(self.prompts)) < len(self.prompts):
            raise ValueError("a prompt stands in the plan twice")
        if self.asking.temperature == 0 and self.asking.samples > 1:
            raise ValueError("at temperature 0 all samples of a prompt are one: set samples to 1")
        if (self.mode == "open") != (self.asking.top_logprobs is not None):
            raise ValueError("open mode, and it alone, asks for top_logprobs")
        if self.mode == "open" and self.stopping != "all":
            raise ValueError("stopping: an anytime audit is of closed mode")
        if self.accounts is not None and (self.stopping != "all" or self.scheme.account_share == 0):
            raise ValueError("accounts: they need a key with account_share above 0, and stopping 'all'")
        if self.accounts is not None and not 0 < len(set(self.accounts)) == len(self.accounts):
            raise ValueError("accounts: name each once")
        return self

    @property
    def settings(self) -> AuditSettings:
        return AuditSettings(self.alpha, self.n_decoys, self.seed, self.min_tuples)

    def requests(self, plan_id: str) -> tuple[Request, ...]:
        """The calls, in the order in which they are asked and counted; an exchange's id names plan, prompt, sample."""
        asking, system = self.asking, self.asking.system
        before = () if system is None else (Message("system", system),)
        return tuple(
            Request(
                (*before, Message("user", prompt)),
                # The seed differs from sample to sample, else an endpoint may give one answer to all of them.
                Sampling(
                    temperature=asking.temperature,
                    max_tokens=asking.max_tokens,
                    top_logprobs=asking.top_logprobs,
                    seed=(self.seed + sample) % 2**31,
                ),
                sample,
                id=f"{plan_id[:16]}-{number}-{sample}",
            )
            for number, prompt in enumerate(self.prompts)
            for sample in range(asking.samples)
        )

    def prompt_text(self, request: Request) -> str:
        return "\n".join(message.content or "" for message in request.messages)


@dataclass(frozen=True, slots=True)
class Choices:
    """What an auditor chooses in a plan beside the key, the tokenizer and the prompts."""

    alpha: float = 1e-3
    n_decoys: int = MIN_DECOYS
    min_tuples: int = 100
    seed: int = 0
    stopping: Stopping = "all"
    batch: int = 64
    samples: int = 1
    max_tokens: int = 128
    temperature: float = 1.0
    system: str | None = None
    mode: Mode = "closed"
    top_logprobs: int = 20
    """In open mode."""
    accounts: tuple[str, ...] | None = None


def write_plan(
    path: Path,
    key: MarkKey,
    tokenizer: TokenizerId,
    prompts: Sequence[str],
    choices: Choices | None = None,
    *,
    made: datetime | None = None,
) -> tuple[Plan, str]:
    """Write a plan and give it with its id. `made`: now, if left out.

    Raises OutputExistsError where something is there, ConfigError that names every value out of range, InputError for
    prompts that are empty or doubled.
    """
    chosen = choices or Choices()
    _check_prompts(prompts)
    raw = dump(_plan(key, tokenizer, tuple(prompts), chosen, made or datetime.now(UTC))).encode()
    return write_new_plan(path, raw, Plan)


def write_new_plan(path: Path, raw: bytes, kind: type[P]) -> tuple[P, str]:
    """A sound plan, in a new file, and its id. Raises OutputExistsError, ConfigError that names every fault."""
    if path.suffix != ".json":
        raise ConfigError("a plan is a .json file", str(path), "name it plan.json")
    plan = parsed_plan(raw, path, kind)
    if path.exists():
        raise OutputExistsError("is there already", str(path), "a plan is never changed: name a new file")
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda file: file.write(raw))
    return plan, sha256(raw).hexdigest()


def _plan(key: MarkKey, tokenizer: TokenizerId, prompts: tuple[str, ...], chosen: Choices, made: datetime) -> Plan:
    # model_construct leaves the checks to the parser, whose errors name every fault at once.
    return Plan.model_construct(
        format=PLAN_FORMAT,
        stillproof=stillproof.__version__,
        made=made.astimezone(UTC).replace(microsecond=0),
        test="radioactivity",
        mode=chosen.mode,
        commitment=key.commitment,
        scheme=PlanScheme.model_validate(key.scheme.to_json()),
        tokenizer=tokenizer,
        prompts=prompts,
        prompts_sha256=sha256_of(prompts),
        asking=Asking.model_construct(
            samples=chosen.samples,
            max_tokens=chosen.max_tokens,
            temperature=chosen.temperature,
            system=chosen.system,
            top_logprobs=chosen.top_logprobs if chosen.mode == "open" else None,
        ),
        alpha=chosen.alpha,
        n_decoys=chosen.n_decoys,
        min_tuples=chosen.min_tuples,
        seed=chosen.seed,
        stopping=chosen.stopping,
        batch=chosen.batch,
        accounts=chosen.accounts,
    )


def read_plan(path: Path, *, plan_id: str | None = None) -> tuple[Plan, str]:
    """A plan and its id. Raises ConfigError for what is no plan, MismatchError where its id is not `plan_id`."""
    raw, found = plan_bytes(path, plan_id)
    return parsed_plan(raw, path, Plan), found


def plan_bytes(path: Path, plan_id: str | None) -> tuple[bytes, str]:
    """The bytes of a plan and their digest. Raises MismatchError where that is not `plan_id`, InputError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"the plan cannot be read: {error.strerror}", str(path), "give a plan.json") from None
    if len(raw) > MAX_PLAN_BYTES:
        raise InputError("too large for a plan", str(path), f"at most {MAX_PLAN_BYTES} bytes")
    found = sha256(raw).hexdigest()
    if plan_id is not None and found != plan_id.strip().lower():
        raise MismatchError(
            f"the plan is not the one of that id: its own is {found}", str(path), "audit with the plan as it was made"
        )
    return raw, found


def parsed_plan(raw: bytes, path: Path, kind: type[P]) -> P:
    """Raises ConfigError that names every fault."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}".lstrip(": ") for item in error.errors()]
        raise ConfigError(
            f"not a sound plan: {'; '.join(faults)[:2000]}", str(path), "write it with `stillproof trace plan`"
        ) from None


def check_key(plan: Plan, key: MarkKey) -> None:
    """Raises MismatchError unless the key, with its parameters, is the one that the plan commits to."""
    verify_commitment(key, plan.commitment)
    if Scheme(**plan.scheme.model_dump()) != key.scheme:
        raise MismatchError("the plan's scheme is not the key's", plan.commitment[:16], "write the plan again")


def read_accounts(path: str) -> tuple[str, ...]:
    """Pseudonyms of a file, one a line. Raises InputError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"accounts cannot be read: {error}", path, "give a file of pseudonyms, one a line") from None
    if not lines:
        raise InputError("no account is named", path, "name one pseudonym a line")
    return tuple(lines)


def read_prompts(path: Path) -> tuple[str, ...]:
    """Prompts of a file: .jsonl with one object a line and its `prompt`, else one prompt a line; empty lines are none.

    Raises InputError that names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts cannot be read: {error}", str(path), "give a UTF-8 file") from None
    told = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    prompts = [_json_prompt(line, f"{path}:{n}") if path.suffix == ".jsonl" else line.strip() for n, line in told]
    _check_prompts(prompts, str(path))
    return tuple(prompts)


def _json_prompt(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str):
        raise InputError("no object with a text `prompt`", where, 'write {"prompt": "..."}')
    return prompt


def _check_prompts(prompts: Sequence[str], where: str = "") -> None:
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise InputError("prompts are missing or empty", where, "give at least one, each with text")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt in seen:
            remedy = "name it once; more than one answer to each is --samples"
            raise InputError(f"a prompt stands there twice: {prompt[:60]!r}", where, remedy)
        seen.add(prompt)
