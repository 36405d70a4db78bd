"""The race on a tiny model, and what is concluded from laps."""

import numpy as np
import pytest

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core.errors import RenderError
from tunewright.core.events import silent
from tunewright.core.records import Conversation, Message
from tunewright.run.recommend.deciding import advice, placed
from tunewright.run.recommend.race import Lap, Track, enough, gain, losses, paced, put
from tunewright.run.recommend.replies import replies
from tunewright.run.recommend.settings import DetectiveSettings
from tunewright.run.recommend.subject import make_subject

SETTINGS = {"max_length": 64, "race_tokens": 1200, "seed": 0}


def task(word, count, start=0):
    """Questions that all have the same answer."""
    return [
        Conversation((Message("user", f"What is {i} plus {i * 7 % 11}?"), Message("assistant", word)))
        for i in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def subject(model, tmp_path_factory):
    settings = DetectiveSettings(model=str(model), **SETTINGS)
    return make_subject(settings, "chat", tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="module")
def laps(subject, tmp_path_factory):
    settings = DetectiveSettings(model="m", **SETTINGS)
    track = Track.laid(subject, task("the brown fox", 12, 500))
    folder = tmp_path_factory.mktemp("laps")
    sets = {"wrong": task("refund ticket", 60), "right": task("the brown fox", 60)}
    return track, {
        name: track.run(name, rows, settings, folder / name, silent) for name, rows in sets.items()
    }


def test_the_right_one_of_two_tasks_gains_and_the_wrong_one_loses_to_it(laps):
    _, found = laps
    assert found["right"].gain.low > 0
    assert found["right"].gain.value > found["wrong"].gain.value + 0.1
    order = placed([found["wrong"], found["right"]], 0)
    assert [lap.name for lap in order] == ["right", "wrong"]
    told = advice(order, ["right", "wrong"], 0)
    assert (told.word, told.best) == ("TRAIN ON", "right")


def test_every_lap_begins_at_the_same_start_and_reads_as_much(subject, laps, tmp_path):
    track, found = laps
    put(subject, track.start)
    assert np.array_equal(losses(subject, track.held_out), track.before)
    put(subject, found["right"].weights)
    assert losses(subject, track.held_out) == pytest.approx(found["right"].losses)
    sizes = [lap.tokens for lap in found.values()]
    assert all(abs(size - 1200) < 100 for size in sizes)
    settings = DetectiveSettings(model="m", **SETTINGS)
    again = track.run("wrong", task("refund ticket", 60), settings, tmp_path, silent)  # after another lap
    assert np.array_equal(again.losses, found["wrong"].losses)
    assert found["right"].gain.value == pytest.approx((track.before - found["right"].losses).mean())


def test_replies_come_from_the_start_and_from_the_winner(laps):
    track, found = laps
    [said] = replies(track, found["right"], task("the brown fox", 1, 500))
    assert said["question"] == "What is 500 plus 2?"
    assert said["wanted"] == "the brown fox"
    assert said["before"] != said["after"]


def test_losses_are_means_over_the_answer_of_each_row(subject):
    rows = subject.rendered(task("the brown fox", 3))
    together = losses(subject, rows)
    assert together == pytest.approx([losses(subject, [row])[0] for row in rows], rel=1e-4)
    assert 4 < together.mean() < 8  # about ln 420


def test_only_the_top_trains_and_lower_states_are_kept(subject):
    names = [name for name, p in subject.model.named_parameters() if p.requires_grad]
    assert names
    assert all(".layers.1." in name for name in names)
    assert subject.forward.below.runs > 0
    assert subject.notes == ()


def test_a_row_that_the_template_cannot_write_is_left_out_and_told(subject, monkeypatch):
    rows = task("the brown fox", 3)
    plainly, bad = subject.renderer._plainly, rows[1].messages[0].content

    def failing(examples):
        if any(e.messages[0].content == bad for e in examples):
            raise RenderError("<memory>:2: no")
        return plainly(examples)

    monkeypatch.setattr(subject.renderer, "_known", None)
    monkeypatch.setattr(subject.renderer, "_plainly", failing)
    assert [len(found) for found in subject.rendered(rows)] == [1, 0, 1]
    assert list(subject.unwritten) == ["<memory>:2: no"]
    subject.unwritten.clear()


def test_rows_are_taken_until_there_are_enough(subject):
    rows = enough(subject, task("the brown fox", 60), 300)
    sizes = [sum(t.size for t in row) for row in rows]
    assert sum(sizes) >= 300 > sum(sizes[:-1])
    assert len(enough(subject, task("the brown fox", 5), 10**6)) == 5


@pytest.mark.parametrize("sizes", [[50] * 100, [180] * 40, [7] * 10, [1000], [30] * 3 + [190] * 30])
def test_updates_come_as_near_to_the_budget_as_they_can(sizes):
    from tunewright.engine.plan import steps_in_order

    pace = paced(sizes, 1200, 0)
    read = sum(step.size for step in steps_in_order(sizes, pace))
    assert abs(read - 1200) <= max(100, max(sizes) // 2 + 1)


def lap(name, losses_, before):
    found = np.array(losses_)
    return Lap(name, found, gain(before, found, 0), 1, 1, 1, 1.0, {})


BEFORE = np.linspace(3.0, 4.0, 16)
NOISE = np.tile([0.3, -0.3], 8)


def test_the_order_of_gradients_stands_where_the_race_cannot_tell():
    first, second = lap("a", BEFORE - 1.0, BEFORE), lap("b", BEFORE - 1.01 + NOISE, BEFORE)
    assert [x.name for x in placed([first, second], 0)] == ["a", "b"]
    told = advice([first, second], ["a", "b"], 0)
    assert (told.word, told.best) == ("CAN'T TELL", "a")
    assert "does not exclude zero: over b" in told.reason
    assert told.rows_that_would_decide > 16


def test_a_clear_lead_overrules_gradients_whatever_lies_between():
    late = lap("late", BEFORE - 2.0, BEFORE)
    order = placed([lap("x", BEFORE - 0.5, BEFORE), lap("y", BEFORE - 0.5 + NOISE / 9, BEFORE), late], 0)
    assert [found.name for found in order] == ["late", "x", "y"]
    assert advice(order, ["late", "x", "y", "z"], 0).word == "TRAIN ON"
    assert "1 more candidates were not raced" in advice(order, ["late", "x", "y", "z"], 0).reason


def test_no_gain_is_never_a_recommendation():
    open_ = lap("open", BEFORE - 0.01 + NOISE, BEFORE)
    told = advice([open_], ["open"], 0)
    assert told.word == "CAN'T TELL"
    assert told.rows_that_would_decide > 16
    worse = [lap("a", BEFORE + 0.2, BEFORE), lap("b", BEFORE + 0.4, BEFORE)]
    assert advice(worse, ["a", "b"], 0).word == "NONE HELPS"
    order = placed([worse[0], lap("unsure", BEFORE + 0.1 + 3 * NOISE, BEFORE)], 0)
    assert [found.name for found in order] == ["unsure", "a"]  # harm that is certain comes last
    assert advice(order, ["unsure", "a"], 0).word == "CAN'T TELL"
    assert advice([], ["a"], 0).word == "CAN'T TELL"
