"""Shifted sparse attention while training (S2-Attn of LongLoRA, Chen et al. 2023, arXiv 2309.12307).

A text of L tokens is cut into groups of G. Half of the heads attend within the groups [0, G), [G, 2G), …, the
other half within groups half a group further on, [0, G/2), [G/2, 3G/2), …, so that what one half cuts apart
the other half joins. All of it is causal. In the paper the last half group of the shifted heads wraps around
and shares a group with the first; here each is a group of its own, or the first tokens would see the last.

With G fixed the scores grow with L, not with L²: at most L·G per head, where dense attention has L².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SMALLEST_GROUP = 64  # below it the products are too small to gain anything, so short texts stay dense
_SHARE = "shifted_share"  # attribute of an attention layer: its group, as a share of each text

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Causal attention: (B, Hq, n, D), (B, Hk, m, D), (B, Hk, m, D) -> (B, Hq, n, D), last query on last key."""


def shift(model: nn.Module, share: float) -> int:
    """Let every attention layer of ``model`` use groups of ``share`` of a text in training; 0 is dense.

    Returns the number of attention layers.
    """
    layers = [module for module in model.modules() if _attends(module)]
    for layer in layers:
        setattr(layer, _SHARE, share)
    return len(layers)


@contextmanager
def dense(model: nn.Module) -> Iterator[None]:
    """Within the context attention is dense, also in training."""
    before = {module: module.__dict__[_SHARE] for module in model.modules() if _SHARE in module.__dict__}
    shift(model, 0.0)
    try:
        yield
    finally:
        for module, share in before.items():
            setattr(module, _SHARE, share)


def share_of(layer: nn.Module) -> float:
    """The share that holds for ``layer`` now: 0, which is dense, unless it is in training mode."""
    return float(getattr(layer, _SHARE, 0.0)) if layer.training else 0.0


def is_shifted(layer: nn.Module) -> bool:
    """Whether ``layer`` uses shifted attention in training mode."""
    return float(getattr(layer, _SHARE, 0.0)) > 0


def group_of(length: int, share: float) -> int:
    """Size of the groups of a text of ``length`` tokens: even, and not below ``SMALLEST_GROUP``."""
    return max(SMALLEST_GROUP, 2 * math.ceil(share * length / 2))


def shifted_attention(q: Tensor, k: Tensor, v: Tensor, group: int, attend: Attend) -> Tensor:
    """q (1, Hq, n, D), k and v (1, Hk, m, D) with m >= n: the last n of m tokens ask; (1, Hq, n, D).

    Dense where ``group`` (even) covers the whole text. Key heads stay with their query heads: half of the key
    heads, rounded down, is not shifted; where there is one key head only, half of the query heads.
    """
    if group >= k.shape[2]:
        return attend(q, k, v)
    assert group % 2 == 0 and q.shape[1] > 1, (group, q.shape)
    heads, keys = q.shape[1], k.shape[1]
    low, cut = (slice(0, keys // 2), keys // 2 * (heads // keys)) if keys > 1 else (slice(0, 1), heads // 2)
    high = slice(keys // 2, keys)
    return torch.cat(
        [
            _grouped(q[:, :cut], k[:, low], v[:, low], 0, group, attend),
            _grouped(q[:, cut:], k[:, high], v[:, high], group // 2, group, attend),
        ],
        dim=1,
    )


def _grouped(q: Tensor, k: Tensor, v: Tensor, offset: int, group: int, attend: Attend) -> Tensor:
    """Attention within groups that end at ``offset``, ``offset + group`` and so on."""
    end = k.shape[2]
    begin = end - q.shape[2]  # the first token that asks
    edge = offset + max(0, -((offset - begin) // group)) * group  # the first whole group of such tokens
    last = edge + max(0, (end - edge) // group) * group
    pieces = []
    if edge > begin:
        a, b = max(0, edge - group), min(edge, end)
        pieces.append(attend(q[:, :, : b - begin], k[:, :, a:b], v[:, :, a:b]))
    if last > edge:
        asked = q[:, :, edge - begin : last - begin]
        folded = (_folded(t, group) for t in (asked, k[:, :, edge:last], v[:, :, edge:last]))
        pieces.append(_unfolded(attend(*folded)))
    if last < end:
        pieces.append(attend(q[:, :, last - begin :], k[:, :, last:], v[:, :, last:]))
    return torch.cat(pieces, dim=2)


def _folded(t: Tensor, group: int) -> Tensor:
    """(1, H, groups * G, D) -> (groups, H, G, D)."""
    heads, length, width = t.shape[1:]
    return t.reshape(heads, length // group, group, width).transpose(0, 1)


def _unfolded(t: Tensor) -> Tensor:
    """(groups, H, G, D) -> (1, H, groups * G, D)."""
    return t.transpose(0, 1).flatten(1, 2)[None]


def _attends(module: nn.Module) -> bool:
    """Whether ``module`` is what transformers hands to an attention function."""
    return hasattr(module, "is_causal") and hasattr(module, "layer_idx")
