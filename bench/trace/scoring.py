"""How fast a watermark marks and is scored.

    python bench/trace/scoring.py [--seconds S] [--vocab N] [--json FILE]

Prints, on this machine and one thread:

    scoring      million (tuple, key) pairs a second: few tuples under many keys, and many tuples
    words        microseconds a token of what marking adds: the pseudo-random words of 64 candidates (batch 1 to 128)
    step         microseconds a token of a whole step of the sampler on logits, marked, and the same unmarked

The target (<= 20 us a token, >= 10 million pairs a second) is of `words` and `scoring`; `step` sorts and exponentiates
the whole vocabulary too, as any sampler does. Other work on the machine makes all of it slower: the best of several
rounds is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox

from stillproof.watermark import Marker, MarkKey, Scheme, decoy_lanes, green_bias, gumbel_uniforms, score_lanes

ROUNDS = 7
SCHEMES = (Scheme("green", 2), Scheme("gumbel", 2))


def seconds_of(run: Callable[[], object], budget: float) -> float:
    """Best of several rounds, seconds a call; `budget` seconds in all, about."""
    run()
    start = time.perf_counter()
    run()
    number = max(1, int(budget / ROUNDS / (time.perf_counter() - start)))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(number):
            run()
        best = min(best, (time.perf_counter() - start) / number)
    return best


def scoring(scheme: Scheme, n_tuples: int, n_keys: int, budget: float) -> float:
    """Million pairs a second."""
    rng = Generator(Philox(1))
    windows = rng.integers(0, 2**63, n_tuples).astype(np.uint64)
    tokens, lanes = rng.integers(0, 49152, n_tuples), decoy_lanes(n_keys, 1)
    return n_tuples * n_keys / seconds_of(lambda: score_lanes(lanes, windows, tokens, scheme), budget) / 1e6


def marking(scheme: Scheme, batch: int, vocab: int, budget: float) -> dict[str, float]:
    """Microseconds a token."""
    rng, key = Generator(Philox(2)), MarkKey(scheme, bytes(range(32)))
    logits = rng.normal(0, 3, (batch, vocab)).astype(np.float32)
    windows = rng.integers(0, 2**63, batch).astype(np.uint64)
    candidates = rng.integers(0, vocab, (batch, scheme.top))
    contexts = [rng.integers(0, vocab, scheme.k).tolist() for _ in range(batch)]
    marker = Marker(key, rng)
    if scheme.kind == "green":
        words = seconds_of(lambda: green_bias(key.lane, windows, candidates, scheme), budget)
    else:
        words = seconds_of(lambda: gumbel_uniforms(key.lane, windows, candidates), budget)
    step = seconds_of(lambda: marker.step(logits, contexts, [set() for _ in range(batch)]), budget)
    plain = seconds_of(lambda: marker.step(logits, [[]] * batch, [set() for _ in range(batch)]), budget)
    return {name: s / batch * 1e6 for name, s in (("words", words), ("step", step), ("unmarked_step", plain))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="a measurement")
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for scheme in SCHEMES:
        for n_tuples, n_keys in ((500, 1000), (50_000, 20)):
            rate = scoring(scheme, n_tuples, n_keys, args.seconds)
            rows.append({"scheme": scheme.kind, "tuples": n_tuples, "keys": n_keys, "million_pairs_per_s": rate})
            print(f"scoring  {scheme.kind:6}  {n_tuples:6} tuples x {n_keys:5} keys  {rate:6.1f} M pairs/s")
        for batch in (1, 8, 32, 128):
            us = marking(scheme, batch, args.vocab, args.seconds)
            rows.append({"scheme": scheme.kind, "batch": batch, **{f"{name}_us": value for name, value in us.items()}})
            print(f"marking  {scheme.kind:6}  batch {batch:4}  " + "  ".join(f"{k} {v:7.1f} us" for k, v in us.items()))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
