"""The records of an exchange, what is hashed of them, and what they may hold."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from stillproof.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt, in the chat-completions vocabulary."""

    role: str
    content: str | None
    name: str | None = None
    tool_calls: str | None = None
    """Canonical JSON, as the client sent it."""
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """The parameters a response was asked for with. None means: left to the model's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    top_logprobs: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # 1 and 1.0, 0.0 and -0.0 are one temperature, so they must be one request key, before and after a file.
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if isinstance(value, int | float):
                object.__setattr__(self, name, float(value) + 0.0)


@dataclass(frozen=True, slots=True)
class ResponseTokens:
    """The n tokens of a response. Log-probabilities are natural (nats), of the model that answered."""

    ids: tuple[int, ...] | None = None
    """n ids in the tokenizer named by `tokenizer`; None where an API gives pieces only."""
    pieces: tuple[bytes, ...] | None = None
    """n byte strings whose concatenation is the response."""
    logprobs: tuple[float, ...] | None = None
    """n log-probabilities of the tokens drawn."""
    top_ids: tuple[tuple[int, ...], ...] | None = None
    """n rows of the likeliest ids, most likely first; rows may differ in length."""
    top_pieces: tuple[tuple[bytes, ...], ...] | None = None
    top_logprobs: tuple[tuple[float, ...], ...] | None = None
    tokenizer: str | None = None
    """SHA-256 of the tokenizer, where it is known."""

    def __len__(self) -> int:
        for column in (self.ids, self.pieces, self.logprobs):
            if column is not None:
                return len(column)
        return 0


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an exchange comes from, in words that a manifest can repeat."""

    source: str
    """'teacher', 'replay', 'dataset', 'serve', or the name of the importer."""
    detail: str | None = None
    """File, endpoint or repository, without secrets."""
    teacher: str | None = None
    """Digest of the teacher's identity (`teacher.Identity.digest`)."""
    terms: str | None = None
    """Id of the terms record under which the exchange was made."""
    grant: str | None = None
    """Id of the recorded grant, if one was needed."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One prompt and its response. See the module's rules."""

    id: str
    messages: tuple[Message, ...]
    response: str | None
    reasoning: str | None = None
    tools: str | None = None
    """Canonical JSON of the tool definitions offered with the prompt."""
    tokens: ResponseTokens | None = None
    model: str | None = None
    time: datetime | None = None
    """When the response was complete; timezone-aware, UTC, microseconds."""
    sampling: Sampling | None = None
    finish_reason: str | None = None
    status: int | None = None
    """HTTP status of the call, 200 for a local model that answered."""
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    latency_s: float | None = None
    account: str | None = None
    """Pseudonym: a keyed hash made at the import door, never the raw name."""
    organisation: str | None = None
    network: str | None = None
    """Pseudonym of the client's network (address prefix)."""
    client: str | None = None
    """User agent or SDK name."""
    conversation: str | None = None
    request_key: str | None = None
    """What makes two calls the same call; see `request_key`. Resume looks here."""
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        if self.time is None:
            return
        if self.time.tzinfo is None:
            raise InputError("time has no timezone", self.id, "give an aware datetime, for example in UTC")
        try:
            object.__setattr__(self, "time", self.time.astimezone(UTC))
        except OverflowError:
            raise InputError("time is outside the years 1 to 9999 in UTC", self.id, "correct the clock") from None


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of a value; lone surrogates are hashed as such."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def request_key(
    model: str,
    messages: Iterable[Message],
    sampling: Sampling,
    sample: int,
    tools: str | None = None,
) -> str:
    """The key of a call: equal for the same model, prompt, tools, sampling parameters and sample index."""
    return sha256_of([model, [asdict(m) for m in messages], tools, asdict(sampling), sample])


def content_hash(exchange: Exchange) -> str:
    """SHA-256 over what was asked and what was answered; not over when, by whom, or through which file."""
    return sha256_of(
        [
            exchange.model,
            [asdict(m) for m in exchange.messages],
            exchange.tools,
            asdict(exchange.sampling) if exchange.sampling else None,
            exchange.reasoning,
            exchange.response,
            exchange.finish_reason,
        ]
    )


def with_ids(exchanges: Iterable[Exchange], seen: Counter[str] | None = None) -> Iterator[Exchange]:
    """Give every exchange without an id its content hash and occurrence index ('<hash>-<k>').

    `seen` counts the hashes met so far; pass the same counter to go on over several batches of one source.
    """
    counts: Counter[str] = Counter() if seen is None else seen
    for exchange in exchanges:
        if exchange.id:
            yield exchange
            continue
        digest = content_hash(exchange)[:40]
        yield replace(exchange, id=f"{digest}-{counts[digest]}")
        counts[digest] += 1


def document(text: str, detail: str, messages: tuple[Message, ...] = ()) -> Exchange:
    """A text that no model gave: a plain document, or the gold answer to `messages`. Its id is still to be given."""
    return Exchange(id="", messages=messages, response=text, provenance=Provenance("dataset", detail))
