"""ReplayTeacher: a store of earlier exchanges that answers again what it was asked. It never calls anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stillproof.errors import ConfigError, InputError
from stillproof.exchange import Exchange, Message, Provenance
from stillproof.teacher import Identity, Request, asked

if TYPE_CHECKING:
    from stillproof.config import TeacherConfig
    from stillproof.store import Store

Key = tuple[tuple[Message, ...], str | None]


class ReplayTeacher:
    """Answers from exchanges that were recorded: first by the exact request key, else by the prompt alone.

    - Exact: same model, messages, tools, sampling parameters and sample index.
    - By prompt: the k-th recorded response to the same messages and tools, whatever it was sampled with, answers
      sample k. The exchange keeps the sampling it was recorded with, so that nothing claims what was not done.

    Only exchanges with a response and status 200 (or no status) answer. A prompt without a recorded response raises
    InputError that names it; nothing is answered by guess. The answer has the recorded id, time, model and tokens;
    its request key is that of the request, and its provenance says 'replay'.
    """

    def __init__(self, exchanges: Iterable[Exchange], identity: Identity) -> None:
        self._identity = identity
        self._by_request: dict[str, Exchange] = {}
        self._by_prompt: dict[Key, list[Exchange]] = {}
        for exchange in exchanges:
            if exchange.response is None or exchange.status not in (None, 200):
                continue
            if exchange.request_key is not None:
                self._by_request.setdefault(exchange.request_key, exchange)
            self._by_prompt.setdefault((exchange.messages, exchange.tools), []).append(exchange)

    @property
    def identity(self) -> Identity:
        return self._identity

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for request in requests:
            yield self._replayed(request)

    def close(self) -> None:
        self._by_request.clear()
        self._by_prompt.clear()

    def _replayed(self, request: Request) -> Exchange:
        recorded = self._by_request.get(request.key(self._identity.model))
        if recorded is None:
            samples = self._by_prompt.get((request.messages, request.tools), [])
            if request.sample >= len(samples):
                raise InputError(
                    f"the store holds {len(samples)} response(s) to this prompt, sample {request.sample} is asked for",
                    _shown(request),
                    "generate it with the real teacher, or leave the prompt out",
                )
            recorded = samples[request.sample]
        question = asked(request, self._identity)
        return replace(
            recorded,
            id=request.id or recorded.id,
            account=request.account,
            request_key=question.request_key,
            provenance=Provenance(
                "replay",
                recorded.provenance.detail if recorded.provenance else None,
                teacher=self._identity.digest,
                terms=recorded.provenance.terms if recorded.provenance else None,
                grant=recorded.provenance.grant if recorded.provenance else None,
            ),
        )


def _shown(request: Request) -> str:
    text = request.messages[-1].content or "" if request.messages else ""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= 80 else shown[:79] + "…"


def open_replay(config: TeacherConfig) -> ReplayTeacher:
    from stillproof.store import Store

    with Store.open(_folder(config)) as store:
        return ReplayTeacher(store, _identity(config, store))


def identify_replay(config: TeacherConfig) -> Identity:
    """The recorded model's name ('several models' where there are more than one), the store's digest as `weights`."""
    from stillproof.store import Store

    with Store.open(_folder(config)) as store:
        return _identity(config, store)


def _folder(config: TeacherConfig) -> Path:
    if not config.model:
        raise ConfigError("a replay needs a store", "teacher.model", "give the path of a store")
    return Path(config.model).expanduser()


def _identity(config: TeacherConfig, store: Store) -> Identity:
    models = sorted({name for name in store.table(["model"])["model"].to_pylist() if name is not None})
    return Identity(
        model=models[0] if len(models) == 1 else "several models" if models else "unknown",
        kind="replay",
        weights=store.digest,
        licence=config.licence,
    )
