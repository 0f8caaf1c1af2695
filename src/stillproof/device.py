"""Which device and which arithmetic this machine is good at. Nothing here loads torch before it is asked."""

from __future__ import annotations

from functools import lru_cache

CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16", "arm_bf16", "sve_bf16")


def best_device() -> str:
    """'cuda' where a GPU answers, else 'mps' on Apple silicon, else 'cpu'."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@lru_cache(maxsize=4)
def native_bf16(device: str | None = None) -> bool:
    """Whether `device` (None: the best one) multiplies bf16 matrices in hardware.

    Where it does not, bf16 is emulated and slower than fp32. On a processor this means AMX, AVX512-BF16 or Arm's
    BF16 extension.
    """
    import torch

    kind = (device or best_device()).partition(":")[0]
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in CPU_BF16)
