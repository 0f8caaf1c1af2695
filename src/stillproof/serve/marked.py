"""MarkedTeacher: weights on this machine that answer under a watermark key.

Each request has its own random numbers and its own windows, so that what is drawn does not depend on the batch. Windows
lie within the answer: the end of a prompt is the same in every call of a chat template, and would mark every answer's
first token alike. At temperature 0 there is nothing to choose and nothing is marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import ConfigError
from stillproof.exchange import sha256_of
from stillproof.serve.coined import ANONYMOUS
from stillproof.teacher.local import LocalTeacher, open_local
from stillproof.watermark import Marker, MarkKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from stillproof.config import TeacherConfig
    from stillproof.exchange import Sampling

MARKABLE = ("smollm2", "weights", "gguf")


class MarkedTeacher(LocalTeacher):
    """Answers as LocalTeacher, marked under `key`. Log-probabilities are those of the model, without the mark."""

    def __init__(self, plain: LocalTeacher, key: MarkKey, *, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__(plain.model, plain.tokenizer, plain.identity, batch_size=batch_size, seed=seed)
        self._key = key

    def _draw(self, prompts: Sequence[Any], u: torch.Tensor, sampling: Sampling) -> Any:
        plain = super()._draw(prompts, u, sampling)
        rule = self._rule(sampling)
        if rule.temperature == 0:
            return plain
        from stillproof.teacher.draw import Draw, kept

        key, share = self._key, self._key.scheme.account_share
        seeds = [self._seed_of(prompt.request) for prompt in prompts]
        rows = zip(seeds, prompts, strict=True)
        marker = Marker(key, _Rows([_random(seed, prompt) for seed, prompt in rows]), temperature=rule.temperature)
        accounts = [prompt.request.account or ANONYMOUS for prompt in prompts] if share else None
        used: list[set[int]] = [set() for _ in prompts]
        longest = max(len(prompt.ids) for prompt in prompts)

        class Marked(Draw):
            def choose(self, input_ids: torch.Tensor, logits: torch.Tensor, step: int) -> torch.Tensor:
                allowed = kept(logits, rule).cpu().numpy()
                answers = input_ids[:, longest:].tolist()
                return input_ids.new_tensor(marker.step(allowed, answers, used, accounts))

        return Marked(rule, u, sampling.top_logprobs or 0)


def open_marked(config: TeacherConfig, key: MarkKey, *, seed: int = 0) -> MarkedTeacher:
    """Weights that mark what they say. Raises ConfigError for a teacher whose logits are not in our hands."""
    if config.kind not in MARKABLE:
        raise ConfigError(
            f"a teacher of kind {config.kind!r} shows no logits, so its text cannot be marked as it is drawn",
            "--mark",
            "serve weights or a GGUF file, or prove with --twins and --cards, which need the text alone",
        )
    return MarkedTeacher(open_local(config, seed=seed), key, batch_size=config.batch_size, seed=seed)


class _Rows:
    """Uniforms of a batch of which each row has random numbers of its own."""

    def __init__(self, rows: Sequence[np.random.Generator]) -> None:
        self._rows = rows

    def random(self, size: tuple[int, int], /) -> NDArray[np.float64]:
        return np.stack([row.random(size[0]) for row in self._rows], axis=1)


def _random(seed: int, prompt: Any) -> np.random.Generator:
    number = int(sha256_of(["stillproof.mark.1", seed, list(prompt.ids), prompt.request.sample])[:32], 16)
    return np.random.Generator(np.random.Philox(key=number))
