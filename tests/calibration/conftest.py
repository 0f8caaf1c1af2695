"""How many nulls each calibration test simulates: 2,000, or STILLPROOF_CALIBRATION_N (`make calibrate` sets it)."""

import os
from collections.abc import Callable

import numpy as np
import pytest

LEVELS = (0.01, 0.05, 0.2)


@pytest.fixture(scope="session")
def n_simulations() -> int:
    n = int(os.environ.get("STILLPROOF_CALIBRATION_N", "2000"))
    assert n >= 2000, "fewer than 2,000 nulls calibrate nothing"
    return n


@pytest.fixture(scope="session")
def assert_valid_p_values() -> Callable[[np.ndarray], None]:
    """The contract of every p-value: under its null the share at or below `a` stays within a + 3 standard errors."""

    def check(p: np.ndarray) -> None:
        assert ((p > 0) & (p <= 1)).all()
        for a in LEVELS:
            share, allowed = float((p <= a).mean()), a + 3 * np.sqrt(a * (1 - a) / p.size)
            assert share <= allowed, f"p <= {a} in {share:.4f} of {p.size} nulls; at most {allowed:.4f} allowed"

    return check
