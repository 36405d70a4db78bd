"""The GRPO family as an objective: prompts, credit, losses of packed batches, settings."""

import math
from itertools import pairwise

import pytest
import torch

from tunewright.core.errors import ConfigError
from tunewright.core.records import Conversation, Labelled, Message, Meta, Prompt, Text, Tokens
from tunewright.engine.batch import build_batch
from tunewright.objectives.base import Objective, make_objective
from tunewright.objectives.options.policy import DEFAULTS
from tunewright.objectives.options.table import GROUPWISE, options_of
from tunewright.objectives.policy import asked

USER, ANSWER = Message("user", "2+2?"), Message("assistant", "4")
WHERE = Meta("sums.jsonl", 3)


def objective(name="grpo", **values):
    return make_objective(name, options_of(name, values))


class Table:
    """A forward whose log-probability of a token is a parameter of its own."""

    def __init__(self, values):
        self.values = torch.as_tensor(values, dtype=torch.float32).requires_grad_()

    def logprobs(self, batch, hidden=None):
        return self.values[batch.targets.ids]


def answer(ids, advantage, weights=None, **tracks):
    """A sampled answer; a track may be given as one number for all tokens."""
    spread = {n: v if isinstance(v, list) else [v] * len(ids) for n, v in tracks.items()}
    return Tokens(ids, weights or [1.0] * len(ids), extras={"advantage": advantage}, tracks=spread)


def prompt(*branches):
    return Tokens([0, 1], [0.0, 0.0], branches=branches)


LOGPROBS = [-9.0, -9.0, -1.0, -0.5, -2.0, -0.25, -1.5, -0.75]
ROLLED = [
    prompt(
        answer([2, 3, 4], 1.5, sampled=-1.2, old=-1.1, reference=-0.9),
        answer([5], -0.5, sampled=-0.3, old=-0.4, reference=-0.2),
    ),
    prompt(
        answer([6, 7], -1.0, sampled=-1.0, old=-1.0, reference=-1.4),
        answer([2, 4, 5, 6, 7], 0.25, [1.0, 0.0, 0.0, 1.0, 1.0], sampled=-1.3, old=-0.6, reference=-1.0),
    ),
    prompt(answer([3, 3], 0.75, sampled=-0.6, old=-0.8, reference=-0.5)),
]


# --- rows


def test_a_conversation_asks_with_all_before_its_last_answer():
    again = Conversation((USER, ANSWER, Message("user", "3+3?"), Message("assistant", "6")), WHERE)
    found = asked(again)
    assert [m.content for m in found.messages] == ["2+2?", "4", "3+3?"]
    assert found.fields == {"answer": "6"} and found.meta == WHERE
    row = Prompt((USER,), {"answer": "4"}, WHERE)
    assert asked(row) is row


@pytest.mark.parametrize("messages", [(USER,), (ANSWER, USER)])
def test_a_conversation_that_asks_nothing_or_answers_nothing(messages):
    with pytest.raises(ConfigError, match=r"sums\.jsonl:3 .* assistant turn"):
        asked(Conversation(messages, WHERE))


class Renderer:
    """Two tokens per message, at most ``limit`` in all."""

    def __init__(self, limit=100):
        self.limit = limit

    def prompt(self, messages, tools=()):
        return [7] * (2 * len(messages) + len(tools))

    def limited(self, tokens):
        if self.limit == 0:
            return []
        return [Tokens(tokens.ids[: self.limit], tokens.weights[: self.limit], meta=tokens.meta)]


@pytest.mark.parametrize("name", GROUPWISE)
def test_a_row_becomes_its_prompt_without_a_weight(name):
    [tokens] = objective(name).encode(Conversation((USER, ANSWER), WHERE, ({"name": "f"},)), Renderer())
    assert tokens.ids == [7, 7, 7] and tokens.trained == 0 and tokens.meta == WHERE
    assert objective(name).encode(Prompt((USER,)), Renderer())[0].ids == [7, 7]


def test_rows_that_cannot_be_asked():
    with pytest.raises(ConfigError, match=r"sums\.jsonl:3 has 2 tokens, and only 1 fit data\.max_length"):
        objective().encode(Prompt((USER,), {}, WHERE), Renderer(1))
    assert objective().encode(Prompt((USER,)), Renderer(0)) == []
    for row in (Text("x"), Labelled((USER,), "a")):
        with pytest.raises(ConfigError, match="learns from conversation and prompt rows"):
            objective().encode(row, Renderer())


# --- the protocol


@pytest.mark.parametrize("name", GROUPWISE)
def test_it_keeps_the_protocol_and_says_what_it_requires(name):
    found = objective(name, rollout={"prompts": 5, "updates": 3})
    assert isinstance(found, Objective)
    assert (found.rows_per_step, found.updates, found.judged) == (5, 3, "rewards")
    assert found.requires == {"rollouts"}
    assert objective(name, kl=0.1).requires == {"rollouts", "reference"}
    assert objective(name, kl=0.1).kl_in_reward == (name == "rloo") and not found.kl_in_reward


def test_no_reward_is_an_error_before_anything_is_rendered():
    with pytest.raises(ConfigError, match=r"objective\.rewards names none"):
        objective().fitted([])
    rewarded = objective(rewards=["exact_match"])
    assert rewarded.fitted([]) is rewarded


def test_a_group_of_one_is_refused_at_once_except_where_answers_are_not_compared():
    for name in GROUPWISE:
        if name == "reinforce_pp":
            objective(name, rollout={"group": 1})
        else:
            with pytest.raises(ConfigError, match="group of one answer"):
                objective(name, rollout={"group": 1})


# --- credit


REWARDS = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
LENGTHS = torch.tensor([[4, 8], [4, 4], [8, 10]])


def test_credit_by_hand():
    """Distances ±1/2, 0 and ∓1 from the means; deviations sqrt(1/2), 0, sqrt(2)."""
    found = objective("dr_grpo").credit(REWARDS, LENGTHS)
    assert found.advantages.tolist() == [[0.5, -0.5], [0, 0], [-1, 1]] and found.kept.tolist() == [True] * 3
    small, large = 0.5 / (math.sqrt(0.5) + 1e-4), 1 / (math.sqrt(2) + 1e-4)
    found = objective("grpo").credit(REWARDS, LENGTHS).advantages
    torch.testing.assert_close(found, torch.tensor([[small, -small], [0, 0], [-large, large]]))


def test_equal_groups_are_dropped_by_dapo_or_on_demand():
    """What is normalised over the roll-out then leaves them out: four distances of ±1/2 and ±1, not six."""
    assert objective("dapo").credit(REWARDS, LENGTHS).kept.tolist() == [True, False, True]
    assert objective("dapo", rollout={"equal": "keep"}).credit(REWARDS, LENGTHS).kept.all()
    found = objective("reinforce_pp", rollout={"equal": "drop"}).credit(REWARDS, LENGTHS)
    unit = math.sqrt((0.25 + 0.25 + 1 + 1) / 3)
    wanted = torch.tensor([[0.5, -0.5], [0, 0], [-1, 1]]) / unit
    torch.testing.assert_close(found.advantages, wanted)
    none = objective("dapo").credit(torch.ones(2, 2), LENGTHS[:2])
    assert not none.kept.any() and none.advantages.tolist() == [[0, 0], [0, 0]]


def test_overlong_answers_lose_reward_but_make_no_group_unequal():
    """Ten tokens allowed, the last two punished: the answer of 10 tokens loses 1, that of 8 nothing."""
    rollout = {"max_new_tokens": 10, "equal": "keep"}
    shaped = objective("dr_grpo", overlong=0.2, rollout=rollout).credit(REWARDS, LENGTHS).advantages
    assert shaped[2].tolist() == [-0.5, 0.5] and shaped[0].tolist() == [0.5, -0.5]
    longest = objective("dapo", rollout={"max_new_tokens": 10}).credit(torch.ones(1, 2), LENGTHS[2:])
    assert longest.kept.tolist() == [False]


def test_rloo_takes_the_divergence_off_the_reward():
    """With a weight of 1/2, rewards 1, 0 and divergences 2, -1 give 0 and 1/2."""
    found = objective("rloo", kl=0.5).credit(REWARDS[:1], LENGTHS[:1], torch.tensor([[2.0, -1.0]]))
    assert found.advantages.tolist() == [[-0.5, 0.5]]
    for kl, divergence in ((0.5, None), (0.0, REWARDS)):
        with pytest.raises(AssertionError, match="only where, used"):
            objective("rloo", kl=kl).credit(REWARDS, LENGTHS, divergence)


# --- the loss


def loss_of(found, sequences, logprobs=LOGPROBS):
    """Mean loss, gradient of the mean and metrics, with one micro-batch per item of ``sequences``."""
    forward, batches = Table(logprobs), [build_batch(part) for part in sequences]
    count = sum(float(found.count(batch)) for batch in batches)
    total, sums = 0.0, {}
    for batch in batches:
        out = found.loss(forward, batch)
        (out.total / count).backward()
        total += float(out.total.detach())
        for name, mean in out.metrics.items():
            a, b = sums.get(name, (0.0, 0.0))
            sums[name] = (a + float(mean.total), b + float(mean.weight))
    return total / count, forward.values.grad, {name: a / b for name, (a, b) in sums.items()}


def test_grpo_by_hand():
    """One answer of two tokens, ratios e^0.5 and e^-0.25, importance weights 1 (of e^-0.1, e^3, cut at 2)."""
    given = [prompt(answer([2, 3], 2.0, old=[-1.5, -0.25], sampled=[-1.4, -3.25], reference=[-1.0, -0.5]))]
    value, _, metrics = loss_of(objective(), [given])
    first, second = 1.2 * 2.0 * math.exp(-0.1), math.exp(-0.25) * 2.0 * 2.0
    assert value == pytest.approx(-(first + second) / 2, rel=1e-6)
    assert metrics["ratio"] == pytest.approx((math.exp(0.5) + math.exp(-0.25)) / 2)
    assert metrics["clipped"] == 0.5 and metrics["entropy"] == pytest.approx(0.75)
    assert metrics["sampler_gap"] == pytest.approx(1.55)
    assert metrics["importance"] == pytest.approx((math.exp(-0.1) + 2.0) / 2)
    kl_old = (math.exp(0.5) - 1 - 0.5 + math.exp(-0.25) - 1 + 0.25) / 2
    assert metrics["kl_old"] == pytest.approx(kl_old, rel=1e-5)
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-7)


def test_the_divergence_is_added_without_the_importance_weight():
    """Policy at -1, reference at -2: k3 = e^-1 - 1 + 1. The sampler gave the token half its probability."""
    given = [prompt(answer([2], 0.0, old=-1.0, sampled=-1.0 - math.log(2), reference=-2.0))]
    for name in ("grpo", "dapo", "gspo", "cispo"):
        assert loss_of(objective(name, kl=0.5), [given])[0] == pytest.approx(0.5 * math.exp(-1), rel=1e-5)
    assert loss_of(objective("reinforce_pp", kl=0.5), [given])[0] == pytest.approx(0.25)
    assert loss_of(objective("rloo", kl=0.5), [given])[0] == 0
    assert loss_of(objective("dr_grpo", kl=0.5, rollout={"max_new_tokens": 4}), [given])[0] == pytest.approx(
        0.5 * math.exp(-1) / 4, rel=1e-5
    )


def test_without_old_probabilities_the_policy_has_not_moved():
    given = [prompt(answer([2, 3], 2.0, sampled=[-1.0, -0.5 - math.log(1.5)]))]
    value, grad, metrics = loss_of(objective(), [given])
    assert value == pytest.approx(-(2.0 + 2.0 * 1.5) / 2)  # the correction is by the policy as it is
    assert metrics["ratio"] == 1 and metrics["kl_old"] == 0 and "kl" not in metrics
    assert grad[2:4].tolist() == pytest.approx([-1.0, -1.5])


def test_the_importance_correction_can_be_left_out_but_not_forgotten():
    given = [prompt(answer([2], 2.0, sampled=-3.0))]
    plain = objective(rollout={"importance_cap": 0})
    value, _, metrics = loss_of(plain, [given])
    assert value == -2.0 and metrics["importance"] == 1 and metrics["sampler_gap"] == 2
    assert "importance" not in loss_of(plain, [[prompt(answer([2], 2.0))]])[2]
    with pytest.raises(AssertionError, match="sampled"):
        loss_of(objective(), [[prompt(answer([2], 2.0))]])


@pytest.mark.parametrize("name", GROUPWISE)
def test_nothing_depends_on_micro_batches(name):
    """Loss, gradient and metrics of a step in one, two and three parts of unequal lengths."""
    found = objective(name, kl=0.1, rollout={"max_new_tokens": 6})
    value, grad, metrics = loss_of(found, [ROLLED])
    for parts in ([ROLLED[:1], ROLLED[1:]], [ROLLED[2:], ROLLED[1:2], ROLLED[:1]]):
        other, other_grad, other_metrics = loss_of(found, parts)
        assert other == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(other_grad, grad)
        assert other_metrics == pytest.approx(metrics, rel=1e-5)
    assert grad.abs().sum() > 0.01


@pytest.mark.parametrize("name", GROUPWISE)
def test_it_counts_tokens_or_answers(name):
    tokens = name in ("dapo", "reinforce_pp", "cispo")
    assert float(objective(name).count(build_batch(ROLLED))) == (11 if tokens else 5)
    silent = prompt(answer([2, 3], 1.0, [0.0, 0.0]), answer([4], 1.0))
    assert float(objective(name).count(build_batch([silent]))) == 1


def test_all_methods_differ_on_one_roll_out():
    """From rewards to the mean loss, for the same answers."""
    lengths = torch.tensor([[3, 2], [4, 1]])
    rewards = torch.tensor([[1.0, 0.2], [0.5, 0.0]])
    found = {}
    for name in GROUPWISE:
        method = objective(name, rollout={"max_new_tokens": 6})
        credit = method.credit(rewards, lengths).advantages.tolist()
        ids = iter((2, 3, 4, 5, 6, 7, 2, 3, 4, 5))
        rolled = [
            prompt(
                *(
                    answer([next(ids) for _ in range(n)], a, sampled=-1.0, old=-1.0)
                    for n, a in zip(*row, strict=True)
                )
            )
            for row in zip(lengths.tolist(), credit, strict=True)
        ]
        found[name] = loss_of(method, [rolled])[0]
    values = sorted(found.values())
    assert len(values) == 7 and min(b - a for a, b in pairwise(values)) > 1e-3, found


# --- settings


def test_auto_is_what_the_method_is_known_for():
    assert (objective("dapo").clip.high, objective("dapo").overlong) == (0.28, 0.2)
    assert objective("gspo").clip == (3e-4, 4e-4) and objective("cispo").clip == (1.0, 4.0)
    assert objective("grpo").clip == (0.2, 0.2) and objective("grpo").overlong == 0
    assert objective("dapo", overlong=0.0, clip={"high": 0.2}).clip.high == 0.2
    assert set(DEFAULTS) == set(GROUPWISE)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grpo", {"kl": 0.5}),
        ("grpo", {"clip": {"low": 0.01}}),
        ("grpo", {"clip": {"high": 0.01}}),
        ("cispo", {"clip": {"low": 0.01}}),
        ("cispo", {"clip": {"high": 0.01}}),
        ("grpo", {"rollout": {"importance_cap": 1.0}}),
        ("grpo", {"rollout": {"importance_cap": 0}}),
        ("dr_grpo", {"rollout": {"max_new_tokens": 7}}),
    ],
)
def test_a_setting_that_changes_the_loss(name, values):
    assert abs(loss_of(objective(name, **values), [ROLLED])[0] - loss_of(objective(name), [ROLLED])[0]) > 1e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rollout": {"importance_cap": 0.5}}, r"rollout: importance_cap is 0.5: below 1"),
        ({"rollout": {"sampler": {"kind": "openai"}}}, "needs url"),
        ({"rollout": {"sampler": {"url": "http://x/v1", "timeout": 3}}}, "url, timeout would be ignored"),
        ({"rollout": {"grup": 4}}, "'rollout.grup'. Did you mean 'group'"),
        ({"clip": {"low": 1.5}}, r"clip\.low"),
        ({"kl": -1}, "kl"),
        ({"overlong": 1.0}, "overlong"),
    ],
)
def test_bad_settings_say_what_is_wrong(values, message):
    with pytest.raises(ConfigError, match=message):
        options_of("grpo", values)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_resolved_settings_can_be_read_again(name):
    """A recipe is stored with every default stated; none of them may then count as set by hand."""
    first = options_of(name, {})
    assert options_of(name, first.model_dump()) == first
