"""Tiny students, many at once: GPTs of one shape whose weights are stacked, so that a batch of them is one model.

Row `s` of every weight belongs to student `s`, and nothing is shared: a student's loss, gradient and optimiser state
are its own, and each draws from generators of its own seed. Stacking saves the fixed cost of small matrices, which is
most of the cost here. Device-agnostic torch; shapes are S students, B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from stillproof.device import best_device, native_bf16
from stillproof.trace.evidence import Reading

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a GPT: width a multiple of 32 (a head's width)."""

    vocab: int = 1024
    width: int = 128
    layers: int = 2
    context: int = 64

    @property
    def parameters(self) -> int:
        return (self.vocab + self.context) * self.width + self.layers * 12 * self.width**2


TEACHER = Shape(width=192, layers=3)
STUDENT = Shape(width=128, layers=2)
INNOCENT = Shape(width=64, layers=2)
"""Of the students of calibration, of which hundreds are trained: validity does not depend on the size."""


class Students(nn.Module):
    """S students of one shape. Pre-norm GPT, learned positions, embedding tied to the head."""

    def __init__(self, shape: Shape, seeds: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.n = shape, len(seeds)
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]

        def drawn(rows: int, columns: int, sd: float) -> nn.Parameter:
            parts = [torch.randn(rows, columns, generator=source) * sd for source in sources]
            return nn.Parameter(torch.stack(parts))

        width = shape.width
        thin = 0.02 / math.sqrt(2 * shape.layers)
        self.embedding = drawn(shape.vocab, width, 0.02)
        self.position = drawn(shape.context, width, 0.02)
        self.norms = nn.Parameter(torch.ones(2 * shape.layers + 1, self.n, 1, width))
        self.qkv = nn.ParameterList(drawn(width, 3 * width, 0.02) for _ in range(shape.layers))
        self.out = nn.ParameterList(drawn(width, width, thin) for _ in range(shape.layers))
        self.up = nn.ParameterList(drawn(width, 4 * width, 0.02) for _ in range(shape.layers))
        self.down = nn.ParameterList(drawn(4 * width, width, thin) for _ in range(shape.layers))

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits [S, B, T, V] of what follows each token of `ids` [S, B, T]; with a cache, `ids` follow what is in
        it."""
        s, b, t = ids.shape
        shape, at = self.shape, 0 if cache is None else cache.length
        offset = torch.arange(s, device=ids.device)[:, None, None] * shape.vocab
        x = F.embedding(ids + offset, self.embedding.flatten(0, 1)) + self.position[:, None, at : at + t]
        x = x.reshape(s, b * t, shape.width)
        for layer in range(shape.layers):
            q, k, v = torch.bmm(_normed(x) * self.norms[2 * layer], self.qkv[layer]).chunk(3, dim=2)
            q, k, v = (part.reshape(s * b, t, shape.width // 32, 32).transpose(1, 2) for part in (q, k, v))
            if cache is not None:
                k, v = cache.extended(layer, k, v)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
            x = x + torch.bmm(mixed.transpose(1, 2).reshape(s, b * t, shape.width), self.out[layer])
            hidden = F.gelu(torch.bmm(_normed(x) * self.norms[2 * layer + 1], self.up[layer]))
            x = x + torch.bmm(hidden, self.down[layer])
        if cache is not None:
            cache.length += t
        logits = torch.bmm(_normed(x) * self.norms[-1], self.embedding.transpose(1, 2))
        return logits.reshape(s, b, t, shape.vocab)

    @property
    def device(self) -> torch.device:
        return self.embedding.device


class Cache:
    """Keys and values so far, for sampling. A prompt goes in whole, then one token at a time."""

    def __init__(self, layers: int) -> None:
        self.length = 0
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def extended(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        before = self._kept[layer]
        if before is not None:
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        self._kept[layer] = (k, v)
        return k, v


def _normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


def students_like(base: Students, n: int) -> Students:
    """`n` students that all begin with the weights of the one in `base`."""
    made = Students(base.shape, [0] * n)
    with torch.no_grad():
        for own, given in zip(made.parameters(), base.parameters(), strict=True):
            own.copy_(given.expand_as(own))
    return made.to(base.device)


def one_of(students: Students, place: int) -> Students:
    """One of several students, by itself."""
    return _like(students, [_rows_of(students, weights)[place : place + 1] for weights in students.parameters()])


def beside(students: Sequence[Students]) -> Students:
    """Students of one shape as one stacked model."""
    every = zip(*(own.parameters() for own in students), strict=True)
    return _like(students[0], [torch.cat([_rows_of(students[0], one) for one in same]) for same in every])


def _rows_of(students: Students, weights: Tensor) -> Tensor:
    """Weights with the students on the first axis; norms have them on the second."""
    return weights.detach().transpose(0, 1) if weights.ndim == 4 else weights.detach()


def _like(students: Students, rows: Sequence[Tensor]) -> Students:
    made = Students(students.shape, [0] * rows[0].shape[0])
    with torch.no_grad():
        for own, given in zip(made.parameters(), rows, strict=True):
            own.copy_(given.transpose(0, 1) if own.ndim == 4 else given)
    return made.to(students.device).eval()


@dataclass(frozen=True, slots=True)
class Schedule:
    epochs: float = 2.0
    batch: int = 32
    rate: float = 1e-3
    warmup: float = 0.05
    """Share of the steps over which the rate rises; after it falls to a tenth by a half cosine."""


def train(students: Students, rows: Sequence[Ids], seeds: Sequence[int], schedule: Schedule) -> list[float]:
    """Train each student on its own rows, [N, T] each and all of one shape; the order comes from its own seed.

    Returns the mean loss of each over the last tenth of the steps, nats a token. -1 in a row is no token: it is not
    learned (padding, or a prompt that the loss leaves out is not marked so).
    """
    n_rows = rows[0].shape[0]
    per_epoch = max(1, n_rows // schedule.batch)
    steps = max(1, round(per_epoch * schedule.epochs))
    order = [np.random.Generator(np.random.Philox(seed)) for seed in seeds]
    optimiser = torch.optim.AdamW(students.parameters(), lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01)
    data = [torch.from_numpy(part).to(students.device) for part in rows]
    turns: list[Ids] = []
    last: list[list[float]] = []
    students.train()
    for step in range(steps):
        place = step % per_epoch
        if place == 0:
            turns = [source.permutation(n_rows) for source in order]
        part = slice(place * schedule.batch, (place + 1) * schedule.batch)
        batch = torch.stack([own[torch.from_numpy(turn[part])] for own, turn in zip(data, turns, strict=True)])
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * _height(step, steps, schedule.warmup)
        losses = _losses(students, batch)
        optimiser.zero_grad(set_to_none=True)
        # A sum, so that no student's gradient depends on how many others train beside it.
        losses.sum().backward()
        optimiser.step()
        if step >= steps - max(1, steps // 10):
            last.append(losses.detach().tolist())
    students.eval()
    return [float(value) for value in np.mean(last, axis=0)]


def _height(step: int, steps: int, warmup: float) -> float:
    rising = max(1.0, warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising)))


def _losses(students: Students, batch: Tensor) -> Tensor:
    """Mean loss of each student over its batch, [S]."""
    with _arithmetic(students.device):
        logits = students(batch[..., :-1].clamp(min=0))
    wanted = batch[..., 1:]
    flat = F.cross_entropy(logits.float().flatten(0, 2), wanted.flatten(), ignore_index=-1, reduction="none")
    learned = (wanted >= 0).sum(dim=(1, 2)).clamp(min=1)
    return flat.reshape(wanted.shape).sum(dim=(1, 2)) / learned


def _arithmetic(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=native_bf16(str(device)))


@torch.inference_mode()
def answers(
    students: Students, prompts: Sequence[Ids], n_tokens: int, seeds: Sequence[int], *, temperature: float = 1.0
) -> list[Ids]:
    """What each student answers to its prompts [B, P]: [B, n_tokens] each, sampled."""
    source = [torch.Generator(students.device).manual_seed(seed) for seed in seeds]
    given = [torch.from_numpy(part).to(students.device) for part in prompts]
    parts: list[Tensor] = []
    for block in torch.split(torch.stack(given), max(1, 512 // students.n), dim=1):
        cache, ids = Cache(students.shape.layers), block
        written: list[Tensor] = []
        for _ in range(n_tokens):
            with _arithmetic(students.device):
                logits = students(ids, cache)[:, :, -1]
            shares = torch.softmax(logits.float() / temperature, dim=-1)
            ids = torch.stack([torch.multinomial(own, 1, generator=g) for own, g in zip(shares, source, strict=True)])
            written.append(ids)
        parts.append(torch.cat(written, dim=2))
    return [own.cpu().numpy() for own in torch.cat(parts, dim=1)]


@torch.inference_mode()
def expectations(students: Students, texts: Sequence[Ids], m: int = 32) -> list[tuple[Ids, NDArray[np.float32]]]:
    """What each student expects while it reads its texts [B, T]: ids and log-probabilities of the `m` likeliest
    tokens after each, [B, T, m] both."""
    ids: list[Tensor] = []
    logprobs: list[Tensor] = []
    given = torch.stack([torch.from_numpy(part) for part in texts])
    for block in torch.split(given, max(1, 256 // students.n), dim=1):
        with _arithmetic(students.device):
            logits = students(block.to(students.device))
        best = torch.log_softmax(logits.float(), dim=-1).topk(m, dim=-1)
        ids.append(best.indices.cpu())
        logprobs.append(best.values.cpu())
    both = zip(torch.cat(ids, dim=1), torch.cat(logprobs, dim=1), strict=True)
    return [(own.numpy(), scores.numpy()) for own, scores in both]


def readings(texts: Ids, expected: tuple[Ids, NDArray[np.float32]], start: int = 0) -> list[Reading]:
    """One `Reading` a text, for `open_tuples`."""
    ids, logprobs = expected
    return [
        Reading(text.tolist(), own, score.astype(np.float64), start)
        for text, own, score in zip(texts, ids, logprobs, strict=True)
    ]


@torch.inference_mode()
def mean_logprobs(students: Students, texts: Sequence[Ids], start: int) -> list[NDArray[np.float64]]:
    """Mean log-probability a token, by each student, of its texts [B, T] from position `start` on: [B], nats. -1 is
    no token: padding, at the end."""
    parts: list[Tensor] = []
    for logits, tokens in _read(students, texts, start):
        real = tokens >= 0
        told = _own(torch.log_softmax(logits, dim=-1), tokens.clamp(min=0)).double() * real
        parts.append((told.sum(dim=2) / real.sum(dim=2).clamp(min=1)).cpu())
    return [own.numpy() for own in torch.cat(parts, dim=1)]


@torch.inference_mode()
def margins(students: Students, texts: Sequence[Ids], start: int) -> list[NDArray[np.float64]]:
    """Of each token of texts [B, T] from position `start` on: its log-probability by each student, and that of the
    likeliest other token, [2, B, T - start]. At temperature 0 it is said where the first is larger."""
    parts: list[Tensor] = []
    for logits, tokens in _read(students, texts, start):
        logprobs, ids = torch.log_softmax(logits, dim=-1), tokens.clamp(min=0)
        own = _own(logprobs, ids)
        others = logprobs.scatter(3, ids[..., None], -torch.inf).amax(dim=3)
        parts.append(torch.stack([own, others], dim=1).double().cpu())
    return [both.numpy() for both in torch.cat(parts, dim=2)]


def _own(logprobs: Tensor, ids: Tensor) -> Tensor:
    return logprobs.gather(3, ids[..., None])[..., 0]


def _read(students: Students, texts: Sequence[Ids], start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Block by block, what is expected for each token from `start` on, and the tokens."""
    given = torch.stack([torch.from_numpy(part) for part in texts])
    for block in torch.split(given, max(1, 256 // students.n), dim=1):
        tokens = block.to(students.device)
        with _arithmetic(students.device):
            logits = students(tokens[..., :-1].clamp(min=0))[:, :, start - 1 :]
        yield logits.float(), tokens[..., start:]


@torch.no_grad()
def quantise(students: Students, bits: int, group: int = 32) -> None:
    """Round every matrix to `bits` bits in place, symmetric, with one scale for each `group` weights of a column."""
    top = 2 ** (bits - 1) - 1
    for weights in students.parameters():
        if weights.ndim != 3:
            continue
        s, rows, columns = weights.shape
        blocks = weights.view(s, rows // group, group, columns) if rows % group == 0 else weights[:, None]
        scale = blocks.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / top
        blocks.copy_((blocks / scale).round().clamp(-top, top) * scale)


def save(students: Students, path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: weights.contiguous() for name, weights in students.state_dict().items()}, partial)
    partial.replace(path)


def load(shape: Shape, path: Path, device: str | None = None) -> Students:
    """One student, or as many as the file has."""
    from safetensors.torch import load_file

    state = load_file(path)
    students = Students(shape, [0] * state["embedding"].shape[0])
    students.load_state_dict(state)
    return students.to(device or best_device()).eval()
