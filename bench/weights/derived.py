"""W2: ten ways in which weights are passed on, and how many of the pairs are found. Parents are models of W1."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.weights import tiny
from numpy.typing import NDArray

from stillproof.trace.weights import compare
from stillproof.trace.weights.reading import read_model

Arrays = dict[str, NDArray[np.float32]]
SHAPE = tiny.Shape()
TUNED = tiny.Course(steps=60, rate=1e-3, batch=4, seed=7)
TUNED_TOO = tiny.Course(steps=60, rate=1e-3, batch=4, seed=8)
DISTILLED = tiny.Course(steps=80, rate=2e-3, batch=4, seed=9)
KINDS = (
    "full fine-tune",
    "LoRA merged",
    "30-50% prune",
    "depth drop",
    "int8/int4",
    "merge",
    "unit permutation",
    "rotation + rescale",
    "vocabulary change",
    "layer-dropped, distilled",
)


def w2(parents: list[Path], work: Path) -> dict[str, Any]:
    """A table: of each kind, how many were found, by which test, at which p, in which direction, layers put right."""
    work.mkdir(parents=True, exist_ok=True)
    make(parents, work)
    table: dict[str, Any] = {}
    for kind in KINDS:
        file = work / f"{kind.replace(' ', '-').replace('/', '-')}.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        for i in range(len(rows), len(parents)):
            rows.append(_judged(parents[i], child(work, kind, i), kept(kind, i)))
            file.write_text(json.dumps(rows))
        table[kind] = _summed(rows[: len(parents)])
    every = list(table.values())
    return {"kinds": table, "pairs": sum(r["pairs"] for r in every), "found": sum(r["strong"] for r in every)}


def child(work: Path, kind: str, i: int) -> Path:
    return work / kind.replace(" ", "-").replace("/", "-") / f"{i:02}"


def kept(kind: str, i: int) -> list[int]:
    """Layers of the parent, in the order in which the child has them."""
    if kind == "depth drop":
        return [[0, 1, 3], [0, 2, 3], [1, 2, 3], [0, 3]][i % 4]
    return [0, 3] if kind == "layer-dropped, distilled" else [0, 1, 2, 3]


def _judged(parent: Path, child_folder: Path, layers: list[int]) -> dict[str, Any]:
    started = time.perf_counter()
    found = compare(parent, child_folder)
    said = found.to_json()
    by = {row["layer_b"]: row["layer_a"] for row in said["layers"] if row["by"]}
    floor = -np.log10(1036) + 1e-3
    strong = said["decision"] == "found" and (
        said["log10_p"] < -10 if said["kind"] == "design_based" else said["log10_p"] <= floor
    )
    return {
        "found": said["decision"] == "found",
        "strong": bool(strong),
        "test": said["test"],
        "log10_p": said["log10_p"],
        "direction": said["direction"],
        "layers_right": sum(by.get(j) == i for j, i in enumerate(layers)),
        "layers": len(layers),
        "statistics": {f.test: [f.statistic, f.log10_p] for f in found.findings},
        "seconds": time.perf_counter() - started,
    }


def _summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    tests = [row["test"] for row in rows]
    return {
        "pairs": len(rows),
        "found": sum(row["found"] for row in rows),
        "strong": sum(row["strong"] for row in rows),
        "by": {test: tests.count(test) for test in sorted(set(tests))},
        "weakest_log10_p": max(row["log10_p"] for row in rows),
        "layers_right": f"{sum(row['layers_right'] for row in rows)}/{sum(row['layers'] for row in rows)}",
        "direction": {said: sum(row["direction"] == said for row in rows) for said in ("a_to_b", "b_to_a", "unknown")},
        "slowest_s": round(max(row["seconds"] for row in rows), 2),
    }


# --- making them ----------------------------------------------------------------------------------------------


def make(parents: list[Path], work: Path) -> None:
    """Every child that is not there yet. Those that learn are trained together."""
    arrays = [_load(parent) for parent in parents]
    stacked = {name: torch.from_numpy(np.stack([a[name] for a in arrays])) for name in arrays[0]}
    _trained(work, "full fine-tune", arrays, lambda: _tuned(stacked, TUNED))
    _trained(work, "layer-dropped, distilled", arrays, lambda: _distilled(stacked))
    tuned = [_load(child(work, "full fine-tune", i)) for i in range(len(parents))]
    _trained(work, "tuned too", arrays, lambda: _tuned(stacked, TUNED_TOO))
    other = [_load(child(work, "tuned too", i)) for i in range(len(parents))]
    changes: dict[str, Callable[[int, Arrays, np.random.Generator], Arrays]] = {
        "LoRA merged": lambda i, a, rng: _lora(a, tuned[i], rng),
        "30-50% prune": _pruned,
        "depth drop": lambda i, a, rng: _numpy(tiny.kept_layers(_torch(a), kept("depth drop", i))),
        "int8/int4": _rounded,
        "merge": lambda i, a, rng: _merged(i, a, tuned[i], other[i]),
        "unit permutation": lambda i, a, rng: _relabelled(tuned[i], rng),
        "rotation + rescale": lambda i, a, rng: _rotated(tuned[i], rng),
        "vocabulary change": lambda i, a, rng: _revocabulary(i, tuned[i], rng),
    }
    for kind, change in changes.items():
        for i, a in enumerate(arrays):
            folder = child(work, kind, i)
            if not folder.exists():
                folder.parent.mkdir(exist_ok=True)
                made = change(i, a, np.random.Generator(np.random.Philox([i, len(kind)])))
                tiny.save(folder, made, SHAPE.config())


def _trained(work: Path, kind: str, arrays: list[Arrays], learn: Callable[[], tiny.Weights]) -> None:
    if all(child(work, kind, i).exists() for i in range(len(arrays))):
        return
    learned = learn()
    child(work, kind, 0).parent.mkdir(exist_ok=True)
    for i in range(len(arrays)):
        if not child(work, kind, i).exists():
            tiny.save(child(work, kind, i), tiny.one(learned, i), SHAPE.config())


def _tuned(parents: tiny.Weights, course: tiny.Course) -> tiny.Weights:
    weights = {name: value.clone() for name, value in parents.items()}
    tiny.train(weights, SHAPE, tiny.text(SHAPE.vocabulary, 1), course)
    return weights


def _distilled(parents: tiny.Weights) -> tiny.Weights:
    weights = tiny.kept_layers(parents, kept("layer-dropped, distilled", 0))
    tiny.train(weights, tiny.depth(weights, SHAPE), tiny.text(SHAPE.vocabulary, 1), DISTILLED, teacher=parents)
    return weights


def _lora(a: Arrays, tuned: Arrays, rng: np.random.Generator) -> Arrays:
    """The change of a fine-tuning cut to rank 4 in every matrix of the layers, twice as strong."""
    out = dict(a)
    for name, value in a.items():
        if name.startswith("model.layers") and value.ndim == 2:
            u, s, vt = np.linalg.svd(tuned[name] - value, full_matrices=False)
            out[name] = value + 2 * (u[:, :4] * s[:4]) @ vt[:4]
    return out


def _pruned(i: int, a: Arrays, rng: np.random.Generator) -> Arrays:
    """Even: the smallest 30-50% of each matrix to zero. Odd: 30-50% of the units of each layer removed, by size."""
    share = 0.3 + 0.2 * rng.random()
    out = dict(a)
    if i % 2 == 0:
        for name, value in a.items():
            if value.ndim == 2 and "layers" in name:
                out[name] = np.where(np.abs(value) < np.quantile(np.abs(value), share), 0, value)
        return out
    for n in range(SHAPE.layers):
        at = f"model.layers.{n}.mlp."
        size = np.linalg.norm(a[f"{at}down_proj.weight"], axis=0) * np.linalg.norm(a[f"{at}up_proj.weight"], axis=1)
        stay = np.sort(np.argsort(size)[round(share * SHAPE.units) :])
        out |= {f"{at}{p}_proj.weight": a[f"{at}{p}_proj.weight"][stay] for p in ("gate", "up")}
        out[f"{at}down_proj.weight"] = a[f"{at}down_proj.weight"][:, stay]
    return out


def _rounded(i: int, a: Arrays, rng: np.random.Generator) -> Arrays:
    """Even: 8 bits a weight, odd: 4, each row by its largest."""
    top = 127 if i % 2 == 0 else 7
    out = dict(a)
    for name, value in a.items():
        if value.ndim == 2:
            scale = np.abs(value).max(axis=1, keepdims=True) / top
            out[name] = np.round(value / scale) * scale
    return out


def _merged(i: int, base: Arrays, x: Arrays, y: Arrays) -> Arrays:
    """Linear, spherical or TIES merge of two fine-tunings of the parent."""
    if i % 3 == 0:
        return {name: _mean(x[name], y[name]) for name in base}
    if i % 3 == 1:
        return {name: _slerp(x[name], y[name]) for name in base}
    return {name: base[name] + _ties(x[name] - base[name], y[name] - base[name]) for name in base}


def _slerp(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    cos = float(np.vdot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)))
    angle = np.arccos(min(1.0, cos))
    return _mean(x, y) if angle < 1e-4 else (np.sin(angle / 2) / np.sin(angle) * (x + y)).astype(np.float32)


def _mean(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    return ((x + y) / 2).astype(np.float32)


def _ties(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep the largest fifth of each change, elect a sign, take the mean of those that carry it (Yadav et al. 2023)."""
    cut = [np.where(np.abs(z) >= np.quantile(np.abs(z), 0.8), z, 0) for z in (x, y)]
    sign = np.sign(cut[0] + cut[1])
    agreeing = [np.where(np.sign(z) == sign, z, 0) for z in cut]
    count = np.maximum(1, (agreeing[0] != 0).astype(int) + (agreeing[1] != 0))
    return ((agreeing[0] + agreeing[1]) / count).astype(np.float32)


def _relabelled(a: Arrays, rng: np.random.Generator) -> Arrays:
    out = dict(a)
    for n in range(SHAPE.layers):
        at, order = f"model.layers.{n}.mlp.", rng.permutation(SHAPE.units)
        out |= {f"{at}{p}_proj.weight": a[f"{at}{p}_proj.weight"][order] for p in ("gate", "up")}
        out[f"{at}down_proj.weight"] = a[f"{at}down_proj.weight"][:, order]
    return out


def _rotated(a: Arrays, rng: np.random.Generator) -> Arrays:
    """Gains folded away, the residual stream rotated and tripled, units relabelled and rescaled: the same function."""
    q, _ = np.linalg.qr(rng.standard_normal((SHAPE.hidden, SHAPE.hidden)))
    out: dict[str, NDArray[Any]] = dict(_relabelled(a, rng))
    out["model.embed_tokens.weight"] = 3 * a["model.embed_tokens.weight"] @ q
    # The head is not tied any more: it takes the last gain.
    out["lm_head.weight"] = (a["model.embed_tokens.weight"] * a["model.norm.weight"]) @ q
    out["model.norm.weight"] = np.ones(SHAPE.hidden, np.float32)
    for n in range(SHAPE.layers):
        at = f"model.layers.{n}."
        for p in "qkv":
            name = f"{at}self_attn.{p}_proj.weight"
            out[name] = (a[name] * a[f"{at}input_layernorm.weight"]) @ q
        out[f"{at}self_attn.o_proj.weight"] = 3 * q.T @ a[f"{at}self_attn.o_proj.weight"]
        size = rng.uniform(0.5, 2, SHAPE.units)
        gain = a[f"{at}post_attention_layernorm.weight"]
        out[f"{at}mlp.gate_proj.weight"] = (out[f"{at}mlp.gate_proj.weight"] * gain) @ q
        out[f"{at}mlp.up_proj.weight"] = size[:, None] * (out[f"{at}mlp.up_proj.weight"] * gain) @ q
        out[f"{at}mlp.down_proj.weight"] = 3 * q.T @ out[f"{at}mlp.down_proj.weight"] / size
        for norm in ("input", "post_attention"):
            out[f"{at}{norm}_layernorm.weight"] = np.ones(SHAPE.hidden, np.float32)
    return {name: value.astype(np.float32) for name, value in out.items()}


def _revocabulary(i: int, a: Arrays, rng: np.random.Generator) -> Arrays:
    """Even: 64 tokens more. Odd: the last 100 rows drawn anew."""
    e, out = a["model.embed_tokens.weight"], dict(a)
    new = (rng.standard_normal((64 if i % 2 == 0 else 100, SHAPE.hidden)) * e.std()).astype(np.float32)
    out["model.embed_tokens.weight"] = np.concatenate([e if i % 2 == 0 else e[:-100], new])
    return out


def _load(folder: Path) -> Arrays:
    return {name: tensor.load() for name, tensor in read_model(folder).tensors.items()}


def _torch(a: Mapping[str, NDArray[np.float32]]) -> tiny.Weights:
    return {name: torch.from_numpy(value)[None] for name, value in a.items()}


def _numpy(weights: tiny.Weights) -> Arrays:
    return tiny.one(weights, 0)
