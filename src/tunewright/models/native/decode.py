"""The kernels of a step of generation as functions of tensors; callers ask ``ops.known`` first."""

from __future__ import annotations

import torch
from torch import Tensor

from tunewright.models.native.ops import KINDS, call


def attend(
    q: Tensor,
    first: Tensor | None,
    keys: Tensor,
    values: Tensor,
    used: int,
    seen: Tensor | None,
    softcap: float | None,
) -> Tensor:
    """Attention of one scaled query a row, (B, Hq, D), over the ``used`` columns of its keys: (B, Hq, D).

    ``keys`` and ``values`` (B, Hk, C, D) are whole buffers, C >= ``used``; ``seen`` (B, used) bool hides
    columns. ``first`` (Hk, B, Hq / Hk, P), scores over keys that stand before, takes part in the softmax and
    becomes weights; what they weigh is left to the caller to add.
    """
    q, (rows, heads, columns, width) = q.contiguous(), keys.shape
    group, common = q.shape[1] // heads, 0 if first is None else first.shape[-1]
    seen, out = None if seen is None else seen.contiguous(), torch.empty_like(q)
    sizes = (rows, heads, group, common, used, columns, width)
    call("attend", KINDS[q.dtype], q, first, keys, values, seen, out, *sizes, softcap or 0.0)
    return out


def pick(logits: Tensor, draws: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """A token for each row of ``logits`` (B, V) and its log-probability at temperature 1: (B,), (B,) float32.

    The likeliest, the first of several, or with ``draws`` (B,) float64 the one at which the running sum of
    the probabilities at ``temperature`` passes that share.
    """
    logits = logits.contiguous()
    tokens = torch.empty(len(logits), dtype=torch.long)
    logprobs = torch.empty(len(logits), dtype=torch.float32)
    cold = 1.0 if draws is None else 1.0 / temperature
    call("pick", KINDS[logits.dtype], logits, draws, tokens, logprobs, *logits.shape, cold)
    return tokens, logprobs
