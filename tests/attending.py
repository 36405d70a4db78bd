"""Which of the ways to compute attention a test goes."""

from itertools import pairwise

import torch

from tunewright.models import attention, varlen

WAYS = ("blocked", "fused", "varlen")


def attend(way: str, monkeypatch) -> None:
    """Let every packed document go the same way.

    ``fused`` is that of a GPU without FlashAttention, ``varlen`` that of one with it, whose kernel a
    plain one stands in for.
    """
    monkeypatch.setattr(attention, "BLOCKED", {"cpu"} if way == "blocked" else set())
    monkeypatch.setattr(attention, "say_once", lambda reason: None)
    if way == "varlen":
        monkeypatch.setattr(attention, "call_of", as_on_a_gpu)
        monkeypatch.setattr(varlen, "kernel", lambda: plain_varlen)


def as_on_a_gpu(query, value, softcap, dropout, share):
    """The facts of a call, as if the tensors lay on an H100 in bfloat16."""
    facts = varlen.call_of(query, value, softcap, dropout, share)
    return facts._replace(device="cuda", capability=(9, 0), dtype=torch.bfloat16)


def plain_varlen(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False
):
    """What ``torch.nn.attention.varlen.varlen_attn`` computes, (T, Hq, D), text by text with a mask.

    The query at place i of q sees the keys from i + k - q - left to i + k - q + right, both included; -1 has
    no bound. Arguments that the kernel would refuse fail here too.
    """
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    queries, keys = cu_seq_q.tolist(), cu_seq_k.tolist()
    assert queries[0] == keys[0] == 0 and queries[-1] == len(query) and keys[-1] == len(key) == len(value)
    assert max_q == max(b - a for a, b in pairwise(queries))
    assert max_k == max(b - a for a, b in pairwise(keys))
    left, right = window_size
    out = []
    for i in range(len(queries) - 1):
        q, k, v = (
            x[a[i] : a[i + 1]].transpose(0, 1) for x, a in ((query, queries), (key, keys), (value, keys))
        )
        k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], 0) for x in (k, v))
        place = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        away = torch.arange(k.shape[1])[None] - place
        hidden = torch.zeros_like(away, dtype=torch.bool)
        hidden |= (away > right) if right >= 0 else False
        hidden |= (away < -left) if left >= 0 else False
        scores = (scale * q @ k.transpose(1, 2)).masked_fill(hidden, -torch.inf)
        out.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(out)
