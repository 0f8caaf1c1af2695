"""Read the green-list marks of transformers' WatermarkingConfig (KGW), with exact p-values.

Source of the scheme: Kirchenbauer et al., A watermark for large language models, ICML 2023. The green list is the head
of `torch.randperm` under a seed: torch must be there, the lists are those of its version and of the processor (a GPU's
differ), and each seed costs a permutation of the vocabulary: an interoperable reader, no scheme of ours.

What is counted once is the key's coin, (seed, token): transformers' own detector counts distinct runs, but its lefthash
seeds by one token whatever `context_width` says, so that runs with another beginning repeat one coin. Tokens after one
seed share a list without replacement, so the sum is of hypergeometric variables, one a seed, not binomial.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from stillproof.errors import ConfigError, InputError, MissingExtraError
from stillproof.finding import Effect, Finding
from stillproof.watermark.reading import Law, Reals, ngrams_of, reading, upper_tail_log10

Seeding = Literal["lefthash", "selfhash"]

_TABLE = 1_000_003
_SEEDS = 2**64 - 1


def read_kgw(
    answers: Iterable[Sequence[int]],
    vocab_size: int,
    *,
    prompts: Iterable[Sequence[int]] | None = None,
    greenlist_ratio: float = 0.25,
    hashing_key: int = 15485863,
    seeding_scheme: Seeding = "lefthash",
    context_width: int = 1,
    alpha: float = 1e-3,
) -> Finding:
    """Whether answers (token ids) follow the green lists of a hashing key; parameters as WatermarkingConfig's.

    `vocab_size`: of the model's config, not of the tokenizer. `prompts`: tokens that follow a window of the prompt are
    left out. H0: the answers do not depend on the key, and lists of different seeds are independent, uniform among the
    lists of their size (what torch's generator stands for). Raises ConfigError for parameters out of range, InputError
    for ids that are no tokens of the vocabulary, MissingExtraError where torch is not installed.
    """
    own = seeding_scheme == "selfhash"
    _check(vocab_size, greenlist_ratio, seeding_scheme, context_width)
    # Of lefthash only the last token seeds.
    length = max(2, context_width) if own else 2
    runs, positions = ngrams_of(answers, prompts, length)
    if runs.size and int(runs.max()) >= vocab_size:
        raise InputError(f"a token id of {int(runs.max())} in a vocabulary of {vocab_size}", remedy="give the model's")
    lists = _GreenLists(vocab_size, int(vocab_size * greenlist_ratio), hashing_key)
    coins: defaultdict[int, set[int]] = defaultdict(set)
    for run in runs.tolist():
        seed = lists.self_seed(run[-context_width:]) if own else lists.left_seed(run[0])
        coins[seed].add(run[-1])
    n = sum(map(len, coins.values()))
    name = f"transformers' KGW, {seeding_scheme}, ratio {greenlist_ratio}, width {context_width}"
    if not n:
        return reading(test=name, n=0, positions=positions, z=0.0, log10_p=None, effect=None, alpha=alpha)
    green = sum(lists.count(seed, sorted(tokens)) for seed, tokens in coins.items())
    sizes = np.bincount([len(tokens) for tokens in coins.values()])
    log10_p = green_tail_log10(green, sizes.tolist(), vocab_size, lists.size)
    share = lists.size / vocab_size
    drawn = np.arange(sizes.size)
    variance = float((sizes * drawn * share * (1 - share) * (vocab_size - drawn) / (vocab_size - 1)).sum())
    effect = Effect("green tokens above chance", "share", green / n - share)
    z = (green - n * share) / math.sqrt(variance)
    return reading(test=name, n=n, positions=positions, z=z, log10_p=log10_p, effect=effect, alpha=alpha)


def green_tail_log10(green: int, seeds_with: Sequence[int], vocab_size: int, list_size: int) -> float:
    """log10 of the exact P(X >= green), X the sum over seeds of hypergeometric counts.

    `seeds_with`: how many seeds have 0, 1, 2, ... distinct tokens.
    """
    laws = [
        Law(*_draws_law(vocab_size, list_size, tokens), seeds)
        for tokens, seeds in enumerate(seeds_with)
        if tokens and seeds
    ]
    return upper_tail_log10(laws, green, step=None)


@lru_cache(maxsize=256)
def _draws_law(vocab_size: int, list_size: int, tokens: int) -> tuple[Reals, Reals]:
    """How many of `tokens` distinct tokens are in a list: counts and their probabilities."""
    from scipy.stats import hypergeom

    counts = np.arange(max(0, tokens - (vocab_size - list_size)), min(tokens, list_size) + 1.0)
    return counts, np.asarray(hypergeom.pmf(counts, vocab_size, list_size, tokens))


class _GreenLists:
    """Green lists by seed, as transformers' processor makes them on a processor."""

    def __init__(self, vocab_size: int, size: int, hashing_key: int) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError(
                "transformers' KGW lists are torch's permutations", "torch", "pip install 'stillproof[train]'"
            ) from error
        self._torch: Any = torch
        self._rng = torch.Generator()
        self._vocab, self.size, self._key = vocab_size, size, hashing_key
        self._table: Any = None

    def left_seed(self, token: int) -> int:
        return self._key * token % _SEEDS

    def self_seed(self, window: Sequence[int]) -> int:
        if self._table is None:
            self._rng.manual_seed(self._key)
            self._table = self._torch.randperm(_TABLE, generator=self._rng).numpy()
        a = self._table[np.asarray(window) % _TABLE].astype(np.int64) + 1
        # Products wrap around as the marker's 64-bit ones do.
        products = np.multiply(np.multiply(np.int64(self._key), a), a[-1])
        return int(products.min()) % _SEEDS

    def count(self, seed: int, tokens: Sequence[int]) -> int:
        """How many of the tokens are in the seed's list."""
        self._rng.manual_seed(seed)
        green = self._torch.randperm(self._vocab, generator=self._rng)[: self.size].numpy()
        return int(np.isin(np.asarray(tokens), green).sum())


def _check(vocab_size: int, ratio: float, seeding: str, width: int) -> None:
    for name, value, fine in (
        ("vocab_size", vocab_size, type(vocab_size) is int and 2 <= vocab_size <= 2**24),
        ("greenlist_ratio", ratio, 0 < ratio < 1 and 0 < int(vocab_size * ratio) < vocab_size),
        ("seeding_scheme", seeding, seeding in ("lefthash", "selfhash")),
        ("context_width", width, type(width) is int and 1 <= width <= 16),
    ):
        if not fine:
            raise ConfigError(f"a KGW {name} cannot be {value!r}", name, "give the marker's own parameters")
