"""The compiled kernels against plain mathematics, and what happens where they cannot be had."""

import shutil

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import tiny_model
from tunewright.core.errors import ConfigError
from tunewright.engine.ghost import Ledger
from tunewright.models.forward import ModelForward
from tunewright.models.fused_layers import _Glu, _Norm, fuse_layers
from tunewright.models.native import build, ops

FORMATS = [torch.float32, torch.bfloat16]
NEAR = {torch.float32: {"rtol": 2e-5, "atol": 2e-6}, torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2}}
HERE = any(map(shutil.which, build.COMPILERS))
compiled = pytest.mark.skipif(not HERE, reason="no C++ compiler")


@compiled
def test_what_has_a_compiler_has_kernels():
    assert build.kernels().library is not None, build.kernels().reason


def drawn(*shape, dtype=torch.float32, seed=0, scale=2.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def near(ours, exact):
    assert ours.shape == exact.shape
    torch.testing.assert_close(ours.double(), exact.double(), **NEAR[ours.dtype])


def slopes_of(function, given, grad):
    """Gradients in float64 of what is ``given`` in any format."""
    wide = [x.detach().double().requires_grad_() for x in given]
    return torch.autograd.grad((function(*wide) * grad.double()).sum(), wide)


@compiled
@pytest.mark.parametrize("width", [1, 15, 16, 50])
@pytest.mark.parametrize("rows", [1, 3, 130])
@pytest.mark.parametrize("x_format", FORMATS)
@pytest.mark.parametrize("w_format", FORMATS)
@pytest.mark.parametrize("plus, late", [(0.0, False), (0.0, True), (1.0, True)])
def test_norm(rows, width, x_format, w_format, plus, late):
    x = drawn(rows, width, dtype=x_format).requires_grad_()
    w = drawn(width, dtype=w_format, seed=1).requires_grad_()

    def exact(x, w):
        return (plus + w) * x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()

    y = _Norm.apply(x, w, 1e-5, plus, late)
    assert y.dtype == torch.promote_types(x_format, w_format)
    grad = drawn(rows, width, dtype=y.dtype, seed=2)
    d_x, d_w = torch.autograd.grad(y, (x, w), grad)
    e_x, e_w = slopes_of(exact, (x, w), grad)
    loose = torch.bfloat16 in (x_format, w_format)
    for ours, truth in ((y, exact(x.double(), w.double())), (d_x, e_x), (d_w, e_w)):
        size = max(truth.abs().max().item(), 0.05)  # width 1 has the slope nought, but for rounding
        assert (ours.double() - truth).abs().max() <= (2e-2 if loose else 1e-5) * size


@compiled
@pytest.mark.parametrize("count", [1, 16, 1023, 1024, 2049])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", ops.GATES)
def test_gated_layer(count, dtype, kind):
    gate, up = (drawn(count, dtype=dtype, seed=n, scale=3.0).requires_grad_() for n in (0, 1))
    grad = drawn(count, dtype=dtype, seed=2)

    def exact(gate, up):
        return (F.silu(gate) if kind == "silu" else F.gelu(gate, approximate="tanh")) * up

    y = _Glu.apply(gate, up, kind)
    for ours, truth in (
        (y, exact(gate.double(), up.double())),
        *zip(torch.autograd.grad(y, (gate, up), grad), slopes_of(exact, (gate, up), grad), strict=True),
    ):
        torch.testing.assert_close(
            ours.double(), truth, **NEAR[dtype] | {"atol": 5e-6 if dtype == torch.float32 else 2e-2}
        )


@compiled
def test_gates_far_from_zero_stay_finite_and_what_is_no_number_stays_none():
    gate = torch.tensor([-1e4, -200.0, -88.0, 88.0, 1e4, float("nan"), float("inf")])
    y = ops.glu_forward(gate, torch.ones(7), "silu")
    assert y[:2].abs().max() < 1e-30 and y[3:5].tolist() == [88.0, 1e4]
    assert y[5].isnan() and y[6].isinf()
    narrow = ops.glu_forward(gate.bfloat16(), torch.ones(7).bfloat16(), "silu")
    assert narrow[5].isnan() and narrow[6].isinf()


@compiled
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 4, 40])
@pytest.mark.parametrize("queries, keys, ahead", [(1, 1, 0), (5, 9, 4), (16, 48, 30), (33, 40, 3)])
@pytest.mark.parametrize("dtype", FORMATS)
def test_softmax_of_what_a_query_sees(queries, keys, ahead, window, softcap, dtype):
    scores = drawn(3, queries, keys, dtype=dtype)
    d_weights = drawn(3, queries, keys, dtype=dtype, seed=1)
    distance = torch.arange(ahead, ahead + queries)[:, None] - torch.arange(keys)
    hidden = (distance < 0) | (distance >= (window or keys + ahead))

    def exact(scores):
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        return scores.masked_fill(hidden, -torch.inf)

    weights = exact(scores.double()).softmax(-1)
    [slopes] = slopes_of(lambda s: exact(s).softmax(-1), (scores,), d_weights)
    within = (weights * d_weights.double()).sum(-1).float()
    own, again, d_scores = scores.clone(), scores.clone(), d_weights.clone()
    norms = ops.softmax_(own, ahead, window, softcap)
    near(own, weights)
    torch.testing.assert_close(norms, exact(scores.double()).logsumexp(-1).float(), rtol=1e-5, atol=1e-5)
    assert (own[..., hidden] == 0).all()
    ops.softmax_backward_(again, d_scores, norms, within, ahead, window, softcap)
    near(again, weights)
    near(d_scores, slopes)


@compiled
@pytest.mark.parametrize("scale, softcap", [(1.0, None), (0.25, None), (2.0, 5.0)])
@pytest.mark.parametrize("width", [2, 16, 77])
@pytest.mark.parametrize("dtype", FORMATS)
def test_chosen_log_probabilities(scale, softcap, width, dtype):
    logits, ids = drawn(9, width, dtype=dtype), torch.arange(9) % width
    factors = torch.linspace(-1, 2, 9)

    def exact(logits):
        x = logits * scale
        x = x if softcap is None else softcap * torch.tanh(x / softcap)
        return x.log_softmax(-1).gather(1, ids[:, None])[:, 0]

    own = logits.clone()
    chosen = ops.choose_(own, ids, scale, softcap, factors)
    torch.testing.assert_close(chosen, exact(logits.double()).float(), rtol=1e-5, atol=1e-5)
    near(own, slopes_of(exact, (logits,), -factors)[0] / scale)
    left = logits.clone()
    assert ops.choose_(left, ids, scale, softcap, None).equal(chosen)
    assert left.dtype == logits.dtype


@compiled
def test_a_token_that_does_not_exist_has_no_probability():
    chosen = ops.choose_(drawn(3, 5), torch.tensor([-1, 2, 5]), 1.0, None, torch.ones(3))
    assert chosen.isnan().tolist() == [True, False, True]


@compiled
def test_the_number_of_threads_changes_no_bit():
    x, w, grad = drawn(300, 64), drawn(64, seed=1), drawn(300, 64, seed=2)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y, inverse = ops.rms_forward(x, w, 1e-6, 0.0, False)
        found.append([y, *ops.rms_backward(grad, x, w, inverse, 0.0, True)])
    torch.set_num_threads(before)
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


@compiled
@pytest.mark.parametrize("family, layers", [("llama", 7), ("qwen2", 7), ("mistral", 7), ("gemma2", 11)])
def test_norms_and_gated_layers_of_families_are_fused_and_give_the_same(family, layers):
    """Two layers: in each two norms (Gemma 2: four) and a feed-forward layer, and a norm at the end."""
    model = tiny_model(family).eval()
    ids = torch.arange(3, 20)[None]
    ends = []
    for fused in (False, True):
        if fused:
            assert fuse_layers(model) == layers == fuse_layers(model)
        model.zero_grad()
        out = model(input_ids=ids, use_cache=False).logits
        out.square().mean().backward()
        ends.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
    for plain, ours in zip(*ends, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


@compiled
def test_a_feed_forward_layer_that_computes_something_else_is_left_alone(monkeypatch):
    model = tiny_model("llama")
    kind = type(model.model.layers[0].mlp)
    monkeypatch.setattr(kind, "forward", lambda self, x: self.down_proj(self.gate_proj(x) + self.up_proj(x)))
    assert fuse_layers(model) == 5  # the norms


@compiled
def test_a_forward_that_somebody_else_replaced_is_left_alone():
    model = tiny_model("llama")
    layer = model.model.norm
    layer.forward = mine = lambda x: x
    fuse_layers(model)
    assert layer.forward is mine


@pytest.fixture
def unbuilt(tmp_path, monkeypatch):
    """As on a machine that never compiled anything."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path))
    build.kernels.cache_clear()
    yield tmp_path
    build.kernels.cache_clear()


@compiled
def test_compiled_once_and_kept(unbuilt, monkeypatch):
    assert build.kernels().library is not None, build.kernels().reason
    [kept] = (unbuilt / "kernels").iterdir()
    build.kernels.cache_clear()
    monkeypatch.setattr(build, "_output", lambda command: "the same" if "--version" in command else 1 / 0)
    monkeypatch.setattr(build, "_cpu", lambda: "another")
    with pytest.raises(ZeroDivisionError):  # another CPU needs its own
        build.kernels()
    assert kept.exists()


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_torch_does_the_work_and_it_is_said_why(unbuilt, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    assert build.kernels().library is None and "plain PyTorch" in build.kernels().reason
    assert not ops.known(torch.ones(2))
    model = tiny_model("llama")
    assert fuse_layers(model) == 0
    ModelForward(model)
    build.kernels.cache_clear()
    monkeypatch.setenv(build.SWITCH, "required")
    with pytest.raises(ConfigError, match="required"):
        build.kernels()


def test_switched_off(unbuilt, monkeypatch):
    monkeypatch.setenv(build.SWITCH, "off")
    assert build.kernels().library is None and "is off" in build.kernels().reason
    assert not (unbuilt / "kernels").exists()


def test_an_unknown_wish_is_refused(unbuilt, monkeypatch):
    monkeypatch.setenv(build.SWITCH, "maybe")
    with pytest.raises(ConfigError, match="'maybe'"):
        build.kernels()


@compiled
def test_memory_is_forecast_with_the_kernels_that_will_run():
    model, ids = tiny_model("llama"), torch.arange(3, 20)[None]
    fuse_layers(model)
    plain, peaks = tiny_model("llama"), []
    for each in (plain, model):
        ledger = Ledger("cpu")
        ledger.emptied(each)
        with ledger:
            each(input_ids=ids.expand(64, -1), use_cache=False).logits.sum().backward()
        peaks.append(ledger.peak["activations"])
    assert peaks[1] < 0.95 * peaks[0]
    fresh, ledger = tiny_model("llama"), Ledger("cpu")
    ledger.emptied(fresh)
    with ledger:
        assert fuse_layers(fresh) == 7


@compiled
def test_a_compiler_of_c_will_do(unbuilt, monkeypatch):
    """One of PEFT's methods puts gcc into the environment for everybody."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    monkeypatch.setenv("CXX", "gcc")
    found = build.kernels()
    assert found.library is not None, found.reason
