"""stillproof's side of the comparison, and what both sides share: the job before, the evaluator after.

    ours.py prepare --work WORK --recipe TOML --steps N [--one-document] [section.key=value ...]
    ours.py cache   --work WORK --out JSON [--steps N] [--save FOLDER]
    ours.py train   --work WORK --out JSON [--steps N] [--save FOLDER]
    ours.py score   --work WORK --out JSON NAME=FOLDER ...

Each call is one process that measures one thing, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

import stillproof
from stillproof import allocator, stats
from stillproof.config import DistillConfig, TrainConfig, dump, load
from stillproof.distill import cache, retention
from stillproof.distill.admission import open_run
from stillproof.distill.pack import Rows
from stillproof.distill.run_folder import Run
from stillproof.distill.train import METRICS, learning_rate, schedule, train
from stillproof.progress import Event, ignore
from stillproof.teacher.weights import weights_folder


def main() -> None:
    arguments = read_arguments()
    {"prepare": prepare, "cache": cache_job, "train": train_job, "score": score_job}[arguments.job](arguments)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("prepare", "cache", "train", "score"))
    parser.add_argument("words", nargs="*", help="prepare: section.key=value; score: name=folder")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--one-document", action="store_true", help="prepare: one document a row, padded to its end")
    return parser.parse_intermixed_args()


# --- what both sides share ------------------------------------------------------------------------------------


def prepare(arguments: argparse.Namespace) -> None:
    """Write the recipe's job, cut to `--steps`: teacher, untrained student, rows, and the plan."""
    config = load(DistillConfig, arguments.recipe, arguments.words)
    n_rows = arguments.steps * config.train.rows_per_step
    tokens = n_rows * config.train.row_tokens
    words = [*arguments.words, f"train.max_steps={arguments.steps}", f"data.max_tokens={tokens}", "train.epochs=1"]
    config = load(DistillConfig, arguments.recipe, words)
    work: Path = arguments.work
    run = open_run(config, work / "run", "replace", ignore)
    rows = one_document_a_row(run, n_rows) if arguments.one_document else run.rows
    if len(rows) < n_rows:
        raise SystemExit(f"the corpus gives {len(rows)} rows, too few for {arguments.steps} steps")
    student = run.fresh_student()
    student.save_pretrained(work / "student_init")
    save_rows(work / "train.npz", rows)
    save_rows(work / "heldout.npz", run.heldout_rows)
    steps = schedule(len(rows), config.train, config.seed)
    # The peer reads its rows front to back: they lie in the order in which our schedule takes them.
    peers = rows.take(np.concatenate(steps))
    np.save(work / "peer_ids.npy", peers.input_ids)
    np.save(work / "peer_lengths.npy", (peers.document >= 0).sum(axis=1))
    source = "smollm2" if config.teacher.kind == "smollm2" else config.teacher.model
    plan = {
        "asked": asked(arguments),
        "config": config.model_dump(mode="json"),
        "threads": arguments.threads or cores(),
        "seed": config.seed,
        "steps": len(steps),
        "rows_per_step": config.train.rows_per_step,
        "row_tokens": config.train.row_tokens,
        "learning_rates": [learning_rate(step, len(steps), config.train) for step in range(len(steps))],
        "betas": config.train.betas,
        "weight_decay": config.train.weight_decay,
        "clip_norm": config.train.clip_norm,
        "teacher_folder": str(weights_folder(source)),
        "n_vocab": run.n_vocab,
        "dtype": run.dtype,
        "rows_digest": rows.digest,
        "teacher_digest": run.identity.digest,
        "documents_per_row": float(np.mean([len(np.unique(row[row >= 0])) for row in rows.document])),
        "heldout_positions": run.heldout_rows.n_targets,
        "student_parameters": student.num_parameters(),
        "versions": versions(),
    }
    (work / "config.json").write_text(dump(config), encoding="utf-8")
    measure.write(work / "plan.json", plan)


def asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a resumed bench must ask for again, word by word."""
    return {
        "recipe": hashlib.sha256(arguments.recipe.read_bytes()).hexdigest(),
        "steps": arguments.steps,
        "threads": arguments.threads,
        "words": list(arguments.words),
    }


def one_document_a_row(run: Run, n_rows: int) -> Rows:
    """The first `n_rows` rows of training text with one document in each; one longer than a row goes on in the next."""
    parts: list[Rows] = []
    for number, item in enumerate(run.text(run.parted.train.items)):
        if sum(map(len, parts)) >= n_rows:
            break
        rows = run.pack([item], None)
        parts.append(replace(rows, document=np.where(rows.document >= 0, number, -1).astype(np.int32)))
    return Rows(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([part.position_ids for part in parts]),
        np.concatenate([part.targets_mask for part in parts]),
        np.concatenate([part.document for part in parts]),
    ).take(slice(0, n_rows))


def score_job(arguments: argparse.Namespace) -> None:
    """One evaluator for both sides: KL to the fp32 teacher over the whole vocabulary, on the held-out rows."""
    plan = measure.read(arguments.work / "plan.json")
    folders = dict(word.split("=", 1) for word in arguments.words)
    models = {name: weights(folder) for name, folder in folders.items()}
    models["teacher"] = weights(plan["teacher_folder"])
    torch.set_num_threads(plan["threads"])
    scores = retention.score(models, load_rows(arguments.work / "heldout.npz"), n_vocab=plan["n_vocab"])
    found = {}
    for name in scores.names:
        kl = stats.cluster_bootstrap(scores.kl_nats[name], scores.n_positions, seed=0)
        found[name] = {
            "kl_nats": kl.estimate,
            "kl_nats_interval": [kl.low, kl.high],
            "agreement": float(scores.agreements[name].sum() / scores.n_positions.sum()),
        }
    measure.write(arguments.out, {"n_positions": int(scores.n_positions.sum()), "models": found})


# --- our jobs -------------------------------------------------------------------------------------------------


def cache_job(arguments: argparse.Namespace) -> None:
    """Time the teacher's pass over the rows of the first steps, targets written and audited."""
    plan, config, rows = read_job(arguments)
    in_force = begin(arguments, plan)
    teacher = weights(plan["teacher_folder"])
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        clock = measure.Clock()
        built = cache.build(
            teacher,
            rows,
            cache_key(plan, rows, config),
            Path(folder),
            batch_rows=config.cache.batch_rows,
            audit_share=config.cache.audit_share,
        )
        clock.mark()
        if arguments.save is not None:
            shutil.copytree(folder, arguments.save, dirs_exist_ok=True)
    measure.write(
        arguments.out,
        {
            "side": "stillproof cache",
            "versions": versions(),
            "allocator": in_force,
            "threads": torch.get_num_threads(),
            "tokens": rows.n_tokens,
            "positions": rows.n_targets,
            "bytes_per_position": built.manifest["bytes"] / rows.n_targets,
            "fidelity": built.manifest["fidelity"],
            "wall_s": clock.wall_s[0],
            "cpu_s": clock.cpu_s[0],
            "peak_rss_mb": measure.peak_rss_mb(),
        },
    )


def train_job(arguments: argparse.Namespace) -> None:
    """Train on WORK/cache and take the time from the end of each step to the end of the next."""
    plan, config, rows = read_job(arguments, all_rows=True)
    in_force = begin(arguments, plan)
    student = weights(arguments.work / "student_init")
    targets = cache.Cache(arguments.work / "cache")
    targets.check(cache_key(plan, rows, config))
    steps = arguments.steps or plan["steps"]
    clock = measure.Clock()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        train(
            student,
            rows,
            targets.targets,
            train_config(config, plan),
            Path(folder),
            n_vocab=plan["n_vocab"],
            seed=plan["seed"],
            dtype=plan["dtype"],
            until_step=steps,
            on_event=lambda event: mark(clock, event),
        )
        peak_rss_mb = measure.peak_rss_mb()
        metrics = [json.loads(line) for line in (Path(folder) / METRICS).read_text().splitlines()]
    if arguments.save is not None:
        student.save_pretrained(arguments.save)
    taken = [rows.take(batch) for batch in schedule(len(rows), config.train, plan["seed"])[:steps]]
    measure.write(
        arguments.out,
        {
            "side": "stillproof",
            "versions": versions(),
            "allocator": in_force,
            "threads": torch.get_num_threads(),
            "settings": {"loss": config.train.loss, "top_k": config.cache.top_k, "dtype": plan["dtype"]},
            "steps": steps,
            # The last holds the checkpoint that ends a run; run.py counts neither side's last step.
            "step_wall_s": clock.wall_s,
            "step_cpu_s": clock.cpu_s,
            "losses": [step["loss_nats"] for step in metrics],
            "tokens_per_step": {
                "padded": sum(part.input_ids.size for part in taken) / steps,
                "real": sum(part.n_tokens for part in taken) / steps,
                "in_loss": sum(part.n_targets for part in taken) / steps,
            },
            "peak_rss_mb": peak_rss_mb,
        },
    )


def read_job(arguments: argparse.Namespace, all_rows: bool = False) -> tuple[dict[str, Any], DistillConfig, Rows]:
    plan = measure.read(arguments.work / "plan.json")
    config = DistillConfig.model_validate(plan["config"])
    rows = load_rows(arguments.work / "train.npz")
    if arguments.steps and not all_rows:
        rows = rows.take(slice(0, arguments.steps * plan["rows_per_step"]))
    return plan, config, rows


def begin(arguments: argparse.Namespace, plan: dict[str, Any]) -> str:
    """Set threads before the first tensor; say which allocator is in force."""
    torch.set_num_threads(plan["threads"])
    return allocator.in_use()


def train_config(config: DistillConfig, plan: dict[str, Any]) -> TrainConfig:
    """As in the recipe, with no checkpoint before the end: TRL writes none either."""
    return config.train.model_copy(update={"threads": plan["threads"], "checkpoint_steps": 10**9})


def cache_key(plan: dict[str, Any], rows: Rows, config: DistillConfig) -> cache.CacheKey:
    return cache.CacheKey(
        teacher=plan["teacher_digest"],
        tokenizer=None,
        chat_template=None,
        rows=rows.digest,
        n_vocab=plan["n_vocab"],
        top_k=config.cache.top_k,
        dtype=plan["dtype"],
        terms=None,
    )


def mark(clock: measure.Clock, event: Event) -> None:
    if event.stage == "train":
        clock.mark()


# --- small things ---------------------------------------------------------------------------------------------


def save_rows(path: Path, rows: Rows) -> None:
    columns = asdict(rows)
    for count in ("n_truncated", "n_left_out"):
        columns.pop(count)
    np.savez(path, **columns)


def load_rows(path: Path) -> Rows:
    with np.load(path) as columns:
        return Rows(**{name: columns[name] for name in columns.files})


def weights(folder: str | Path) -> PreTrainedModel:
    """A model in fp32, for evaluation until training says otherwise."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def versions() -> dict[str, str]:
    return {"stillproof": stillproof.__version__, "torch": torch.__version__, "transformers": transformers.__version__}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
