"""Which layers train: words, lists, models whose layers share names, and what matches nothing."""

import pytest

from tests.tiny import tiny_model
from tunewright.adapt.base import adapter_of, trainable
from tunewright.adapt.targets import conv_layers, last_of_mlp, linear_layers, norm_layers, resolved, shape_of
from tunewright.core.errors import ConfigError

ATTENTION = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
MLP = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
PHI3 = {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}


def adapted(family, targets):
    """The ends of names of the layers that LoRA then sits on, as PEFT finds them."""
    model = adapter_of("lora", rank=2, targets=targets).attach(tiny_model(family))
    layers = {name.split(".lora_")[0] for name in trainable(model)}
    return {".".join(name.split(".")[-2:]) for name in layers}, len(layers)


@pytest.mark.parametrize(
    ("family", "targets", "expected"),
    [
        ("llama", "all-linear", ATTENTION | MLP),
        ("llama", "attention", ATTENTION),
        ("llama", "mlp", MLP),
        ("llama", ["v_proj", "mlp.down_proj"], {"self_attn.v_proj", "mlp.down_proj"}),
        ("phi3", "all-linear", PHI3),
        ("phi3", "attention", {"self_attn.qkv_proj", "self_attn.o_proj"}),
        ("phi3", ["gate_up_proj"], {"mlp.gate_up_proj"}),
        ("gpt2", "all-linear", {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
        ("gpt2", "attention", {"attn.c_attn", "attn.c_proj"}),
        ("gpt2", "mlp", {"mlp.c_fc", "mlp.c_proj"}),
        ("gpt2", ["attn.c_proj"], {"attn.c_proj"}),
        ("gpt2", ["c_proj"], {"attn.c_proj", "mlp.c_proj"}),
    ],
)  # fmt: skip
def test_words_and_lists(family, targets, expected):
    assert adapted(family, targets) == (expected, 2 * len(expected))


def test_one_layer_by_its_whole_name():
    names, count = adapted("llama", ["model.layers.1.mlp.up_proj"])
    assert (names, count) == ({"mlp.up_proj"}, 1)


def test_the_output_layer_trains_only_by_name():
    assert "lm_head" not in {name.rsplit(".", 1)[-1] for name in linear_layers(tiny_model("llama"))}
    model = adapter_of("lora", rank=2, targets=["lm_head"]).attach(tiny_model("llama"))
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in trainable(model)} == {"lm_head"}


def test_shapes_are_outputs_by_inputs_whichever_way_the_weight_lies():
    layers = linear_layers(tiny_model("gpt2"))
    assert shape_of(layers["transformer.h.0.mlp.c_fc"]) == (96, 64)
    assert shape_of(linear_layers(tiny_model("llama"))["model.layers.0.mlp.up_proj"]) == (96, 64)
    assert len(conv_layers(layers)) == len(layers) == 8
    assert conv_layers(linear_layers(tiny_model("llama"))) == []


@pytest.mark.parametrize(
    ("family", "last"),
    [("llama", ["down_proj"]), ("phi3", ["down_proj"]), ("gpt2", ["mlp.c_proj"]), ("phi", ["fc2"])],
)
def test_the_last_layer_of_the_mlp(family, last):
    model = tiny_model(family)
    assert last_of_mlp(model, linear_layers(model)) == last
    assert last_of_mlp(model, resolved(model, "attention")[1]) == []


def test_normalisations():
    assert norm_layers(tiny_model("llama"), "all-linear") == [
        "input_layernorm",
        "norm",
        "post_attention_layernorm",
    ]
    assert norm_layers(tiny_model("gpt2"), "all-linear") == ["ln_1", "ln_2", "ln_f"]
    with pytest.raises(ConfigError, match=r"no normalisation 'nrm'. Did you mean 'norm'"):
        norm_layers(tiny_model("llama"), ["nrm"])
    with pytest.raises(ConfigError, match=r"normalisations train here"):
        norm_layers(tiny_model("llama"), "mlp")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_prj"], r"no linear layer 'q_prj'. Did you mean 'q_proj'"),
        (["q_proj", "c_attn"], r"no linear layer 'c_attn'"),
        ("everything", r"'everything': give a list of layer names, or one of all-linear, attention, mlp"),
        ([], r"adapt.targets is empty"),
        (["norm"], r"no linear layer 'norm'"),
    ],
)
def test_targets_that_match_nothing(targets, message):
    with pytest.raises(ConfigError, match=message):
        adapter_of("lora", rank=2, targets=targets).attach(tiny_model("llama"))
