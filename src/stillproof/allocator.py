"""Keep freed tensors in the process: a training step on a CPU frees and asks for the same large buffers each time.

glibc hands every buffer above a threshold back to the kernel at once and faults it in again, page by page, at the
next step. `keep_freed_memory` tells glibc to stop doing that. It changes no result, only where freed bytes wait.
`in_use` names the allocator, because a speed without it means little.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

# Parameter numbers of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


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


def keep_freed_memory() -> str:
    """Have glibc keep freed buffers for reuse; say which allocator and setting is then in force.

    Does nothing under another allocator or operating system.
    """
    name = in_use()
    if name != "glibc":
        return name
    mallopt = ctypes.CDLL(None).mallopt
    never_trim = mallopt(_M_TRIM_THRESHOLD, -1)
    never_mmap = mallopt(_M_MMAP_MAX, 0)
    # One arena: large requests of worker threads are then served from the same kept memory.
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_TOP_PAD, 64 << 20)
    return "glibc, freed memory kept" if never_trim and never_mmap else "glibc"
