"""What both sides report about themselves. Standard library only: this file runs in both virtual environments."""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Clock:
    """Wall and CPU seconds of this process between marks; CPU seconds count all threads."""

    def __init__(self) -> None:
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin the next interval here, and count nothing of what came before."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def mark(self) -> None:
        """End an interval, begin the next."""
        self.wall_s.append(time.perf_counter() - self._wall)
        self.cpu_s.append(time.process_time() - self._cpu)
        self.start()


def peak_rss_mb() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes), shared file pages included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if platform.system() == "Darwin" else 1024) / 1e6


def allocator() -> str:
    """What serves malloc here: 'tcmalloc', 'jemalloc', 'glibc' or 'unknown'."""
    maps = Path("/proc/self/maps")
    loaded = maps.read_text(errors="replace") if maps.exists() else ""
    for name in ("tcmalloc", "jemalloc", "mimalloc"):
        if f"lib{name}" in loaded:
            return name
    return "glibc" if platform.libc_ver()[0] == "glibc" else "unknown"


def write(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return row
