"""Which device and which number format this machine should compute in, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from tunewright.core.cores import cores
from tunewright.core.errors import ConfigError

# Products in bfloat16 on a CPU are done by kernels made for one shape each, and two caches keep 1024 of them
# each. Packed texts bring new shapes at every step, and what is kept lies among other memory and breaks that
# into pieces: 24 updates of LoRA on 512 tokens at a time reach 1.69 GB, with 96 kernels 1.44 GB, as fast. A
# step needs fewer; where it needs more they are made again for every layer.
KERNELS = 96
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Precision(NamedTuple):
    """Where and in what format the model computes; ``reason`` is said aloud."""

    device: torch.device
    dtype: torch.dtype
    reason: str


def choose(device: str = "auto", dtype: str = "auto") -> Precision:
    """Resolve ``auto``: CUDA, then MPS, then CPU; bfloat16 where the hardware multiplies it natively."""
    chosen = torch.device(_best_device() if device == "auto" else device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device is 'cuda' but torch sees no CUDA device; use 'auto' or 'cpu'")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("model.device is 'mps' but this machine has none; use 'auto' or 'cpu'")
    if dtype != "auto":
        if dtype not in DTYPES:
            raise ConfigError(f"model.dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}")
        _check_knows(chosen, DTYPES[dtype], "model.dtype bfloat16", "model.dtype=float32")
        return Precision(chosen, DTYPES[dtype], f"{dtype} on {chosen.type}, as the recipe says")
    native, why = _bfloat16_support(chosen)
    name = "bfloat16" if native else "float32"
    return Precision(chosen, DTYPES[name], f"{name} on {chosen.type}: {why}")


def computing_in(weights: torch.dtype | None, precision: Precision) -> Precision:
    """Weights that are kept in bfloat16 are computed with in bfloat16, whatever the hardware likes best."""
    if weights != torch.bfloat16 or precision.dtype == torch.bfloat16:
        return precision
    device = precision.device
    _check_knows(device, torch.bfloat16, "adapt.weights bfloat16", "adapt.weights=float32")
    return Precision(device, torch.bfloat16, f"bfloat16 on {device.type}: the weights are kept in it")


def use_all_cores() -> int:
    """Let torch use every core this process may run on (or ``OMP_NUM_THREADS``); returns their number.

    To be called before anything is computed: it also says how many kernels are kept.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    torch.set_num_threads(cores())
    return cores()


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _bfloat16_support(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return native, "the GPU has bf16 units" if native else "this GPU has no bf16 units"
    if device.type == "mps":
        return False, "bf16 is slow on this device"
    flags = _cpu_flags()
    for flag in ("amx_bf16", "avx512_bf16"):
        if flag in flags:
            return True, f"the CPU has {flag}"
    return False, "the CPU has no bf16 instructions"


def _check_knows(device: torch.device, dtype: torch.dtype, asked: str, instead: str) -> None:
    """Raise ``ConfigError`` where the device does not know bfloat16 at all."""
    if dtype == torch.bfloat16 and device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise ConfigError(f"{asked} needs macOS 14 or newer on this device; set {instead}, or update macOS")


def _cpu_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    for line in info.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
