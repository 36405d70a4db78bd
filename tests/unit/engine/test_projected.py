"""GaLore and APOLLO: the state of a matrix in few directions, and updates that still learn."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.training import fit, job, rows, settings
from tunewright.core.errors import ConfigError
from tunewright.engine.optim import OptimSettings, make_optimizer, optimizer_state, set_rate
from tunewright.engine.projected import GROWTH, Projection, main_directions, random_directions
from tunewright.engine.updates import make_updates

PAIR = pytest.mark.parametrize("name", ["galore", "apollo"])


def grad_of(shape, step):
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def stepped(name, shape, projection, steps=1, rate=1.0, grads=grad_of):
    """The weights, which start at zero, and the optimizer after ``steps``."""
    parameter = nn.Parameter(torch.zeros(shape))
    chosen = OptimSettings(name=name, weight_decay=0.0, projection=projection)
    optimizer = make_optimizer({"w": parameter}, chosen)
    set_rate(optimizer, rate)
    for step in range(steps):
        parameter.grad = grads(shape, step)
        optimizer.step()
    return parameter.detach(), optimizer, optimizer_state(optimizer, {"w": parameter})


@PAIR
@pytest.mark.parametrize("shape", [(48, 200), (200, 48)])
def test_the_state_of_a_matrix_is_of_the_rank_and_not_of_the_matrix(name, shape):
    _, _, state = stepped(name, shape, Projection(rank=4))
    numbers = sum(t.numel() for t in state.values() if t.dim())
    assert numbers == {"galore": 4 * 48 + 2 * 4 * 200, "apollo": 2 * 4 * 200}[name]
    assert numbers * 10 < 2 * 48 * 200  # AdamW keeps two numbers for each weight


def test_a_whole_model_needs_a_fifth_of_the_state():
    def size(name):
        the_job = job([])
        parameters = dict(the_job.model.named_parameters())
        optimizer = make_optimizer(parameters, OptimSettings(name=name, projection=Projection(rank=4)))
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return sum(t.nbytes for t in optimizer_state(optimizer, parameters).values())

    adamw = size("adamw")
    assert size("galore") < 0.2 * adamw and size("apollo") < 0.15 * adamw


def test_galore_directions_are_the_singular_vectors():
    grad = grad_of((30, 80), 0)
    ours, theirs = main_directions(grad, 5), torch.linalg.svd(grad).U[:, :5]
    torch.testing.assert_close((ours.T @ theirs).abs(), torch.eye(5), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_galore_moves_along_adam_of_the_projected_gradient(shape):
    """Two steps by hand in the basis of the first gradient; a moment later than that it would be stale."""
    weights, _, _ = stepped("galore", shape, Projection(2, every=5, scale=0.5), steps=2, rate=0.1)
    grads = [grad_of(shape, s) if shape[0] < shape[1] else grad_of(shape, s).T for s in (0, 1)]
    basis = torch.linalg.svd(grads[0]).U[:, :2]
    first = second = torch.zeros(2, 9)
    expected = torch.zeros(6, 9)
    for step, grad in enumerate(grads, 1):
        low = basis.T @ grad
        first, second = 0.9 * first + 0.1 * low, 0.95 * second + 0.05 * low**2
        move = (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
        expected -= 0.1 * 0.5 * basis @ move
    torch.testing.assert_close(weights if shape[0] < shape[1] else weights.T, expected, rtol=1e-3, atol=1e-5)


def test_galore_looks_for_new_directions_after_the_period():
    *_, two = stepped("galore", (8, 20), Projection(2, every=2), steps=2)
    *_, three = stepped("galore", (8, 20), Projection(2, every=2), steps=3)
    torch.testing.assert_close(two["w/directions"], main_directions(grad_of((8, 20), 0), 2))
    torch.testing.assert_close(three["w/directions"], main_directions(grad_of((8, 20), 2), 2))


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_apollo_scales_the_columns_of_the_gradient(shape):
    """The first step by hand: Adam's direction is the sign then, and a column's scale sqrt(rank) / |R_j|."""
    weights, _, _ = stepped("apollo", shape, Projection(2, scale=1.0), rate=0.1)
    flat = shape[0] < shape[1]
    grad = grad_of(shape, 0) if flat else grad_of(shape, 0).T
    low = random_directions(2, 6, ("w", 0), torch.device("cpu")) @ grad
    expected = -0.1 * grad * math.sqrt(2) / low.norm(dim=0)
    torch.testing.assert_close(weights if flat else weights.T, expected, rtol=1e-4, atol=1e-6)


def test_apollo_directions_keep_lengths_and_change_with_the_period():
    device = torch.device("cpu")
    lengths = torch.stack(
        [(random_directions(8, 50, (i,), device) @ torch.ones(50) / math.sqrt(50)).norm() for i in range(400)]
    )
    assert float((lengths**2).mean()) == pytest.approx(1.0, abs=0.1)
    grads = lambda shape, step: grad_of(shape, 7)  # noqa: E731
    same, other = (stepped("apollo", (6, 9), Projection(2, every=e), 2, grads=grads)[0] for e in (5, 1))
    assert float((same - other).abs().max()) > 1e-3


def test_apollo_updates_grow_by_a_hundredth_at_most():
    """Gradients that grow tenfold at each step, over second moments that still remember the small ones."""
    before, lengths = torch.zeros(6, 9), []
    for steps in range(1, 6):
        now, _, _ = stepped(
            "apollo", (6, 9), Projection(2), steps, grads=lambda shape, s: grad_of(shape, s) * 10.0**s
        )
        lengths.append(float((now - before).norm()))
        before = now
    growth = [b / a for a, b in pairwise(lengths)]
    assert max(growth) == pytest.approx(GROWTH, rel=1e-3)


def test_a_gradient_of_zero_moves_nothing_and_spoils_nothing():
    for name in ("galore", "apollo"):
        zero = lambda shape, step: torch.zeros(shape) if step == 0 else grad_of(shape, step)  # noqa: E731
        still, _, _ = stepped(name, (6, 9), Projection(2, every=1), 1, grads=zero)
        moved, _, _ = stepped(name, (6, 9), Projection(2, every=1), 2, grads=zero)
        assert not still.any() and moved.isfinite().all() and moved.abs().max() > 0.01


@PAIR
def test_without_a_scale_updates_are_as_large_as_those_of_adamw(name):
    weights, _, _ = stepped(name, (64, 256), Projection(rank=16), rate=1.0)
    assert float(weights.square().mean().sqrt()) == pytest.approx(1.0, rel=0.15)


@PAIR
def test_vectors_and_small_matrices_are_moved_by_adamw(name):
    for shape in ((40,), (4, 100), (100, 4)):
        ours, _, _ = stepped(name, shape, Projection(rank=4), 3, rate=0.01)
        theirs, _, _ = stepped("adamw", shape, Projection(rank=4), 3, rate=0.01)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@PAIR
def test_weights_decay_and_bfloat16_is_rounded_at_random(name):
    parameter = nn.Parameter(torch.ones(500, 20, dtype=torch.bfloat16))
    optimizer = make_optimizer(
        {"w": parameter}, OptimSettings(name=name, weight_decay=0.5, projection=Projection(2))
    )
    set_rate(optimizer, 2**-10)
    for step in range(40):
        torch.manual_seed(step)
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert float(parameter.detach().float().mean()) == pytest.approx((1 - 2**-11) ** 40, abs=1e-3)


@PAIR
def test_it_learns(name, tmp_path):
    """The rule of these rows with a rank of 8 in matrices of 64: from 4.1 to below 1."""
    chosen = settings(
        epochs=14,
        tokens_per_step=128,
        micro_tokens=128,
        optim=OptimSettings(name=name, projection=Projection(rank=8, every=10)),
    )
    result, _ = fit(job(rows(60), rows(20, seed=5)), chosen, tmp_path)
    assert result.best < 1.0 < math.log(60)


@PAIR
def test_a_rank_that_no_matrix_exceeds_is_refused(name):
    parameters = dict(job([]).model.named_parameters())
    with pytest.raises(ConfigError, match=r"rank 64 saves nothing here.*at most 64\); lower it"):
        make_updates(parameters, OptimSettings(name=name, projection=Projection(rank=64)), 1.0)
