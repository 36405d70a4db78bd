"""Copies of weights that rest: the same numbers as the layers' own, put in place and taken away again."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.tiny import tiny_model
from tunewright.adapt.fused import fuse
from tunewright.models import resting as module
from tunewright.models.generate import Sampling, generate
from tunewright.models.resting import WORTH, bytes_of_copies, resting

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks
IDS = torch.arange(5, 25)[None]


def low(family="llama", **overrides):
    return tiny_model(family, 120, initializer_range=0.1, **overrides).to(torch.bfloat16).eval()


def with_lora(model, fused=True, **settings):
    torch.manual_seed(1)
    config = {
        "r": 8,
        "lora_alpha": 16,
        "init_lora_weights": False,
        "target_modules": "all-linear",
        **settings,
    }
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    if fused:
        assert fuse(peft)
    return peft


@torch.inference_mode()
def logits(model):
    return model(input_ids=IDS).logits.float()


def changed(model):
    """Names of the layers that have another forward than at first."""
    return {name for name, layer in model.named_modules() if "forward" in layer.__dict__}


def close(a, b):
    """Apart by little more than bfloat16 is from the truth, which is 0.015."""
    return float((a - b).norm()) < 0.03 * float(b.norm())


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gemma2"])
def test_the_same_logits_from_every_linear_layer(family):
    model = low(family)
    before = logits(model)
    with resting(model, WORTH):
        assert {n for n, layer in model.named_modules() if type(layer) is nn.Linear} == changed(model)
        assert close(logits(model), before)
    assert not changed(model) and torch.equal(logits(model), before)
    assert bytes_of_copies(model, WORTH) == sum(
        layer.weight.nbytes for layer in model.modules() if type(layer) is nn.Linear
    )


@pytest.mark.parametrize("fused", [True, False])
def test_lora_is_multiplied_in(fused):
    base = low()
    plain = logits(base)
    model = with_lora(base, fused)
    own, forwards = logits(model), {n: layer.__dict__.get("forward") for n, layer in model.named_modules()}
    assert not close(own, plain)
    with resting(model, WORTH):
        assert len(changed(model)) == 7 * 2 + 1  # the layers with adapters and the head, no part of a layer
        assert close(logits(model), own)
    assert {n: layer.__dict__.get("forward") for n, layer in model.named_modules()} == forwards
    with model.disable_adapter(), resting(model, WORTH):
        assert close(logits(model), plain)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(3)
    with resting(model, WORTH):
        assert close(logits(model), moved := logits(model)) and not close(moved, own)


def test_unlike_adapters_are_multiplied_apart():
    """Ranks and scales of their own: q alone has another scale than k and v."""
    model = with_lora(low(), rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 12, "gate_proj": 3})
    own = logits(model)
    with resting(model, WORTH):
        assert close(logits(model), own)


@pytest.mark.parametrize("case", ["dora", "two adapters"])
def test_other_adapters_are_left_to_their_own_forward(case):
    model = with_lora(low(), use_dora=case == "dora")
    if case == "two adapters":
        model.add_adapter("other", LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
        model.base_model.set_adapter(["default", "other"])
    own = logits(model)
    before = changed(model)
    with resting(model, WORTH):
        assert changed(model) == before | {"base_model.model.lm_head"}
        assert close(logits(model), own)


def test_layers_that_read_other_states_get_their_own_product():
    layer = low().model.layers[0].self_attn
    x, y = torch.randn(2, 3, 64).to(torch.bfloat16)
    with torch.inference_mode():
        plain = layer.k_proj(y)
        with resting(layer, WORTH):
            layer.q_proj(x)
            assert close(layer.k_proj(y), plain)
            assert close(layer.k_proj(y), plain)


def test_nothing_is_copied_where_it_would_not_pay_or_not_fit(monkeypatch):
    model = low()
    with resting(model, WORTH - 1):
        assert not changed(model)
    with resting(tiny_model("llama", 120), WORTH):
        assert not changed(model)  # float32 weights are multiplied as they are
    needed = bytes_of_copies(model, WORTH)
    for free, copied in ((4 * needed, True), (4 * needed - 1, False)):
        monkeypatch.setattr(module, "free_bytes", lambda free=free: free)
        with resting(model, WORTH):
            assert bool(changed(model)) == copied


def test_answers_are_those_of_the_plain_layers(monkeypatch):
    """And the model is as it was."""
    model = with_lora(low(tie_word_embeddings=False))
    prompts = [[7, 8, 9], [10, 11], [12]]
    copied = generate(model, prompts, Sampling(max_new_tokens=WORTH))
    entered = changed(model)
    monkeypatch.setattr(module, "WORTH", 10**6)
    plain = generate(model, prompts, Sampling(max_new_tokens=WORTH))
    assert [a.ids[:4] for a in copied] == [a.ids[:4] for a in plain]
    for a, b in zip(copied, plain, strict=True):
        assert a.logprobs[:4] == pytest.approx(b.logprobs[:4], abs=0.05)
    assert changed(model) == entered
