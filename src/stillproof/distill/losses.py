"""Losses on a student's hidden states that never hold a [positions, vocabulary] matrix.

Each loss has the signature

    loss(student_hidden [n, h], student_head [v, h], labels [n], targets, ce_weight) -> mean over n, in nats

and is an entry of `LOSSES`, or any importable `my.module:function` of that signature. `targets` is the teacher's
sparse distribution (`SparseTargets`), or None for a loss that reads only the labels.

The gradient of both losses here with respect to the logits has a closed form in the student's probabilities q, so
one pass over chunks of positions computes the loss, the gradient of the hidden states and the gradient of the head;
nothing but those is kept for the backward pass.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from stillproof.errors import ConfigError, MissingSignalError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_POSITIONS = 256


class SparseTargets(NamedTuple):
    """The teacher's next-token distribution at n positions: its k likeliest tokens, and the mass of all others."""

    top_ids: Tensor
    """[n, k] int64"""
    top_logprobs: Tensor
    """[n, k] float32, nats, at temperature 1"""
    tail_mass: Tensor
    """[n] float32: 1 - sum(exp(top_logprobs))"""


Loss = Callable[["Tensor", "Tensor", "Tensor", SparseTargets | None, float], "Tensor"]


def forward_kl(
    student_hidden: Tensor, student_head: Tensor, labels: Tensor, targets: SparseTargets | None, ce_weight: float
) -> Tensor:
    """KL(teacher || student) over k + 1 outcomes: the stored tokens, and one bucket for the rest of the vocabulary.

    With stored probabilities p, tail mass p_0, student q and its tail q_0 = 1 - sum q_i:

        KL = sum_i p_i log(p_i / q_i) + p_0 log(p_0 / q_0)  >= 0

    which is a lower bound of the full KL (data-processing inequality) and, unlike a sum over the top k alone, cannot
    be negative. Its gradient by the logit z_j is q_j - p_j for a stored token and q_j (1 - p_0 / q_0) for any other.
    `ce_weight` w mixes in cross-entropy on the labels: (1 - w) KL + w CE.

    Shapes: hidden [n, h], head [v, h], labels [n]. Raises MissingSignalError without targets.
    """
    if targets is None:
        raise MissingSignalError(
            "forward_kl needs the teacher's log-probabilities and there are none",
            remedy="run `stillproof distill cache` first, or set train.loss=cross_entropy",
        )
    return _ChunkedHead.apply(student_hidden, student_head, labels, targets, ce_weight)


def cross_entropy(
    student_hidden: Tensor, student_head: Tensor, labels: Tensor, targets: SparseTargets | None, ce_weight: float
) -> Tensor:
    """-log q(label), mean over positions: plain supervised learning on the text. `targets` and `ce_weight` are unused.

    On responses that a teacher sampled this is sequence-level distillation (Kim and Rush 2016).
    """
    return _ChunkedHead.apply(student_hidden, student_head, labels, None, 1.0)


LOSSES: dict[str, Loss] = {"forward_kl": forward_kl, "cross_entropy": cross_entropy}


def find_loss(name: str) -> Loss:
    """The loss of that name, or the function that `my.module:function` names. Raises ConfigError."""
    if name in LOSSES:
        return LOSSES[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigError(f"no loss named {name!r}", remedy=f"choose one of {sorted(LOSSES)}, or my.module:function")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import the loss {name!r}: {error}", remedy="check the module path") from error


class _ChunkedHead(torch.autograd.Function):
    """Head and loss in chunks of positions, gradients made on the way forward."""

    @staticmethod
    def forward(  # pyrefly: ignore[bad-override]
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, targets: SparseTargets | None, ce_weight: float
    ) -> Tensor:
        n = hidden.shape[0]
        half = _arithmetic(hidden)
        work = _workspace(head, half)
        work.head.copy_(head.detach())
        work.grad_head.zero_()
        grad_hidden = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, n, CHUNK_POSITIONS):
            rows = slice(start, min(start + CHUNK_POSITIONS, n))
            chunk = hidden[rows].detach().to(half)
            part = SparseTargets(*(column[rows] for column in targets)) if targets is not None else None
            total += _chunk_loss(work, chunk, labels[rows], part, ce_weight)
            grad_logits = work.logits[: len(chunk)]
            grad_hidden[rows] = (grad_logits @ work.head).to(hidden.dtype)
            torch.matmul(grad_logits.T, chunk, out=work.chunk_grad_head)
            work.grad_head.add_(work.chunk_grad_head)
        ctx.save_for_backward(grad_hidden)
        ctx.grad_head, ctx.version = work.grad_head, work.grad_head._version
        ctx.scale = 1.0 / n
        return total / n

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, None, None, None]:
        (grad_hidden,) = ctx.saved_tensors
        if ctx.grad_head._version != ctx.version:
            raise TrainingError(
                "another loss was computed before this one's backward, in the same buffers",
                remedy="take one loss at a time: forward, backward, then the next",
            )
        scale = grad_outputs[0] * ctx.scale
        return grad_hidden * scale, ctx.grad_head * scale, None, None, None


class _Workspace(NamedTuple):
    """The large buffers of the head, kept from step to step: glibc would fault them in anew each time."""

    head: Tensor
    """[v, h], the head in the arithmetic's type"""
    grad_head: Tensor
    """[v, h] float32, summed over chunks: in bfloat16 the sum would lose small gradients"""
    chunk_grad_head: Tensor
    """[v, h], of one chunk"""
    logits: Tensor
    """[c, v], then their gradient"""
    logits_fp32: Tensor
    """[c, v]"""
    probs: Tensor
    """[c, v] float32: the student's probabilities, then the gradient"""


@functools.lru_cache(maxsize=1)
def _buffers(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> _Workspace:
    v, _ = shape
    wide = (CHUNK_POSITIONS, v)
    return _Workspace(
        torch.empty(shape, dtype=dtype, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(shape, dtype=dtype, device=device),
        torch.empty(wide, dtype=dtype, device=device),
        torch.empty(wide, dtype=torch.float32, device=device),
        torch.empty(wide, dtype=torch.float32, device=device),
    )


def release_buffers() -> None:
    """Give the kept buffers back; the next loss makes them anew."""
    _buffers.cache_clear()


def _workspace(head: Tensor, dtype: torch.dtype) -> _Workspace:
    v, h = head.shape
    return _buffers((v, h), dtype, head.device)


def _arithmetic(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _chunk_loss(
    work: _Workspace, chunk: Tensor, labels: Tensor, targets: SparseTargets | None, ce_weight: float
) -> Tensor:
    """Summed loss over a chunk; leaves the gradient by the logits in `work.logits`."""
    c = len(chunk)
    logits, z, q = work.logits[:c], work.logits_fp32[:c], work.probs[:c]
    torch.matmul(chunk, work.head.T, out=logits)
    z.copy_(logits)
    torch.softmax(z, dim=-1, out=q)
    largest, where = z.max(dim=1, keepdim=True)
    log_normaliser = largest - q.gather(1, where).log()

    label_logq = z.gather(1, labels[:, None]) - log_normaliser
    loss = -ce_weight * label_logq.sum()
    if targets is not None:
        kl_weight = 1.0 - ce_weight
        p, p_tail = targets.top_logprobs.exp(), targets.tail_mass
        top_logq = z.gather(1, targets.top_ids) - log_normaliser
        top_q = top_logq.exp()
        # Summed over the tail itself: 1 - sum(top_q) would be rounding noise for a sharp student.
        q_tail = q.scatter_(1, targets.top_ids, 0.0).sum(1).clamp_min(torch.finfo(torch.float32).tiny)
        loss = loss + kl_weight * (p * (targets.top_logprobs - top_logq)).sum()
        loss = loss + kl_weight * torch.special.xlogy(p_tail, p_tail / q_tail).sum()
        q.mul_((kl_weight * (1.0 - p_tail / q_tail) + ce_weight)[:, None])
        q.scatter_(1, targets.top_ids, top_q - kl_weight * p)
    if ce_weight:
        q.scatter_add_(1, labels[:, None], torch.full_like(label_logq, -ce_weight))
    logits.copy_(q)
    return loss


def check_finite(loss: float, step: int) -> None:
    """Raise TrainingError where the loss is no longer a number: nothing that follows would mean anything."""
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise TrainingError(
            f"the loss became {loss}",
            f"step {step}",
            "the last good checkpoint is kept; begin a run in another folder with a lower train.learning_rate, or with "
            "train.dtype=fp32",
        )
