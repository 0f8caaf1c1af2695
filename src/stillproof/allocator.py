"""Which allocator serves this process: a speed on a CPU means little without it (see dev/LOG.md)."""

from __future__ import annotations

import platform
from pathlib import Path


def in_use() -> str:
    """'tcmalloc', 'jemalloc', 'mimalloc', 'glibc', or 'unknown': what serves malloc in this process."""
    try:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    for name in ("tcmalloc", "jemalloc", "mimalloc"):
        if f"lib{name}" in loaded:
            return name
    return "glibc" if platform.libc_ver()[0] == "glibc" else "unknown"
