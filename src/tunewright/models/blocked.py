"""Exact attention for a CPU, a block of queries at a time, that keeps no attention weights.

For every block of queries two products and a softmax run over just the keys that the block may see, in a
piece that fits the cache. The backward pass computes the weights again from queries, keys and the norms of
their rows, as in Dao et al. 2022 (arXiv 2205.14135), so memory grows with the length and not its square.
With 9 heads of 64 numbers in bfloat16 it is as fast as keeping the weights at 250 tokens, and 1.3 to 1.4
times as fast as either that or torch's fused kernel at 500 and more; below 128 tokens it is slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 64  # queries; 32 and 128 were slower at every length from 256 tokens


def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """Causal attention of (N, Hq, Q, D) over (N, Hk, K, D) keys and values; the last query sees the last key.

    ``window`` counts a query's own position; ``softcap`` c makes c tanh(s / c) of a score s. The result is
    (N, Q, Hq, D); its softmax is computed in float32.
    """
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # it holds for the products of the forward pass only
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    result: Tensor = _Blocked.apply(query, key, value, scale, window, softcap)  # type: ignore[no-untyped-call]
    return result


class _Block(NamedTuple):
    """Queries ``rows``, the keys ``seen`` by any of them, and which of the last are ``hidden`` from whom."""

    rows: slice
    seen: slice
    hidden: Tensor


def _blocks(queries: int, ahead: int, window: int | None, device: torch.device) -> Iterator[_Block]:
    """The blocks of so many queries behind ``ahead`` keys; all their sizes are multiples of ``BLOCK``."""
    corner = torch.ones(BLOCK, 2 * BLOCK, dtype=torch.bool, device=device).triu_(1)
    for start in range(0, queries, BLOCK):
        first, end = ahead + start, _up(ahead + start + BLOCK)  # key of the first query; behind the last
        rows = slice(start, start + BLOCK)
        if window is None or first + BLOCK <= window:
            yield _Block(rows, slice(0, end), corner[:, : end - first])
            continue
        seen = slice(max(0, first - window + 1) // BLOCK * BLOCK, end)
        distance = torch.arange(first, first + BLOCK, device=device)[:, None]
        distance = distance - torch.arange(seen.start, end, device=device)
        yield _Block(rows, seen, (distance < 0) | (distance >= window))


def _up(count: int) -> int:
    """The next multiple of ``BLOCK``: a CPU makes and keeps a kernel for every shape, so few are better."""
    return -(-count // BLOCK) * BLOCK


class _Blocked(torch.autograd.Function):
    """P = softmax(S), S = scale Q Kᵀ; dV = Pᵀ dO, dS = P (dO Vᵀ - rowsum(dO O)), dQ = scale dS K, dK = dSᵀ Q.

    Within, batch and key heads are one dimension B, the G query heads that share a key head another, and the
    lengths are filled up with zeros, which nobody sees and whose own results are dropped.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        batch, heads, count, width = query.shape
        shared, ahead = key.shape[1], key.shape[2] - count
        q = _filled(query, shared).mul_(scale)
        k, v = (_filled(x, shared, ahead)[:, 0] for x in (key, value))
        exact = torch.promote_types(q.dtype, torch.float32)
        out = query.new_empty(batch, count, heads, width)
        norms = q.new_empty(q.shape[:3], dtype=exact)
        for rows, seen, hidden in _blocks(count, ahead, window, q.device):
            scores = _hide(_capped(_products(q[:, :, rows], k[:, seen], exact), softcap), hidden)
            top = scores.amax(-1, keepdim=True)
            total = scores.sub_(top).exp_().sum(-1, keepdim=True)
            norms[:, :, rows] = (top + total.log())[..., 0]
            mixed = torch.bmm(scores.to(v.dtype).flatten(1, 2), v[:, seen]).view(*q.shape[:2], -1, width)
            found = (mixed / total).view(batch, shared, -1, *mixed.shape[2:]).permute(0, 3, 1, 2, 4)
            into = out[:, rows]
            into.copy_(found[:, : into.shape[1]].flatten(2, 3))
        ctx.save_for_backward(query, key, value, out, norms)
        ctx.scale, ctx.window, ctx.softcap = scale, window, softcap
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, norms = ctx.saved_tensors
        count, shared, exact = query.shape[2], key.shape[1], norms.dtype
        ahead = key.shape[2] - count
        q, k, v = (
            _filled(query, shared).mul_(ctx.scale),
            *(_filled(x, shared, ahead)[:, 0] for x in (key, value)),
        )
        d_out = _filled(grad.transpose(1, 2), shared)
        inner = _filled((grad.to(exact) * out).sum(-1, keepdim=True).transpose(1, 2), shared)
        d_q = torch.empty_like(q)
        d_k, d_v = torch.zeros_like(k, dtype=exact), torch.zeros_like(v, dtype=exact)
        for rows, seen, hidden in _blocks(count, ahead, ctx.window, q.device):
            part, d_part = q[:, :, rows], d_out[:, :, rows]
            scores = _capped(_products(part, k[:, seen], exact), ctx.softcap)
            bend = None if ctx.softcap is None else 1 - (scores / ctx.softcap).square()
            weights = _hide(scores.sub_(norms[:, :, rows, None]), hidden).exp_()
            d_v[:, seen] += torch.bmm(weights.to(v.dtype).flatten(1, 2).transpose(1, 2), d_part.flatten(1, 2))
            slope = _products(d_part, v[:, seen], exact).sub_(inner[:, :, rows]).mul_(weights)
            narrow = (slope if bend is None else slope.mul_(bend)).to(k.dtype).flatten(1, 2)
            d_q[:, :, rows] = torch.bmm(narrow, k[:, seen]).view_as(part).mul_(ctx.scale)
            d_k[:, seen] += torch.bmm(narrow.transpose(1, 2), part.flatten(1, 2))
        d_key, d_value = (d[:, : key.shape[2]].reshape(key.shape).to(key.dtype) for d in (d_k, d_v))
        return d_q[:, :, :count].reshape(query.shape), d_key, d_value, None, None, None


def _filled(states: Tensor, shared: int, ahead: int = 0) -> Tensor:
    """(N, H, ahead + T, D) -> (N Hk, H / Hk, T', D): heads that share keys together, and zeros at the end."""
    batch, heads, length, width = states.shape
    size = _up(ahead + _up(length - ahead))
    filled = states.new_empty(batch * shared, heads // shared, size, width)
    filled[:, :, length:] = 0
    filled[:, :, :length] = states.reshape(batch * shared, -1, length, width)
    return filled


def _products(rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, G, n, D) with (B, K, D): the (B, G, n, K) inner products, in ``dtype``."""
    found = torch.bmm(rows.flatten(1, 2), columns.transpose(1, 2))
    return found.to(dtype).view(*rows.shape[:3], columns.shape[1])


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


def _hide(scores: Tensor, hidden: Tensor) -> Tensor:
    """The (..., n, K) ``scores``, at minus infinity what is ``hidden``, (n, m), among the last m keys."""
    scores[..., scores.shape[-1] - hidden.shape[-1] :].masked_fill_(hidden, -math.inf)
    return scores
