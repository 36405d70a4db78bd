"""Every example runs, on a tiny model and for two steps, so that none can rot."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SHORT = ("train.max_steps=2", "train.learning_rate=0.001", "model.dtype=float32")
# What each recipe promises: objective, adapter, metrics of the result, rows of its file.
RECIPES = {
    "invoices": (
        "sft",
        "LoRA rank 16",
        {"exact_match", "json_valid", "json_fields", "json_field:amount"},
        72,
    ),
    "requests": ("sft", "LoRA rank 8", {"accuracy", "macro_f1"}, 90),
    "handbook": ("text", "full", {"perplexity"}, 30),
    "classify": ("classify", "LoRA rank 8", {"accuracy", "macro_f1", "calibration_error"}, 96),
    "dpo": ("dpo", "LoRA rank 16", {"prefers_chosen", "reward_margin", "reward_accuracy"}, 64),
    "grpo": ("grpo", "LoRA rank 16", {"reward", "reward:numeric", "reward:length"}, 64),
    "multi": ("multi", "LoRA rank 16", {"sort/accuracy", "reply/rouge_l"}, 160),
}
# Answers are cut short: each of these settings is read by the recipes that write, and by no other.
SHORT_ANSWERS = {
    "sft": ("evaluate.max_new_tokens=4",),
    "multi": ("evaluate.max_new_tokens=4",),
    "grpo": ("objective.rollout.max_new_tokens=4",),
}


def test_no_example_is_forgotten():
    assert {p.stem for p in EXAMPLES.glob("*.yaml")} == RECIPES.keys()
    assert [p.name for p in EXAMPLES.glob("*.py")] == ["train_from_python.py"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name, tw, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    objective, adapter, metrics, rows = RECIPES[name]
    words = [f"model.name={tiny}", *SHORT, f"output.dir={tmp_path / 'run'}"]
    words += SHORT_ANSWERS.get(objective, ())
    said = tw("train", f"examples/{name}.yaml", *words, "--json")
    assert said.status in {0, 1}, said.err
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert said.json == result
    assert (result["model"]["objective"], result["model"]["adapt"]) == (objective, adapter)
    assert metrics <= {m["name"] for m in result["metrics"]}
    counts = result["counts"]
    assert counts["train"] + counts["validation"] + counts["test"] == rows
    assert counts["rejected"] == 0 and counts["steps"] == 2


@pytest.mark.parametrize("file", sorted((EXAMPLES / "data").iterdir()), ids=lambda p: p.name)
def test_data_is_clean(file, tw):
    said = tw("data", "check", file, "--json")
    assert said.status == 0
    assert said.json["rows"] == said.json["kept"] > 0


def test_train_from_python(tiny, tmp_path, capsys):
    path = EXAMPLES / "train_from_python.py"
    spec = importlib.util.spec_from_file_location("example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    again = example.main(str(tiny), str(tmp_path / "run"), max_steps=2, learning_rate=0.001)
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    [metric], [before] = again["metrics"], result["metrics"]
    assert metric["name"] == before["name"] == "accuracy"
    assert metric["value"] == before["systems"]["tuned"]["value"]
    assert metric["n"] == result["counts"]["test"] > 10
    assert f"accuracy: {metric['value']:.3f}" in capsys.readouterr().out
