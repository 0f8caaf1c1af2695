"""Best of m: mark answers of an API whose logits we do not hold, by choosing among candidates under the key.

The API is asked m times with the same settings; the answer whose tuples score highest is served. Idea: Bahri and
Wieting, A watermark for black-box language models, TMLR 2026. Ours differs in what is counted, so that the law of what
is served is exact:

- Only tuples that no other candidate has are scored. Tuples that candidates share say nothing of which to choose, and
  they would tie candidates to each other: an unusual answer would be chosen more often than it was drawn.
- A candidate's sum over n own tuples is Gamma(n, 1) under a random key, so its probability integral u is uniform
  whatever its length, and those of different candidates are independent. Equal answers are one candidate that counts
  as often as it was drawn: u^(1/times).

So over keys each of the m draws is served with probability 1/m, and the served text has the teacher's own law, exactly;
for one key, a prompt and its candidates determine what is served. The price is m generations an answer, and a weak
mark: all tuples of an answer together are lifted by about the mean of the largest of m normals, 0.56, 0.85, 1.03 and
1.42 standard deviations for m = 2, 3, 4 and 8. One answer says little; thousands say much.

Reading: text served by best of m is scored as Gumbel marks are (`score_lanes`, or `stillproof.trace.radioactivity` on
`closed_tuples`): under any key that had no part in the choice the sum over distinct tuples is Gamma(n, 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import ConfigError, InputError
from stillproof.watermark.keys import MarkKey
from stillproof.watermark.prf import NO_TOKEN, Stream, checked_tokens, prf_words, window_code, window_codes
from stillproof.watermark.scoring import score_lanes

Reals = NDArray[np.float64]
_Tuple = tuple[int, int]

MOST = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """Which candidate is served, and why: keep it sealed, it says what the key prefers."""

    index: int
    """Of the candidates as they were given; the first of equal ones."""
    quantiles: tuple[float, ...]
    """u of each candidate, in (0, 1]; 0.5 where it has no tuple of its own."""
    own_tuples: tuple[int, ...]
    """How many tuples each candidate was scored on."""

    @property
    def marked(self) -> bool:
        """Whether the key had a say: two candidates or more that differ in tuples of their own."""
        return sum(n > 0 for n in self.own_tuples) > 1


def choose_best(
    candidates: Sequence[Sequence[int]], key: MarkKey, *, prompt: Sequence[int] = (), account: str | None = None
) -> Choice:
    """The candidate to serve, of `candidates`: token ids by one tokenizer, each an independent draw for one prompt.

    Which tokenizer does not matter, but text must be read by the same one. Windows of the prompt are not scored.
    `account`: whose sub-key is on the windows that carry one. Candidates without a tuple of their own are drawn by a
    coin of the key on their text, so that they are served as often as any. Raises ConfigError for a key that is not of
    the Gumbel kind (counts of green tokens are not continuous) or an account that does not go with it, InputError for
    no candidates, more than 64, or ids that are no token ids.
    """
    scheme = key.scheme
    if scheme.kind != "gumbel":
        raise ConfigError("best of m is scored as Gumbel marks are", scheme.kind, "make a key of kind gumbel for it")
    if (account is None) != (scheme.account_share == 0):
        raise ConfigError("an account and account_share do not go together", str(account), "give both or neither")
    if not 1 <= len(candidates) <= MOST:
        raise InputError(f"{len(candidates)} candidates", remedy=f"give 1 to {MOST}")
    texts = [tuple(checked_tokens(text).tolist()) for text in candidates]
    times = Counter(texts)
    skipped = set(window_codes(prompt, scheme.k).tolist())
    tuples = {text: _tuples(text, scheme.k, skipped) for text in times}
    met = Counter(pair for found in tuples.values() for pair in found)
    own = {text: sorted(pair for pair in found if met[pair] == 1) for text, found in tuples.items()}
    u = {text: _quantile(key, pairs, account) if pairs else _coin(key, text) for text, pairs in own.items()}
    best = max(times, key=lambda text: np.log(u[text]) / times[text])
    shown = tuple(u[text] if own[text] else 0.5 for text in texts)
    return Choice(texts.index(best), shown, tuple(len(own[text]) for text in texts))


def _tuples(text: tuple[int, ...], k: int, skipped: set[int]) -> set[_Tuple]:
    codes = window_codes(text, k)[:-1].tolist() if len(text) > k else []
    return {pair for pair in zip(codes, text[k:], strict=True) if pair[0] not in skipped}


def _quantile(key: MarkKey, pairs: Sequence[_Tuple], account: str | None) -> float:
    """P(Gamma(n, 1) <= the tuples' sum): uniform over keys. Kept above 0, whose logarithm is none."""
    from scipy.special import gammainc

    windows = np.array([window for window, _ in pairs], dtype=np.uint64)
    tokens = np.array([token for _, token in pairs], dtype=np.int64)
    if account is None:
        total = score_lanes(key.lane, windows, tokens, key.scheme)[0]
    else:
        theirs = key.for_account(windows)
        total = score_lanes(key.lane, windows[~theirs], tokens[~theirs], key.scheme)[0]
        total += score_lanes(key.account_lane(account), windows[theirs], tokens[theirs], key.scheme)[0]
    return max(float(gammainc(len(pairs), total)), 1e-300)


def _coin(key: MarkKey, text: tuple[int, ...]) -> float:
    """A uniform of the key and a whole text, of a stream that no mark uses."""
    length = np.uint64(len(text))
    code = np.uint64(window_code(text)) if text else length
    return (float(prf_words(key.lane, code ^ (length << np.uint64(32)), NO_TOKEN, Stream.COIN)) + 0.5) * 2.0**-32
