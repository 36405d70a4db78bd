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
    return float(psutil.Process().memory_info().rss) / 2**20


def peak_mb(device: torch.device) -> float:
    """Highest use so far in the life of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def room_mb(device: torch.device) -> float:
    """What this process may hold at most: all of the GPU, or what it has and what is free on the CPU.

    A limit of the control group that the process runs in (a container's) counts.
    """
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory) / 2**20
    return resident_mb(device) + free_bytes() / 2**20
