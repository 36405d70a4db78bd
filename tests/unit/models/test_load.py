"""Every way to name a model, what comes of it, and what is refused."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core.errors import ModelError
from tunewright.models import embedded
from tunewright.models.base_record import base_record
from tunewright.models.changes import NONE
from tunewright.models.load import PLAIN_TEMPLATE, load, load_tokenizer, resolve
from tunewright.models.quiet import quiet_peft

IDS = torch.tensor([[0, 3, 40, 50, 60]])
EMBEDDED = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """A LoRA adapter whose B is not zero, saved by plain PEFT."""
    path = tmp_path_factory.mktemp("adapters") / "one"
    torch.manual_seed(0)
    with quiet_peft():
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(tiny), LoraConfig(r=4, init_lora_weights=False)
        )
        model.save_pretrained(path)
    return path


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits.float()


def test_an_adapter_is_refused_over_other_weights_of_the_same_form(tmp_path):
    def saved(seed, name, dtype=torch.float32):
        tiny_model(seed=seed).to(dtype).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        return tmp_path / name

    base = saved(0, "base")
    folder = tmp_path / "adapter"
    with quiet_peft():
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4)).save_pretrained(folder)
    record = folder / "base.json"
    record.write_text(json.dumps(base_record(load(str(base)), NONE)))
    for dtype in ("float32", "bfloat16"):
        load(str(folder), dtype=dtype)
    saved(0, "base", torch.bfloat16)
    load(str(folder), dtype="float32")  # the same weights, stored in another format
    saved(1, "base")
    with pytest.raises(
        ModelError, match=r"another base.*the same form, but other weights \(matrices\).*delete"
    ):
        load(str(folder))
    told = json.loads(record.read_text())
    del told["weights"]
    record.write_text(json.dumps(told))
    load(str(folder))


def test_a_directory(tiny):
    loaded = load(str(tiny), dtype="float32")
    assert (loaded.ref.source, loaded.ref.adapter, loaded.notes) == ("directory", None, ())
    assert torch.equal(logits(loaded.model), logits(tiny_model()))
    assert not loaded.model.training
    assert loaded.tokenizer.chat_template == tiny_tokenizer().chat_template


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_number_formats(tiny, dtype):
    wanted = getattr(torch, dtype)
    loaded = load(str(tiny), dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {wanted} and loaded.precision.dtype == wanted
    kept = load(str(tiny), dtype=dtype, weights=torch.float32)  # compute in one format, keep in the other
    assert {p.dtype for p in kept.model.parameters()} == {torch.float32} and kept.precision.dtype == wanted


def test_an_adapter_of_plain_peft(tiny, adapter):
    loaded = load(str(adapter), dtype="float32")
    assert (loaded.ref.source, loaded.ref.path) == ("adapter", str(tiny))
    merged = loaded.model.merge_and_unload()
    assert torch.allclose(logits(merged), logits(load(str(adapter), dtype="float32").model), atol=1e-5)
    assert (logits(merged) - logits(tiny_model())).abs().max() > 0.01


def test_a_run_directory(tiny, adapter, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "adapter")
    assert (resolve(str(run)).source, resolve(str(run)).name) == ("adapter", str(run))
    shutil.copytree(tiny, run / "model")
    assert resolve(str(run)).source == "adapter"  # what was measured, if there are both
    shutil.rmtree(run / "adapter")
    assert resolve(str(run)).path == str(run / "model")


def test_the_base_record_finds_and_checks_the_base(tiny, adapter, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    monkeypatch.chdir(tiny.parent)
    record = base_record(load("tiny"), NONE)
    assert record["name"] == str(tiny)
    (copy / "base.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    assert resolve("copy").path == str(tiny)
    record["shape"]["vocab_size"] = 99
    (copy / "base.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"trained on another base.*99"):
        load("copy")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "base.json").unlink()
    (copy / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ModelError, match=r"base model of the adapter.*names none"):
        resolve("copy")
    (copy / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(adapter)}))
    with pytest.raises(ModelError, match="is itself an adapter"):
        resolve("copy")


def test_a_template_of_the_users_own(tiny, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenizer, note = load_tokenizer(str(tiny), str(file))
    assert tokenizer.chat_template == file.read_text() and str(file) in note
    with pytest.raises(ModelError, match="no such file"):
        load_tokenizer(str(tiny), str(tmp_path / "none.jinja"))


def test_a_base_model_without_a_template_gets_the_plain_one(tiny, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny, bare)
    for file in bare.glob("*token*"):
        file.unlink()
    for file in bare.glob("*.jinja"):
        file.unlink()
    tiny_tokenizer(template=None).save_pretrained(bare)
    loaded = load(str(bare))
    assert loaded.tokenizer.chat_template == PLAIN_TEMPLATE
    assert any("no chat template" in note for note in loaded.notes)
    chat = [{"role": "user", "content": "Hi"}]
    text = loaded.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "### Instruction:\nHi\n\n### Response:\n"


def changed(tiny, tmp_path, **config):
    path = tmp_path / "changed"
    shutil.copytree(tiny, path)
    known = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**known, **config}))
    return path


def test_code_of_a_model_is_never_run(tiny, tmp_path):
    path = changed(tiny, tmp_path, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (path / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelError, match="its own code"):
        load(str(path))


def test_pickles_are_never_read(tiny, adapter, tmp_path):
    path = changed(tiny, tmp_path)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model\.bin\)"):
        load(str(path))
    (path / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load(str(path))
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    torch.save(load_file(copy / "adapter_model.safetensors"), copy / "adapter_model.bin")
    (copy / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickle \(adapter_model\.bin\)"):
        load(str(copy))


def test_what_is_no_model(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "notes.txt").write_text("x")
    for name, words in {
        str(tmp_path / "notes.txt"): "is a file, not a model",
        str(tmp_path / "none.gguf"): "no such .gguf file",
        str(tmp_path): "holds no model",
        str(tiny.parent / "tinny"): "Did you mean 'tiny'",
        "smollm2-135m": "Did you mean 'smollm2-135m-instruct'",
        "nobody/nothing": "there is no such directory, and as a model of the hub",
    }.items():
        with pytest.raises(ModelError, match=words) as caught:
            load(name)
        assert "\n" not in str(caught.value)
    broken = changed(tiny, tmp_path)
    (broken / "model.safetensors").write_bytes(b"not a tensor file at all")
    with pytest.raises(ModelError, match="cannot load"):
        load(str(broken))


@pytest.mark.embedded
def test_the_embedded_model_is_converted_once(monkeypatch):
    path = embedded.embedded_path(EMBEDDED)
    record = json.loads((path / "complete.json").read_text())
    source = embedded._gguf_file(EMBEDDED)
    assert record["source"] == source.name and record["sha256"] == embedded.file_digest(source)

    def refuse(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(embedded, "_convert", refuse)
    ref = resolve(EMBEDDED)
    assert (ref.source, ref.path) == ("embedded", str(path))


@pytest.mark.embedded
@pytest.mark.slow
def test_the_conversion_and_the_gguf_file_agree_tensor_for_tensor():
    converted = load_file(embedded.embedded_path(EMBEDDED) / "model.safetensors")
    source = embedded._gguf_file(EMBEDDED)
    direct = load(str(source), dtype="float32")
    assert direct.ref.source == "gguf"
    theirs = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    state, ours = theirs.state_dict(), direct.model.state_dict()
    assert state.keys() == ours.keys() and set(converted) <= state.keys()
    assert set(state) - set(converted) <= {"lm_head.weight"}  # tied to the embedding, stored once
    assert all(torch.equal(state[name], ours[name]) for name in state)
    assert all(torch.equal(state[name], tensor) for name, tensor in converted.items())
