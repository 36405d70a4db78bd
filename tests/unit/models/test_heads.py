"""Heads on disk: we read what we wrote; plain transformers and PEFT read the heads that they know."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.adapt.base import adapter_of
from tunewright.core.errors import ModelError
from tunewright.core.paths import write_json
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.base_record import BASE_RECORD, base_record
from tunewright.models.changes import NONE
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.quiet import quiet_loading, quiet_peft
from tunewright.models.save import save_companions, save_heads, save_model
from tunewright.models.score import attach, detach, heads_of
from tunewright.models.score_files import read_heads, write_heads
from tunewright.objectives.base import HeadSpec

LABELS = ("card", "loan", "other")
FACTS = {"task": "classify", "kind": "single", "labels": list(LABELS), "threshold": 0.5}
ROWS = [[5, 9, 100, 44, 17], [7, 8, 300]]
PADDED = torch.tensor([ROWS[0], [*ROWS[1], 2, 2]])  # 2 is the pad token
BATCH = build_batch([Tokens(ids, [0.0] * len(ids)) for ids in ROWS])
PLAIN = HeadSpec(3, facts=FACTS)
MEAN = HeadSpec(3, "mean", True, facts=FACTS)


@pytest.fixture(autouse=True)
def quiet():
    with quiet_loading(), quiet_peft():
        yield


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def base(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / request.param
    tiny_model(request.param, tie_word_embeddings=False).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def with_head(model, spec=PLAIN, name="score"):
    """``model`` with a head whose weights are random."""
    attach(model, {name: spec})
    for i, parameter in enumerate(heads_of(model)[name].parameters()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return model


def adapted(base, spec=PLAIN):
    """A LoRA model that is not its base, with a head."""
    wrapped = adapter_of("lora", rank=4).attach(load(str(base), dtype="float32").model)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    return with_head(wrapped, spec)


def save_adapter(base, model, folder):
    adapter_of("lora", rank=4).save(model, folder)
    save_heads(model, tiny_tokenizer(), folder, writes=False)
    save_companions(model, tiny_tokenizer(), folder, [4])
    write_json(folder / BASE_RECORD, base_record(load(str(base), dtype="float32"), NONE))


def scores(model):
    with torch.no_grad():
        return ModelForward(model.eval()).scores(BATCH)


def logits(model):
    with torch.no_grad():
        return model.eval()(PADDED, attention_mask=(PADDED != 2).long()).logits


@pytest.mark.parametrize("spec", [PLAIN, MEAN], ids=["last", "mean"])
def test_an_adapter_with_its_head_comes_back(base, tmp_path, spec):
    model = adapted(base, spec)
    save_adapter(base, model, tmp_path / "adapter")
    loaded = load(str(tmp_path / "adapter"), dtype="float32")
    assert loaded.judges and torch.equal(scores(loaded.model), scores(model))
    head = heads_of(loaded.model)["score"]
    assert (head.pooling, head.facts, head.weight.dtype) == (spec.pooling, FACTS, torch.float32)
    assert not any(p.requires_grad for p in head.parameters())


def test_plain_peft_reads_the_adapter(base, tmp_path):
    model = adapted(base)
    expected = scores(model)
    save_adapter(base, model, tmp_path / "adapter")
    facts = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (facts["task_type"], facts["modules_to_save"]) == ("SEQ_CLS", ["score"])
    own = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, dtype=torch.float32)
    before = logits(own)
    found = logits(PeftModel.from_pretrained(own, str(tmp_path / "adapter")))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert (before - found).abs().max() > 0.1
    how = {"num_labels": 3, "dtype": torch.float32}
    auto = AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "adapter"), **how)
    torch.testing.assert_close(logits(auto), expected, atol=2e-5, rtol=1e-5)
    through_transformers = AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter", **how)
    torch.testing.assert_close(logits(through_transformers), expected, atol=2e-5, rtol=1e-5)


def test_key_names_are_those_that_peft_writes(base, tmp_path):
    model = adapted(base)
    save_adapter(base, model, tmp_path / "ours")
    own = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(own, str(tmp_path / "ours"))
    theirs.save_pretrained(tmp_path / "theirs")
    first, second = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("ours", "theirs"))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_whole_classifier_is_one_of_transformers(base, tmp_path):
    model = with_head(load(str(base), dtype="float32").model)
    save_model(model, tiny_tokenizer(), tmp_path / "model", [4], writes=False)
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert config.id2label == dict(enumerate(LABELS)) and config.label2id["loan"] == 1
    assert config.problem_type == "single_label_classification" and config.pad_token_id == 2
    assert config.architectures[0].endswith("ForSequenceClassification")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, report = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "model", output_loading_info=True
        )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(logits(plain), scores(model), atol=2e-5, rtol=1e-5)
    again = load(str(tmp_path / "model"), dtype="float32")
    assert again.judges and torch.equal(scores(again.model), scores(model))


@pytest.mark.parametrize(
    ("facts", "outputs", "problem", "names"),
    [
        ({**FACTS, "kind": "multi"}, 3, "multi_label_classification", list(LABELS)),
        ({"task": "regress", "mean": 1.0, "std": 2.0}, 1, "regression", ["LABEL_0"]),
    ],
)
def test_what_kind_of_problem_it_is(base, tmp_path, facts, outputs, problem, names):
    model = with_head(load(str(base), dtype="float32").model, HeadSpec(outputs, facts=facts))
    save_model(model, tiny_tokenizer(), tmp_path / "model", [4], writes=False)
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.problem_type, list(config.id2label.values())) == (problem, names)
    assert config.num_labels == outputs


def test_a_head_that_transformers_does_not_know_stands_beside_the_language_model(base, tmp_path):
    model = with_head(load(str(base), dtype="float32").model, MEAN)
    save_model(model, tiny_tokenizer(), tmp_path / "model", [4], writes=False)
    assert not any("score" in name for name in load_file(tmp_path / "model" / "model.safetensors"))
    assert AutoConfig.from_pretrained(tmp_path / "model").architectures[0].endswith("ForCausalLM")
    again = load(str(tmp_path / "model"), dtype="float32")
    assert again.judges and torch.equal(scores(again.model), scores(model))


def test_a_model_that_still_writes_keeps_its_output_layer(base, tmp_path):
    """A policy with a value head, or one of several tasks."""
    model = with_head(load(str(base), dtype="float32").model, HeadSpec(1, "last", True), "value")
    save_model(model, tiny_tokenizer(), tmp_path / "model", [4])
    again = load(str(tmp_path / "model"), dtype="float32")
    assert not again.judges and list(heads_of(again.model)) == ["value"]
    with torch.no_grad():
        assert torch.equal(again.model(PADDED).logits, model(PADDED).logits)
    detach(again.model)
    assert heads_of(again.model) == {}


def test_a_classifier_of_others_is_refused(base, tmp_path):
    own = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    own.save_pretrained(tmp_path / "whole")
    tiny_tokenizer().save_pretrained(tmp_path / "whole")
    with pytest.raises(ModelError, match=r"whole is a sequence classifier without heads\.json"):
        load(str(tmp_path / "whole"))
    save_adapter(base, adapted(base), tmp_path / "adapter")
    (tmp_path / "adapter" / "heads.json").unlink()
    with pytest.raises(ModelError, match=r"adapter is a sequence classifier without heads\.json"):
        load(str(tmp_path / "adapter"))


def test_a_torn_pair_of_files_is_noticed(base, tmp_path):
    model = with_head(load(str(base), dtype="float32").model)
    write_heads(model, tmp_path, writes=False)
    before = (tmp_path / "heads.json").read_bytes()
    heads_of(model)["score"].weight.data += 1
    write_heads(model, tmp_path, writes=False)
    assert read_heads(tmp_path).weights["score.weight"].shape == (3, 64)
    (tmp_path / "heads.json").write_bytes(before)
    with pytest.raises(ModelError, match=r"is not the file that heads\.json describes"):
        read_heads(tmp_path)
    (tmp_path / "heads.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read: FileNotFoundError"):
        read_heads(tmp_path)
    (tmp_path / "heads.json").write_text('{"writes": false')
    with pytest.raises(ModelError, match="cannot be read: JSONDecodeError"):
        read_heads(tmp_path)
    assert read_heads(tmp_path / "nowhere") is None


def test_a_head_of_another_width_is_refused(base, tmp_path):
    write_heads(with_head(tiny_model("llama", hidden_size=32)), tmp_path / "narrow", writes=False)
    for file in (*base.iterdir(),):
        (tmp_path / "narrow" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"does not fit this model: it needs .*3, 64.*found .*3, 32"):
        load(str(tmp_path / "narrow"))


def test_an_architecture_without_a_classifier_is_saved_as_a_language_model(base, tmp_path, monkeypatch):
    def refuse(config):
        raise ValueError("Unrecognized configuration class")

    stand_in = SimpleNamespace(from_config=refuse)
    monkeypatch.setattr("tunewright.models.classifier.AutoModelForSequenceClassification", stand_in)
    model = with_head(load(str(base), dtype="float32").model)
    save_model(model, tiny_tokenizer(), tmp_path / "model", [4], writes=False)
    again = load(str(tmp_path / "model"), dtype="float32")
    assert again.judges and torch.equal(scores(again.model), scores(model))
