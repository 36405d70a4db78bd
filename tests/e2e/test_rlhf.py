"""The four phases as one recipe: a model that writes, comparisons, and a policy that people would prefer."""

from __future__ import annotations

import json
import random

import pytest

from tests.e2e.conftest import QUICK, write_messages
from tests.e2e.test_resume import Killed
from tunewright.core import events
from tunewright.core.errors import ConfigError, RunError
from tunewright.run import methods
from tunewright.run.judge import evaluate
from tunewright.run.recipe import parse_override
from tunewright.run.resolve import resolve

WORDS = ("say", "pick", "name", "give", "tell", "write")
THINGS = ("one", "it", "that", "some", "any", "this")
EVEN, OTHER = "02468", "13579abcde"
LEARNS = (
    "objective=rlhf",
    "model.dtype=float32",
    "adapt.method=full",
    "train.learning_rate=0.01",
    "train.optim.schedule=constant",
    "train.optim.warmup=0",
    "objective.sft={train.epochs: 3, train.tokens_per_step: 600}",
    "objective.reward={train.epochs: 3, train.tokens_per_step: 600}",
    "objective.policy={objective.rollout.max_new_tokens: 4, train.learning_rate: 0.004, train.epochs: 40,"
    " train.max_steps: 60, evaluate.every: 20, train.stop.patience: 0}",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Demonstrations that answer with any character, comparisons that prefer even digits, and prompts."""
    folder, draw = tmp_path_factory.mktemp("rlhf"), random.Random(0)
    texts = [f"{word} {thing}" for word in WORDS for thing in THINGS]
    asked = [f"{text} {i}" for i in range(8) for text in texts]
    write_messages(folder / "demonstrations.jsonl", [(text, draw.choice(EVEN + OTHER * 2)) for text in asked])
    rows = {
        "comparisons": [
            {"prompt": text, "chosen": draw.choice(EVEN), "rejected": draw.choice(OTHER)} for text in asked
        ],
        "prompts": [{"prompt": text} for text in texts],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: str(folder / f"{name}.jsonl") for name in ("demonstrations", "comparisons", "prompts")}


def recipe(tiny, files, out, *words):
    """The whole of RLHF on the tiny model."""
    base = {"model.name": str(tiny), "data.train": files, "output.dir": str(out)}
    return resolve(None, None, base | dict(parse_override(w) for w in (*QUICK, *LEARNS, *words)))


def even(run, system):
    """Share of this system's answers to the test prompts that begin as people would prefer.

    How they go on is the policy's own: nobody compared answers of several characters.
    """
    answers = json.loads((run.path / "answers.json").read_text())[system]["texts"]
    return sum(text[:1] in set(EVEN) for text in answers) / len(answers)


def test_four_phases_end_in_a_policy_that_is_preferred(tiny, files, tmp_path):
    seen = []
    out = tmp_path / "run"
    run = methods.train(recipe(tiny, files, out), seen.append)
    stages = [e.name for e in seen if isinstance(e, events.Stage) and e.name.startswith("phase")]
    assert stages == [f"phase {i} of 3" for i in (1, 2, 3)]
    tuned = json.loads((out / "phases" / "reward" / "result.json").read_text())
    [accuracy] = [m for m in tuned["metrics"] if m["name"] == "pair_accuracy"]
    assert accuracy["systems"]["tuned"]["value"] > 0.9
    assert run.path == out and run.result["verdict"]["word"] == "SHIP"
    assert even(run, "zero_shot") < 0.5 and even(run, "tuned") > 0.8
    assert methods.resume(out).result == run.result  # a finished one is left as it is
    judged = evaluate(out, files["prompts"])
    assert judged["metrics"][0]["name"] == "reward" and judged["n"] == 36
    assert (out / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("phase", ["sft", "reward", "policy"])
def test_a_crash_in_any_phase_is_resumed(tiny, files, tmp_path, phase):
    number = ("sft", "reward", "policy").index(phase) + 1
    words = (
        "objective.sft={train.max_steps: 3}",
        "objective.reward={train.max_steps: 3}",
        "objective.policy={train.max_steps: 3, objective.rollout.max_new_tokens: 4}",
        "output.save_every=1",
    )
    out, at = tmp_path / "run", {"phase": 0}

    def kill(event):
        if isinstance(event, events.Stage) and event.name.startswith("phase"):
            at["phase"] += 1
        if at["phase"] == number and isinstance(event, events.StepEnd) and event.step == 2:
            raise Killed

    with pytest.raises(Killed):
        methods.train(recipe(tiny, files, out, *words), kill)
    run = methods.resume(out)
    whole = methods.train(recipe(tiny, files, tmp_path / "whole", *words))
    assert run.result["status"] == "finished"
    ours, theirs = (r.path / "model" / "model.safetensors" for r in (run, whole))
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_files_must_be_named_by_phase(tiny, files, tmp_path):
    given = recipe(tiny, {"prompts": files["prompts"]}, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"data\.train: {demonstrations: FILE, comparisons: FILE"):
        methods.train(given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("adapt.method=prompt",), "'prompt' cannot be merged, and objective rlhf starts each phase"),
        (
            ("adapt.method=lora", "adapt.new_tokens=['<tool>']"),
            r"objective\.reward={adapt\.new_tokens: \[\]}",
        ),
        (
            ("adapt.method=longlora", "adapt.group=0", "data.max_length=1024"),
            r"objective\.reward={adapt\.factor: 1}",
        ),
        (
            (
                "adapt.method=longlora",
                "objective.reward={adapt.factor: 1}",
                "objective.policy={adapt.factor: 1}",
            ),
            r"set adapt\.group=0",
        ),
    ],
)
def test_what_a_later_phase_would_refuse_is_refused_before_the_first(tiny, files, tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        methods.train(recipe(tiny, files, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


def test_another_recipe_does_not_go_on_in_the_same_directory(tiny, files, tmp_path):
    def kill(event):
        raise Killed

    with pytest.raises(Killed):
        methods.train(recipe(tiny, files, tmp_path / "run"), kill)
    with pytest.raises(RunError, match="begun with another recipe"):
        methods.train(recipe(tiny, files, tmp_path / "run", "train.learning_rate=0.02"))
    with pytest.raises(Killed):  # the same one does
        methods.train(recipe(tiny, files, tmp_path / "run"), kill)


def test_the_plan_is_that_of_the_first_phase(tw, tiny, files, tmp_path):
    lines = "".join(f"    {name}: {file}\n" for name, file in files.items())
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {tiny}\ndata:\n  train:\n{lines}objective: rlhf\noutput: {tmp_path / 'run'}\n")
    said = tw("plan", path, "--json")
    assert said.status == 0 and said.json["rows"]["train"] > 0
    assert said.json["remark"].startswith("this is the plan of phase sft; reward and policy follow")
    assert "remark          this is the plan of phase sft" in tw("plan", path).out
    assert str(tmp_path / "run" / "phases" / "sft") == said.json["run"]
