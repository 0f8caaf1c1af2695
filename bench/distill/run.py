"""The recipe's job in stillproof and in TRL's GKDTrainer, on one machine: speed, memory, and KL after equal tokens.

    python bench/distill/run.py --out bench/distill/results

Needs the environment of `python3 run.py setup`, and TRL in one of its own (requirements-trl.txt), which
`python3 run.py bench-distill` makes. Every number comes from a process of its own; rounds are interleaved, so that a
machine that grows slower does so for all. README.md says what is compared and why.

Run it on an idle machine. It writes OUT/raw/*.json as it goes (kept by --resume), then bench.json and table.md.
"""

from __future__ import annotations

import argparse
import ctypes.util
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import measure
import table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ALLOCATORS = ("glibc", "tcmalloc")
SIDES = ("trl default", "trl tuned", "stillproof")
MICRO_ROWS = (1, 2, 4, 8)


def main() -> int:
    arguments = read_arguments()
    bench = Bench(arguments)
    bench.prepare()
    micro_rows = arguments.micro_rows or bench.tune()
    bench.time_rounds(micro_rows)
    bench.compare_quality(micro_rows)
    result = bench.result(micro_rows)
    measure.write(arguments.out / "bench.json", {**result, "summary": table.summary(result)})
    text = table.of(result)
    (arguments.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, help="folder for models and rows; default OUT/work")
    parser.add_argument("--trl-python", type=Path, default=ROOT / ".venv-trl" / "bin" / "python")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "laptop.toml")
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps of the comparison of KL")
    parser.add_argument(
        "--timing-steps", type=int, default=7, help="steps of each timed process, of which the last is not counted"
    )
    parser.add_argument("--quality-row-tokens", type=int, default=192, help="length of a row, of one document, for KL")
    parser.add_argument("--skip-steps", type=int, default=2, help="first steps of each process that are not counted")
    parser.add_argument("--runs", type=int, default=5, help="processes for each cell of the table")
    parser.add_argument("--threads", type=int, help="default: the cores this process may use")
    parser.add_argument("--allocators", type=lambda text: text.split(","), default=list(ALLOCATORS))
    parser.add_argument(
        "--micro-rows", type=int, help="TRL tuned: rows a forward pass; default: the fastest of 1, 2, 4, 8"
    )
    parser.add_argument("--resume", action="store_true", help="keep the measurements that OUT/raw already has")
    parser.add_argument("words", nargs="*", help="section.key=value for the recipe")
    arguments = parser.parse_intermixed_args()
    if arguments.timing_steps - 1 <= arguments.skip_steps:
        parser.error("--timing-steps must be more than --skip-steps and the last step, which is not counted")
    if not arguments.trl_python.exists():
        parser.error(f"no TRL at {arguments.trl_python}: run `python3 run.py bench-distill`, or give --trl-python")
    return arguments


@dataclass
class Bench:
    arguments: argparse.Namespace
    commands: dict[str, str] = field(default_factory=dict)
    """What was run for each measurement, by its name."""

    def __post_init__(self) -> None:
        self.out: Path = self.arguments.out.resolve()
        self.work: Path = (self.arguments.work or self.out / "scratch").resolve()
        self.quality = self.work / "quality"
        """The job with one document a row, for the comparison of KL."""
        self.raw = self.out / "raw"
        self.allocators = [name for name in self.arguments.allocators if name != "tcmalloc" or tcmalloc()]
        for name in set(self.arguments.allocators) - set(self.allocators):
            print(f"bench: no {name} on this machine (Debian: apt-get install libtcmalloc-minimal4); left out")
        if not self.allocators:
            raise SystemExit("bench: no allocator left to measure with")

    # --- stages -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        arguments = self.arguments
        row_tokens = f"train.row_tokens={arguments.quality_row_tokens}"
        jobs: dict[Path, tuple[int, list[str], list[str]]] = {
            self.work: (arguments.timing_steps, arguments.words, []),
            self.quality: (arguments.steps, [*arguments.words, row_tokens], ["--one-document"]),
        }
        if arguments.resume and all((work / "cache" / "cache.json").exists() for work in jobs):
            for work, (steps, words, _) in jobs.items():
                self.check_asked(work, steps, words)
            self.raw.mkdir(parents=True, exist_ok=True)
            return
        # Measurements of a job that is no longer there belong to no other.
        for folder in (self.work, self.raw):
            shutil.rmtree(folder, ignore_errors=True)
        self.raw.mkdir(parents=True)
        names = {self.work: "speed", self.quality: "quality"}
        for work, (steps, words, flags) in jobs.items():
            asked = ["--recipe", str(arguments.recipe), "--steps", str(steps), *flags, *words]
            if arguments.threads:
                asked += ["--threads", str(arguments.threads)]
            self.run(f"prepare-{names[work]}", [*self.ours("prepare", work), *asked], {})
            # The cache that every training run reads; the timed passes write theirs elsewhere.
            asked = ["--save", str(work / "cache"), "--out", str(self.raw / f"cache-all-{names[work]}.json")]
            self.run(f"cache-all-{names[work]}", [*self.ours("cache", work), *asked], {})

    def check_asked(self, work: Path, steps: int, words: Sequence[str]) -> None:
        """Refuse to go on with a job of other steps, words, threads or another recipe."""
        recipe = hashlib.sha256(self.arguments.recipe.read_bytes()).hexdigest()
        now = {"recipe": recipe, "steps": steps, "threads": self.arguments.threads, "words": list(words)}
        was = measure.read(work / "plan.json").get("asked", {})
        differing = [f"{key} (was {was.get(key)}, now {now[key]})" for key in now if was.get(key) != now[key]]
        if differing:
            raise SystemExit(
                f"bench: {work} was prepared otherwise: {'; '.join(differing)}. Give the same, or leave out --resume."
            )

    def tune(self) -> int:
        """The rows a forward pass with which TRL's tuned settings are fastest here, under the best allocator."""
        best = self.allocators[-1]
        seconds = {}
        for rows in MICRO_ROWS:
            name = f"tune-{rows}-{best}"
            self.trl(name, "tuned", best, rows)
            seconds[rows] = self.step_s(name)
            print(f"bench: TRL tuned with {rows} rows a forward pass: {seconds[rows]:.2f} s a step", flush=True)
        return min(seconds, key=lambda rows: seconds[rows])

    def time_rounds(self, micro_rows: int) -> None:
        for number in range(self.arguments.runs):
            for memory in self.allocators:
                self.trl(f"trl_default-{memory}-{number}", "default", memory, None)
                self.trl(f"trl_tuned-{memory}-{number}", "tuned", memory, micro_rows)
                self.stillproof(f"stillproof-{memory}-{number}", "train", memory)
                self.stillproof(f"cache-{memory}-{number}", "cache", memory)
            print(f"bench: round {number + 1} of {self.arguments.runs} done", flush=True)

    def compare_quality(self, micro_rows: int) -> None:
        """Train both sides for all steps on the same tokens, one document a row, and score both with one evaluator."""
        memory = self.allocators[-1]
        self.trl("quality-trl_tuned", "tuned", memory, micro_rows, self.quality / "student_trl")
        self.stillproof("quality-stillproof", "train", memory, self.quality / "student_stillproof")
        folders = {"init": "student_init", "trl tuned": "student_trl", "stillproof": "student_stillproof"}
        students = {name: self.quality / folder for name, folder in folders.items()}
        score = self.raw / "score.json"
        if score.exists() and score.stat().st_mtime < max(newest(folder) for folder in students.values()):
            score.unlink()
        words = [f"{name}={folder}" for name, folder in students.items()]
        self.run("score", [*self.ours("score", self.work), "--out", str(score), *words], {})

    # --- one process each -------------------------------------------------------------------------------------

    def trl(self, name: str, settings: str, memory: str, micro_rows: int | None, save: Path | None = None) -> None:
        """All steps of the job; that of the comparison of KL where the student is saved."""
        work = self.quality if save else self.work
        command = [str(self.arguments.trl_python), str(HERE / "peer_trl.py"), "--work", str(work)]
        command += ["--settings", settings]
        command += ["--micro-rows", str(micro_rows)] if micro_rows else []
        command += ["--save", str(save)] if save else []
        environment = {"TRL_EXPERIMENTAL_SILENCE": "1", **preload(memory)}
        self.run(name, [*command, "--out", str(self.raw / f"{name}.json")], environment)

    def stillproof(self, name: str, job: str, memory: str, save: Path | None = None) -> None:
        """All steps of the job; that of the comparison of KL where the student is saved."""
        command = self.ours(job, self.quality if save else self.work)
        command += ["--save", str(save)] if save else []
        self.run(name, [*command, "--out", str(self.raw / f"{name}.json")], preload(memory))

    def ours(self, job: str, work: Path) -> list[str]:
        return [sys.executable, str(HERE / "ours.py"), job, "--work", str(work)]

    def run(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        """One process, its output in OUT/raw/NAME.log; nothing is run where the measurement is there already.

        A measurement that another command made (of other rows a forward pass, say) is refused, not mixed in.
        """
        shown = [f"{key}={value}" for key, value in environment.items()] + [self.short(word) for word in command]
        self.commands[name] = shlex.join(shown)
        made_by = self.raw / f"{name}.command"
        if (self.raw / f"{name}.json").exists():
            if not made_by.exists() or made_by.read_text(encoding="utf-8") != self.commands[name]:
                raise SystemExit(f"bench: {name} was measured by another command; give the same, or leave out --resume")
            return
        made_by.write_text(self.commands[name], encoding="utf-8")
        print(f"bench: {name}", flush=True)
        threads = {"OMP_NUM_THREADS": str(self.arguments.threads)} if self.arguments.threads else {}
        merged = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **threads, **environment}
        log = self.raw / f"{name}.log"
        with log.open("w") as output:
            done = subprocess.run(command, env=merged, stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise SystemExit(f"bench: {name} failed; {log} ends with:\n{log.read_text(errors='replace')[-2_000:]}")

    def short(self, word: str) -> str:
        """A path as it is seen from the checkout; also in NAME=PATH."""
        return word.replace(f"{ROOT}{os.sep}", "")

    # --- what came of it --------------------------------------------------------------------------------------

    def step_s(self, name: str) -> float:
        return median(self.counted(measure.read(self.raw / f"{name}.json")["step_wall_s"]))

    def counted(self, step_s: Sequence[float]) -> Sequence[float]:
        """Without the first steps, and without the last, which holds the checkpoint that ends our runs."""
        return step_s[self.arguments.skip_steps : -1]

    def result(self, micro_rows: int) -> dict[str, Any]:
        runs = range(self.arguments.runs)
        cells = []
        for memory in self.allocators:
            for side in SIDES:
                names = [f"{side.replace(' ', '_')}-{memory}-{number}" for number in runs]
                cells.append(self.cell(side, memory, names))
        caches = [
            self.cache_cell(memory, [f"cache-{memory}-{number}" for number in runs]) for memory in self.allocators
        ]
        score = measure.read(self.raw / "score.json")
        trained = [measure.read(self.raw / f"quality-{name}.json") for name in ("trl_tuned", "stillproof")]
        return {
            "machine": machine(),
            "plan": self.plan(self.work),
            "runs": self.arguments.runs,
            "timing_steps": self.arguments.timing_steps,
            "skip_steps": self.arguments.skip_steps,
            "micro_rows": micro_rows,
            "tuning": {path.stem: self.step_s(path.stem) for path in sorted(self.raw.glob("tune-*.json"))},
            "train": cells,
            "cache": caches,
            "quality": {
                "steps": self.arguments.steps,
                "plan": self.plan(self.quality),
                "tokens": [row["tokens_per_step"]["real"] * self.arguments.steps for row in trained],
                "n_positions": score["n_positions"],
                "models": score["models"],
                "commands": [self.commands[f"quality-{name}"] for name in ("trl_tuned", "stillproof")],
                "score_command": self.commands["score"],
            },
        }

    def plan(self, work: Path) -> dict[str, Any]:
        return {k: v for k, v in measure.read(work / "plan.json").items() if k != "teacher_folder"}

    def cell(self, side: str, memory: str, names: Sequence[str]) -> dict[str, Any]:
        rows = [measure.read(self.raw / f"{name}.json") for name in names]
        return {
            "side": side,
            "memory": memory,
            "allocator": rows[0]["allocator"],
            "settings": rows[0]["settings"],
            "versions": rows[0]["versions"],
            "tokens_per_step": rows[0]["tokens_per_step"],
            "step_wall_s": spread([median(self.counted(row["step_wall_s"])) for row in rows]),
            "step_cpu_s": spread([median(self.counted(row["step_cpu_s"])) for row in rows]),
            "peak_rss_mb": spread([row["peak_rss_mb"] for row in rows]),
            "command": self.commands[names[0]],
        }

    def cache_cell(self, memory: str, names: Sequence[str]) -> dict[str, Any]:
        rows = [measure.read(self.raw / f"{name}.json") for name in names]
        return {
            "memory": memory,
            "allocator": rows[0]["allocator"],
            "bytes_per_position": rows[0]["bytes_per_position"],
            "fidelity": rows[0]["fidelity"],
            "s_per_token": spread([row["wall_s"] / row["tokens"] for row in rows]),
            "peak_rss_mb": spread([row["peak_rss_mb"] for row in rows]),
            "command": self.commands[names[0]],
        }


# --- small things ---------------------------------------------------------------------------------------------


def newest(folder: Path) -> float:
    """When the last of a folder's files was written, seconds since the epoch."""
    return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median over processes, and how far they lie apart."""
    return {"median": median(values), "low": min(values), "high": max(values), "n": len(values)}


def preload(memory: str) -> dict[str, str]:
    return {"LD_PRELOAD": tcmalloc() or ""} if memory == "tcmalloc" else {}


def tcmalloc() -> str | None:
    """The library's name for LD_PRELOAD, where it is installed."""
    return ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")


def machine() -> dict[str, Any]:
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else ""
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {
        "processor": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "load_average_at_end": load,
    }


if __name__ == "__main__":
    sys.exit(main())
