"""Attention over packed documents: each segment sees itself and all that it continues, nothing else.

Registered with transformers under one name. A call that carries ``segments`` is packed; any other call
(generation) is the ordinary masked attention. No tokens x tokens mask is ever built for a packed batch.

Shapes: query (1, Hq, T, D), key and value (1, Hk, T, D); the result is (1, T, Hq, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunewright.models.blocked import Text, attend_texts, blocked_attention
from tunewright.models.kvcache import AHEAD, Ahead, whole
from tunewright.models.native import ops as native
from tunewright.models.native.decode import attend
from tunewright.models.shifted import Attend, group_of, share_of, shifted_attention
from tunewright.models.softmax import capped_
from tunewright.models.varlen import Packing, attend_varlen, call_of, path_of, say_once

NAME = "tunewright"
SCORES = 64 * 2**20  # bytes of scores over a common beginning that are held at a time
FEW_QUERIES = 64  # of a row, up to which the kernel that reads its keys for four at a time is the faster one
BLOCKED = frozenset({"cpu"})  # kinds of devices on which blocks of queries beat the fused kernels of torch


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Sequence[tuple[int, int, int | None]] | None = None,
    front: Sequence[tuple[Tensor, Tensor]] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that every layer calls, in the form transformers expects.

    ``front`` holds keys and values of each layer, (1, Hk, P, D), that stand before every packed document.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if segments is not None:
        layer: Any = module.layer_idx
        before = None if front is None else front[layer]
        return packed_attention(
            query, key, value, segments, scale, sliding_window, softcap, dropout, before, share_of(module)
        ), None
    if (ahead := getattr(key, AHEAD, None)) is not None:
        return _behind(query, key, value, ahead, _as_bool(attention_mask), scale, softcap), None
    if query.shape[2] == 1 and query.device.type in BLOCKED and not torch.is_grad_enabled():
        return _one_query(query, key, value, _as_bool(attention_mask), scale, softcap), None
    if softcap is not None:  # the fused kernels know no soft cap
        mask = _as_bool(attention_mask)
        if mask is None and query.shape[2] > 1:  # transformers leaves out a mask that would only be causal
            mask = _causal(query.shape[2], key.shape[2], None, query.device)
        out = _plain(query, key, value, mask, scale, softcap, dropout)
        return out.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[tuple[int, int, int | None]],
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    before: tuple[Tensor, Tensor] | None = None,
    share: float = 0.0,
) -> Tensor:
    """Causal attention within each ``(start, length, parent)`` segment; (1, T, Hq, D).

    A segment sees its parent, that one's parent and so on, and before all of them the keys and values
    ``before``, (1, Hk, P, D). Those stand for the tokens right ahead of the text, also for ``window``.
    With ``share`` attention is the shifted one of ``shifted.py``, in groups of that share of all that a
    segment sees.
    """
    ahead = 0 if before is None else before[0].shape[2]
    texts = texts_of(tuple(segments), ahead)
    if before is not None:
        key, value = (torch.cat([b.to(x.dtype), x], 2) for b, x in zip(before, (key, value), strict=True))
    if query.device.type in BLOCKED and not dropout and not share:
        return attend_texts(query, key, value, texts, scale, window, softcap)
    choice = path_of(call_of(query, value, softcap, dropout, share))
    if choice.way == "varlen":
        packing = segments if isinstance(segments, Packing) else Packing(segments)
        layout = packing.layout(texts, ahead, query.device)
        return attend_varlen(query, key, value, layout, scale, window)
    if choice.worth_saying:
        say_once(choice.reason)
    attend = partial(_one_segment, scale=scale, window=window, softcap=softcap, dropout=dropout)
    return _one_by_one(query, key, value, texts, attend, share)


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, texts: Sequence[Text], attend: Attend, share: float
) -> Tensor:
    """Each text by itself, in groups of that ``share`` of it; (1, T, Hq, D)."""
    stretches = [*dict.fromkeys(stretch for text in texts for stretch in text.keys)]
    stretches.sort()
    sizes = [end - start for start, end in stretches]
    # One split has one backward pass; every slice would have one as long as the whole.
    keys, values = (dict(zip(stretches, torch.split(x, sizes, 2), strict=True)) for x in (key, value))
    pieces = []
    for text, q in zip(texts, torch.split(query, [text.length for text in texts], 2), strict=True):
        k, v = (torch.cat([held[stretch] for stretch in text.keys], 2) for held in (keys, values))
        group = group_of(k.shape[2], share) if share else k.shape[2]
        pieces.append(shifted_attention(q, k, v, group, attend))
    return torch.cat([p.transpose(1, 2) for p in pieces], dim=1)


@lru_cache(maxsize=64)
def texts_of(segments: tuple[tuple[int, int, int | None], ...], before: int) -> tuple[Text, ...]:
    """What each segment sees, where ``before`` keys stand ahead of everything."""
    found = []
    for start, length, parent in segments:
        keys = [(before + start, before + start + length)]
        while parent is not None:
            first, count, parent = segments[parent]
            keys.append((before + first, before + first + count))
        ahead = ((0, before),) if before else ()
        found.append(Text((start, start + length), (*ahead, *reversed(keys))))
    return tuple(found)


def _one_segment(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, softcap: float | None, dropout: float
) -> Tensor:
    keys, queries = k.shape[2], q.shape[2]
    window = window if window is not None and keys > window else None
    if q.device.type in BLOCKED and not dropout:
        return blocked_attention(q, k, v, scale, window, softcap).transpose(1, 2)
    if softcap is not None:  # the fused kernels know no soft cap
        return _plain(q, k, v, _causal(queries, keys, window, q.device), scale, softcap, dropout)
    covered = window is None and keys == queries
    mask = None if covered else _causal(queries, keys, window, q.device)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=covered,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _behind(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ahead: Ahead,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Rows (B, Hq, Q, D) over P keys that all of them see and over their own, (B, Hk, K, D): (B, Q, Hq, D).

    What is common is multiplied once for all rows. ``mask`` is (B or 1, 1, Q, P + K).
    """
    rows, heads, asking, width = q.shape
    shared, own, common = k.shape[1], k.shape[2], ahead.keys.shape[2]
    if mask is None and asking > 1:
        mask = _causal(asking, common + own, None, q.device)[None, None]
    seen = None if mask is None else mask[:, 0, :, common:].expand(rows, -1, -1)
    attend_own = attend if asking <= FEW_QUERIES and native.known(q, k, v) else _attend
    out = q.new_empty(rows, heads, asking, width)
    most = max(1, SCORES // (4 * heads * asking * (common + own)))
    keys, values = (whole(x).view(rows, shared, -1, width) for x in (k, v))
    for start in range(0, rows, most):
        part = slice(start, start + most)
        asked = (q[part] * scale).reshape(-1, shared, heads // shared * asking, width)
        together = asked.transpose(0, 1).flatten(1, 2)  # (Hk, rows * group * Q, D)
        first = torch.bmm(together, ahead.keys[0].transpose(1, 2)).view(shared, len(asked), -1, common)
        visible = None if seen is None else seen[part]
        found, first = attend_own(asked, first, keys[part], values[part], own, visible, softcap)
        mixed = torch.bmm(first.flatten(1, 2), ahead.values[0])
        found += mixed.view(shared, len(asked), -1, width).transpose(0, 1)
        out[part] = found.view(-1, heads, asking, width)
    return out.transpose(1, 2)


def _attend(
    asked: Tensor,
    first: Tensor | None,
    keys: Tensor,
    values: Tensor,
    used: int,
    seen: Tensor | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """What the kernel ``attend`` does; see there."""
    common = 0 if first is None else first.shape[-1]
    scores = asked.new_empty(*asked.shape[:3], common + keys.shape[2], dtype=torch.float32)
    if first is not None:
        scores[..., :common] = first.transpose(0, 1)
    scores[..., common:] = torch.matmul(asked, keys.transpose(2, 3))
    capped_(scores, softcap)
    scores[..., common + used :] = -torch.inf
    if seen is not None:
        groups = (len(asked), asked.shape[1], -1, seen.shape[1], scores.shape[-1])
        own = scores.view(groups)[..., common : common + used]
        own.masked_fill_(~seen[:, None, None], torch.finfo(torch.float32).min)
    weights = torch.softmax(scores, -1, out=scores).to(values.dtype)
    return torch.matmul(weights[..., common:], values), weights[..., :common].transpose(0, 1)


def _one_query(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Of one query a row, (B, Hq, 1, D), over the keys that ``mask`` (B, 1, 1, K) shows: (B, 1, Hq, D).

    On a CPU three to five times as fast as torch's fused kernel, which does not let heads share keys.
    """
    rows, heads, _, width = q.shape
    asked = (q * scale).reshape(rows, k.shape[1], -1, width)
    keys, values = (whole(x).view(*asked.shape[:2], -1, width) for x in (k, v))
    count, seen = k.shape[2], None
    if mask is not None:
        seen = mask[:, 0, :, -count:].expand(rows, -1, -1)
    attend_own = attend if native.known(q, k, v) else _attend
    found, _ = attend_own(asked, None, keys, values, count, seen, softcap)
    return found.view(rows, 1, heads, width)


def _plain(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None, dropout: float
) -> Tensor:
    """Two products and a softmax; heads that share keys are stacked so keys are never repeated."""
    B, Hq, T, D = q.shape
    Hk = k.shape[1]
    group = Hq // Hk
    scores = torch.matmul((q * scale).reshape(B, Hk, group * T, D), k.transpose(2, 3)).float()
    scores = scores.view(B, Hk, group, T, -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        mask = mask if mask.dim() == 2 else mask.unsqueeze(2)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    out = torch.matmul(weights.to(v.dtype).view(B, Hk, group * T, -1), v)
    return out.view(B, Hq, T, D)


def _causal(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(queries, keys) bool: the last query sees the last key; ``window`` counts the query's own position."""
    distance = (
        torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)[None]
    )
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def _as_bool(mask: Tensor | None) -> Tensor | None:
    if mask is None or mask.dtype == torch.bool:
        return mask
    return mask >= 0


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
