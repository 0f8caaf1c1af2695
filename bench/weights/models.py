"""Make the models of W1 and W2 once: `python -m bench.weights.models --work DIR`. What is there is not made again."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from bench.weights import tiny

SEEDS = 46
PRETRAINED = tiny.Course(steps=250, rate=5e-3, batch=4)


def independent(work: Path, first: int = 0, n: int = SEEDS) -> list[Path]:
    """Folders of `n` models of one shape on the same data in the same order; only the seed of the weights differs."""
    shape = tiny.Shape()
    folders = [work / f"seed-{first + i:03}" for i in range(n)]
    if all(folder.exists() for folder in folders):
        return folders
    started = time.perf_counter()
    weights = tiny.fresh(shape, list(range(first, first + n)))
    loss = tiny.train(weights, shape, tiny.text(shape.vocabulary), PRETRAINED)
    for i, folder in enumerate(folders):
        if not folder.exists():
            tiny.save(folder, tiny.one(weights, i), shape.config())
    took = time.perf_counter() - started
    print(f"{n} models of {PRETRAINED.steps} steps in {took:.0f} s, last loss {loss:.3f} nats a token", flush=True)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-weights"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    independent(given.work, 0, given.seeds)


if __name__ == "__main__":
    main()
