"""(window, token) tuples of what a suspect wrote or would write, each counted once: what a mark's key is tested on.

Two ways in. *Closed* mode has the suspect's text alone. *Open* mode has its next-token probabilities
(`suspect_logprobs`) while it reads a text. Two sources of false alarms are shut out here, by construction:

- A tuple met twice is one toss of the key's coin, not two. Each is kept once; how often it was met may only weigh it.
- A suspect that never saw our text copies marked tuples from what it has just read. A window that stands in the prompt,
  or in open mode anywhere earlier in what was read, is dropped with whatever token follows; this covers every
  prediction whose window and token both stand there. What is dropped depends on the window alone, so the tokens that
  stay are as fresh as any to the key: dropping (window, token) pairs instead would take out marked tokens more often
  than others and bias the count downwards.

Weights. The more text, the more often a suspect repeats the tuples that it prefers, while those that are still new are
the ones it does not: counted alike, evidence *falls* with more text, and is gone once every tuple has been seen. So a
tuple weighs its share of what follows its window (`repeats="share"`). A weight may depend on the text in any way,
because under the null the text does not depend on the key. `repeats="once"` counts all alike, which has closed forms.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from stillproof.errors import InputError
from stillproof.watermark.prf import checked_tokens, window_codes

Codes = NDArray[np.uint64]
Reals = NDArray[np.float64]

Mode = Literal["closed", "open"]
Repeats = Literal["share", "once"]

_Number = TypeVar("_Number", np.int64, np.float64)

_NORMALISED = 1e-3


@dataclass(frozen=True, slots=True)
class Tuples:
    """Distinct (window, token) tuples, with weights above 0."""

    k: int
    windows: Codes
    """Codes of windows, shape [n]."""
    tokens: NDArray[np.int64]
    weights: Reals | None = None
    """None where each weighs one. Of shares and probabilities, those of one window sum to 1 at most."""
    mode: Mode = "closed"
    n_positions: int = 0
    """Tokens written, or positions read, before anything was dropped."""
    n_repeated: int = 0
    """Positions that met a tuple already there or, in open mode, a window read before: dropped, or averaged."""
    n_in_context: int = 0
    """Positions dropped because the window stands in the prompt or, in open mode, earlier in what was read."""
    n_filtered: int = 0
    """Positions dropped because the window is not among those asked for."""

    def __len__(self) -> int:
        return int(self.windows.size)

    def where(self, kept: NDArray[np.bool_]) -> Tuples:
        """Those of some windows; `kept`, shape [n], must depend on the windows alone."""
        weights = None if self.weights is None else self.weights[kept]
        counts = (self.n_positions, self.n_repeated, self.n_in_context, self.n_filtered + int((~kept).sum()))
        return Tuples(self.k, self.windows[kept], self.tokens[kept], weights, self.mode, *counts)


@dataclass(slots=True)
class TupleStream:
    """Tuples of a suspect's answers as they arrive, each given out once, when it is first met: closed mode.

    `windows_only`: codes of the windows to keep, such as those frequent in what we served; never of (window, token)
    pairs, which would choose the outcome. `fading`: a tuple weighs 1 / sqrt(1 + times its window was met before),
    which is known before its token is: late first meetings say little of what the suspect prefers.
    """

    k: int
    windows_only: Codes | None = None
    fading: bool = False
    _seen: set[tuple[int, int]] = field(default_factory=set)
    _met: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_filter(self.windows_only)

    def add(self, answer: Sequence[int], prompt: Sequence[int] = ()) -> Tuples:
        """The tuples of one answer that are new; windows lie within the answer. Raises InputError for ids that are no
        token ids."""
        every = _positions(answer, prompt, self.k, self.windows_only)
        new = np.zeros(len(every), dtype=np.bool_)
        weights = np.ones(len(every))
        for i, pair in enumerate(zip(every.windows.tolist(), every.tokens.tolist(), strict=True)):
            met = self._met.get(pair[0], 0)
            self._met[pair[0]] = met + 1
            new[i], weights[i] = pair not in self._seen, (1 + met) ** -0.5
            self._seen.add(pair)
        return replace(
            every,
            windows=every.windows[new],
            tokens=every.tokens[new],
            weights=weights[new] if self.fading else None,
            n_repeated=int((~new).sum()),
        )


def closed_tuples(
    answers: Iterable[Sequence[int]],
    k: int,
    prompts: Iterable[Sequence[int]] | None = None,
    *,
    windows_only: Codes | None = None,
    repeats: Repeats = "share",
) -> Tuples:
    """Distinct tuples over all answers of a suspect, token ids in the marked vocabulary.

    `prompts`: what each answer answers; their windows are dropped from it. `windows_only` as in `TupleStream`.
    `repeats`: weigh a tuple by its share of what follows its window, or count each once. Raises InputError where there
    are not as many prompts as answers.
    """
    texts = list(answers)
    before = [()] * len(texts) if prompts is None else list(prompts)
    if len(before) != len(texts):
        raise InputError(f"{len(before)} prompts for {len(texts)} answers", remedy="give one prompt an answer")
    if repeats == "once":
        stream = TupleStream(k, windows_only)
        return joined(k, [stream.add(text, prompt) for text, prompt in zip(texts, before, strict=True)])
    _check_filter(windows_only)
    every = joined(k, [_positions(text, prompt, k, windows_only) for text, prompt in zip(texts, before, strict=True)])
    if not len(every):
        return every
    windows, tokens, weights = _averaged(every.windows, every.tokens[:, None], np.ones((len(every), 1)))
    # Where no window was met twice the closed forms hold.
    shares = None if (weights == 1.0).all() else weights
    return replace(every, windows=windows, tokens=tokens, weights=shares, n_repeated=len(every) - windows.size)


def _positions(answer: Sequence[int], prompt: Sequence[int], k: int, windows_only: Codes | None) -> Tuples:
    """Every position of an answer whose window may be counted, repeated ones too."""
    ids, codes = checked_tokens(answer), window_codes(answer, k)[:-1]
    fresh = ~np.isin(codes, window_codes(prompt, k))
    kept = fresh if windows_only is None else fresh & np.isin(codes, windows_only)
    counts = (int(ids.size), 0, int((~fresh).sum()), int((fresh & ~kept).sum()))
    return Tuples(k, codes[kept], ids[k:][kept], None, "closed", *counts)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a suspect expects to come next, at each position of a text that it reads."""

    tokens: Sequence[int]
    """The text, prompt included, shape [t]."""
    suspect_ids: NDArray[np.int64]
    """Candidates at each position, [t, m]: row i is for the token after tokens[: i + 1]; -1 where there are fewer."""
    suspect_logprobs: Reals
    """Their natural log-probabilities by the suspect, [t, m]."""
    start: int = 0
    """Positions from here on are tested: those before belong to the prompt."""


def open_tuples(
    readings: Iterable[Reading], k: int, *, windows_only: Codes | None = None, min_probability: float = 0.01
) -> Tuples:
    """Distinct tuples with the mean probability that a suspect gives them, over first occurrences of the window.

    Probabilities below `min_probability` carry little and are left out. Raises InputError for shapes that do not fit,
    repeated candidates, or numbers that are no log-probabilities.
    """
    _check_filter(windows_only)
    only = windows_only
    codes: list[Codes] = []
    ids: list[NDArray[np.int64]] = []
    mass: list[Reals] = []
    positions = in_context = filtered = 0
    for reading in readings:
        _check(reading)
        windows = window_codes(reading.tokens, k)
        first = np.zeros(windows.size, dtype=np.bool_)
        first[np.unique(windows, return_index=True)[1]] = True
        tested = np.arange(windows.size) + k - 1 >= reading.start
        kept = first & tested
        positions, in_context = positions + int(tested.sum()), in_context + int((tested & ~first).sum())
        if only is not None:
            wanted = np.isin(windows, only)
            filtered += int((kept & ~wanted).sum())
            kept &= wanted
        rows = np.flatnonzero(kept)
        codes.append(windows[rows])
        ids.append(reading.suspect_ids[rows + k - 1])
        mass.append(np.exp(reading.suspect_logprobs[rows + k - 1]))
    if not codes:
        return Tuples(k, np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0), "open")
    width = max(part.shape[1] for part in ids)
    all_ids = np.concatenate([_padded(part, width, -1) for part in ids])
    all_mass = np.concatenate([_padded(part, width, 0.0) for part in mass])
    all_codes = np.concatenate(codes)
    windows, tokens, weights = _averaged(all_codes, all_ids, np.where(all_mass >= min_probability, all_mass, 0.0))
    repeated = int(all_codes.size - np.unique(all_codes).size)
    return Tuples(k, windows, tokens, weights, "open", positions, repeated, in_context, filtered)


def _averaged(codes: Codes, ids: NDArray[np.int64], mass: Reals) -> tuple[Codes, NDArray[np.int64], Reals]:
    """Distinct windows [n], tokens [n] and the mean mass of each over the positions of its window; none without mass.

    `codes`: a position's window, [t]; `ids`, `mass`: its candidates, [t, m].
    """
    distinct, of_window, times = np.unique(codes, return_inverse=True, return_counts=True)
    listed = (ids >= 0) & (mass > 0)
    window = of_window[np.nonzero(listed)[0]]
    token, share = ids[listed], mass[listed]
    if not window.size:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0)
    order = np.lexsort((token, window))
    window, token, share = window[order], token[order], share[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(window) != 0) | (np.diff(token) != 0)])
    weights = np.add.reduceat(share, starts) / times[window[starts]]
    return distinct[window[starts]], token[starts], weights


def _check_filter(windows_only: Codes | None) -> None:
    only = windows_only
    if only is not None and (not isinstance(only, np.ndarray) or only.ndim != 1 or only.dtype != np.uint64):
        remedy = "give a vector of window codes (window_codes); a filter never sees tokens"
        raise InputError("windows_only is not a set of windows", remedy=remedy)


def _check(reading: Reading) -> None:
    ids, logprobs, t = reading.suspect_ids, reading.suspect_logprobs, len(reading.tokens)
    if ids.ndim != 2 or ids.shape != logprobs.shape or ids.shape[0] != t:
        raise InputError(f"suspect_ids {ids.shape}, suspect_logprobs {logprobs.shape} for {t} tokens")
    listed = ids >= 0
    if np.isnan(logprobs[listed]).any() or (listed & (logprobs > _NORMALISED)).any():
        raise InputError("suspect_logprobs that are no log-probabilities", remedy="give natural logs, 0 at most")
    mass = np.where(listed, np.exp(np.minimum(logprobs, 0.0)), 0.0).sum(axis=1)
    ordered = np.sort(ids, axis=1)
    repeated = ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any()
    if repeated or (mass > 1 + _NORMALISED).any():
        raise InputError("suspect_logprobs of one position sum to more than 1, or list a token twice")


def _padded(rows: NDArray[_Number], width: int, fill: float) -> NDArray[_Number]:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)


def joined(k: int, parts: Collection[Tuples]) -> Tuples:
    """Parts of one stream as one."""
    if not parts:
        return Tuples(k, np.zeros(0, np.uint64), np.zeros(0, np.int64))
    counts = (
        sum(part.n_positions for part in parts),
        sum(part.n_repeated for part in parts),
        sum(part.n_in_context for part in parts),
        sum(part.n_filtered for part in parts),
    )
    windows, tokens = (np.concatenate([getattr(part, name) for part in parts]) for name in ("windows", "tokens"))
    weighed = [part.weights for part in parts if part.weights is not None]
    return Tuples(k, windows, tokens, np.concatenate(weighed) if weighed else None, "closed", *counts)
