"""Marks in `transformers.generate`: pass one of these in `logits_processor`, a new one for each call of generate.

    generate(..., do_sample=False, num_beams=1, logits_processor=[MarkedDraw(marker, prompts)])
    generate(..., do_sample=True, logits_processor=[GreenBias(key, prompts, temperature=T)], temperature=T)

`MarkedDraw` draws each token itself, as `Marker.step` does, and leaves only that one possible: greedy search serves it.
It is the only way for Gumbel marks, whose draw is the key's. `GreenBias` raises the logits of green tokens and leaves
the draw, and top-p and the like, to transformers. Neither imports transformers: generate takes any callable.

Marks are put on windows of the answer alone. Windows that reach into the prompt carry none, and neither do windows that
stand in it: what reads the mark (`stillproof.trace`) drops both.
"""

from __future__ import annotations

from collections.abc import Sequence

from stillproof.errors import ConfigError, InputError
from stillproof.watermark.keys import MarkKey
from stillproof.watermark.marking import Marker, prompt_windows
from stillproof.watermark.prf import window_code
from stillproof.watermark.tensors import Tensor, add_green, one_hot, step_tensor


class _Rows:
    """What a call of generate has written so far, row by row; padding on the left is never looked at."""

    def __init__(self, prompts: Sequence[Sequence[int]], k: int) -> None:
        self.used = [prompt_windows(prompt, k) for prompt in prompts]
        self._width: int | None = None
        self._length = 0

    def answers(self, input_ids: Tensor, n_scores: int) -> list[list[int]]:
        """The answers so far. Raises InputError for another batch, or a second call of generate."""
        n, length = input_ids.shape
        if n != len(self.used) or n_scores != n:
            remedy = "give the prompts of this batch, one beam and one answer a prompt"
            raise InputError(f"{n} rows for {len(self.used)} prompts", remedy=remedy)
        if self._width is None:
            self._width = length
        elif length != self._length + 1:
            raise InputError("one processor for two calls of generate", remedy="make a new one for each call")
        self._length = length
        return [list(row) for row in input_ids[:, self._width :].tolist()]


class MarkedDraw:
    """A logits processor that draws marked tokens under a `Marker`, either scheme. See the module.

    `prompts`: token ids of each row, without padding. `accounts`: of each row, where the scheme has sub-keys.
    """

    def __init__(self, marker: Marker, prompts: Sequence[Sequence[int]], accounts: Sequence[str] | None = None) -> None:
        self._marker, self._accounts = marker, accounts
        self._rows = _Rows(prompts, marker.key.scheme.k)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[batch, length], [batch, vocab] -> [batch, vocab]: 0 at the token drawn, else minus infinity.

        Raises InputError for a batch that is not that of the prompts (several beams make one), or a second run.
        """
        contexts = self._rows.answers(input_ids, scores.shape[0])
        ids = step_tensor(self._marker, scores, contexts, self._rows.used, self._accounts)
        return one_hot(scores, range(len(contexts)), ids)


class GreenBias:
    """A logits processor that adds delta to green candidates, before transformers divides by `temperature`.

    The bias is delta * temperature, so that it is delta in what is drawn from. Raises ConfigError for a key of another
    scheme, one with sub-keys of accounts, or a temperature of 0 or less.
    """

    def __init__(self, key: MarkKey, prompts: Sequence[Sequence[int]], *, temperature: float = 1.0) -> None:
        if key.scheme.kind != "green" or key.scheme.account_share:
            raise ConfigError("a bias marks green lists of one key", key.scheme.kind, "draw with MarkedDraw")
        if not temperature > 0:
            raise ConfigError(f"a watermark at temperature {temperature!r}", remedy="sample at a temperature above 0")
        self._key, self._temperature = key, temperature
        self._rows = _Rows(prompts, key.scheme.k)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[batch, length], [batch, vocab] -> [batch, vocab]. Raises as `MarkedDraw`."""
        k, raised = self._key.scheme.k, scores.clone()
        for row, answer in enumerate(self._rows.answers(input_ids, scores.shape[0])):
            window = answer[-k:]
            if len(window) == k and window_code(window) not in self._rows.used[row]:
                add_green(raised, row, (self._key.lane, window), self._key.scheme, self._temperature)
        return raised
