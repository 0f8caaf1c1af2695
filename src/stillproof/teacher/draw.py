"""Drawing tokens without global random state, and noting their log-probabilities on the way.

transformers' `generate` is asked for greedy search; the logits processor here draws each token itself and leaves
only that one possible. So any architecture that `generate` knows can be sampled, a request's draws depend on the
run's seed, its prompt and its sample index but not on what else was in the batch (up to rounding), and no
[tokens, vocabulary] matrix is ever kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import LogitsProcessor

from stillproof.exchange import sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Rule:
    """How tokens are drawn: temperature 0 takes the likeliest; top_k then top_p keep the likeliest after it."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


def uniforms(seed: int, prompt_ids: Sequence[int], sample: int, n: int) -> np.ndarray:
    """n numbers in [0, 1) that depend on exactly these; the first m of n equal those of any other length."""
    key = int(sha256_of([seed, list(prompt_ids), sample])[:32], 16)
    return np.random.Generator(np.random.Philox(key=key)).random(n)


def drawn(logits: torch.Tensor, rule: Rule, u: torch.Tensor) -> torch.Tensor:
    """Ids [B] from logits [B, V] by the inverse distribution function at u [B] in [0, 1), in u's own precision."""
    if rule.temperature == 0:
        return logits.argmax(-1)
    if rule.top_k is None and rule.top_p is None:
        probabilities = torch.softmax(logits.float() / rule.temperature, -1)
        return _inverse(probabilities, u)
    k = min(rule.top_k or logits.shape[-1], logits.shape[-1])
    top, ids = torch.topk(logits.float() / rule.temperature, k, sorted=True)
    probabilities = torch.softmax(top, -1)
    if rule.top_p is not None:
        # The smallest set whose mass reaches top_p: a token stays where the mass before it is below top_p.
        before = probabilities.to(u.dtype).cumsum(-1) - probabilities
        kept = before < rule.top_p
        kept[:, 0] = True
        probabilities = torch.where(kept, probabilities, 0.0)
    return ids.gather(-1, _inverse(probabilities, u)[:, None])[:, 0]


def kept(logits: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Logits [B, V], -inf where top_k or top_p of the rule leaves a token out."""
    if rule.top_k is None and rule.top_p is None:
        return logits
    k = min(rule.top_k or logits.shape[-1], logits.shape[-1])
    top, ids = torch.topk(logits, k, sorted=True)
    if rule.top_p is not None:
        probabilities = torch.softmax(top / rule.temperature, -1)
        out = probabilities.cumsum(-1) - probabilities >= rule.top_p
        out[:, 0] = False
        top = top.masked_fill(out, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, ids, top)


def _inverse(probabilities: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    cumulative = probabilities.to(u.dtype).cumsum(-1)
    aim = u[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, aim, right=True)[:, 0].clamp(max=probabilities.shape[-1] - 1)


class Draw(LogitsProcessor):
    """Draws for a batch of B rows, one step a call. After the run, `ids`, `logprobs` (and the top k) are [B, steps].

    Log-probabilities are those of the model itself, at temperature 1 over the whole vocabulary, in nats.
    """

    def __init__(self, rule: Rule, u: torch.Tensor, top_logprobs: int) -> None:
        self._rule = rule
        self._u = u
        self._k = top_logprobs
        self._ids: list[torch.Tensor] = []
        self._logprobs: list[torch.Tensor] = []
        self._top_ids: list[torch.Tensor] = []
        self._top_logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        logits = scores.float()
        ids = self.choose(input_ids, logits, len(self._ids))
        norm = torch.logsumexp(logits, -1, keepdim=True)
        self._ids.append(ids)
        self._logprobs.append((logits.gather(-1, ids[:, None]) - norm)[:, 0])
        if self._k:
            top, top_ids = torch.topk(logits, min(self._k, logits.shape[-1]), sorted=True)
            self._top_ids.append(top_ids)
            self._top_logprobs.append(top - norm)
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(-1, ids[:, None], 0.0)  # type: ignore[return-value]

    def choose(self, input_ids: torch.Tensor, logits: torch.Tensor, step: int) -> torch.Tensor:
        """The next ids [B], from all ids so far [B, T] and logits [B, V]."""
        return drawn(logits, self._rule, self._u[:, step])

    @property
    def ids(self) -> list[list[int]]:
        return torch.stack(self._ids, 1).tolist()

    @property
    def logprobs(self) -> list[list[float]]:
        return torch.stack(self._logprobs, 1).tolist()

    @property
    def top_ids(self) -> list[list[list[int]]]:
        return torch.stack(self._top_ids, 1).tolist()

    @property
    def top_logprobs(self) -> list[list[list[float]]]:
        return torch.stack(self._top_logprobs, 1).tolist()
