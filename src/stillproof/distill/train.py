"""Train a student on packed rows: resumable to the bit, and the same for the student and its honest control.

Steps are a fixed function of (seed, rows, config), so that a run that was killed and resumed from its last
checkpoint ends with the same weights as one that was not. Under `torchrun` the rows of a step are shared among the
processes and the gradients summed, weighted by how many positions each had.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillproof.distill.forward import arithmetic, head_weight, hidden_states, labels
from stillproof.distill.losses import Loss, SparseTargets, check_finite, find_loss
from stillproof.errors import MismatchError, StorageError
from stillproof.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    from stillproof.config import TrainConfig
    from stillproof.distill.pack import Rows

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"

TargetsOf = Callable[[np.ndarray], SparseTargets]
"""Row numbers -> the teacher's targets on their learned positions."""


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training run ended."""

    step: int
    n_steps: int
    n_tokens: int
    """Real tokens read, over all steps."""
    duration_s: float
    """Of the steps taken in this call."""
    tokens_per_s: float | None
    """None where this call took no step."""

    @property
    def finished(self) -> bool:
        return self.step >= self.n_steps


def schedule(n_rows: int, config: TrainConfig, seed: int) -> list[np.ndarray]:
    """Which rows each step reads, in order: a fresh permutation each epoch, the last step of an epoch may be short."""
    steps: list[np.ndarray] = []
    for epoch in range(config.epochs):
        order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n_rows)
        steps += [order[start : start + config.rows_per_step] for start in range(0, n_rows, config.rows_per_step)]
    return steps[: config.max_steps]


def learning_rate(step: int, n_steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_lr_share` of the peak at the last step."""
    warmup = math.ceil(config.warmup_share * n_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup + 1) / max(n_steps - warmup, 1)
    share = config.final_lr_share + (1.0 - config.final_lr_share) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate * share


def train(
    student: Any,
    rows: Rows,
    targets_of: TargetsOf | None,
    config: TrainConfig,
    folder: Path,
    *,
    n_vocab: int,
    seed: int,
    dtype: str,
    stage: str = "train",
    until_step: int | None = None,
    on_event: OnEvent = ignore,
) -> Trained:
    """Train `student` in place until its last step (or `until_step`), from the checkpoint in `folder` if there is one.

    Raises TrainingError where the loss is no longer a number, MismatchError where the checkpoint is of other data or
    settings, StorageError where a checkpoint cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = schedule(len(rows), config, seed)
    _put_on_device(student, config)
    signature = _signature(rows, config, seed, n_vocab, f"{dtype} on {student.device.type}")
    optimiser = _optimiser(student, config)
    step = _load_checkpoint(student, optimiser, folder, signature)
    end = len(steps) if until_step is None else min(until_step, len(steps))
    objective = _Objective(rows, targets_of, find_loss(config.loss), config.ce_weight, n_vocab, dtype)
    # No dropout: a resumed run must see the very network that was interrupted.
    student.eval()
    started, began_at, tokens_read = time.monotonic(), step, 0
    while step < end:
        began_s = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, len(steps), config)
        loss_nats = objective.backward(student, _share_of_this_process(steps[step]))
        check_finite(loss_nats, step)
        norm = float(torch.nn.utils.clip_grad_norm_(student.parameters(), config.clip_norm))
        check_finite(norm, step)
        optimiser.step()
        # None, not zero: the next backward then keeps the buffers it made instead of copying them.
        optimiser.zero_grad(set_to_none=True)
        step += 1
        tokens_read += rows.take(steps[step - 1]).n_tokens
        rate = tokens_read / (time.monotonic() - started)
        metrics = {"step": step, "loss_nats": loss_nats, "grad_norm": norm, "lr": optimiser.param_groups[0]["lr"]}
        _append_metrics(folder, metrics | {"step_s": time.monotonic() - began_s})
        if step % config.checkpoint_steps == 0 or step == end:
            _save_checkpoint(student, optimiser, step, folder, signature)
        eta_s = (time.monotonic() - started) / (step - began_at) * (len(steps) - step)
        on_event(
            Event(
                stage=stage,
                done=step,
                total=len(steps),
                unit="steps",
                rate=rate,
                eta_s=eta_s,
                metrics={"loss_nats": loss_nats, "tokens_per_s": rate},
            )
        )
    duration_s = time.monotonic() - started
    n_tokens = sum(rows.take(batch).n_tokens for batch in steps[:step])
    return Trained(step, len(steps), n_tokens, duration_s, tokens_read / duration_s if tokens_read else None)


@dataclass(frozen=True, slots=True)
class _Objective:
    """What a step minimises: a loss on some rows, with the teacher's targets where it reads them."""

    rows: Rows
    targets_of: TargetsOf | None
    loss: Loss
    ce_weight: float
    n_vocab: int
    dtype: str

    def backward(self, student: Any, batch: np.ndarray) -> float:
        """Leave the whole step's gradients on the student, of which `batch` is this process's share; its loss."""
        part = self.rows.take(batch)
        if part.n_targets == 0:
            # The last step of an epoch can have fewer rows than there are processes.
            return _sum_gradients(student, torch.zeros((), device=student.device), 0)
        with arithmetic(student.device.type, self.dtype):
            hidden = hidden_states(student, part)
            head = head_weight(student)[: self.n_vocab]
            targets = None if self.targets_of is None else _to(self.targets_of(batch), hidden.device)
            loss = self.loss(hidden, head, labels(part, hidden.device), targets, self.ce_weight)
        loss.backward()
        return _sum_gradients(student, loss.detach(), part.n_targets)


def _to(targets: SparseTargets, device: torch.device) -> SparseTargets:
    return SparseTargets(*(column.to(device) for column in targets))


def _put_on_device(student: Any, config: TrainConfig) -> None:
    from stillproof.device import best_device

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    student.to(best_device() if config.device == "auto" else config.device)


def _optimiser(student: Any, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW, with weight decay on matrices only: norms and biases have no scale to be kept small."""
    matrices = [p for p in student.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in student.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


# --- several processes ----------------------------------------------------------------------------------------


def _share_of_this_process(batch: np.ndarray) -> np.ndarray:
    """This process's rows of a step; all of them where there is one process."""
    if not torch.distributed.is_initialized():
        return batch
    return batch[torch.distributed.get_rank() :: torch.distributed.get_world_size()]


def _sum_gradients(student: Any, loss: torch.Tensor, n_positions: int) -> float:
    """Make every process's gradients those of the whole step, positions weighing alike; the whole step's loss."""
    if not torch.distributed.is_initialized():
        return float(loss)
    count = torch.tensor([float(n_positions), float(loss) * n_positions], dtype=torch.float64, device=loss.device)
    torch.distributed.all_reduce(count)
    for parameter in student.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.mul_(n_positions / max(float(count[0]), 1.0))
        torch.distributed.all_reduce(parameter.grad)
    return float(count[1] / count[0].clamp_min(1.0))


def _is_first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


# --- checkpoints and metrics ----------------------------------------------------------------------------------


def _signature(rows: Rows, config: TrainConfig, seed: int, n_vocab: int, arithmetic: str) -> str:
    """What a checkpoint belongs to: everything that decides the steps, and nothing that does not."""
    settings = config.model_dump(mode="json", exclude={"checkpoint_steps", "control", "preflight_steps", "threads"})
    text = json.dumps([rows.digest, settings, seed, n_vocab, arithmetic], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _save_checkpoint(student: Any, optimiser: torch.optim.Optimizer, step: int, folder: Path, signature: str) -> None:
    if not _is_first_process():
        return
    state = {
        "signature": signature,
        "step": step,
        "student": student.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    temporary = folder / f"{CHECKPOINT}.tmp"
    try:
        torch.save(state, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(folder / CHECKPOINT)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write a checkpoint: {error}", str(folder), "free some disk space, then resume: nothing is lost"
        ) from error


def _load_checkpoint(student: Any, optimiser: torch.optim.Optimizer, folder: Path, signature: str) -> int:
    """The step the checkpoint stands at (0 without one); the student and optimiser are set to it."""
    path = folder / CHECKPOINT
    if not path.exists():
        (folder / METRICS).unlink(missing_ok=True)
        return 0
    state = torch.load(path, map_location=student.device, weights_only=True, mmap=True)
    if state["signature"] != signature:
        raise MismatchError(
            "the checkpoint is of other data or settings", str(path), "use --if-exists replace, or another --out"
        )
    student.load_state_dict(state["student"])
    optimiser.load_state_dict(state["optimiser"])
    _cut_metrics(folder, state["step"])
    return int(state["step"])


def _append_metrics(folder: Path, metrics: dict[str, float]) -> None:
    if _is_first_process():
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")


def _cut_metrics(folder: Path, step: int) -> None:
    """Drop the lines of steps that the checkpoint has not seen; they will be written again."""
    path = folder / METRICS
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept == lines:
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)
