"""Students as jobs: each one's result is a JSON file, and a run makes only the files that are missing.

Cases of one group have students of one shape and as many rows, so a few of them train as one stacked model. A file is
written whole or not at all; a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.trace.world import World

Measure = Callable[[World, "Sequence[Case]"], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Case:
    """One student."""

    experiment: str
    group: str
    """What it is called in tables; unique with `number`."""
    number: int
    params: dict[str, Any] = field(default_factory=dict)
    """What the result depends on, beside the group's name and the number."""
    stage: int = 0
    """Lower ones are measured first; within a stage the first student of every group, then the second."""
    alone: bool = False
    """Too much data to train beside others."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn for this student."""
        return int.from_bytes(sha256(f"{self.experiment}/{self.group}/{self.number}".encode()).digest()[:4])

    def path(self, out: Path) -> Path:
        """Other parameters are another file: no result of other settings is taken for this one's."""
        digest = sha256(json.dumps(self.params, sort_keys=True).encode()).hexdigest()[:8]
        return out / "students" / self.experiment / f"{self.group}.{digest}" / f"{self.number:04d}.json"


def run_missing(
    out: Path, cases: Sequence[Case], measures: dict[str, Measure], *, workers: int, at_once: int, device: str | None
) -> None:
    """Measure the cases that have no file yet, `at_once` of a group in one process."""
    missing = [case for case in cases if not case.path(out).exists()]
    batches: list[list[Case]] = []
    for _, group in groupby(missing, key=lambda case: (case.experiment, case.path(out).parent)):
        own = list(group)
        size = 1 if own[0].alone else at_once
        batches += [own[i : i + size] for i in range(0, len(own), size)]
    batches.sort(key=lambda batch: (batch[0].stage, batch[0].number))
    print(f"{len(cases) - len(missing)} of {len(cases)} students done before; {len(batches)} batches", flush=True)
    if workers == 1:
        for batch in batches:
            print(_measured(out, batch, measures[batch[0].experiment], device), flush=True)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_measured, out, batch, measures[batch[0].experiment], device) for batch in batches]
        for done in as_completed(waiting):
            print(done.result(), flush=True)


def _measured(out: Path, batch: Sequence[Case], measure: Measure, device: str | None) -> str:
    import torch

    torch.set_num_threads(1)
    started, cpu = time.monotonic(), time.process_time()
    results = measure(World(out / "world", device), batch)
    spent = time.process_time() - cpu
    for case, result in zip(batch, results, strict=True):
        path = case.path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"experiment": case.experiment, "group": case.group, "number": case.number, "params": case.params}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({**row, "cpu_s": spent / len(batch), "result": result}))
        partial.replace(path)
    head = batch[0]
    return f"{head.experiment}/{head.group} {head.number}..{batch[-1].number}: {time.monotonic() - started:.0f} s"


def results(out: Path, experiment: str) -> dict[str, list[dict[str, Any]]]:
    """Results on disk by group, in the order of students' numbers. Of a group with files of several settings, those
    of the settings with the most students."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in sorted((out / "students" / experiment).glob("*")):
        rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        group = folder.name.rsplit(".", 1)[0]
        if len(rows) > len(found.get(group, [])):
            found[group] = rows
    return found
