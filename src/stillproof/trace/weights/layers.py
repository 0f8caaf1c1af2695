"""Which tensor of which architecture is which: the MLP of each layer, its norm, and the embedding.

Of a layer only what shares its hidden units is read: gate and up (units x hidden) and down (hidden x units). The gain
of the norm before them is folded in, so that a model whose residual stream was rotated or rescaled says the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stillproof.errors import InputError
from stillproof.trace.weights.reading import Reals, Stored, Tensor

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blk|blocks)\.(\d{1,5})\.(.+)$")
_PARTS = {
    "gate": ("mlp.gate_proj.weight", "ffn_gate.weight", "feed_forward.w1.weight", "mlp.w1.weight"),
    "up": (
        "mlp.up_proj.weight",
        "ffn_up.weight",
        "feed_forward.w3.weight",
        "mlp.w2.weight",
        "mlp.dense_h_to_4h.weight",
        "mlp.fc_in.weight",
        "mlp.fc1.weight",
        "fc1.weight",
        "intermediate.dense.weight",
    ),
    "down": (
        "mlp.down_proj.weight",
        "ffn_down.weight",
        "feed_forward.w2.weight",
        "mlp.dense_4h_to_h.weight",
        "mlp.fc_out.weight",
        "mlp.fc2.weight",
        "fc2.weight",
        "output.dense.weight",
    ),
    "gate_up": ("mlp.gate_up_proj.weight",),
    # GPT-2's Conv1D keeps [in, out].
    "up_turned": ("mlp.c_fc.weight",),
    "down_turned": ("mlp.c_proj.weight",),
    # Where both stand, the one before the MLP is meant: Gemma 2 has four norms.
    "gain": (
        "pre_feedforward_layernorm.weight",
        "ffn_norm.weight",
        "post_attention_layernorm.weight",
        "ln_2.weight",
    ),
}
_EMBEDDINGS = ("embed_tokens.weight", "token_embd.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "output.weight", "embed_out.weight")
_EXPERTS = re.compile(r"\.(?:experts|ffn_(?:gate|up|down)_exps)\b")
_SCALES = ("_scale", ".SCB")


@dataclass(frozen=True, slots=True)
class Units:
    """One layer's hidden units as rows, all fp32; a norm's gain is folded into gate and up."""

    up: Reals
    """[units, hidden]."""
    gate: Reals | None
    """[units, hidden]; None where the MLP has no gate."""
    down: Reals
    """[units, hidden]: the transpose of what is stored."""

    def parts(self) -> dict[str, Reals]:
        whole = {"up": self.up, "gate": self.gate, "down": self.down}
        return {name: value for name, value in whole.items() if value is not None}

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(value).all()) for value in self.parts().values())


@dataclass(frozen=True, slots=True)
class Model:
    """A model's MLP layers and embedding, read when asked for."""

    stored: Stored
    by_layer: Mapping[int, Mapping[str, Tensor]]
    embedding_tensor: Tensor | None
    tied: bool
    experts: bool
    """A mixture of experts: its layers are not compared."""

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(sorted(self.by_layer))

    @property
    def gated(self) -> set[bool]:
        """Whether the layers' MLPs have a gate: one answer, where the layers are alike."""
        return {not {"gate", "gate_up"}.isdisjoint(parts) for parts in self.by_layer.values()}

    def shape(self, layer: int) -> tuple[int, int]:
        """(units, hidden)."""
        parts = self.by_layer[layer]
        if "gate_up" in parts:
            rows, hidden = parts["gate_up"].shape
            return rows // 2, hidden
        if "up_turned" in parts:
            hidden, rows = parts["up_turned"].shape
            return rows, hidden
        rows, hidden = parts["up"].shape
        return rows, hidden

    def units(self, layer: int) -> Units:
        """Raises InputError where shapes contradict one another."""
        parts = self.by_layer[layer]
        gate: Reals | None = None
        if "gate_up" in parts:
            gate, up = np.split(self._values(parts["gate_up"]), 2)
        else:
            up = self._values(parts["up"]) if "up" in parts else self._values(parts["up_turned"]).T
            gate = self._values(parts["gate"]) if "gate" in parts else None
        down = self._values(parts["down"]).T if "down" in parts else self._values(parts["down_turned"])
        shapes = {value.shape for value in (up, gate, down) if value is not None}
        if len(shapes) > 1:
            raise InputError(
                f"layer {layer}: units of shapes {sorted(shapes)}", str(self.stored.path), "fetch it again"
            )
        gain = self._gain(layer, up.shape[1])
        return Units(up * gain, None if gate is None else gate * gain, np.ascontiguousarray(down))

    def embedding(self) -> Reals | None:
        """[vocabulary, hidden], or None where there is none of two dimensions."""
        if self.embedding_tensor is None or len(self.embedding_tensor.shape) != 2:
            return None
        return self._values(self.embedding_tensor)

    def _gain(self, layer: int, hidden: int) -> Reals:
        tensor = self.by_layer[layer].get("gain")
        if tensor is None or tensor.shape != (hidden,):
            return np.ones(hidden, np.float32)
        # Gemma keeps a gain as its difference from one; a GGUF has added it.
        offset = 1.0 if _is_gemma(self.stored) else 0.0
        return tensor.load() + np.float32(offset)

    def _values(self, tensor: Tensor) -> Reals:
        values = tensor.load()
        if tensor.dtype not in ("I8", "U8"):
            return values
        if tensor.dtype == "U8":
            remedy = "save it dequantised, in bf16 or f16, or as GGUF"
            raise InputError(f"{tensor.name!r} is packed 4-bit or 8-bit data", str(self.stored.path), remedy)
        stem = tensor.name.removesuffix(".weight")
        for name in (tensor.name + _SCALES[0], stem + _SCALES[1]):
            scale = self.stored.tensors.get(name)
            if scale is not None and scale.shape[:1] in ((values.shape[0],), (1,), ()):
                return values * scale.load().reshape(-1, 1)
        return values  # without a scale up to a factor, which no cosine sees


def model_of(stored: Stored) -> Model:
    """Raises InputError for a tensor of a known name with an impossible shape."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.tensors.items():
        found = _LAYER.search(name)
        part = None if found is None else _part(found[2])
        if found is None or part is None:
            continue
        wanted = 1 if part == "gain" else 2
        if len(tensor.shape) != wanted or 0 in tensor.shape:
            raise InputError(
                f"{name!r} has shape {tensor.shape}", str(stored.path), f"{wanted} dimensions are expected"
            )
        kept = layers.setdefault(int(found[1]), {})
        if part != "gain" or "gain" not in kept or _order(tensor) < _order(kept["gain"]):
            kept[part] = tensor
    complete = {n: parts for n, parts in layers.items() if _is_complete(parts)}
    embedding = _named(stored, _EMBEDDINGS)
    return Model(stored, complete, embedding, _named(stored, _HEADS) is None, any(map(_EXPERTS.search, stored.tensors)))


def _part(rest: str) -> str | None:
    return next((part for part, names in _PARTS.items() if rest in names), None)


def _order(tensor: Tensor) -> int:
    return next(i for i, name in enumerate(_PARTS["gain"]) if tensor.name.endswith(name))


def _is_complete(parts: Mapping[str, Tensor]) -> bool:
    return bool({"up", "gate_up", "up_turned"} & parts.keys()) and bool({"down", "down_turned"} & parts.keys())


def _named(stored: Stored, endings: tuple[str, ...]) -> Tensor | None:
    for ending in endings:
        for name, tensor in stored.tensors.items():
            if (name == ending or name.endswith("." + ending)) and not _LAYER.search(name):
                return tensor
    return None


def _is_gemma(stored: Stored) -> bool:
    kind = str(stored.config.get("model_type") or "")
    return kind.startswith("gemma") and stored.path.suffix.lower() != ".gguf"
