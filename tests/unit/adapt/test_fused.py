"""The fused LoRA step: PEFT's numbers, PEFT's forward wherever it does more, and less to remember."""

import copy
import functools
import importlib.util
import warnings
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from tests.tiny import tiny_model
from tests.training import job, rows
from tunewright.adapt import fused_product
from tunewright.adapt.base import adapter_of, trainable
from tunewright.adapt.fused import fuse, unfuse
from tunewright.adapt.fused_dora import row_norms
from tunewright.core.errors import ModelError
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.quantised import dequantised, settle
from tunewright.models.quiet import quiet_peft

IDS = torch.tensor([[5, 9, 30, 77, 8, 200, 41]])
IN, OUT, RANK, TOKENS = 64, 96, 4, 33
FOUR_BIT = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes (extra quant) is not installed"
)
FEW_BITS = ("nf4", "nf4_double", "fp4", "nf4_settled", "nf4_cut", "int8")
KINDS = [
    "linear",
    "no_bias",
    "conv1d",
    *(pytest.param(k, marks=FOUR_BIT) for k in FEW_BITS),
]


def base_layer(kind, dtype):
    """A layer with weights of about 1/sqrt(inputs), which bfloat16 can hold; a row may end within a block."""
    width = 80 if kind == "nf4_cut" else IN
    weight = (torch.randn(OUT, width) / width**0.5).bfloat16().to(dtype)
    if kind == "conv1d":
        layer = Conv1D(OUT, width)
        weight = weight.T.contiguous()
    elif kind in FEW_BITS:
        layer = few_bits(kind, width, dtype)
    else:
        layer = nn.Linear(width, OUT, bias=kind == "linear")
    layer.weight.data = weight
    if layer.bias is not None:
        layer.bias.data = torch.randn(OUT).bfloat16().to(dtype)
    return layer.to("cpu")  # bitsandbytes quantises here


def few_bits(kind, width, dtype):
    import bitsandbytes

    if kind == "int8":
        return bitsandbytes.nn.Linear8bitLt(width, OUT, has_fp16_weights=False)
    double = kind == "nf4_double"
    return bitsandbytes.nn.Linear4bit(
        width, OUT, compute_dtype=dtype, quant_type=kind[:3], compress_statistics=double
    )


def wrapped(kind="linear", dtype=torch.float32, adapter_dtype=torch.float32, fused=True, **config):
    """A model of one LoRA layer called ``only``, the same for the same arguments; returns both.

    The adapter is far from its start: what it adds is about as large as what the base says.
    """
    torch.manual_seed(3)
    net = nn.ModuleDict({"only": base_layer(kind, dtype)})
    if kind in FEW_BITS:
        net.is_loaded_in_4bit, net.is_loaded_in_8bit = kind != "int8", kind == "int8"
    if kind in ("nf4_settled", "nf4_cut", "int8"):  # as ``load`` gives them
        net._keep_in_fp32_modules_strict = None
        settle(net, dtype)
    settings = {"r": RANK, "lora_alpha": 2 * RANK, "fan_in_fan_out": kind == "conv1d", **config}
    with quiet_peft(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="aLoRA is currently only supported for CAUSAL_LM")
        model = get_peft_model(net, LoraConfig(target_modules=["only"], **settings))
    randomise(model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(adapter_dtype)
    if fused:
        fuse(model)
    return model, model.base_model.model["only"]


def randomise(model):
    for name, parameter in model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= torch.linspace(0.5, -1.5, len(parameter))
        elif "lora_" in name:
            nn.init.normal_(parameter, std=0.15)


def inputs(dtype=torch.float32, width=IN):
    torch.manual_seed(4)
    x, g = (torch.randn(3, TOKENS // 3, n).bfloat16().to(dtype) for n in (width, OUT))
    return x.requires_grad_(), g


def passes(model, layer, dtype=torch.float32):
    """Output and all gradients by name."""
    x, g = inputs(dtype, model.base_model.model["only"].in_features)
    model.zero_grad()
    y = layer(x)
    y.backward(g.to(y.dtype))
    return {
        "y": y.detach(),
        "x": x.grad,
        **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    }


def is_fused(y):
    """Whether our step made ``y``; DoRA's factor and bias may come after it."""
    step = y.grad_fn
    while step is not None and type(step).__name__ in ("AddBackward0", "ToCopyBackward0", "_ScaledBackward"):
        step = step.next_functions[0][0]
    return type(step).__name__ == "LoraProductBackward"


def distance(a, b):
    """Relative distance of two tensors."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


# --- the same numbers


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_peft(kind, config):
    if kind == "nf4_cut" and "use_dora" in config:
        pytest.skip("PEFT takes DoRA's norms of what bitsandbytes makes of a row that ends within a block")
    model, layer = wrapped(kind, **config)
    x = inputs(width=layer.in_features)[0]
    assert is_fused(layer(x))
    found = passes(model, layer)
    unfuse(model)
    assert not is_fused(layer(x))
    expected = passes(model, layer)
    assert set(found) == set(expected) and len(found) == 4 + ("use_dora" in config)
    assert {n: v.dtype for n, v in found.items()} == {n: v.dtype for n, v in expected.items()}
    assert all(distance(found[name], value) < 1e-6 for name, value in expected.items())


def started(dtype, fused=True):
    """A tiny model with PiSSA that has moved a little from its start; the same each time."""
    torch.manual_seed(1)
    model = adapter_of("lora", rank=4, init="pissa").attach(tiny_model("qwen2").to(dtype))
    for parameter in trainable(model).values():
        parameter.data += 0.02 * torch.randn_like(parameter)
    if not fused:
        unfuse(model)
    return model


def whole_passes(model):
    """Logits and all gradients, in one line."""
    out = model(input_ids=IDS).logits.float()
    out.square().mean().backward()
    return torch.cat([out.detach().flatten(), *(p.grad.flatten() for p in trainable(model).values())])


def test_a_start_from_the_weights_is_that_of_the_plain_step():
    assert distance(whole_passes(started(torch.float32)), whole_passes(started(torch.float32, False))) < 1e-6
    truth = whole_passes(started(torch.bfloat16).float())  # over weights as bfloat16 has them
    fused, plain = (whole_passes(started(torch.bfloat16, fused)) for fused in (True, False))
    assert distance(fused, truth) < 1.1 * distance(plain, truth) < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_start_from_the_weights_changes_nothing_and_keeps_x_as_it_came(dtype):
    base = tiny_model("llama").to(dtype)
    with torch.no_grad():
        before = base(input_ids=IDS).logits
        model = adapter_of("lora", rank=RANK, init="pissa").attach(base)
        assert torch.equal(model(input_ids=IDS).logits, before)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(1, TOKENS, IN, dtype=dtype, requires_grad=True)
    starts = 4 * RANK * 2 * IN  # A0 and B0, which are no parameters; float32, as is x Aᵀ
    assert saved(layer, x) == dtype.itemsize * TOKENS * IN + 4 * TOKENS * RANK + starts


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_norms_of_dora_are_those_of_the_whole_rows(kind, scale):
    _, layer = wrapped(kind, torch.float64, torch.float64, use_dora=True)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    dense = layer.get_base_layer().weight if kind == "linear" else layer.get_base_layer().weight.T
    expected = (dense + scale * b @ a).norm(dim=1)
    torch.testing.assert_close(row_norms(dense, a, b, scale), expected, rtol=1e-12, atol=0)


def test_dora_changes_nothing_when_it_is_attached():
    """In bfloat16, too: the norms are taken in float32, in which the factor is 1 to rounding."""
    base = tiny_model("llama").to(torch.bfloat16)
    with torch.no_grad():
        before = base(input_ids=IDS).logits
        after = adapter_of("dora", rank=4).attach(base)(input_ids=IDS).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["linear", "no_bias", "conv1d"])
def test_gradients_agree_with_finite_differences(kind):
    _, layer = wrapped(kind, torch.float64, torch.float64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(2, 3, IN, dtype=torch.float64, requires_grad=True)
    assert is_fused(layer(x))
    assert torch.autograd.gradcheck(lambda *_: layer(x), (x, a, b))


def exact(kind, **config):
    """The truth in float64 over the weights that the layer really has."""
    model, layer = wrapped(kind, torch.bfloat16, **config)
    base = layer.get_base_layer()
    plain = copy.deepcopy(base)
    if kind in FEW_BITS:
        plain = nn.Linear(layer.in_features, OUT)
        plain.weight.data, plain.bias.data = dequantised(base, torch.float32), base.bias.data
    with quiet_peft():
        truth = get_peft_model(nn.ModuleDict({"only": plain}), model.peft_config["default"])
    truth.load_state_dict({n: p for n, p in model.state_dict().items() if "lora_" in n}, strict=False)
    truth.double()
    return passes(truth, truth.base_model.model["only"], torch.float64)


@pytest.mark.parametrize("config", [{}, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_errs_little_more_than_peft(kind, config):
    """PEFT multiplies A and B in float32; here they are rounded like all else, as under autocast.

    Where the adapter says as much as the base this makes the error of the output half as large again at most:
    DoRA's scaled weights are rounded, too. The adapter's own gradients are rounded once at the end, by less
    than one part in 256.
    """
    truth = exact(kind, **config)
    model, layer = wrapped(kind, torch.bfloat16, **config)
    fused = passes(model, layer, torch.bfloat16)
    unfuse(model)
    plain = passes(model, layer, torch.bfloat16)
    for name in ("y", "x"):
        assert distance(fused[name], truth[name]) < 1.5 * distance(plain[name], truth[name]), name
    for name in set(truth) - {"y", "x"}:
        assert fused[name].dtype == torch.float32
        assert distance(fused[name], truth[name]) < 2**-8, name


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_whole_models_agree_with_peft(family):
    plain, fused = whole(family, False), whole(family, True)
    assert all(distance(fused[name], value) < 1e-5 for name, value in plain.items())
    assert distance(*(torch.cat([v.flatten() for v in found.values()]) for found in (fused, plain))) < 1e-6


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_whole_models_in_bfloat16_err_little_more_than_peft(family):
    """With adapters far larger than training makes them; ``benchmarks/lora_layers.py`` shows a real model."""
    truth, plain, fused = (
        torch.cat([v.flatten() for v in whole(family, *how).values()])
        for how in ((False,), (False, torch.bfloat16), (True, torch.bfloat16))
    )
    assert distance(fused, truth) < 1.6 * distance(plain, truth)


def whole(family, fused, dtype=torch.float32):
    """Logits and gradients of a randomised adapter, by name; the base's weights fit into bfloat16."""
    torch.manual_seed(1)
    base = tiny_model(family).to(torch.bfloat16).to(dtype)
    model = adapter_of("lora", rank=4, alpha=12).attach(base)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    if not fused:
        unfuse(model)
    out = model(input_ids=IDS).logits.float()
    out.square().mean().backward()
    return {"logits": out.detach(), **{name: p.grad for name, p in trainable(model).items()}}


# --- PEFT's own forward where it does more


@pytest.mark.parametrize(
    "config",
    [
        {"lora_dropout": 0.1},
        {"use_dora": True, "lora_dropout": 0.1},
        {"lora_bias": True},
        {"alora_invocation_tokens": [1, 2]},
    ],
    ids=lambda config: next(iter(config)),
)
def test_more_than_plain_lora_is_left_to_peft(config):
    model, layer = wrapped(fused=False, **config)
    before = passes_seeded(model, layer)
    assert fuse(model) == 0
    assert not is_fused(layer(inputs()[0]))
    after = passes_seeded(model, layer)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def passes_seeded(model, layer):
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return passes(model, layer)


def test_every_plain_layer_is_fused_and_none_with_dropout():
    model = adapter_of("lora", rank=2).attach(tiny_model("llama"))
    assert sum("forward" in module.__dict__ for module in model.modules()) == 14  # 7 linear layers x 2
    assert fuse(model) == 14
    unfuse(model)
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert fuse(adapter_of("lora", rank=2, dropout=0.1).attach(tiny_model("llama"))) == 0


def test_adapters_come_go_merge_and_mix_as_in_peft():
    """The same story is told to a fused and a plain model; after each step they say the same."""
    ours, plain = wrapped(), wrapped(fused=False)
    x = inputs()[0]

    def step(act, fused):
        for model, layer in (ours, plain):
            act(model, layer)
        found, expected = ours[1](x), plain[1](x)
        assert is_fused(found) == fused
        assert distance(found, expected) < 1e-6
        return found

    def second(model, layer):
        with quiet_peft():
            model.add_adapter("b", LoraConfig(r=2, target_modules=["only"]))
        torch.manual_seed(5)
        randomise(model)

    first = step(lambda model, layer: None, fused=True)
    both_there = step(second, fused=True)
    assert distance(both_there, first) > 0.01  # randomise gave the first one new weights, too
    of_b = step(lambda model, layer: model.set_adapter("b"), fused=True)
    assert distance(of_b, both_there) > 0.01
    together = step(lambda model, layer: model.base_model.set_adapter(["default", "b"]), fused=False)
    assert distance(together, of_b) > 0.01
    step(lambda model, layer: model.set_adapter("default"), fused=True)
    mixed, expected = (layer(x, adapter_names=["default", "b", "__base__"]) for _, layer in (ours, plain))
    assert distance(mixed, expected) < 1e-6
    assert distance(mixed[1], of_b[1]) < 1e-6
    assert torch.equal(mixed[2], ours[1].get_base_layer()(x)[2])
    step(lambda model, layer: model.base_model.disable_adapter_layers(), fused=False)
    step(lambda model, layer: model.base_model.enable_adapter_layers(), fused=True)
    step(lambda model, layer: layer.scale_layer(3.0), fused=True)
    step(lambda model, layer: layer.merge(), fused=False)
    step(lambda model, layer: layer.unmerge(), fused=True)
    step(lambda model, layer: model.set_adapter("b"), fused=True)
    step(lambda model, layer: model.delete_adapter("default"), fused=True)
    step(lambda model, layer: model.delete_adapter("b"), fused=False)


def test_a_base_that_trains_gets_its_gradients():
    model, layer = wrapped(bias="all")
    assert not is_fused(layer(inputs()[0]))
    g = inputs()[1]
    bias = layer.get_base_layer().bias
    torch.testing.assert_close(passes(model, layer)["base_model.model.only.base_layer.bias"], g.sum((0, 1)))
    bias.requires_grad_(False)
    assert is_fused(layer(inputs()[0]))
    layer.get_base_layer().weight.requires_grad_(True)
    assert passes(model, layer)["base_model.model.only.base_layer.weight"].abs().max() > 0


def test_whoever_watches_a_layer_is_called():
    _, layer = wrapped()
    seen = []
    for watched in (layer.get_base_layer(), layer.lora_A["default"], layer.lora_B["default"]):
        assert is_fused(layer(inputs()[0]))
        handle = watched.register_forward_hook(lambda module, given, result: seen.append(module))
        assert not is_fused(layer(inputs()[0]))
        handle.remove()
    assert len(seen) == 3
    base = layer.get_base_layer()
    base.forward = functools.partial(type(base).forward, base)
    assert not is_fused(layer(inputs()[0]))


def test_a_forward_put_in_by_others_is_left_alone():
    model, layer = wrapped(fused=False)
    others = functools.partial(type(layer).forward, layer)
    layer.forward = others
    assert fuse(model) == 0
    unfuse(model)
    assert layer.forward is others


def test_a_weight_of_a_class_of_its_own_is_left_to_peft():
    class Sharded(torch.Tensor):
        pass

    _, layer = wrapped()
    base, x = layer.get_base_layer(), inputs()[0]
    expected = layer(x)
    base.weight = nn.Parameter(base.weight.data.as_subclass(Sharded), requires_grad=False)
    assert not is_fused(layer(x))
    assert distance(layer(x).as_subclass(torch.Tensor), expected) < 1e-6


def test_peft_told_not_to_cast_is_left_alone():
    model, layer = wrapped()
    with disable_input_dtype_casting(model):
        assert not is_fused(layer(inputs()[0]))
    assert is_fused(layer(inputs()[0]))


@FOUR_BIT
def test_a_4_bit_layer_that_computes_in_another_format_than_its_input_is_left_to_peft():
    """PEFT then multiplies the adapter in the format of the input, and only the base in the narrower one."""
    model, layer = wrapped("nf4", torch.bfloat16)
    y = layer(inputs()[0])
    assert not is_fused(y)
    unfuse(model)
    assert y.dtype == torch.float32 and torch.equal(y, layer(inputs()[0]))


@pytest.mark.parametrize(("adapter", "base", "fused"), [
    (torch.float32, torch.float32, True),
    (torch.float32, torch.bfloat16, True),
    (torch.bfloat16, torch.bfloat16, True),
    (torch.bfloat16, torch.float32, False),
    (torch.float16, torch.bfloat16, False),
])  # fmt: skip
def test_an_adapter_narrower_than_its_base_is_left_to_peft(adapter, base, fused):
    model, layer = wrapped(dtype=base, adapter_dtype=adapter)
    x = inputs(base)[0]
    y = layer(x)
    assert is_fused(y) == fused
    unfuse(model)
    assert y.dtype == base and distance(y, layer(x)) < (2**-7 if base == torch.bfloat16 else 1e-6)


# --- in company


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "no_bias", "conv1d"])
def test_under_autocast_it_is_what_autocast_makes_of_peft(kind, base):
    model, layer = wrapped(kind, base)

    def run():
        x, g = inputs()  # float32, as a float32 norm hands it on
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        y.backward(g.to(y.dtype))
        return y, [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]

    y, found = run()
    assert y.dtype == torch.bfloat16
    unfuse(model)
    expected_y, expected = run()
    assert expected_y.dtype == y.dtype and distance(y, expected_y) < 2**-8
    assert len(found) == len(expected) == 3
    assert [v.dtype for v in found] == [v.dtype for v in expected] == [torch.float32] * 3
    assert all(distance(f, e) < 2**-7 for f, e in zip(found, expected, strict=True))


def test_autocast_around_the_backward_pass_alone_changes_nothing():
    model, layer = wrapped()
    expected = passes(model, layer)
    x, g = inputs()
    model.zero_grad()
    y = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y.backward(g)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None} | {"x": x.grad}
    assert len(found) == 3 and all(torch.equal(value, expected[name]) for name, value in found.items())


@FOUR_BIT
def test_a_4_bit_layer_under_autocast_answers_in_the_format_it_was_asked_in():
    model, layer = wrapped("nf4", torch.bfloat16)
    x = inputs()[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert type(y.grad_fn.next_functions[0][0]).__name__ == "LoraProductBackward"
        unfuse(model)
        expected = layer(x)
    assert y.dtype == expected.dtype == torch.float32
    assert distance(y, expected) < 2**-8


def test_beside_float32_weights_that_train_the_packed_pass_is_pefts():
    """Then ``ModelForward`` computes under autocast, and the norms hand float32 on."""

    def gradients(fused, compute=torch.bfloat16):
        model = adapter_of("lora", rank=4).attach(tiny_model("llama", 60))
        torch.manual_seed(2)
        randomise(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or "norm" in name)
        if not fused:
            unfuse(model)
        forward = ModelForward(model, compute=compute)
        batch = build_batch(rows(3))
        forward.logprobs(batch).sum().backward()
        return {name: p.grad for name, p in trainable(model).items()}

    fused, plain = gradients(True), gradients(False)
    truth = gradients(False, torch.float32)
    assert sum("norm" in name for name in fused) == 5
    assert all(v.dtype == torch.float32 for v in fused.values())
    flat = [torch.cat([v.flatten() for v in each.values()]) for each in (fused, plain, truth)]
    assert distance(flat[0], flat[2]) < 1.1 * distance(flat[1], flat[2]) < 0.05


@pytest.mark.parametrize(
    "kind", ["linear", *(pytest.param(k, marks=FOUR_BIT) for k in ("nf4_double", "int8"))]
)
def test_activation_checkpointing_changes_no_bit(kind):
    model, layer = wrapped(kind, torch.bfloat16)
    expected = passes(model, layer, torch.bfloat16)
    again = functools.partial(checkpoint, layer, use_reentrant=False)
    found = passes(model, again, torch.bfloat16)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_only_what_trains_gets_a_gradient():
    model, layer = wrapped()
    layer.lora_A["default"].weight.requires_grad_(False)
    assert set(passes(model, layer)) == {"y", "x", "base_model.model.only.lora_B.default.weight"}
    y = layer(inputs()[0].detach())
    y.sum().backward()
    with torch.no_grad():
        assert layer(inputs()[0]).grad_fn is None


def test_a_second_derivative_is_refused_rather_than_wrong():
    _, layer = wrapped()
    x = inputs()[0]
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_copied_model_keeps_its_own_weights():
    model, layer = wrapped()
    twin = copy.deepcopy(model)
    x = inputs()[0]
    expected = layer(x)
    randomise(model)
    assert torch.equal(twin.base_model.model["only"](x), expected)
    assert is_fused(twin.base_model.model["only"](x))
    assert not torch.equal(layer(x), expected)


# --- 4-bit weights


@FOUR_BIT
@pytest.mark.parametrize("kind", ["int8", "nf4_cut"])
def test_what_bitsandbytes_does_not_multiply_densely_is_left_to_peft(kind):
    """In 8 bits it rounds the input, too, and in 4 its scales may be off: ``settle`` mends both."""
    _, layer = wrapped(kind, torch.bfloat16)
    x = inputs(torch.bfloat16, layer.in_features)[0]
    assert is_fused(layer(x))
    del layer.get_base_layer().__dict__["forward"]
    assert not is_fused(layer(x))


@FOUR_BIT
@pytest.mark.parametrize("kind", ["nf4_settled", "nf4_cut", "int8"])
def test_an_answer_of_the_base_changes_nothing(kind):
    """Left to itself bitsandbytes stores 4 bits anew then, with coarser scales and no backward pass."""
    model, layer = wrapped(kind, torch.bfloat16)
    before = passes(model, layer, torch.bfloat16)
    model.eval()
    with torch.no_grad(), model.disable_adapter():
        layer(inputs(torch.bfloat16, layer.in_features)[0].detach())
    model.train()
    after = passes(model, layer, torch.bfloat16)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@FOUR_BIT
@pytest.mark.parametrize("kind", FEW_BITS)
def test_a_dense_weight_lives_no_longer_than_its_product(kind, monkeypatch):
    _, layer = wrapped(kind, torch.bfloat16)
    real, made = fused_product.dequantised, []

    def watched(*args):
        dense = real(*args)
        made.append(weakref.ref(dense))
        return dense

    monkeypatch.setattr(fused_product, "dequantised", watched)
    y = layer(inputs(torch.bfloat16, layer.in_features)[0])
    assert [ref() for ref in made] == [None]
    y.sum().backward()
    assert [ref() for ref in made] == [None, None]


@FOUR_BIT
def test_a_4_bit_weight_that_lost_its_gradient_is_refused():
    _, layer = wrapped("nf4", torch.bfloat16)
    layer.get_base_layer().weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match="load the model with tunewright"):
        layer(inputs(torch.bfloat16)[0])


# --- memory


def saved(layer, x):
    """Bytes kept for the backward pass, weights aside; each stretch of memory counts once."""
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, or its address may be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert y.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("kind", KINDS)
def test_only_x_and_its_product_with_a_are_kept(kind):
    model, layer = wrapped(kind, torch.bfloat16)
    width = layer.in_features
    x = inputs(torch.bfloat16, width)[0]
    assert saved(layer, x) == 2 * TOKENS * (width + RANK)  # bfloat16
    unfuse(model)
    assert saved(layer, x) >= 4 * TOKENS * (width + RANK)  # PEFT keeps both in float32


def test_layers_of_one_input_keep_it_once():
    model = adapter_of("lora", rank=RANK).attach(tiny_model("llama").to(torch.bfloat16))
    attention = model.get_base_model().model.layers[0].self_attn
    x = torch.randn(1, TOKENS, IN, dtype=torch.bfloat16, requires_grad=True)
    both = nn.ModuleList([attention.q_proj, attention.k_proj, attention.v_proj])
    together = _Together(both)
    assert saved(together, x) == 2 * TOKENS * (IN + 3 * RANK)
    unfuse(model)
    assert saved(together, x) >= 4 * TOKENS * 3 * (IN + RANK)


class _Together(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


def test_a_job_learns_the_same_with_and_without():
    """Two updates through the packed path; float32, so that only the order of sums differs."""
    ours, plain = (
        job(rows(6), adapter=adapter_of("lora", rank=4)),
        job(rows(6), adapter=adapter_of("lora", rank=4)),
    )
    unfuse(plain.model)
    for each in (ours, plain):
        optimizer = torch.optim.SGD(trainable(each.model).values(), lr=0.5)
        for _ in range(2):
            loss = -each.forward.logprobs(build_batch(rows(3))).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    moved = 0.0
    for (name, found), expected in zip(
        trainable(ours.model).items(), trainable(plain.model).values(), strict=True
    ):
        assert (found - expected).abs().max() < 1e-6, name
        moved = max(moved, float(found.detach().abs().max()) if "lora_B" in name else 0.0)
    assert moved > 0.01
