"""Policies that learn a rule from rewards alone, through whole runs: sampling, scoring, training, proof."""

from __future__ import annotations

import json
import random

import psutil
import pytest

from tests.e2e.conftest import rows_of, settings, write_messages
from tests.e2e.test_resume import Killed, killer, same
from tunewright.core import events
from tunewright.core.errors import ConfigError
from tunewright.run.train import resume, train

WORDS = ("say", "pick", "name", "give", "tell", "write")
THINGS = ("one", "it", "that", "some", "any", "this")
EVEN = "objective.rewards=[{name: regex, pattern: '^[02468]$'}]"
COMMON = (
    "model.dtype=float32",
    "objective.rollout.max_new_tokens=4",
    "train.optim.warmup=0",
    "train.optim.schedule=constant",
    "train.stop.patience=0",
    "train.epochs=40",
    "evaluate.max_new_tokens=auto",
)
LEARNS = (*COMMON, "adapt.method=full", "train.learning_rate=0.004", "evaluate.every=10")


@pytest.fixture(scope="module")
def chatty(tiny, tmp_path_factory):
    """A model that has learnt to answer with one character; about one answer in five is an even digit."""
    draw = random.Random(0)
    prompts = [f"{word} {thing} {i}" for i in range(8) for word in WORDS for thing in THINGS]
    rows = [(prompt, draw.choice("0123456789abcdefgh7777")) for prompt in prompts]
    file = write_messages(tmp_path_factory.mktemp("chatty") / "rows.jsonl", rows)
    words = (
        "adapt.method=full",
        "train.epochs=3",
        "train.tokens_per_step=600",
        "train.learning_rate=0.01",
        "data.split.validation=0",
        "data.split.test=0",
        "model.dtype=float32",
    )
    return train(settings(tiny, file, file.parent / "run", *words)).path / "model"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Prompts without answers, with a column for rewards."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = [f"{word} {thing}" for word in WORDS for thing in THINGS]
    rows = [{"prompt": text, "parity": i % 2} for i, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def curve(run, name):
    """The values of a metric over the steps that have it."""
    steps = [e["metrics"] for e in rows_of(run.path / "events.jsonl") if e["event"] == "StepEnd"]
    return [metrics[name] for metrics in steps if name in metrics]


def mean(values):
    return sum(values) / len(values)


# --- learning


def test_grpo_learns_even_digits(chatty, prompts, tmp_path):
    words = (*LEARNS, EVEN, "objective=grpo", "objective.rollout.group=8", "train.max_steps=30")
    run = train(settings(chatty, prompts, tmp_path / "run", *words))
    sampled = curve(run, "reward")
    assert mean(sampled[:2]) < 0.3 and mean(sampled[-4:]) > 0.9
    [metric] = run.result["metrics"]
    assert metric["name"] == "reward" and metric["unit"] == "reward" and metric["n"] > 5
    assert metric["systems"]["zero_shot"]["value"] < 0.3
    assert metric["systems"]["tuned"]["value"] > 0.9
    assert run.result["verdict"]["word"] == "SHIP"
    assert run.result["training"]["watched"]["metric"] == "reward"
    assert max(curve(run, "sampler_gap")) < 1e-5  # in float32 sampler and trainer agree
    assert curve(run, "reward:regex") == sampled and len(sampled) == 30
    assert max(curve(run, "finished")) == 1.0 and 1.0 < mean(curve(run, "answer_tokens")) < 2.5
    assert any("all answers got the same reward" in warning for warning in run.result["warnings"])
    report = (run.path / "report.html").read_text()
    assert "reward" in report and "say " in report


def test_ppo_learns_even_digits_within_its_divergence(chatty, prompts, tmp_path):
    words = (
        *LEARNS,
        EVEN,
        "objective=ppo",
        "objective.kl={weight: 0.5, target: 1.8, horizon: 60}",
        "objective.head_rate=5",
        "objective.rollout.prompts=32",
        "objective.rollout.group=2",
        "objective.rollout.updates=2",
        "train.max_steps=80",
    )
    run = train(settings(chatty, prompts, tmp_path / "run", *words))
    sampled, divergence, weight = (curve(run, name) for name in ("reward", "kl_reference", "kl_weight"))
    print(sampled, divergence, weight)
    assert len(sampled) == len(divergence) == len(weight) == 40  # one roll-out for two updates
    assert mean(sampled[:2]) < 0.3 and mean(sampled[-4:]) > 0.9
    assert abs(divergence[0]) < 1e-5
    assert mean(divergence[-10:]) < 1.8 * 1.15
    assert weight[0] == 0.5 and min(weight) < 0.25
    assert run.result["metrics"][0]["systems"]["tuned"]["value"] > 0.9
    assert max(curve(run, "sampler_gap")) < 1e-5
    assert len(curve(run, "value_loss")) == 80


# --- resuming

RESUMED = (
    *COMMON,
    "train.learning_rate=0.002",
    "adapt.dropout=0.1",  # noise, so that the random state matters
    "objective.rollout.prompts=4",
    "objective.rollout.updates=3",
    "objective.rollout.group=2",
    "train.max_steps=10",
    "evaluate.every=5",
    "output.save_every=4",
    EVEN,
)
KINDS = {
    "grpo": ("objective=grpo", "objective.kl=0.1"),
    "ppo": ("objective=ppo", "objective.kl={weight: 0.1, target: 0.01, horizon: 20}"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_between_updates_on_the_same_answers(chatty, prompts, tmp_path, kind):
    words = (*RESUMED, *KINDS[kind])
    whole = train(settings(chatty, prompts, tmp_path / "whole", *words))
    stored = json.loads((whole.path / "checkpoints" / "step-8" / "state.json").read_text())["source"]
    assert len(stored["drawn"]) == 4  # a third update will see these answers
    assert len(curve(whole, "reward")) == 4
    for step in (6, 9):  # after checkpoints of steps 5 and 8, the second updates of their roll-outs
        out = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            train(
                settings(chatty, prompts, out, *words),
                killer(lambda e, step=step: isinstance(e, events.StepEnd) and e.step == step),
            )
        same(resume(out), whole)


# --- rewards of a recipe


def test_own_code_and_several_rewards(chatty, prompts, tmp_path):
    """A function in a file reads the row; each reward is a metric of its own; no process is left."""
    (tmp_path / "mine.py").write_text(
        "def parity(prompt, answer, example):\n"
        "    assert prompt == example['messages'][-1]['content']\n"
        "    return float(answer.isdigit() and int(answer) % 2 == example['parity'])\n"
    )
    rewards = f"[{{file: {tmp_path}/mine.py, function: parity, weight: 2}}, {{name: length, most: 1}}]"
    words = (*COMMON, f"objective.rewards={rewards}", "objective=dapo", "train.max_steps=3")
    before = set(psutil.Process().children(recursive=True))
    run = train(settings(chatty, prompts, tmp_path / "run", *words, "objective.rollout.prompts=4"))
    assert not set(psutil.Process().children(recursive=True)) - before
    names = [metric["name"] for metric in run.result["metrics"]]
    assert names == ["reward", "reward:parity", "reward:length"]
    for system in ("zero_shot", "tuned"):
        total, own, length = (m["systems"][system]["value"] for m in run.result["metrics"])
        assert total == pytest.approx(2 * own + length)
    both = zip(*(curve(run, name) for name in ("reward", "reward:parity", "reward:length")), strict=True)
    assert all(total == pytest.approx(2 * own + length) for total, own, length in both)
    assert len(curve(run, "left_out")) == 3


def test_few_shot_where_rows_have_answers(chatty, tmp_path):
    rows = [(f"{word} {thing}", "4" if i % 2 else "7") for i, word in enumerate(WORDS) for thing in THINGS]
    file = write_messages(tmp_path / "answered.jsonl", rows)
    words = (
        *COMMON,
        "objective=rloo",
        "objective.rewards=[exact_match]",
        "objective.rollout.prompts=4",
        "train.max_steps=1",
        "evaluate.shots=2",
        "evaluate.baselines=[zero_shot, few_shot]",
    )
    run = train(settings(chatty, file, tmp_path / "run", *words))
    assert set(run.result["metrics"][0]["systems"]) == {"zero_shot", "few_shot", "tuned"}


def test_what_cannot_work_is_refused_before_training(chatty, prompts, tmp_path):
    cases = (
        (("objective=grpo",), "objective.rewards names none"),
        (
            ("objective=grpo", "objective.rewards=[exact]"),
            "unknown reward 'exact'. Did you mean 'exact_match'",
        ),
        (("objective=grpo", EVEN, "objective.rollout.group=1"), "group of one answer"),
        (("objective=grpo", EVEN, "evaluate.metrics=['reward:rege']"), "Did you mean 'reward:regex'"),
        (("objective=grpo", EVEN, "train.stop.metric=validation_loss"), "watch reward"),
        (("objective=grpo", EVEN, "objective.rollout.sampler.kind=vllm"), r"tunewright\[vllm\]"),
        (
            ("objective=grpo", EVEN, "objective.rollout.sampler.kind=vllm", "adapt.method=full"),
            "'full' makes none",
        ),
        *(
            (("objective=grpo", EVEN, "objective.rollout.sampler.kind=vllm", *words), f"trains with {what}")
            for words, what in (
                (("adapt.method=dora",), "adapt.method 'dora'"),
                (("adapt.method=qlora",), "adapt.method 'qlora'"),
                (("adapt.new_tokens=['<tool>']",), "adapt.new_tokens"),
                (("adapt.bias=all",), "adapt.bias"),
            )
        ),
        (("objective=sft", "evaluate.metrics=[reward]"), "prompt row"),
    )
    for number, (words, message) in enumerate(cases):
        out = tmp_path / str(number)
        with pytest.raises(ConfigError, match=message):
            train(settings(chatty, prompts, out, *COMMON[:1], *words))
        assert not out.exists()


def test_eval_and_compare_by_the_rewards_of_a_run(chatty, prompts, tmp_path, tw):
    """The untouched model may stand last; rows of another kind are refused in words."""
    words = (*COMMON, EVEN, "objective=grpo", "objective.rollout.group=4", "train.max_steps=1")
    run = train(settings(chatty, prompts, tmp_path / "run", *words))
    said = tw("compare", run.path, chatty, "--data", prompts, "--json")
    assert said.status in (0, 1), said.err
    [metric] = said.json["metrics"]
    assert metric["name"] == "reward" and set(metric["systems"]) == {str(run.path), str(chatty)}
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text("".join(json.dumps({"text": f"t{i}", "label": "ab"[i % 2]}) + "\n" for i in range(4)))
    said = tw("eval", run.path, "--data", labelled)
    assert said.status == 2
    why = " ".join(said.err.split())
    assert "labelled.jsonl:1 is a labelled row, but objective 'grpo' learns from" in why
