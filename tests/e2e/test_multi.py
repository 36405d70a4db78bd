"""Two tasks in one run, from two files to one report: answers by writing, classes by a head."""

import csv
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.contract.small import write_rows
from tests.e2e.conftest import pairs, rows_of, write_messages
from tests.e2e.test_resume import Killed, killer
from tunewright.core import events
from tunewright.core.errors import ConfigError
from tunewright.core.hashing import file_digest
from tunewright.run import asking, supply
from tunewright.run.judge import Judging, compare, evaluate
from tunewright.run.resolve import resolve
from tunewright.run.train import resume, train

PHRASES = {
    "refund": ("the card back", "return it", "give a refund"),
    "greet": ("good morning", "hello", "hi"),
}
COLOURS = ("red", "blue", "teal", "gold")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Chats with one answer per colour, and texts of two classes."""
    folder = tmp_path_factory.mktemp("tasks")
    chats = [(f"{colour} thing {i}?", colour.upper()) for i in range(12) for colour in COLOURS]
    with (folder / "intents.csv").open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["words", "queue"])
        for i in range(40):
            label = ("refund", "greet")[i % 2]
            writer.writerow([f"{PHRASES[label][i % 3]} number {i}", label])
    return {"support": write_messages(folder / "chats.jsonl", chats), "intent": folder / "intents.csv"}


def values(tiny, files, out, **changes):
    """Both tasks; half of the intent rows in each epoch."""
    tasks = {
        "support": {"objective": "sft"},
        "intent": {"objective": "classify", "weight": 0.5, "share": 0.5},
    }
    dotted = {
        "model.name": str(tiny),
        "model.dtype": "float32",
        "model.device": "cpu",
        "data.train": {task: str(path) for task, path in files.items()},
        "data.columns": {"intent": {"text": "words", "label": "queue"}},
        "data.split.validation": 0.15,
        "data.split.test": 0.2,
        "objective": {"name": "multi", "tasks": tasks, "balance": "uncertainty"},
        "adapt.method": "full",
        "train.epochs": 20,
        "train.tokens_per_step": 400,
        "train.learning_rate": 0.004,
        "train.stop.metric": "validation_support_loss",
        "evaluate.every": 20,
        "output.dir": str(out),
    }
    return resolve(None, None, dotted | changes)


@pytest.fixture(scope="module")
def run(tiny, files, tmp_path_factory):
    seen = []
    found = train(values(tiny, files, tmp_path_factory.mktemp("runs") / "both"), seen.append)
    return found, seen


def metric(result, name):
    [found] = [m for m in result["metrics"] if m["name"] == name]
    return found


def test_both_tasks_are_learnt_and_proven(run):
    result = run[0].result
    support, intent = metric(result, "support/exact_match"), metric(result, "intent/accuracy")
    assert support["systems"]["tuned"]["value"] >= 0.9 and support["systems"]["zero_shot"]["value"] == 0
    assert intent["systems"]["tuned"]["value"] >= 0.9 and intent["systems"]["majority"]["value"] <= 0.6
    assert list(intent["systems"]) == ["majority", "naive_bayes", "tuned"]
    test = rows_of(run[0].path / "data" / "test.jsonl")
    counts = {task: sum(row["meta"]["task"] == task for row in test) for task in ("support", "intent")}
    assert (support["n"], intent["n"]) == (counts["support"], counts["intent"]) == (8, 8)
    assert result["verdict"] == result["tasks"]["support"] and result["verdict"]["word"] == "SHIP"
    assert result["tasks"]["intent"]["metric"] == "intent/accuracy"
    assert result["training"]["watched"]["metric"] == "validation_support_loss"
    assert [m["name"] for m in result["metrics"] if m["primary"]] == ["support/exact_match"]


def test_every_task_has_its_losses_and_its_share(run, files):
    found, seen = run
    ends = [e for e in seen if isinstance(e, events.EvalEnd)]
    for name in ("validation_support_loss", "validation_intent_loss"):
        assert ends[-1].metrics[name] < 0.5 * ends[0].metrics[name]
    mixed = [e.metrics for e in seen if isinstance(e, events.StepEnd) and len(e.metrics) > 3]
    assert {"support_loss", "intent_loss", "intent_accuracy", "support_uncertainty"} <= mixed[0].keys()
    uncertainty = [m["intent_uncertainty"] for m in mixed]
    assert uncertainty[0] == 0 and uncertainty[-1] < -0.3  # its loss became small, so it may count for more
    facts = found.result["data"]["render"]
    assert facts["rows"] == sum(facts["tasks"][task]["rows"] for task in files)
    receipt = json.loads((found.path / "data" / "receipt.json").read_text())
    assert receipt["tasks"]["intent"] == {"train": 26, "validation": 6, "test": 8}
    steps = [e for e in seen if isinstance(e, events.StepEnd)]
    sizes = facts["tasks"]["support"]["total_tokens"] + facts["tasks"]["intent"]["total_tokens"] / 2
    assert steps[-1].tokens == pytest.approx(20 * sizes, rel=0.02)


def test_heads_of_tasks_are_saved_apart(run):
    model = run[0].path / "model"
    heads = json.loads((model / "heads.json").read_text())
    assert heads["writes"] and list(heads["heads"]) == ["score__intent", "balance"]
    assert heads["heads"]["balance"]["facts"] == {"tasks": ["support", "intent"]}
    assert load_file(model / "heads.safetensors")["score__intent.weight"].shape == (2, 64)


def test_the_saved_model_is_judged_on_one_task(run, files):
    """The same numbers as at the end of the run, from the rows that the run wrote."""
    found, test = run[0], run[0].path / "data" / "test.jsonl"
    for name in ("intent/accuracy", "support/exact_match", "support/token_f1"):
        [again] = evaluate(found, test, Judging(metrics=[name]))["metrics"]
        before = metric(found.result, name)["systems"]["tuned"]
        assert again["name"] == name  # as it was asked for
        assert (again["value"], again["low"], again["n"]) == (before["value"], before["low"], before["n"])
    with pytest.raises(ConfigError, match="--metric support/exact_match or --metric intent/accuracy"):
        evaluate(found, test)


def test_it_is_compared_with_the_untouched_model(run, files, tiny):
    columns = {"text": "words", "label": "queue"}
    said = compare([tiny, run[0]], files["intent"], Judging(metrics=["intent/accuracy"], columns=columns))
    assert said["n"] == 40 and said["verdict"]["word"] == "SHIP"


def test_the_report_shows_both(run):
    page = (run[0].path / "report.html").read_text()
    for words in (
        "support/exact_match",
        "intent/accuracy",
        "validation_support_loss",
        "chats.jsonl",
        "intents.csv",
    ):
        assert words in page
    assert "support/exact_match" in (run[0].path / "README.md").read_text()


@pytest.mark.parametrize("step", [0, 3, 7])
def test_killed_and_resumed_it_ends_in_the_same_bits(tiny, files, tmp_path, step):
    changes = {"train.epochs": 3, "evaluate.every": 5, "output.save_every": 4}
    whole = train(values(tiny, files, tmp_path / "whole", **changes))
    hit = killer(lambda e: isinstance(e, events.StepEnd) and e.step == step)
    early = killer(lambda e: isinstance(e, events.Stage) and e.name == "score majority")
    with pytest.raises(Killed):
        train(values(tiny, files, tmp_path / "run", **changes), hit if step else early)
    again = resume(tmp_path / "run")
    for name in ("model.safetensors", "heads.safetensors"):
        one, other = (file_digest(r.path / "model" / name) for r in (whole, again))
        assert one == other, name
    assert (
        again.result["verdict"] == whole.result["verdict"]
        and again.result["counts"] == whole.result["counts"]
    )
    assert again.result["tasks"] == whole.result["tasks"]


def test_only_what_holds_on_to_the_reference_gets_one(tiny, files, tmp_path, monkeypatch):
    """sft beside dpo: the pairs carry log p of the untouched model, the chats do not; all of it trains."""
    rows = [{"prompt": f"{q}", "chosen": a, "rejected": a.lower()} for q, a in pairs(24)]
    both = {"support": files["support"], "taste": write_rows(tmp_path / "pairs.jsonl", rows)}
    tasks = {"support": "sft", "taste": {"objective": "dpo", "beta": 0.5}}
    seen, original = [], supply.supplied

    def watching(*args):
        seen.append(original(*args))
        return seen[-1]

    monkeypatch.setattr("tunewright.run.train.supplied", watching)
    changes = {
        "objective": {"name": "multi", "tasks": tasks},
        "data.columns": None,
        "adapt.method": "lora",
        "train.epochs": 2,
        "train.stop.metric": "validation_loss",
        "evaluate.metrics": ["support/exact_match"],
    }
    found = train(values(tiny, both, tmp_path / "run", **changes))
    by_task = {"support": set(), "taste": set()}
    for tokens in seen[0].train:
        by_task[tokens.task].add(
            "reference" in {name for t in (tokens, *tokens.branches) for name in t.extras}
        )
    assert by_task == {"support": {False}, "taste": {True}}
    assert [t.task for t in seen[0].train] == sorted(t.task for t in seen[0].train)
    assert "task taste: nothing is measured" in " ".join(found.result["warnings"])


def test_a_written_label_may_be_longer_than_the_answers(tiny, tmp_path, monkeypatch):
    """auto allows the untouched model for each task what its own references need."""
    chats = write_messages(
        tmp_path / "chats.jsonl", [(f"{q} {i}", "A") for i, (q, _) in enumerate(pairs(30))]
    )
    names = ("a very long name of a class of tickets", "another long name that nobody would choose")
    texts = write_rows(
        tmp_path / "texts.jsonl", [{"text": f"t {i}", "label": names[i % 2]} for i in range(30)]
    )
    seen, original = [], asking.evaluator

    def watching(loaded, asked, how, observe):
        seen.append((asked[0].reference, how.max_new_tokens))
        return original(loaded, asked, how, observe)

    monkeypatch.setattr(asking, "evaluator", watching)
    changes = {
        "objective": {"name": "multi", "tasks": {"support": "sft", "intent": "classify"}},
        "data.columns": None,
        "train.max_steps": 1,
        "evaluate.baselines": ["zero_shot", "intent/zero_shot"],
    }
    train(values(tiny, {"support": chats, "intent": texts}, tmp_path / "run", **changes))
    lengths = dict(seen)
    assert (
        lengths["A"] < 12
        and all(lengths[name] > 20 for name in names if name in lengths)
        and len(lengths) == 2
    )


def test_from_the_command_line(tw, tiny, files, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
model: {{name: {tiny}, dtype: float32}}
data:
  train: {{support: {files["support"]}, intent: {files["intent"]}}}
  columns: {{intent: {{text: words, label: queue}}}}
objective:
  name: multi
  tasks:
    support: sft
    intent: {{objective: classify, weight: 0.5, pooling: mean}}
train: {{epochs: 1, tokens_per_step: 600}}
evaluate: {{max_new_tokens: 4, baselines: [majority]}}
"""
    )
    planned = tw("plan", recipe, "--json", "objective.tasks.intent.share=2")
    assert planned.status == 0, planned.err
    plain = tw("plan", recipe, "--json")
    assert planned.json["tokens"] > plain.json["tokens"]
    said = tw("train", recipe, "--out", tmp_path / "run", "--json")
    assert said.status in (0, 1), said.err
    assert said.json["tasks"].keys() == {"support", "intent"}
    heads = json.loads((tmp_path / "run" / "adapter" / "heads.json").read_text())
    assert heads["heads"]["score__intent"]["bias"] is True and "balance" not in heads["heads"]
    wrong = tw("train", recipe, "--out", tmp_path / "no", "train.stop.metric=validation_intend_loss")
    assert wrong.status == 2 and "Did you mean 'validation_intent_loss'" in wrong.err
