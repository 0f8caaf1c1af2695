"""Which allocator serves this process, and giving back what it holds.

A speed on a CPU means little without the allocator's name (see dev/LOG.md).
"""

from __future__ import annotations

import ctypes
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


def give_back() -> None:
    """Have glibc return freed memory to the system, holes inside its heap included; nothing under another allocator.

    Between stages, never between steps: a step would fault it all in again.
    """
    if in_use() == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
