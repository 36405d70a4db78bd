"""Dialogues with a tool in whole runs: the model asks, a function in a file replies, rewards see it all."""

from __future__ import annotations

import json
import random
from itertools import groupby

import psutil
import pytest

from tests.e2e.conftest import rows_of, settings, write_messages
from tests.e2e.test_resume import Killed, killer, same
from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core import events
from tunewright.core.errors import ConfigError, TrainError
from tunewright.objectives.rollout import Rollouts
from tunewright.run.judge import evaluate
from tunewright.run.train import resume, train

WORDS = ("say", "pick", "name", "give")
THINGS = ("one", "it", "that", "some", "any", "this")
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NAMES = {str(digit): name for digit, name in enumerate(DIGITS)}
TOOLS = f'''
NAMES = {NAMES}

def reply(messages):
    """Looks a digit up; a letter is an answer."""
    said = messages[-1]["content"]
    return [{{"role": "tool", "content": "The name is " + NAMES[said]}}] if said in NAMES else None

def floods(messages):
    return [{{"role": "tool", "content": "much " * 40}}]

def breaks(messages):
    raise LookupError("the shelf is empty")
'''
REWARD = f"""
NAMES = {NAMES}

def looked_up(prompt, answer, example):
    '''0.8 for a digit looked up, 0.2 for a letter in the end; checks what it is shown.'''
    first, *turns = example["messages"]
    assert first["role"] == "user" and first["content"] == prompt
    assert [m["role"] for m in turns] == ["assistant", "tool"] * (len(turns) // 2)
    for call, result in zip(turns[::2], turns[1::2], strict=True):
        assert result["content"] == "The name is " + NAMES[call["content"]]
    return 0.8 * (len(turns) > 0) + 0.2 * (len(turns) > 0 and answer.isalpha())
"""
COMMON = (
    "model.dtype=float32",
    "objective=grpo",
    "objective.rollout.max_new_tokens=3",
    "objective.rollout.prompts=4",
    "train.optim.warmup=0",
    "train.optim.schedule=constant",
    "train.stop.patience=0",
    "train.epochs=40",
    "evaluate.max_new_tokens=auto",
)


@pytest.fixture(scope="module")
def chatty(tiny, tmp_path_factory):
    """A model that has learnt to answer with one character, of which about a third are digits."""
    draw = random.Random(0)
    rows = [
        (f"{w} {t} {i}", draw.choice("0123456789" + "abcd" * 5))
        for i in range(8)
        for w in WORDS
        for t in THINGS
    ]
    file = write_messages(tmp_path_factory.mktemp("chatty") / "rows.jsonl", rows)
    words = (
        "adapt.method=full",
        "train.epochs=4",
        "train.tokens_per_step=600",
        "train.learning_rate=0.01",
        "data.split.validation=0",
        "data.split.test=0",
        "model.dtype=float32",
    )
    return train(settings(tiny, file, file.parent / "run", *words)).path / "model"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder with prompts, the tool and the reward."""
    folder = tmp_path_factory.mktemp("task")
    texts = [f"{word} {thing}" for word in WORDS for thing in THINGS]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    (folder / "tools.py").write_text(TOOLS)
    (folder / "mine.py").write_text(REWARD)
    return folder


def recipe(model, task, out, *words, function="reply"):
    own = (
        f"objective.rewards=[{{file: {task}/mine.py, function: looked_up}}]",
        f"objective.rollout.environment={{file: {task}/tools.py, function: {function}, max_turns: 3}}",
    )
    return settings(model, task / "prompts.jsonl", out, *COMMON, *own, *words)


@pytest.fixture
def drawn(monkeypatch):
    """The sequences of every step of the runs of a test."""
    seen, draw = [], Rollouts.draw

    def noted(self, step, rows):
        found = draw(self, step, rows)
        seen.append(found.sequences)
        return found

    monkeypatch.setattr(Rollouts, "draw", noted)
    return seen


def curve(run, name):
    steps = [e["metrics"] for e in rows_of(run.path / "events.jsonl") if e["event"] == "StepEnd"]
    return [metrics[name] for metrics in steps if name in metrics]


def mean(values):
    return sum(values) / len(values)


def test_a_model_learns_to_use_a_tool(chatty, task, tmp_path, drawn):
    words = ("adapt.method=full", "train.learning_rate=0.004", "train.max_steps=16", "evaluate.every=8")
    before = set(psutil.Process().children(recursive=True))
    run = train(recipe(chatty, task, tmp_path / "run", *words))
    assert not set(psutil.Process().children(recursive=True)) - before
    sampled = curve(run, "reward")
    assert mean(sampled[:2]) < 0.5 and mean(sampled[-4:]) > 0.7
    [metric] = run.result["metrics"]
    assert metric["systems"]["tuned"]["value"] > metric["systems"]["zero_shot"]["value"] + 0.3
    assert max(curve(run, "sampler_gap")) < 1e-5  # the trainer reads the tool's words where the sampler did
    read_by_trainer(drawn, curve(run, "answer_tokens"))
    again = evaluate(run, run.path / "data" / "test.jsonl")["metrics"][0]["value"]
    assert again == pytest.approx(metric["systems"]["tuned"]["value"])
    assert not set(psutil.Process().children(recursive=True)) - before


def read_by_trainer(steps, lengths):
    """The model's tokens have weight and numbers, the tool's have neither; both are what was said."""
    tokenizer = tiny_tokenizer()
    branches = [branch for step in steps for tokens in step for branch in tokens.branches]
    for step, length in zip(steps, lengths, strict=True):
        assert mean([sum(b.weights) for t in step for b in t.branches]) == pytest.approx(length)
    looked_up = 0
    for branch in branches:
        told = list(zip(branch.ids, branch.weights, branch.tracks["sampled"], strict=True))
        runs = [(weight, list(run)) for weight, run in groupby(told, key=lambda t: t[1])]
        assert [weight for weight, _ in runs] == [1.0, *[0.0, 1.0] * (len(runs) // 2)]
        for (_, call), (_, reply) in zip(runs[::2], runs[1::2], strict=False):
            digit = tokenizer.decode([token for token, _, _ in call], skip_special_tokens=True)
            expected = f"\n<|im_start|>tool\nThe name is {NAMES[digit]}<|im_end|>\n<|im_start|>assistant\n"
            assert tokenizer.decode([token for token, _, _ in reply]) == expected
            assert all(logprob == 0.0 for _, _, logprob in reply)
            looked_up += 1
    assert looked_up > len(branches) / 4


RESUMED = (
    "train.learning_rate=0.002",
    "adapt.dropout=0.1",  # noise, so that the random state matters
    "objective.rollout.updates=3",
    "objective.rollout.group=2",
    "train.max_steps=7",
    "evaluate.every=5",
    "output.save_every=4",
)


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_killed_between_updates_on_the_same_dialogues(chatty, task, tmp_path, kind):
    words = (*RESUMED, f"objective.name={kind}")
    whole = train(recipe(chatty, task, tmp_path / "whole", *words))
    kept = json.loads((whole.path / "checkpoints" / "step-5" / "state.json").read_text())["source"]["drawn"]
    assert any(0.0 in branch["weights"] for tokens in kept for branch in tokens["branches"])
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        train(
            recipe(chatty, task, out, *words),
            killer(lambda e: isinstance(e, events.StepEnd) and e.step == 6),
        )
    same(resume(out), whole)


def test_a_reply_that_overflows_the_context_ends_the_dialogue(task, tmp_path, drawn):
    """The prompt is short and fits; the prompt, an answer and the reply do not."""
    model = tmp_path / "model"
    tiny_model(max_position_embeddings=96).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    words = (
        "train.max_steps=1",
        "objective.rewards=[{name: length, most: 3}]",
        "objective.rollout.max_new_tokens=60",
    )
    run = train(recipe(model, task, tmp_path / "run", *words, "data.max_length=90", function="floods"))
    assert all(all(b.weights) for step in drawn for t in step for b in t.branches)
    assert curve(run, "finished") == [0.0]
    assert [
        w for w in run.result["warnings"] if "reply left no room for another answer" in w and "of 96" in w
    ]
    assert [w for w in run.result["warnings"] if "or a reply left no room in the model's context" in w]


def test_what_cannot_work_is_refused_before_training(chatty, task, tmp_path):
    for number, (words, function, message) in enumerate(
        (
            ((), "replies", "environment file .*tools.py: has no function 'replies'. Did you mean 'reply'"),
            (("objective.rollout.environment.file=nowhere.py",), "reply", "there is no file"),
            (("objective.rollout.environment.max_turns=1",), "reply", "max_turns: Input should be greater"),
        )
    ):
        with pytest.raises(ConfigError, match=message):
            train(recipe(chatty, task, tmp_path / str(number), *words, function=function))
        assert not (tmp_path / str(number)).exists()


def test_an_environment_that_fails_stops_the_run_with_its_line(chatty, task, tmp_path):
    with pytest.raises(
        TrainError, match=r"prompts.jsonl:\d+ after '.*': breaks\(\) of tools.py raised LookupError at"
    ):
        train(recipe(chatty, task, tmp_path / "run", function="breaks"))
