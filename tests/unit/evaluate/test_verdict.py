"""The word, the baseline that decided it, and the sentence; and how often chance alone would ship."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunewright.core.errors import ConfigError
from tunewright.evaluate.compare import Difference, paired
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.verdict import verdict

EXACT, F1, PERPLEXITY = METRICS["exact_match"], METRICS["token_f1"], METRICS["perplexity"]


def difference(low, high, rows=None):
    return Difference((low + high) / 2, low, high, 0.01, 200, 60, 30, 110, rows_to_decide=rows)


GOOD, CLOSE, OPEN, BAD = (
    difference(0.1, 0.2),
    difference(0.01, 0.1),
    difference(-0.02, 0.05, rows=900),
    difference(-0.3, -0.1),
)


@pytest.mark.parametrize(
    ("differences", "word", "against", "rows"),
    [
        ({"base": GOOD}, "SHIP", "base", None),
        ({"base": GOOD, "few_shot": CLOSE}, "SHIP", "few_shot", None),
        ({"base": GOOD, "few_shot": OPEN}, "CAN'T TELL", "few_shot", 900),
        ({"base": GOOD, "few_shot": BAD}, "DON'T SHIP", "few_shot", None),
        ({"base": OPEN, "few_shot": BAD}, "DON'T SHIP", "few_shot", None),
        ({"a": OPEN, "b": difference(-0.01, 0.03, rows=2000), "c": GOOD}, "CAN'T TELL", "b", 2000),
        ({"a": OPEN, "b": difference(-0.02, 0.02)}, "CAN'T TELL", "b", None),
        ({"a": difference(0.0, 0.1, rows=300)}, "CAN'T TELL", "a", 300),
        ({"a": difference(-0.1, 0.0, rows=300)}, "CAN'T TELL", "a", 300),
    ],
)
def test_the_rule(differences, word, against, rows):
    found = verdict(differences, EXACT)
    assert (found.word, found.against, found.rows_that_would_decide) == (word, against, rows)
    assert found.difference is differences[against]
    assert found.metric == "exact_match"
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


@pytest.mark.parametrize(("change", "word"), [(GOOD, "DON'T SHIP"), (BAD, "SHIP"), (OPEN, "CAN'T TELL")])
def test_lower_perplexity_is_better(change, word):
    assert verdict({"base": change}, PERPLEXITY).word == word


def test_the_closest_call_is_named_when_lower_is_better():
    found = verdict({"base": difference(-3, -2), "few_shot": difference(-3, -0.1)}, PERPLEXITY)
    assert (found.word, found.against) == ("SHIP", "few_shot")
    found = verdict({"base": difference(2, 3), "few_shot": difference(0.1, 3)}, PERPLEXITY)
    assert (found.word, found.against) == ("DON'T SHIP", "base")


def test_sentences():
    evidence = "95% interval {}, p = 0.01, n = 200 rows"
    points = "percentage points"
    assert verdict({"zero_shot": GOOD, "few_shot": CLOSE}, EXACT).reason == (
        f"exact_match is better than few-shot by 5.5 {points} ({evidence.format('+1.0 to +10.0')}), "
        "the closest call of 2 baselines."
    )
    assert verdict({"zero_shot": BAD}, EXACT).reason == (
        f"exact_match is worse than zero-shot by 20.0 {points} ({evidence.format('-30.0 to -10.0')})."
    )
    assert verdict({"zero_shot": difference(-0.02, 0.05, rows=12345)}, EXACT).reason == (
        f"exact_match differs from zero-shot by +1.5 {points} ({evidence.format('-2.0 to +5.0')}), "
        "which does not exclude zero."  # how many rows would decide is said by whoever shows the verdict
    )
    assert verdict({"runs/my_base": difference(-3, -2)}, PERPLEXITY).reason == (
        f"perplexity is better than runs/my_base by 2.5 ({evidence.format('-3 to -2')})."
    )
    assert verdict({"zero_shot": difference(1, 3)}, METRICS["bleu"]).reason == (
        f"bleu is better than zero-shot by 2 points ({evidence.format('+1 to +3')})."
    )
    assert "p < 0.001" in verdict({"zero_shot": replace(BAD, p=0.0005)}, EXACT).reason


def test_no_baseline_is_an_error():
    with pytest.raises(ConfigError, match="needs a baseline"):
        verdict({}, EXACT)


def null_words(metric, n, sets, make):
    """Verdicts on systems that are alike by construction: each row's two results in random order."""
    words = []
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        a, b = make(rng, n)
        swap = rng.random(n) < 0.5
        found = paired(metric, np.where(swap, b, a), np.where(swap, a, b), resamples=400, seed=seed)
        words.append(verdict({"base": found}, metric).word)
    return words


@pytest.mark.parametrize("n", [12, 100])
def test_chance_ships_in_about_one_case_of_forty(n):
    words = null_words(F1, n, 600, lambda rng, n: (rng.beta(2, 1, n), rng.beta(2, 1, n)))
    for wrong in ("SHIP", "DON'T SHIP"):
        assert 0.005 <= words.count(wrong) / 600 <= 0.04


def test_chance_ships_no_oftener_where_few_rows_differ():
    def make(rng, n):
        a = (rng.random(n) < 0.6).astype(float)
        return a, np.where(rng.random(n) < 0.06, 1 - a, a)

    words = null_words(EXACT, 100, 400, make)
    assert words.count("SHIP") / 400 <= 0.025
    assert words.count("DON'T SHIP") / 400 <= 0.025


def test_a_real_improvement_ships():
    rng = np.random.default_rng(0)
    base = (rng.random(300) < 0.5).astype(float)
    tuned = np.where(rng.random(300) < 0.4, 1.0, base)
    assert verdict({"base": paired(EXACT, base, tuned)}, EXACT).word == "SHIP"
    assert verdict({"base": paired(EXACT, tuned, base)}, EXACT).word == "DON'T SHIP"


def test_more_rows_are_asked_for_than_did_not_decide():
    a, b = np.array([0.0] * 8), np.array([1.0] * 5 + [0.0] * 3)
    found = verdict({"base": paired(EXACT, a, b)}, EXACT)
    assert found.word == "CAN'T TELL"
    assert 8 < found.rows_that_would_decide < 20


def test_the_example_in_the_documentation_runs():
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    names = {}
    exec(text.split("```python")[1].split("```")[0], names)
    assert (names["estimate"].value, names["estimate"].n) == (0.75, 100)
    assert (names["change"].value, names["change"].wins, names["change"].losses) == (0.25, 25, 0)
    assert names["decision"].word == "SHIP"
    assert names["smallest"] == pytest.approx(0.122, abs=0.001)


def test_of_several_losses_the_baseline_furthest_ahead_is_named():
    """Its interval may be the wider one: here zero is further from the upper end of the other."""
    wide, narrow = difference(-0.9, -0.05), difference(-0.2, -0.1)
    found = verdict({"zero_shot": narrow, "naive_bayes": wide, "few_shot": OPEN}, EXACT)
    assert (found.word, found.against) == ("DON'T SHIP", "naive_bayes")
    assert "worse than naive Bayes by 47.5 percentage points" in found.reason


def test_an_open_verdict_also_names_the_baseline_furthest_ahead():
    hardest, ahead = difference(-0.02, 0.03, rows=5000), difference(-0.9, 0.1, rows=20)
    found = verdict({"majority": hardest, "naive_bayes": ahead}, EXACT)
    assert (found.word, found.against, found.rows_that_would_decide) == ("CAN'T TELL", "majority", 5000)
    assert found.reason.startswith(
        "exact_match differs from the most frequent label or set of labels by +0.5"
    )
    assert (
        "; it is furthest behind naive Bayes, by 40.0 percentage points (95% interval -90.0" in found.reason
    )
    lower = {"a": difference(-1, 2, rows=9), "b": difference(-1, 1.5, rows=90)}
    assert "; it is furthest behind a, by 0.5 (" in verdict(lower, PERPLEXITY).reason
    better = {"a": difference(-2, 1, rows=9), "b": difference(-1.5, 1, rows=90)}
    assert "behind" not in verdict(better, PERPLEXITY).reason


def test_a_large_gap_on_seven_rows_is_undecided():
    """5 losses, no win: McNemar p = 2 / 2^5 = 0.0625, so the interval touches zero and no word is earned."""
    tuned, base = np.array([0.0] * 6 + [1.0]), np.array([1.0] * 5 + [0.0, 1.0])
    found = verdict({"naive_bayes": paired(EXACT, base, tuned)}, EXACT)
    assert found.difference.p == 0.0625 and found.difference.value == pytest.approx(-5 / 7)
    assert found.word == "CAN'T TELL" and found.difference.high == 0


def test_a_reward_has_no_unit():
    reason = verdict({"zero_shot": difference(0.1, 0.3)}, METRICS["reward"]).reason
    assert reason.startswith("reward is better than zero-shot by 0.2 (95%")
