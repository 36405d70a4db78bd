"""The optimizer on the CPU, tried with parameters that are there already: only the copies are of no use."""

import pytest
import torch

from tests.training import fit, job, rows, settings
from tunewright.core import events
from tunewright.engine.offload import Offloaded
from tunewright.engine.optim import OptimSettings, make_optimizer, optimizer_state, set_rate
from tunewright.engine.projected import Projection
from tunewright.engine.updates import make_updates

NAMES = ("adamw", "adamw_8bit", "galore", "apollo")


def chosen(name, offload, in_backward=False):
    optim = OptimSettings(name, projection=Projection(8, 2), offload=offload, in_backward=in_backward)
    return settings(clip_norm=0.0, max_steps=5, save_every=1, optim=optim)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_backward", [False, True])
def test_the_weights_are_those_of_the_optimizer_itself(tmp_path, name, in_backward):
    ends = [
        fit(job(rows(24)), chosen(name, offload, in_backward), tmp_path / str(offload))[1]
        for offload in (True, False)
    ]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[1])


def test_moments_belong_to_the_copies_and_gradients_are_not_kept_there():
    parameters = dict(job([]).model.named_parameters())
    updates = make_updates(parameters, OptimSettings(offload=True), 1.0)
    assert isinstance(updates.optimizer, Offloaded)
    inner = updates.optimizer.inner
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    updates.finish("")
    assert len(inner.state) == len(parameters) and not any(p in inner.state for p in parameters.values())
    assert all(host.grad is None for host in inner.state)
    assert len(updates.state()) == 3 * len(parameters)
    updates.forget("model.norm.weight")
    assert len(inner.state) == len(parameters) - 1 and len(updates.state()) == 3 * (len(parameters) - 1)


def test_a_weight_that_somebody_else_changed_is_taken_as_it_is():
    parameters = dict(job([]).model.named_parameters())
    optimizer = make_optimizer(parameters, OptimSettings(offload=True, weight_decay=0.0))
    set_rate(optimizer, 0.1)
    norm = parameters["model.norm.weight"]
    for value in (1.0, 5.0):
        with torch.no_grad():
            norm.fill_(value)
        norm.grad = torch.ones_like(norm)
        optimizer.step()
        assert float(norm.detach()[0]) == pytest.approx(value - 0.1, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_goes_on_without_offloading_and_back(name):
    """What is stored says nothing of where it was computed."""
    parameters = dict(job([]).model.named_parameters())
    states = []
    for offload in (True, False):
        settings_of = OptimSettings(name, projection=Projection(8, 2), offload=offload)
        optimizer = make_optimizer(parameters, settings_of)
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
        states.append(optimizer_state(optimizer, parameters))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    class Crash(Exception):
        pass

    def crash(event):
        if isinstance(event, events.StepEnd) and event.step == 4:
            raise Crash

    train = rows(24)
    _, expected = fit(job(train), chosen("adamw", offload=True), tmp_path / "whole")
    with pytest.raises(Crash):
        fit(job(train), chosen("adamw", offload=True), tmp_path / "broken", crash)
    _, weights = fit(job(train), chosen("adamw", offload=True), tmp_path / "broken")
    assert all(torch.equal(weights[n], expected[n]) for n in expected)
