"""L1: the labelled licence scenarios, and a lineage of 10,000 models. `python -m bench.lineage.scenarios`

Prints one JSON object: wrong yeses (a label that is no yes, answered with one), the share answered exactly, the slowest
decision, and the CPU seconds that a chain of 10,000 models takes.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from stillproof.terms.path import Composed, Model, Step, compose

LABELS = {"A": "allow", "D": "allow_with_duties", "U": "unknown", "X": "deny"}
YES = ("allow", "allow_with_duties")
FILE = Path(__file__).with_name("scenarios.txt")
N_MODELS = 10_000


def scenarios() -> list[tuple[str, str]]:
    """(label, ways) of each scenario."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [(label, ways) for label, ways in (line.split(" | ", 1) for line in lines)]


def answer(ways: str) -> Composed:
    """The composed verdict of a scenario's ways."""
    root, teaches = "root", False
    models = {root: Model(root, None)}
    steps: list[Step] = []
    for at, way in enumerate(ways.split(" & ")):
        child = root
        for number, token in enumerate(re.findall(r"=\S+|[ow]:(?:\(.*\)|\S+)", way)):
            if token.startswith("="):
                models[root], teaches = Model(root, _licence(token[1:])), True
                continue
            parent = f"{at}.{number}"
            models[parent] = Model(parent, _licence(token[2:]))
            steps.append(Step(child, parent, token.startswith("w:")))
            child = parent
    return compose(root, models, steps, own=teaches)


def _licence(text: str) -> str | None:
    if text == "-":
        return None
    return text[1:-1] if text.startswith("(") else text


def chain(n_models: int) -> float:
    """CPU seconds to compose the terms of a chain of models in which outputs and weights alternate."""
    models = {str(at): Model(str(at), ("mit", "llama3.1", "apache-2.0")[at % 3]) for at in range(n_models)}
    steps = [Step(str(at), str(at + 1), at % 7 != 3) for at in range(n_models - 1)]
    started = time.process_time()
    compose("0", models, steps)
    return time.process_time() - started


def main() -> int:
    answer("o:mit")  # reads the records once
    wrong: list[dict[str, str]] = []
    false_allow, slowest_s = 0, 0.0
    rows = scenarios()
    for label, ways in rows:
        started = time.process_time()
        decision = answer(ways).decision
        slowest_s = max(slowest_s, time.process_time() - started)
        if decision != LABELS[label]:
            wrong.append({"ways": ways, "label": LABELS[label], "answer": decision})
            false_allow += decision in YES and LABELS[label] not in YES
    result = {
        "scenarios": len(rows),
        "false_allow": false_allow,
        "exact_share": 1 - len(wrong) / len(rows),
        "slowest_ms": slowest_s * 1000,
        "chain_models": N_MODELS,
        "chain_s": chain(N_MODELS),
        "wrong": wrong,
    }
    print(json.dumps(result, indent=2))
    return 1 if false_allow else 0


if __name__ == "__main__":
    sys.exit(main())
