"""Roll-outs: answers are sampled, scored, credited and kept, exactly and reproducibly."""

import json
import math
from dataclasses import replace

import pytest
import torch

from tests.tiny import tiny_model
from tunewright.core.errors import DataError, TrainError
from tunewright.core.records import Message, Meta, Prompt, Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.plan import micro_batches
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling
from tunewright.models.score import attach
from tunewright.objectives.base import make_objective
from tunewright.objectives.dialogue import Question, asking
from tunewright.objectives.options.table import options_of
from tunewright.objectives.rewards import RewardError, make_rewards
from tunewright.objectives.rollout import TRIES, Means, Rollouts
from tunewright.objectives.sampler import Sampled, TransformersSampler

STOP = frozenset(range(8))
ASKED = ([3, 4, 5], [6, 7], [8], [9, 20, 21, 22])


def first_token(prompt, answer, example):
    """A reward that differs between answers: the first sampled id, and the row's own number."""
    return float(answer.split()[0]) + 100 * example["number"]


def questions():
    rows = [
        Prompt((Message("user", f"row {i}"),), {"number": i}, Meta("rows.jsonl", i + 1)) for i in range(4)
    ]
    return [
        (Tokens(ids, [0.0] * len(ids), meta=row.meta), Question(ids, row))
        for ids, row in zip(ASKED, rows, strict=True)
    ]


class Scene:
    """A tiny policy with its reference, a sampler that counts its calls, and a list of what was observed."""

    def __init__(self, name, *, rewards=(first_token,), ask=None, micro_tokens=64, **values):
        rollout = {"group": 4, "max_new_tokens": 5, **values.pop("rollout", {})}
        self.objective = make_objective(name, options_of(name, {"rollout": rollout, **values}))
        self.model = tiny_model("llama", 60)
        attach(self.model, self.objective.heads)
        for head in [m for n, m in self.model.named_modules() if n == "value"]:
            torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
        self.forward = ModelForward(self.model)
        self.reference = ModelForward(tiny_model("llama", 60, seed=9))
        sampling = Sampling(max_new_tokens=5, temperature=1.0, stop_ids=STOP)
        sampler = TransformersSampler(self.model, sampling, lambda ids: " ".join(map(str, ids)) or "0")
        self.calls, self.seen = [], []
        self.ask = ask or asking(sampler)
        self.rewards = make_rewards(list(rewards))
        self.micro_tokens = micro_tokens

    def asking(self, asked, group, seed):
        self.calls.append((len(asked), seed))
        return self.ask(asked, group, seed)

    def batches(self, sequences):
        return [
            build_batch([sequences[i] for i in found], found)
            for found in micro_batches(sequences, self.micro_tokens)
        ]

    @property
    def means(self):
        return Means(
            self.asking,
            self.rewards,
            self.model,
            self.forward,
            self.batches,
            self.micro_tokens,
            self.reference.logprobs,
        )

    def rollouts(self, seed=0):
        return Rollouts(self.objective, questions(), self.means, seed, self.seen.append)


def scripted(*groups):
    """An ``Ask`` that gives answers whose first id is as listed, a list of ids per question, call by call."""
    left = list(groups)

    def ask(asked, group, seed):
        rows = left.pop(0)
        assert len(rows) == len(asked) and all(len(row) == group for row in rows)
        return [[Sampled([i, 1], [-0.5, -0.25], [1.0, 1.0], True, str(i)) for i in row] for row in rows]

    return ask


def branches(drawn):
    return [branch for tokens in drawn.sequences for branch in tokens.branches]


# --- what is drawn


def test_a_group_with_worked_advantages():
    scene = Scene("grpo", ask=scripted([[10, 12, 14, 16], [30, 30, 30, 34]]), rollout={"updates": 1})
    drawn = scene.rollouts().draw(1, [2, 0])
    first, second = drawn.sequences
    assert first.ids == [8] and second.ids == [3, 4, 5] and first.meta == Meta("rows.jsonl", 3)
    assert [b.ids for b in first.branches] == [[10, 1], [12, 1], [14, 1], [16, 1]]
    assert [b.extras["reward"] for b in first.branches] == [210.0, 212.0, 214.0, 216.0]
    # mean 13, deviation over G - 1: sqrt((9 + 1 + 1 + 9) / 3); 1e-4 is added
    spread = math.sqrt(20 / 3) + 1e-4
    expected = [-3 / spread, -1 / spread, 1 / spread, 3 / spread]
    assert [b.extras["advantage"] for b in first.branches] == pytest.approx(expected, rel=1e-5)
    assert [b.extras["advantage"] for b in second.branches] == pytest.approx(
        [-1 / (2 + 1e-4)] * 3 + [3 / (2 + 1e-4)], rel=1e-5
    )
    for branch in branches(drawn):
        assert branch.tracks == {"sampled": [-0.5, -0.25]} and branch.weights == [1.0, 1.0]
    assert drawn.metrics == {
        "reward": (4 * 213 + 4 * 31) / 8,
        "reward:first_token": (4 * 213 + 4 * 31) / 8,
        "answer_tokens": 2.0,
        "finished": 1.0,
        "constant_groups": 0.0,
    }


def test_nothing_is_computed_that_the_update_computes_anyway():
    scene = Scene("grpo", rollout={"updates": 1})
    scene.forward.logprobs = None  # any use of it would fail
    drawn = scene.rollouts().draw(1, [0, 1])
    assert all(set(branch.tracks) == {"sampled"} for branch in branches(drawn))


def test_further_updates_see_the_same_answers():
    scene = Scene("grpo", rollout={"updates": 3})
    source = scene.rollouts()
    first = source.draw(1, [0, 1])
    assert source.draw(2, [0, 1]).sequences == first.sequences
    assert source.draw(3, [0, 1]) == (first.sequences, {})
    assert len(scene.calls) == 1
    again = source.draw(4, [0, 1])
    assert len(scene.calls) == 2 and again.sequences != first.sequences


def test_old_and_reference_are_those_of_the_models():
    scene = Scene("grpo", kl=0.1, rollout={"updates": 2})
    drawn = scene.rollouts().draw(1, [0, 1, 2, 3])
    batch = build_batch(drawn.sequences)
    with torch.no_grad():
        own, base = scene.forward.logprobs(batch), scene.reference.logprobs(batch)
    torch.testing.assert_close(batch.tracks["old"], own, rtol=0, atol=1e-6)
    torch.testing.assert_close(batch.tracks["sampled"], own, rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.tracks["reference"], base, rtol=0, atol=1e-6)
    assert drawn.metrics["kl_reference"] == pytest.approx(float((own - base).sum()) / 16, rel=1e-4)


def test_the_divergence_of_rloo_is_taken_off_its_rewards():
    scene = Scene("rloo", kl=0.5, rollout={"updates": 1})
    drawn = scene.rollouts().draw(1, [0])
    shaped = [
        b.extras["reward"]
        - 0.5 * sum(o - r for o, r in zip(b.tracks["old"], b.tracks["reference"], strict=True))
        for b in branches(drawn)
    ]
    expected = [x - (sum(shaped) - x) / 3 for x in shaped]
    assert [b.extras["advantage"] for b in branches(drawn)] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_group_too_long_for_a_micro_batch_is_divided():
    whole, parts = (
        Scene("grpo", rollout={"updates": 2}),
        Scene("grpo", micro_tokens=14, rollout={"updates": 2}),
    )
    one, many = whole.rollouts().draw(1, [3, 1]), parts.rollouts().draw(1, [3, 1])
    assert len(one.sequences) == 2 < len(many.sequences)
    assert all(tokens.size <= 14 for tokens in many.sequences)
    assert one.metrics == many.metrics
    for a, b in zip(branches(one), branches(many), strict=True):
        assert a.ids == b.ids and a.extras == b.extras
        assert a.tracks["old"] == pytest.approx(b.tracks["old"], abs=1e-5)


def test_tool_output_has_no_weight_and_no_track():
    answer = Sampled([40, 41, 42, 1], [-1.0, 0.0, 0.0, -2.0], [1.0, 0.0, 0.0, 1.0], True, "40")
    other = replace(answer, text="41")
    scene = Scene(
        "grpo", ask=lambda asked, group, seed: [[answer, other]], rollout={"group": 2, "updates": 2}
    )
    drawn = scene.rollouts().draw(1, [0])
    [first, _] = branches(drawn)
    assert first.weights == [1.0, 0.0, 0.0, 1.0] and first.tracks["sampled"] == [-1.0, 0.0, 0.0, -2.0]
    assert first.tracks["old"][1:3] == [0.0, 0.0] and first.tracks["old"][3] < 0
    assert drawn.metrics["answer_tokens"] == 2.0
    batch = build_batch(drawn.sequences)
    with torch.no_grad():
        torch.testing.assert_close(batch.tracks["old"], scene.forward.logprobs(batch), rtol=0, atol=1e-6)


def test_unknown_log_probabilities_are_those_of_the_trainer():
    def ask(asked, group, seed):
        found = scripted([[10, 12, 14, 16]])(asked, group, seed)
        return [[replace(a, logprobs=None) for a in group] for group in found]

    drawn = Scene("grpo", ask=ask, rollout={"updates": 1}).rollouts().draw(1, [0])
    for branch in branches(drawn):
        assert branch.tracks["sampled"] == branch.tracks["old"] and min(branch.tracks["old"]) < -1


# --- PPO


def test_ppo_credits_tokens_and_adapts_its_weight():
    kl = {"weight": 0.2, "target": 1.0, "horizon": 100}
    scene = Scene("ppo", kl=kl, whiten="none", lam=1.0, rollout={"group": 1, "updates": 2})
    source = scene.rollouts()
    drawn = source.draw(1, [0, 1, 2, 3])
    batch = build_batch(drawn.sequences)
    with torch.no_grad():
        values = scene.forward.values(batch)
    torch.testing.assert_close(batch.tracks["value"], values, rtol=0, atol=1e-5)
    for branch in branches(drawn):
        per_token = [
            -0.2 * (o - r) for o, r in zip(branch.tracks["old"], branch.tracks["reference"], strict=True)
        ]
        per_token[-1] += branch.extras["reward"]
        returns = [sum(per_token[t:]) for t in range(len(per_token))]  # gamma = lambda = 1
        assert branch.tracks["return"] == pytest.approx(returns, rel=1e-4, abs=1e-3)
        expected = [r - v for r, v in zip(returns, branch.tracks["value"], strict=True)]
        assert branch.tracks["advantage"] == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert drawn.metrics["kl_weight"] == 0.2 and "constant_groups" not in drawn.metrics
    error = max(-0.2, min(0.2, drawn.metrics["kl_reference"] / 1.0 - 1))
    assert source.state()["kl_weight"] == pytest.approx(0.2 * (1 + error * 4 / 100))
    source.draw(2, [0, 1, 2, 3])
    later = source.draw(3, [0, 1, 2, 3])
    assert later.metrics["kl_weight"] == pytest.approx(0.2 * (1 + error * 4 / 100))


# --- groups without a difference


def test_equal_groups_are_reported_each_step_and_warned_of_once():
    same, differs = [10] * 4, [10, 11, 12, 13]
    scene = Scene("grpo", ask=scripted([same, same, differs], [same, same, same], [same, differs, differs]))
    source = scene.rollouts()
    shares = [source.draw(step, [0, 1, 2]).metrics["constant_groups"] for step in (1, 2, 3)]
    assert shares == [2 / 3, 1.0, 1 / 3]
    [warning] = scene.seen
    assert warning.step == 1 and "in 2 of 3 groups" in warning.message


def test_dapo_samples_equal_groups_again_and_leaves_out_what_stays_equal():
    same, differs = [10] * 4, [10, 11, 12, 13]
    scene = Scene("dapo", overlong=0.0, ask=scripted([same, differs, same], [same, differs], [same]))
    drawn = scene.rollouts().draw(1, [0, 1, 2])
    assert TRIES == 3 and [rows for rows, _ in scene.calls] == [3, 2, 1]
    assert len({seed for _, seed in scene.calls}) == 3
    assert [tokens.ids for tokens in drawn.sequences] == [[6, 7], [8]]
    assert [b.ids[0] for b in drawn.sequences[1].branches] == differs
    assert drawn.metrics["left_out"] == pytest.approx(1 / 3)
    assert drawn.metrics["constant_groups"] == pytest.approx(2 / 3)
    first = (10 + 10 + 10 + 10 + 110 + 111 + 112 + 113 + 4 * 210) / 12
    assert drawn.metrics["reward"] == pytest.approx(first)  # as first sampled, not as selected


def test_a_step_of_equal_groups_alone_leaves_nothing():
    same = [[10] * 4]
    scene = Scene("dapo", ask=scripted(same, same, same))
    drawn = scene.rollouts().draw(1, [0])
    assert drawn.sequences == [] and drawn.metrics["left_out"] == 1.0


# --- resuming


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_state_survives_json_between_updates(name):
    values = {"kl": {"weight": 0.1, "target": 2.0}} if name == "ppo" else {"kl": 0.1}
    scene = Scene(name, rollout={"updates": 3, "group": 4}, **values)
    source = scene.rollouts()
    source.draw(1, [0, 1])
    source.draw(2, [0, 1])
    other = scene.rollouts()
    other.restore(json.loads(json.dumps(source.state(), allow_nan=False)))
    assert other.draw(3, [0, 1]).sequences == source.draw(3, [0, 1]).sequences
    assert source.state()["drawn"] == [] == other.state()["drawn"]
    assert other.state() == source.state()
    assert other.draw(4, [2, 3]) == source.draw(4, [2, 3])


def test_answers_are_a_function_of_seed_and_step():
    scene = Scene("grpo")
    one, other = scene.rollouts(seed=5).draw(3, [0, 1]), scene.rollouts(seed=5).draw(3, [0, 1])
    assert one == other
    assert scene.rollouts(seed=6).draw(3, [0, 1]) != one
    assert scene.rollouts(seed=5).draw(4, [0, 1]) != one


def test_dropout_is_off_while_answers_are_made_and_measured():
    scene = Scene("grpo", rollout={"updates": 2})
    scene.model.train()
    for module in scene.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    for branch in branches(scene.rollouts().draw(1, [0, 3])):
        assert branch.tracks["old"] == pytest.approx(branch.tracks["sampled"], abs=1e-5)
    assert scene.model.training
    assert all(p.grad is None for p in scene.model.parameters())


# --- bad input


def test_an_answer_without_a_token_is_refused():
    empty = Sampled([], [], [], False, "")
    scene = Scene("grpo", ask=lambda asked, group, seed: [[empty] * 4])
    with pytest.raises(TrainError, match=r"rows.jsonl:2: the sampler returned an answer without any token"):
        scene.rollouts().draw(1, [1])


def test_rewards_that_fail_stop_the_run():
    def nan(prompt, answer, example):
        return float("nan")

    def broken(prompt, answer, example):
        raise KeyError("gone")

    with pytest.raises(RewardError, match="returned nan"):
        Scene("grpo", rewards=[nan]).rollouts().draw(1, [0])
    with pytest.raises(KeyError):
        Scene("grpo", rewards=[broken]).rollouts().draw(1, [0])
    with pytest.raises(DataError, match="no column 'answer'"):
        Scene("grpo", rewards=["exact_match"]).rollouts().draw(1, [0])


def test_rewards_that_may_fail_count_as_nothing_and_are_said_once(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(prompt, answer, example):\n    return float('nan')\n")
    entry = {"file": str(tmp_path / "mine.py"), "function": "mine", "on_error": "zero"}
    scene = Scene("grpo", rewards=[entry])
    with scene.rewards:
        source = scene.rollouts()
        assert source.draw(1, [0]).metrics["reward"] == 0.0
        source.draw(2, [0])
    assert [w.message for w in scene.seen if "4 of 4 rewards failed" in w.message] == [scene.seen[0].message]


def test_rewards_read_the_whole_prompt():
    found = []

    def reads(prompt, answer, example):
        found.append((prompt, example["messages"], example["number"]))
        return float(answer.split()[0])

    Scene("grpo", rewards=[reads]).rollouts().draw(1, [2])
    assert found == [("row 2", [{"role": "user", "content": "row 2"}], 2)] * 4
