"""Sums of scores under thousands of keys. `score_lanes` of the package does the same, a sixth as fast.

Calibration tries 5,000 keys on each of hundreds of students: there the hash is most of the cost, and a C compiler turns
it into the processor's wide multiplications. Without a compiler the package's own function is taken.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillproof.watermark import Scheme, score_lanes

SOURCE = Path(__file__).with_suffix(".c")
_FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", "-nostartfiles")
"""-ffast-math: sums in another order, and logarithms that may differ in the last digit. -nostartfiles: without it, some
compilers link start code that changes the arithmetic of the whole process."""


@lru_cache(maxsize=1)
def compiled() -> Any | None:
    """The function, or None where nothing compiles it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "many_keys.so"
        for libraries in (("-lmvec", "-lm"), ("-lm",)):
            command = [compiler, *_FLAGS, str(SOURCE), "-o", str(library), *libraries]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                function = ctypes.CDLL(str(library)).sums_of_scores
                function.restype = None
                return function
    return None


def sums_under(
    lanes: NDArray[np.uint64],
    windows: NDArray[np.uint64],
    tokens: NDArray[np.int64],
    scheme: Scheme,
    *,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """As `score_lanes`: lanes [m, 4], windows, tokens and weights [n] -> [m]."""
    function = compiled()
    if function is None:
        return score_lanes(lanes, windows, tokens, scheme, weights=weights)
    n, m = windows.size, lanes.shape[0]
    sums = np.empty(m)
    parts = (
        np.ascontiguousarray(lanes, dtype=np.uint32),
        (windows & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        (windows >> np.uint64(32)).astype(np.uint32),
        tokens.astype(np.uint32),
        np.ones(n) if weights is None else np.ascontiguousarray(weights, dtype=np.float64),
    )
    keys, lower, upper, ids, weighed = (part.ctypes.data_as(ctypes.c_void_p) for part in parts)
    below = scheme.green_below if scheme.kind == "green" else 0
    many, long = ctypes.c_uint64(below), ctypes.c_int64
    function(keys, long(m), lower, upper, ids, weighed, long(n), many, sums.ctypes.data_as(ctypes.c_void_p))
    return sums
