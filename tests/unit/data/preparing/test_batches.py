"""The steps for single rows as a function of a batch: every row comes out once, here and under Ray Data."""

import copy
import json
from collections import Counter

import numpy as np
import pytest

from tunewright.core.config import build
from tunewright.data.pipeline import PrepareSettings, prepare_to
from tunewright.data.preparing.batches import RowSteps, unpacked

SETTINGS = build(PrepareSettings, {"clean": {}, "redact": {"types": {"IBAN": "drop"}}})
ROWS = [
    {"question": "Who is <b>this</b>?", "answer": "Write to jane.roe@mail.example.org."},
    {"question": "And that?", "answer": "I cannot help with that request."},
    {"question": "Which account?", "answer": "DE89 3704 0044 0532 0130 00"},
    {"question": "What number?", "answer": "10.1.2.3"},
    {"question": "", "answer": "x"},
    {"question": "Fine?", "answer": "Yes, it is\0 fine."},
]
BATCH = {name: np.array([row[name] for row in ROWS], object) for name in ROWS[0]}


@pytest.fixture(autouse=True)
def own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))


def test_every_row_comes_out_once_with_what_was_found():
    done = RowSteps(SETTINGS, format="question_answer")(BATCH)
    assert Counter(done["kind"]) == {"row": 3, "rejected": 3, "redaction": 1, "question": 1}
    objects = [unpacked({"kind": kind, "json": text}) for kind, text in zip(*done.values(), strict=True)]
    rows = [one for one in objects if "messages" in one]
    assert rows[0]["messages"][0]["content"] == "Who is this?"
    assert rows[0]["messages"][1]["content"] == "Write to [EMAIL]."
    rejected = {one["line"]: one["reason"] for one in objects if "reason" in one}
    assert rejected == {2: "refusal", 3: "personal_data", 5: "empty_turn"}


def test_it_says_the_same_as_preparing_a_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    values = {**SETTINGS.model_dump(), "split": {"validation": 0, "test": 0}}
    prepare_to(tmp_path / "out", {"train": [file]}, build(PrepareSettings, values))
    steps = RowSteps(SETTINGS, source=str(file))
    done = steps({**BATCH})
    written = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert written == [text for kind, text in zip(*done.values(), strict=True) if kind == "row"]


def test_it_travels_without_what_a_process_holds():
    steps = RowSteps(SETTINGS, format="question_answer")
    steps(BATCH)
    assert copy.copy(steps)._stage is None


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_data_runs_it(tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra: pip install tunewright[cluster]")
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
    try:
        steps = RowSteps(SETTINGS, format="question_answer")
        done = ray.data.from_items(ROWS).map_batches(steps, batch_format="numpy").materialize()
        rows = [unpacked(row) for row in done.take_all() if row["kind"] == "row"]
    finally:
        ray.shutdown()
    assert sorted(row["messages"][0]["content"] for row in rows) == ["Fine?", "What number?", "Who is this?"]


def test_a_row_that_masking_broke_says_so():
    answers = {"chosen": ["Ask ann@mail.example.org."], "rejected": ["Ask bob@mail.example.org."]}
    done = RowSteps(SETTINGS, format="preference")({"prompt": ["Whom?"], **answers})
    [rejected] = [
        unpacked({"json": text}) for kind, text in zip(*done.values(), strict=True) if kind == "rejected"
    ]
    assert rejected["reason"] == "equal_answers" and "once personal data was replaced" in rejected["detail"]
