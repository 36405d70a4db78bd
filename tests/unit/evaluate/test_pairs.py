"""Rewards of pairs by hand: accuracy, length bias, calibration."""

import math

import numpy as np
import pytest
from scipy import stats

from tunewright.core.errors import ConfigError, DataError
from tunewright.evaluate.pairs import LengthBias, calibration_error, length_bias, pair_scores, reliability

LN = math.log


def test_equal_rewards_are_half_right():
    assert pair_scores([2.0, 0.0, 1.0], [1.0, 3.0, 1.0]).tolist() == [1.0, 0.0, 0.5]


def test_length_bias_by_hand():
    """Leads 3, 1, -2, 2 and extra lengths 10, -5, -20, 0: ranks 4 2 1 3 and 4 2 1 3, so rho is 1."""
    found = length_bias([3, 1, 0, 2], [0, 0, 2, 0], [20, 10, 5, 7], [10, 15, 25, 7])
    assert found == LengthBias(pytest.approx(1.0), 1.0, 0.5, 1, 2)
    # leads 1, 2, 3 and extra lengths 3, 1, 2: squared differences of ranks 4, 1, 1, rho = 1 - 6 * 6 / 24
    found = length_bias([1, 2, 3], [0, 0, 0], [4, 2, 3], [1, 1, 1])
    assert found == LengthBias(pytest.approx(-0.5), 1.0, None, 3, 0)


def test_a_model_that_counts_tokens():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.integers(1, 60, (2, 400))
    found = length_bias(chosen, rejected, chosen, rejected)
    assert (found.correlation, found.accuracy_longer, found.accuracy_shorter) == (
        pytest.approx(1.0),
        1.0,
        0.0,
    )
    assert found.longer == (chosen > rejected).sum() and found.shorter == (chosen < rejected).sum()


def test_the_correlation_is_that_of_scipy():
    rng = np.random.default_rng(1)
    rewards, lengths = rng.normal(size=(2, 80)), rng.integers(1, 9, (2, 80))
    theirs = stats.spearmanr(rewards[0] - rewards[1], lengths[0] - lengths[1]).statistic
    assert length_bias(*rewards, *lengths).correlation == pytest.approx(float(theirs))


def test_lengths_that_never_vary_say_nothing():
    assert length_bias([1, 2], [0, 0], [3, 3], [3, 3]) == LengthBias(None, None, None, 0, 0)


def test_reliability_by_hand():
    """Confidence 3/4 (right), 3/4 (wrong), 4/5 (right) and 1/2 (a tie) in two bins of [1/2, 1]."""
    chosen, rejected = [LN(3), 0.0, LN(4), 1.0], [0.0, LN(3), 0.0, 1.0]
    bins = reliability(chosen, rejected, bins=1)
    assert [(b.low, b.high, b.n) for b in bins] == [(0.5, 1.0, 4)]
    assert (bins[0].confidence, bins[0].accuracy) == pytest.approx((2.8 / 4, 2.5 / 4))
    assert calibration_error(bins) == pytest.approx(0.3 / 4)
    low, middle, high = reliability(chosen, rejected, bins=10)  # 0.05 wide
    assert [b.n for b in (low, middle, high)] == [1, 2, 1]
    assert (low.low, low.confidence, low.accuracy) == (0.5, 0.5, 0.5)
    assert (middle.confidence, middle.accuracy) == pytest.approx((0.75, 0.5))
    assert high.low == pytest.approx(0.8) and high.accuracy == 1.0
    assert calibration_error([low, middle, high]) == pytest.approx((0 + 2 * 0.25 + 0.2) / 4)


def test_full_confidence_belongs_to_the_last_bin():
    [last] = reliability([800.0, 900.0], [0.0, 0.0], bins=4)
    assert (last.low, last.high, last.n, last.confidence) == (0.875, 1.0, 2, 1.0)


def test_outcomes_drawn_from_the_stated_probabilities_are_calibrated():
    rng = np.random.default_rng(2)
    lead = rng.normal(0, 2, 40_000)
    wins = rng.random(40_000) < 1 / (1 + np.exp(-lead))
    true, zeros = np.where(wins, lead, -lead), np.zeros(40_000)
    assert calibration_error(reliability(true, zeros)) < 0.01
    assert calibration_error(reliability(3 * true, zeros)) > 0.08  # three times too sure


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([], []), "at least one; got 0, 0"),
        (([1.0], [1.0, 2.0]), "got 1, 2"),
        (([1.0, math.nan], [0.0, 0.0]), "pair 2 has the value nan"),
    ],
)
def test_pairs_that_cannot_be(columns, message):
    for function in (pair_scores, reliability):
        with pytest.raises(DataError, match=message):
            function(*columns)
    with pytest.raises(ConfigError, match="bins is 0"):
        reliability([1.0], [0.0], bins=0)
    with pytest.raises(DataError, match="no pair"):
        calibration_error([])
