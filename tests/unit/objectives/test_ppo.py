"""PPO as an objective: credit of tokens, both losses, the weight of the divergence."""

import math
from statistics import mean, stdev

import pytest
import torch

from tests.tiny import tiny_model
from tunewright.core.errors import ConfigError
from tunewright.core.records import Message, Meta, Prompt, Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.score import attach
from tunewright.objectives.base import HeadSpec, Objective, make_objective
from tunewright.objectives.options.table import options_of
from tunewright.objectives.ppo import Sampled


def objective(**values):
    return make_objective("ppo", options_of("ppo", values))


class Table:
    """A forward with a parameter for the log-probability, and one for the value, of each token."""

    def __init__(self, logprobs, values):
        self.table = torch.tensor([logprobs, values]).requires_grad_()
        self.passes = 0

    def hidden(self, batch):
        self.passes += 1
        return torch.zeros(batch.size, 1)

    def logprobs(self, batch, hidden=None):
        assert hidden is not None, "the trunk would run twice"
        return self.table[0][batch.targets.ids]

    def values(self, batch, hidden=None):
        assert hidden is not None, "the trunk would run twice"
        return self.table[1][batch.targets.ids]


def answer(ids, weights=None, **tracks):
    spread = {n: v if isinstance(v, list) else [v] * len(ids) for n, v in tracks.items()}
    return Tokens(ids, weights or [1.0] * len(ids), tracks=spread)


def loss_of(found, parts, forward):
    batches = [build_batch([Tokens([0, 1], [0.0, 0.0], branches=tuple(part))]) for part in parts]
    count = sum(float(found.count(batch)) for batch in batches)
    total, sums = 0.0, {}
    for batch in batches:
        out = found.loss(forward, batch)
        (out.total / count).backward()
        total += float(out.total.detach()) / count
        for name, m in out.metrics.items():
            a, b = sums.get(name, (0.0, 0.0))
            sums[name] = (a + float(m.total), b + float(m.weight))
    return total, {name: a / b for name, (a, b) in sums.items()}


LOGPROBS, VALUES = [-9.0, -9.0, -1.0, -0.5, -2.0], [9.0, 9.0, 1.0, 1.0, 2.0]
ROLLED = [
    answer(
        [2, 3],
        advantage=2.0,
        value=[0.5, 1.1],
        old=[-1.5, -0.25],
        sampled=[-1.5, -0.25],
        **{"return": [0.0, 3.0]},
    ),
    answer([4], advantage=-1.0, value=[0.0], old=[-2.0], sampled=[-2.5], **{"return": [1.0]}),
]


def test_the_loss_by_hand():
    """Ratios e^0.5 (cut at 1.2), e^-0.25, 1; importance 1, 1, e^0.5; value losses 1/2, 2, 1/2."""
    forward = Table(LOGPROBS, VALUES)
    value, metrics = loss_of(objective(), [ROLLED], forward)
    policy = -(1.2 * 2.0 + math.exp(-0.25) * 2.0) + math.exp(0.5)
    assert value == pytest.approx((policy + 0.1 * (0.5 + 2.0 + 0.5)) / 3, rel=1e-6)
    assert metrics["value_loss"] == pytest.approx(1.0) and metrics["clipped"] == pytest.approx(1 / 3)
    assert metrics["importance"] == pytest.approx((2 + math.exp(0.5)) / 3)
    assert forward.passes == 1
    # the first token is beyond the range; values: 0.1 * (V - R) / 3, of the second 0.1 * (1 - 3) / 3
    assert forward.table.grad[0].tolist() == pytest.approx(
        [0, 0, 0, -2 * math.exp(-0.25) / 3, math.exp(0.5) / 3], rel=1e-5
    )
    assert forward.table.grad[1].tolist() == pytest.approx([0, 0, 0.1 / 3, -0.2 / 3, 0.1 / 3], rel=1e-5)


def test_gradients_against_finite_differences():
    def mean_loss(table):
        return loss_of(objective(), [ROLLED], table)[0]

    live = Table(LOGPROBS, VALUES)
    mean_loss(live)
    for row, column in ((0, 3), (0, 4), (1, 2), (1, 3), (1, 4)):
        ends = []
        for sign in (1, -1):
            moved = Table(LOGPROBS, VALUES)
            with torch.no_grad():
                moved.table[row, column] += sign * 1e-2
            ends.append(mean_loss(moved))
        assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(live.table.grad[row, column]), rel=2e-3)


def test_nothing_depends_on_micro_batches():
    one, two = Table(LOGPROBS, VALUES), Table(LOGPROBS, VALUES)
    value, metrics = loss_of(objective(), [ROLLED], one)
    other, other_metrics = loss_of(objective(), [ROLLED[1:], ROLLED[:1]], two)
    assert other == pytest.approx(value, rel=1e-6) and other_metrics == pytest.approx(metrics, rel=1e-6)
    torch.testing.assert_close(one.table.grad, two.table.grad)


@pytest.mark.parametrize(
    "values",
    [
        {"value_weight": 0.5},
        {"clip": {"low": 0.01}},
        {"clip": {"high": 0.01}},
        {"clip": {"value": 3.0}},
        {"rollout": {"importance_cap": 1.0}},
    ],
)
def test_a_setting_that_changes_the_loss(values):
    far = [
        answer([2, 3], advantage=[2.0, -1.0], value=1.5, old=[-1.5, -0.25], sampled=-2.0, **{"return": 0.0})
    ]
    plain = loss_of(objective(), [far], Table(LOGPROBS, VALUES))[0]
    assert abs(loss_of(objective(**values), [far], Table(LOGPROBS, VALUES))[0] - plain) > 1e-3


# --- credit

SAMPLED = Sampled(
    torch.tensor([-1.0, -2.0, -0.5]),
    torch.tensor([0.5, 0.25, 1.0]),
    [2, 1],
    torch.tensor([-1.5, -1.0, -0.5]),
)


def test_credit_by_hand():
    """Divergences 0.5, -1, 0 at a weight of 0.2: rewards -0.1, 0.2 + 1, 0 - 1. Gamma 1, lambda 1/2."""
    found = objective(lam=0.5, whiten="none").credit(torch.tensor([1.0, -1.0]), SAMPLED, 0.2)
    second = 1.2 - 0.25
    first = -0.1 + 0.25 - 0.5 + 0.5 * second
    torch.testing.assert_close(found.advantages, torch.tensor([first, second, -2.0]))
    torch.testing.assert_close(found.returns, torch.tensor([first + 0.5, 1.2, -1.0]))
    returns, residues = [first + 0.5, 1.2, -1.0], [first, second, -2.0]
    assert found.explained_variance == pytest.approx(1 - stdev(residues) ** 2 / stdev(returns) ** 2, rel=1e-5)


def test_whitening_by_hand():
    rewards = torch.tensor([1.0, -1.0])
    raw = objective(whiten="none").credit(rewards, SAMPLED, 0.2)
    scaled = objective().credit(rewards, SAMPLED, 0.2)
    values = raw.advantages.tolist()
    wanted = [(v - mean(values)) / stdev(values) for v in values]
    assert scaled.advantages.tolist() == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(scaled.returns, raw.returns)
    # rewards -0.1, 1.2, -1 are scaled about their own mean, so the last return is no longer -1
    both = objective(whiten="both").credit(rewards, SAMPLED, 0.2)
    per_token = [-0.1, 1.2, -1.0]
    assert float(both.returns[2]) == pytest.approx(
        (-1 - mean(per_token)) / stdev(per_token) + mean(per_token), rel=1e-5
    )


def test_gamma_reaches_the_returns():
    given = torch.tensor([1.0, -1.0])
    values = [float(objective(gamma=g, lam=1.0).credit(given, SAMPLED, 0.0).returns[0]) for g in (1.0, 0.5)]
    assert values == pytest.approx([1.0, 0.5])


def test_a_divergence_needs_a_reference():
    without = SAMPLED._replace(reference=None)
    with pytest.raises(AssertionError, match="reference"):
        objective().credit(torch.tensor([1.0, -1.0]), without, 0.2)
    found = objective().credit(torch.tensor([1.0, -1.0]), without, 0.0)
    torch.testing.assert_close(found.returns[1:], torch.tensor([1.0, -1.0]))


def test_the_weight_of_the_divergence_follows_the_target():
    assert objective().next_kl(0.05, 100.0, 64) == 0.05
    controlled = objective(kl={"target": 6.0, "horizon": 100})
    assert controlled.next_kl(0.05, 6.6, 50) == pytest.approx(0.05 * (1 + 0.1 * 0.5))
    assert controlled.next_kl(0.05, 0.0, 50) == pytest.approx(0.05 * (1 - 0.2 * 0.5))


# --- the protocol and settings


def test_it_keeps_the_protocol():
    found = objective(head_rate=3.0, rollout={"prompts": 5})
    assert isinstance(found, Objective) and found.heads == {"value": HeadSpec(1, bias=True, rate=3.0)}
    assert (found.rows_per_step, found.updates, found.judged) == (5, 4, "rewards")
    assert found.requires == {"rollouts", "reference"}
    assert objective(kl={"weight": 0}).requires == {"rollouts"}
    with pytest.raises(ConfigError, match="rewards names none"):
        found.fitted([])


def test_a_row_becomes_its_prompt():
    class Renderer:
        def prompt(self, messages, tools=()):
            return [5] * len(messages)

        def limited(self, tokens):
            return [tokens]

    [tokens] = objective().encode(Prompt((Message("user", "2+2?"),), {}, Meta("a.jsonl", 1)), Renderer())
    assert (tokens.ids, tokens.weights, tokens.meta.line) == ([5], [0.0], 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kl": {"weight": 0, "target": 6.0}}, "stays 0"),
        ({"kl": {"horizon": 50}}, "ignored without a target"),
        ({"lam": 1.5}, "lam"),
        ({"value_weight": 0}, "value_weight"),
    ],
)
def test_bad_settings_say_what_is_wrong(values, message):
    with pytest.raises(ConfigError, match=message):
        options_of("ppo", values)


def test_a_real_model_with_a_value_head():
    """Policy and value losses reach the trunk, and the head, of a model in one backward pass."""
    model, found = tiny_model("llama", 20), objective(clip={"value": 50.0})
    attach(model, found.heads)
    with torch.no_grad():
        model.value.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    given = [answer([5, 6], advantage=1.0, value=0.0, sampled=-3.0, **{"return": 2.0})]
    batch = build_batch([Tokens([3, 4], [0.0, 0.0], branches=tuple(given))])
    out = found.loss(ModelForward(model), batch)
    out.total.backward()
    assert float(model.value.weight.grad.abs().sum()) > 0 and float(model.value.bias.grad) != 0
    assert float(model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum()) > 0
