"""The largest micro-batch is tried before the first update, and leaves no trace but smaller pieces."""

from dataclasses import replace

import pytest
import torch

from tests.training import fit, job, rows, settings
from tests.unit.engine.test_shortage import narrow
from tunewright.core.errors import TrainError
from tunewright.core.events import Saved, StepEnd, Warned
from tunewright.engine.loop import Fit
from tunewright.engine.optim import OptimSettings

EARLY = {"clip_norm": 0.0, "optim": OptimSettings(in_backward=True)}


class Killed(Exception):
    pass


def noisy(**changes):
    """A job whose updates draw random numbers."""
    return replace(job(rows(16), rows(4, seed=1), neftune=5.0), **changes)


def same(one, other):
    return all(torch.equal(one[name], value) for name, value in other.items())


def counted(the_job):
    """The job, and the sizes of all batches whose gradient it is asked for."""
    seen = []

    class Counted(type(the_job.objective)):
        def loss(self, forward, batch):
            if torch.is_grad_enabled():
                seen.append(batch.size)
            return super().loss(forward, batch)

    return replace(the_job, objective=Counted("sft", the_job.objective.options)), seen


@pytest.mark.parametrize("how", [{}, EARLY], ids=["after", "in_backward"])
def test_it_changes_no_bit(tmp_path, how):
    plain = fit(noisy(), settings(micro_tokens=32, **how), tmp_path / "plain")[1]
    tried, seen = counted(noisy(probe=True))
    probed = fit(tried, settings(micro_tokens=32, **how), tmp_path / "probed")[1]
    assert same(plain, probed)
    assert seen[0] == max(seen)


@pytest.mark.parametrize("how", [{}, EARLY], ids=["after", "in_backward"])
def test_what_does_not_fit_is_found_before_the_first_update(tmp_path, how):
    """Also where weights move within the backward pass, after which no update could be computed again."""
    small = fit(noisy(), settings(micro_tokens=16, **how), tmp_path / "small")[1]
    said = []
    found = fit(
        narrow(noisy(probe=True), 24), settings(micro_tokens=64, **how), tmp_path / "probed", said.append
    )[1]
    assert same(small, found)
    warned = [event for event in said if isinstance(event, Warned)]
    assert [event.step for event in warned] == [0, 0]
    assert warned[1].message.startswith("memory ran out with train.micro_tokens 32; going on with 16")
    assert said.index(warned[1]) < min(i for i, event in enumerate(said) if isinstance(event, StepEnd))


def test_a_row_that_cannot_be_cut_ends_the_run_before_it_begins(tmp_path):
    with pytest.raises(TrainError, match=r"memory ran out at step 0, .* every row is computed by itself"):
        fit(narrow(noisy(probe=True), 8), settings(), tmp_path)


@pytest.mark.parametrize("at", [0, 2])
def test_a_resumed_run_goes_on_with_what_was_found(tmp_path, monkeypatch, at):
    """And tries nothing again: where memory is plenty by then, its pieces stay as small."""
    how = settings(micro_tokens=64, save_every=1)
    whole = fit(narrow(noisy(probe=True), 24), how, tmp_path / "whole")[1]

    def killer(event):
        if isinstance(event, Saved) and event.step == at:
            raise Killed

    with pytest.raises(Killed):
        fit(narrow(noisy(probe=True), 24), how, tmp_path / "cut", killer)
    again, seen = counted(noisy(probe=True))
    monkeypatch.setattr(Fit, "probe", lambda self: pytest.fail("tried again"))
    assert same(whole, fit(again, how, tmp_path / "cut")[1])
    assert max(seen) <= 24
