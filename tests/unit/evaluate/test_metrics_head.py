"""Metrics of what a head names, against scikit-learn and against numbers worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.compare import paired
from tunewright.evaluate.metrics import METRICS

RIGHT = [("a",), ("a", "b"), ("c",), ("b", "c"), (), ("a",)]
NAMED = [("a",), ("b",), ("a", "c"), ("c", "b"), ("c",), ()]


def value(name, predictions, references):
    metric = METRICS[name]
    return metric.aggregate(metric.rows(predictions, references))


def test_several_labels_by_hand():
    # hits 1 1 1 2 0 0 = 5, named 1 1 2 2 1 0 = 7, there 1 2 1 2 0 1 = 7
    assert value("label_f1", NAMED, RIGHT) == pytest.approx(10 / 14)
    assert value("label_exact", NAMED, RIGHT) == pytest.approx(2 / 6)
    # a: 1 hit, named 2, there 3; b: 2 hits, 2, 2; c: 2 hits, 3, 2
    assert value("label_macro_f1", NAMED, RIGHT) == pytest.approx((2 / 5 + 1 + 4 / 5) / 3)


def test_several_labels_as_scikit_learn_counts_them():
    rng = np.random.default_rng(0)
    draw = lambda: [tuple(x for x in "abcd" if rng.random() < 0.4) for _ in range(200)]  # noqa: E731
    right, named = draw(), draw()
    binary = MultiLabelBinarizer(classes=list("abcd"))
    y, z = binary.fit_transform(right), binary.transform(named)
    assert value("label_f1", named, right) == pytest.approx(f1_score(y, z, average="micro"))
    assert value("label_macro_f1", named, right) == pytest.approx(f1_score(y, z, average="macro"))
    assert value("label_exact", named, right) == pytest.approx((y == z).all(axis=1).mean())


def test_rows_of_several_labels_alone():
    for name, expected in (
        ("label_f1", [1, 2 / 3, 2 / 3, 1, 0, 0]),
        ("label_macro_f1", [1, 1 / 2, 1, 1, 0, 0]),
        ("label_exact", [1, 0, 0, 1, 0, 0]),
    ):
        metric = METRICS[name]
        assert metric.per_row(metric.rows(NAMED, RIGHT)) == pytest.approx(expected), name
    nothing = METRICS["label_f1"]
    assert nothing.aggregate(nothing.rows([()], [()])) == 1.0
    rows = METRICS["label_macro_f1"].rows([(), ("a",)], [(), ("a",)])
    assert METRICS["label_macro_f1"].per_row(rows).tolist() == [1.0, 1.0]


def test_a_label_that_no_reference_has_costs_precision_of_the_others_only():
    assert value("label_macro_f1", [("a", "z")], [("a",)]) == 1.0
    assert value("label_f1", [("a", "z")], [("a",)]) == pytest.approx(2 / 3)


def test_ranks():
    assert value("rank_error", [0, 2, 1, 4], [0, 0, 2, 4]) == pytest.approx(3 / 4)
    assert not METRICS["rank_error"].higher_is_better


def test_calibration_error_by_hand():
    # bins of 1/15: 0.95 and 0.99 share the last; 0.5 and 0.51 share the eighth; 0.3 stands alone
    sure = [0.95, 0.99, 0.5, 0.51, 0.3]
    right = [True, False, True, True, False]
    expected = (abs(0.94) + abs(0.5 + 0.51 - 2) + 0.3) / 5
    assert value("calibration_error", sure, right) == pytest.approx(expected)
    assert value("calibration_error", [1.0, 0.0], [True, False]) == 0.0
    assert value("calibration_error", [1.0], [False]) == 1.0


def test_calibration_error_against_the_definition():
    rng = np.random.default_rng(1)
    sure = rng.uniform(0.2, 1, 500)
    right = rng.random(500) < 0.6  # too sure here, not sure enough there
    total = 0.0
    for b in range(15):
        inside = (sure >= b / 15) & ((sure < (b + 1) / 15) | (b == 14))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert value("calibration_error", list(sure), list(right)) == pytest.approx(total)
    honest = rng.random(5000)
    assert value("calibration_error", list(honest), list(rng.random(5000) < honest)) < 0.03


@pytest.mark.parametrize(("name", "wins"), [("label_f1", 32), ("label_macro_f1", 24), ("label_exact", 32)])
def test_intervals_and_differences_hold(name, wins):
    metric = METRICS[name]
    good, bad = metric.rows(RIGHT * 8, RIGHT * 8), metric.rows(NAMED * 8, RIGHT * 8)
    found = interval(metric, bad)
    assert found.low < found.value < found.high
    change = paired(metric, bad, good)
    assert change.low > 0 and change.wins == wins and change.losses == 0
