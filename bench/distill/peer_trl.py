"""The same job in TRL: GKDTrainer with lmbda=0 and beta=0, which is forward KL to a teacher held in memory.

Runs in TRL's own virtual environment and reads only what `ours.py prepare` wrote into WORK: the student's starting
weights, the teacher's folder, the packed rows and the plan. One process trains once and writes one JSON file.

What the two settings are, and why, is told in README.md.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer

SETTINGS = ("default", "tuned")


class StepClock(TrainerCallback):
    """Seconds of every optimiser step, data loading included, loading of the models excluded."""

    def __init__(self) -> None:
        self.clock = measure.Clock()
        self.losses: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.mark()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def main() -> None:
    arguments = read_arguments()
    work: Path = arguments.work
    plan = measure.read(work / "plan.json")
    torch.set_num_threads(plan["threads"])
    steps = arguments.steps or plan["steps"]
    micro_rows = arguments.micro_rows or plan["rows_per_step"]
    tokenizer = AutoTokenizer.from_pretrained(plan["teacher_folder"])
    clock = StepClock()
    # fp32 master weights: what TRL loads by default from a path, and what stillproof trains.
    student = AutoModelForCausalLM.from_pretrained(work / "student_init", dtype=torch.float32)
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher(plan["teacher_folder"], arguments.settings),
        args=GKDConfig(**common(plan, steps, micro_rows, work), **special(arguments.settings)),
        processing_class=tokenizer,
        train_dataset=rows(work, plan, steps),
        callbacks=[clock],
        optimizers=optimiser(student, plan),
    )
    seen = count_tokens(trainer)
    trainer.train()
    peak_rss_mb = measure.peak_rss_mb()
    if arguments.save is not None:
        trainer.model.save_pretrained(arguments.save)
    measure.write(
        arguments.out,
        {
            "side": f"trl {arguments.settings}",
            "versions": {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
            "allocator": measure.allocator(),
            "threads": torch.get_num_threads(),
            "settings": told(trainer, micro_rows),
            "steps": steps,
            "step_wall_s": clock.clock.wall_s,
            "step_cpu_s": clock.clock.cpu_s,
            "losses": clock.losses,
            "tokens_per_step": {name: count / steps for name, count in seen.items()},
            "peak_rss_mb": peak_rss_mb,
        },
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--settings", choices=SETTINGS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--micro-rows", type=int, help="rows per forward pass; the rest of a step is accumulated")
    parser.add_argument("--save", type=Path, help="folder for the trained student")
    return parser.parse_args()


def teacher(folder: str, settings: str) -> Any:
    """A path by default, which TRL loads in the type that the folder declares; tuned has the teacher in bf16."""
    return folder if settings == "default" else AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def common(plan: dict[str, Any], steps: int, micro_rows: int, work: Path) -> dict[str, Any]:
    """The job itself: the same for both settings and for stillproof."""
    return {
        "output_dir": str(work / "trl"),
        "lmbda": 0.0,
        "beta": 0.0,
        "max_length": plan["row_tokens"],
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": plan["rows_per_step"] // micro_rows,
        "max_steps": steps,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": plan["clip_norm"],
        "seed": plan["seed"],
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def special(settings: str) -> dict[str, Any]:
    """Where tuned departs from the defaults of GKDConfig 1.16, besides the teacher's type and the rows a forward."""
    return {} if settings == "default" else {"gradient_checkpointing": False}


def optimiser(student: Any, plan: dict[str, Any]) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """The optimiser and the learning rates of the job, step by step: the same that stillproof uses."""
    matrices = [parameter for parameter in student.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in student.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": plan["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=tuple(plan["betas"]), fused=True)
    rates = plan["learning_rates"]
    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: rates[min(step, len(rates) - 1)])


def rows(work: Path, plan: dict[str, Any], steps: int) -> Dataset:
    """The rows as TRL takes tokens that are ready: the first token of a row is its prompt, all others learn.

    GKDTrainer has no packing of its own, and refuses a row without a prompt. It passes no positions on, so documents
    in one row see each other, which they do not in stillproof. Padding is left to its collator, which masks it.
    """
    n_rows = steps * plan["rows_per_step"]
    ids, lengths = (np.load(work / f"peer_{column}.npy")[:n_rows] for column in ("ids", "lengths"))
    return Dataset.from_list(
        [
            {"prompt": "", "input_ids": row[:n].tolist(), "completion_mask": [0] + [1] * (int(n) - 1)}
            for row, n in zip(ids, lengths, strict=True)
        ]
    )


def count_tokens(trainer: GKDTrainer) -> dict[str, int]:
    """Count what the collator hands out: padded, real, and in the loss."""
    seen = {"padded": 0, "real": 0, "in_loss": 0}
    collate = trainer.data_collator

    def counted(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = collate(examples)
        seen["padded"] += batch["input_ids"].numel()
        seen["real"] += int(batch["attention_mask"].sum())
        seen["in_loss"] += int((batch["labels"][:, 1:] != -100).sum())
        return batch

    trainer.data_collator = counted
    return seen


def told(trainer: GKDTrainer, micro_rows: int) -> dict[str, Any]:
    """The settings that decide speed and memory, as the trainer has them and not as we asked for them."""
    args = trainer.args
    return {
        "bf16_autocast": args.bf16,
        "gradient_checkpointing": args.gradient_checkpointing,
        "rows_per_forward": micro_rows,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "student_dtype": str(trainer.model.dtype),
        "teacher_dtype": str(trainer.teacher_model.dtype),
        "attention": trainer.model.config._attn_implementation,
        "optimizer": "AdamW, fused",
        "malloc_environment": {k: v for k, v in os.environ.items() if k.startswith("MALLOC_") or k == "LD_PRELOAD"},
    }


if __name__ == "__main__":
    main()
