"""Rows of several tasks: prepared together, told apart, and dealt out by shares of each."""

from collections import Counter
from itertools import pairwise

import pytest

from tests.contract.small import write_rows
from tunewright.core.errors import DataError
from tunewright.core.records import Conversation, Labelled
from tunewright.data.load import load
from tunewright.data.pack import epoch_order, fill_epoch, order_of, shared_rows
from tunewright.data.pipeline import PrepareSettings, SplitSettings, prepare, write
from tunewright.data.split import leaks


def chats(path, questions):
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "a"}]}
        for q in questions
    ]
    return write_rows(path, rows)


def labels(path, texts, label=lambda i: f"l{i % 2}"):
    return write_rows(path, [{"text": t, "label": label(i)} for i, t in enumerate(texts)])


def settings(*files, **options):
    return PrepareSettings(tasks={str(file): task for task, file in files}, **options)


def test_rows_are_of_the_task_of_their_file_and_read_back_so(tmp_path):
    one = chats(tmp_path / "a.jsonl", [f"question {i}" for i in range(30)])
    two = labels(tmp_path / "b.jsonl", [f"text {i}" for i in range(30)])
    prepared = prepare([one, two], [], [], settings(("support", one), ("intent", two)))
    write(prepared, tmp_path / "data")
    for side in ("train", "validation", "test"):
        rows = getattr(prepared, side)
        assert {row.meta.task: type(row) for row in rows} == {"support": Conversation, "intent": Labelled}
        again = load([tmp_path / "data" / f"{side}.jsonl"])
        assert again.examples == rows and not again.problems
    assert prepared.receipt["kind"] == "conversation and labelled"
    counts = prepared.receipt["tasks"]
    assert all(sum(counts[task].values()) == 30 for task in ("support", "intent"))
    assert counts["intent"]["test"] == counts["intent"]["validation"] == 3


def test_without_tasks_none_is_noted(tmp_path):
    """Rows that another run prepared forget what they were for there."""
    one = chats(tmp_path / "a.jsonl", [f"question {i}" for i in range(30)])
    first = prepare([one], [], [], settings(("support", one)))
    write(first, tmp_path / "data")
    second = prepare([tmp_path / "data" / "train.jsonl"], [], [], PrepareSettings())
    assert {row.meta.task for row in second.train} == {None} and "tasks" not in second.receipt
    assert b'"task"' not in (tmp_path / "data" / "receipt.json").read_bytes().split(b'"splits"')[0]


def test_what_two_tasks_ask_stands_on_one_side(tmp_path):
    texts = [f"question {i}" for i in range(60)]
    one, two = chats(tmp_path / "a.jsonl", texts), labels(tmp_path / "b.jsonl", texts)
    split = SplitSettings(validation=0.2, test=0.2)
    found = prepare([one, two], [], [], settings(("support", one), ("intent", two), split=split))
    assert not leaks(found)
    for side in ("train", "validation", "test"):
        tasks = {"support": set(), "intent": set()}
        for row in getattr(found, side):
            tasks[row.meta.task].add(row.messages[0].content)
        assert tasks["support"] == tasks["intent"] != set()


def test_equal_rows_of_two_tasks_are_no_duplicates(tmp_path):
    texts = [f"question {i}" for i in range(20)]
    one, two = (
        labels(tmp_path / "a.jsonl", texts),
        labels(tmp_path / "b.jsonl", [*texts, texts[3]], lambda i: "l1"),
    )
    both = prepare([one, two], [], [], settings(("a", one), ("b", two)))
    assert both.receipt["rows_out"] == 40
    assert [p.reason for p in both.rejected] == ["duplicate"] and "b.jsonl:4" in both.rejected[0].detail
    assert prepare([one, two], [], [], PrepareSettings()).receipt["rows_out"] == 30  # l1 at every second text


def test_a_task_is_of_one_kind(tmp_path):
    one, two = chats(tmp_path / "a.jsonl", ["q1", "q2"]), labels(tmp_path / "b.jsonl", ["t1", "t2"])
    with pytest.raises(DataError, match=r"the files of task 'x' hold different kinds of rows: conversation"):
        prepare([one, two], [], [], settings(("x", one), ("x", two)))


def test_the_same_label_in_two_tasks_is_two_classes(tmp_path):
    """Each of 12 labels stands once in each task, and what a task has once it must learn from."""
    one = labels(tmp_path / "a.jsonl", [f"one {i}" for i in range(12)], lambda i: f"l{i}")
    two = labels(tmp_path / "b.jsonl", [f"two {i}" for i in range(40)], lambda i: f"l{min(i, 12)}")
    split = SplitSettings(validation=0.25, test=0.25)
    found = prepare([one, two], [], [], settings(("a", one), ("b", two), split=split))
    counts = Counter((row.meta.task, row.label) for row in found.train)
    assert all(counts[task, f"l{i}"] == 1 for task in "ab" for i in range(12))


def test_a_task_of_numbers_is_dealt_out_by_its_shares(tmp_path):
    one = labels(tmp_path / "a.jsonl", [f"one {i}" for i in range(40)], lambda i: i + 0.5)
    two = labels(tmp_path / "b.jsonl", [f"two {i}" for i in range(20)])
    split = SplitSettings(validation=0.25, test=0.25)
    found = prepare([one, two], [], [], settings(("a", one), ("b", two), split=split))
    assert found.receipt["tasks"]["a"] == {"train": 20, "validation": 10, "test": 10}


def test_columns_may_differ_by_task(tmp_path):
    one = write_rows(tmp_path / "a.jsonl", [{"body": f"b{i}", "reply": "r"} for i in range(10)])
    two = write_rows(tmp_path / "b.jsonl", [{"body": f"c{i}", "queue": "x"} for i in range(10)])
    columns = {"a": {"prompt": "body", "completion": "reply"}, "b": {"text": "body", "label": "queue"}}
    found = prepare([one, two], [], [], settings(("a", one), ("b", two), task_columns=columns))
    assert not found.rejected and found.receipt["rows_out"] == 20


# --- shares of an epoch

TASKS = ["a"] * 10 + ["b"] * 7


def test_a_share_is_an_exact_number_of_rows_and_all_come_round():
    """Ten rows at 0.3 are three an epoch: in ten epochs each stands three times."""
    epochs = [shared_rows(TASKS, {"a": 0.3, "b": 2.0}, seed=1, epoch=e) for e in range(10)]
    for rows in epochs:
        assert list(rows) == sorted(rows)
        counts = Counter(rows)
        assert sum(counts[row] for row in range(10)) == 3 and max(counts[row] for row in range(10)) == 1
        assert all(counts[row] == 2 for row in range(10, 17))
    assert not set(epochs[0]) & set(epochs[1]) & set(range(10))  # other rows until all were seen
    assert Counter(row for rows in epochs for row in rows if row < 10) == dict.fromkeys(range(10), 3)


def test_one_and_a_half_is_every_row_and_another_half_each_time():
    halves = [Counter(shared_rows(TASKS[:10], {"a": 1.5}, seed=0, epoch=e)) for e in range(2)]
    assert all(sorted(counts.values()) == [1] * 5 + [2] * 5 for counts in halves)
    assert halves[0] + halves[1] == Counter(dict.fromkeys(range(10), 3))


def test_shares_are_pure_and_depend_on_the_seed():
    share = {"a": 0.5, "b": 0.1}
    assert shared_rows(TASKS, share, seed=3, epoch=4) == shared_rows(TASKS, share, seed=3, epoch=4)
    assert shared_rows(TASKS, share, seed=3, epoch=4) != shared_rows(TASKS, share, seed=4, epoch=4)
    assert len([row for row in shared_rows(TASKS, share, seed=3, epoch=0) if row >= 10]) == 1  # never none
    assert list(shared_rows(TASKS, {}, seed=0, epoch=0)) == list(range(17))
    assert list(shared_rows(TASKS, {"a": 1.0}, seed=0, epoch=5)) == list(range(17))


def test_copies_of_a_row_are_shuffled_apart():
    rows = sorted([*range(50), *range(50)])
    order = order_of(rows, seed=0, epoch=0)
    assert sorted(order) == rows and order != rows
    assert sum(a == b for a, b in pairwise(order)) < 5  # by chance one of a hundred
    some = order_of(range(0, 50, 2), seed=0, epoch=0)
    assert some == [row for row in epoch_order(50, seed=0, epoch=0) if row % 2 == 0]  # no row moves another


def test_steps_are_filled_with_the_rows_of_the_epoch():
    steps = fill_epoch([2] * 10, seed=0, epoch=0, tokens_per_step=4, among=[1, 1, 7])
    assert sorted(row for step in steps for row in step) == [1, 1, 7] and len(steps) == 2
