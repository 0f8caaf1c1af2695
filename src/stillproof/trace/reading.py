"""Readers: suspects that read a text given to them, and say how likely each of its tokens was to them.

A request's last message is what is read, after the messages before it. The exchange that comes back repeats that text
as its response, with the suspect's log-probabilities of all of it in `tokens` (None where it would not say): read, not
written. So reading is asked, resumed and kept as answering is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from stillproof.errors import MissingSignalError
from stillproof.exchange import Exchange, Message, Provenance, ResponseTokens
from stillproof.teacher import Identity, Request, Teacher, asked, now
from stillproof.teacher.openai import OpenAITeacher

if TYPE_CHECKING:
    from stillproof.config import TeacherConfig
    from stillproof.teacher.limits import Cost
    from stillproof.teacher.local import LocalTeacher

LOCAL = ("smollm2", "weights", "gguf")
_REMEDY = "plan the twin test with --score text, which needs the suspect's own answers alone"
Ids = tuple[list[int], list[int]]
"""Of what stands before a text, and of the text."""
_MAX_LOGITS = 1 << 26
"""Numbers of one forward pass that are kept at once: 256 MB."""


def open_reader(config: TeacherConfig) -> Teacher:
    """The suspect that a config names, as a reader. Raises MissingSignalError where it can only answer."""
    if config.kind in LOCAL:
        from stillproof.teacher.local import open_local

        return LocalReader(open_local(config))
    if config.kind == "openai":
        return EndpointReader(config)
    raise MissingSignalError("this suspect reads no text that is given to it", config.kind, _REMEDY)


class LocalReader:
    """Weights on this machine, reading in batches: one forward pass for several texts."""

    def __init__(self, plain: LocalTeacher) -> None:
        self._plain = plain

    @property
    def identity(self) -> Identity:
        return self._plain.identity

    def close(self) -> None:
        self._plain.close()

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for batch in self._batches(requests):
            rows = [ids for _, ids in batch]
            for (request, (_, text)), logprobs in zip(batch, self._logprobs(rows), strict=True):
                yield self._read(request, text, logprobs)

    def _batches(self, requests: Iterable[Request]) -> Iterator[list[tuple[Request, Ids]]]:
        """Requests with their ids, as many of about equal length at once as a forward pass may hold."""
        waiting = iter(requests)
        while window := list(islice(waiting, 64)):
            texts = [self._ids(request) for request in window]
            order = sorted(range(len(window)), key=lambda i: len(texts[i][0]) + len(texts[i][1]))
            while order:
                batch = self._batch(order, texts)
                order = order[len(batch) :]
                yield [(window[i], texts[i]) for i in batch]

    def _ids(self, request: Request) -> Ids:
        tokenizer: Any = self._plain.tokenizer
        before = request.messages[:-1]
        if tokenizer.chat_template:
            start = self._plain.prompt_ids(replace(request, messages=before))
        else:
            # A base model continues plain text, whatever the roles were.
            start = list(tokenizer("\n".join(message.content or "" for message in before))["input_ids"])
        text = sound(request.messages[-1].content)
        return start, list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _batch(self, order: Sequence[int], texts: Sequence[Ids]) -> list[int]:
        """As many of the next rows, of about equal length, as a forward pass may hold."""
        vocabulary = int(self._plain.model.config.get_text_config().vocab_size)
        batch: list[int] = []
        for i in order:
            longest = len(texts[i][0]) + len(texts[i][1])
            if batch and (len(batch) + 1) * longest * vocabulary > _MAX_LOGITS:
                break
            batch.append(i)
        return batch

    def _logprobs(self, rows: Sequence[Ids]) -> list[list[float] | None]:
        """Of each row the log-probabilities of its text; None where it does not fit into the suspect's context."""
        import torch

        model: Any = self._plain.model
        context = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)
        lengths = [len(start) + len(text) for start, text in rows]
        fits = [bool(start) and bool(text) and n <= context for (start, text), n in zip(rows, lengths, strict=True)]
        if not any(fits):
            return [None] * len(rows)
        longest = max(n for n, fit in zip(lengths, fits, strict=True) if fit)
        kept = [(start, text) for (start, text), fit in zip(rows, fits, strict=True) if fit]
        # Padding on the right is after everything that a causal model reads.
        ids = torch.tensor([[*start, *text] + [0] * (longest - len(start) - len(text)) for start, text in kept])
        mask = torch.tensor(
            [[1] * (len(start) + len(text)) + [0] * (longest - len(start) - len(text)) for start, text in kept]
        )
        with torch.inference_mode():
            device = model.device
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        found: list[list[float] | None] = []
        for row, (start, text) in enumerate(kept):
            own = logits[row, len(start) - 1 : len(start) + len(text) - 1].float()
            wanted = torch.tensor(text, device=own.device)[:, None]
            found.append((own.gather(-1, wanted)[:, 0] - own.logsumexp(-1)).tolist())
        filled = iter(found)
        return [next(filled) if fit else None for fit in fits]

    def _read(self, request: Request, ids: list[int], logprobs: list[float] | None) -> Exchange:
        exchange = _asked(request, self.identity, self.identity.model)
        if logprobs is None:
            return replace(exchange, status=400, time=now())
        tokens = ResponseTokens(ids=tuple(ids), logprobs=tuple(logprobs))
        return replace(exchange, response=request.messages[-1].content, tokens=tokens, status=200, time=now())


class EndpointReader(OpenAITeacher):
    """An endpoint that echoes a prompt with its log-probabilities at /completions (vLLM and others do).

    Chat endpoints show the template of no turn that they did not write, so the text is given as plain text after the
    messages, each with its role. That costs power where the suspect was trained in a template, and never validity.
    """

    def _sent(self, request: Request, key: str, url: str, cost: Cost) -> Exchange:
        began = time.monotonic()
        start, text = as_plain(request.messages)
        raw = self._clients[url].completions.with_raw_response.create(
            model=self.identity.model, prompt=start + text, echo=True, logprobs=1, max_tokens=1, temperature=1.0
        )
        exchange = _asked(request, self.identity, url)
        logprobs = _echoed(raw.http_response.content, start, text)
        self._budget.settle(cost, cost)
        return replace(
            exchange,
            response=request.messages[-1].content,
            tokens=None if logprobs is None else ResponseTokens(logprobs=tuple(logprobs)),
            status=200,
            time=now(),
            latency_s=time.monotonic() - began,
        )

    def _refused(self, request: Request, url: str, error: Any, cost: Cost) -> Any:
        if int(error.status_code) == 404:
            _cannot(url)
        return super()._refused(request, url, error, cost)


def _cannot(url: str) -> NoReturn:
    raise MissingSignalError("the endpoint has no /completions to read a text with", url, _REMEDY)


def as_plain(messages: Sequence[Message]) -> tuple[str, str]:
    start = "".join(f"{message.role}: {sound(message.content)}\n" for message in messages[:-1])
    return f"{start}assistant: ", sound(messages[-1].content)


def _echoed(raw: bytes, start: str, text: str) -> list[float] | None:
    """Log-probabilities of the tokens that lie within the text; None where they do not cover it to its end, or the
    endpoint gave none. Raises ValueError, LookupError, TypeError or AttributeError for what is no completion."""
    import json

    logprobs = json.loads(raw)["choices"][0].get("logprobs") or {}
    values, offsets, tokens = (logprobs.get(name) for name in ("token_logprobs", "text_offset", "tokens"))
    if not values or not offsets or not tokens or not len(values) == len(offsets) == len(tokens):
        return None
    # A token over the border belongs to both sides and is left out; what was generated lies behind the text.
    within = [i for i, at in enumerate(offsets) if len(start) <= at < len(start) + len(text)]
    if not within or "".join(tokens[i] for i in within) != text[offsets[within[0]] - len(start) :]:
        return None
    found = [values[i] for i in within]
    return None if any(not isinstance(value, int | float) for value in found) else [float(value) for value in found]


def _asked(request: Request, identity: Identity, detail: str) -> Exchange:
    exchange = asked(request, identity)
    return replace(exchange, provenance=Provenance("teacher", f"{detail} (read, not written)", teacher=identity.digest))


def sound(text: str | None) -> str:
    # A lone surrogate, which JSON can carry, is no text to a tokenizer.
    return (text or "").encode("utf-8", "replace").decode("utf-8")
