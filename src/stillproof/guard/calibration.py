"""A reference from logs: every cluster found there, frozen and measured just as a scan would."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import stillproof
from stillproof.guard.reference import Origin, Reference
from stillproof.progress import OnEvent, ignore

if TYPE_CHECKING:
    from numpy.typing import NDArray


def reference_of(folders: Sequence[Path], source: str, on_event: OnEvent = ignore) -> Reference:
    """The clusters of every folder's log, one window each.

    A history that holds campaigns makes later scans careful, not wrong: their clusters only raise the bar. Scan it
    first, look at what is found, and set that aside with `Reference.without`.
    """
    from stillproof.guard.judging import columns
    from stillproof.guard.scanning import ScanSettings, measure_log

    parts = [
        columns(measure_log(folder, ScanSettings(), on_event)[0], f"{place}:{folder.name}")
        for place, folder in enumerate(folders)
    ]
    together: dict[str, NDArray[Any]] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Reference.of(together, Origin(source, made, stillproof.__version__, 0))
