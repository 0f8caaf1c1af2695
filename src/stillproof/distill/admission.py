"""What must be so before a run begins or goes on: terms that allow it, a config that can work, a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from stillproof import terms
from stillproof.config import DistillConfig, TeacherConfig, dump
from stillproof.distill.ancestry import with_ancestors
from stillproof.distill.card import Start
from stillproof.distill.run_folder import Run, write, write_json
from stillproof.errors import ConfigError, OutputExistsError
from stillproof.lineage.signature import check_signing_key
from stillproof.progress import OnEvent, ignore
from stillproof.teacher import Identity, identify
from stillproof.teacher.weights import weights_folder

IfExists = Literal["fail", "resume", "replace"]

MAY_CHANGE = (
    "teacher.base_urls", "teacher.api_key_env", "teacher.concurrency", "teacher.batch_size", "teacher.timeout_s",
    "teacher.max_retries", "teacher.requests_per_minute", "teacher.max_requests", "teacher.max_tokens_total",
    "teacher.max_usd", "train.threads", "train.checkpoint_steps", "ship.signing_key", "terms.exchanges_taken",
)  # fmt: skip
"""What a resumed run may set otherwise than the one it goes on with: how to reach the teacher, not what is learned."""


def open_run(config: DistillConfig, out: Path, if_exists: IfExists, on_event: OnEvent = ignore) -> Run:
    """Ask the terms, of the teacher and of the student's first weights, then make or find the folder.

    Raises TermsError before anything else has happened, ConfigError for what would only fail later.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a run is one process, and this is one of several",
            "WORLD_SIZE",
            "start it without torchrun; `distill.train.train` shares steps where you initialise torch.distributed",
        )
    check_loss(config.train.loss)
    if config.ship.signing_key is not None:
        check_signing_key(Path(config.ship.signing_key))
    identity, verdict, start = asked(config)
    if out.exists() and not out.is_dir():
        raise OutputExistsError("is a file, not a folder", str(out), "give another --out")
    fresh = not out.exists() or all(path.suffix == ".tmp" for path in out.iterdir())
    if not fresh:
        if if_exists == "fail":
            raise OutputExistsError("there is something already", str(out), "use --if-exists resume, or replace")
        if if_exists == "replace":
            remove_run(out)
        else:
            _check_same_run(config, verdict, out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "terms.json", verdict.to_json())
    write(out / "config.json", dump(config))
    return Run(config, out, verdict, identity, start, on_event)


def asked(config: DistillConfig) -> tuple[Identity, terms.Verdict, Start]:
    """Who the teacher is, and the verdicts on it and on the student's first weights; all allow, or TermsError."""
    first = start_config(config)
    own = first.model_copy(update={"licence": None}) == config.teacher.model_copy(update={"licence": None})
    for teacher in (config.teacher, first):
        terms.require(ask_terms(config, teacher))
        if teacher.kind == "weights":
            # A hub repository's own card counts for more than what the config declares: fetched, then asked again.
            weights_folder(teacher.model)
    verdict = ask_terms(config, config.teacher, derivative=own)
    start_verdict = ask_terms(config, first, derivative=True)
    for answer in (verdict, start_verdict):
        terms.require(answer)
    return identify(config.teacher), verdict, Start(identify(first), start_verdict)


def check_loss(name: str) -> None:
    from stillproof.distill.losses import find_loss

    find_loss(name)


def start_config(config: DistillConfig) -> TeacherConfig:
    """The student's first weights, described as a teacher is, so that they are asked the same way."""
    student = config.student
    source = student.model or student.layers_of
    if source is None:
        return config.teacher
    kind = "smollm2" if source == "smollm2" else "gguf" if source.endswith(".gguf") else "weights"
    return TeacherConfig(kind=kind, model="" if kind == "smollm2" else source, licence=student.licence)


def remove_run(out: Path) -> None:
    """Delete a folder that a run of ours made. Raises OutputExistsError for any other: it may be somebody's model."""
    if not out.exists():
        return
    if any(out.iterdir()) and not ((out / "config.json").exists() and (out / "terms.json").exists()):
        raise OutputExistsError("is no run of stillproof, so it is not replaced", str(out), "give another --out")
    shutil.rmtree(out)


def ask_terms(config: DistillConfig, teacher: TeacherConfig, *, derivative: bool = False) -> terms.Verdict:
    """The strictest verdict over the teacher's hosts, with what its ancestors ask and the grants that are used."""
    identity = identify(teacher)
    found = identify(teacher.model_copy(update={"licence": None})).licence is not None
    today = datetime.now(UTC).date()
    grants = [terms.read_grant(Path(path)) for path in _grant_files(config)]
    hosts: tuple[str | None, ...] = (identity.endpoint,)
    if teacher.kind == "openai":
        from stillproof.teacher.openai import endpoints

        hosts = endpoints(teacher)
    own = terms.strictest(
        [
            terms.ask(
                licence=identity.licence,
                provider=host,
                model=identity.model,
                declared_by="weights metadata" if found else "config",
                grant=None,
                today=today,
                derivative=derivative,
            )
            for host in hosts
        ]
    )
    return with_ancestors(terms.with_grants(own, grants, today), teacher, config.terms, grants, today)


def _grant_files(config: DistillConfig) -> tuple[str, ...]:
    first = () if config.terms.grant is None else (config.terms.grant,)
    return (*first, *config.terms.grants)


def _check_same_run(config: DistillConfig, verdict: terms.Verdict, out: Path) -> None:
    """Refuse to go on under another config, or under other terms than those that the first part was made under."""
    if not (out / "config.json").exists():
        raise OutputExistsError("holds no run of ours", str(out), "give another --out")
    # A run that an earlier version began knows nothing of newer settings: there it had what is their default.
    found = _flat(json.loads(dump(DistillConfig()))) | _flat(json.loads((out / "config.json").read_text("utf-8")))
    wanted = _flat(json.loads(dump(config)))
    differing = [name for name in wanted if name not in MAY_CHANGE and found.get(name) != wanted[name]]
    if differing:
        raise ConfigError(
            f"the run in this folder was begun with other values of {', '.join(differing)}",
            str(out),
            "resume with the same config, or use another --out",
        )
    before, now = json.loads((out / "terms.json").read_text("utf-8")), verdict.to_json()
    if _terms_of(before) != _terms_of(now):
        raise ConfigError(
            f"the run was begun under the terms {_terms_of(before)} and would go on under {_terms_of(now)}",
            str(out),
            "go on with the teacher it was begun with, or use another --out",
        )


def _terms_of(verdict: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """Record and decision of a model and of each of its ancestors, as terms.json has them."""
    return [(row["record"], row["decision"]) for row in (verdict, *verdict.get("ancestors", ()))]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, inner in values.items():
        flat |= (
            {f"{section}.{name}": value for name, value in inner.items()}
            if isinstance(inner, dict)
            else {section: inner}
        )
    return flat
