"""The room there is: what is free, within the limits of control groups and on a GPU."""

import psutil
import pytest
import torch

from tunewright.core import memory as core_memory
from tunewright.engine import memory

MB = 2**20


@pytest.mark.parametrize(
    "folder, files, left",
    [
        ("", {"memory.max": "1000", "memory.current": "400"}, 600),
        ("job/part", {"memory.max": "1000", "memory.current": "400"}, 600),
        ("job", {"memory.max": "1000", "memory.current": "400"}, 600),  # a limit of the group above
        ("memory/job/part", {"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "900"}, 100),
        (
            "job/part",
            {"memory.max": "1000", "memory.current": "900", "memory.stat": "file 500\ninactive_file 300"},
            400,
        ),
        (
            "memory/job",
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "900",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 300",
            },
            400,
        ),
    ],
)
def test_what_a_group_leaves(tmp_path, folder, files, left):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (tmp_path / folder / name).write_text(text + "\n")
    assert set(core_memory._free_in_groups(tmp_path, ["/job/part"])) == {left}


def test_no_limit_leaves_it_to_the_machine(tmp_path):
    (tmp_path / "memory.max").write_text("max")
    (tmp_path / "memory.current").write_text("400")
    assert core_memory._free_in_groups(tmp_path, ["/"]) == []


def test_the_smallest_room_counts(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(core_memory, "_free_in_groups", lambda root, groups: [300.0 * MB, 50.0 * MB])
    monkeypatch.setattr(memory, "resident_mb", lambda device: 7.0)
    assert memory.room_mb(cpu) == 57
    monkeypatch.setattr(core_memory, "_free_in_groups", lambda root, groups: [])
    assert memory.room_mb(cpu) == pytest.approx(psutil.virtual_memory().available / MB, rel=0.2)


def test_a_gpu_has_what_others_leave(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * MB, 900 * MB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30 * MB)
    assert memory.room_mb(torch.device("cuda")) == 130
