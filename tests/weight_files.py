"""Small random models as safetensors and GGUF files, and what may be done to their weights. numpy alone."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
VOCABULARY, HIDDEN, UNITS, LAYERS = 256, 32, 64, 3
PARTS = ("gate", "up", "down")


def weights(seed: int, layers: int = LAYERS, units: int = UNITS, hidden: int = HIDDEN) -> Arrays:
    rng = np.random.Generator(np.random.Philox(seed))
    out: Arrays = {"model.embed_tokens.weight": rng.standard_normal((VOCABULARY, hidden))}
    for n in range(layers):
        out[f"model.layers.{n}.post_attention_layernorm.weight"] = rng.uniform(0.5, 2, hidden)
        for part in PARTS:
            shape = (hidden, units) if part == "down" else (units, hidden)
            out[f"model.layers.{n}.mlp.{part}_proj.weight"] = rng.standard_normal(shape)
    return {name: value.astype(np.float32) for name, value in out.items()}


def tuned(a: Mapping[str, np.ndarray], seed: int = 9, size: float = 0.3) -> Arrays:
    """Every weight moved by noise, as much training would."""
    rng = np.random.Generator(np.random.Philox(seed))
    return {name: (v + size * v.std() * rng.standard_normal(v.shape)).astype(np.float32) for name, v in a.items()}


def kept(a: Mapping[str, np.ndarray], layers: list[int]) -> Arrays:
    out = {name: value for name, value in a.items() if "layers" not in name}
    for new, old in enumerate(layers):
        head = f"model.layers.{old}."
        out |= {f"model.layers.{new}.{n.removeprefix(head)}": v for n, v in a.items() if n.startswith(head)}
    return out


def reordered(a: Mapping[str, np.ndarray], orders: list[np.ndarray]) -> Arrays:
    """Units of each layer taken in these orders, which may leave some out."""
    out = dict(a)
    for n, order in enumerate(orders):
        at = f"model.layers.{n}.mlp."
        out |= {f"{at}{p}_proj.weight": a[f"{at}{p}_proj.weight"][order] for p in ("gate", "up")}
        out[f"{at}down_proj.weight"] = a[f"{at}down_proj.weight"][:, order]
    return out


def relabelled(a: Mapping[str, np.ndarray], seed: int) -> Arrays:
    rng = np.random.Generator(np.random.Philox(seed))
    return reordered(a, [rng.permutation(UNITS) for _ in range(LAYERS)])


def rotated(a: Mapping[str, np.ndarray], seed: int) -> Arrays:
    """The same function in another basis of the residual stream: gains folded, twice as long, rotated."""
    rng = np.random.Generator(np.random.Philox(seed))
    q, _ = np.linalg.qr(rng.standard_normal((HIDDEN, HIDDEN)))
    out: Arrays = {"model.embed_tokens.weight": 2 * a["model.embed_tokens.weight"] @ q}
    for n in range(LAYERS):
        at = f"model.layers.{n}."
        gain = a[f"{at}post_attention_layernorm.weight"]
        out |= {f"{at}mlp.{p}_proj.weight": (a[f"{at}mlp.{p}_proj.weight"] * gain) @ q for p in ("gate", "up")}
        out[f"{at}mlp.down_proj.weight"] = 2 * q.T @ a[f"{at}mlp.down_proj.weight"]
        out[f"{at}post_attention_layernorm.weight"] = np.ones(HIDDEN)
    return {name: value.astype(np.float32) for name, value in out.items()}


def write(folder: Path, arrays: Mapping[str, np.ndarray], file: str = "model.safetensors") -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, folder / file)
    return folder


def write_bf16(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """The upper halves of fp32, which numpy has no type for."""
    folder.mkdir(parents=True)
    header: dict[str, object] = {}
    data = b""
    for name, value in arrays.items():
        raw = (value.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    return folder


def write_shards(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    names = list(arrays)
    halves = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, held in halves.items():
        write(folder, {name: arrays[name] for name in held}, file)
    index = {"weight_map": {name: file for file, held in halves.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_gguf(path: Path, arrays: Mapping[str, np.ndarray], kind: str) -> Path:
    import gguf

    names = {
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
    }
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in arrays.items():
        words = name.split(".")
        theirs = f"blk.{words[2]}.{names[words[-2]]}.weight" if "layers" in name else "token_embd.weight"
        how = gguf.GGMLQuantizationType[kind if value.ndim == 2 else "F32"]
        writer.add_tensor(theirs, gguf.quantize(value, how), raw_dtype=how)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
