"""Weights that move within the backward pass: the same weights, far fewer bytes of gradients."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tiny import tiny_model
from tests.training import VOCAB, fit, job, rows, settings
from tunewright.adapt.base import Method, adapter_of
from tunewright.core import events
from tunewright.core.errors import ConfigError, TrainError
from tunewright.engine.batch import build_batch
from tunewright.engine.optim import OptimSettings
from tunewright.engine.projected import Projection
from tunewright.engine.step import backward
from tunewright.engine.updates import make_updates

NAMES = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "galore", "apollo")
PROJECTION = Projection(rank=8, every=2)


def chosen(in_backward, name="adamw", **changes):
    optim = OptimSettings(name=name, in_backward=in_backward, projection=PROJECTION)
    return settings(clip_norm=0.0, max_steps=4, optim=optim, **changes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("micro", [64, 24])
def test_the_weights_are_those_of_the_ordinary_update_to_the_last_bit(tmp_path, name, micro):
    norms = {True: [], False: []}
    ends = {}
    for early in norms:

        def observe(event, into=norms[early]):
            if isinstance(event, events.StepEnd):
                into.append(event.grad_norm)

        _, ends[early] = fit(
            job(rows(24)), chosen(early, name, micro_tokens=micro), tmp_path / str(early), observe
        )
    assert all(torch.equal(ends[True][n], ends[False][n]) for n in ends[False])
    assert norms[True] == pytest.approx(norms[False], rel=1e-5) and len(norms[True]) == 4


def test_bfloat16_is_rounded_the_same_in_any_order(tmp_path):
    ends = []
    for early in (True, False):
        the_job = job(rows(24))
        the_job.model.to(torch.bfloat16)
        the_job.forward.compute = torch.bfloat16
        ends.append(fit(the_job, chosen(early), tmp_path / str(early))[1])
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[1])


def peak_of_gradients(in_backward, groups):
    """Most bytes of gradients that parameters held at once in a step, and those of all of them together."""
    the_job = job([])
    parameters = dict(the_job.model.named_parameters())
    seen = []

    def note(parameter):
        seen.append(sum(p.grad.nbytes for p in parameters.values() if p.grad is not None))

    for parameter in parameters.values():
        parameter.register_post_accumulate_grad_hook(note)
    updates = make_updates(parameters, OptimSettings(in_backward=in_backward), 0.0)
    updates.set_rate(0.01)
    batches = [build_batch(group) for group in groups]
    backward(batches, the_job.objective, the_job.forward, str, last=updates.last_backward)
    left = sum(p.grad is not None for p in parameters.values())
    updates.finish("")
    assert left == (0 if in_backward else len(parameters))
    assert all(p.grad is None for p in parameters.values())
    return max(seen), sum(p.nbytes for p in parameters.values())


def test_gradients_are_freed_as_they_come():
    usual, all_of_them = peak_of_gradients(False, [rows(6)])
    early, _ = peak_of_gradients(True, [rows(6)])
    largest = max(p.nbytes for p in tiny_model("llama", VOCAB, tie_word_embeddings=True).parameters())
    assert usual == all_of_them
    assert early == largest and early < 0.15 * usual


def test_with_several_micro_batches_they_are_kept_until_the_last():
    several, all_of_them = peak_of_gradients(True, [rows(3), rows(3, seed=1)])
    assert several == all_of_them


def test_what_the_last_pass_does_not_reach_moves_too():
    reached, left = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    updates = make_updates({"a": reached, "b": left}, OptimSettings(in_backward=True), 0.0)
    updates.set_rate(0.1)
    (reached.sum() + 2 * left.sum()).backward()
    with updates.last_backward():
        reached.sum().backward()
    assert left.grad is not None and float(left.detach()[0]) == 1.0
    assert updates.finish("") == pytest.approx(math.sqrt(2 * 2**2 + 2 * 2**2))
    assert float(left.detach()[0]) == pytest.approx(0.9, abs=1e-6)


def test_outside_the_last_pass_gradients_add_up():
    parameter = nn.Parameter(torch.ones(2))
    updates = make_updates({"a": parameter}, OptimSettings(in_backward=True), 0.0)
    updates.set_rate(0.1)
    with updates.last_backward():
        parameter.sum().backward()
    parameter.sum().backward()
    parameter.sum().backward()
    assert torch.equal(parameter.grad, torch.full((2,), 2.0))


class Penalised(Method):
    """A penalty on all weights, as a method with a term of its own has it."""

    def attach(self, model):
        return adapter_of("full").attach(model)

    def penalty(self, model):
        return 0.01 * sum(p.square().sum() for p in model.parameters())


@pytest.mark.parametrize("micro", [64, 24])
def test_a_penalty_is_part_of_the_last_pass(tmp_path, micro):
    ends = [
        fit(job(rows(24), adapter=Penalised()), chosen(early, micro_tokens=micro), tmp_path / str(early))[1]
        for early in (True, False)
    ]
    plain = fit(job(rows(24)), chosen(False, micro_tokens=micro), tmp_path / "plain")[1]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[1])
    assert not any(torch.equal(ends[0][n], plain[n]) for n in plain)


def test_clipping_is_refused():
    with pytest.raises(
        ConfigError, match=r"cannot be clipped.*clip_norm 1\.0; set train\.optim\.clip_norm=0"
    ):
        make_updates({"a": nn.Parameter(torch.ones(2))}, OptimSettings(in_backward=True), 1.0)


@pytest.mark.parametrize("early", [True, False])
def test_a_loss_that_is_not_finite_moves_nothing(tmp_path, early):
    """The second micro-batch is poisoned by an objective that divides by zero there."""
    the_job = job(rows(8))
    before = {n: p.detach().clone() for n, p in the_job.model.named_parameters()}
    calls = []

    class Poisoned(type(the_job.objective)):
        def loss(self, forward, batch):
            out = super().loss(forward, batch)
            calls.append(batch)
            return replace(out, total=out.total / 0.0) if len(calls) == 2 else out

    the_job = replace(the_job, objective=Poisoned("sft", the_job.objective.options))
    with pytest.raises(TrainError, match=r"the loss is .*inf at step 1"):
        fit(the_job, chosen(early, micro_tokens=24, tokens_per_step=48), tmp_path)
    assert len(calls) > 2, "all losses of an update are read together"
    assert all(torch.equal(p, before[n]) for n, p in the_job.model.named_parameters())


def test_a_gradient_that_is_not_finite_is_not_applied():
    parameters = {"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2))}
    updates = make_updates(parameters, OptimSettings(in_backward=True), 0.0)
    updates.set_rate(0.1)
    bad = torch.tensor([1.0, float("inf")])
    with pytest.raises(TrainError, match=r"gradient of b is not finite.*lower train\.learning_rate"):  # noqa: SIM117
        with updates.last_backward():
            (parameters["a"].sum() + (bad * parameters["b"]).sum()).backward()
    assert torch.equal(parameters["b"].detach(), torch.ones(2))
