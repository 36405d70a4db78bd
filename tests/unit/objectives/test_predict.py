"""From the scores of a head to labels, probabilities, numbers and intervals."""

import math

import numpy as np
import pytest
import torch

from tunewright.core.errors import ConfigError, DataError, ModelError
from tunewright.objectives.predict import Prediction, class_probabilities, decisions, half_width, predict

LN = math.log


def facts(kind, labels=("a", "b", "c"), threshold=0.5):
    return {"task": "classify", "kind": kind, "labels": list(labels), "threshold": threshold}


def test_one_class():
    [first, second] = predict(torch.tensor([[0.0, LN(2), 0.0], [LN(8), 0.0, 0.0]]), facts("single"))
    assert (first.value, second.value) == ("b", "a") and first.interval is None
    assert first.probabilities == pytest.approx((0.25, 0.5, 0.25))
    assert second.probabilities == pytest.approx((0.8, 0.1, 0.1))


@pytest.mark.parametrize(
    ("threshold", "named"), [(0.5, ("a", "c")), (0.74, ("a",)), (0.76, ()), (0.2, ("a", "b", "c"))]
)
def test_several_classes(threshold, named):
    scores = torch.tensor([[LN(3), -LN(3), 0.0]])  # 3/4, 1/4, 1/2
    [found] = predict(scores, facts("multi", threshold=threshold))
    assert found.value == named and found.probabilities == pytest.approx((0.75, 0.25, 0.5))


@pytest.mark.parametrize(
    ("goes_on", "value", "probabilities"),
    [
        ((0.75, 2 / 3), "b", (0.25, 0.25, 0.5)),  # P(y > b) is 1/2, not more
        ((0.75, 0.7), "c", (0.25, 0.225, 0.525)),
        ((0.4, 0.9), "a", (0.6, 0.04, 0.36)),
        ((0.6, 0.5), "b", (0.4, 0.3, 0.3)),  # the median, though a is the most probable
    ],
)
def test_ordered_classes(goes_on, value, probabilities):
    scores = torch.tensor([[LN(p / (1 - p)) for p in goes_on]], dtype=torch.float64) - 1e-12
    [found] = predict(scores, facts("ordinal"))
    assert found.value == value and found.probabilities == pytest.approx(probabilities)


def test_the_median_is_the_rank_of_least_expected_distance():
    scores = torch.randn(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    p, ranks = class_probabilities(scores, "ordinal"), torch.arange(5.0, dtype=torch.float64)
    distance = p @ (ranks[:, None] - ranks).abs()
    assert torch.equal(decisions(scores, "ordinal"), distance.argmin(-1))


def test_numbers():
    scale = {"task": "regress", "mean": 10.0, "std": 4.0}
    scores = torch.tensor([[0.5], [-1.0]])
    assert predict(scores, scale) == [Prediction(12.0), Prediction(6.0)]
    wide = predict(scores, {**scale, "half_width": 1.5})
    assert [p.interval for p in wide] == [(10.5, 13.5), (4.5, 7.5)]


def test_rewards_and_unknown_heads():
    assert predict(torch.tensor([[0.5], [-2.0]]), {"task": "reward"}) == [Prediction(0.5), Prediction(-2.0)]
    with pytest.raises(ModelError, match="task 'value'; known: classify, regress, reward"):
        predict(torch.zeros(1, 1), {"task": "value"})
    with pytest.raises(ModelError, match="task None"):
        predict(torch.zeros(1, 1), {})


# --- prediction intervals


@pytest.mark.parametrize(
    ("n", "level", "kth"),
    [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (99, 0.95, 95), (99, 0.55, 55), (3, 0.5, 2), (4, 0.5, 3)],
)
def test_the_kth_smallest_residual(n, level, kth):
    """k = ceil((n + 1) level), by hand: 10 * 0.9 = 9, 11 * 0.9 = 9.9, 20 * 0.9 = 18, 100 * 0.95 = 95 …"""
    residuals = [(-1) ** i * float(i) for i in range(n, 0, -1)]
    assert half_width(residuals, level) == kth


@pytest.mark.parametrize(("n", "level", "needed"), [(8, 0.9, 9), (18, 0.95, 19), (0, 0.5, 1), (98, 0.99, 99)])
def test_too_few_residuals(n, level, needed):
    with pytest.raises(DataError, match=rf"{n} validation rows are too few .* at least {needed},"):
        half_width([1.0] * n, level)
    assert half_width([1.0] * needed, level) == 1.0


def test_levels_and_residuals_that_cannot_be():
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            half_width([1.0] * 50, level)
    with pytest.raises(DataError, match="not a finite number"):
        half_width([1.0] * 50 + [math.nan], 0.9)


@pytest.mark.parametrize("n", [12, 40])
def test_intervals_cover_as_often_as_promised(n):
    """Over many draws of n residuals and one new one: at least 0.9, and at most 1 / (n + 1) more."""
    rng = np.random.default_rng(n)
    draws = rng.standard_cauchy((20_000, n + 1))
    covered = np.mean([abs(row[-1]) <= half_width(row[:-1], 0.9) for row in draws])
    exact = math.ceil((n + 1) * 0.9) / (n + 1)
    assert 0.9 <= exact <= 0.9 + 1 / (n + 1) and covered == pytest.approx(exact, abs=0.008)
