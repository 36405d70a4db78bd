"""Weights in bfloat16: no update is lost, and learning is as good as with float32 weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.training import fit, job, rows, settings
from tunewright.engine import rounding
from tunewright.engine.optim import OptimSettings, make_optimizer, optimizer_state, set_rate
from tunewright.engine.rounding import Noise, RoundedAdamW, rounded
from tunewright.models.forward import ModelForward


def noise(shape, seed=0):
    return torch.empty(shape, dtype=torch.int32).random_(generator=torch.Generator().manual_seed(seed))


def test_rounding_goes_to_a_neighbour_and_its_mean_is_exact():
    exact = torch.tensor([1.0 + 2**-10, -1.0 - 3 * 2**-10, 0.3, -1e-20, 3.1e4]).repeat(20000, 1)
    low = rounded(exact, noise(exact.shape)).float()
    below = (exact.view(torch.int32) & -65536).view(torch.float32)
    above = ((exact.view(torch.int32) & -65536) + 65536).view(torch.float32)
    assert ((low == below) | (low == above)).all()
    # the standard error of the mean over 20000 draws is at most half a gap / sqrt(20000)
    gap = (above - below).abs()[0]
    assert ((low.mean(0) - exact[0]).abs() < 4 * 0.5 * gap / 20000**0.5).all()
    assert ((exact[0].bfloat16().float() - exact[0]).abs() > 0.05 * gap).any()  # the nearest is not exact


def test_what_bfloat16_can_hold_is_not_rounded():
    exact = torch.randn(10000).bfloat16().float()
    assert torch.equal(rounded(exact, noise(exact.shape)).float(), exact)
    special = torch.tensor([0.0, float("inf"), -float("inf")])
    assert torch.equal(rounded(special, noise(3)).float(), special)


def test_4096_updates_of_a_4096th_move_a_weight_as_far_as_in_float32():
    exact = torch.ones(2000)
    near, random = exact.bfloat16(), exact.bfloat16()
    bits = Noise("w", exact.device)
    for _ in range(4096):
        exact += 2**-12
        near = (near.float() + 2**-12).bfloat16()
        bits.write(random, random.float() + 2**-12)
    assert exact[0] == 2.0
    assert (near == 1.0).all()  # not one of the updates was applied
    assert float(random.float().mean()) == pytest.approx(2.0, abs=0.01)
    assert float(random.float().std()) < 0.1


def one_matrix(dtype, seed=0):
    torch.manual_seed(seed)
    return nn.Parameter(torch.randn(40, 30).to(dtype))


def test_in_float32_it_is_adamw():
    ours, theirs = one_matrix(torch.float32), one_matrix(torch.float32)
    rounding_one = RoundedAdamW(
        [{"params": [ours], "names": ["w"], "weight_decay": 0.1, "lr": 0.01}], (0.9, 0.95)
    )
    torchs = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(20):
        ours.grad = theirs.grad = torch.randn(40, 30, generator=torch.Generator().manual_seed(step))
        rounding_one.step()
        torchs.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_weights_and_moments_take_two_bytes_each():
    parameter = one_matrix(torch.bfloat16)
    optimizer = make_optimizer({"w": parameter}, OptimSettings())
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer_state(optimizer, {"w": parameter})
    assert {n: t.dtype for n, t in state.items() if t.dim()} == {
        "w/first": torch.bfloat16,
        "w/second": torch.bfloat16,
    }
    assert sum(t.nbytes for t in state.values()) == 2 * 2 * 1200 + 8


def test_the_noise_depends_on_seed_and_name_and_on_nothing_else(monkeypatch):
    def moved(seed, name, draws=0, chunk=rounding.CHUNK):
        monkeypatch.setattr(rounding, "CHUNK", chunk)
        parameter = one_matrix(torch.bfloat16)
        optimizer = make_optimizer({name: parameter}, OptimSettings())
        set_rate(optimizer, 1e-3)
        torch.manual_seed(seed)
        torch.rand(draws)
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return parameter.detach()

    assert torch.equal(moved(1, "w"), moved(1, "w", draws=5))
    assert not torch.equal(moved(1, "w"), moved(2, "w"))
    assert not torch.equal(moved(1, "w"), moved(1, "v"))
    in_pieces = moved(1, "w", chunk=100)
    assert float((in_pieces.float() - moved(1, "w").float()).abs().max()) < 2**-6 * 4


def in_bfloat16(the_job):
    the_job.model.to(torch.bfloat16)
    return replace(the_job, forward=ModelForward(the_job.model, compute=torch.bfloat16))


def test_it_learns_as_well_as_float32(tmp_path):
    """The rule of these rows, from a loss of 4.1 to about a thousandth of that."""
    chosen = settings(epochs=14, tokens_per_step=128, micro_tokens=128)
    train, validation = rows(60), rows(20, seed=5)
    exact, _ = fit(job(train, validation), chosen, tmp_path / "float32")
    half, weights = fit(in_bfloat16(job(train, validation)), chosen, tmp_path / "bfloat16")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert half.best < 0.01
    assert half.best == pytest.approx(exact.best, rel=0.25)
