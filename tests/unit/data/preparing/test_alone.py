"""Preparations that were killed, or that meet in one directory."""

import json
import subprocess
import sys
import time

import pytest

from tunewright.core.errors import DataError
from tunewright.data.pipeline import PrepareSettings, prepare_to
from tunewright.data.preparing import alone
from tunewright.data.preparing.store import Store

RUN = """
import sys
from tunewright.data.pipeline import PrepareSettings, prepare_to
from tunewright.data.redact.settings import RedactSettings
prepare_to(sys.argv[2], {"train": [sys.argv[1]]}, PrepareSettings(redact=RedactSettings()), workers=2)
"""


def rows_file(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question": f"What is {i}?", "answer": f"It is {i}."}) + "\n" for i in range(rows)
        )
    )
    return path


def workers_of(out):
    found = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if f"preparing.worker {out}" in line]


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    out = tmp_path / "out"
    parent = subprocess.Popen([sys.executable, "-c", RUN, str(rows_file(tmp_path, 300_000)), str(out)])
    until = time.monotonic() + 60
    while len(workers_of(out)) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    found = workers_of(out)
    parent.kill()
    parent.wait()
    assert len(found) == 2
    until = time.monotonic() + 10
    while workers_of(out) and time.monotonic() < until:
        time.sleep(0.1)
    assert not workers_of(out)


def test_a_second_preparation_in_one_directory_is_refused(tmp_path, monkeypatch):
    rows = rows_file(tmp_path, 40)
    monkeypatch.setattr(alone, "PATIENCE", 0.2)
    with (
        alone.alone_in(tmp_path / "out"),
        pytest.raises(DataError, match="another preparation is at work"),
    ):
        prepare_to(tmp_path / "out", {"train": [rows]}, PrepareSettings())
    assert prepare_to(tmp_path / "out", {"train": [rows]}, PrepareSettings())["rows_out"] == 40


def test_one_row_is_read_without_the_others(tmp_path, monkeypatch):
    seen = []
    line = Store.line

    def remembered(self, row):
        seen.append(line(self, row) == list(self.lines())[row])
        return line(self, row)

    monkeypatch.setattr(Store, "line", remembered)
    double = tmp_path / "double.jsonl"
    double.write_bytes(rows_file(tmp_path, 10).read_bytes() * 2)
    prepare_to(tmp_path / "out", {"train": [double]}, PrepareSettings())
    assert len(seen) >= 10 and all(seen)
