"""Packed attention over a chain of parents, with and without keys ahead of all: equal to one dense mask."""

import pytest
import torch

from tests.attending import WAYS, attend
from tunewright.models.attention import packed_attention

HEADS, KEY_HEADS, SIZE, AHEAD = 4, 2, 8, 6
# A root with two branches, one of which goes on twice; another root with a branch; a root by itself.
SEGMENTS = (
    (0, 5, None),
    (5, 3, 0),
    (8, 4, 0),
    (12, 2, 2),
    (14, 3, 3),
    (17, 4, None),
    (21, 2, 5),
    (23, 1, None),
)
TOKENS = 24


def chain(index):
    """The rows that segment ``index`` continues and its own, in order."""
    start, length, parent = SEGMENTS[index]
    before = [] if parent is None else chain(parent)
    return [*before, *range(start, start + length)]


def dense(query, key, value, before, window, softcap):
    """Every token by itself: what it sees is listed, and the softmax is over just that."""
    out = torch.zeros(TOKENS, HEADS, SIZE)
    for index, (start, length, _) in enumerate(SEGMENTS):
        rows = chain(index)
        for row in range(start, start + length):
            for head in range(HEADS):
                shared = head * KEY_HEADS // HEADS
                seen = rows[: rows.index(row) + 1]
                k, v = key[0, shared, seen], value[0, shared, seen]
                if before is not None:
                    k, v = torch.cat([before[0][0, shared], k]), torch.cat([before[1][0, shared], v])
                if window is not None:
                    k, v = k[-window:], v[-window:]
                scores = k @ query[0, head, row] * 0.3
                scores = softcap * torch.tanh(scores / softcap) if softcap else scores
                out[row, head] = scores.softmax(0) @ v
    return out[None]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_chain_of_parents_equals_a_dense_mask(ahead, window, softcap, way, monkeypatch):
    attend(way, monkeypatch)
    torch.manual_seed(0)
    query = torch.randn(1, HEADS, TOKENS, SIZE) * 2
    key, value = (torch.randn(1, KEY_HEADS, TOKENS, SIZE) for _ in range(2))
    before = tuple(torch.randn(1, KEY_HEADS, AHEAD, SIZE) for _ in range(2)) if ahead else None
    got = packed_attention(query, key, value, SEGMENTS, 0.3, window, softcap, before=before)
    torch.testing.assert_close(got, dense(query, key, value, before, window, softcap), rtol=1e-5, atol=1e-5)
    other = packed_attention(query, key, value, ((0, TOKENS, None),), 0.3, window, softcap)
    assert (got - other).abs().max() > 0.1
