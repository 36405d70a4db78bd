"""Advantages by hand arithmetic and against literal definitions."""

import math
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunewright.core.errors import ConfigError
from tunewright.objectives.advantages import (
    adapted,
    batch_normalised,
    centred,
    equal_groups,
    explained_variance,
    gae,
    k1,
    k2,
    k3,
    leave_one_out,
    overlong_penalty,
    penalised,
    standardised,
    whitened,
)

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)


def test_group_baselines_by_hand():
    """The first group has mean 1 and squares 0, 1, 1, 4 of the distances: variance 6 / 3 = 2."""
    assert centred(REWARDS).tolist() == [[0, -1, -1, 2], [0, 0, 0, 0]]
    unit = math.sqrt(2.0) + 1e-4
    assert standardised(REWARDS)[0].tolist() == pytest.approx([0, -1 / unit, -1 / unit, 2 / unit], rel=1e-12)
    assert standardised(REWARDS)[1].tolist() == [0, 0, 0, 0]
    # 1 - 3/3, 0 - 4/3, 0 - 4/3, 3 - 1/3
    assert leave_one_out(REWARDS)[0].tolist() == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3])
    assert leave_one_out(REWARDS)[1].tolist() == pytest.approx([0, 0, 0, 0])


def test_batch_normalised_by_hand():
    """Centred: 0, -1, -1, 2, 0, 0, 0, 0, of variance 6 / 7. One answer each, 1 and 3: mean 2, variance 2."""
    unit = math.sqrt(6 / 7)
    assert batch_normalised(REWARDS)[0].tolist() == pytest.approx(
        [0, -1 / unit, -1 / unit, 2 / unit], rel=1e-6
    )
    alone = batch_normalised(torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    assert alone[:, 0].tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)], rel=1e-6)


@pytest.mark.parametrize("rule", [centred, standardised, leave_one_out])
def test_a_group_of_one_has_nothing_to_be_compared_with(rule):
    with pytest.raises(
        ConfigError, match=r"group of one answer has .* objective\.rollout\.group to at least 2"
    ):
        rule(torch.tensor([[1.0], [2.0]]))


def test_one_answer_in_all_cannot_be_normalised():
    with pytest.raises(ConfigError, match="roll-out of one answer"):
        batch_normalised(torch.tensor([[1.0]]))
    assert batch_normalised(torch.tensor([[1.0, 1.0]])).tolist() == [[0, 0]]


def test_equal_groups():
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.0, 0.0], [0.1, 0.1, 0.2], [-1.0, -1.0, 1.0]])
    assert equal_groups(rewards).tolist() == [True, True, False, False]


def test_overlong_penalty_by_hand():
    """A limit of 20 with a fifth of it as buffer: nothing to 16, then -1/4 per token."""
    lengths = torch.tensor([1, 16, 17, 19, 20, 25])
    assert overlong_penalty(lengths, 20, 0.2).tolist() == pytest.approx([0, 0, -0.25, -0.75, -1, -1])
    assert overlong_penalty(lengths, 20, 0.0).tolist() == [0] * 6


def test_divergence_estimators_by_hand_and_on_average():
    """p = (3/4, 1/4), q = (1/2, 1/2): log ratios ln 1.5 and ln 0.5."""
    p, q = torch.tensor([0.75, 0.25]).double(), torch.tensor([0.5, 0.5]).double()
    log_ratio = p.log() - q.log()
    assert k1(log_ratio).tolist() == pytest.approx([math.log(1.5), math.log(0.5)])
    assert k2(log_ratio).tolist() == pytest.approx([math.log(1.5) ** 2 / 2, math.log(2) ** 2 / 2])
    assert k3(log_ratio).tolist() == pytest.approx([2 / 3 - 1 + math.log(1.5), 2 - 1 - math.log(2)])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float((p * k1(log_ratio)).sum()) == pytest.approx(divergence)
    assert float((p * k3(log_ratio)).sum()) == pytest.approx(divergence)
    assert float((p * k2(log_ratio)).sum()) == pytest.approx(divergence, rel=0.15)  # biased
    assert bool(k3(torch.tensor([-500.0, 500.0])).isfinite().all())


def test_penalised_by_hand():
    """Two answers of 2 and 1 tokens; the reward of each comes with its last token."""
    log_ratio = torch.tensor([0.5, -1.0, 2.0])
    found = penalised(torch.tensor([1.0, -3.0]), log_ratio, [2, 1], 0.1)
    torch.testing.assert_close(found, torch.tensor([-0.05, 0.1 + 1.0, -0.2 - 3.0]))


@pytest.mark.parametrize(
    ("observed", "expected"),
    [(6.0, 0.2), (6.6, 0.2 * (1 + 0.1 * 0.5)), (60.0, 0.2 * (1 + 0.2 * 0.5)), (0.0, 0.2 * (1 - 0.2 * 0.5))],
)
def test_adapted_by_hand(observed, expected):
    """Half a horizon seen; the error is cut to a fifth."""
    assert adapted(0.2, observed, 6.0, 0.5) == pytest.approx(expected)


def test_adapted_brings_a_divergence_to_its_target():
    """A policy whose divergence falls with the weight: 1 / weight. It settles at 1 / target."""
    weight = 0.05
    for _ in range(200):
        weight = adapted(weight, 1 / weight, 4.0, 0.3)
    assert weight == pytest.approx(0.25, rel=1e-3)


# --- tokens


def literal_gae(rewards, values, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, as the paper defines it, for one answer."""
    after = [*values[1:], 0.0]
    delta = [r + gamma * v1 - v for r, v, v1 in zip(rewards, values, after, strict=True)]
    n = len(delta)
    return [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)]


def test_gae_by_hand():
    """Rewards 0, 1; values 0.5, 0.25; gamma 0.5, lambda 0.5.

    Deltas -0.375, 0.75; advantages -0.375 + 0.25 * 0.75 = -0.1875 and 0.75.
    """
    advantages, returns = gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.25]), [2], 0.5, 0.5)
    assert advantages.tolist() == [-0.1875, 0.75] and returns.tolist() == [0.3125, 1.0]


numbers = st.floats(-3, 3, allow_nan=False)


@given(
    st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), min_size=1, max_size=4),
    st.floats(0.1, 1),
    st.floats(0, 1),
)
def test_gae_is_the_literal_sum_over_ragged_answers(rows, gamma, lam):
    flat = [pair for row in rows for pair in row]
    rewards, values = (torch.tensor([pair[i] for pair in flat], dtype=torch.float64) for i in (0, 1))
    advantages, returns = gae(rewards, values, [len(row) for row in rows], gamma, lam)
    wanted = [a for row in rows for a in literal_gae([r for r, _ in row], [v for _, v in row], gamma, lam)]
    assert advantages.tolist() == pytest.approx(wanted, abs=1e-9)
    torch.testing.assert_close(returns, advantages + values)


def test_gae_at_the_ends_of_lambda():
    """Lambda 1: return minus value. Lambda 0: one step ahead."""
    rewards, values = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 1.0, 3.0])
    assert gae(rewards, values, [3], 1.0, 1.0)[1].tolist() == [7, 6, 4]
    assert gae(rewards, values, [3], 1.0, 0.0)[0].tolist() == [1 + 1.0 - 0.5, 2 + 3.0 - 1.0, 4 - 3.0]


def test_whitened_by_hand():
    values = [1.0, 2.0, 6.0]
    wanted = [(v - mean(values)) / stdev(values) for v in values]
    assert whitened(torch.tensor(values, dtype=torch.float64)).tolist() == pytest.approx(wanted, rel=1e-7)
    kept = whitened(torch.tensor(values, dtype=torch.float64), centre=False)
    assert kept.tolist() == pytest.approx([w + mean(values) for w in wanted], rel=1e-7)


def test_explained_variance_by_hand():
    """Returns 0, 2, 4 (variance 8/3); residues 1, 1, 4 (variance 2): 1 - 2 / (8/3) = 1/4."""
    returns = torch.tensor([0.0, 2.0, 4.0])
    assert explained_variance(returns - torch.tensor([1.0, 1.0, 4.0]), returns) == pytest.approx(0.25)
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0])) == 0
