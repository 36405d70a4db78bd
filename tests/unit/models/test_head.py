"""The chunked head equals plain log-softmax, forward and backward, in every form a family uses."""

import pytest
import torch
from torch.autograd import gradcheck

from tunewright.models import head as module
from tunewright.models.head import Head

FORMS = [{}, {"scale": 0.25}, {"softcap": 3.0}, {"scale": 2.0, "softcap": 5.0}]


def _tensors(dtype=torch.float32, bias=False):
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 5, dtype=dtype, requires_grad=True)
    offset = torch.randn(11, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, offset, torch.tensor([0, 3, 10, 3, 7, 1, 0])


def _reference(hidden, weight, bias, ids, scale=1.0, softcap=None):
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize("rests", [False, True])
def test_equals_log_softmax_in_value_and_gradient(form, bias, chunk_rows, rests, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": chunk_rows * 4 * 11})
    hidden, weight, offset, ids = _tensors(bias=bias)
    inputs = [t for t in (hidden, weight, offset) if t is not None]
    if rests:
        weight, offset = weight.detach(), None if offset is None else offset.detach()
        inputs = [hidden]
    upstream = torch.linspace(-1, 2, 7)
    ours = Head(weight, offset, **form).logprobs(hidden, ids)
    expected = _reference(hidden, weight, offset, ids, **form)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    got = torch.autograd.grad((ours * upstream).sum(), inputs)
    wanted = torch.autograd.grad((expected * upstream).sum(), inputs)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_three_worked_numbers():
    # logits (0, ln 3): p = (1/4, 3/4); logits (ln 2, 0): p = (2/3, 1/3)
    hidden = torch.tensor([[0.0, 1.0986123], [0.0, 1.0986123], [0.6931472, 0.0]])
    logp = Head(torch.eye(2)).logprobs(hidden, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(logp, torch.tensor([0.25, 0.75, 2 / 3]).log())


def test_gradient_by_finite_differences():
    hidden, weight, _, ids = _tensors(torch.float64)
    # The head computes in float32, so the step is large and the tolerance wide.
    assert gradcheck(
        lambda h: Head(weight.detach(), softcap=4.0).logprobs(h, ids),
        (hidden,),
        eps=1e-2,
        atol=2e-3,
        rtol=2e-2,
    )


def test_never_more_than_a_chunk_of_logits(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": 2 * 4 * 11})
    seen = []
    plain = module._Space.chosen
    monkeypatch.setattr(module._Space, "chosen", lambda *a: seen.append(len(a[1])) or plain(*a))
    hidden, weight, _, ids = _tensors()
    Head(weight).logprobs(hidden, ids).sum().backward()
    assert max(seen) == 2 and sum(seen) == 14


def test_logits_of_a_head_that_rests_are_computed_once(monkeypatch):
    seen = []
    plain = module._Space.chosen
    monkeypatch.setattr(module._Space, "chosen", lambda *a: seen.append(len(a[1])) or plain(*a))
    hidden, weight, _, ids = _tensors()
    Head(weight.detach()).logprobs(hidden, ids).sum().backward()
    assert sum(seen) == 7
