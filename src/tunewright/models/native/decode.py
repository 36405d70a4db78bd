"""The kernels of a step of generation as functions of tensors; callers ask ``ops.known`` first."""

from __future__ import annotations

import torch
from torch import Tensor

from tunewright.models.native.ops import KINDS, call


def attend(
    asked: Tensor,
    first: Tensor | None,
    keys: Tensor,
    values: Tensor,
    used: int,
    seen: Tensor | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Attention of scaled queries over the ``used`` columns of each row, and weights of keys before them.

    ``asked`` (B, Hk, G Q, D) are the Q queries of the G heads that share keys; ``keys`` and ``values``
    (B, Hk, C, D) are whole buffers, C >= ``used``; ``seen`` (B, Q, used) bool hides columns. ``first``
    (Hk, B, G Q, P), scores over keys before, takes part in the softmax and becomes weights. Returns the shape
    of ``asked``, without what the first weights weigh, and these weights.
    """
    asked, (rows, heads, queries, width) = asked.contiguous(), asked.shape
    seen, out = None if seen is None else seen.contiguous(), torch.empty_like(asked)
    common, different = 0 if first is None else first.shape[-1], 1 if seen is None else seen.shape[1]
    sizes = (rows, heads, queries, different, common, used, keys.shape[2], width)
    call("attend", KINDS[asked.dtype], asked, first, keys, values, seen, out, *sizes, softcap or 0.0)
    return out, out.new_empty(0) if first is None else first


def pick(logits: Tensor, draws: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """A token for each row of ``logits`` (B, V) and its log-probability at temperature 1: (B,), (B,) float32.

    The likeliest, the first of several, or with ``draws`` (B,) float64 the one at which the running sum of
    the probabilities at ``temperature`` passes that share.
    """
    logits = logits.contiguous()
    tokens = logits.new_empty(len(logits), dtype=torch.long)
    logprobs = logits.new_empty(len(logits), dtype=torch.float32)
    cold = 1.0 if draws is None else 1.0 / temperature
    call("pick", KINDS[logits.dtype], logits, draws, tokens, logprobs, *logits.shape, cold)
    return tokens, logprobs
