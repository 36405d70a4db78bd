"""A packed batch gives each document the log-probabilities it would have alone, in every family."""

import pytest
import torch

from tests.attending import WAYS, attend
from tests.tiny import FAMILIES, tiny_model
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward


def documents(seed=0, lengths=(5, 90, 1, 33), vocab=420):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n in lengths:
        ids = torch.randint(5, vocab, (n,), generator=generator).tolist()
        rows.append(Tokens(ids, [float(i % 3 != 0) for i in range(n)]))
    return rows


def alone(model, tokens):
    """Weighted log-probabilities of one document by the model's plain forward, without any of our code."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens.ids])).logits[0].float().log_softmax(-1)
    return torch.tensor(
        [logits[i - 1, tokens.ids[i]] for i in range(1, len(tokens.ids)) if tokens.weights[i]]
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_alone(family, way, monkeypatch):
    attend(way, monkeypatch)
    rows = documents()
    expected = torch.cat([alone(tiny_model(family), t) for t in rows])
    forward = ModelForward(tiny_model(family))
    assert not forward.plain, "the fast head must be the one that is tested"
    with torch.no_grad():
        torch.testing.assert_close(forward.logprobs(build_batch(rows)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3"])
def test_sliding_windows_and_soft_caps_are_kept(family):
    overrides = {"sliding_window": 8} if family != "llama" else {}
    if family == "gemma2":
        overrides |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    rows = documents(1, (40, 21))
    expected = torch.cat([alone(tiny_model(family, **overrides), t) for t in rows])
    forward = ModelForward(tiny_model(family, **overrides))
    with torch.no_grad():
        got = forward.logprobs(build_batch(rows))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    if overrides:
        other = ModelForward(tiny_model(family, **{**overrides, "sliding_window": 39}))
        with torch.no_grad():
            assert (other.logprobs(build_batch(rows)) - expected).abs().max() > 1e-3, (
                "the window has no effect"
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_equals_whole_sequences(family):
    prefix, left, right = (t.ids for t in documents(2, (30, 12, 7)))
    whole = [Tokens(prefix + end, [0.0] * 30 + [1.0] * len(end)) for end in (left, right)]
    tree = Tokens(prefix, [0.0] * 30, branches=tuple(Tokens(end, [1.0] * len(end)) for end in (left, right)))
    forward = ModelForward(tiny_model(family))
    with torch.no_grad():
        expected, got = forward.logprobs(build_batch(whole)), forward.logprobs(build_batch([tree]))
    assert build_batch([tree]).size == 49 and got.shape == (19,)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_document_does_not_see_its_neighbour():
    first, second = documents(3, (20, 15))
    forward = ModelForward(tiny_model("llama"))
    changed = Tokens([i + 1 for i in first.ids], first.weights)
    with torch.no_grad():
        a = forward.logprobs(build_batch([first, second]))[-9:]
        b = forward.logprobs(build_batch([changed, second]))[-9:]
    assert torch.equal(a, b)


def test_generation_path_equals_stock_attention():
    model, ids = tiny_model("gemma2"), torch.tensor([documents(4, (24,))[0].ids])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        ModelForward(model)
        got = model(input_ids=ids).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_untrusted_head_falls_back_to_the_models_own(monkeypatch):
    model = tiny_model("llama")
    plain_forward = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda h: plain_forward(h) * 1.7)
    rows = documents(5, (18, 9))
    expected = torch.cat([alone(model, t) for t in rows])
    forward = ModelForward(model)
    assert forward.plain
    with torch.no_grad():
        torch.testing.assert_close(forward.logprobs(build_batch(rows)), expected, rtol=1e-4, atol=1e-4)


def test_the_slow_head_gets_the_same_noise():
    batch = build_batch(documents(6, (30, 10)))
    fast = ModelForward(tiny_model("llama"), neftune=5.0)
    slow = ModelForward(tiny_model("llama"), neftune=5.0)
    slow.plain = True
    found = []
    for forward in (fast, slow):
        forward.model.train()
        torch.manual_seed(3)
        found.append(forward.logprobs(batch).detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert (found[0] - ModelForward(tiny_model("llama")).logprobs(batch)).abs().max() > 1e-3


def test_neftune_noise_has_the_stated_size_and_is_off_in_evaluation():
    model = tiny_model("llama")
    forward = ModelForward(model, neftune=5.0)
    batch = build_batch(documents(6, (50, 10)))
    clean = model.get_input_embeddings()(batch.ids)
    model.train()
    noise = forward._noisy_embeddings(batch) - clean
    bound = 5.0 / (torch.tensor([50.0] * 50 + [10.0] * 10) * 64).sqrt()
    assert (noise.abs() <= bound[:, None] + 1e-6).all()
    assert noise[:50].abs().max() > 0.95 * bound[0] and noise[50:].abs().max() > 0.95 * bound[-1]
    model.eval()
    with torch.no_grad():
        assert torch.equal(forward.logprobs(batch), ModelForward(model).logprobs(batch))
