"""Every loss of a head against numbers worked out with plain arithmetic, against torch, and its gradient."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from tunewright.objectives.head_losses import (
    CLASS_LOSSES,
    ERROR_LOSSES,
    centring,
    multi,
    ordinal,
    ordinal_logprobs,
    plackett_luce,
    single,
)

LN = math.log


def tensor(*values, **options):
    return torch.tensor(values, **{"dtype": torch.float64, **options})


def logit(p):
    return math.log(p / (1 - p))


# --- classification


@pytest.mark.parametrize(
    ("odds", "label", "weights", "smoothing", "worked"),
    [
        ((1, 2, 1), 1, (1, 1, 1), 0.0, LN(2)),  # p = 1/4, 1/2, 1/4
        ((1, 2, 1), 0, (3, 1, 1), 0.0, 3 * LN(4)),
        # 0.7 w_1 ln 2 + 0.1 (w_0 ln 4 + w_1 ln 2 + w_2 ln 4): 0.7 * 2 + 0.1 * (1 * 2 + 2 * 1 + 4 * 2) ln 2
        ((1, 2, 1), 1, (1, 2, 4), 0.3, (1.4 + 1.2) * LN(2)),
    ],
)
def test_single(odds, label, weights, smoothing, worked):
    scores = tensor(odds).log() + 5  # a constant changes nothing
    found = single(scores, torch.tensor([label]), tensor(*weights), smoothing)
    assert found.tolist() == pytest.approx([worked], rel=1e-12)


@pytest.mark.parametrize(
    ("present", "label", "weights", "smoothing", "worked"),
    [
        ((0.5, 0.25), (1, 0), (1, 1), 0.0, (LN(2) + LN(4 / 3)) / 2),
        ((0.5, 0.25), (0, 1), (9, 3), 0.0, (LN(2) + 3 * LN(4)) / 2),  # absence is never weighted
        # t = 0.9, 0.1: (2 * 0.9 ln 2 + 0.1 ln 2 + 0.1 ln 4 + 0.9 ln(4/3)) / 2
        ((0.5, 0.25), (1, 0), (2, 1), 0.2, (1.9 * LN(2) + 0.1 * LN(4) + 0.9 * LN(4 / 3)) / 2),
    ],
)
def test_multi(present, label, weights, smoothing, worked):
    scores = tensor([logit(p) for p in present])
    found = multi(scores, tensor(label), tensor(*weights), smoothing)
    assert found.tolist() == pytest.approx([worked], rel=1e-12)


@pytest.mark.parametrize(
    ("goes_on", "label", "weights", "smoothing", "worked"),
    [
        # P(y > 0) = 3/4, P(y > 1 | y > 0) = 2/3: p = 1/4, 1/4, 1/2
        ((3 / 4, 2 / 3), 2, (1, 1, 1), 0.0, LN(2)),
        ((3 / 4, 2 / 3), 1, (1, 5, 1), 0.0, 5 * LN(4)),
        ((3 / 4, 2 / 3), 0, (1, 2, 4), 0.3, (0.7 * 2 + 0.1 * (2 + 4 + 4)) * LN(2)),
    ],
)
def test_ordinal(goes_on, label, weights, smoothing, worked):
    scores = tensor([logit(p) for p in goes_on])
    found = ordinal(scores, torch.tensor([label]), tensor(*weights), smoothing)
    assert found.tolist() == pytest.approx([worked], rel=1e-12)


def test_ordinal_probabilities_sum_to_one_and_fall_whatever_the_scores():
    scores = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    p = ordinal_logprobs(scores).exp()
    assert p.shape == (200, 7) and (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-12)
    above = torch.stack([p[:, k + 1 :].sum(-1) for k in range(6)], dim=-1)  # P(y > k)
    assert (above.diff(dim=-1) <= 1e-15).all()
    torch.testing.assert_close(above[:, 0], scores[:, 0].sigmoid())
    torch.testing.assert_close(above[:, 1], (scores[:, 0].sigmoid() * scores[:, 1].sigmoid()))


def test_ordinal_is_the_sum_of_the_questions_that_a_row_reaches():
    """The published form of CORN: binary cross-entropy of question k over the rows with y >= k."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (50,), generator=generator)
    asked = sum(
        F.binary_cross_entropy_with_logits(
            scores[labels >= k, k], (labels[labels >= k] > k).double(), reduction="sum"
        )
        for k in range(4)
    )
    found = ordinal(scores, labels, torch.ones(5, dtype=torch.float64), 0.0).sum()
    assert float(found) == pytest.approx(float(asked), rel=1e-12)


@pytest.mark.parametrize("scores", [(80.0, -80.0), (-300.0, 300.0), (300.0, 300.0)])
def test_ordinal_stays_finite_in_float32(scores):
    values = tensor(scores, dtype=torch.float32).requires_grad_()
    losses = ordinal(values, torch.tensor([0]), torch.ones(3), 0.1)
    losses.sum().backward()
    assert losses.isfinite().all() and values.grad.isfinite().all()


def test_weights_and_smoothing_mean_what_they_mean_in_torch():
    generator = torch.Generator().manual_seed(2)
    scores, labels = torch.randn(40, 5, generator=generator), torch.randint(0, 5, (40,), generator=generator)
    weights = torch.rand(5, generator=generator) + 0.1
    ours = single(scores, labels, weights, 0.2).sum() / weights[labels].sum()
    theirs = F.cross_entropy(scores, labels, weights, label_smoothing=0.2)
    torch.testing.assert_close(ours, theirs)
    present = (torch.rand(40, 5, generator=generator) > 0.5).float()
    theirs = F.binary_cross_entropy_with_logits(scores, present, pos_weight=weights)
    torch.testing.assert_close(multi(scores, present, weights, 0.0).mean(), theirs)


def test_the_class_losses_all_differ_on_one_input():
    scores, label = tensor([0.3, -0.7]), torch.tensor([1])
    values = [
        float(CLASS_LOSSES[kind](scores, target, torch.ones(k, dtype=torch.float64), smoothing))
        for kind, target, k in (("single", label, 2), ("multi", tensor([0, 1]), 2), ("ordinal", label, 3))
        for smoothing in (0.0, 0.1)
    ]
    assert all(abs(a - b) > 1e-3 for a, b in itertools.combinations(values, 2)), values
    assert len(CLASS_LOSSES) == 3


@pytest.mark.parametrize("kind", sorted(CLASS_LOSSES))
def test_gradients_of_class_losses_are_those_of_finite_differences(kind):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = tensor([1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]) if kind == "multi" else torch.arange(4) % 3
    weights = tensor(0.5, 1.0, 2.0) if kind != "ordinal" else tensor(0.5, 1.0, 2.0, 3.0)
    assert torch.autograd.gradcheck(lambda s: CLASS_LOSSES[kind](s, labels, weights, 0.1), (scores,))


# --- regression


@pytest.mark.parametrize(
    ("name", "worked"),
    [("squared", [0.25, 9.0, 1.0]), ("absolute", [0.5, 3.0, 1.0]), ("huber", [0.125, 2.5, 0.5])],
)
def test_errors(name, worked):
    found = ERROR_LOSSES[name](tensor(1.0, -2.0, 4.0), tensor(0.5, 1.0, 5.0))
    assert found.tolist() == worked


def test_the_error_losses_all_differ_on_one_input():
    values = [float(fn(tensor(2.0), tensor(0.5))) for fn in ERROR_LOSSES.values()]
    assert len(ERROR_LOSSES) == 3 and sorted(values) == [1.0, 1.5, 2.25]


@pytest.mark.parametrize("name", sorted(ERROR_LOSSES))
def test_gradients_of_error_losses_are_those_of_finite_differences(name):
    scores = tensor(0.3, -2.0, 1.7).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ERROR_LOSSES[name](s, tensor(0.0, 0.5, 1.5)), (scores,))


# --- comparisons


def ranking(rewards, ranks, margin=0.0, group=None):
    """The summed loss of one ranking."""
    group = torch.zeros(len(rewards), dtype=torch.long) if group is None else group
    margins = tensor(*[margin] * len(rewards))
    return float(plackett_luce(tensor(*rewards), tensor(*ranks), group, margins).sum())


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin", "worked"),
    [
        (LN(3), 0.0, 0.0, LN(4 / 3)),  # sigmoid(ln 3) = 3/4
        (0.0, LN(4), 0.0, LN(5)),
        (LN(6), 0.0, LN(2), LN(4 / 3)),  # the lead of ln 6 less the margin of ln 2
        (1.5, 1.5, 2.0, -LN(1 / (1 + math.exp(2.0)))),
    ],
)
def test_two_answers_are_bradley_terry(chosen, rejected, margin, worked):
    found = ranking((chosen, rejected), (0, 1), margin)
    assert found == pytest.approx(worked, rel=1e-12)
    assert found == pytest.approx(float(-F.logsigmoid(tensor(chosen - rejected - margin))), rel=1e-12)
    assert ranking((rejected, chosen), (1, 0), margin) == pytest.approx(worked, rel=1e-12)


@pytest.mark.parametrize(
    ("worths", "ranks", "worked"),
    [
        ((3, 2, 1), (0, 1, 2), LN(6 / 3) + LN(3 / 2)),
        ((3, 2, 1), (2, 0, 1), LN(6 / 2) + LN(4 / 1)),
        ((3, 2, 1), (0, 0, 1), LN(6 / 3) + LN(6 / 2)),  # both of the tie are drawn from all three
        ((3, 2, 1), (0, 1, 1), LN(6 / 3) + LN(3 / 2) + LN(3 / 1)),
        ((1, 1), (0, 0), 2 * LN(2)),
    ],
)
def test_plackett_luce(worths, ranks, worked):
    assert ranking([LN(w) for w in worths], ranks) == pytest.approx(worked, rel=1e-12)


def test_rankings_of_three_answers_have_probabilities_that_sum_to_one():
    orders = itertools.permutations(range(3))
    assert sum(math.exp(-ranking((0.3, -1.2, 0.9), order)) for order in orders) == pytest.approx(1.0)


def test_a_tie_pulls_rewards_together():
    apart, near = ranking((1.0, 0.0), (0, 0)), ranking((0.1, 0.0), (0, 0))
    assert apart > near > ranking((0.0, 0.0), (0, 0)) == pytest.approx(2 * LN(2))


def test_a_margin_asks_more_of_every_better_answer():
    # worths 3, 2, 1 and margin ln 2: the first against 2 * 2 and 2 * 1, the second against 2 * 1
    assert ranking((LN(3), LN(2), 0.0), (0, 1, 2), LN(2)) == pytest.approx(LN(9 / 3) + LN(4 / 2), rel=1e-12)


def test_groups_do_not_see_each_other():
    rewards, ranks = (0.2, 1.0, -0.5, 0.7, 0.1), (0, 1, 0, 2, 1)
    together = ranking(rewards, ranks, group=torch.tensor([0, 0, 1, 1, 1]))
    assert together == pytest.approx(ranking(rewards[:2], ranks[:2]) + ranking(rewards[2:], ranks[2:]))


def test_far_apart_rewards_stay_finite_in_float32():
    rewards = tensor(-300.0, 300.0, 0.0, dtype=torch.float32).requires_grad_()
    losses = plackett_luce(rewards, torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3).long(), torch.zeros(3))
    losses.sum().backward()
    assert losses.tolist() == [600.0, 0.0, 0.0] and rewards.grad.tolist() == [-1.0, 1.0, 0.0]


def test_centring():
    group = torch.tensor([0, 1, 0, 1, 1])
    assert centring(tensor(1.0, 2.0, -4.0, 0.5, 0.5), group, 2).tolist() == [9.0, 9.0]
    assert centring(tensor(1.0, 3.0, -1.0, -1.0, -2.0), group, 2).tolist() == [0.0, 0.0]
    assert centring(tensor(0.5, 0.0, 0.0, 0.0, 0.0), group, 3).tolist() == [0.25, 0.0, 0.0]


def test_gradients_of_rankings_are_those_of_finite_differences():
    rewards = tensor(0.2, 1.0, -0.5, 0.7, 0.1).requires_grad_()
    ranks, group = tensor(0, 1, 0, 1, 1), torch.tensor([0, 0, 1, 1, 1])
    margin = tensor(0.0, 0.4, 0.0, 0.3, 0.3)
    assert torch.autograd.gradcheck(lambda r: plackett_luce(r, ranks, group, margin), (rewards,))
    assert torch.autograd.gradcheck(lambda r: centring(r, group, 2), (rewards,))
