"""Exact attention for a CPU over many texts at once, a block of queries at a time, that keeps no weights.

For every block of queries two products and a softmax run over just the keys that the block may see, in a
piece that fits the cache. Texts of like length are laid beside each other, and their blocks of one number are
computed together: there are as many pieces as the longest text has blocks, not as many as all texts have.
The backward pass computes the weights again from queries, keys and the norms of their rows, as in Dao et al.
2022 (arXiv 2205.14135), so memory grows with the length and not its square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tunewright.models.native import ops as native
from tunewright.models.softmax import bend, capped_, softmax_

BLOCK = 64  # queries; 32 and 128 were slower at every length from 256 tokens
WHOLE = 80  # queries up to which a text is one block, filled up to a multiple of ``STEP``
STEP = 16
Stretch = tuple[int, int]  # first token, and the one behind the last


class Text(NamedTuple):
    """Queries ``rows``, and all keys that the last of them sees, in order; those of the rows come last."""

    rows: Stretch
    keys: tuple[Stretch, ...]

    @property
    def length(self) -> int:
        """Its number of queries."""
        return self.rows[1] - self.rows[0]

    @property
    def ahead(self) -> int:
        """How many keys stand before that of its first query."""
        return sum(end - start for start, end in self.keys) - self.length


def attend_texts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    texts: tuple[Text, ...],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention of ``texts``, which together hold every query once: (1, T, Hq, D).

    Queries are (1, Hq, T, D), keys and values (1, Hk, K, D). ``window`` counts a query's own position;
    ``softcap`` c makes c tanh(s / c) of a score s. The softmax is computed in float32.
    """
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # it holds for the products of the forward pass only
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    result: Tensor = _Blocked.apply(query, key, value, texts, scale, window, softcap)  # type: ignore
    return result


def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """The same for N texts of one length, (N, Hq, Q, D) over (N, Hk, K, D): (N, Q, Hq, D)."""
    count, asking, seen = len(query), query.shape[2], key.shape[2]
    texts = tuple(Text((n * asking, (n + 1) * asking), ((n * seen, (n + 1) * seen),)) for n in range(count))
    folded = (x.transpose(0, 1).flatten(1, 2)[None] for x in (query, key, value))
    q, k, v = folded
    return attend_texts(q, k, v, texts, scale, window, softcap).view(count, asking, *query.shape[1::2])


class _Group(NamedTuple):
    """Texts with as many keys ahead and of like length, the longest first; ``block`` queries go together."""

    texts: tuple[Text, ...]
    ahead: int
    block: int

    @classmethod
    def of(cls, texts: Sequence[Text]) -> _Group:
        """Short texts are one block."""
        longest = texts[0].length
        block = BLOCK if longest > WHOLE else _up(longest, STEP)
        return cls(tuple(texts), texts[0].ahead, block)

    @property
    def asking(self) -> int:
        """Queries of every text when all are filled up to whole blocks."""
        return _up(self.texts[0].length, self.block)

    @property
    def seen(self) -> int:
        """Keys of every text, likewise."""
        return _up(self.ahead + self.asking, self.block)

    def live(self, start: int) -> int:
        """How many of them have a query ``start``."""
        return sum(text.length > start for text in self.texts)


def _groups(texts: tuple[Text, ...]) -> tuple[_Group, ...]:
    """No text is filled up to more than about twice its length."""
    found: list[list[Text]] = []
    for text in sorted(texts, key=lambda text: (text.ahead, -text.length)):
        last = found[-1][0] if found else None
        if last is None or last.ahead != text.ahead or last.length > 2 * _up(text.length, STEP):
            found.append([])
        found[-1].append(text)
    return tuple(map(_Group.of, found))


class _Block(NamedTuple):
    """Queries ``rows``, the keys ``seen`` by any of them, how many of these are ``ahead`` of the first."""

    rows: slice
    seen: slice
    ahead: int


def _blocks(group: _Group, window: int | None) -> Iterator[_Block]:
    """The blocks of a group; where a block's keys end is a multiple of its size."""
    block = group.block
    for start in range(0, group.texts[0].length, block):
        own = group.ahead + start  # the key of the first query
        first = 0 if window is None else max(0, own - window + 1) // block * block
        yield _Block(slice(start, start + block), slice(first, _up(own + block, block)), own - first)


def _up(count: int, step: int) -> int:
    """The next multiple of ``step``: a CPU makes and keeps a kernel for every shape, so few are better."""
    return -(-count // step) * step


class _Blocked(torch.autograd.Function):
    """P = softmax(S), S = scale Q Kᵀ; dV = Pᵀ dO, dS = P (dO Vᵀ - rowsum(dO O)), dQ = scale dS K, dK = dSᵀ Q.

    Within, texts and key heads are one dimension B, the G query heads that share a key head another, and the
    lengths are filled up with zeros, which nobody sees and whose own results are dropped.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        texts: tuple[Text, ...],
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        shared = key.shape[1]
        exact = torch.promote_types(query.dtype, torch.float32)
        out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        norms = []
        for group in _groups(texts):
            q, k, v = _beside(group, query, key, value)
            q.mul_(scale)
            own, norm = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=exact)
            for rows, seen, ahead in _blocks(group, window):
                live = shared * group.live(rows.start)
                scores = _products(q[:live, :, rows], k[:live, seen])
                weights, norm[:live, :, rows] = _softmax(scores, ahead, window, softcap)
                mixed = torch.bmm(weights.flatten(1, 2), v[:live, seen])
                own[:live, :, rows] = mixed.view(live, *own.shape[1:2], -1, own.shape[3])
            norms.append(norm)
            for text, found in zip(group.texts, _apart(group, own), strict=True):
                out[0, slice(*text.rows)] = found[:, : text.length].transpose(0, 1)
        ctx.save_for_backward(query, key, value, out, *norms)
        ctx.texts, ctx.scale, ctx.window, ctx.softcap = texts, scale, window, softcap
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *norms = ctx.saved_tensors
        shared, exact = key.shape[1], norms[0].dtype
        inner = (grad.to(exact) * out).sum(-1, keepdim=True).transpose(1, 2)
        d_query = torch.empty_like(query)
        d_key, d_value = torch.zeros_like(key, dtype=exact), torch.zeros_like(value, dtype=exact)
        for group, norm in zip(_groups(ctx.texts), norms, strict=True):
            q, k, v = _beside(group, query, key, value)
            q.mul_(ctx.scale)
            d_out, within = (
                _filled(x, _asked(group), shared, group.asking) for x in (grad.transpose(1, 2), inner)
            )
            d_q = torch.empty_like(q)
            d_k, d_v = torch.zeros_like(k, dtype=exact), torch.zeros_like(v, dtype=exact)
            for rows, seen, ahead in _blocks(group, ctx.window):
                live = shared * group.live(rows.start)
                part, d_part = q[:live, :, rows], d_out[:live, :, rows]
                keys = k[:live, seen]
                weights, slopes = (
                    x.flatten(1, 2)
                    for x in _softmax_backward(
                        _products(part, keys),
                        _products(d_part, v[:live, seen]),
                        norm[:live, :, rows],
                        within[:live, :, rows, 0],
                        ahead,
                        ctx.window,
                        ctx.softcap,
                    )
                )
                d_v[:live, seen] += torch.bmm(weights.transpose(1, 2), d_part.flatten(1, 2))
                d_q[:live, :, rows] = torch.bmm(slopes, keys).view_as(part).mul_(ctx.scale)
                d_k[:live, seen] += torch.bmm(slopes.transpose(1, 2), part.flatten(1, 2))
            for text, own in zip(group.texts, _apart(group, d_q), strict=True):
                d_query[0, :, slice(*text.rows)] = own[:, : text.length]
            for into, found in ((d_key, d_k), (d_value, d_v)):
                for text, own in zip(group.texts, found.view(-1, shared, *found.shape[1:]), strict=True):
                    for stretch, part in _stretches(text.keys, own):
                        into[0, :, slice(*stretch)] += part
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None, None, None, None


def _beside(group: _Group, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, G, Q, D), keys and values (B, K, D) of all texts of a group, filled up."""
    seen = [text.keys for text in group.texts]
    k, v = (_filled(x, seen, key.shape[1], group.seen)[:, 0] for x in (key, value))
    return _filled(query, _asked(group), key.shape[1], group.asking), k, v


def _asked(group: _Group) -> list[tuple[Stretch, ...]]:
    return [(text.rows,) for text in group.texts]


def _filled(states: Tensor, texts: Sequence[tuple[Stretch, ...]], shared: int, size: int) -> Tensor:
    """The stretches of every text behind each other, (texts shared, H / shared, size, D), then zeros."""
    _, heads, _, width = states.shape
    filled = states.new_empty(len(texts), heads, size, width)
    for row, stretches in zip(filled, texts, strict=True):
        used = 0
        for stretch, into in _stretches(stretches, row):
            into.copy_(states[0, :, slice(*stretch)])
            used += into.shape[1]
        row[:, used:] = 0
    return filled.view(len(texts) * shared, heads // shared, size, width)


def _stretches(stretches: Sequence[Stretch], row: Tensor) -> Iterator[tuple[Stretch, Tensor]]:
    """Each stretch with its place in ``row``, (H, size, D), where they stand behind each other."""
    start = 0
    for stretch in stretches:
        count = stretch[1] - stretch[0]
        yield stretch, row[:, start : start + count]
        start += count


def _apart(group: _Group, states: Tensor) -> Tensor:
    """(B, G, Q, D) -> (texts, Hq, Q, D)."""
    return states.view(len(group.texts), -1, *states.shape[2:])


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    """(B, G, n, D) with (B, K, D): the (B, G, n, K) inner products."""
    found = torch.bmm(rows.flatten(1, 2), columns.transpose(1, 2))
    return found.view(*rows.shape[:3], columns.shape[1])


def _softmax(scores: Tensor, ahead: int, window: int | None, softcap: float | None) -> tuple[Tensor, Tensor]:
    """The weights of a block's ``scores`` (B, G, n, K), in their format, and the norms (B, G, n)."""
    if native.known(scores):
        return scores, native.softmax_(scores, ahead, window, softcap)
    exact = _hide(capped_(_wide(scores), softcap), ahead, window)
    norms = softmax_(exact)
    return exact.to(scores.dtype), norms


def _softmax_backward(
    scores: Tensor,
    d_weights: Tensor,
    norms: Tensor,
    within: Tensor,
    ahead: int,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """The weights once more and the slopes of the scores before the cap, from the slopes of the weights.

    ``within`` is the sum of weight times slope of every row, (B, G, n).
    """
    if native.known(scores, d_weights):
        native.softmax_backward_(scores, d_weights, norms, within, ahead, window, softcap)
        return scores, d_weights
    exact = capped_(_wide(scores), softcap)
    slope_of_cap = bend(exact, softcap)
    weights = _hide(exact.sub_(norms[..., None]), ahead, window).exp_()
    slopes = _wide(d_weights).sub_(within[..., None]).mul_(weights)
    slopes = slopes if slope_of_cap is None else slopes.mul_(slope_of_cap)
    return weights.to(scores.dtype), slopes.to(scores.dtype)


def _wide(scores: Tensor) -> Tensor:
    """Float32 at least; may be ``scores`` themselves."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _hide(scores: Tensor, ahead: int, window: int | None) -> Tensor:
    """The (..., n, K) ``scores``, at minus infinity where query i does not see key j.

    It sees those up to ``ahead`` + i, of which the last ``window``.
    """
    queries, keys = scores.shape[-2:]
    own = torch.arange(ahead, ahead + queries, device=scores.device)[:, None]
    first = 0 if window is not None and ahead + queries > window else ahead  # all see what stands before
    seen_by = torch.arange(first, keys, device=scores.device)
    hidden = seen_by > own
    if window is not None:
        hidden |= seen_by <= own - window
    scores[..., first:].masked_fill_(hidden, -math.inf)
    return scores
