"""Metrics of judged answers: worked numbers, the same as plain code and sklearn, and the edges."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import roc_auc_score

from tunewright.core.errors import DataError
from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.compare import paired
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.metrics_pairs import Likelihood, Pair
from tunewright.evaluate.metrics_ranked import Rated, ordered
from tunewright.evaluate.pairs import calibration_error, length_bias, reliability

# log p, untouched log p, tokens: the first pair is preferred by its mean alone, not by its sum
PAIRS = [
    Pair(Likelihood(-8.0, -10.0, 8), Likelihood(-6.0, -6.0, 2)),  # per token -1 against -3; r 2 against 0
    Pair(Likelihood(-9.0, -8.0, 3), Likelihood(-4.0, -1.0, 2)),  # -3 against -2; -1 against -3
    Pair(Likelihood(-2.0, -2.0, 1), Likelihood(-4.0, -4.0, 2)),  # equal; no move
    Pair(Likelihood(-5.0, -5.0, 5), Likelihood(-6.0, -9.0, 3)),  # -1 against -2; 0 against 3
]
NOTHING = [""] * 4


def value(name, predictions, references):
    metric = METRICS[name]
    return metric.aggregate(metric.rows(predictions, references))


def test_worked_numbers_of_pairs():
    assert METRICS["prefers_chosen"].rows(PAIRS, NOTHING).tolist() == [1, 0, 0.5, 1]
    assert METRICS["reward_margin"].rows(PAIRS, NOTHING).tolist() == [2, 2, 0, -3]
    assert METRICS["reward_accuracy"].rows(PAIRS, NOTHING).tolist() == [1, 1, 0.5, 0]
    assert value("prefers_chosen", PAIRS, NOTHING) == 0.625
    assert value("reward_margin", PAIRS, NOTHING) == 0.25
    assert value("reward_accuracy", PAIRS, NOTHING) == 0.625


def test_the_untouched_model_has_no_margin_and_chance_accuracy():
    still = [Pair(*(answer._replace(logp=answer.untouched) for answer in pair)) for pair in PAIRS]
    assert METRICS["reward_margin"].rows(still, NOTHING).tolist() == [0] * 4
    assert METRICS["reward_accuracy"].rows(still, NOTHING).tolist() == [0.5] * 4
    single, liked = [p.chosen for p in still], [True, False, True, False]
    assert value("liked_margin", single, liked) == 0
    assert value("reward_auc", single, liked) == 0.5


def answers(seed, n=40, ties=False):
    r = np.random.default_rng(seed)
    liked = [bool(x) for x in r.integers(0, 2, n)]
    means = r.integers(-4, 0, n) if ties else r.normal(-2, 1, n)
    gains = r.integers(-2, 3, n) if ties else r.normal(0, 2, n)
    lengths = r.integers(1, 30, n)
    found = [
        Likelihood(float(m * k), float(m * k - g), float(k))
        for m, g, k in zip(means, gains, lengths, strict=True)
    ]
    return found, liked


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_that_of_sklearn(ties):
    found, liked = answers(0, ties=ties)
    per_token = [round(a.per_token, 9) for a in found]
    found = [Likelihood(m * 4.0, a.untouched, 4.0) for m, a in zip(per_token, found, strict=True)]
    assert value("liked_auc", found, liked) == pytest.approx(
        roc_auc_score(liked, [a.per_token for a in found])
    )
    assert value("reward_auc", found, liked) == pytest.approx(roc_auc_score(liked, [a.gain for a in found]))


def test_auc_of_resampled_rows_is_that_of_the_resample():
    found, liked = answers(1)
    metric = METRICS["liked_auc"]
    rows = metric.rows(found, liked)
    counts = np.random.default_rng(2).integers(0, 3, (5, len(rows))).astype(float)
    scores = [a.per_token for a in found]
    for weights, got in zip(counts, metric.aggregate_weighted(rows, counts), strict=True):
        assert got == pytest.approx(roc_auc_score(liked, scores, sample_weight=weights))


def test_an_answer_alone_stands_where_it_stands_among_all():
    found = [Likelihood(x, 0.0, 1.0) for x in (-4.0, -3.0, -2.0, -1.0)]
    rows = METRICS["liked_auc"].rows(found, [False, True, False, True])
    assert METRICS["liked_auc"].per_row(rows).tolist() == [0.875, 0.375, 0.375, 0.875]


def test_liked_margin_is_a_difference_of_means():
    found, liked = answers(3)
    gains = np.array([a.gain for a in found])
    mask = np.array(liked)
    assert value("liked_margin", found, liked) == pytest.approx(gains[mask].mean() - gains[~mask].mean())
    one = METRICS["liked_margin"].rows(found, liked)
    assert METRICS["liked_margin"].per_row(one) == pytest.approx(np.where(mask, gains, -gains))


def test_auc_differences_have_an_interval_and_a_test():
    found, liked = answers(4, n=60)
    better = [a._replace(logp=a.logp + (a.tokens if y else 0)) for a, y in zip(found, liked, strict=True)]
    metric = METRICS["liked_auc"]
    change = paired(metric, metric.rows(found, liked), metric.rows(better, liked))
    assert change.low > 0 and change.p < 0.01 and change.value > 0.1
    assert change.wins > change.losses
    same = paired(metric, metric.rows(found, liked), metric.rows(found, liked))
    assert same.value == 0 and same.p == 1


# rewards, lengths, scores
RANKED = [
    (Rated([2.0, 1.0], [5, 9]), (1.0, 0.0)),  # in order; the better one is shorter
    (Rated([0.0, 3.0], [9, 4]), (1.0, 0.0)),  # wrong; longer
    (Rated([1.0, 1.0], [3, 3]), (1.0, 0.0)),  # a tie; equally long
    (Rated([3.0, 1.0, 2.0], [2, 8, 4]), (5.0, 1.0, 3.0)),  # all three pairs in order, all shorter
    (Rated([1.0, 2.0, 3.0], [1, 2, 3]), (2.0, 2.0, 1.0)),  # two ordered pairs, both wrong, both shorter
]


def test_worked_numbers_of_rewards():
    predictions, references = zip(*RANKED, strict=True)
    assert METRICS["pair_accuracy"].rows(predictions, references).tolist() == [1, 0, 0.5, 1, 0]
    assert value("pair_accuracy", predictions, references) == 0.5
    assert METRICS["shorter_accuracy"].rows(predictions, references).tolist() == [
        [1, 1],
        [0, 0],
        [0, 0],
        [pytest.approx(1), pytest.approx(1)],
        [0, 1],
    ]
    assert value("shorter_accuracy", predictions, references) == pytest.approx(2 / 3)


def test_ordered_pairs_of_a_ranking():
    assert ordered([1.0, 0.0]) == [(0, 1)]
    assert ordered([2.0, 2.0, 1.0]) == [(0, 2), (1, 2)]
    assert ordered([1.0, 1.0]) == []


def test_accuracy_of_a_ranking_is_kendalls_tau_in_another_dress():
    r = np.random.default_rng(5)
    for _ in range(20):
        rewards, scores = r.permutation(6).astype(float), r.permutation(6).astype(float)
        share = value("pair_accuracy", [Rated(rewards, [1] * 6)], [scores])
        assert 2 * share - 1 == pytest.approx(kendalltau(rewards, scores).statistic)


def many(seed, n=120):
    r = np.random.default_rng(seed)
    rewards, lengths = r.normal(0, 2, (n, 2)), r.integers(1, 40, (n, 2))
    return [Rated(a.tolist(), b.tolist()) for a, b in zip(rewards, lengths, strict=True)], [(1.0, 0.0)] * n


def test_on_plain_pairs_they_agree_with_the_pair_statistics():
    predictions, references = many(6)
    chosen, rejected = ([p.rewards[i] for p in predictions] for i in (0, 1))
    long, short = ([p.lengths[i] for p in predictions] for i in (0, 1))
    bias = length_bias(chosen, rejected, long, short)
    assert value("pair_calibration", predictions, references) == pytest.approx(
        calibration_error(reliability(chosen, rejected))
    )
    assert value("shorter_accuracy", predictions, references) == pytest.approx(bias.accuracy_shorter)
    assert value("length_correlation", predictions, references) == pytest.approx(bias.correlation)
    lead, extra = np.subtract(chosen, rejected), np.subtract(long, short)
    assert value("length_correlation", predictions, references) == pytest.approx(
        spearmanr(lead, extra).statistic
    )


def test_who_counts_tokens_is_found_out():
    predictions, references = many(7)
    counting = [Rated([float(n) for n in p.lengths], p.lengths) for p in predictions]
    assert value("length_correlation", counting, references) == pytest.approx(1)
    assert value("shorter_accuracy", counting, references) == 0
    against = [Rated([-float(n) for n in p.lengths], p.lengths) for p in predictions]
    assert value("length_correlation", against, references) == pytest.approx(-1)
    assert value("shorter_accuracy", against, references) == 1


def test_rewards_that_never_vary_follow_no_length():
    predictions, references = many(8)
    flat = [Rated([0.0, 0.0], p.lengths) for p in predictions]
    assert value("length_correlation", flat, references) == 0
    assert value("pair_accuracy", flat, references) == 0.5


def test_calibration_worked():
    """Two pairs of confidence s(1) = 0.731, one right and one wrong: the gap is 0.231."""
    sure = 1 / (1 + math.exp(-1))
    predictions = [Rated([1.0, 0.0], [1, 1]), Rated([0.0, 1.0], [1, 1])]
    assert value("pair_calibration", predictions, [(1.0, 0.0)] * 2) == pytest.approx(sure - 0.5)
    certain = [Rated([60.0, 0.0], [1, 1]), Rated([60.0, 0.0], [1, 1])]
    assert value("pair_calibration", certain, [(1.0, 0.0)] * 2) == pytest.approx(0)
    assert value("pair_calibration", certain, [(0.0, 1.0)] * 2) == pytest.approx(1)


def test_a_ranking_weighs_as_much_as_a_pair():
    """Six pairs of one row, all wrong, against one pair of another row, right."""
    row = Rated([1.0, 2.0, 3.0, 4.0], [4, 3, 2, 1]), (4.0, 3.0, 2.0, 1.0)
    pair = Rated([1.0, 0.0], [2, 1]), (1.0, 0.0)
    assert value("pair_accuracy", [row[0], pair[0]], [row[1], pair[1]]) == 0.5


@pytest.mark.parametrize(
    "name", ["pair_accuracy", "pair_calibration", "shorter_accuracy", "length_correlation"]
)
def test_every_one_has_an_interval_around_its_value(name):
    predictions, references = many(9)
    rows = METRICS[name].rows(predictions, references)
    found = interval(METRICS[name], rows)
    assert found.low < found.value < found.high and found.n == 120
    assert found.high - found.low < 0.5


def test_what_cannot_be_measured_is_said():
    with pytest.raises(DataError, match="row 2: no answer is better than another"):
        METRICS["pair_accuracy"].rows([Rated([1.0, 0.0], [1, 2])] * 2, [(1.0, 0.0), (1.0, 1.0)])
    with pytest.raises(DataError, match="in no pair is the better answer the shorter one"):
        METRICS["shorter_accuracy"].rows([Rated([1.0, 0.0], [2, 1])], [(1.0, 0.0)])
    with pytest.raises(DataError, match="must be finite"):
        METRICS["pair_accuracy"].rows([Rated([math.nan, 0.0], [1, 2])], [(1.0, 0.0)])
    with pytest.raises(DataError, match="must be finite"):
        METRICS["prefers_chosen"].rows([Pair(Likelihood(math.nan, 0, 1), Likelihood(0, 0, 1))], [""])


def test_every_metric_says_what_it_is():
    names = ["prefers_chosen", "reward_margin", "reward_accuracy", "liked_auc", "liked_margin", "reward_auc"]
    names += ["pair_accuracy", "pair_calibration", "shorter_accuracy", "length_correlation"]
    for name, other in itertools.pairwise([*names, names[0]]):
        assert METRICS[name].name == name and METRICS[name].description != METRICS[other].description
