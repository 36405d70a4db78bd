"""The log of a run: nothing before it begins, every warning once, time of each stage over all its parts."""

import pytest

from tunewright.core import events
from tunewright.core.paths import RunDir
from tunewright.run.resolve import resolve
from tunewright.run.session import Session, StageEnd
from tunewright.run.store import event_writer, read_events, trimmed_events

RECIPE = {"data.train": "x.jsonl"}


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def session(run, heard):
    return Session(resolve(None, None, RECIPE), run, heard.append)


def test_nothing_is_written_before_the_log_is_opened(run):
    heard = []
    one = session(run, heard)
    one.warn("careful")
    with one.stage("load", "a model"):
        one.note(["good to know"])
    assert not run.root.exists() and len(heard) == 4
    one.open_log()
    one.observe(events.Progress("answers", 1, 2))  # for the eye only
    one.warn("again")
    assert [e["event"] for e in read_events(run)] == ["Warned", "Stage", "Stage", "StageEnd", "Warned"]


def test_warnings_and_notes_are_said_once(run):
    heard = []
    one = session(run, heard)
    for _ in range(2):
        one.warn("careful")
        one.note(["known", "known"])
        one.observe(events.Warned(3, "overfitting"))
    assert one.warnings == ["careful", "overfitting"] and len(heard) == 3


def test_a_resumed_run_knows_the_first(run):
    first = session(run, [])
    first.open_log()
    first.warn("careful")
    first.observe(StageEnd("train", 2.5))
    heard = []
    second = Session.reopened(first.resolved, run, heard.append)
    second.warn("careful")
    second.warn("new")
    with second.stage("train"):
        pass
    assert second.warnings == ["careful", "new"] and 2.5 <= second.seconds["train"] < 3
    assert [e["message"] for e in read_events(run) if e["event"] == "Warned"] == ["careful", "new"]


def test_without_a_checkpoint_no_event_of_training_stays(run):
    log = event_writer(run)
    for event in (
        events.Warned(0, "rows"),
        events.Started(0, 9, {}),
        events.EvalEnd(0, {"validation_loss": 1.0}, True),
        events.Saved(0, "step-0"),
        events.Warned(4, "overfitting"),
        events.Ended(4, "done", 4),
        events.Stage("train"),
    ):
        log(event)
    with run.events.open("ab") as f:
        f.write(b'{"event": "Wa')
    assert [e["event"] for e in trimmed_events(run)] == ["Warned", "Stage"]
    assert run.events.read_bytes().count(b"\n") == 2
