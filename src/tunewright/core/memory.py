"""How much memory is free for this process, in bytes."""

from __future__ import annotations

from pathlib import Path

import psutil


def free_bytes() -> float:
    """What is free on this machine, or within a control group that the process runs in (a container's)."""
    groups = _free_in_groups(Path("/sys/fs/cgroup"), _groups())
    return min([float(psutil.virtual_memory().available), *groups])


def all_bytes() -> float:
    """The memory of the whole machine."""
    return float(psutil.virtual_memory().total)


def _groups() -> list[str]:
    """The control groups of this process, as paths from the root of their hierarchy."""
    listed = Path("/proc/self/cgroup")
    lines = listed.read_text().splitlines() if listed.exists() else []
    return [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]


def _free_in_groups(root: Path, groups: list[str]) -> list[float]:
    """Bytes left in each control group, and in those above it, that has a limit (version 2 and version 1)."""
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
                    found.append(float((folder / limit).read_text()) - float((folder / usage).read_text()))
                except (OSError, ValueError):  # no such file, or "max"
                    continue
    return found
