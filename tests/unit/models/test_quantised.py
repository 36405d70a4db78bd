"""Bases in 4 and 8 bits: what is stored, what it stands for, how it computes, what it refuses."""

import json
import logging

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config
from transformers.pytorch_utils import Conv1D

from tests.contract.small import save_small_model
from tests.tiny import tiny_tokenizer
from tunewright.core.errors import ModelError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models import quantised
from tunewright.models.causal import number_of_parameters
from tunewright.models.changes import Changes, Quantise
from tunewright.models.fingerprint import fingerprint
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.quantised import bits_of, contents, dequantise, dequantised, is_quantised

functional = pytest.importorskip("bitsandbytes.functional")
from bitsandbytes.nn import Linear4bit, Linear8bitLt  # noqa: E402

HOWS = {
    "nf4": Quantise(),
    "nf4 single": Quantise(double=False),
    "fp4": Quantise(format="fp4"),
    "8 bits": Quantise(bits=8),
}
IDS = torch.arange(3, 35)[None]
# The 16 values of NF4 in appendix E of the paper, to seven digits.
APPENDIX = (
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("quantised") / "tiny")


def base(folder, how=HOWS["nf4"], dtype="float32"):
    return load(str(folder), device="cpu", dtype=dtype, changes=Changes(quantise=how)).model


def layers(model):
    return {name: module for name, module in model.named_modules() if bits_of(module)}


def layer(how, shape=(512, 256), seed=0):
    """One layer of random weights, as bitsandbytes makes it; and the weights."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if how.bits == 8:
        made = Linear8bitLt(shape[1], shape[0], bias=False, has_fp16_weights=False)
    else:
        made = Linear4bit(
            shape[1], shape[0], bias=False, compress_statistics=how.double, quant_type=how.format
        )
    made.load_state_dict({"weight": weight.clone()})
    return made.to("cpu"), weight


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


# --- the numbers of the paper


def normal_float():
    """NF4 from its definition: quantiles of N(0, 1), 8 above 0, 7 below and 0 itself, over the largest.

    They lie evenly from 1/2 to 1 - (1/30 + 1/32) / 2: as far from the end as half a step of 15 or 16 bins.
    """
    end = 1 - (1 / 30 + 1 / 32) / 2
    above = norm.ppf(np.linspace(end, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    return np.sort(np.concatenate([above, below, [0.0]])) / above.max()


def nearest(values, table):
    return np.abs(values[..., None] - table).argmin(-1)


def test_the_values_of_nf4_are_the_quantiles_of_the_paper():
    np.testing.assert_allclose(normal_float(), APPENDIX, rtol=0, atol=3e-7)
    ours = functional.get_4bit_type("nf4", device="cpu").numpy()
    np.testing.assert_allclose(ours, normal_float(), rtol=0, atol=3e-7)


def test_nf4_is_the_nearest_quantile_times_the_largest_of_64():
    made, weight = layer(HOWS["nf4 single"])
    blocks = weight.numpy().reshape(-1, 64)
    scales = np.abs(blocks).max(1, keepdims=True)
    table = normal_float().astype(np.float32)
    expected = (table[nearest(blocks / scales, table)] * scales).reshape(weight.shape)
    assert torch.equal(made.weight.quant_state.absmax, torch.tensor(scales[:, 0]))
    np.testing.assert_allclose(dequantised(made, torch.float32).numpy(), expected, rtol=0, atol=1e-6)


def test_double_quantisation_rounds_the_scales_in_blocks_of_256():
    made, weight = layer(HOWS["nf4"])
    single, _ = layer(HOWS["nf4 single"])
    scales = weight.reshape(-1, 64).abs().amax(1).numpy()
    mean = scales.mean()
    blocks = (scales - mean).reshape(-1, 256)
    largest = np.abs(blocks).max(1, keepdims=True)
    table = functional.create_dynamic_map().numpy()
    rounded = table[nearest(blocks / largest, table)] * largest + mean
    state = made.weight.quant_state
    assert (state.absmax.dtype, state.absmax.numel(), state.state2.absmax.numel()) == (torch.uint8, 2048, 8)
    found = (functional.dequantize_blockwise(state.absmax, state.state2) + state.offset).numpy()
    wrong, best = np.abs(found - scales), np.abs(rounded.reshape(-1) - scales)
    assert (wrong <= best + 2e-5).all()  # in the middle between two values either is nearest
    assert 0.001 < wrong.mean() < 0.01
    assert torch.equal(made.weight.data, single.weight.data)  # the scales alone are rounded
    ratio = dequantised(made, torch.float32) / dequantised(single, torch.float32)
    np.testing.assert_allclose(ratio.nanmean(1).numpy(), 1.0, atol=0.01)


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantised_is_what_bitsandbytes_says(how, dtype):
    made, weight = layer(how)
    if how.bits == 8:
        expected = functional.int8_vectorwise_dequant(made.weight.data, made.weight.SCB)
        assert float((expected - weight).abs().max()) < float(weight.abs().max()) / 127
    else:
        expected = functional.dequantize_4bit(made.weight.data, made.weight.quant_state)
    found = dequantised(made, dtype)
    assert found.dtype == dtype and torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize(
    ("how", "bits"),
    [
        ("nf4", 4 + 8 / 64 + 32 / (64 * 256)),  # 4.127
        ("nf4 single", 4 + 32 / 64),  # 4.5: double quantisation saves 0.373
        ("fp4", 4 + 8 / 64 + 32 / (64 * 256)),
        ("8 bits", 8 + 32 / 1024),  # a scale for each row
    ],
)
def test_bits_of_each_parameter(how, bits):
    made, weight = layer(HOWS[how], (1024, 1024))
    stored = contents(made.weight)
    mean = 32 if HOWS[how].bits == 4 and HOWS[how].double else 0  # one number for the whole layer
    assert 8 * sum(t.nbytes for t in stored) - mean == bits * weight.numel()
    assert number_of_parameters(made) == weight.numel()


# --- a model that is read


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_linear_layers_alone_are_quantised(folder, how):
    model, plain = base(folder, how), load(str(folder), device="cpu", dtype="float32").model
    found = layers(model)
    assert len(found) == 14 and {bits_of(m) for m in found.values()} == {how.bits}
    assert torch.equal(model.lm_head.weight, plain.lm_head.weight)
    assert torch.equal(model.model.embed_tokens.weight, plain.model.embed_tokens.weight)
    for name, module in found.items():
        before, after = plain.get_submodule(name).weight, dequantised(module, torch.float32)
        apart = float(((after - before).norm() / before.norm()).detach())
        assert apart < (0.01 if how.bits == 8 else {"nf4": 0.1, "fp4": 0.13}[how.format]), name
    assert load(str(folder), changes=Changes(quantise=how)).parameters == number_of_parameters(plain)


@pytest.mark.parametrize(("how", "size"), [("nf4", 0.516), ("nf4 single", 0.5625), ("8 bits", 1.05)])
def test_bytes_of_each_linear_weight(folder, how, size):
    found = layers(base(folder, HOWS[how])).values()
    stored = sum(t.nbytes for m in found for t in contents(m.weight))
    # Two numbers a layer, its mean and the scale of its only block of scales, weigh more in so small a one.
    extra = 8 * len(found) if how == "nf4" else 0
    weights = sum(number_of_parameters(m) for m in found)
    assert (stored - extra) / weights == pytest.approx(size, abs=0.01)


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_a_file_gives_the_same_bits_whatever_the_format_of_computing(folder, how):
    exact, rounded = base(folder, how), base(folder, how, "bfloat16")
    for (name, one), other in zip(layers(exact).items(), layers(rounded).values(), strict=True):
        for a, b in zip(contents(one.weight), contents(other.weight), strict=True):
            assert torch.equal(a, b), name
    if how.bits == 4:  # what it is dequantised to in the backward pass
        assert {m.weight.quant_state.dtype for m in layers(rounded).values()} == {torch.bfloat16}
    assert rounded.lm_head.weight.dtype == rounded.model.norm.weight.dtype == torch.bfloat16
    assert logits(rounded).dtype == torch.bfloat16
    assert float((logits(rounded).float() - logits(exact)).abs().max()) < 0.02


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_and_evaluation_see_one_model(folder, how, dtype):
    model = base(folder, how, dtype)
    before = [t.clone() for m in layers(model).values() for t in contents(m.weight)]
    answers = logits(model.eval())
    assert torch.equal(logits(model.train()), answers)
    assert torch.equal(logits(dequantise(base(folder, how, dtype))), answers)
    after = [t for m in layers(model).values() for t in contents(m.weight)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_the_gradient_reaches_what_lies_below_after_an_evaluation(folder, how):
    found = []
    for model in (base(folder, how), dequantise(base(folder, how))):
        logits(model.eval())
        table = model.model.embed_tokens.weight.requires_grad_(True)
        model.train()(input_ids=IDS, use_cache=False).logits.logsumexp(-1).sum().backward()
        found.append(table.grad)
    assert float(found[1].abs().max()) > 0.1
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_an_answer_does_not_depend_on_what_else_is_read(folder, how):
    model = base(folder, how)
    batch = torch.cat([IDS, IDS.flip(1) * 7 % 420])
    torch.testing.assert_close(logits(model, batch)[:1], logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_one_token_at_a_time_is_the_packed_path(folder, how, dtype, apart):
    model = base(folder, how, dtype)
    cache, steps = None, []
    with torch.no_grad():
        for token in IDS[0]:
            out = model(input_ids=token[None, None], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits[0, 0].float())
        ids = IDS[0].tolist()
        forward = ModelForward(model, compute=getattr(torch, dtype))
        packed = forward.logprobs(build_batch([Tokens(ids, [0.0] + [1.0] * (len(ids) - 1))]))
    alone = torch.stack(steps)[:-1].log_softmax(-1).gather(1, IDS[0, 1:, None])[:, 0]
    assert not forward.plain
    torch.testing.assert_close(packed, alone, rtol=0, atol=apart)


@pytest.mark.parametrize("how", [HOWS["nf4"], HOWS["8 bits"]], ids=["nf4", "8 bits"])
def test_dequantised_models_are_plain_ones_on_disk(folder, tmp_path, how):
    model = dequantise(base(folder, how))
    assert not is_quantised(model)
    assert {type(m) for n, m in model.named_modules() if n.endswith("_proj")} == {nn.Linear}
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(base(folder, how)))


@pytest.mark.parametrize("how", [HOWS["nf4"], HOWS["8 bits"]], ids=["nf4", "8 bits"])
def test_conv1d_layers_turn_back(tmp_path, how):
    config = GPT2Config(vocab_size=420, n_embd=64, n_layer=1, n_head=4, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    model = base(tmp_path / "gpt2", how)
    answers = logits(model)
    assert len(layers(model)) == 4
    dequantise(model)
    assert type(model.transformer.h[0].attn.c_attn) is Conv1D
    assert torch.equal(logits(model), answers)
    model.save_pretrained(tmp_path / "plain")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")), answers)


def test_the_fingerprint_sees_the_scales(folder):
    model = base(folder)
    first = next(iter(layers(model).values())).weight
    known = fingerprint(model.config, contents(first))
    first.quant_state.state2.absmax *= 2
    assert fingerprint(model.config, contents(first)) != known


# --- what cannot be


def test_without_the_library_it_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs bitsandbytes: pip install 'tunewright\[quant\]'"):
        base(folder)


def test_few_bits_are_not_quantised_again(folder, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"x\.gguf is a \.gguf file and cannot be quantised"):
        base(tmp_path / "x.gguf")
    base(folder).save_pretrained(tmp_path / "stored")
    tiny_tokenizer().save_pretrained(tmp_path / "stored")
    with pytest.raises(ModelError, match="stored is stored in few bits and cannot be quantised"):
        base(tmp_path / "stored")


def test_a_model_that_was_stored_in_few_bits_answers(folder, tmp_path):
    for how in (HOWS["nf4"], HOWS["8 bits"]):
        model = base(folder, how)
        answers = logits(model)
        model.save_pretrained(tmp_path / str(how.bits))
        tiny_tokenizer().save_pretrained(tmp_path / str(how.bits))
        again = load(str(tmp_path / str(how.bits)), device="cpu", dtype="float32").model
        assert is_quantised(again)
        assert torch.equal(logits(again), answers)


def test_a_model_without_such_layers_is_refused(folder):
    plain = load(str(folder), device="cpu").model
    with pytest.raises(ModelError, match="LlamaForCausalLM has no linear layer for bitsandbytes"):
        quantised.settle(plain, torch.float32)


def test_nothing_is_said_about_kernels(caplog):
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.warning(
        "Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'"
    )
    log.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
