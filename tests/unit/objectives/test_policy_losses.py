"""Policy losses by hand arithmetic, against each other, and their gradients against finite differences."""

import math

import pytest
import torch

from tunewright.objectives.options.policy import DEFAULTS
from tunewright.objectives.policy_losses import (
    POLICY_LOSSES,
    Answers,
    Clip,
    clipped_value,
    importance,
    out_of_range,
    plain_k2,
    weighted_k3,
)

# Two answers, of 2 and 3 tokens; log-probabilities of their tokens now, and the longest answer allowed.
LOGPROBS = (-1.0, -0.5, -2.0, -0.25, -1.5)
SEGMENT = (1, 1, 3, 3, 3)
LIMIT = 10

# Ratios of the tokens, advantages of the two answers, sum over tokens by name (not divided by the count).
CASES = {
    # r A: 3, 2.2 | -0.5, -1.3, -1; r cut at 0.8 and 1.2: 2.4, 2.2 | -0.8, -1.2, -1; the lesser counts
    "both cut": (
        (1.5, 1.1, 0.5, 1.3, 1.0),
        (2.0, -1.0),
        {
            "grpo": -(2.4 + 2.2) / 2 + (0.8 + 1.3 + 1.0) / 3,
            "dr_grpo": (-4.6 + 3.1) / 10,
            "rloo": -1.2 * 2 + 0.8,  # ratios of the answers: 1.65 and 0.65
            "reinforce_pp": -4.6 + 3.1,
            "dapo": -(1.28 * 2 + 2.2) + 3.1,
            "gspo": -1.0004 * 2 + 0.9997,  # 1.65 ** (1/2) and 0.65 ** (1/3) are both out of range
            "cispo": 1.5 * 2 * 1.0 + 1.1 * 2 * 0.5 - (0.5 * 2.0 + 1.3 * 0.25 + 1.0 * 1.5),
        },
    ),
    # every ratio is 1: the value is minus the advantage, CISPO's is that times -log p
    "first update": (
        (1.0, 1.0, 1.0, 1.0, 1.0),
        (2.0, -1.0),
        {
            "grpo": -2.0 + 1.0,
            "dr_grpo": (-2 * 2.0 + 3 * 1.0) / 10,
            "rloo": -2.0 + 1.0,
            "reinforce_pp": -2 * 2.0 + 3 * 1.0,
            "dapo": -2 * 2.0 + 3 * 1.0,
            "gspo": -2.0 + 1.0,
            "cispo": 2.0 * (1.0 + 0.5) - (2.0 + 0.25 + 1.5),
        },
    ),
    # answer 1 is bad: -3 and -0.8; answer 2 is good: 0.3, 0.6 (of 7), 0.6 (of 1.25)
    "far away": (
        (3.0, 0.7, 0.6, 7.0, 1.25),
        (-1.0, 0.5),
        {
            "grpo": (3.0 + 0.8) / 2 - (0.3 + 0.6 + 0.6) / 3,
            "dr_grpo": (3.8 - 1.5) / 10,
            "rloo": 3.0 * 0.7 - 1.2 * 0.5,  # the second ratio is 0.6 * 7 * 1.25 = 5.25
            "reinforce_pp": 3.8 - 1.5,
            "dapo": 3.8 - (0.3 + 1.28 * 0.5 + 1.25 * 0.5),
            "gspo": math.sqrt(2.1) - 1.0004 * 0.5,
            "cispo": -(3.0 * 1.0 + 0.7 * 0.5) + 0.5 * (0.6 * 2.0 + 5.0 * 0.25 + 1.25 * 1.5),
        },
    ),
}


def answers(logprobs, ratios, advantages, dtype=torch.float64):
    new = torch.as_tensor(logprobs, dtype=dtype)
    old = torch.tensor(LOGPROBS, dtype=dtype) - torch.tensor(ratios, dtype=dtype).log()
    spread = torch.tensor([advantages[0]] * 2 + [advantages[1]] * 3, dtype=dtype)
    return Answers(new, old, spread, torch.ones_like(new), torch.tensor(SEGMENT), 4)


def total(name, given, frozen=None):
    """The sum over tokens; ``frozen`` replaces the ratio."""
    rule, clip = POLICY_LOSSES[name], Clip(DEFAULTS[name].low, DEFAULTS[name].high)
    ratio = rule.ratio(given) if frozen is None else frozen
    return (rule.surrogate(ratio, given, clip) * rule.share(given, LIMIT)).sum()


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_three_worked_numbers_for_each(name, case):
    ratios, advantages, expected = CASES[case]
    found = float(total(name, answers(LOGPROBS, ratios, advantages)))
    assert found == pytest.approx(expected[name], rel=1e-9)


def test_every_name_has_a_loss_and_defaults():
    assert list(POLICY_LOSSES) == list(DEFAULTS)


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_gradients_against_finite_differences(name, case):
    """The weight of CISPO is not differentiated, so neither is it in the differences."""
    ratios, advantages, _ = CASES[case]
    live = torch.tensor(LOGPROBS, dtype=torch.float64, requires_grad=True)
    [found] = torch.autograd.grad(total(name, answers(live, ratios, advantages)), live)
    base = torch.tensor(LOGPROBS, dtype=torch.float64)
    fixed = POLICY_LOSSES[name].ratio(answers(base, ratios, advantages)) if name == "cispo" else None
    numeric = torch.zeros_like(base)
    for i in range(5):
        step = torch.zeros_like(base)
        step[i] = 1e-6
        up = total(name, answers(base + step, ratios, advantages), fixed)
        down = total(name, answers(base - step, ratios, advantages), fixed)
        numeric[i] = (up - down) / 2e-6
    torch.testing.assert_close(found, numeric, rtol=1e-6, atol=1e-8)
    stopped = case == "both cut" and name in ("rloo", "gspo")
    assert bool((found == 0).all()) == stopped


def test_a_token_beyond_the_range_has_no_gradient_except_in_cispo():
    ratios, advantages, _ = CASES["both cut"]
    for name in ("grpo", "dapo", "reinforce_pp", "dr_grpo", "cispo"):
        live = torch.tensor(LOGPROBS, dtype=torch.float64, requires_grad=True)
        [grad] = torch.autograd.grad(total(name, answers(live, ratios, advantages)), live)
        stopped = [i for i in range(5) if grad[i] == 0]
        assert stopped == ([] if name == "cispo" else [0, 2]), name


def test_out_of_range_looks_at_the_side_that_the_advantage_pulls_to():
    given = answers(LOGPROBS, (1.5, 0.5, 0.5, 1.3, 1.0), (2.0, -1.0))
    ratio = POLICY_LOSSES["grpo"].ratio(given)
    assert out_of_range(ratio, given, Clip(0.2, 0.2)).tolist() == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_a_huge_ratio_stays_finite_in_float32(name):
    live = torch.tensor(LOGPROBS, requires_grad=True)
    old = torch.tensor(LOGPROBS) - torch.tensor([200.0, 150.0, -300.0, 0.0, 0.0])
    spread = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0])
    given = Answers(live, old, spread, torch.ones(5), torch.tensor(SEGMENT), 4)
    value = total(name, given)
    [grad] = torch.autograd.grad(value, live)
    assert bool(value.isfinite()) and bool(grad.isfinite().all())


def test_weights_scale_tokens_and_leave_out_tool_output():
    """An answer of 3 tokens with weight 2 on one: its mean is over 4."""
    given = answers(LOGPROBS, (1.0,) * 5, (2.0, -1.0))._replace(
        weights=torch.tensor([1.0, 1, 2, 1, 1]).double()
    )
    assert POLICY_LOSSES["grpo"].share(given, LIMIT).tolist() == [0.5, 0.5, 0.5, 0.25, 0.25]
    assert POLICY_LOSSES["dapo"].share(given, LIMIT).tolist() == [1, 1, 2, 1, 1]
    assert POLICY_LOSSES["dr_grpo"].share(given, LIMIT)[2] == 0.2
    heavy = answers(LOGPROBS, (1.0, 1.0, 4.0, 0.5, 0.5), (2.0, -1.0))._replace(weights=given.weights)
    assert float(POLICY_LOSSES["rloo"].ratio(heavy)[3]) == pytest.approx(4.0**2 * 0.5 * 0.5)
    assert float(POLICY_LOSSES["gspo"].ratio(heavy)[3]) == pytest.approx((4.0**2 * 0.5 * 0.5) ** 0.25)


# --- divergence from the reference


def test_divergences_by_hand():
    """log p - log q = ln 2: q / p = 1/2."""
    log_ratio, ratio = torch.tensor([math.log(2.0)]), torch.tensor([3.0])
    assert float(weighted_k3(log_ratio, ratio)) == pytest.approx(3.0 * (0.5 - 1 + math.log(2)))
    assert float(plain_k2(log_ratio, ratio)) == pytest.approx(math.log(2) ** 2 / 2)


@pytest.mark.parametrize("penalty", [weighted_k3, plain_k2])
def test_on_policy_the_gradient_is_that_of_the_reverse_divergence(penalty):
    """Averaged over p, d penalty = d KL(p, q): the sampled token's ratio is differentiated too."""
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    log_q = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64).log_softmax(0)
    log_p = logits.log_softmax(0)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    sampled = (log_p.exp().detach() * penalty(log_p - log_q, (log_p - log_p.detach()).exp())).sum()
    [wanted] = torch.autograd.grad(exact, logits, retain_graph=True)
    [found] = torch.autograd.grad(sampled, logits)
    torch.testing.assert_close(found, wanted)


# --- shared by all


def test_importance_by_hand():
    """p_trainer / p_sampler of 3, 1 and 1/4, cut at 2; nothing is differentiated."""
    old = torch.tensor([math.log(0.6), math.log(0.5), math.log(0.1)], requires_grad=True)
    found = importance(old, torch.tensor([0.2, 0.5, 0.4]).log(), 2.0)
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0, 0.25]))
    assert not found.requires_grad


def test_clipped_value_by_hand():
    """Values 1, 1, 2 from old ones of 0.5, 1.1, 0; returns 0, 3, 1; width 0.2.

    Near the old: 0.7, 1.0, 0.2. Squares: max(1, 0.49), max(4, 4), max(1, 0.64); the halves are taken.
    """
    values, old = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0.5, 1.1, 0.0])
    found = clipped_value(values, old, torch.tensor([0.0, 3.0, 1.0]), 0.2)
    torch.testing.assert_close(found, torch.tensor([0.5, 2.0, 0.5]))
    # Beyond the width towards the return, the clipped value is the worse one and has no gradient.
    live = torch.tensor([1.0], requires_grad=True)
    value = clipped_value(live, torch.tensor([0.0]), torch.tensor([2.0]), 0.2)
    assert value.tolist() == pytest.approx([1.8**2 / 2])
    assert float(torch.autograd.grad(value.sum(), live)[0]) == 0


def test_clipped_value_gradient_against_finite_differences():
    old, returns = torch.tensor([0.5, 1.1, 0.0]).double(), torch.tensor([0.0, 3.0, 1.0]).double()
    live = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: clipped_value(v, old, returns, 0.2), (live,))
