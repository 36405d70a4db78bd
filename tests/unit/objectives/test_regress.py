"""Regression: the scale of the rows, worked losses, refusals, and a number that is learnt."""

import math
import random
import statistics

import pytest
import torch

from tests.heads import Given, Numbers, encoded, labelled, learned, objective, scores_of
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Meta, Text
from tunewright.engine.batch import build_batch
from tunewright.objectives.base import Objective
from tunewright.objectives.predict import half_width, predict

ROWS = [labelled("1 2", 2.0, 1), labelled("3", 4, 2), labelled("4", "12", 3)]  # mean 6, deviations -4, -2, 6
STD = math.sqrt(56 / 3)


def fitted(rows=ROWS, **options):
    return objective("regress", **options).fitted(rows)


def test_the_scale_is_that_of_the_training_rows():
    before = objective("regress")
    after = before.fitted(ROWS)
    assert (after.mean, after.std) == pytest.approx((6.0, STD)) and before.std == 0.0
    head = after.heads["score"]
    assert (head.outputs, head.pooling, head.bias, head.rate) == (1, "last", False, 1.0)
    assert head.facts == {"task": "regress", "mean": after.mean, "std": after.std}
    assert isinstance(after, Objective) and after.judged == "numbers"
    other = fitted(pooling="mean", head_rate=2.0).heads["score"]
    assert (other.pooling, other.bias, other.rate) == ("mean", True, 2.0)


def test_a_row_is_read_as_context_with_its_standardised_number():
    [tokens] = fitted().encode(ROWS[0], Numbers())
    assert (tokens.ids, tokens.weights, tokens.meta) == ([1, 2], [0.0, 0.0], ROWS[0].meta)
    assert tokens.extras == {"label": pytest.approx(-4 / STD)}
    assert fitted().encode(ROWS[0], Numbers(longest=1)) == []


@pytest.mark.parametrize(
    ("loss", "worked"),
    [
        # scores 0, 0, 0 against -4/s, -2/s, 6/s
        ("squared", 56 / STD**2),
        ("absolute", 12 / STD),
        ("huber", (4 / STD) ** 2 / 2 + (2 / STD) ** 2 / 2 + 6 / STD - 0.5),
    ],
)
def test_worked_losses(loss, worked):
    what = fitted(loss=loss)
    batch = build_batch(encoded(what, ROWS))
    found = what.loss(Given([[0.0]] * 3), batch)
    assert float(found.total.detach()) == pytest.approx(worked, rel=1e-6) and float(what.count(batch)) == 3
    error = found.metrics["absolute_error"]
    assert [float(v) for v in error] == pytest.approx([12.0, 3.0])  # in the unit of the labels


@pytest.mark.parametrize(
    "label", [True, "warm", "", ("1",), math.nan, math.inf, "nan", "1_000", "1e999", 10**400], ids=repr
)
def test_a_label_that_is_no_number(label):
    with pytest.raises(DataError, match=r"rows.jsonl:8: the label is .* finite number; correct the row"):
        objective("regress").fitted([*ROWS, labelled("1", label, 8)])
    with pytest.raises(DataError, match=r"rows.jsonl:8"):
        fitted().encode(labelled("1", label, 8), Numbers())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "0 training rows hold no number"),
        (ROWS[:1], "1 training rows hold only the number 2"),
        ([labelled("1", 0.1), labelled("2", "0.1"), labelled("3", 0.1)], "3 training rows hold only"),
        ([labelled("1", 1e308), labelled("2", -1e308)], "write them in another unit"),
    ],
)
def test_rows_without_a_scale(rows, message):
    with pytest.raises(DataError, match=message):
        objective("regress").fitted(rows)


def test_a_row_of_another_kind():
    with pytest.raises(ConfigError, match=r"a.txt:2 is a text row"):
        objective("regress").fitted([Text("words", Meta("a.txt", 2))])


@pytest.mark.parametrize(("loss", "pooling"), [("squared", "last"), ("huber", "mean")])
def test_a_number_is_learnt_and_its_intervals_hold(tmp_path, loss, pooling):
    """The number is 1000 and the mean of six digits; R2 on rows that were not seen is over 0.9."""
    torch.set_num_threads(1)
    rng = random.Random(0)
    rows = []
    for _ in range(700):
        ids = [rng.randrange(10) for _ in range(6)]
        rows.append(labelled(" ".join(map(str, ids)), 1000 + statistics.fmean(ids)))
    train, held, test = rows[300:], rows[:150], rows[150:300]
    what = fitted(train, loss=loss, pooling=pooling)
    forward = learned(what, train, tmp_path, steps=120)
    facts = what.heads["score"].facts

    def values(part, **more):
        return predict(scores_of(forward, what, part), {**facts, **more})

    residuals = [p.value - row.label for p, row in zip(values(held), held, strict=True)]
    found = values(test, half_width=half_width(residuals, 0.9))
    truth = [row.label for row in test]
    unexplained = sum((p.value - y) ** 2 for p, y in zip(found, truth, strict=True))
    print("R2", loss, 1 - unexplained / (statistics.pvariance(truth) * len(truth)))
    assert 1 - unexplained / (statistics.pvariance(truth) * len(truth)) > 0.9
    covered = sum(p.interval[0] <= y <= p.interval[1] for p, y in zip(found, truth, strict=True))
    assert 0.8 < covered / len(truth) < 0.98
