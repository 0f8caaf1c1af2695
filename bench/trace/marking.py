"""What a mark costs while serving, microseconds a token: the key's part apart from the sampler's.

    python bench/trace/marking.py [--vocab N] [--rounds N] [--json FILE]

Printed for batches of 1, 8 and 32, one thread:

    candidates   finding the 64 likeliest of the vocabulary: the floor that no marking can go below
    mark         the window's code, the pseudo-random words of those 64, and the keyed choice: what the mark adds
    plain step   a whole step of the sampler without a mark: candidates, softmax over the vocabulary, a draw
    marked step  the same with the mark

`mark` is `Marker.choose` on given candidates, less the same without a window (`choice_unmarked`). Rounds
are short and the best is printed, because other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox

from stillproof.watermark import Marker, MarkKey, Scheme, top_candidates

SCHEMES = tuple(Scheme(kind, k) for kind in ("green", "gumbel") for k in (1, 2, 4))


def best_us(run: Callable[[], object], rounds: int) -> float:
    """Microseconds a call, the best of many rounds of a millisecond, which is less than a share of the processor."""
    start = time.perf_counter()
    run()
    number = max(1, int(0.001 / (time.perf_counter() - start)))
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(number):
            run()
        best = min(best, (time.perf_counter() - start) / number)
    return best * 1e6


def costs(scheme: Scheme, batch: int, vocab: int, rounds: int) -> dict[str, float]:
    rng, key = Generator(Philox(2)), MarkKey(scheme, bytes(range(32)))
    # Zipf's law with exponent 2: the candidates hold 99% of it, as those of a model mostly do.
    ranks = np.stack([rng.permutation(vocab) for _ in range(batch)]) + 1.0
    logits = (-2 * np.log(ranks)).astype(np.float32)
    contexts = [rng.integers(0, vocab, 40).tolist() for _ in range(batch)]
    bare: list[list[int]] = [[] for _ in range(batch)]
    marker, rest = Marker(key, rng), np.ones(batch)
    ids = top_candidates(logits, scheme.top)
    top = np.take_along_axis(logits, ids, axis=1)

    def used() -> list[set[int]]:
        return [set() for _ in range(batch)]

    marked = best_us(lambda: marker.choose(ids, top, rest, contexts, used()), rounds)
    plain = best_us(lambda: marker.choose(ids, top, rest, bare, used()), rounds)
    found = {
        "candidates": best_us(lambda: top_candidates(logits, scheme.top), rounds),
        "mark": marked - plain,
        "choice_unmarked": plain,
        "plain_step": best_us(lambda: marker.step(logits, bare, used()), rounds),
        "marked_step": best_us(lambda: marker.step(logits, contexts, used()), rounds),
    }
    return {name: us / batch for name, us in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for scheme in SCHEMES:
        for batch in (1, 8, 32):
            us = costs(scheme, batch, args.vocab, args.rounds)
            rows.append({"scheme": scheme.kind, "k": scheme.k, "batch": batch, "us_per_token": us})
            shown = "  ".join(f"{name} {value:6.1f}" for name, value in us.items())
            print(f"{scheme.kind:6}  k {scheme.k}  batch {batch:3}  {shown}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
