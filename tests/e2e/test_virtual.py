"""Whole runs with virtual tokens: resumed, judged again, chatted with; with pairs and with classes."""

import io
import json
import sys

import pytest
import torch

from tests import labelled
from tests.contract.small import write_rows
from tests.e2e.conftest import COLOURS, THINGS, settings
from tests.e2e.test_resume import Killed, killer, same
from tunewright.core import events
from tunewright.core.errors import ConfigError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.run import compose
from tunewright.run.train import resume, train

METHODS = {
    "prompt": ("adapt.method=prompt", "adapt.tokens=6", "adapt.text=the customer"),
    "prefix": ("adapt.method=prefix", "adapt.tokens=6"),
    "ptuning": ("adapt.method=ptuning", "adapt.tokens=6", "adapt.width=16"),
}
WORDS = (
    "model.dtype=float32",
    "train.learning_rate=auto",
    "train.max_steps=4",
    "evaluate.every=2",
    "evaluate.metrics=[exact_match, perplexity]",
)

AUTO = ("evaluate.metrics=auto", "evaluate.max_new_tokens=auto")


def recipe(tiny, data, out, method, *words):
    return settings(tiny, data, out, *WORDS, *METHODS[method], *words)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumes_to_the_same_bits_and_its_model_answers(tw, tiny, data, tmp_path, method, monkeypatch):
    whole = train(recipe(tiny, data, tmp_path / "whole", method))
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(
            recipe(tiny, data, out, method), killer(lambda e: isinstance(e, events.StepEnd) and e.step == 3)
        )
    same(resume(out), whole)

    test = whole.path / "data" / "test.jsonl"
    words = ("--data", test, "--metric", "perplexity", "--json")
    own = {m["name"]: m["systems"] for m in whole.result["metrics"]}["perplexity"]
    said = tw("eval", whole.path, *words)
    assert said.status == 0, said.err
    assert said.json["metrics"][0]["value"] == pytest.approx(own["tuned"]["value"], rel=1e-6)
    assert abs(own["tuned"]["value"] - own["zero_shot"]["value"]) > 1

    monkeypatch.setattr(sys, "stdin", io.StringIO("red box?"))
    said = tw("chat", whole.path, "--max-new-tokens", 4)
    assert said.status == 0 and said.out.strip(), said.err


def test_a_loaded_adapter_acts_takes_its_room_and_can_be_switched_off(tiny, data, tmp_path):
    run = train(recipe(tiny, data, tmp_path / "run", "prompt"))
    loaded, bare = load(str(run.path), dtype="float32"), load(str(tiny), dtype="float32")
    assert (loaded.virtual, compose.context_of(loaded), compose.context_of(bare)) == (6, 506, 512)
    ids = loaded.tokenizer("red box? RED")["input_ids"]
    batch = build_batch([Tokens(ids, [1.0] * len(ids))])
    with torch.no_grad():
        tuned, base = ModelForward(loaded.model).logprobs(batch), ModelForward(bare.model).logprobs(batch)
        with loaded.model.disable_adapter():
            assert torch.equal(ModelForward(loaded.model).logprobs(batch), base)
    assert (tuned - base).abs().max() > 1e-3


def test_pairs_with_the_bare_model_as_reference(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    rows = [
        {"prompt": f"{c} {t}?", "chosen": ("yes", "no")[i % 2], "rejected": ("no", "yes")[i % 2]}
        for i, c in enumerate(COLOURS)
        for t in THINGS
    ]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    words = ("objective=dpo", *AUTO, "train.tokens_per_step=600")
    run = train(recipe(tiny, data, tmp_path / "run", "prefix", *words))
    assert run.result["status"] == "finished" and (run.path / "reference.json").exists()


def test_classes(tiny, tmp_path):
    data = tmp_path / "rows.jsonl"
    labelled.single(data)
    words = ("objective=classify", *AUTO, "train.epochs=3", "train.max_steps=12")
    run = train(recipe(tiny, data, tmp_path / "run", "prompt", *words))
    config = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PROMPT_TUNING", 6)
    loaded = load(str(run.path), dtype="float32")
    assert loaded.judges and loaded.virtual == 6


def test_texts_are_cut_to_the_room_behind_the_virtual_tokens(tiny, data, tmp_path):
    given = recipe(tiny, data, tmp_path / "run", "prefix", "adapt.tokens=500")
    parts = compose.assemble(given.recipe, ())
    assert parts.renderer.max_length == compose.context_of(parts.loaded) == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("adapt.tokens=512", "adapt.text=null"), "adapt.tokens 512: the model has 512 positions"),
        (("adapt.tokens=1",), r"adapt.text has \d+ tokens for adapt.tokens 1.* set adapt.tokens=\d+"),
        (
            ("output.final=merged",),
            "cannot be folded into the model's weights; save the adapter, or use lora",
        ),
        (("adapt.width=8",), "unknown setting .*width"),
    ],
)
def test_bad_settings_are_found_before_any_work(tiny, data, tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        train(recipe(tiny, data, tmp_path / "run", "prompt", *words))
    assert not (tmp_path / "run").exists()
