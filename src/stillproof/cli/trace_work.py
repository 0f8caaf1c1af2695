"""What `stillproof trace plan|outputs|replay` do for each test, so that the commands only read their options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from stillproof.cli.answering import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stillproof.config import TeacherConfig
    from stillproof.finding import Finding
    from stillproof.trace.auditing import AuditLimits
    from stillproof.trace.coin_plan import CoinChoices, CoinPlan, Control, Places
    from stillproof.trace.plan import Choices
    from stillproof.trace.sealing import Sealed
    from stillproof.trace.served import Served


@dataclass(frozen=True, slots=True)
class Asked:
    """Files that a command names."""

    plan: Path
    key: Path
    out: Path
    tokenizer: str | None
    served: Path | None
    ledger: Path | None


@dataclass(frozen=True, slots=True)
class Controls:
    """Models of the owner's that read the twins before a plan is fixed."""

    models: tuple[str, ...] = ()
    places: int = 5_000
    """By continuation: how many places the model chooses."""


def plan_of_radioactivity(
    key: Path, tokenizer: str | None, prompts: Path | None, out: Path, choices: Choices
) -> Result:
    from stillproof.errors import ConfigError
    from stillproof.trace.key_file import read_mark_key
    from stillproof.trace.plan import read_prompts, write_plan
    from stillproof.trace.tokens import TextToIds

    if tokenizer is None or prompts is None:
        remedy = "give --tokenizer of the model that served, and --prompts"
        raise ConfigError("a plan of radioactivity needs a tokenizer and prompts", "--tokenizer, --prompts", remedy)
    made, plan_id = write_plan(out, read_mark_key(key), TextToIds(tokenizer).id, read_prompts(prompts), choices)
    calls = len(made.prompts) * made.asking.samples
    return {
        "plan": str(out),
        "plan_id": plan_id,
        "commitment": made.commitment,
        "test": made.test,
        "mode": made.mode,
        "tokenizer": made.tokenizer.model_dump(),
        "prompts": len(made.prompts),
        "prompts_sha256": made.prompts_sha256,
        "accounts": None if made.accounts is None else len(made.accounts),
        "calls": calls,
        "tokens_at_most": calls * made.asking.max_tokens,
        "alpha": made.alpha,
        "stopping": made.stopping,
        "made": made.made.isoformat(),
    }


def plan_of_coins(
    test: Literal["twins", "cards"],
    key: Path,
    served_in: tuple[Path | None, Path | None],
    prompts: Path | None,
    out: Path,
    *,
    choices: CoinChoices,
    controls: Controls,
) -> Result:
    """`served_in`: the store and the ledger."""
    from stillproof.errors import ConfigError
    from stillproof.serve.custody import read_opening
    from stillproof.trace.coin_plan import read_probes, write_coin_plan
    from stillproof.trace.served import read_served

    if (test == "cards") != (prompts is not None):
        remedy = "cards are probed with --prompts; twins are asked with the prompts that they answered"
        raise ConfigError(f"prompts of a plan of {test}", "--prompts", remedy)
    store, ledger = _both(*served_in)
    opening = read_opening(key)
    served = read_served(store, ledger, test, opening)
    probes = () if prompts is None else read_probes(prompts)
    if choices.score == "continuation":
        read, places = (), _places(controls, served)
    else:
        read, places = tuple(_control(model, served) for model in controls.models), None
    made, plan_id = write_coin_plan(out, test, served, opening, choices, prompts=probes, controls=read, places=places)
    return {
        "plan": str(out),
        "plan_id": plan_id,
        "commitment": made.commitment,
        "test": made.test,
        "score": made.score if test == "twins" else None,
        "served_sha256": made.served_sha256,
        "twins": len(made.ids) or None,
        "cards": made.n_cards or None,
        "left_out": served.left_out,
        "controls": [*(control.model for control in made.controls), *(made.places.models if made.places else ())],
        "accounts": None if made.accounts is None else len(made.accounts),
        "calls": len(made.requests(plan_id, served)),
        "alpha": made.alpha,
        "stopping": made.stopping,
        "made": made.made.isoformat(),
    }


def candidates_of(key: Path, served_in: tuple[Path | None, Path | None], out: Path) -> Result:
    """`served_in`: the store and the ledger."""
    from stillproof.serve.custody import read_opening
    from stillproof.trace.control import write_candidates
    from stillproof.trace.served import read_served

    served = read_served(*_both(*served_in), "twins", read_opening(key))
    return {"file": str(out), "twins": len(served.twins), "examples": write_candidates(served, out)}


def _control(model: str, served: Served) -> Control:
    from contextlib import closing

    from stillproof.trace.control import read_control
    from stillproof.trace.reading import open_reader
    from stillproof.trace.suspect import suspect_config

    with closing(open_reader(suspect_config(model))) as reader:
        return read_control(reader, served)


def _places(controls: Controls, served: Served) -> Places:
    from contextlib import closing

    from stillproof.errors import ConfigError
    from stillproof.trace.continuing import LocalContinuer, open_continuer
    from stillproof.trace.control import read_places
    from stillproof.trace.suspect import suspect_config

    if not controls.models:
        remedy = "best imitators: the open model that the suspect may have begun from, after both candidates"
        raise ConfigError("a continuation needs control models that choose the places", "--control", remedy)

    def opened() -> Iterator[LocalContinuer]:
        # One after another: each is weights in memory.
        for model in controls.models:
            with closing(open_continuer(suspect_config(model))) as control:
                if not isinstance(control, LocalContinuer):
                    remedy = "name a folder or a GGUF file"
                    raise ConfigError("places are chosen by weights on this machine", "--control", remedy)
                yield control

    return read_places(opened(), served, controls.places)


def outputs_of(config: TeacherConfig, asked: Asked, limits: AuditLimits, test: str | None) -> Result:
    from stillproof.errors import BusyError, MismatchError
    from stillproof.progress import renderer
    from stillproof.teacher import Teacher, open_teacher
    from stillproof.trace.auditing import AuditFiles, audit_outputs
    from stillproof.trace.coin_audit import CoinFiles, audit_coins
    from stillproof.trace.coin_plan import CoinPlan, read_any_plan
    from stillproof.trace.continuing import open_continuer
    from stillproof.trace.reading import open_reader
    from stillproof.trace.unfinished import unfinished

    plan, plan_id = read_any_plan(asked.plan, plan_id=limits.plan_id)
    if test is not None and test != plan.test:
        raise MismatchError(f"the plan is of {plan.test}, not of {test}", str(asked.plan), "leave out --test")

    def suspect(of: CoinPlan) -> Teacher:
        if of.places is not None:
            return open_continuer(config)
        return open_reader(config) if of.test == "twins" and of.score == "logprobs" else open_teacher(config)

    try:
        with renderer() as on_event:
            if isinstance(plan, CoinPlan):
                files = CoinFiles(asked.plan, asked.key, *_both(asked.served, asked.ledger), asked.out)
                verdict, sealed = audit_coins(suspect, files, limits, on_event)
                finding = verdict.finding
            else:
                marked = AuditFiles(asked.plan, asked.key, asked.out, asked.tokenizer)
                finding, sealed = audit_outputs(lambda: open_teacher(config), marked, limits, on_event)
    except BusyError as error:
        typer.echo(f"not done: {error}", err=True)
        return {**unfinished(plan, plan_id, asked.out, error).to_json(), "bundle": None, "plan_id": plan_id}
    typer.echo(f"sealed in {asked.out}; publish the bundle's digest {sealed.digest}", err=True)
    return _told(finding, sealed.accounts, asked.out, sealed)


def agreement_of(
    suspect: str, served: Path | None, nulls: Path | None, statistic: Literal["paired", "rare"], alpha: float
) -> Result:
    """`suspect` and `served` are stores of answers; a null model is a store below `nulls`."""
    import stillproof
    from stillproof.errors import ConfigError
    from stillproof.finding import Run
    from stillproof.trace.agreement import AgreementSettings, answers_in, find_agreement, null_stores

    if served is None or nulls is None:
        remedy = "give the store of our answers, and a folder with a store for each null model"
        raise ConfigError("agreement is a rank among null models", "--served, --nulls", remedy)
    settings = AgreementSettings(statistic, alpha)
    bases = null_stores(nulls)
    _, (ours, theirs, *others) = answers_in([served, Path(suspect).expanduser(), *bases])
    run = Run("stillproof trace outputs --test agreement", None, stillproof.__version__, None)
    by_path = dict(zip(map(str, bases), others, strict=True))
    finding = find_agreement(
        [text or "" for text in ours],
        theirs,
        by_path,
        settings,
        bases={str(path): base for path, base in bases.items()},
        run=run,
    )
    return finding.to_json()


def replay_of(bundle: Path, key: Path | None, bundle_sha256: str | None, tokenizer: str | None) -> Result:
    from stillproof.trace.bundle import replay
    from stillproof.trace.coin_bundle import replay_coins
    from stillproof.trace.sealing import verify

    sealed = verify(bundle, bundle_sha256=bundle_sha256)
    if sealed.manifest.get("test", "radioactivity") == "radioactivity":
        done = replay(bundle, key, bundle_sha256=bundle_sha256, tokenizer=tokenizer)
    else:
        done = replay_coins(bundle, key, bundle_sha256=bundle_sha256)
    how = "bit for bit" if done.exact else "up to rounding, by other software or another processor"
    typer.echo(f"replayed {how}; digest of the bundle {done.sealed.digest}", err=True)
    told = _told(done.finding, done.accounts, bundle, done.sealed)
    return {**told, "replayed": how, "same_software": done.same_software}


def _told(finding: Finding, accounts: Sequence[Finding], bundle: Path, sealed: Sealed) -> Result:
    found = {"bundle": str(bundle), "bundle_sha256": sealed.digest, "plan_id": sealed.manifest["plan_id"]}
    tested = [one.to_json() for one in accounts]
    return {**finding.to_json(), **found, "accounts_tested": tested} if tested else {**finding.to_json(), **found}


def _both(served: Path | None, ledger: Path | None) -> tuple[Path, Path]:
    from stillproof.errors import ConfigError

    if served is None or ledger is None:
        remedy = "give the store and the ledger of `stillproof serve --record --ledger`"
        raise ConfigError("twins and cards are read from what was served", "--served, --ledger", remedy)
    return served, ledger
