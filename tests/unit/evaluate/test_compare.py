"""Intervals, p-values and sample sizes against scipy, against textbooks, and by simulation."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.intervals import wilson
from tunewright.evaluate.bootstrap import bca, interval, resampled
from tunewright.evaluate.bootstrap import pool as units_of
from tunewright.evaluate.compare import mcnemar, paired
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.power import detectable, minimum_detectable, rows_for, rows_to_decide, sd_of_shares

EXACT, F1, MACRO = METRICS["exact_match"], METRICS["token_f1"], METRICS["macro_f1"]
BLEU, PERPLEXITY = METRICS["bleu"], METRICS["perplexity"]


def coin(n, p, seed):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def perplexity_rows(n, seed, level=1.0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 40, n)
    return PERPLEXITY.rows(rng.gamma(2, level / 2, n) * tokens, tokens)


# ---- interval


def test_interval_is_scipys_bca_with_tails_for_small_n():
    scores = np.random.default_rng(5).beta(2, 5, 40)
    found = interval(F1, scores, resamples=20_000)
    tail = ndtr(np.sqrt(40 / 39) * stats.t.ppf(0.025, 39))
    wanted = stats.bootstrap(
        (scores,), np.mean, n_resamples=20_000, confidence_level=1 - 2 * tail, method="BCa", rng=1
    ).confidence_interval
    assert found.value == pytest.approx(scores.mean())
    width = wanted.high - wanted.low
    assert [found.low, found.high] == pytest.approx([wanted.low, wanted.high], abs=0.03 * width)


def test_interval_of_a_ratio_is_scipys_too():
    rows = perplexity_rows(60, seed=2)
    found = interval(PERPLEXITY, rows, resamples=10_000)
    tail = ndtr(np.sqrt(60 / 59) * stats.t.ppf(0.025, 59))
    wanted = stats.bootstrap(
        (rows[:, 0], rows[:, 1]),
        lambda a, b, axis=-1: np.exp(a.sum(axis) / b.sum(axis)),
        paired=True,
        n_resamples=10_000,
        confidence_level=1 - 2 * tail,
        method="BCa",
        rng=1,
    ).confidence_interval
    width = wanted.high - wanted.low
    assert [found.low, found.high] == pytest.approx([wanted.low, wanted.high], abs=0.04 * width)


def test_bca_corrects_bias_as_scipy_does():
    """The plain variance of 15 draws is both biased and skewed."""
    rng = np.random.default_rng(7)
    x = rng.exponential(1.0, 15)
    values = rng.choice(x, (40_000, 15)).var(axis=1)
    without = np.array([np.delete(x, i).var() for i in range(15)])
    tail = ndtr(np.sqrt(15 / 14) * stats.t.ppf(0.05, 14))
    wanted = stats.bootstrap(
        (x,), np.var, n_resamples=40_000, confidence_level=1 - 2 * tail, method="BCa", rng=1
    ).confidence_interval
    plain = np.quantile(values, [tail, 1 - tail])
    width = wanted.high - wanted.low
    assert bca(values, float(x.var()), without, 0.9) == pytest.approx(
        (wanted.low, wanted.high), abs=0.015 * width
    )
    assert plain[1] < wanted.high - 0.1 * width


def test_interval_is_seeded_and_narrows_with_level_and_n():
    rows = coin(200, 0.7, seed=0)
    assert interval(EXACT, rows, seed=3) == interval(EXACT, rows, seed=3)
    assert interval(F1, rows + 0.01, seed=3) != interval(F1, rows + 0.01, seed=4)
    wide, narrow = interval(EXACT, rows), interval(EXACT, rows, level=0.8)
    assert wide.low < narrow.low < rows.mean() < narrow.high < wide.high
    four = interval(EXACT, np.tile(rows, 4))
    assert (four.high - four.low) / (wide.high - wide.low) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("p", "low"), [(0.5, 0.93), (0.9, 0.92), (0.2, 0.92)])
def test_coverage_of_a_share(p, low):
    """In 400 test sets of 100 rows the 95 % interval holds the true share as often as it says."""
    found = [interval(EXACT, coin(100, p, seed), resamples=400, seed=seed) for seed in range(400)]
    covered = np.mean([e.low - 1e-12 <= p <= e.high + 1e-12 for e in found])
    assert low <= covered <= 0.98


def test_coverage_of_macro_f1_over_many_classes():
    """77 classes in 1,000 rows: resampled macro-F1 is biased low, and plain percentiles miss the truth."""
    classes, n, recall = 77, 1000, 0.8
    truth = recall + (1 - recall) / classes  # precision = recall = F1 of every class
    hits = percentile_hits = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        true = rng.integers(0, classes, n)
        answers = np.where(rng.random(n) < recall, true, rng.integers(0, classes, n))
        rows = np.column_stack([true, answers]).astype(float)
        found = interval(MACRO, rows, resamples=300, seed=seed)
        hits += found.low <= truth <= found.high
        low, high = np.quantile(resampled(MACRO, [units_of(MACRO, rows, None)], 300, seed)[0], [0.025, 0.975])
        percentile_hits += low <= truth <= high
    assert hits / 150 >= 0.90
    assert percentile_hits / 150 <= 0.89


def test_all_right_is_not_certainty():
    found = interval(EXACT, np.ones(50))
    assert (found.value, found.high, found.method) == (1.0, 1.0, "wilson")
    wanted = stats.binomtest(50, 50).proportion_ci(method="wilson")
    assert found.low == pytest.approx(wanted.low, abs=1e-12)
    none = interval(EXACT, np.zeros(50))
    assert (none.low, none.high) == pytest.approx((0.0, 1 - wanted.low))
    texts = ["a b c d e", "f g h i j"] * 25
    assert interval(BLEU, BLEU.rows(texts, texts)).low == pytest.approx(100 * wanted.low)
    assert interval(EXACT, coin(50, 0.5, 0)).method == "bootstrap"
    assert wilson(7, 20, 0.9) == pytest.approx(tuple(stats.binomtest(7, 20).proportion_ci(0.9, "wilson")))


def test_groups_are_drawn_whole():
    """20 conversations of 10 equal rows hold 20 pieces of evidence, not 200."""
    talks = coin(20, 0.5, seed=1)
    rows, groups = np.repeat(talks, 10), [f"talk {i}" for i in range(20) for _ in range(10)]
    grouped, single = interval(EXACT, rows, clusters=groups), interval(EXACT, talks)
    assert (grouped.low, grouped.high) == (single.low, single.high)
    assert (grouped.n, grouped.units) == (200, 20)
    assert interval(EXACT, rows).high - interval(EXACT, rows).low < 0.5 * (grouped.high - grouped.low)
    alone = interval(EXACT, rows, clusters=[None] * 200)
    assert alone == interval(EXACT, rows)


def test_unequal_groups_keep_the_value_of_the_rows():
    rows = np.array([1.0, 1, 1, 1, 0, 1, 0, 0])
    found = interval(EXACT, rows, clusters=["a", "a", "a", "a", "b", None, None, "c"])
    assert (found.value, found.units) == (rows.mean(), 5)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("rows", "options", "error", "words"),
    [
        (np.ones(1), {}, DataError, "1 test rows"),
        (np.ones(0), {}, DataError, "0 test rows"),
        (np.array([1, np.nan]), {}, DataError, "row 2 of 2 is not a finite number"),
        (np.ones(3), {"clusters": ["a", "a"]}, DataError, "2 group names for 3 rows"),
        (np.ones(3), {"clusters": ["a"] * 3}, DataError, "all 3 rows are in the group 'a'"),
        (np.ones(3), {"level": 95}, ConfigError, "level 95 is out of range"),
        (np.ones(3), {"resamples": 30}, ConfigError, "30 resamples are too few for a 95% interval; give 40"),
    ],
)
def test_refusals(rows, options, error, words):
    with pytest.raises(error, match=words):
        interval(EXACT, rows, **options)
    with pytest.raises(error, match=words):
        paired(EXACT, rows, rows, **options)


# ---- paired


def test_paired_p_is_scipys_permutation_test():
    rng = np.random.default_rng(8)
    a = rng.beta(3, 2, 30)
    b = np.clip(a + rng.normal(0.06, 0.15, 30), 0, 1)
    found = paired(F1, a, b, resamples=20_000)
    wanted = stats.permutation_test(
        (b, a), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", n_resamples=20_000, rng=2
    )
    assert found.value == pytest.approx((b - a).mean())
    assert 0.01 < wanted.pvalue < 0.2
    assert found.p == pytest.approx(wanted.pvalue, abs=0.006)


def test_paired_p_of_a_corpus_metric_is_scipys_too():
    a, b = perplexity_rows(25, seed=1, level=1.0), perplexity_rows(25, seed=2, level=1.25)
    b[:, 0], b[:, 1] = b[:, 0] / b[:, 1] * a[:, 1], a[:, 1]  # the same references
    found = paired(PERPLEXITY, a, b, resamples=20_000)

    def statistic(x, y, axis):
        tokens = a[:, 1].sum()
        return np.exp(x.sum(axis) / tokens) - np.exp(y.sum(axis) / tokens)

    wanted = stats.permutation_test(
        (b[:, 0], a[:, 0]), statistic, permutation_type="samples", n_resamples=20_000, rng=2
    )
    assert found.p == pytest.approx(wanted.pvalue, abs=0.01)


def test_paired_interval_is_the_interval_of_the_differences():
    rng = np.random.default_rng(4)
    a, b = rng.random(80), rng.random(80)
    found, plain = paired(F1, a, b), interval(F1, b - a)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_hand_counted_pair():
    a, b = np.array([1.0] * 6 + [0.0] * 14), np.array([1.0] * 5 + [0.0] * 4 + [1.0] * 11)
    found = paired(EXACT, a, b)
    assert (found.wins, found.losses, found.ties, found.n) == (11, 1, 8, 20)
    assert found.value == pytest.approx(0.5)
    assert found.p == pytest.approx(stats.binomtest(1, 12).pvalue) == mcnemar(11, 1)
    assert 0.1 < found.low < 0.5 < found.high < 0.85
    back = paired(EXACT, b, a)
    assert (back.value, back.wins, back.losses, back.p) == (-found.value, 1, 11, found.p)


def test_p_is_never_zero():
    sure = np.linspace(0.2, 0.6, 60)
    assert paired(F1, sure, sure + 0.3, resamples=499).p == 1 / 500


def test_a_lower_perplexity_is_a_win():
    a, b = PERPLEXITY.rows([2.0, 2.0, 2.0], [1, 1, 1]), PERPLEXITY.rows([1.0, 1.5, 3.0], [1, 1, 1])
    found = paired(PERPLEXITY, a, b)
    assert (found.wins, found.losses, found.ties) == (2, 1, 0)


def test_four_wins_and_no_loss_do_not_exclude_zero():
    a, b = np.zeros(100), np.array([1.0] * 4 + [0.0] * 96)
    found = paired(EXACT, a, b)
    assert found.p == 0.125
    assert found.low == 0.0 < found.value < found.high
    six = paired(EXACT, a, np.array([1.0] * 6 + [0.0] * 94))
    assert six.p == pytest.approx(2 / 64) and six.low > 0


def test_the_same_answers_everywhere():
    rows = coin(100, 0.8, seed=0)
    found = paired(EXACT, rows, rows)
    assert (found.value, found.p, found.ties, found.rows_to_decide) == (0.0, 1.0, 100, None)
    unseen = wilson(0, 100, 0.95)[1]
    assert (found.low, found.high) == pytest.approx((-unseen, unseen))
    won = paired(EXACT, np.zeros(100), np.ones(100))
    assert (won.low, won.high) == pytest.approx((1 - 2 * unseen, 1.0))
    same = perplexity_rows(10, seed=0)
    assert (paired(PERPLEXITY, same, same).low, paired(PERPLEXITY, same, same).high) == (0.0, 0.0)


def test_groups_in_a_pair_are_swapped_whole():
    """5 groups cannot show p below 2/32, however many rows each has."""
    a, b = np.zeros(100), np.tile([1.0, 0.0], 50)
    groups = [i // 20 for i in range(100)]
    assert paired(EXACT, a, b).p < 1e-10
    grouped = paired(EXACT, a, b, clusters=groups)
    assert grouped.p == pytest.approx(2 / 32, abs=0.02)
    assert grouped.low <= 0


def test_pairs_must_match():
    with pytest.raises(DataError, match="cannot pair 3 rows with 2"):
        paired(EXACT, np.ones(3), np.ones(2))
    with pytest.raises(DataError, match="different references"):
        paired(MACRO, MACRO.rows(["a"] * 3, ["a", "b", "b"]), MACRO.rows(["a"] * 3, ["a", "b", "c"]))


def test_results_are_json():
    rows = coin(30, 0.5, 0)
    for result in (interval(EXACT, rows), paired(EXACT, rows, 1 - rows), interval(EXACT, np.ones(9))):
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()


# ---- how many rows


def test_textbook_sample_sizes():
    assert rows_for(0.2, 1.0) == 197  # z formula; G*Power's paired t test says 199
    assert rows_for(0.5, 1.0) == pytest.approx(34, abs=3.4)  # Cohen 1988, table 2.4.1: 33 to 34
    assert rows_for(0.2, 1.0, power=0.9) == 263
    # Connor 1987 / Machin 2018, McNemar: 25 % against 5 % discordant pairs need about 54
    assert rows_for(0.2, sd_of_shares(0.2, 0.3)) == pytest.approx(54, rel=0.1)
    assert detectable(1.0, 197) == pytest.approx(0.2, abs=0.001)
    assert rows_for(1.0, 0.0) == 6  # 2 / 2**6 is the first p below 0.05


def test_rows_to_decide_recovers_the_formula_from_rows():
    rng = np.random.default_rng(0)
    a = rng.random(4000)
    change = rng.normal(0, 1, 4000)
    change = 0.2 + (change - change.mean()) / change.std(ddof=1)
    assert rows_to_decide(F1, a, a + change) == 197
    assert minimum_detectable(F1, a, a + change, n=197) == pytest.approx(0.2, abs=0.001)
    assert minimum_detectable(F1, a, a + change) == pytest.approx(2.8016 / np.sqrt(4000), rel=1e-3)
    assert rows_to_decide(F1, a, a) is None
    pairs = np.repeat([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [150, 50, 800], axis=0)
    sd = np.std(pairs[:, 1] - pairs[:, 0], ddof=1)
    assert rows_to_decide(EXACT, *pairs.T) == rows_for(0.1, sd) == paired(EXACT, *pairs.T).rows_to_decide


@pytest.mark.parametrize("metric", [BLEU, PERPLEXITY, MACRO], ids=lambda m: m.name)
def test_the_jackknife_spread_of_a_corpus_metric_is_the_bootstraps(metric):
    rng = np.random.default_rng(1)
    if metric is PERPLEXITY:
        a, b = perplexity_rows(400, 1), perplexity_rows(400, 2)
    elif metric is MACRO:
        true = rng.integers(0, 4, 400)
        a, b = (
            np.column_stack([true, np.where(rng.random(400) < p, true, 3 - true)]) * 1.0 for p in (0.6, 0.7)
        )
    else:
        texts = [" ".join(rng.choice(list("abcdefgh"), 12)) for _ in range(400)]
        a, b = (metric.rows([t if rng.random() < p else t[::-1] for t in texts], texts) for p in (0.4, 0.5))
    values = resampled(metric, [units_of(metric, a, None), units_of(metric, b, None)], 4000, 0)
    wanted = 2.8016 * (values[1] - values[0]).std()
    assert minimum_detectable(metric, a, b) == pytest.approx(wanted, rel=0.06)


def test_that_many_rows_do_decide_four_times_in_five():
    """Simulated power at the promised n, for scores between 0 and 1 and for right-or-wrong rows."""
    scores, shares = 0, 0
    n_scores, n_shares = rows_for(0.05, 0.25), rows_for(0.05, sd_of_shares(0.05, 0.2))
    for seed in range(300):
        rng = np.random.default_rng(seed)
        found = paired(F1, np.zeros(n_scores), rng.normal(0.05, 0.25, n_scores), resamples=400, seed=seed)
        scores += found.low > 0
        outcome = rng.choice([1.0, -1.0, 0.0], n_shares, p=[0.125, 0.075, 0.8])
        a, b = (outcome < 0).astype(float), (outcome > 0).astype(float)
        shares += paired(EXACT, a, b, resamples=400, seed=seed).low > 0
    assert (n_scores, n_shares) == (197, 621)
    assert scores / 300 == pytest.approx(0.8, abs=0.06)
    assert shares / 300 == pytest.approx(0.77, abs=0.06)  # the exact test pays a little for being exact


def test_power_refusals():
    with pytest.raises(ConfigError, match="difference of 0"):
        rows_for(0.0, 1.0)
    with pytest.raises(ConfigError, match="power 80"):
        rows_for(0.1, 1.0, power=80)
    with pytest.raises(ConfigError, match="1 rows"):
        detectable(1.0, 1)
    with pytest.raises(ConfigError, match="disagree"):
        sd_of_shares(0.3, 0.2)


def test_the_table_in_the_documentation_is_computed():
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    lines = text.split("<!-- rows-needed -->")[1].strip().splitlines()
    shares = [float(s) / 100 for s in re.findall(r"(\d+) %", lines[0])]
    assert shares == [0.1, 0.2, 0.4]
    table = {}
    for line in lines[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        effect = float(cells[0].split()[0]) / 100
        table[effect] = [None if c == "–" else int(c.replace(",", "")) for c in cells[1:]]
    assert list(table) == [0.01, 0.02, 0.05, 0.1, 0.2]
    for effect, row in table.items():
        wanted = [rows_for(effect, sd_of_shares(effect, d)) if effect <= d else None for d in shares]
        assert row == wanted, f"difference {effect}: write {wanted}"
