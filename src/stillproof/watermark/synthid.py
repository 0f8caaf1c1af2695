"""Read SynthID-Text marks as transformers' SynthIDTextWatermarkingConfig makes them. Torch-free; p-values exact.

Source of the scheme: Dathathri et al., Scalable watermarking for identifying large language model outputs, Nature 634,
2024. A run of `ngram_len` tokens has one g-value, 0 or 1, for each key: a hash of the run and the key, by a linear
congruential generator modulo 2^64, picks an entry of a public table of bits.

Why not a binomial p-value. The table has 2^16 entries and the generator's low bits depend on low bits alone: so only
the run's hash modulo the table's size counts, runs that agree in it share *all* their g-values, and a key does no more
than turn the table. Ten thousand runs have hundreds of such pairs. Here runs with one hash are one tuple, and the law
of a layer's score is the table's own, over all its turns; layers have independent keys, and their laws are convolved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillproof.errors import ConfigError
from stillproof.finding import Effect, Finding
from stillproof.watermark.reading import BINS, Law, Reals, ngrams_of, reading, upper_tail_log10

Score = Literal["mean", "weighted"]
Bits = NDArray[np.uint8]
Hashes = NDArray[np.uint64]

_MULTIPLIER = np.uint64(6364136223846793005)
_ONE = np.uint64(1)
_MOST_ENTRIES = 2**24


@lru_cache(maxsize=4)
def sampling_table(size: int, seed: int) -> Bits:
    """The public table of bits, shape [size]: what torch.randint(0, 2) of a generator so seeded gives on a processor.

    torch takes the lowest bit of each 32-bit output of the Mersenne Twister, seeded by its first initialiser (Matsumoto
    and Nishimura, 1998), which numpy's RandomState shares. Of the seed, 32 bits count.
    """
    bits = np.random.RandomState(seed & 0xFFFFFFFF)._bit_generator.random_raw(size)
    table = (np.asarray(bits) & 1).astype(np.uint8)
    table.setflags(write=False)
    return table


def ngram_hashes(ngrams: ArrayLike) -> Hashes:
    """64-bit hashes of runs of tokens, [n, ngram_len] -> [n]."""
    runs = np.asarray(ngrams).astype(np.uint64)
    state = np.ones(runs.shape[0], dtype=np.uint64)
    for column in runs.T:
        state = (state + column) * _MULTIPLIER + _ONE
    return state


def g_values(ngrams: ArrayLike, keys: Sequence[int], *, table_size: int = 2**16, table_seed: int = 0) -> Bits:
    """g-values of runs under keys, [n, ngram_len] -> [n, len(keys)], equal to transformers' own bit for bit."""
    return _g_of(ngram_hashes(ngrams), np.array([key % 2**64 for key in keys], dtype=np.uint64), table_size, table_seed)


def read_synthid(
    answers: Iterable[Sequence[int]],
    keys: Sequence[int],
    ngram_len: int,
    *,
    prompts: Iterable[Sequence[int]] | None = None,
    score: Score = "weighted",
    table_size: int = 2**16,
    table_seed: int = 0,
    alpha: float = 1e-3,
) -> Finding:
    """Whether answers (token ids) follow the keys of a SynthID-Text mark.

    `keys`, `ngram_len`, and the table's size and seed: as the marker was configured. `score`: the mean of g-values, or
    that weighted from 10 in the first layer to 1 in the last, as the tournament leaves less to later layers.
    `prompts`: runs that go on from a window of the prompt are left out. H0: the answers do not depend on the keys,
    which are uniform over 64 bits. p is exact over keys for `mean`; for `weighted` it is rounded up by a grid of
    sd / 500. Raises ConfigError for parameters out of range or a table that is no power of two, InputError for token
    ids that are none.
    """
    _check(keys, ngram_len, score, table_size)
    runs, positions = ngrams_of(answers, prompts, ngram_len)
    hashes = np.unique(ngram_hashes(runs) & np.uint64(table_size - 1))
    n, depth = hashes.size, len(keys)
    name = f"SynthID-Text, {score} of g-values, {depth} keys, runs of {ngram_len}"
    if not n:
        return reading(test=name, n=0, positions=positions, z=0.0, log10_p=None, effect=None, alpha=alpha)
    sums = _g_of(hashes, np.array([key % 2**64 for key in keys], dtype=np.uint64), table_size, table_seed).sum(
        axis=0, dtype=np.int64
    )
    values, shares = _turns_law(hashes, table_size, table_seed)
    mean = float(values @ shares)
    variance = float((values - mean) ** 2 @ shares)
    weights = np.ones(depth) if score == "mean" else np.linspace(10, 1, depth)
    total, sd = float(weights @ sums), math.sqrt(variance * float(weights @ weights))
    step = None if score == "mean" else sd / BINS
    log10_p = upper_tail_log10([Law(values * weight, shares) for weight in weights.tolist()], total, step=step)
    lift = total / (float(weights.sum()) * n) - mean / n
    z = (total - mean * float(weights.sum())) / sd if sd else 0.0
    effect = Effect("mean g-value above chance", "share", lift)
    return reading(test=name, n=n, positions=positions, z=z, log10_p=log10_p, effect=effect, alpha=alpha)


def _g_of(hashes: Hashes, keys: Hashes, table_size: int, table_seed: int) -> Bits:
    mixed = (hashes[:, None] + keys) * _MULTIPLIER + _ONE
    # The marker's remainder is of a signed number; the table's size divides 2^64 or the sign matters.
    return sampling_table(table_size, table_seed)[mixed.view(np.int64) % table_size]


def _turns_law(hashes: Hashes, table_size: int, table_seed: int) -> tuple[Reals, Reals]:
    """Law of one layer's sum of g-values under a uniform key: values and probabilities, over all turns of the table."""
    met = np.zeros(table_size)
    met[(hashes * _MULTIPLIER) & np.uint64(table_size - 1)] = 1
    table = sampling_table(table_size, table_seed).astype(np.float64)
    sums = np.fft.irfft(np.conj(np.fft.rfft(met)) * np.fft.rfft(table), table_size)
    values, times = np.unique(np.rint(sums), return_counts=True)
    return values, times / table_size


def _check(keys: Sequence[int], ngram_len: int, score: str, table_size: int) -> None:
    for name, value, fine in (
        (
            "keys",
            f"{len(keys)} of them",
            1 <= len(keys) <= 256 and len({key % 2**64 for key in keys}) == len(keys),
        ),
        ("ngram_len", ngram_len, type(ngram_len) is int and 2 <= ngram_len <= 16),
        ("score", score, score in ("mean", "weighted")),
        ("table_size", table_size, 2 <= table_size <= _MOST_ENTRIES and table_size & (table_size - 1) == 0),
    ):
        if not fine:
            remedy = "give the marker's own parameters; keys differ, and the table's size is a power of two"
            raise ConfigError(f"a SynthID-Text {name} cannot be {value}", name, remedy)
