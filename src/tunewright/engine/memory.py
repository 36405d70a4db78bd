"""How much memory the process uses, in MB (2**20 bytes)."""

from __future__ import annotations

import resource
import sys

import psutil
import torch


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
