"""Whole runs whose lower layers never train: each text runs through them once, killed or not."""

import json
import math
import os

import pytest
from safetensors.torch import load_file

from tests.e2e.conftest import QUICK, rows_of, settings
from tests.e2e.test_resume import Killed, killer
from tunewright.core import events
from tunewright.models.layer_cache import LayerCache
from tunewright.run.planning import plan
from tunewright.run.train import resume, train

TOP = "adapt.targets=[layers.1.mlp.down_proj, layers.1.self_attn.q_proj]"
COMMON = (*QUICK, "model.dtype=float32", "train.epochs=3", "evaluate.every=3", "output.save_every=2")
METHODS = {
    "freeze": ("adapt.method=freeze", "adapt.layers=1", "train.learning_rate=0.003"),
    "lora": (TOP, "adapt.dropout=0.2"),
    "dpo": (TOP, "objective=dpo", "evaluate.max_new_tokens=auto"),
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user cache of this test's own."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def files(tmp_path_factory, data):
    questions = [json.loads(line)["messages"] for line in data.read_text().splitlines()]
    pairs = [{"prompt": q["content"], "chosen": a["content"], "rejected": "no"} for q, a in questions]
    path = tmp_path_factory.mktemp("rows") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return {"freeze": data, "lora": data, "dpo": path}


def recipe(tiny, files, out, name, *words):
    return settings(tiny, files[name], out, *COMMON, *METHODS[name], *words)


def weights(run):
    [path] = [*run.path.glob("adapter/adapter_model.safetensors"), *run.path.glob("model/model.safetensors")]
    return load_file(path)


def losses(run):
    found = [e for e in rows_of(run.path / "events.jsonl") if e["event"] in ("StepEnd", "EvalEnd")]
    return [(e["step"], e.get("loss"), e.get("metrics")) for e in found]


@pytest.mark.parametrize("name", METHODS)
def test_it_says_so_comes_to_the_same_and_survives_a_crash(tiny, files, tmp_path, monkeypatch, name):
    ran, notes = [], []
    kept = LayerCache._kept
    monkeypatch.setattr(LayerCache, "_kept", lambda self, *a: (ran.append(1), kept(self, *a))[1])

    def note(event):
        if isinstance(event, events.Stage) and event.name == "note":
            notes.append(event.detail)

    whole = train(recipe(tiny, files, tmp_path / "whole", name), note)
    assert any(n.startswith("1 of 2 layers never train; at most 0.") for n in notes)
    assert "layer_cache: 'on'  # auto: 1 of 2 layers never train" in (whole.path / "recipe.yaml").read_text()
    assert not (whole.path / "cache").exists()
    once = len(ran)
    plain = train(recipe(tiny, files, tmp_path / "plain", name, "train.layer_cache=off"))
    assert 0 < len(ran) == once
    for ours, theirs in zip(losses(whole), losses(plain), strict=True):
        assert ours[0] == theirs[0] and math.isclose(ours[1] or 0, theirs[1] or 0, rel_tol=1e-3, abs_tol=1e-4)
    steps = whole.result["counts"]["steps"]
    assert steps >= 6
    for at in (1, steps // 2, steps - 1):
        out = tmp_path / f"killed-{at}"
        with pytest.raises(Killed):
            train(
                recipe(tiny, files, out, name),
                killer(lambda e, at=at: isinstance(e, events.StepEnd) and e.step == at),
            )
        [file] = (out / "cache").iterdir()
        os.truncate(file, file.stat().st_size - (5 if at == 1 else 0))
        again = resume(out)
        assert losses(again) == losses(whole)
        assert all(w.equal(weights(whole)[n]) for n, w in weights(again).items()), f"killed at {at}"
    assert whole.result["training"] == again.result["training"]


def test_what_is_sampled_is_not_kept(tiny, tmp_path):
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}?"}) + "\n" for i in range(40)))
    words = (*QUICK, TOP, "objective.name=grpo", "objective.rewards=[{name: length, most: 20}]")
    found = plan(settings(tiny, rows, tmp_path / "run", *words, "train.layer_cache=on"), events.silent)
    assert any("on has no effect: the answers it trains on are sampled" in w for w in found["warnings"])
