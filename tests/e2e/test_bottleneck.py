"""Whole runs with bottleneck adapters: proof, files, resume, judged again, with a reference, under a head."""

import json

import pytest
import torch
import yaml

from tests import labelled
from tests.contract.small import chats, save_small_model, small_train, small_values, write_rows
from tests.e2e.test_resume import Killed, killer
from tests.tiny import tiny_model
from tunewright.core import events
from tunewright.core.errors import ConfigError
from tunewright.core.hashing import file_digest
from tunewright.models.bottleneck import bottlenecks_of
from tunewright.models.load import load
from tunewright.run.compose import merged_copy
from tunewright.run.judge import evaluate
from tunewright.run.train import resume

STYLES = ("houlsby", "pfeiffer", "parallel")
WORDS = ("red", "blue", "green", "pink", "grey", "gold", "teal", "plum")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, chats and pairs of answers of which the first word decides."""
    folder = tmp_path_factory.mktemp("bottleneck")
    save_small_model(folder / "model", initializer_range=0.05)
    write_rows(folder / "chats.jsonl", chats(36))
    answers = (("yes", "no"), ("no", "yes"))
    pairs = [
        {"prompt": f"{word} {i}?", "chosen": answers[i % 2][0], "rejected": answers[i % 2][1]}
        for i in range(60)
        for word in [WORDS[i % 2 + 2 * (i // 2 % 4)]]
    ]
    write_rows(folder / "pairs.jsonl", pairs)
    labelled.single(folder / "labels.jsonl", 180)
    return folder


def values(place, out, data="chats", style="pfeiffer", **more):
    found = small_values(place / "model", place / f"{data}.jsonl", out)
    del found["adapt.rank"]
    found |= {"adapt.method": "bottleneck", "adapt.style": style, "adapt.size": 8, "train.max_steps": 6}
    return found | {"evaluate.every": 3, **more}


def digest_of(run):
    return file_digest(run.path / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("style", STYLES)
def test_a_run_and_the_same_numbers_from_its_directory(place, tmp_path, style):
    run, seen = small_train(values(place, tmp_path / "run", style=style))
    losses = [e.loss for e in seen if isinstance(e, events.StepEnd)]
    assert losses[-1] < losses[0] - 0.2
    model, base = run.result["model"], sum(p.numel() for p in tiny_model().parameters())
    each = 2 * 8 * 64 + 8 + 64
    assert (model["parameters"], model["trained_parameters"]) == (base, each * 2 * (1 + (style == "houlsby")))
    assert model["adapt"] == f"{style.capitalize()} adapters of size 8"
    card = (run.path / "README.md").read_text().split("---")[1]
    assert yaml.safe_load(card)["library_name"] == "tunewright"
    assert sorted(p.name for p in (run.path / "adapter").iterdir() if "adapter" in p.name) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (run.path / "adapter" / "adapter_model.safetensors").stat().st_size < 2000 + 4 * model[
        "trained_parameters"
    ]
    again = evaluate(run, run.path / "data" / "test.jsonl")["metrics"][0]
    first = next(m for m in run.result["metrics"] if m["name"] == again["name"])
    assert again["value"] == first["systems"]["tuned"]["value"]
    loaded = load(str(run.path), device="cpu", dtype="float32")
    assert {found.form.style for found in bottlenecks_of(loaded.model)} == {style}
    with torch.no_grad():
        moved = loaded.model(torch.tensor([[5, 6, 7]])).logits
        untouched = load(str(place / "model"), device="cpu", dtype="float32").model(torch.tensor([[5, 6, 7]]))
    assert (moved - untouched.logits).abs().max() > 1e-2
    with pytest.raises(ConfigError, match="cannot be folded into weights; use it as it is"):
        merged_copy(run.path / "adapter")


def test_a_killed_run_ends_in_the_same_bits(place, tmp_path):
    more = {"adapt.dropout": 0.2, "output.save_every": 1}
    whole, _ = small_train(values(place, tmp_path / "whole", **more))
    for step in (2, 6):
        out = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            small_train(
                values(place, out, **more),
                killer(lambda e, at=step: isinstance(e, events.StepEnd) and e.step == at),
            )
        again = resume(out)
        assert digest_of(again) == digest_of(whole)
        assert again.result["metrics"] == whole.result["metrics"]


def test_pairs_with_the_base_as_reference(place, tmp_path):
    more = {"objective.name": "dpo", "train.max_steps": 40, "evaluate.metrics": ["reward_margin"]}
    more |= {"evaluate.max_new_tokens": "auto", "evaluate.every": 40, "train.epochs": 12}
    run, _ = small_train(values(place, tmp_path / "run", "pairs", "parallel", **more))
    found = run.result["metrics"][0]
    assert found["systems"]["zero_shot"]["value"] == 0 and found["systems"]["tuned"]["low"] > 0.1
    again = evaluate(run, run.path / "data" / "test.jsonl")["metrics"]
    [margin] = [m for m in again if m["name"] == "reward_margin"]
    assert margin["value"] == found["systems"]["tuned"]["value"]


def test_under_a_head(place, tmp_path):
    more = {"objective.name": "classify", "evaluate.metrics": ["accuracy"], "train.max_steps": 40}
    more |= {"evaluate.max_new_tokens": "auto", "evaluate.every": 40, "train.epochs": 12}
    run, _ = small_train(values(place, tmp_path / "run", "labels", "parallel", **more))
    accuracy = run.result["metrics"][0]["systems"]["tuned"]["value"]
    assert accuracy > 0.6
    facts = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert facts["peft_type"] == "TUNEWRIGHT_BOTTLENECK" and "task_type" not in facts
    again = evaluate(run, run.path / "data" / "test.jsonl")["metrics"]
    assert next(m["value"] for m in again if m["name"] == "accuracy") == accuracy


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"output.final": "merged"},
            r"output.final 'merged': .*'bottleneck'.*; save the adapter, or use lora",
        ),
        ({"adapt.size": 80}, r"adapt.size 80 is no bottleneck: this model is 64 wide"),
        ({"adapt.rank": 4}, r"rank"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(place, tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        small_train(values(place, tmp_path / "run", **more))
    assert not (tmp_path / "run").exists()
