"""The optimizers of bitsandbytes: which one, how much they remember, and that they learn as AdamW does."""

import pytest
import torch
from torch import nn

from tests.training import fit, job, rows, settings
from tunewright.core.errors import ConfigError
from tunewright.engine import bits
from tunewright.engine.bits import IN_BITS, check_installed, make_bits, resolved_name, unpaged
from tunewright.engine.optim import OptimSettings, make_optimizer, optimizer_state, set_rate

pytest.importorskip("bitsandbytes")


def test_the_paged_optimizer_is_chosen_on_cuda_over_a_quantised_base():
    assert resolved_name("auto", "cuda", quantised=True) == "paged_adamw"
    assert resolved_name("auto", "cuda", quantised=False) == "adamw"
    assert resolved_name("auto", "cpu", quantised=True) == "adamw"
    assert resolved_name("auto", "mps", quantised=True) == "adamw"
    assert resolved_name("galore", "cuda", quantised=True) == "galore"


@pytest.mark.parametrize("name", sorted(IN_BITS))
def test_on_the_cpu_it_is_unpaged_and_the_library_has_nothing_to_warn_of(name):
    parameter = nn.Parameter(torch.ones(100, 100))
    optimizer = make_optimizer({"w": parameter}, OptimSettings(name=name))
    assert not optimizer.is_paged
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # a warning would be an error here
    kind = torch.uint8 if unpaged(name).endswith("8bit") else torch.float32
    assert optimizer.state[parameter]["state1"].dtype == kind


@pytest.mark.parametrize(("name", "eight"), [("paged_adamw", False), ("paged_adamw_8bit", True)])
def test_on_a_gpu_it_is_paged(name, eight):
    group = {"params": [nn.Parameter(torch.ones(3))], "names": ["w"], "weight_decay": 0.0, "times": 1.0}
    optimizer = make_bits(name, [group], (0.9, 0.95), torch.device("cuda"))
    assert optimizer.is_paged and optimizer.args.optim_bits == (8 if eight else 32)


def test_eight_bits_take_a_quarter_of_the_memory():
    def size(name):
        parameters = {"w": nn.Parameter(torch.ones(512, 256)), "small": nn.Parameter(torch.ones(63, 65))}
        optimizer = make_optimizer(parameters, OptimSettings(name=name))
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        state = optimizer_state(optimizer, parameters)
        assert {key.partition("/")[2] for key in state} == (
            {"step", "state1", "state2"} | ({"absmax1", "absmax2"} if name == "adamw_8bit" else set())
        )
        return {n: sum(t.nbytes for k, t in state.items() if k.startswith(n)) for n in parameters}

    wide, narrow = size("paged_adamw"), size("adamw_8bit")
    assert wide["w"] == 2 * 4 * 512 * 256 + 8
    assert narrow["w"] == 2 * 512 * 256 + 2 * 4 * 512 + 8  # a scale for each block of 256
    assert narrow["small"] == wide["small"] == 2 * 4 * 63 * 65 + 8  # below 4096 numbers: 32 bits


def test_in_32_bits_it_moves_as_adamw_does():
    def moved(name):
        parameter = nn.Parameter(torch.ones(80, 80))
        optimizer = make_optimizer({"w": parameter}, OptimSettings(name=name, weight_decay=0.1))
        for step in range(10):
            set_rate(optimizer, 0.01 * (step + 1))
            parameter.grad = torch.randn(80, 80, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(moved("paged_adamw"), moved("adamw"), rtol=1e-4, atol=1e-5)
    assert 1e-4 < float((moved("adamw_8bit") - moved("adamw")).abs().max()) < 0.2


def test_eight_bits_learn_as_well(tmp_path):
    best = {}
    for name in ("adamw", "adamw_8bit"):
        chosen = settings(epochs=9, tokens_per_step=128, micro_tokens=128, optim=OptimSettings(name=name))
        best[name] = fit(job(rows(60), rows(20, seed=5)), chosen, tmp_path / name)[0].best
    assert best["adamw_8bit"] < 0.1
    assert best["adamw_8bit"] == pytest.approx(best["adamw"], rel=0.25)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(bits, "find_spec", lambda name: None)
    check_installed("adamw")
    with pytest.raises(
        ConfigError, match=r"'adamw_8bit' needs bitsandbytes: pip install 'tunewright\[quant\]'"
    ):
        check_installed("adamw_8bit")
