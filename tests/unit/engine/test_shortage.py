"""Memory that runs out: the same updates in smaller pieces, said aloud; a clear end where that is no help."""

from dataclasses import replace

import pytest
import torch

from tests.training import fit, job, rows, settings
from tunewright.core.errors import TrainError
from tunewright.core.events import Warned
from tunewright.engine.optim import OptimSettings
from tunewright.engine.shortage import is_shortage


def narrow(the_job, most, error=torch.OutOfMemoryError):
    """The job on a machine that cannot train on more than ``most`` tokens at once."""

    class Narrow(type(the_job.objective)):
        def loss(self, forward, batch):
            out = super().loss(forward, batch)
            if torch.is_grad_enabled() and len(batch.ids) > most:
                raise error("CUDA out of memory")
            return out

    return replace(the_job, objective=Narrow("sft", the_job.objective.options))


def test_what_follows_is_what_smaller_pieces_would_have_been(tmp_path):
    """To the last bit, noise included; said once."""
    said = []
    small = fit(job(rows(16), neftune=5.0), settings(micro_tokens=32), tmp_path / "a")[1]
    shrunk = fit(narrow(job(rows(16), neftune=5.0), 32), settings(), tmp_path / "b", said.append)[1]
    assert all(torch.equal(small[name], value) for name, value in shrunk.items())
    warned = [event for event in said if isinstance(event, Warned)]
    assert [(w.step, w.message) for w in warned] == [
        (1, "memory ran out with train.micro_tokens 64; going on with 32: the same updates in smaller pieces")
    ]


def test_it_is_halved_as_often_as_it_takes_and_a_resumed_run_remembers(tmp_path):
    said = []
    fit(narrow(job(rows(16)), 24), settings(), tmp_path / "whole", said.append)
    assert sum(isinstance(event, Warned) for event in said) == 2
    plain = fit(narrow(job(rows(16)), 24), settings(), tmp_path / "whole")[1]

    class Killed(Exception):
        pass

    def killed(event):
        if type(event).__name__ == "Saved" and event.step == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(narrow(job(rows(16)), 24), settings(save_every=1), tmp_path / "cut", killed)
    again = []
    ended = fit(narrow(job(rows(16)), 24), settings(save_every=1), tmp_path / "cut", again.append)[1]
    assert not any(isinstance(event, Warned) for event in again)
    assert all(torch.equal(plain[name], value) for name, value in ended.items())


def test_rows_that_stand_alone_cannot_be_cut(tmp_path):
    message = r"memory ran out at step 1, .* the largest has \d+ tokens.*checkpoint_layers"
    with pytest.raises(TrainError, match=message):
        fit(narrow(job(rows(16)), 8), settings(), tmp_path)


def test_weights_that_moved_already_cannot_be_put_back(tmp_path):
    the_job = job(rows(16))

    def refuse(gradient):
        raise torch.OutOfMemoryError("CUDA out of memory")

    the_job.model.get_input_embeddings().weight.register_hook(refuse)  # the last to get a gradient
    with pytest.raises(TrainError, match="while weights were already being updated"):
        fit(the_job, settings(clip_norm=0.0, optim=OptimSettings(in_backward=True)), tmp_path)


def test_other_errors_are_not_taken_for_it(tmp_path):
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        fit(narrow(job(rows(16)), 8, RuntimeError), settings(), tmp_path)


def test_a_cpu_refuses_in_its_own_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_shortage(caught.value) and is_shortage(MemoryError())
    assert not is_shortage(RuntimeError("shape mismatch"))
