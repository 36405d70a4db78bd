"""QLoRA: LoRA over a quantised base, its gradients, its way back to a plain model, and what it refuses."""

from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from tests.contract.small import save_small_model
from tests.tiny import tiny_tokenizer
from tests.training import VOCAB, fit, rows, settings
from tunewright.adapt import quant
from tunewright.adapt.base import adapter_of, trainable
from tunewright.core.errors import ConfigError, ModelError
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Job
from tunewright.models import quantised
from tunewright.models.changes import Quantise
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.quantised import contents, dequantise, is_quantised
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning

pytest.importorskip("bitsandbytes")

HOWS = {
    "nf4": {},
    "nf4 single": {"constants": "single"},
    "fp4": {"format": "fp4"},
    "8 bits": {"bits": 8},
}
IDS = torch.arange(3, 35)[None]
SETTINGS = settings(epochs=4, every=4)
each = pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("qlora") / "tiny"
    return save_small_model(path, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    path = tmp_path_factory.mktemp("qlora") / "gpt2"
    config = GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=1, n_head=4, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def attached(folder, dtype="float32", **how):
    """The adapter, and a model that it is attached to."""
    torch.manual_seed(1)
    adapter = adapter_of("qlora", rank=4, **how)
    loaded = load(str(folder), device="cpu", dtype=dtype, changes=adapter.changes)
    adapter = adapter.fitted(partial(loaded.tokenizer.encode, add_special_tokens=False))
    return adapter, adapter.attach(loaded.model)


def moved(model, size=0.05):
    """As if trained: B is not 0 any more."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in trainable(model).items():
        if "lora_B" in name or "token" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter) * size
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def job(folder, **how):
    adapter, model = attached(folder, **how)
    return Job(
        model,
        ModelForward(model),
        SupervisedFineTuning("sft", SftOptions()),
        rows(24),
        rows(8, seed=1),
        adapter=adapter,
    )


# --- attached


@each
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_starts_as_the_base_and_gives_it_back_bit_for_bit(folder, how, dtype):
    adapter, model = attached(folder, dtype, **how)
    base = logits(load(str(folder), device="cpu", dtype=dtype, changes=adapter.changes).model)
    assert torch.equal(logits(model), base)
    moved(model)
    assert float((logits(model) - base).abs().max()) > 0.1
    with adapter.disabled(model):
        assert torch.equal(logits(model), base)


@each
def test_only_the_low_rank_part_trains_and_has_the_gradient_of_a_plain_base(folder, how):
    found = []
    for plain in (False, True):
        adapter, model = attached(folder, **how)
        if plain:
            torch.manual_seed(1)
            base = load(str(folder), device="cpu", dtype="float32", changes=adapter.changes).model
            model = adapter_of("lora", rank=4).attach(dequantise(base))
        moved(model).train()
        forward = ModelForward(model)
        forward.logprobs(build_batch(rows(6))).sum().backward()
        assert {name.split(".")[-3] for name in trainable(model)} == {"lora_A", "lora_B"}
        found.append({name: p.grad for name, p in trainable(model).items()})
    quantised, plain = found
    assert len(quantised) == len(plain) == 28
    for name, gradient in quantised.items():
        assert float(gradient.abs().max()) > 1e-3, name
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [HOWS["nf4"], HOWS["8 bits"]], ids=["nf4", "8 bits"])
def test_it_learns_and_goes_on_to_the_same_bits(folder, tmp_path, how):
    whole = job(folder, **how)
    before = [t.clone() for p in whole.model.parameters() for t in contents(p) if not p.requires_grad]
    result, weights = fit(whole, SETTINGS, tmp_path / "whole")
    after = [t for p in whole.model.parameters() for t in contents(p) if not p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert result.best < loss_before(folder, how) - 0.3

    class Crash(Exception):
        pass

    def crash(event):
        if getattr(event, "step", 0) == 9 and type(event).__name__ == "StepEnd":
            raise Crash

    with pytest.raises(Crash):
        fit(job(folder, **how), SETTINGS, tmp_path / "cut", crash)
    again, resumed = fit(job(folder, **how), SETTINGS, tmp_path / "cut")
    assert again.best == result.best
    assert all(torch.equal(resumed[name], weight) for name, weight in weights.items())


def loss_before(folder, how):
    """Mean negative log-likelihood of the validation rows under the untouched base."""
    untouched = job(folder, **how)
    batch = build_batch(rows(8, seed=1))
    with torch.no_grad():
        found = untouched.forward.logprobs(batch) * batch.targets.weights
    return -float(found.sum() / batch.targets.weights.sum())


# --- merged


@each
@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_merging_gives_a_plain_model_that_answers_the_same(folder, how, dtype, apart):
    adapter, model = attached(folder, dtype, **how)
    answers = logits(moved(model))
    merged = adapter.merged(model)
    assert not is_quantised(merged) and not hasattr(merged, "peft_config")
    assert merged.get_input_embeddings().weight.dtype == getattr(torch, dtype)
    assert float((logits(merged) - answers).abs().max()) < apart * float(answers.abs().max())


@pytest.mark.parametrize(
    "more",
    [
        {"targets": ["q_proj", "lm_head"]},
        {"patterns": {"q_proj": {"rank": 2, "alpha": 3}}},
        {"new_tokens": ["<a>", "<b>"]},
    ],
    ids=lambda more: next(iter(more)),
)
def test_merging_knows_what_else_peft_does(folder, more):
    adapter, model = attached(folder, **more)
    answers = logits(moved(model))
    torch.testing.assert_close(logits(adapter.merged(model)), answers, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", [HOWS["nf4"], HOWS["8 bits"]], ids=["nf4", "8 bits"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_conv1d(gpt2, tmp_path, how):
    adapter, model = attached(gpt2, **how)
    answers = logits(moved(model))
    adapter.merged(model).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), answers, rtol=0, atol=1e-5)


def test_one_adapter_is_merged_at_a_time(folder):
    adapter, model = attached(folder)
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ConfigError, match="one adapter at a time; active are default, second"):
        adapter.merged(model)


def test_merging_into_the_original_weights_is_noticed(folder, monkeypatch):
    adapter, model = attached(folder)
    original = load(str(folder), device="cpu", dtype="float32").model
    monkeypatch.setattr(quant, "dequantise", lambda base: original)
    with pytest.raises(ModelError, match=r"a logit has moved by 0\.\d+, where the largest is \d.*is allowed"):
        adapter.merged(moved(model))


def test_a_merge_that_gives_nothing_finite_is_noticed():
    with pytest.raises(ModelError, match="a logit has moved by nan"):
        quant.check_same(torch.ones(2), torch.tensor([1.0, torch.nan]))


@pytest.mark.parametrize("how", [HOWS["nf4"], HOWS["8 bits"]], ids=["nf4", "8 bits"])
def test_nothing_is_merged_into_few_bits(folder, how):
    _, model = attached(folder, **how)
    with pytest.raises(ConfigError, match=r"too coarse to fold a trained difference into.*qlora"):
        adapter_of("lora", rank=4).merged(model)


# --- settings


def test_the_base_that_it_asks_for():
    adapters = {name: adapter_of("qlora", **how) for name, how in HOWS.items()}
    assert {name: a.changes.quantise for name, a in adapters.items()} == {
        "nf4": Quantise(4, "nf4", True),
        "nf4 single": Quantise(4, "nf4", False),
        "fp4": Quantise(4, "fp4", True),
        "8 bits": Quantise(8, "nf4", True),
    }
    assert adapters["fp4"].label == "QLoRA rank 16 over FP4"
    assert adapters["8 bits"].label == "QLoRA rank 16 over 8 bits"
    assert adapters["nf4"].provides == {"reference"} and not adapters["nf4"].whole


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"bits": 3}, "bits: Input should be 4 or 8"),
        ({"bits": 8, "format": "fp4"}, "format is read with bits=4 only"),
        ({"bits": 8, "constants": "single"}, "constants is read with bits=4 only"),
        ({"format": "int4"}, "format: Input should be 'nf4' or 'fp4'"),
        (
            {"init": "pissa"},
            "a quantised base cannot be changed, so it starts with default, gaussian, orthogonal",
        ),
    ],
)
def test_wrong_settings(wrong, says):
    with pytest.raises(ConfigError, match=says):
        adapter_of("qlora", **wrong)


def test_without_the_library_it_says_so_before_any_work(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'tunewright\[quant\]'"):
        adapter_of("qlora")
