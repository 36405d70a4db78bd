"""Micro-batches side by side: the same sums to the last bit, and nothing that depends on who came first."""

import threading
from dataclasses import replace

import pytest
import torch

from tests.training import fit, job, rows, settings
from tunewright.core.errors import TrainError
from tunewright.core.events import StepEnd, Warned
from tunewright.engine.lanes import Lanes, RandomError, even


def test_results_come_in_the_order_of_the_items_and_two_work_at_a_time():
    both = threading.Barrier(2, timeout=20)  # passed only by two at once

    def work(item):
        if item < 2:
            both.wait()
        return item * 10

    before = torch.get_num_threads()
    assert list(Lanes(2).run(work, range(5))) == [0, 10, 20, 30, 40]
    assert torch.get_num_threads() == before


def test_each_lane_has_its_share_of_the_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(Lanes(2).run(lambda _: torch.get_num_threads(), range(4))) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_first_failure_is_raised_when_all_have_stopped():
    running = []

    def work(item):
        running.append(item)
        if item == 1:
            raise ValueError("the second")
        running.remove(item)

    lanes = Lanes(2)
    with pytest.raises(ValueError, match="the second"):
        list(lanes.run(work, range(6)))
    assert running == [1]
    assert list(lanes.run(lambda item: item, [7])) == [7]  # they can be used again


def test_random_numbers_are_noticed():
    with pytest.raises(RandomError):
        list(Lanes(2).run(lambda item: torch.rand(2), range(4)))


@pytest.mark.parametrize(
    "sizes, budget, lanes, expected",
    [([100] * 8, 800, 2, 400), ([100] * 9, 800, 2, 225), ([100], 800, 2, 100), ([300, 10], 600, 2, 300)],
)
def test_every_lane_gets_as_much(sizes, budget, lanes, expected):
    assert even(sizes, budget, lanes) == expected


def test_a_row_too_long_for_the_share_of_a_lane_has_the_machine_to_itself(tmp_path, monkeypatch):
    from tunewright.engine import loop

    monkeypatch.setattr(loop, "backward_in_lanes", lambda *_: pytest.fail("side by side"))
    fit(job(rows(16, low=20)), settings(micro_tokens=38, lanes=2), tmp_path)


@pytest.mark.parametrize("lanes", [2, 3])
def test_updates_have_the_bits_of_the_same_pieces_one_after_the_other(tmp_path, lanes, monkeypatch):
    """Whatever lane is first; pieces of the size that lanes would take."""
    from tunewright.engine import loop

    losses = {}
    monkeypatch.setattr(loop, "even", lambda sizes, budget, lanes: 32)
    ends = []
    for count in (1, lanes, lanes):
        found = losses.setdefault(len(ends), [])
        ends.append(
            fit(
                job(rows(16)),
                settings(micro_tokens=96 if count > 1 else 32, lanes=count),
                tmp_path / str(len(ends)),
                lambda e, found=found: found.append(e.loss) if isinstance(e, StepEnd) else None,
            )[1]
        )
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) > 1
    for other in ends[1:]:
        assert all(torch.equal(ends[0][name], value) for name, value in other.items())


def test_noise_is_drawn_one_after_the_other_and_that_is_said_once(tmp_path):
    said = []
    plain = fit(job(rows(16), neftune=5.0), settings(), tmp_path / "a")[1]
    lanes = fit(job(rows(16), neftune=5.0), settings(lanes=2, micro_tokens=64), tmp_path / "b", said.append)[
        1
    ]
    assert all(torch.equal(plain[name], value) for name, value in lanes.items())
    [warned] = [event.message for event in said if isinstance(event, Warned)]
    assert "random numbers" in warned and "one after the other" in warned


def test_a_loss_that_is_not_finite_is_named_and_nothing_is_applied(tmp_path):
    the_job = job(rows(16))

    class Broken(type(the_job.objective)):
        def loss(self, forward, batch):
            out = super().loss(forward, batch)
            return replace(out, total=out.total / 0)

    broken = replace(the_job, objective=Broken("sft", the_job.objective.options))
    with pytest.raises(TrainError, match="the loss is inf"):
        fit(broken, settings(lanes=2, micro_tokens=96), tmp_path)
