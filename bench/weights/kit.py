"""W4: Cisco's model-provenance-kit on the same pairs: every pair of strangers of W1 and every derived pair of W2.

The kit is the published package cisco-ai-provenance-kit 1.0.0, called through its own `compare`; none of it is here. It
wants Python 3.12, so it lives in an environment of its own, whose interpreter is given (`--kit PYTHON`). It reads a
config and a tokenizer beside the weights, which models of W1 lack: each gets a view with a link to its weights, a
config that is true of their shapes, and one tokenizer of the text's words.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from bench.weights import derived, tiny

from stillproof.errors import ConfigError
from stillproof.trace.weights.reading import read_model

HOW = "python3.12 -m venv kit && kit/bin/pip install cisco-ai-provenance-kit==1.0.0, then --kit kit/bin/python"
COMPARE = """
import json, logging, sys, time
from pathlib import Path
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
from provenancekit.core.scanner import ModelProvenanceScanner
from provenancekit.services.cache import CacheService
pairs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
done = len(out.read_text().splitlines()) if out.exists() else 0
scanner = ModelProvenanceScanner(cache=CacheService(Path(sys.argv[3])))
with out.open("a") as file:
    for a, b in pairs[done:]:
        started = time.process_time()
        scores = scanner.compare(a, b).scores
        row = {name: getattr(scores, name) for name in
               ("mfi_tier", "identity_score", "pipeline_score", "provenance_decision")}
        file.write(json.dumps({"a": a, "b": b, **row, "cpu_seconds": time.process_time() - started}) + "\\n")
        file.flush()
"""
A_MATCH = ("Confirmed Match", "High-Confidence Match", "Weak Match")
MATCHED, WEAK = 0.75, 0.65
"""The kit's own thresholds of a High-Confidence and of a Weak Match."""


def w4(folders: list[Path], work: Path, python: Path | None, limit: int | None = None) -> dict[str, Any]:
    """What the kit says of strangers and of derived pairs, as it decides, and by its weight score alone.

    `limit`: pairs of each kind, the first ones; a later run goes on from there. The first strangers share no model.
    """
    if python is None:
        raise ConfigError("no interpreter that has cisco-ai-provenance-kit", "--kit", HOW)
    work = work.resolve()
    parents = [view(folder, work / "views" / folder.name) for folder in folders]
    apart = list(zip(parents[::2], parents[1::2], strict=False))
    strangers = (apart + [pair for pair in itertools.combinations(parents, 2) if pair not in apart])[:limit]
    rows = _compared(strangers, work, "strangers", python)
    highest = max(row["identity_score"] for row in rows)
    table = {"strangers of one configuration": _summed(rows, highest)}
    derived_from = parents[:20][:limit]
    for kind in derived.KINDS:
        name = kind.replace(" ", "-").replace("/", "-")
        children = [
            view(derived.child(work.parent / "derived", kind, i), work / "views" / name / f"{i:02}")
            for i in range(len(derived_from))
        ]
        table[kind] = _summed(_compared(list(zip(derived_from, children, strict=True)), work, name, python), highest)
    related = [row for kind, row in table.items() if kind in derived.KINDS]
    return {
        "kit": "cisco-ai-provenance-kit 1.0.0",
        "derived_pairs": sum(row["pairs"] for row in related),
        "derived_called_a_match": sum(row["called_a_match"] for row in related),
        "derived_above_every_stranger": sum(row["above_every_stranger"] for row in related),
        "kinds": table,
    }


def view(folder: Path, at: Path) -> Path:
    """The model as transformers finds it: linked weights, a config true of their shapes, and a tokenizer."""
    if (at / "tokenizer.json").exists():
        return at
    at.mkdir(parents=True, exist_ok=True)
    shapes = {name: tensor.shape for name, tensor in read_model(folder).tensors.items()}
    vocabulary, hidden = shapes["model.embed_tokens.weight"]
    layers = sum(name.endswith("mlp.up_proj.weight") for name in shapes)
    units = shapes["model.layers.0.mlp.up_proj.weight"][0]
    config = tiny.Shape(vocabulary, hidden, units, layers).config()
    config |= {"max_position_embeddings": 2048, "tie_word_embeddings": "lm_head.weight" not in shapes}
    (at / "config.json").write_text(json.dumps(config))
    (at / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    if not (at / "model.safetensors").exists():
        (at / "model.safetensors").symlink_to((folder / "model.safetensors").resolve())
    words = [*tiny.words(vocabulary - 1), "<unk>"]
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"}
    whole: dict[str, object] = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    whole |= {"version": "1.0", "added_tokens": list[str](), "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (at / "tokenizer.json").write_text(json.dumps(whole))
    return at


def _compared(pairs: list[tuple[Path, Path]], work: Path, name: str, python: Path) -> list[dict[str, Any]]:
    """A row a pair; rows that are there are not made again."""
    asked, out = work / f"{name}.pairs.json", work / f"{name}.jsonl"
    asked.write_text(json.dumps([[str(a), str(b)] for a, b in pairs]))
    if not out.exists() or len(out.read_text().splitlines()) < len(pairs):
        command = [str(python), "-c", COMPARE, str(asked), str(out), str(work / "cache")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in out.read_text().splitlines()]


def _summed(rows: list[dict[str, Any]], highest: float) -> dict[str, Any]:
    """`highest`: the greatest weight score of strangers."""
    scores = sorted(row["identity_score"] for row in rows if row["identity_score"] is not None)
    return {
        "pairs": len(rows),
        "decisions": dict(Counter(row["provenance_decision"] for row in rows)),
        "called_a_match": sum(row["provenance_decision"] in A_MATCH for row in rows),
        "by_configuration_alone": sum(row["mfi_tier"] <= 2 for row in rows),
        "above_every_stranger": sum(score > highest for score in scores),
        "weight_score_above_.75": sum(score > MATCHED for score in scores),
        "weight_score_above_.65": sum(score > WEAK for score in scores),
        "weight_score_min_median_max": [scores[0], scores[len(scores) // 2], scores[-1]] if scores else None,
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in rows), 1),
    }
