"""The stream: the same bytes however the work is shared or interrupted, and a clear word where it stops."""

import json
import os
import resource
import subprocess
import sys

import pytest

from tunewright.core.errors import DataError
from tunewright.data.pipeline import PrepareSettings, prepare_to
from tunewright.data.preparing import job as job_module
from tunewright.data.preparing import work as work_module
from tunewright.data.preparing.job import Job
from tunewright.data.preparing.part import part_path
from tunewright.data.preparing.sources import sources_of
from tunewright.data.preparing.work import do_share
from tunewright.data.split import SIDES

SETTINGS = PrepareSettings(group="who")


def write_rows(path, rows=100, first=0):
    """Rows with duplicates, groups, broken lines, and keys that nobody uses."""
    numbers = [i if i % 9 else first for i in range(first, first + rows)]
    lines = [
        json.dumps({"question": f"question {i}", "answer": f"a {i % 7}", "who": f"u{i // 3}", "hue": i})
        for i in numbers
    ]
    lines[17], lines[31], lines[50] = "{", "", json.dumps({"question": "q\0", "answer": "a", "who": "x"})
    path.write_text("\n".join(lines) + "\n")
    return path


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(work_module, "CHUNK_ROWS", 7)


def test_the_number_of_processes_and_the_size_of_chunks_change_no_byte(tmp_path, monkeypatch):
    files = {"train": [write_rows(tmp_path / "a.jsonl")], "test": [write_rows(tmp_path / "b.jsonl", 60, 80)]}
    prepare_to(tmp_path / "one", files, SETTINGS)
    prepare_to(tmp_path / "three", files, SETTINGS, workers=3)
    monkeypatch.setattr(work_module, "CHUNK_ROWS", 7)
    prepare_to(tmp_path / "small", files, SETTINGS)
    assert len(contents(tmp_path / "one")["rejected.jsonl"]) > 100
    assert contents(tmp_path / "one") == contents(tmp_path / "three") == contents(tmp_path / "small")


def test_workers_share_the_chunks_without_gap_or_overlap(tmp_path, small_chunks):
    sources = sources_of(
        {"train": [write_rows(tmp_path / "a.jsonl")], "validation": [], "test": []}, {}, None, {}
    )
    job = Job(sources, SETTINGS)
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    do_share(sources, whole, job.stage(), job.reading, 0, 1)
    for worker in (2, 0, 1):
        before = set(shared.glob("part-*"))
        do_share(sources, shared, job.stage(), job.reading, worker, 3)
        made = set(shared.glob("part-*")) - before
        assert {int(path.name[-8:]) % 3 for path in made} == {worker}
    names = [path.name for path in sorted(whole.glob("part-*"))]
    assert len(names) == 15 and names == [path.name for path in sorted(shared.glob("part-*"))]
    for name in names:
        assert contents(whole / name) == contents(shared / name)


def test_interrupted_work_goes_on_where_it_stopped(tmp_path, small_chunks, monkeypatch):
    files = {"train": [write_rows(tmp_path / "a.jsonl")]}
    prepare_to(tmp_path / "whole", files, SETTINGS)
    made = []
    write_part = work_module.write_part

    def write_until_killed(part, directory):
        if len(made) == 5:
            raise KeyboardInterrupt
        write_part(part, directory)
        made.append(directory.name)

    monkeypatch.setattr(work_module, "write_part", write_until_killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_to(tmp_path / "out", files, SETTINGS)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".work"]
    damaged = part_path(tmp_path / "out" / ".work", 0, 5)
    damaged.mkdir()
    (damaged / "rows.jsonl").write_bytes(b"half a r")

    again = []
    monkeypatch.setattr(
        work_module, "write_part", lambda part, at: (again.append(at.name), write_part(part, at))
    )
    prepare_to(tmp_path / "out", files, SETTINGS)
    assert len(made) == 5 and len(again) == 10 and not set(made) & set(again)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out" / ".work").exists()


def test_work_done_with_other_settings_or_files_is_not_used(tmp_path, small_chunks):
    file = write_rows(tmp_path / "a.jsonl")
    sources = sources_of({"train": [file], "validation": [], "test": []}, {}, None, {})
    one, same = Job(sources, SETTINGS).identity(), Job(sources, SETTINGS, workers=4).identity()
    assert one == same
    assert one != Job(sources, PrepareSettings()).identity()
    os.utime(file, ns=(1, 1))
    again = sources_of({"train": [file], "validation": [], "test": []}, {}, None, {})
    assert one != Job(again, SETTINGS).identity()


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, small_chunks, monkeypatch):
    file = write_rows(tmp_path / "a.jsonl")
    write_part = work_module.write_part

    def grow(part, directory):
        with file.open("a") as out:
            out.write('{"question": "late", "answer": "row", "who": "x"}\n')
        write_part(part, directory)

    monkeypatch.setattr(work_module, "write_part", grow)
    with pytest.raises(DataError, match=r"a\.jsonl: the file changed while it was read"):
        prepare_to(tmp_path / "out", {"train": [file]}, SETTINGS)
    assert not (tmp_path / "out" / "receipt.json").exists()


def test_what_cannot_be_read_twice_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        prepare_to(tmp_path / "out", {"train": [tmp_path / "pipe.jsonl"]}, PrepareSettings())


def test_an_error_in_a_worker_reaches_the_user(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"colour": 1}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1: no known format"):
        prepare_to(tmp_path / "out", {"train": [bad]}, PrepareSettings(), workers=2)


def test_a_killed_worker_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(job_module, "COMMAND", ("-c", "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(DataError, match=r"worker \d was killed \(signal 9\)"):
        prepare_to(
            tmp_path / "out", {"train": [write_rows(tmp_path / "a.jsonl")]}, PrepareSettings(), workers=2
        )


def test_a_full_disk_is_an_error_and_leaves_what_was_there(tmp_path):
    """The largest file that may be written stands in for the disk."""
    file = write_rows(tmp_path / "a.jsonl", 4000)
    earlier = tmp_path / "out" / "train.jsonl"
    earlier.parent.mkdir()
    earlier.write_text("what was there\n")
    code = (
        "import sys; from tunewright.data.pipeline import *;"
        "prepare_to(sys.argv[2], {'train': [sys.argv[1]]}, PrepareSettings())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), str(tmp_path / "out")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "File too large" in done.stderr
    assert earlier.read_text() == "what was there\n"
    assert not (tmp_path / "out" / "receipt.json").exists()


def test_rows_of_all_sides_are_accounted_for(tmp_path):
    files = {side: [write_rows(tmp_path / f"{side}.jsonl", 60 + n, 50 * n)] for n, side in enumerate(SIDES)}
    receipt = prepare_to(tmp_path / "out", files, SETTINGS)
    written = {side: len((tmp_path / "out" / f"{side}.jsonl").read_text().splitlines()) for side in SIDES}
    rejected = len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert receipt["rows_in"] == sum(written.values()) + rejected == 60 + 61 + 62 - 3
    assert [facts["used_for"] for facts in receipt["files"]] == list(SIDES)
    assert receipt["split_proof"]["groups_on_two_sides"] == 0


def test_progress_is_told(tmp_path):
    told = []
    path = write_rows(tmp_path / "a.jsonl", 5000)
    prepare_to(tmp_path / "out", {"train": [path]}, SETTINGS, workers=2, progress=told.append)
    assert told and told == sorted(told) and told[-1] <= 3
