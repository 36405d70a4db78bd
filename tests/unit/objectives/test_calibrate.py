"""The temperature that is fitted, against one worked out by hand and against one that was put in."""

import math

import pytest
import torch

from tunewright.objectives.calibrate import best_temperature
from tunewright.objectives.head_losses import CLASS_LOSSES


def test_two_scores_by_hand():
    """Scores (2, 0) n times, right 3 of 4 times: sigmoid(2 / T) = 3/4, so T = 2 / log 3, for large n."""
    n = 40_000
    scores = torch.tensor([[2.0, 0.0]] * n, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1] * (n // 4))
    assert best_temperature(scores, labels, "single") == pytest.approx(2 / math.log(3), rel=1e-3)


@pytest.mark.parametrize("kind", ["single", "multi", "ordinal"])
@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_a_temperature_that_was_put_in_comes_out(kind, true):
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(6000, 3, generator=generator, dtype=torch.float64) * 2
    if kind == "multi":
        labels = torch.bernoulli(honest.sigmoid(), generator=generator)
    elif kind == "single":
        labels = torch.multinomial(honest.softmax(-1), 1, generator=generator)[:, 0]
    else:
        beyond = torch.bernoulli(honest.sigmoid(), generator=generator)
        labels = beyond.cumprod(dim=-1).sum(dim=-1).long()  # how many questions in a row were answered yes
    assert best_temperature(honest * true, labels, kind) == pytest.approx(true, rel=0.06)


def test_few_rows_that_are_all_right_make_nothing_certain():
    scores = torch.tensor([[3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    found = best_temperature(scores, torch.tensor([0, 1]), "single")
    assert 0.5 < found < 1.0  # without a prior it would fall as far as it may

    def cost(t):
        losses = CLASS_LOSSES["single"](scores / t, torch.tensor([0, 1]), torch.ones(2).double(), 0.0)
        return float(losses.sum()) + math.log(t) ** 2 / 2

    assert cost(found) <= min(cost(found * 1.01), cost(found / 1.01))


def test_scores_that_say_nothing_stay_as_they_are():
    scores = torch.zeros(10, 3, dtype=torch.float64)
    assert best_temperature(scores, torch.arange(10) % 3, "single") == pytest.approx(1.0, abs=1e-4)
