"""Divergences by hand, against finite differences, and from few tokens instead of all."""

import math
from itertools import pairwise

import pytest
import torch

from tunewright.objectives.divergences import (
    DIVERGENCES,
    POWER,
    TopK,
    absolute,
    forward_kl,
    generalised_js,
    matched,
    ranked,
    reverse_kl,
    top_k,
)

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)
HALF, SKEW, SURE = (1 / 2, 1 / 4, 1 / 4), (1 / 4, 1 / 2, 1 / 4), (1.0, 0.0, 0.0)


def logs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def random_logs(rows, tokens, seed, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(rows, tokens, generator=generator, dtype=torch.float64)).log_softmax(-1)


def terms(p, q):
    """sum p ln(p / q) in plain arithmetic, outcomes without mass left out."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


# HALF against SKEW: 1/2 ln 2 - 1/4 ln 2, the same both ways round. SURE against HALF: ln 2 forward.
# A third, lopsided pair tells forward from reverse.
P, Q = (0.7, 0.2, 0.1), (0.1, 0.3, 0.6)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (HALF, SKEW, LN2 / 4),
        (SURE, HALF, LN2),
        (P, Q, 0.7 * math.log(7) + 0.2 * math.log(2 / 3) - 0.1 * math.log(6)),
    ],
)
def test_forward_kl_by_hand(teacher, student, expected):
    assert float(forward_kl(logs(teacher), logs(student))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (HALF, SKEW, LN2 / 4),
        (HALF, SURE, LN2),
        (P, Q, -0.1 * math.log(7) + 0.3 * math.log(1.5) + 0.6 * math.log(6)),
    ],
)
def test_reverse_kl_by_hand(teacher, student, expected):
    assert float(reverse_kl(logs(teacher), logs(student))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("teacher", "student", "weight", "expected"),
    [
        # Disjoint: each is 1/2 of the mixture on its own outcome, so both KLs are ln 2.
        ((1.0, 0.0), (0.0, 1.0), 0.5, LN2),
        # M = (3/4, 1/4): 1/2 ln(4/3) + 1/2 (1/2 ln(2/3) + 1/2 ln 2)
        ((1.0, 0.0), (0.5, 0.5), 0.5, 0.5 * math.log(4 / 3) + 0.25 * (math.log(2 / 3) + LN2)),
        # b = 0.2, M = 0.2 P + 0.8 Q = (0.22, 0.28, 0.5)
        (P, Q, 0.2, 0.2 * terms(P, (0.22, 0.28, 0.5)) + 0.8 * terms(Q, (0.22, 0.28, 0.5))),
    ],
)
def test_generalised_js_by_hand(teacher, student, weight, expected):
    assert float(generalised_js(logs(teacher), logs(student), weight)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    # By rank P is (.7, .2, .1) and Q is (.6, .3, .1): 0.1 + 0.1. HALF and SKEW are the same by rank.
    [(P, Q, 0.2), (HALF, SKEW, 0.0), (SURE, HALF, 1.0)],
)
def test_uld_by_hand(teacher, student, expected):
    pair = ranked(top_k(logs(teacher), 3), logs(student))
    assert float(absolute(*pair)) == pytest.approx(expected, abs=1e-12)


def test_uld_of_vocabularies_of_different_size():
    """Teacher (.5, .5) against student (.4, .3, .3): .1 + .2 + .3, whichever of the two is larger."""
    large, small = logs((0.3, 0.4, 0.3)), logs((0.5, 0.5))
    assert float(absolute(*ranked(top_k(small, 5), large))) == pytest.approx(0.6)
    assert float(absolute(*ranked(top_k(large, 5), small))) == pytest.approx(0.6)
    # With k = 1 the rest counts as one outcome: |.5 - .4| + |.5 - .6|.
    assert float(absolute(*ranked(top_k(small, 1), large))) == pytest.approx(0.2)


def test_all_differ_on_one_input():
    teacher, student = logs(P), logs(Q)
    values = [float(fn(teacher, student)) for fn in DIVERGENCES.values()]
    assert len({round(v, 6) for v in values}) == len(DIVERGENCES) == len(POWER) == 4
    assert values[0] == pytest.approx(terms(P, Q)) and values[1] == pytest.approx(terms(Q, P))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_zero_for_equals_and_positive_otherwise(name):
    teacher, student = random_logs(50, 9, 1), random_logs(50, 9, 2)
    assert torch.allclose(
        DIVERGENCES[name](teacher, teacher), torch.zeros(50, dtype=torch.float64), atol=1e-12
    )
    assert (DIVERGENCES[name](teacher, student) > 0.01).all()


def test_js_tends_to_the_two_kl_divergences():
    teacher, student = random_logs(20, 7, 3, 1.0), random_logs(20, 7, 4, 1.0)
    b = 1e-6
    assert torch.allclose(generalised_js(teacher, student, b) / b, forward_kl(teacher, student), rtol=1e-3)
    assert torch.allclose(
        generalised_js(teacher, student, 1 - b) / b, reverse_kl(teacher, student), rtol=1e-3
    )


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tokens_known", ["all", "some", "ranks"])
def test_gradients_against_finite_differences(name, tokens_known):
    teacher = random_logs(4, 8, 5)
    logits = random_logs(4, 8, 6).requires_grad_()

    def loss(values):
        student = values.log_softmax(-1)
        pair = (teacher, student)
        if tokens_known == "some":
            pair = matched(top_k(teacher, 3), student)
        elif tokens_known == "ranks":
            pair = ranked(top_k(teacher, 3), student)
        return DIVERGENCES[name](*pair)

    assert torch.autograd.gradcheck(loss, (logits,), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_all_tokens_known_is_the_full_divergence(name):
    teacher, student = random_logs(30, 11, 7), random_logs(30, 11, 8)
    top = top_k(teacher, 11)
    full = DIVERGENCES[name](teacher, student)
    assert torch.allclose(DIVERGENCES[name](*matched(top, student)), full, rtol=1e-12)


def test_few_tokens_by_hand_and_from_below():
    """k = 1: the likeliest of P against its probability in Q, and all others as one: (.7, .3), (.1, .9)."""
    top = top_k(logs(P), 1)
    pair = matched(top, logs(Q))
    assert float(forward_kl(*pair)) == pytest.approx(0.7 * math.log(7) - 0.3 * LN3)
    assert float(reverse_kl(*pair)) == pytest.approx(0.9 * LN3 - 0.1 * math.log(7))
    teacher, student = random_logs(200, 40, 9), random_logs(200, 40, 10)
    for name in ("forward", "reverse", "js"):
        values = [DIVERGENCES[name](*matched(top_k(teacher, k), student)) for k in (1, 3, 10, 39, 40)]
        for fewer, more in pairwise(values):
            assert (fewer <= more + 1e-12).all()
        # One outcome in the rest is no loss of detail.
        assert torch.allclose(values[-2], values[-1], rtol=1e-9)


def test_a_tiny_rest_is_not_lost_to_rounding():
    """One token has all but 2e-9 of the mass: 1 - p is 0 in float32, the sum of the others is not."""
    logits = torch.tensor([[20.0, 0.0]])
    logprobs = logits.log_softmax(-1)
    assert float(1 - logprobs[0, 0].exp()) == 0.0
    assert float(top_k(logprobs, 1).rest) == pytest.approx(-20.0, abs=1e-6)


def test_outcomes_that_both_rule_out_add_nothing():
    teacher = logs((0.5, 0.5, 0.0))
    open_logits = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    for name, fn in DIVERGENCES.items():
        logits = torch.tensor([[0.0, 1.0, -math.inf]], dtype=torch.float64, requires_grad=True)
        loss = fn(teacher, logits.log_softmax(-1)).sum()
        assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all(), name
        expected = fn(logs((0.5, 0.5)), open_logits.log_softmax(-1))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9), name


@pytest.mark.parametrize("name", DIVERGENCES)
def test_power_of_temperature_keeps_the_gradient_alive(name):
    """T**POWER times the gradient tends to a constant as T grows; one power less and it would vanish."""
    generator = torch.Generator().manual_seed(11)
    teacher, student = torch.randn(2, 16, 12, generator=generator, dtype=torch.float64)

    def size(temperature):
        logits = student.clone().requires_grad_()
        q = (logits / temperature).log_softmax(-1)
        p = (teacher / temperature).log_softmax(-1)
        pair = ranked(top_k(p, 12), q) if name == "uld" else (p, q)
        loss = temperature ** POWER[name] * DIVERGENCES[name](*pair).sum()
        return float(torch.autograd.grad(loss, logits)[0].norm())

    assert size(40.0) == pytest.approx(size(20.0), rel=0.05) and size(40.0) > 0.01


def test_top_k_is_sorted_and_complete():
    top = top_k(logs(Q), 2)
    assert top.ids.tolist() == [[2, 1]] and top.logprobs.exp().tolist() == [pytest.approx([0.6, 0.3])]
    assert float(top.rest.exp()) == pytest.approx(0.1)
    everything = top_k(logs(Q), 9)
    assert everything.logprobs.shape == (1, 3) and float(everything.rest) == -math.inf


def test_ranks_of_another_vocabulary_have_no_tokens_to_match():
    top = top_k(logs(P), 2)
    with pytest.raises(AssertionError, match="by ranks only"):
        matched(TopK(top.logprobs, top.rest, None), logs(Q))
