"""Tiny Llama-shaped models, many trained at once on the processor, and written as any transformers reads them.

One tensor holds one weight of all models, shape [models, out, in], so that a step of 46 models is a few batched
products. Nothing is shared between them but the text. The names are those of `LlamaForCausalLM`, tied embeddings.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, scaled_dot_product_attention, silu

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 512
    hidden: int = 48
    units: int = 128
    layers: int = 4
    heads: int = 4

    def names(self) -> dict[str, tuple[int, ...]]:
        d, h = self.hidden, self.units
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, d)}
        for i in range(self.layers):
            at = f"model.layers.{i}."
            shapes |= {f"{at}self_attn.{p}_proj.weight": (d, d) for p in "qkvo"}
            shapes |= {f"{at}mlp.{p}_proj.weight": (h, d) for p in ("gate", "up")}
            shapes |= {f"{at}mlp.down_proj.weight": (d, h)}
            shapes |= {f"{at}{p}_layernorm.weight": (d,) for p in ("input", "post_attention")}
        return shapes | {"model.norm.weight": (d,)}

    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.units,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "tie_word_embeddings": True,
        }


def text(vocabulary: int, topic_order: int = 0) -> Tensor:
    """English that every Python carries (the reference manual, as `help()` shows it), as ids of its commonest words.

    `topic_order` 1 takes the second half of the topics first: other data for a fine-tuning.
    """
    from pydoc_data.topics import topics

    names = sorted(topics)
    half = len(names) // 2
    names = names[half:] if topic_order else names[:half]
    known = {word: i for i, word in enumerate(words(vocabulary - 1))}
    read = re.findall(r"\w+|[^\w\s]", " ".join(topics[name] for name in names).lower())
    return torch.tensor([known.get(word, vocabulary - 1) for word in read])


def words(n: int) -> list[str]:
    """The commonest words of that text, the commonest first: word i is token i."""
    from pydoc_data.topics import topics

    every = re.findall(r"\w+|[^\w\s]", " ".join(topics[name] for name in sorted(topics)).lower())
    return [word for word, _ in Counter(every).most_common(n)]


def fresh(shape: Shape, seeds: list[int]) -> Weights:
    """Weights of standard deviation .02 and gains of 1, each model from its own seed."""
    drawn: dict[str, list[Tensor]] = {name: [] for name in shape.names()}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for name, size in shape.names().items():
            value = torch.ones(size) if len(size) == 1 else torch.randn(size, generator=generator) * 0.02
            drawn[name].append(value)
    return {name: torch.stack(values) for name, values in drawn.items()}


def logits(weights: Mapping[str, Tensor], ids: Tensor, shape: Shape) -> Tensor:
    """[models, batch * length, vocabulary] for ids [batch, length], the same for every model."""
    embedding = weights["model.embed_tokens.weight"]
    n, (batch, length) = embedding.shape[0], ids.shape
    x = embedding[:, ids.reshape(-1)]
    for i in range(shape.layers):
        at = f"model.layers.{i}."
        y = _normed(x, weights[f"{at}input_layernorm.weight"])
        q, k, v = (_split(_by(y, weights[f"{at}self_attn.{p}_proj.weight"]), batch, length, shape.heads) for p in "qkv")
        mixed = scaled_dot_product_attention(_turned(q), _turned(k), v, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(n, batch * length, shape.hidden)
        x = x + _by(mixed, weights[f"{at}self_attn.o_proj.weight"])
        y = _normed(x, weights[f"{at}post_attention_layernorm.weight"])
        opened = silu(_by(y, weights[f"{at}mlp.gate_proj.weight"])) * _by(y, weights[f"{at}mlp.up_proj.weight"])
        x = x + _by(opened, weights[f"{at}mlp.down_proj.weight"])
    return _by(_normed(x, weights["model.norm.weight"]), embedding)


def _by(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.transpose(1, 2)


def _normed(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gain[:, None]


def _split(x: Tensor, batch: int, length: int, heads: int) -> Tensor:
    return x.reshape(x.shape[0] * batch, length, heads, -1).transpose(1, 2)


def _turned(x: Tensor) -> Tensor:
    """Rotary positions, base 10,000, halves as Llama has them."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] / 10_000 ** (torch.arange(half) / half)
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


@dataclass(frozen=True)
class Course:
    steps: int = 300
    rate: float = 3e-3
    batch: int = 8
    length: int = 64
    seed: int = 0
    """Of the order of the text: the same for all models of a call."""


def train(weights: Weights, shape: Shape, data: Tensor, course: Course, teacher: Weights | None = None) -> float:
    """Train every model on the same batches, in place; the last 20 steps' loss in nats a token.

    `teacher`: one model for each student, of as many layers as it has; the loss is then the forward KL.
    """
    learned = {name: value.requires_grad_() for name, value in weights.items()}
    optimiser = torch.optim.AdamW(learned.values(), lr=course.rate, betas=(0.9, 0.95), weight_decay=0.01)
    generator = torch.Generator().manual_seed(course.seed)
    losses: list[float] = []
    n = next(iter(weights.values())).shape[0]
    for step in range(course.steps):
        warm = min(1.0, (step + 1) / 20) * max(0.1, 1 - step / course.steps)
        for group in optimiser.param_groups:
            group["lr"] = course.rate * warm
        starts = torch.randint(0, len(data) - course.length - 1, (course.batch,), generator=generator)
        rows = torch.stack([data[s : s + course.length + 1] for s in starts.tolist()])
        made = logits(learned, rows[:, :-1], shape)
        if teacher is None:
            target = rows[:, 1:].reshape(1, -1).expand(n, -1)
            loss = cross_entropy(made.reshape(-1, made.shape[-1]), target.reshape(-1), reduction="sum")
        else:
            with torch.no_grad():
                wanted = log_softmax(logits(teacher, rows[:, :-1], depth(teacher, shape)), -1)
            loss = kl_div(log_softmax(made, -1), wanted, log_target=True, reduction="sum")
        # A sum over models, so that each has the gradient that it would have alone.
        (loss / (course.batch * course.length)).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()) / (n * course.batch * course.length))
    for name, value in learned.items():
        weights[name] = value.detach()
    return float(np.mean(losses[-20:]))


def depth(weights: Mapping[str, Tensor], shape: Shape) -> Shape:
    """The shape with as many layers as these weights have."""
    n = sum(name.endswith("mlp.up_proj.weight") for name in weights)
    return Shape(shape.vocabulary, shape.hidden, shape.units, n, shape.heads)


def kept_layers(weights: Mapping[str, Tensor], keep: list[int]) -> Weights:
    """The same models with only these layers, renumbered."""
    out: Weights = {}
    for name, value in weights.items():
        part = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if part is None:
            out[name] = value.clone()
        elif int(part[1]) in keep:
            out[f"model.layers.{keep.index(int(part[1]))}.{part[2]}"] = value.clone()
    return out


def one(weights: Mapping[str, Tensor], number: int) -> dict[str, np.ndarray]:
    return {name: value[number].detach().numpy().copy() for name, value in weights.items()}


def save(folder: Path, weights: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Path:
    """A folder of model.safetensors and config.json that appears whole or not at all."""
    from safetensors.numpy import save_file

    beside = folder.with_name(f".{folder.name}.part")
    beside.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, beside / "model.safetensors")
    (beside / "config.json").write_text(json.dumps(config))
    beside.rename(folder)
    return folder
