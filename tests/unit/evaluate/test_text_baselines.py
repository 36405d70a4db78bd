"""Classical baselines: what they predict, how sure they are, and what they reach on real questions."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tunewright.core.errors import DataError
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.text_baselines import Known, majority, mean, naive_bayes, ridge

BANKING = Path(__file__).resolve().parents[4] / "shared" / "data" / "cls_banking77"
TEXTS = ["card is lost", "lost my card", "loan rate please", "what loan rate", "card stolen"]
LABELS = ["card", "loan"]


def test_the_most_frequent_label():
    [first, second] = majority(Known(TEXTS, ["card", "card", "loan", "loan", "card"]), ["x", "y"], LABELS)
    assert first == second and first.value == "card" and first.probabilities == (0.6, 0.4)
    tie = majority(Known(TEXTS[:2], ["loan", "card"]), ["x"], LABELS)
    assert tie[0].value == "card"  # the first in the alphabet


def test_the_most_frequent_set_of_labels():
    sets = [("card",), ("card", "loan"), ("loan",), ("card", "loan"), ("card",)]
    [found] = majority(Known(TEXTS, sets), ["x"], LABELS)
    assert found.value == ("card",) and found.probabilities == (0.8, 0.6)


def test_naive_bayes_by_hand():
    """One word of each class: p(w | c) = (count + 0.1) / (words of c + 0.1 V), prior 2/3 and 1/3."""
    train = Known(["card", "card", "loan"], ["a", "a", "b"])
    [found] = naive_bayes(train, ["loan"], ["a", "b"])
    a, b = 2 / 3 * (0.1 / 2.2), 1 / 3 * (1.1 / 1.2)
    assert found.value == "b" and found.probabilities == pytest.approx((a / (a + b), b / (a + b)))
    [swapped] = naive_bayes(train, ["loan"], ["b", "a"])  # in the order of the labels
    assert swapped.probabilities == pytest.approx((b / (a + b), a / (a + b)))


def test_naive_bayes_of_several_labels():
    train = Known(TEXTS, [("card",), ("card",), ("loan",), ("loan",), ("card",)])
    found = naive_bayes(train, ["my card was stolen", "loan rate", "lost card, loan rate"], LABELS)
    assert [p.value for p in found[:2]] == [("card",), ("loan",)]
    assert all(len(p.probabilities) == 2 for p in found)
    always = naive_bayes(Known(TEXTS, [("card",)] * 5), ["loan"], LABELS)
    assert always[0].value == ("card",) and always[0].probabilities == (1.0, 0.0)


def test_the_mean_with_its_interval():
    values = [float(i) for i in range(40)]
    found = mean(Known(["x"] * 40, values), ["a", "b"], 0.9)
    assert [p.value for p in found] == [19.5, 19.5]
    left_out = sorted(abs(v - (sum(values) - v) / 39) for v in values)
    half = left_out[37 - 1]  # ceil(41 * 0.9) = 37
    assert found[0].interval == pytest.approx((19.5 - half, 19.5 + half))
    assert mean(Known(["x"] * 3, [1.0, 2.0, 3.0]), ["a"], 0.9)[0].interval is None


def test_ridge_reads_words():
    rng = np.random.default_rng(0)
    words = {"small": 1.0, "large": 9.0, "huge": 20.0}
    names = [list(words)[i % 3] for i in range(150)]
    texts = [f"a {name} thing {TEXTS[i % 5]}" for i, name in enumerate(names)]
    values = [words[name] + rng.normal(0, 0.5) for name in names]
    found = ridge(Known(texts[:120], values[:120]), texts[120:], 0.9)
    error = np.abs([p.value - v for p, v in zip(found, values[120:], strict=True)])
    assert error.mean() < 1.0
    inside = [p.interval[0] <= v <= p.interval[1] for p, v in zip(found, values[120:], strict=True)]
    assert sum(inside) >= 24
    assert found[0].interval[1] - found[0].interval[0] < 8


@pytest.mark.parametrize("method", [naive_bayes, ridge])
def test_texts_without_words_are_an_error(method):
    with pytest.raises(DataError, match="hold no words to count"):
        method(Known(["!", "?", ".", ",", ";"], [1.0, 2.0, 1.0, 2.0, 1.0]), ["!"], 0.9)


@pytest.mark.realdata
def test_naive_bayes_on_77_intents():
    if not BANKING.is_dir():
        pytest.skip(f"no data in {BANKING}")
    sides = []
    for name in ("train", "test"):
        with (BANKING / f"{name}.csv").open(encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
        sides.append(Known([r["text"] for r in rows], [r["category"] for r in rows]))
    train, test = sides
    labels = sorted(set(train.answers))
    found = naive_bayes(train, test.texts, labels)
    accuracy = METRICS["accuracy"]
    reached = accuracy.aggregate(accuracy.rows([p.value for p in found], test.answers))
    assert 0.860 <= reached < 0.870 and len(labels) == 77
    frequent = majority(train, test.texts, labels)
    assert accuracy.aggregate(accuracy.rows([p.value for p in frequent], test.answers)) == pytest.approx(
        1 / 77, abs=1e-3
    )


def test_an_empty_set_of_labels_is_no_rival():
    sets = [(), (), (), ("loan",), ("card",)]
    assert majority(Known(TEXTS, sets), ["x"], LABELS)[0].value == ("card",)
    assert majority(Known(TEXTS, [()] * 5), ["x"], LABELS)[0].value == ()
