"""Whole QLoRA runs: killed and resumed, judged again, merged, of pairs, with a head, and what is refused."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import labelled
from tests.e2e.conftest import COLOURS, THINGS, settings
from tests.e2e.test_resume import Killed, killer, same
from tunewright.core import events
from tunewright.core.errors import ConfigError, ModelError
from tunewright.core.hashing import file_digest
from tunewright.models import quantised
from tunewright.models.load import load
from tunewright.models.quantised import bits_of, is_quantised
from tunewright.run.judge import Judging, evaluate
from tunewright.run.train import resume, train

pytest.importorskip("bitsandbytes")

QLORA = ("adapt.method=qlora", "adapt.rank=8", "train.learning_rate=0.01", "model.dtype=float32")
SHORT = (
    *QLORA,
    "train.epochs=3",
    "evaluate.every=2",
    "output.save_every=3",
    "evaluate.metrics=[perplexity, exact_match]",
)
IDS = torch.arange(3, 60)[None]
JUDGING = Judging(metrics=["perplexity"], dtype="float32")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user cache of this test's own."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def whole(tiny, data, tmp_path_factory):
    """A finished run whose adapter is merged in the end."""
    out = tmp_path_factory.mktemp("qlora") / "run"
    return train(settings(tiny, data, out, *SHORT, "output.final=merged"))


def metrics(result):
    return {m["name"]: m["systems"] for m in result["metrics"]}


def fifth(event):
    return isinstance(event, events.StepEnd) and event.step == 5


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


# --- one run


def test_it_is_proven_and_described(whole, tiny):
    found = metrics(whole.result)["perplexity"]
    assert found["tuned"]["value"] < 0.75 * found["zero_shot"]["value"]
    assert whole.result["verdict"]["word"] == "SHIP"
    assert whole.result["model"]["adapt"] == "QLoRA rank 8 over NF4"
    assert whole.result["model"]["parameters"] == load(str(tiny)).parameters
    record = json.loads((whole.path / "adapter" / "base.json").read_text())
    assert record["quantise"] == {"bits": 4, "format": "nf4", "double": True}
    assert record["name"] == str(tiny)


@pytest.mark.parametrize("bits", [4, 8])
def test_killed_and_resumed_to_the_same_bits(tiny, data, tmp_path, bits):
    words = (*SHORT, f"adapt.bits={bits}")
    expected = train(settings(tiny, data, tmp_path / "whole", *words))
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(settings(tiny, data, out, *words), killer(fifth))
    same(resume(out), expected)


def test_eval_gives_the_numbers_of_the_run_again(tw, whole):
    test = whole.path / "data" / "test.jsonl"
    tuned = metrics(whole.result)["perplexity"]["tuned"]["value"]
    for name in (whole.path, whole.path / "adapter"):
        again = {m["name"]: m["value"] for m in evaluate(name, test, JUDGING)["metrics"]}
        assert again["perplexity"] == pytest.approx(tuned, rel=1e-6), name
    said, _ = tw("eval", whole.path, "--data", test, "--json").json["metrics"]
    assert said["value"] == pytest.approx(tuned, rel=1e-6)


def test_the_adapter_is_loaded_over_the_same_base(tiny, whole):
    model = load(str(whole.path), dtype="float32").model
    assert {bits_of(m) for m in model.modules() if bits_of(m)} == {4}
    base = load(str(tiny), dtype="float32").model
    with model.disable_adapter():
        quantised_base = logits(model)
    assert 0.01 < float((quantised_base - logits(base)).abs().max()) < 0.5
    assert float((logits(model) - quantised_base).abs().max()) > 1


def test_the_merged_model_is_a_plain_one_that_answers_as_the_trained_one(whole, tiny):
    config = json.loads((whole.path / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    merged = AutoModelForCausalLM.from_pretrained(whole.path / "model", dtype=torch.float32)
    trained = logits(load(str(whole.path / "adapter"), dtype="float32").model)
    assert not is_quantised(merged)
    assert float((logits(merged) - trained).abs().max()) < 1e-4 * float(trained.abs().max())
    before = {n: p for n, p in load(str(tiny), dtype="float32").model.named_parameters() if "proj" in n}
    apart = [float((p - before[n]).detach().norm()) for n, p in merged.named_parameters() if n in before]
    assert min(apart) > 0.05  # the weights that were trained against are not those of the file
    [again] = evaluate(whole.path / "model", whole.path / "data" / "test.jsonl", JUDGING)["metrics"]
    assert again["value"] == pytest.approx(metrics(whole.result)["perplexity"]["tuned"]["value"], rel=1e-4)


# --- other objectives


def test_pairs(tiny, tmp_path):
    every = [f"{colour} {thing}?" for colour in COLOURS for thing in THINGS]
    rows = [
        {"prompt": q, "chosen": ("yes", "no")[i % 16 // 8], "rejected": ("no", "yes")[i % 16 // 8]}
        for i, q in enumerate(every)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (*QLORA, "objective=dpo", "train.epochs=6", "train.stop.patience=0", "train.tokens_per_step=512")
    run = train(settings(tiny, data, tmp_path / "run", *words, "evaluate.max_new_tokens=auto"))
    found = metrics(run.result)
    assert found["reward_margin"]["zero_shot"]["value"] == 0
    assert found["reward_margin"]["tuned"]["low"] > 0.5
    assert found["prefers_chosen"]["tuned"]["value"] > 0.85


def test_classes(tiny, tmp_path):
    data = labelled.single(tmp_path / "labels.jsonl")
    words = (*QLORA, "adapt.bits=8", "objective=classify", "train.epochs=12", "evaluate.every=12")
    words = (*words, "train.stop.patience=0", "evaluate.max_new_tokens=auto", "evaluate.baselines=[majority]")
    run = train(settings(tiny, data, tmp_path / "run", *words))
    accuracy = metrics(run.result)["accuracy"]
    assert accuracy["majority"]["value"] < 0.5 < 0.8 < accuracy["tuned"]["value"]
    test = run.path / "data" / "test.jsonl"
    [again] = evaluate(run.path, test, Judging(metrics=["accuracy"], dtype="float32"))["metrics"]
    assert again["value"] == accuracy["tuned"]["value"]


# --- what cannot be


def test_without_the_library_nothing_is_begun(tiny, data, tmp_path, monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'tunewright\[quant\]'"):
        train(settings(tiny, data, tmp_path / "run", *SHORT))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["lora", "full", "qlora"])
def test_a_base_stored_in_few_bits_is_no_start(tiny, data, whole, tmp_path, method):
    model = load(str(whole.path / "adapter"), dtype="float32").model.unload()
    model.save_pretrained(tmp_path / "few")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "few" / file).write_bytes((whole.path / "adapter" / file).read_bytes())
    with pytest.raises((ConfigError, ModelError), match=r"few.* is stored in (4 or 8|few) bits"):
        train(settings(tmp_path / "few", data, tmp_path / "run", f"adapt.method={method}"))
    assert not (tmp_path / "run").exists()


def test_another_base_under_the_same_name_is_noticed_by_its_scales(tiny, data, tmp_path):
    """Twice the weights have the same 4-bit codes; their scales alone tell them apart."""
    model = load(str(tiny), dtype="float32")
    base = tmp_path / "base"
    model.model.save_pretrained(base)
    model.tokenizer.save_pretrained(base)
    every = [{"prompt": f"{c} {t}?", "chosen": "yes", "rejected": "no"} for c in COLOURS for t in THINGS]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in every))
    words = (*QLORA, "adapt.constants=single", "objective=dpo", "evaluate.max_new_tokens=auto")
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(settings(base, data, out, *words), killer(lambda e: isinstance(e, events.StepEnd)))
    before = file_digest(base / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if "proj" in name:
                parameter *= 2
    model.model.save_pretrained(base)
    assert file_digest(base / "model.safetensors") != before
    with pytest.raises(Exception, match="the weights or the config of the base model are not those"):
        resume(out)
