"""The kernels of a step of generation against plain mathematics, and answers with them and without."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.unit.models.test_generate import ids_of, make_prompts, sharp_model
from tests.unit.models.test_native import compiled, drawn
from tunewright.models import sampling as module
from tunewright.models.attention import _attend
from tunewright.models.generate import Sampling, generate
from tunewright.models.native import ops
from tunewright.models.native.decode import attend, pick
from tunewright.models.sampling import LARGEST_DRAW, choose

FORMATS = [torch.float32, torch.bfloat16]


def near(ours, exact):
    """To 10⁻⁵ of the largest number in float32, and to what bfloat16 keeps of it."""
    assert ours.shape == exact.shape
    size = max(1.0, float(exact.abs().max()))
    assert (ours.double() - exact).abs().max() < {torch.float32: 1e-5, torch.bfloat16: 1e-2}[
        ours.dtype
    ] * size


@compiled
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("common", [0, 21])
@pytest.mark.parametrize("asking", [1, 3])
@pytest.mark.parametrize("group, width", [(1, 20), (2, 16), (3, 64), (7, 32)])
def test_attention_of_few_queries(group, width, asking, common, softcap, dtype):
    """Four rows of two heads over 19 of 24 columns, some of them hidden, behind ``common`` others."""
    rows, heads, used = 4, 2, 19
    asked = drawn(rows, heads, group * asking, width, dtype=dtype, scale=0.3)
    k, v = (drawn(rows, heads, 24, width, dtype=dtype, seed=seed) for seed in (1, 2))
    first = drawn(heads, rows, group * asking, common, dtype=dtype, seed=3) if common else None
    seen = torch.ones(rows, asking, used, dtype=torch.bool).tril(used - asking)
    seen[1, :, :3] = False
    scores = asked.double() @ k[:, :, :used].double().transpose(2, 3)
    whole = scores if first is None else torch.cat([first.double().transpose(0, 1), scores], -1)
    whole = whole if softcap is None else softcap * torch.tanh(whole / softcap)
    whole[..., common:].unflatten(2, (group, asking)).masked_fill_(~seen[:, None, None], -torch.inf)
    weights = whole.softmax(-1)
    if first is not None and dtype == torch.float32:
        plain, before = _attend(asked, first, k, F.pad(v[:, :, :used], (0, 0, 0, 5)), used, seen, softcap)
        near(plain, weights[..., common:] @ v[:, :, :used].double())
        near(before, weights[..., :common].transpose(0, 1))
    out, before = attend(asked, first, k, v, used, seen, softcap)
    near(out, weights[..., common:] @ v[:, :, :used].double())
    if first is not None:
        near(before, weights[..., :common].transpose(0, 1))
    alone, _ = attend(asked[1:2], None, k[1:2], v[1:2], used, seen[1:2], softcap)
    other, _ = attend(asked, None, k, v, used, seen, softcap)
    assert torch.equal(other[1:2], alone)  # whatever rows are beside it


@compiled
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("width", [7, 256, 1000])
def test_tokens_and_logprobs_are_those_of_torch(monkeypatch, width, temperature, dtype):
    logits = drawn(30, width, dtype=dtype)
    logits[:, width // 3 : width // 2] = -torch.inf
    logits[0, -2:] = 20.0  # two alike: the first counts
    logits[0, 0] = -torch.inf
    draws = [0.0, LARGEST_DRAW, *torch.rand(28, generator=torch.Generator().manual_seed(1)).tolist()]
    sampling = Sampling(temperature=temperature)
    tokens, logprobs = choose(logits, draws, sampling)
    monkeypatch.setattr(ops, "known", lambda *_: False)
    plain, expected = choose(logits, draws, sampling)
    assert tokens.tolist() == plain.tolist()
    assert temperature or tokens[0] == width - 2
    assert logprobs.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@compiled
def test_what_is_not_finite_shows():
    logits = drawn(3, 300)
    logits[0, 5] = torch.nan
    logits[1] = -torch.inf
    for draws in (None, torch.full((3,), 0.5, dtype=torch.float64)):
        tokens, logprobs = pick(logits, draws, 1.0)
        assert logprobs.isfinite().tolist() == [False, False, True]
        assert all(0 <= token < 300 for token in tokens.tolist())


@compiled
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("prefix", [0, 40])
def test_answers_with_and_without_kernels(monkeypatch, prefix, family, temperature):
    model, prompts = sharp_model(family), make_prompts(prefix=prefix)
    calls = []
    monkeypatch.setattr(module, "pick", lambda *given: calls.append(given) or pick(*given))
    sampling = Sampling(max_new_tokens=12, temperature=temperature)
    fast = generate(model, prompts, sampling, batch_size=4)
    assert calls
    monkeypatch.setattr(ops, "known", lambda *_: False)
    plain = generate(model, prompts, sampling, batch_size=4)
    assert ids_of(fast) == ids_of(plain)
    for a, b in zip(fast, plain, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
