"""Marking: what the windows and the key do to candidate tokens, and a sampler on logits that does it.

The seam for other samplers (transformers, vLLM) is `green_bias` and `gumbel_uniforms`: pure functions of lanes, window
codes and candidate ids. Everything else here is one way of using them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import ConfigError, InputError
from stillproof.watermark.keys import MarkKey, Scheme
from stillproof.watermark.prf import Lanes, Stream, Words, prf_words, window_codes

Ids = NDArray[np.int64]
Reals = NDArray[np.float64]


def green_bias(lanes: Lanes, windows: NDArray[np.uint64], candidates: Ids, scheme: Scheme) -> Reals:
    """What is added to the logits of candidates, [batch, m]: delta where green, else 0.

    `lanes`: [4], or [batch, 4] where each row has its own; `windows`: [batch]; `candidates`: token ids [batch, m].
    """
    green = _words(lanes, windows, candidates, Stream.MAIN) < scheme.green_below
    return np.where(green, scheme.delta, 0.0)


def gumbel_uniforms(
    lanes: Lanes, windows: NDArray[np.uint64], candidates: Ids, second: NDArray[np.bool_] | None = None
) -> Reals:
    """Uniforms u in (0, 1) of candidates, [batch, m]: serve the one with the largest ln(u) / p.

    Shapes as in `green_bias`. `second`, [batch]: rows that draw under the second key.
    """
    stream = Stream.MAIN if second is None else np.where(second, Stream.SECOND, Stream.MAIN)[:, None]
    return (_words(lanes, windows, candidates, stream).astype(np.float64) + 0.5) * 2.0**-32


def top_candidates(logits: NDArray[np.floating], m: int) -> Ids:
    """Ids of the `m` largest logits of each row, in no order: [batch, vocab] -> [batch, min(m, vocab)]."""
    rows, vocab = logits.shape
    m = min(m, vocab)
    width = max(1, vocab // (4 * m))
    blocks = vocab // width
    if blocks <= m:
        return np.argpartition(logits, vocab - m, axis=1)[:, vocab - m :]
    # The m-th largest of the blocks' maxima is no larger than the m-th largest logit, and far cheaper to find.
    maxima = logits[:, : blocks * width].reshape(rows, blocks, width).max(axis=2)
    bar = np.partition(maxima, blocks - m, axis=1)[:, blocks - m]
    ids = np.empty((rows, m), dtype=np.int64)
    for i in range(rows):
        likely = np.flatnonzero(logits[i] >= bar[i])
        if likely.size > m:
            likely = likely[np.argpartition(logits[i, likely], likely.size - m)[likely.size - m :]]
        ids[i] = likely
    return ids


class Marker:
    """Samples tokens from logits, marked under a key.

    The distribution is the softmax of logits / temperature over the whole vocabulary; the `scheme.top` most likely
    tokens are marked, the rest keep their share unmarked. Gumbel marks leave each token's distribution as it is; a
    window already used in the request is sampled without the mark, because the same uniforms would make the same choice
    again and again. Green marks do not keep the distribution.
    """

    def __init__(self, key: MarkKey, rng: np.random.Generator, *, temperature: float = 1.0) -> None:
        """`rng` draws what the key does not decide. Raises ConfigError for a temperature of 0 or less: there is
        nothing to choose, and so nothing to mark."""
        if not temperature > 0:
            raise ConfigError(f"a watermark at temperature {temperature!r}", remedy="sample at a temperature above 0")
        self.key, self.temperature, self._rng = key, temperature, rng

    def step(
        self,
        logits: NDArray[np.floating],
        contexts: Sequence[Sequence[int]],
        used: Sequence[set[int]],
        accounts: Sequence[str] | None = None,
    ) -> Ids:
        """The next token of each request, shape [batch].

        `logits`: [batch, vocab], finite or -inf. `contexts`: the tokens so far, of which the last k matter; fewer than
        k are sampled without a mark. `used`: of each request, the windows used so far, empty at its start; this adds to
        them. `accounts`: pseudonyms, where windows are shared with sub-keys. Raises InputError for shapes that do not
        fit, and for accounts missing where the scheme has sub-keys.
        """
        if logits.ndim != 2 or len(contexts) != logits.shape[0] or len(used) != logits.shape[0]:
            raise InputError(f"logits of shape {logits.shape} for {len(contexts)} contexts and {len(used)} states")
        if (accounts is None) != (self.key.scheme.account_share == 0):
            remedy = "give one account a request exactly where account_share is above 0"
            raise InputError("accounts and account_share do not go together", remedy=remedy)
        scheme = self.key.scheme
        windows, marked = self._windows(contexts, used)
        candidates = top_candidates(logits, scheme.top)
        # Float64 of 64 candidates costs nothing, and the share of the rest is 1 minus theirs.
        top = np.take_along_axis(logits, candidates, axis=1).astype(np.float64) / self.temperature
        peak = top.max(axis=1, keepdims=True)
        if not np.isfinite(peak).all():
            raise InputError("logits without a finite maximum", remedy="mask fewer tokens")
        weights = np.exp(top - peak)
        rest = self._rest(logits, candidates, peak) if candidates.shape[1] < logits.shape[1] else None
        if not marked.any():
            chosen = self._draw(weights)
        elif scheme.kind == "green":
            bias = green_bias(self._lanes(windows, accounts), windows, candidates, scheme)
            weights = np.where(marked[:, None], weights * np.exp(bias), weights)
            chosen = self._draw(weights)
        else:
            chosen = self._draw_gumbel(weights, self._lanes(windows, accounts), windows, candidates)
            chosen = np.where(marked, chosen, self._draw(weights))
        ids = candidates[np.arange(chosen.size), chosen]
        return ids if rest is None else self._with_rest(ids, weights.sum(axis=1), rest)

    def _windows(
        self, contexts: Sequence[Sequence[int]], used: Sequence[set[int]]
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        scheme, k = self.key.scheme, self.key.scheme.k
        marked = np.array([len(context) >= k for context in contexts], dtype=np.bool_)
        last = [list(context[-k:]) if len(context) >= k else [0] * k for context in contexts]
        windows = window_codes(last, k)[:, 0]
        if scheme.kind == "green":
            return windows, marked
        for i in np.flatnonzero(marked).tolist():
            window = int(windows[i])
            marked[i] = window not in used[i]
            used[i].add(window)
        return windows, marked

    def _lanes(self, windows: NDArray[np.uint64], accounts: Sequence[str] | None) -> Lanes:
        """The lane of each row, [batch, 4], or [4] where all rows have the global one."""
        if accounts is None:
            return self.key.lane
        if len(accounts) != windows.size:
            raise InputError(f"{len(accounts)} accounts for {windows.size} requests")
        own = np.stack([self.key.account_lane(account) for account in accounts])
        return np.where(self.key.for_account(windows)[:, None], own, self.key.lane)

    def _draw(self, weights: Reals) -> Ids:
        sums = np.cumsum(weights, axis=1)
        at = self._rng.random(sums.shape[0])[:, None] * sums[:, -1:]
        return np.minimum((sums <= at).sum(axis=1), sums.shape[1] - 1)

    def _draw_gumbel(self, weights: Reals, lanes: Lanes, windows: NDArray[np.uint64], candidates: Ids) -> Ids:
        second = self._rng.random(windows.size) < self.key.scheme.second_share
        u = gumbel_uniforms(lanes, windows, candidates, second)
        with np.errstate(divide="ignore"):
            return np.argmax(np.log(u) / weights, axis=1)

    def _rest(self, logits: NDArray[np.floating], candidates: Ids, peak: Reals) -> NDArray[np.floating]:
        """Weights of the tokens that are no candidates, [batch, vocab]."""
        scale = logits.dtype.type(1 / self.temperature)
        weights = np.exp(logits * scale - peak.astype(logits.dtype))
        np.put_along_axis(weights, candidates, 0, axis=1)
        return weights

    def _with_rest(self, ids: Ids, kept: Reals, rest: NDArray[np.floating]) -> Ids:
        left = rest.sum(axis=1).astype(np.float64)
        for i in np.flatnonzero(self._rng.random(ids.size) * (kept + left) >= kept).tolist():
            ids[i] = np.searchsorted(np.cumsum(rest[i]), self._rng.random() * rest[i].sum(), side="right")
        return ids


def _words(lanes: Lanes, windows: NDArray[np.uint64], candidates: Ids, stream: object) -> Words:
    own = lanes if lanes.ndim == 1 else lanes[:, None, :]
    return prf_words(own, windows[:, None], candidates, np.asarray(stream, dtype=np.uint64))
