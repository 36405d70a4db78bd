"""Synthetic rows train and never judge; the real rows are divided as if they were not there."""

import json
from dataclasses import replace

import pytest

from tunewright.core.records import Conversation, Message, Meta
from tunewright.data.canonical import to_jsonl, to_row
from tunewright.data.keys import prompt_key
from tunewright.data.load import load
from tunewright.data.pipeline import PrepareSettings, SplitSettings, prepare, write
from tunewright.data.split import Split, leaks
from tunewright.data.synthetic.mark import Mark, read_mark

MARKS = [
    Mark("questions", "a model", 12, 340),
    Mark("paraphrases", "org/name by x", origin=bytes(range(16))),
    Mark("negatives", "m", origin=b"\xff" * 16),
]


def chat(question, answer="yes", line=0, **meta):
    turns = (Message("user", question), Message("assistant", answer))
    return Conversation(turns, Meta("made.jsonl", line, **meta))


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark.making)
def test_marks_round_trip(mark):
    assert read_mark(mark.text()) == mark


@pytest.mark.parametrize("text", [None, "", "by hand", "questions by m", "paraphrases of 12 by m"])
def test_other_marks_say_nothing(text):
    assert read_mark(text) is None


def test_meta_round_trips_through_a_file(tmp_path):
    rows = [
        chat("a?", synthetic=MARKS[0].text()),
        chat("b?", line=3, synthetic="by others", mixed="g.jsonl", group="g", id="7"),
        chat("c?"),
    ]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(to_jsonl(rows))
    assert load([file]).examples == rows
    assert "synthetic" not in to_row(rows[2])["meta"]


@pytest.mark.parametrize("key", ["synthetic", "mixed"])
def test_a_mark_that_is_no_text_is_not_ours(tmp_path, key):
    file = tmp_path / "rows.jsonl"
    row = {**to_row(chat("a?", line=9)), "meta": {"source": "x", "line": 9, key: True}}
    file.write_text(json.dumps(row) + "\n")
    [example] = load([file]).examples
    assert example.meta == Meta(str(file), 1)


# --- the split


def real(count=40):
    return [{"prompt": f"question {i}?", "completion": f"answer {i}"} for i in range(count)]


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def paraphrases(rows, tmp_path):
    """One synthetic row of each real one, asked in other words."""
    origins = load([put(tmp_path / "origins.jsonl", rows)]).examples
    return [
        chat(
            f"tell me, {i}",
            f"answer {i}",
            i + 1,
            synthetic=Mark("paraphrases", "m", origin=prompt_key(e)).text(),
        )
        for i, e in enumerate(origins)
    ]


SHARES = PrepareSettings(split=SplitSettings(validation=0.2, test=0.2))


def test_synthetic_rows_move_no_real_row_and_only_those_of_train_stay(tmp_path):
    rows = real()
    made = put(tmp_path / "made.jsonl", map(to_row, paraphrases(rows, tmp_path)))
    main = put(tmp_path / "main.jsonl", rows)
    plain = prepare([main], [], [], SHARES)
    assert plain.test and plain.validation
    for files in ([main, made], [made, main]):
        found = prepare(files, [], [], SHARES)
        assert (found.validation, found.test) == (plain.validation, plain.test)
        assert [e for e in found.train if not e.meta.synthetic] == plain.train
        kept = [e for e in found.train if e.meta.synthetic]
        assert [e.meta.line for e in kept] == [e.meta.line for e in plain.train]
        reasons = [p.reason for p in found.rejected]
        assert reasons.count("in_test") == len(plain.test)
        assert reasons.count("in_validation") == len(plain.validation)
        assert found.receipt["steps"][-1] == {
            "step": "synthetic",
            "in": 80,
            "out": 40 + len(kept),
            "rejected": {"in_test": len(plain.test), "in_validation": len(plain.validation)},
        }
        assert not leaks(Split(found.train, found.validation, found.test))


def test_they_are_kept_out_of_given_files_and_give_way_to_equal_real_rows(tmp_path):
    rows = real(12)
    copies = [chat(f"question {i}?", f"answer {i}", 20 + i, synthetic="copied") for i in range(3)]
    fresh = chat("something new?", "yes", 9, synthetic="by hand")
    made = put(tmp_path / "made.jsonl", map(to_row, [*copies, fresh]))
    test = put(
        tmp_path / "test.jsonl",
        [to_row(chat("question 0?", "answer 0")), to_row(chat("made up?", line=1, synthetic="x"))],
    )
    found = prepare([made, put(tmp_path / "main.jsonl", rows)], [], [test], PrepareSettings())
    assert [e.meta.synthetic for e in found.test] == [None] and not any(
        e.meta.synthetic for e in found.validation
    )
    assert [e.meta.synthetic for e in found.train if e.meta.synthetic] == ["by hand"]
    told = {(p.source.rpartition("/")[2], p.line): p.reason for p in found.rejected}
    assert told[("made.jsonl", 20)] == "duplicate"  # of a real row, which test then takes out
    assert found.receipt["rows_in"] == found.receipt["rows_out"] + found.receipt["rejected"] == 18
    assert told[("made.jsonl", 1)] == "synthetic"


def test_only_synthetic_rows_can_train_but_not_judge(tmp_path):
    made = put(tmp_path / "made.jsonl", [to_row(chat(f"{i}?", line=i, synthetic="x")) for i in range(20)])
    found = prepare([made], [], [], PrepareSettings())
    assert (len(found.train), found.validation, found.test) == (20, [], [])
    assert (
        "no row of train is real, so none was split off; judge on real rows of your own"
        in (found.receipt["notes"])
    )
    write(found, tmp_path / "out")
    assert load([tmp_path / "out" / "train.jsonl"]).examples == found.train


def test_leaks_tell_of_a_synthetic_row_that_judges():
    [leak] = leaks(Split([], [], [chat("a?", synthetic="x")]))
    assert leak.kind == "synthetic"
    made = chat("b?", synthetic=Mark("negatives", "m", origin=prompt_key(chat("a?"))).text())
    assert [found.kind for found in leaks(Split([made], [], [chat("a?")]))] == ["prompt"]
    assert not leaks(Split([replace(made, meta=Meta())], [], [chat("a?")]))
