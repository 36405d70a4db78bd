"""How much memory the process uses, in MB (2**20 bytes)."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil
import torch


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
    free = [float(psutil.virtual_memory().available), *_free_in_group(Path("/sys/fs/cgroup"), _groups())]
    return resident_mb(device) + min(free) / 2**20


def give_back_cached(device: torch.device) -> None:
    """Return what torch keeps for reuse to the device; a CPU's allocator keeps nothing."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _groups() -> list[str]:
    """The control groups of this process, as paths from the root of their hierarchy."""
    listed = Path("/proc/self/cgroup")
    lines = listed.read_text().splitlines() if listed.exists() else []
    return [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]


def _free_in_group(root: Path, groups: list[str]) -> list[float]:
    """Bytes left in each control group, and in those above it, that has a limit (version 2 and version 1).

    Files that were read count as used there, but are given up when memory is short.
    """
    files = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    found = []
    for group in {*groups, "/"}:
        own = group.strip("/")
        folders = [
            top / part for top in (root, root / "memory") for part in (own, *map(str, Path(own).parents))
        ]
        for folder in folders:
            for limit, usage in files:
                try:
                    left = float((folder / limit).read_text()) - float((folder / usage).read_text())
                    found.append(left + _given_up(folder / "memory.stat"))
                except (OSError, ValueError):  # no such file, or "max"
                    continue
    return found


def _given_up(stat: Path) -> float:
    """Bytes of files that nobody has read lately, by the account of a control group; 0 without one."""
    lines = [line.split() for line in stat.read_text().splitlines()] if stat.exists() else []
    found = {line[0]: float(line[1]) for line in lines if len(line) == 2}
    return found.get("total_inactive_file", found.get("inactive_file", 0.0))
