"""How much memory the process uses, in MB (2**20 bytes)."""

from __future__ import annotations

import resource
import sys

import psutil
import torch

from tunewright.core.memory import free_bytes


def resident_mb(device: torch.device) -> float:
    """Memory in use now: allocated on the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    if device.type == "mps":
        return torch.mps.current_allocated_memory() / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20


def peak_mb(device: torch.device) -> float:
    """Highest use so far in the life of the process.

    Metal counts no peak: what its driver gave to the process, which is kept for reuse, stands for it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def room_mb(device: torch.device) -> float:
    """What this process may hold at most: what it has and what is free, on the GPU or in the CPU's memory.

    A limit of the control group that the process runs in (a container's) counts.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)) / 2**20
    if device.type == "mps":
        return float(torch.mps.recommended_max_memory()) / 2**20
    return resident_mb(device) + free_bytes() / 2**20


def give_back_cached(device: torch.device) -> None:
    """Return what torch keeps for reuse to the device; a CPU's allocator keeps nothing."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
