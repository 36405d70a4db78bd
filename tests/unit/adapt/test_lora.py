"""LoRA: identity at attach, fused = PEFT, merged = adapter, switched off = base, round trips."""

import json

import pytest
import torch
from peft import PeftModel

from tests.tiny import FAMILIES, tiny_model
from tunewright.adapt.base import load_state, trainable, trained_state
from tunewright.adapt.full import Full
from tunewright.adapt.lora import Lora, fuse
from tunewright.core.errors import ConfigError
from tunewright.models.attention import NAME
from tunewright.models.quiet import quiet_peft

IDS = torch.tensor([[5, 9, 30, 77, 8, 200, 41]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def randomised(family="llama", **options):
    """A model whose adapter does something: B starts at zero, so it is filled with noise."""
    adapter = Lora(rank=4, **options)
    torch.manual_seed(1)
    model = adapter.attach(tiny_model(family)).eval()
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapter, model


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_at_attach_then_merge_disable_and_round_trip(family, tmp_path):
    base = logits(tiny_model(family))
    assert torch.equal(logits(Lora(rank=4).attach(tiny_model(family)).eval()), base)
    adapter, model = randomised(family)
    changed = logits(model)
    assert (changed - base).abs().max() > 1e-2
    with adapter.disabled(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), changed)
    adapter.save(model, tmp_path)
    with quiet_peft():
        plain_peft = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    torch.testing.assert_close(logits(plain_peft), changed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(adapter.merged(model)), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_fused_equals_peft_in_output_and_gradient(family):
    exact, fused = forward_backward(family, False), forward_backward(family, True)
    assert all(distance(fused[name], value) < 1e-5 for name, value in exact.items())


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_in_bfloat16_fused_stays_near_the_truth(family):
    """PEFT computes the low-rank products in float32 there; the fused path rounds them like all others."""
    exact = forward_backward(family, False)
    fused, plain = (forward_backward(family, f, torch.bfloat16) for f in (True, False))
    error = {
        n: sum(distance(r[name], v) for name, v in exact.items()) for n, r in (("f", fused), ("p", plain))
    }
    assert error["f"] < 1.6 * error["p"]


def forward_backward(family, fused, dtype=torch.float32):
    """Logits and gradients of a randomised adapter, by name."""
    torch.manual_seed(1)
    model = Lora(rank=4, alpha=12, fused=fused).attach(tiny_model(family).to(dtype))
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    out = model(input_ids=IDS).logits.float()
    out.square().mean().backward()
    return {"logits": out.detach(), **{name: p.grad for name, p in trainable(model).items()}}


def distance(a, b):
    """Relative distance of two tensors."""
    return float((a - b).norm() / b.norm())


def test_every_plain_layer_is_fused_and_none_with_dropout():
    assert fuse(Lora(rank=2, fused=False).attach(tiny_model("llama"))) == 14  # 7 linear layers x 2
    assert fuse(Lora(rank=2, dropout=0.1, fused=False).attach(tiny_model("llama"))) == 0


def test_dropout_acts_in_training_only():
    _, model = randomised(dropout=0.5)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_only_the_adapter_trains_and_it_is_small():
    model = Lora(rank=4).attach(tiny_model("llama"))
    names = trainable(model)
    assert names and all("lora_" in n for n in names)
    # rank x (in + out) for q (64,64), k and v (64,32), o (64,64), gate, up (64,96), down (96,64), two layers
    assert sum(p.numel() for p in names.values()) == 2 * 4 * (128 + 96 + 96 + 128 + 160 + 160 + 160)
    assert all(p.dtype == torch.float32 for p in names.values())


def test_scale_is_alpha_over_rank():
    _, model = randomised(alpha=8.0)
    _, doubled = randomised(alpha=16.0)
    layer, other = (m.get_base_model().model.layers[0].mlp.up_proj for m in (model, doubled))
    x = torch.randn(3, 64)
    delta = layer(x) - layer.get_base_layer()(x)
    expected = 8.0 / 4 * (x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T)
    torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other(x) - other.get_base_layer()(x), 2 * delta, rtol=1e-4, atol=1e-5)


def test_bad_targets_and_ranks_name_the_remedy():
    with pytest.raises(ConfigError, match=r"no linear layer 'q_prj'. Did you mean 'q_proj'"):
        Lora(targets=["q_prj"]).attach(tiny_model("llama"))
    with pytest.raises(ConfigError, match="use at most 32"):
        Lora(rank=40).attach(tiny_model("llama"))


def test_targets_are_obeyed():
    model = Lora(rank=2, targets=["v_proj", "down_proj"]).attach(tiny_model("llama"))
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in trainable(model)} == {"v_proj", "down_proj"}


def test_state_round_trip_and_refusal_of_another():
    _, model = randomised()
    state, fresh = trained_state(model), Lora(rank=4).attach(tiny_model("llama")).eval()
    load_state(fresh, state)
    assert torch.equal(logits(fresh), logits(model))
    with pytest.raises(ValueError, match="another adapter"):
        load_state(fresh, {"nonsense": torch.zeros(1)})


def test_full_trains_everything_and_has_no_reference():
    model = Full().attach(tiny_model("llama").requires_grad_(False))
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="keeps no untouched base"), Full().disabled(model):
        pass


def test_full_dropout_reaches_attention():
    model = Full(dropout=0.4).attach(tiny_model("llama"))
    model.set_attn_implementation(NAME)
    model.train()
    assert not torch.equal(logits(model), logits(model))
    model.eval()
    assert torch.equal(logits(model), logits(model))


def test_adapter_config_is_pefts(tmp_path):
    adapter, model = randomised()
    adapter.save(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8.0)
