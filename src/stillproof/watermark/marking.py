"""Marking: what the windows and the key do to candidate tokens, and a sampler on logits that does it.

The seam for other samplers (transformers, vLLM) is `green_bias` and `gumbel_uniforms`: pure functions of lanes, window
codes and candidate ids. Everything else here is one way of using them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import ConfigError, InputError
from stillproof.watermark.keys import MarkKey, Scheme
from stillproof.watermark.prf import Lanes, RowPrf, Stream, Words, prf_words, window_code, window_codes

Ids = NDArray[np.int64]
Reals = NDArray[np.float64]
_Given = tuple[Sequence[str] | None, Reals]
"""Accounts, and the uniforms of a step."""


class Uniforms(Protocol):
    """What a Marker draws from: a numpy Generator, or one for each row of a batch."""

    def random(self, size: tuple[int, int], /) -> Reals:
        """Uniforms in [0, 1), of shape [3, batch]."""
        ...


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
    """Ids of the `m` largest logits of each row, ascending: [batch, vocab] -> [batch, min(m, vocab)]."""
    rows, vocab = logits.shape
    m = min(m, vocab)
    width = max(1, vocab // (4 * m))
    blocks = vocab // width
    if blocks <= m:
        return np.sort(np.argpartition(logits, vocab - m, axis=1)[:, vocab - m :], axis=1)
    # The m-th largest of the blocks' maxima is no larger than the m-th largest logit, and far cheaper to find.
    maxima = logits[:, : blocks * width].reshape(rows, blocks, width).max(axis=2)
    bar = np.partition(maxima, blocks - m, axis=1)[:, blocks - m]
    ids = np.empty((rows, m), dtype=np.int64)
    for i in range(rows):
        likely = np.flatnonzero(logits[i] >= bar[i])
        if likely.size > m:
            likely = likely[np.argpartition(logits[i, likely], likely.size - m)[likely.size - m :]]
            likely.sort()
        ids[i] = likely
    return ids


def prompt_windows(prompt: Sequence[int], k: int) -> set[int]:
    """Windows that stand in a prompt. Start `used` with them: tests of an answer drop them from it, because models
    copy what they read, so a mark there distorts and proves nothing."""
    return set(window_codes(prompt, k).tolist())


class Marker:
    """Samples tokens from logits, marked under a key.

    The distribution is the softmax of logits / temperature over the whole vocabulary; the `scheme.top` most likely
    tokens are marked, the rest keep their share unmarked. Gumbel marks leave each token's distribution as it is; a
    window already used in the request is sampled without the mark, because the same uniforms would make the same choice
    again and again. Green marks do not keep the distribution.

    Each step takes three uniforms a request, shape [3, batch]: which of the two keys, the unmarked draw, and whether a
    token outside the candidates is served. One request at a time goes a way of its own, without numpy's cost of a call.
    """

    def __init__(self, key: MarkKey, rng: Uniforms, *, temperature: float = 1.0) -> None:
        """`rng` draws what the key does not decide. Raises ConfigError for a temperature of 0 or less: there is
        nothing to choose, and so nothing to mark."""
        if not temperature > 0:
            raise ConfigError(f"a watermark at temperature {temperature!r}", remedy="sample at a temperature above 0")
        self.key, self.temperature, self._rng = key, temperature, rng
        self._row_prf: RowPrf | None = None
        self._green_below, self._boost = np.uint64(key.scheme.green_below), np.exp(key.scheme.delta)

    def step(
        self,
        logits: NDArray[np.floating],
        contexts: Sequence[Sequence[int]],
        used: Sequence[set[int]],
        accounts: Sequence[str] | None = None,
    ) -> Ids:
        """The next token of each request, shape [batch].

        `logits`: [batch, vocab], finite or -inf. `contexts`: the tokens so far, of which the last k matter; fewer than
        k are sampled without a mark. `used`: of each request, the windows that are not marked: those of its prompt
        (`prompt_windows`) or none at its start; under Gumbel marks this adds the ones it uses. `accounts`: pseudonyms,
        where windows are shared with sub-keys. Raises InputError for shapes that do not fit, and for accounts missing
        where the scheme has sub-keys.
        """
        if logits.ndim != 2:
            raise InputError(f"logits of shape {logits.shape}", remedy="give one row a request")
        candidates = top_candidates(logits, self.key.scheme.top)
        if candidates.shape[0] == 1:
            top = logits[0][candidates[0]][None]
        else:
            top = np.take_along_axis(logits, candidates, axis=1)
        rest, mass = None, np.zeros(logits.shape[0])
        if candidates.shape[1] < logits.shape[1]:
            rest = self._rest(logits, candidates, top.max(axis=1, keepdims=True))
            mass = rest.sum(axis=1).astype(np.float64)
        ids, past = self.choose(candidates, top, mass, contexts, used, accounts)
        if rest is not None:
            for i in np.flatnonzero(ids < 0).tolist():
                at = np.searchsorted(np.cumsum(rest[i], dtype=np.float64), past[i], side="right")
                # Rounding may put the point past the last token that can be served.
                ids[i] = min(int(at), int(np.flatnonzero(rest[i])[-1]))
        return ids

    def choose(
        self,
        candidates: Ids,
        top: NDArray[np.floating],
        rest: Reals,
        contexts: Sequence[Sequence[int]],
        used: Sequence[set[int]],
        accounts: Sequence[str] | None = None,
    ) -> tuple[Ids, Reals]:
        """`step` for a sampler that found the candidates itself: token ids [batch], and where they are -1 the point
        among the other tokens' weights that was drawn, [batch].

        `candidates`: ids of the most likely tokens, ascending, and `top`: their logits, [batch, m]. `rest`: [batch],
        the sum over all other tokens of exp((logit - largest logit) / temperature). -1 stands for the token, in
        ascending order of ids, where the running sum of those weights passes the point.
        """
        n = candidates.shape[0]
        if len(contexts) != n or len(used) != n or top.shape != candidates.shape or rest.shape != (n,):
            raise InputError(f"logits of shape {top.shape} for {len(contexts)} contexts and {len(used)} states")
        if (accounts is None) != (self.key.scheme.account_share == 0):
            remedy = "give one account a request exactly where account_share is above 0"
            raise InputError("accounts and account_share do not go together", remedy=remedy)
        if accounts is not None and len(accounts) != n:
            raise InputError(f"{len(accounts)} accounts for {n} requests")
        uniforms = self._rng.random((3, n))
        if n == 1:
            chosen, kept = self._choose_one(candidates[0], top[0], contexts[0], used[0], (accounts, uniforms))
            others = rest.item(0)
            past_one = uniforms.item(2) * (kept + others) - kept
            token = -1 if past_one >= 0 and others > 0 else candidates.item(0, chosen)
            return np.array([token]), np.array([past_one])
        ids, sums = self._choose_many(candidates, top, contexts, used, (accounts, uniforms))
        past = uniforms[2] * (sums + rest) - sums
        return np.where((past >= 0) & (rest > 0), -1, ids), past

    def _choose_one(
        self, ids: Ids, top: NDArray[np.floating], context: Sequence[int], used: set[int], given: _Given
    ) -> tuple[int, float]:
        """Index of the candidate that is drawn, and the candidates' sum of weights."""
        (accounts, uniforms), scheme = given, self.key.scheme
        weights = top.astype(np.float64)
        peak = float(weights.max())
        if not math.isfinite(peak):
            raise InputError("logits without a finite maximum", remedy="mask fewer tokens")
        weights -= peak
        weights /= self.temperature
        np.exp(weights, out=weights)
        second, plain = uniforms.item(0), uniforms.item(1)
        window = self._window(context, used)
        kept = float(np.add.reduce(weights)) if window is not None and scheme.kind == "gumbel" else 0.0
        if window is not None:
            weights = self._marked(weights, ids, window, second < scheme.second_share, accounts)
            if scheme.kind == "gumbel":
                return int(weights.argmin()), kept
        sums = np.add.accumulate(weights)
        kept = sums.item(-1)
        return min(int(sums.searchsorted(plain * kept, side="right")), ids.size - 1), kept

    def _marked(self, weights: Reals, ids: Ids, window: int, second: bool, accounts: Sequence[str] | None) -> Reals:
        """Green list: weights raised where green. Gumbel: weight / ln(u), of which the smallest is served."""
        scheme, prf = self.key.scheme, self._prf(window, accounts, ids.size)
        if scheme.kind == "green":
            green = prf.words(window, ids) < self._green_below
            return np.multiply(weights, self._boost, out=weights, where=green)
        u = prf.uniforms(window, ids, 1 if second else 0)
        np.log(u, out=u)
        # The same order as ln(u) / weight, and weights of zero need no care.
        return np.divide(weights, u, out=u)

    def _prf(self, window: int, accounts: Sequence[str] | None, n: int) -> RowPrf:
        """The keyed function of the lane that a window carries; the global one is kept."""
        if accounts is not None and bool(self.key.for_account(np.array(window, np.uint64))):
            return RowPrf(self.key.account_lane(accounts[0]), n)
        if self._row_prf is None or self._row_prf.n != n:
            self._row_prf = RowPrf(self.key.lane, n)
        return self._row_prf

    def _choose_many(
        self,
        candidates: Ids,
        top: NDArray[np.floating],
        contexts: Sequence[Sequence[int]],
        used: Sequence[set[int]],
        given: _Given,
    ) -> tuple[Ids, Reals]:
        (accounts, uniforms), scheme = given, self.key.scheme
        peak = top.max(axis=1, keepdims=True).astype(np.float64)
        if not np.isfinite(peak).all():
            raise InputError("logits without a finite maximum", remedy="mask fewer tokens")
        # Float64 of 64 candidates costs nothing, and the share of the rest is 1 minus theirs.
        weights = np.exp((top.astype(np.float64) - peak) / self.temperature)
        found = [self._window(context, mine) for context, mine in zip(contexts, used, strict=True)]
        marked = np.array([window is not None for window in found], dtype=np.bool_)
        windows = np.array([window or 0 for window in found], dtype=np.uint64)
        if marked.any() and scheme.kind == "green":
            bias = green_bias(self._lanes(windows, accounts), windows, candidates, scheme)
            weights = np.where(marked[:, None], weights * np.exp(bias), weights)
        chosen = _drawn(weights, uniforms[1])
        if marked.any() and scheme.kind == "gumbel":
            u = gumbel_uniforms(self._lanes(windows, accounts), windows, candidates, uniforms[0] < scheme.second_share)
            chosen = np.where(marked, np.argmin(weights / np.log(u), axis=1), chosen)
        return candidates[np.arange(chosen.size), chosen], weights.sum(axis=1)

    def _window(self, context: Sequence[int], used: set[int]) -> int | None:
        """The code of the window that the next token is marked by; None where it is not marked."""
        k = self.key.scheme.k
        if len(context) < k:
            return None
        window = window_code(context[-k:])
        if window in used:
            return None
        if self.key.scheme.kind == "gumbel":
            used.add(window)
        return window

    def _lanes(self, windows: NDArray[np.uint64], accounts: Sequence[str] | None) -> Lanes:
        """The lane of each row, [batch, 4], or [4] where all rows have the global one."""
        if accounts is None:
            return self.key.lane
        own = np.stack([self.key.account_lane(account) for account in accounts])
        return np.where(self.key.for_account(windows)[:, None], own, self.key.lane)

    def _rest(self, logits: NDArray[np.floating], candidates: Ids, peak: NDArray[np.floating]) -> NDArray[np.floating]:
        """Weights of the tokens that are no candidates, [batch, vocab]."""
        weights = logits - peak
        if self.temperature != 1:
            weights *= logits.dtype.type(1 / self.temperature)
        np.exp(weights, out=weights)
        np.put_along_axis(weights, candidates, 0, axis=1)
        return weights


def _drawn(weights: Reals, uniforms: Reals) -> Ids:
    sums = np.cumsum(weights, axis=1)
    return np.minimum((sums <= uniforms[:, None] * sums[:, -1:]).sum(axis=1), sums.shape[1] - 1)


def _words(lanes: Lanes, windows: NDArray[np.uint64], candidates: Ids, stream: object) -> Words:
    own = lanes if lanes.ndim == 1 else lanes[:, None, :]
    return prf_words(own, windows[:, None], candidates, np.asarray(stream, dtype=np.uint64))
