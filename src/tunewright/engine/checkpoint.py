"""Checkpoints that survive a crash at any moment and refuse to be wrong.

A checkpoint is written aside, every file is flushed, a manifest with the sha256 of each file is written
last, and one rename makes it visible. Reading verifies the manifest first; the newest *verified* checkpoint
wins, and a damaged one is named.

    checkpoints/step-120/  weights|optimizer|adapter.safetensors  state.json  manifest.json
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewright.core.errors import RunError
from tunewright.core.hashing import file_digest
from tunewright.core.paths import sync, write_json

NAME = re.compile(r"step-(\d+)$")


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on: trained weights, optimizer state, and plain facts."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    adapter: dict[str, Tensor] = field(default_factory=dict)  # what it keeps besides its weights


def save(root: Path, snapshot: Snapshot) -> Path:
    """Write ``root/step-N``; one of the same step is replaced only when the new one is complete."""
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"step-{snapshot.step}"
    work = root / f"{target.name}.tmp-{uuid.uuid4().hex}"
    work.mkdir()
    save_file({k: v.contiguous() for k, v in snapshot.weights.items()}, work / "weights.safetensors")
    save_file(snapshot.optimizer, work / "optimizer.safetensors")
    save_file(snapshot.adapter, work / "adapter.safetensors")
    write_json(work / "state.json", {"step": snapshot.step, **snapshot.state})
    files = sorted(p for p in work.iterdir() if p.is_file())
    for file in files:
        sync(file)
    manifest = {f.name: {"sha256": file_digest(f), "bytes": f.stat().st_size} for f in files}
    write_json(work / "manifest.json", {"step": snapshot.step, "files": manifest})
    sync(work)
    if target.exists():
        os.replace(target, root / f"{target.name}.tmp-{uuid.uuid4().hex}")
    os.replace(work, target)
    sync(root)
    return target


def verify(path: Path) -> None:
    """Raise ``RunError`` naming the first file of ``path`` that is missing, changed or not ours."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: manifest.json is missing or damaged ({error})") from error
    found = {p.name for p in path.iterdir()} - {"manifest.json"}
    for name in sorted(found ^ manifest.keys()):
        raise RunError(f"{path / name}: {'not in the manifest' if name in found else 'missing'}")
    for name, facts in manifest.items():
        if file_digest(path / name) != facts["sha256"]:
            raise RunError(f"{path / name}: content differs from its manifest; the file is damaged")


def load(path: Path) -> Snapshot:
    """Read one verified checkpoint."""
    verify(path)
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return Snapshot(
        state.pop("step"),
        load_file(path / "weights.safetensors"),
        load_file(path / "optimizer.safetensors"),
        state,
        load_file(path / "adapter.safetensors"),
    )


def steps(root: Path) -> dict[int, Path]:
    """Step -> path of every checkpoint that was renamed into place, verified or not, in order."""
    if not root.is_dir():
        return {}
    found = {int(m[1]): p for p in root.iterdir() if (m := NAME.match(p.name))}
    return dict(sorted(found.items()))


def newest(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and what was wrong with those that do not."""
    problems = []
    for path in reversed(steps(root).values()):
        try:
            verify(path)
        except RunError as error:
            problems.append(str(error))
            continue
        return path, problems
    return None, problems


def prune(root: Path, keep: set[int]) -> None:
    """Delete all but ``keep``, and what interrupted writes left behind."""
    for path in root.iterdir():
        match = NAME.match(path.name)
        if ".tmp-" in path.name or (match and int(match[1]) not in keep):
            shutil.rmtree(path)
