"""Attention in blocks of queries against one softmax over everything."""

import pytest
import torch

from tunewright.models import blocked
from tunewright.models.blocked import blocked_attention


def drawn(queries, keys, heads=6, shared=2, batch=1, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((batch, heads, queries, 8), (batch, shared, keys, 8), (batch, shared, keys, 8))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def by_the_book(q, k, v, scale, window, softcap):
    keys, queries = k.shape[2], q.shape[2]
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(2, 3) * scale
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    hidden = (distance < 0) | (distance >= (window or keys))
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 5, 70])
@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 9), (17, 17), (64, 64), (65, 100), (150, 150)])
def test_values_and_gradients_equal_those_of_one_softmax(queries, keys, window, softcap):
    given = drawn(queries, keys, batch=2)
    ends = []
    for way in (by_the_book, blocked_attention):
        out = way(*given, 0.3, window, softcap)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        ends.append([out, *torch.autograd.grad((out * weight).sum(), given)])
    for got, expected in zip(ends[1], ends[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window, softcap", [(None, None), (3, None), (None, 2.0)])
def test_the_slope_is_that_of_finite_differences(window, softcap, monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK", 4)
    monkeypatch.setattr(blocked, "WHOLE", 4)
    given = drawn(7, 10, heads=2, shared=1)
    assert torch.autograd.gradcheck(lambda *x: blocked_attention(*x, 0.4, window, softcap), given)


def test_bfloat16_is_as_near_to_the_truth_as_one_softmax_in_bfloat16():
    given = drawn(200, 200)
    narrow = [t.detach().bfloat16().requires_grad_() for t in given]
    truth, plain, ours = (
        way(*tensors, 0.3, None, None).double()
        for way, tensors in ((by_the_book, given), (by_the_book, narrow), (blocked_attention, narrow))
    )
    assert (ours - truth).abs().mean() <= (plain - truth).abs().mean()
    grads = []
    for tensors, way in ((given, by_the_book), (narrow, by_the_book), (narrow, blocked_attention)):
        out = way(*tensors, 0.3, None, None)
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        grads.append([g.double() for g in torch.autograd.grad((out * weight).sum(), tensors)])
    for truth, plain, ours in zip(*grads, strict=True):
        assert (ours - truth).abs().mean() <= 1.25 * (plain - truth).abs().mean()


def test_under_autocast_the_products_of_both_passes_are_in_its_format():
    given = drawn(130, 130, dtype=torch.float32)
    narrow = [t.detach().bfloat16().requires_grad_() for t in given]
    with torch.autocast("cpu", torch.bfloat16):
        out = blocked_attention(*given[:2], given[2].bfloat16(), 0.3, None, None)
    expected = blocked_attention(*narrow, 0.3, None, None)
    assert out.dtype == torch.bfloat16 and torch.equal(out, expected)
    for got, wanted in zip(
        torch.autograd.grad(out.sum(), given), torch.autograd.grad(expected.sum(), narrow), strict=True
    ):
        assert got.dtype == torch.float32 and torch.equal(got, wanted.float())


def test_no_weights_are_kept_for_the_backward_pass():
    kept = []

    def seen(tensor):
        kept.append(tensor.numel())
        return tensor

    given = drawn(512, 512)
    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        blocked_attention(*given, 0.3, None, None)
    assert sum(kept) < 4 * given[0].numel() < 512 * 512
