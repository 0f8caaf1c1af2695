"""The fingerprint index: every model of W1 sketched, strangers and derived models matched against all of them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench.weights import derived

from stillproof.stats import proportion_interval
from stillproof.teacher.weights import smollm2_path
from stillproof.trace.weights import index

KINDS = ("full fine-tune", "LoRA merged", "int8/int4", "merge", "depth drop", "layer-dropped, distilled")
"""Those that leave units where they were."""


def known(folders: list[Path], work: Path, gguf: Path | None) -> dict[str, Any]:
    """Matches of strangers at .01 and 1e-6 a pair, models found at 1e-6 over the index, and the size of a sketch.

    Intervals (95%, exact) take pairs for independent. They share models, so the truth is wider.
    """
    sketches = [index.sketch_model(folder, folder.name) for folder in folders]
    strangers: list[float] = []
    for i, folder in enumerate(folders):
        others = sketches[i + 1 :]
        strangers += [m.finding.log10_p or 0.0 for m in index.match(folder, others)] if others else []
    found = {kind: [_found(work, kind, i, sketches) for i in range(20)] for kind in KINDS}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        sketch = index.sketch_model(gguf or smollm2_path(), "SmolLM2-135M-Instruct")
        bytes_135m = index.add(Path(folder), sketch).stat().st_size
    return {
        "stranger_pairs": len(strangers),
        "stranger_pairs_at_.01": int((np.array(strangers) <= -2).sum()),
        "stranger_pairs_at_1e-6": int((np.array(strangers) <= -6).sum()),
        "strangest_log10_p": min(strangers),
        "false_match_share_95%": {
            "strangers at .01": _interval(int((np.array(strangers) <= -2).sum()), len(strangers)),
            "strangers at 1e-6": _interval(int((np.array(strangers) <= -6).sum()), len(strangers)),
            "derived against others, 1e-6 over the index": _interval(
                sum(wrong for rows in found.values() for _, wrong in rows), len(KINDS) * 20 * (len(folders) - 1)
            ),
        },
        "found_of_20": {kind: sum(right for right, _ in rows) for kind, rows in found.items()},
        "false_matches": sum(wrong for rows in found.values() for _, wrong in rows),
        "bytes_of_135m_sketch": bytes_135m,
        "seconds_of_135m_sketch": round(time.perf_counter() - started, 1),
    }


def _interval(found: int, pairs: int) -> dict[str, float | int]:
    interval = proportion_interval(found, pairs)
    return {"found": found, "pairs": pairs, "low": interval.low, "high": interval.high}


def _found(work: Path, kind: str, i: int, sketches: list[index.Sketch]) -> tuple[bool, int]:
    """(its own parent is the surest match, and found; how many others were found)."""
    matches = index.match(derived.child(work / "derived", kind, i), sketches)
    named = [m.name for m in matches if m.finding.decision == "found"]
    own = f"seed-{i:03}"
    return matches[0].name == own and own in named, len(named) - (own in named)
