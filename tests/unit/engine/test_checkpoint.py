"""A checkpoint is whole or it is refused, and the newest whole one is found."""

import contextlib
import shutil

import pytest
import torch

from tunewright.core.errors import RunError
from tunewright.engine import checkpoint
from tunewright.engine.checkpoint import Snapshot


def snapshot(step):
    torch.manual_seed(step)
    return Snapshot(step, {"w": torch.randn(3, 4)}, {"w/exp_avg": torch.randn(3, 4)}, {"tokens": 10 * step})


@pytest.fixture
def root(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path / "c", snapshot(step))
    return tmp_path / "c"


def test_round_trip(root):
    back = checkpoint.load(root / "step-2")
    assert back.step == 2 and back.state == {"tokens": 20}
    assert torch.equal(back.weights["w"], snapshot(2).weights["w"])
    assert torch.equal(back.optimizer["w/exp_avg"], snapshot(2).optimizer["w/exp_avg"])


FILES = ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "bit", "foreign"])
def test_every_damage_is_found_and_the_older_one_used(root, file, damage):
    path = root / "step-2" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bit":
        middle = content.index(b'"sha256": "') + 15 if file == "manifest.json" else len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        shutil.copy(root / "step-1" / file, path)
    found, problems = checkpoint.newest(root)
    assert found == root / "step-1"
    assert len(problems) == 1 and "step-2" in problems[0]
    with pytest.raises(RunError):
        checkpoint.load(root / "step-2")


def test_an_extra_file_is_damage(root):
    (root / "step-2" / "surprise.txt").write_text("x")
    with pytest.raises(RunError, match=r"surprise.txt: not in the manifest"):
        checkpoint.verify(root / "step-2")


def test_interrupted_writes_are_never_taken_and_swept_up(root):
    shutil.copytree(root / "step-2", root / "step-9.tmp-abc")
    assert checkpoint.newest(root)[0] == root / "step-2"
    checkpoint.prune(root, {2})
    assert [p.name for p in root.iterdir()] == ["step-2"]


@pytest.mark.parametrize("call", range(1, 9))
def test_a_crash_at_any_flush_leaves_the_old_one(root, call, monkeypatch):
    """Every fsync of the write is a moment to die at; what is found then is whole."""
    calls = 0
    real = checkpoint.sync

    def dying(path):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(checkpoint, "sync", dying)
    monkeypatch.setattr("tunewright.core.paths.sync", dying)
    with contextlib.suppress(KeyboardInterrupt):
        checkpoint.save(root, snapshot(3))
    monkeypatch.undo()
    found, problems = checkpoint.newest(root)
    assert not problems and found in (root / "step-2", root / "step-3")
    assert checkpoint.load(found).step == int(found.name[-1])
