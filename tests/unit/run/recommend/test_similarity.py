"""From gradients to a score: worked values, and what must not decide."""

import numpy as np
import pytest
import torch

from tunewright.run.recommend.gradients import unit
from tunewright.run.recommend.similarity import resampled, similarities, top_mean

COSINES = np.array([[0.1, 0.9, 0.5, 0.3, 0.0], [0.2, 0.2, 0.2, 0.2, 0.7]])


def test_the_mean_of_the_best_fifth_is_worked_out():
    assert top_mean(COSINES) == pytest.approx((0.9 + 0.7) / 2)
    assert top_mean(COSINES, 0.4) == pytest.approx(((0.9 + 0.5) / 2 + (0.7 + 0.2) / 2) / 2)
    assert top_mean(COSINES, 0.3) == pytest.approx(((0.9 + 0.25) / 1.5 + (0.7 + 0.1) / 1.5) / 2)
    assert top_mean(COSINES, 1.0) == pytest.approx(COSINES.mean())


def test_resamples_of_a_plain_mean_vary_as_both_sides_do():
    draw = np.random.default_rng(0)
    cosines = draw.normal(0.3, 1.0, (40, 1)) + draw.normal(0.0, 0.5, (1, 30))
    values = resampled(cosines, 0, share=1.0)
    assert values.mean() == pytest.approx(cosines.mean(), abs=0.02)
    expected = np.sqrt(cosines.mean(1).var() / 40 + cosines.mean(0).var() / 30)
    assert values.std() == pytest.approx(expected, rel=0.1)
    assert np.array_equal(values, resampled(cosines, 0, share=1.0))


def made(seed, topic, style, count=30):
    """Unit vectors with a ``topic`` and a ``style`` direction of these weights, and noise."""
    draw = torch.Generator().manual_seed(seed)
    found = 0.1 * torch.randn(count, 64, generator=draw)
    found[:, 0] += style
    found[:, 1] += topic
    return unit(found)


def test_what_all_candidates_share_does_not_decide():
    """Short answers share a large direction with the problem; the right topic is the smaller part."""
    problem = made(0, topic=0.5, style=0.5)
    sets = {"right": made(1, 0.5, 0.2), "short": made(2, 0.0, 2.0), "other": made(3, -0.3, 0.5)}
    found = similarities(problem, sets, 0)
    assert found["short"].plain > found["other"].plain
    assert max(found, key=lambda name: found[name].score) == "right"
    assert found["right"].low > found["short"].high
    assert all(s.low <= s.score <= s.high for s in found.values())


def test_a_half_right_set_comes_between():
    problem = made(0, 0.5, 0.3)
    right, wrong = made(1, 0.5, 0.3), made(2, 0.0, 0.3)
    half = torch.cat([made(3, 0.5, 0.3, 15), made(4, 0.0, 0.3, 15)])
    found = similarities(problem, {"wrong": wrong, "half": half, "right": right}, 0)
    assert sorted(found, key=lambda name: -found[name].score) == ["right", "half", "wrong"]


def test_one_candidate_is_compared_as_it_is():
    problem, rows = made(0, 0.5, 0.5), made(1, 0.5, 0.5)
    found = similarities(problem, {"only": rows}, 0)["only"]
    assert found.score == pytest.approx(top_mean((problem @ rows.T).double().numpy()))
    assert found.score > 0.3
