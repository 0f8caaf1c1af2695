"""Suspects that go on from a beginning: what do they say next, at temperature 0? For the places of a twin test.

A request's last message is the beginning of an answer, after the messages before it. The exchange that comes back has
what the suspect said next as its response: a few tokens of text, nothing else. A control model, which is weights on
this machine, is read for its margins: how nearly it would have said the candidate's own next token.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stillproof.errors import MissingSignalError
from stillproof.exchange import Exchange
from stillproof.teacher import Request, Teacher, asked, now
from stillproof.trace.coin_plan import NEXT_TOKENS
from stillproof.trace.reading import LOCAL, EndpointReader, LocalReader, as_plain, sound

if TYPE_CHECKING:
    from stillproof.config import TeacherConfig
    from stillproof.teacher.limits import Cost

_HOW = "(went on from a beginning)"
_REMEDY = "give weights, a GGUF file, or an endpoint with /completions"


def open_continuer(config: TeacherConfig) -> Teacher:
    """The suspect that a config names, going on from beginnings. Raises MissingSignalError where it cannot."""
    if config.kind in LOCAL:
        from stillproof.teacher.local import open_local

        return LocalContinuer(open_local(config))
    if config.kind == "openai":
        return EndpointContinuer(config)
    raise MissingSignalError("this suspect goes on from no beginning that is given to it", config.kind, _REMEDY)


@dataclass(frozen=True, slots=True)
class Margin:
    """A token of a text, as a control model reads it."""

    start: int
    """Characters of the text before it."""
    text: str
    own_logprob: float
    other_logprob: float
    """Of the likeliest other token."""


class LocalContinuer(LocalReader):
    """Weights on this machine: greedy, in batches."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Exchange]:
        for batch in self._batches(requests):
            said = self._said([[*start, *begun] for _, (start, begun) in batch])
            for (request, _), text in zip(batch, said, strict=True):
                exchange = asked(request, self.identity, f"{self.identity.model} {_HOW}")
                yield replace(exchange, response=text, status=400 if text is None else 200, time=now())

    def margins(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Margin]]]:
        """Of each request the tokens of its last message, whole characters each; none where it does not fit."""
        for batch in self._batches(requests):
            rows = [[*start, *text] for _, (start, text) in batch]
            logits = self._last(rows, [len(text) + 1 for _, (_, text) in batch])
            for (request, (start, text)), own in zip(batch, logits, strict=True):
                yield request, self._torn(request, text, own) if start and text and own is not None else []

    def _torn(self, request: Request, ids: list[int], logits: Any) -> list[Margin]:
        import torch

        tokenizer: Any = self._plain.tokenizer
        text = sound(request.messages[-1].content)
        logprobs, wanted = logits[:-1].log_softmax(-1), torch.tensor(ids, device=logits.device)[:, None]
        own = logprobs.gather(-1, wanted)[:, 0].tolist()
        others = logprobs.scatter(-1, wanted, -float("inf")).amax(-1).tolist()
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ends = [0, *(end for _, end in offsets)]
        starts = [*(start for start, _ in offsets), len(text)]
        # A character that several tokens share begins and ends at no token.
        return [
            Margin(a, text[a:b], own[i], others[i])
            for i, (a, b) in enumerate(offsets)
            if a < b and ends[i] <= a and b <= starts[i + 1]
        ]

    def _said(self, rows: Sequence[list[int]]) -> list[str | None]:
        """What is said after each row of ids; None where it does not fit into the context."""
        tokenizer: Any = self._plain.tokenizer
        grown: list[list[int]] = [list(row) for row in rows]
        fits, done = [True] * len(rows), [False] * len(rows)
        for _ in range(NEXT_TOKENS):
            at = [i for i in range(len(rows)) if fits[i] and not done[i]]
            if not at:
                break
            for i, logits in zip(at, self._last([grown[i] for i in at], [1] * len(at)), strict=True):
                if logits is None:
                    fits[i] = len(grown[i]) > len(rows[i])
                    done[i] = True
                    continue
                likeliest = int(logits[-1].argmax())
                done[i] = likeliest == tokenizer.eos_token_id
                if not done[i]:
                    grown[i].append(likeliest)
        said: list[str | None] = []
        for before, after, fit in zip(rows, grown, fits, strict=True):
            # Decoded with what stands before, for some tokenizers drop a space at the start of a text.
            start, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (before, after))
            said.append(whole[len(start) :] if fit else None)
        return said

    def _last(self, rows: Sequence[list[int]], keep: Sequence[int]) -> list[Any]:
        """Logits after each of the last `keep` ids of every row, float tensors [keep, vocab]; None where a row is empty
        or does not fit into the context."""
        import torch

        model: Any = self._plain.model
        context = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)
        fits = [0 < len(row) <= context for row in rows]
        kept = [row for row, fit in zip(rows, fits, strict=True) if fit]
        if not kept:
            return [None] * len(rows)
        longest = max(map(len, kept))
        # Padding on the right is after everything that a causal model reads.
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in kept], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in kept], device=model.device)
        with torch.inference_mode():
            logits = iter(model(input_ids=ids, attention_mask=mask, use_cache=False).logits)
        return [
            next(logits)[max(0, len(row) - n) : len(row)].float() if fit else None
            for row, n, fit in zip(rows, keep, fits, strict=True)
        ]


class EndpointContinuer(EndpointReader):
    """An endpoint that goes on from a plain prompt at /completions; only its text is taken."""

    def _sent(self, request: Request, key: str, url: str, cost: Cost) -> Exchange:
        began = time.monotonic()
        start, text = as_plain(request.messages)
        told = self._clients[url].completions.create(
            model=self.identity.model, prompt=start + text, max_tokens=NEXT_TOKENS, temperature=0.0
        )
        self._budget.settle(cost, cost)
        said: object = told.choices[0].text
        if not isinstance(said, str):
            raise TypeError("a completion whose text is no text")
        exchange = replace(asked(request, self.identity, f"{url} {_HOW}"), response=said, status=200, time=now())
        return replace(exchange, latency_s=time.monotonic() - began)
