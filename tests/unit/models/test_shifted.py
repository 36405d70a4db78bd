"""Shifted groups: equal to a masked reference, causal, within one document, in training only, and cheap."""

from functools import partial

import pytest
import torch

from tests.attending import WAYS, attend
from tests.tiny import FAMILIES, tiny_model
from tests.unit.models.test_forward import documents
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models import attention, shifted
from tunewright.models.attention import packed_attention
from tunewright.models.forward import ModelForward
from tunewright.models.shifted import dense, group_of, shift, shifted_attention

DENSE = partial(attention._one_segment, scale=0.3, window=None, softcap=None, dropout=0.0)


def heads(query_heads, key_heads, queries, keys, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    return draw(1, query_heads, queries, 8), draw(1, key_heads, keys, 8), draw(1, key_heads, keys, 8)


def by_masks(q, k, v, group, unshifted, window=None):
    """By the book: every score, and a mask that says which of them count; head by head."""
    keys, queries = k.shape[2], q.shape[2]
    place = torch.arange(keys)
    out = []
    for head in range(q.shape[1]):
        offset = 0 if head < unshifted else group // 2
        number = torch.div(place - offset, group, rounding_mode="floor")
        mine = number[keys - queries :, None] == number[None]
        distance = place[keys - queries :, None] - place[None]
        seen = mine & (distance >= 0) & (distance < (window or keys))
        shared = head * k.shape[1] // q.shape[1]
        scores = (0.3 * q[0, head] @ k[0, shared].T).masked_fill(~seen, -torch.inf)
        out.append(scores.softmax(-1) @ v[0, shared])
    return torch.stack(out)[None]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("query_heads", "key_heads", "unshifted"), [(4, 4, 2), (8, 4, 4), (9, 3, 3), (4, 1, 2), (3, 1, 1)]
)
@pytest.mark.parametrize("length", [17, 32, 40, 44, 49, 100])
def test_equals_the_masked_reference(length, query_heads, key_heads, unshifted, way, monkeypatch):
    attend(way, monkeypatch)
    q, k, v = heads(query_heads, key_heads, length, length)
    got = shifted_attention(q, k, v, 16, DENSE)
    torch.testing.assert_close(got, by_masks(q, k, v, 16, unshifted), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("queries", range(1, 50, 3))
def test_behind_a_prefix_it_equals_the_end_of_the_whole(queries):
    q, k, v = heads(4, 2, 50, 50)
    whole = shifted_attention(q, k, v, 16, DENSE)
    torch.testing.assert_close(shifted_attention(q[:, :, -queries:], k, v, 16, DENSE), whole[:, :, -queries:])


def test_windows_hold_within_groups():
    q, k, v = heads(4, 2, 70, 70)
    got = shifted_attention(q, k, v, 16, partial(DENSE, window=5))
    torch.testing.assert_close(got, by_masks(q, k, v, 16, 2, window=5), rtol=1e-6, atol=1e-6)


def test_is_dense_where_a_group_covers_the_text():
    q, k, v = heads(4, 2, 48, 48)
    assert torch.equal(shifted_attention(q, k, v, 48, DENSE), DENSE(q, k, v))
    assert not torch.allclose(shifted_attention(q, k, v, 46, DENSE), DENSE(q, k, v))


def test_the_group_is_even_and_short_texts_stay_dense():
    assert [group_of(n, 0.25) for n in (1, 64, 65, 256, 257, 400, 1001, 8192)] == [
        64,
        64,
        64,
        64,
        66,
        100,
        252,
        2048,
    ]
    q, k, v = heads(4, 2, 64, 64)
    segments = [(0, 64, None)]
    assert torch.equal(
        packed_attention(q, k, v, segments, 0.3, share=0.01), packed_attention(q, k, v, segments, 0.3)
    )


def test_scores_grow_with_the_length_and_not_with_its_square():
    def scores(length, group):
        count = 0

        def counting(q, k, v):
            nonlocal count
            count += q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
            return DENSE(q, k, v)

        shifted_attention(*heads(4, 2, length, length), group, counting)
        return count

    assert scores(256, 256) == 4 * 256**2
    # two heads in n groups of 64; the other two in n - 1 of them and two halves
    assert [scores(64 * n, 64) for n in (4, 8, 16)] == [2 * 64**2 * (n + n - 1 + 0.5) for n in (4, 8, 16)]
    assert scores(1024, 64) / scores(512, 64) == pytest.approx(2, rel=0.05)


def model_in_training(family="llama", share=0.25, **overrides):
    model = tiny_model(family, **overrides)
    assert shift(model, share) == 2
    return model.train(), ModelForward(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_sees_a_later_one_or_another_document(family, monkeypatch):
    monkeypatch.setattr(shifted, "SMALLEST_GROUP", 8)
    model, forward = model_in_training(family)
    batch = build_batch([Tokens(t.ids, [1.0] * len(t.ids)) for t in documents(4, (40, 37, 9))])
    embedding = model.get_input_embeddings()(batch.ids).detach().requires_grad_(True)
    monkeypatch.setattr(model, "get_input_embeddings", lambda: lambda ids: embedding)
    forward.neftune = 1e-12  # so that the embeddings above are what enters
    states = forward.hidden(batch)
    weigh = torch.linspace(-1, 1, states.shape[-1])  # the sum of squares of a normed state is always the same
    for at in (0, 3, 4, 17, 38, 39, 40, 41, 60, 76, 77, 85):
        (grad,) = torch.autograd.grad((states[at] * weigh).sum(), embedding, retain_graph=True)
        seen = grad.abs().sum(-1).nonzero()[:, 0].tolist()
        first = max(start for start, _, _ in batch.segments if start <= at)
        assert seen and min(seen) >= first and max(seen) == at, (at, seen)


def test_two_layers_join_what_groups_cut_apart(monkeypatch):
    """Without the shift the second group would know nothing of the first."""
    monkeypatch.setattr(shifted, "SMALLEST_GROUP", 8)
    _, forward = model_in_training(share=0.01)
    ids = documents(5, (16,))[0].ids
    with torch.no_grad():
        other = [ids[0], *((i + 1) % 400 + 5 for i in ids[1:8]), *ids[8:]]
        a, b = (forward.hidden(build_batch([Tokens(i, [1.0] * 16)])) for i in (ids, other))
    assert ((a - b).abs().amax(-1)[8:] > 1e-6).any()


def test_it_is_on_in_training_alone(monkeypatch):
    monkeypatch.setattr(shifted, "SMALLEST_GROUP", 8)
    batch = build_batch(documents(6, (60, 33)))
    with torch.no_grad():
        plain = ModelForward(tiny_model("llama").train()).hidden(batch)
        model, forward = model_in_training()
        sparse = forward.hidden(batch)
        assert not torch.allclose(sparse, plain)
        assert torch.equal(forward.hidden(batch), sparse)
        with dense(model):
            assert torch.equal(forward.hidden(batch), plain)
        assert torch.equal(forward.hidden(batch), sparse)
        model.eval()
        assert torch.equal(forward.hidden(batch), plain)
        model.train()
        shift(model, 0.0)
        assert torch.equal(forward.hidden(batch), plain)


def test_packed_or_alone_gives_the_same(monkeypatch):
    monkeypatch.setattr(shifted, "SMALLEST_GROUP", 8)
    rows = documents(7, (60, 9, 33))
    _, forward = model_in_training()
    with torch.no_grad():
        alone = torch.cat([forward.logprobs(build_batch([row])) for row in rows])
        torch.testing.assert_close(forward.logprobs(build_batch(rows)), alone, rtol=1e-5, atol=1e-5)
