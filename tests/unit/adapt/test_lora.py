"""LoRA: identity at attach, merged = adapter, switched off = base, round trips."""

import json

import pytest
import torch
from peft import PeftModel

from tests.tiny import FAMILIES, tiny_model
from tests.training import VOCAB, fit, job, rows, settings
from tunewright.adapt.base import adapter_of, trainable
from tunewright.core.errors import ConfigError
from tunewright.models.attention import NAME
from tunewright.models.quiet import quiet_peft

IDS = torch.tensor([[5, 9, 30, 77, 8, 200, 41]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def randomised(family="llama", **options):
    """A model whose adapter does something: B starts at zero, so it is filled with noise."""
    adapter = adapter_of("lora", rank=4, **options)
    torch.manual_seed(1)
    model = adapter.attach(tiny_model(family)).eval()
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapter, model


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_at_attach_then_merge_disable_and_round_trip(family, tmp_path):
    base = logits(tiny_model(family))
    assert torch.equal(logits(adapter_of("lora", rank=4).attach(tiny_model(family)).eval()), base)
    adapter, model = randomised(family)
    keeps_its_promises(adapter, model, base, tmp_path, family)


def keeps_its_promises(adapter, model, base, folder, family):
    """Off it is ``base``; saved, plain PEFT reads the same; merged it answers the same."""
    changed = logits(model)
    assert (changed - base).abs().max() > 1e-2
    with adapter.disabled(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), changed)
    adapter.save(model, folder)
    with quiet_peft():
        plain = PeftModel.from_pretrained(tiny_model(family), folder).eval()
    torch.testing.assert_close(logits(plain), changed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(adapter.merged(model)), changed, rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only():
    _, model = randomised(dropout=0.5)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_only_the_adapter_trains_and_it_is_small():
    model = adapter_of("lora", rank=4).attach(tiny_model("llama"))
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


def test_ranks_larger_than_a_layer_name_it():
    with pytest.raises(ConfigError, match=r"adapt.rank 40 exceeds layer .*k_proj .* use at most 32"):
        adapter_of("lora", rank=40).attach(tiny_model("llama"))
    with pytest.raises(ConfigError, match=r"adapt.patterns.v_proj.rank 33 exceeds .*v_proj .* at most 32"):
        adapter_of("lora", rank=4, patterns={"v_proj": {"rank": 33}}).attach(tiny_model("llama"))


def test_full_trains_everything_and_has_no_reference():
    model = adapter_of("full").attach(tiny_model("llama").requires_grad_(False))
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="keeps no untouched base"), adapter_of("full").disabled(model):
        pass


def test_full_dropout_reaches_attention():
    model = adapter_of("full", dropout=0.4).attach(tiny_model("llama"))
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


def layer_of(model, name):
    """The one LoRA layer of the first block whose name ends so."""
    [found] = [m for n, m in model.named_modules() if f"layers.0.{name}" in n and hasattr(m, "lora_A")]
    return found


def test_patterns_set_rank_and_alpha_by_name():
    patterns = {
        "q_proj": {"rank": 8, "alpha": 4},
        r"layers\.1\.mlp\.\w+": {"rank": 2},
        "v_proj": {"alpha": 3},
    }
    model = adapter_of("lora", rank=4, patterns=patterns).attach(tiny_model("llama"))
    found = {
        n.split("model.layers.")[-1]: (m.r["default"], m.scaling["default"])
        for n, m in model.named_modules()
        if hasattr(m, "lora_A")
    }
    assert found["0.self_attn.q_proj"] == found["1.self_attn.q_proj"] == (8, 4 / 8)
    assert found["0.self_attn.v_proj"] == (4, 3 / 4)
    assert found["0.mlp.up_proj"] == (4, 2.0)
    assert found["1.mlp.up_proj"] == (2, 2.0)  # its alpha follows its rank, as that of all layers does
    shape = layer_of(model, "self_attn.q_proj").lora_A["default"].weight.shape
    assert shape == (8, 64)


def test_patterns_with_an_alpha_for_all_layers_keep_it():
    model = adapter_of("lora", rank=4, alpha=4, patterns={"q_proj": {"rank": 8}}).attach(tiny_model("llama"))
    assert layer_of(model, "self_attn.q_proj").scaling["default"] == 4 / 8


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"q_prj": {"rank": 2}}, r"'q_prj' matches none of the layers that train. Did you mean 'q_proj'"),
        ({"up_proj": {"rank": 2}}, r"'up_proj' matches none of the layers that train"),
        ({"q_(": {"rank": 2}}, r"'q_\(' is no regular expression"),
        ({"q_proj": {}}, r"a pattern needs a rank or an alpha"),
        ({"q_proj": {"rnk": 2}}, r"unknown setting 'patterns.q_proj.rnk'"),
        ({"q_proj": {"rank": 1.5}}, r"patterns"),
    ],
)
def test_patterns_that_mean_nothing_are_errors(patterns, message):
    with pytest.raises(ConfigError, match=message):
        adapter_of("lora", rank=4, targets="attention", patterns=patterns).attach(tiny_model("llama"))


def test_rslora_scales_by_the_root_of_the_rank():
    for rank, alpha, expected in ((4, None, 4.0), (16, 8.0, 2.0), (16, None, 2.0), (25, None, 1.6)):
        model = adapter_of("rslora", rank=rank, alpha=alpha).attach(tiny_model("llama"))
        assert layer_of(model, "mlp.up_proj").scaling["default"] == pytest.approx(expected)
    model = adapter_of("rslora", rank=4, patterns={"q_proj": {"rank": 9}}).attach(tiny_model("llama"))
    assert layer_of(model, "self_attn.q_proj").scaling["default"] == pytest.approx(8.0 / 3)
    assert model.peft_config["default"].alpha_pattern == {"q_proj": 8.0}


def test_dora_learns_magnitudes(tmp_path):
    adapter = adapter_of("dora", rank=4)
    torch.manual_seed(1)
    model = adapter.attach(tiny_model("llama")).eval()
    magnitudes = [p for n, p in trainable(model).items() if "magnitude" in n]
    assert sum(m.numel() for m in magnitudes) == 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64)  # one for each output
    base = logits(tiny_model("llama"))
    torch.testing.assert_close(logits(model), base, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        magnitudes[-1].mul_(2.0)
    assert (logits(model) - base).abs().max() > 1e-2
    with adapter.disabled(model):
        assert torch.equal(logits(model), base)


def test_lora_plus_moves_b_so_many_times_as_far(tmp_path):
    """Adam's first step is the rate itself, whatever the gradient."""
    adapter = adapter_of("lora", rank=4, b_rate=8.0)
    the_job = job(rows(20), adapter=adapter)
    a, b = (
        {n: p.detach().clone() for n, p in the_job.model.named_parameters() if f".lora_{x}." in n}
        for x in "AB"
    )
    fit(the_job, settings(max_steps=1, learning_rate=1e-3, schedule="constant", warmup=0.0), tmp_path)
    now = dict(the_job.model.named_parameters())
    first = next(iter(b))
    assert float((now[first] - b[first]).detach().abs().max()) == pytest.approx(8e-3, rel=1e-3)
    assert all((now[n] - a[n]).abs().max() <= 1.1e-3 for n in a)


INITS = ["gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora", "mica"]


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_inits_leave_the_base_and_its_answers(init, family, tmp_path):
    """Also those that PEFT takes out of the base: at attach and off the same, merged and saved alike."""
    base_weights = tiny_model(family).state_dict()
    base = logits(tiny_model(family))
    torch.manual_seed(1)
    adapter = adapter_of("lora", rank=4, init=init)
    model = adapter.attach(tiny_model(family)).eval()
    torch.testing.assert_close(logits(model), base, rtol=1e-5, atol=1e-5)
    for name, weight in model.get_base_model().state_dict().items():
        if "base_layer.weight" in name:
            assert torch.equal(weight, base_weights[name.replace("base_layer.", "")])
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(torch.randn_like(p) * 0.05)
    keeps_its_promises(adapter, model, base, tmp_path, family)


def test_pissa_starts_from_the_largest_singular_values():
    weight = tiny_model("llama").get_submodule("model.layers.0.mlp.up_proj").weight
    layer = layer_of(adapter_of("lora", rank=4, init="pissa").attach(tiny_model("llama")), "mlp.up_proj")
    product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(product)[:4], values[:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.linalg.svdvals(weight - product)[0], values[4], rtol=1e-4, atol=1e-5)


def test_pissa_has_the_gradients_of_pefts_own():
    """Theirs computes (W - s B0 A0) x + s B A x with a changed base."""
    from peft import LoraConfig, get_peft_model

    with quiet_peft():
        theirs = get_peft_model(
            tiny_model("llama"),
            LoraConfig(r=4, lora_alpha=8, target_modules=["up_proj"], init_lora_weights="pissa"),
        )
    ours = adapter_of("lora", rank=4, targets=["up_proj"], init="pissa").attach(tiny_model("llama"))
    for model in (ours, theirs):
        model(input_ids=IDS).logits.square().mean().backward()
    pairs = zip(trainable(ours).values(), trainable(theirs).values(), strict=True)
    for a, b in pairs:
        assert (a.grad - b.grad).norm() < 1e-3 * b.grad.norm()


def test_saved_pissa_is_a_plain_lora_of_twice_the_rank(tmp_path):
    patterns = {"q_proj": {"rank": 2, "alpha": 3}}
    adapter = adapter_of("rslora", rank=4, alpha=6, init="pissa", patterns=patterns)
    model = adapter.attach(tiny_model("llama")).eval()
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(torch.randn_like(p) * 0.05)
    adapter.save(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"], config["rank_pattern"]) == (8, True, {"q_proj": 4})
    with quiet_peft():
        plain = PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-4, atol=1e-5)


class Killed(Exception):
    pass


def at_checkpoint_of(step):
    """Observer that crashes once the checkpoint of ``step`` is written."""

    def observe(event):
        if type(event).__name__ == "Saved" and event.step == step:
            raise Killed

    return observe


@pytest.mark.parametrize("init", ["pissa_niter_4", "olora", "orthogonal"])
def test_resume_comes_to_the_same_bits(init, tmp_path):
    def make():
        return job(rows(30), adapter=adapter_of("lora", rank=4, init=init, dropout=0.1))

    how = settings(max_steps=6, save_every=2)
    _, expected = fit(make(), how, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(make(), how, tmp_path / "cut", at_checkpoint_of(4))
    _, found = fit(make(), how, tmp_path / "cut")
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)


def test_resume_does_not_depend_on_finding_the_same_start(tmp_path):
    """Another machine may decompose a weight with other signs; what the update started with is stored."""
    adapter = adapter_of("lora", rank=4, init="pissa")
    the_job = job(rows(30), adapter=adapter)
    state = adapter.state(the_job.model)
    other = adapter_of("lora", rank=4, init="pissa").attach(
        tiny_model("llama", VOCAB, tie_word_embeddings=True)
    )
    assert len(state) == 2 * 14
    adapter.restore(other, {name: -value for name, value in state.items()})
    assert all(torch.equal(v, -state[n]) for n, v in adapter.state(other).items())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lora", {"init": "pisa"}, r"unknown adapt.init 'pisa'. Did you mean 'pissa'"),
        ("lora", {"init": "eva"}, r"'eva' cannot be used: it needs activations of the training data"),
        ("lora", {"init": "lora_ga"}, r"needs gradients on the training data"),
        ("lora", {"init": "corda"}, r"needs activations"),
        ("lora", {"init": "loftq"}, r"use adapt.method qlora"),
        ("lora", {"init": "orthogonal", "rank": 5}, r"needs even ranks"),
        ("lora", {"init": "orthogonal", "patterns": {"q_proj": {"rank": 3}}}, r"needs even ranks"),
        ("dora", {"init": "pissa"}, r"cannot be combined with method dora"),
        ("lora", {"init": "mica", "b_rate": 2.0}, r"b_rate has no effect"),
        ("lora", {"r": 8}, r"adapt.r is set by adapt.rank"),
        ("lora", {"lora_alpha": 8}, r"adapt.lora_alpha is set by adapt.alpha"),
        ("lora", {"use_dora": True}, r"adapt.use_dora is set by adapt.method dora"),
        ("lora", {"init_lora_weights": "pissa"}, r"is set by adapt.init"),
        ("lora", {"rank_pattern": {}}, r"is set by adapt.patterns"),
        ("lora", {"target_modules": ["q_proj"]}, r"is set by adapt.targets"),
        ("lora", {"task_type": "SEQ_CLS"}, r"is set by the program itself"),
        (
            "lora",
            {"layers_to_transfrm": [0]},
            r"unknown setting 'adapt.layers_to_transfrm' of lora. Did you mean",
        ),
        ("lora", {"alora_invocation_tokens": [1]}, r"alora_invocation_tokens cannot be used"),
        ("lora", {"eva_config": {"rho": 2.0}}, r"eva_config.*ignored"),
        ("lora", {"layers_to_transform": [0, 2]}, r"layers_to_transform 2: this model has the layers 0 to 1"),
    ],
)
def test_what_does_not_fit_is_said(method, options, message):
    with pytest.raises(ConfigError, match=message):
        adapter_of(method, **options).attach(tiny_model("llama"))


def test_settings_of_peft_stand_beside_ours():
    model = adapter_of("lora", rank=2, layers_to_transform=[1]).attach(tiny_model("llama"))
    assert trainable(model) and all(".layers.1." in name for name in trainable(model))


def test_trained_biases_of_the_base_leave_no_reference():
    adapter = adapter_of("lora", rank=2, bias="all")
    model = adapter.attach(tiny_model("qwen2"))
    assert any(name.endswith(".bias") for name in trainable(model))
    assert "reference" not in adapter.provides
    with pytest.raises(ConfigError, match=r"trains biases of the base"), adapter.disabled(model):
        pass


def test_switching_off_and_on_leaves_what_trains_as_it_was():
    """mica never trains B, also when PEFT switches the adapter on again."""
    adapter = adapter_of("lora", rank=4, init="mica")
    model = adapter.attach(tiny_model("llama"))
    before = trainable(model).keys()
    assert not any("lora_B" in name for name in before)
    with adapter.disabled(model):
        pass
    assert trainable(model).keys() == before
