"""Metrics of numbers, against numbers worked out by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.compare import paired
from tunewright.evaluate.metrics import METRICS

SAID, RIGHT = [2.0, 4.0, 6.0, 9.0], [1.0, 4.0, 8.0, 7.0]


def value(name, predictions, references):
    metric = METRICS[name]
    return metric.aggregate(metric.rows(predictions, references))


def test_errors_by_hand():
    assert value("mae", SAID, RIGHT) == pytest.approx((1 + 0 + 2 + 2) / 4)
    assert value("rmse", SAID, RIGHT) == pytest.approx(((1 + 0 + 4 + 4) / 4) ** 0.5)
    assert value("r2", SAID, RIGHT) == pytest.approx(1 - 9 / 30)  # mean 5: 16 + 1 + 9 + 4


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_as_scikit_learn_has_them(shift):
    rng = np.random.default_rng(0)
    right = rng.normal(shift, 3, 300)
    said = right + rng.normal(0.5, 2, 300)
    for name, reference in (
        ("mae", mean_absolute_error),
        ("rmse", root_mean_squared_error),
        ("r2", r2_score),
    ):
        assert value(name, list(said), list(right)) == pytest.approx(reference(right, said), rel=1e-6), name


def test_the_mean_explains_nothing_and_labels_that_never_vary_give_no_nonsense():
    assert value("r2", [5.0] * 4, RIGHT) == pytest.approx(0.0)
    assert value("r2", [3.0, 3.0], [3.0, 3.0]) == 0.0
    assert value("r2", [4.0, 3.0], [3.0, 3.0]) == -1.0
    rows = METRICS["r2"].rows(SAID, RIGHT)
    assert METRICS["r2"].per_row(rows) == pytest.approx([-1, 0, -4, -4])


def test_intervals_by_hand():
    around = [(1.0, 3.0), (5.0, 6.0), (8.0, 9.0), (0.0, 10.0)]
    assert value("interval_coverage", around, RIGHT) == pytest.approx(3 / 4)  # the bounds belong to it
    assert value("interval_width", around, RIGHT) == pytest.approx((2 + 1 + 1 + 10) / 4)


def test_less_error_wins():
    for name in ("mae", "rmse"):
        metric = METRICS[name]
        assert not metric.higher_is_better
        worse, better = metric.rows(SAID * 10, RIGHT * 10), metric.rows(RIGHT * 10, RIGHT * 10)
        change = paired(metric, worse, better)
        assert (change.wins, change.losses, change.ties) == (30, 0, 10) and change.high < 0
        found = interval(metric, worse)
        assert found.low < found.value < found.high
