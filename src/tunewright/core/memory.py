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
