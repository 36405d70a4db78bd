"""How the next token is picked: greedy or sampled, cut by top-k and top-p, seeded per row and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewright.core.errors import ConfigError
from tunewright.core.hashing import unit_interval

NUCLEUS_GUESS = (
    1024  # tokens sorted at first for top_p; the whole vocabulary only if they hold too little mass
)
LARGEST_DRAW = 1 - 2**-40  # below 1 in float64 even after scaling, so an inverse CDF never runs off its end


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 cut nothing.

    ``top_k`` is applied first, ``top_p`` to what it leaves, as in transformers. A row ends at any of
    ``stop_ids`` or after any of ``stop_strings``. Raises ``ConfigError`` for a value out of range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or a positive number"),
            ("top_k", self.top_k >= 0, "0 (off) or a positive number"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            (
                "stop_strings",
                not isinstance(self.stop_strings, str) and all(self.stop_strings),
                "non-empty strings",
            ),
        )
        for name, holds, wanted in rules:
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; use {wanted}")


def draw(seed: int, row: int, step: int) -> float:
    """The uniform number in [0, 1) of one row at one step; it depends on nothing else."""
    return min(unit_interval("sample", seed, row, step), LARGEST_DRAW)


def choose(logits: Tensor, draws: Sequence[float] | None, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Pick one token per row of ``logits`` (B, V).

    Returns tokens (B,) and their log-probabilities (B,) float32 under the model itself: temperature 1, before
    top-k and top-p, which is what a policy gradient needs. A row whose logits are not finite gets NaN or inf.
    ``draws`` holds one uniform number per row and is not read when the temperature is 0.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        assert draws is not None and len(draws) == len(logits), "sampling needs one draw per row"
        probs = truncate((logits / sampling.temperature).softmax(-1), sampling.top_k, sampling.top_p)
        tokens = _inverse_cdf(probs, torch.tensor(draws, dtype=torch.float64, device=logits.device))
    return tokens, logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def truncate(probs: Tensor, top_k: int, top_p: float) -> Tensor:
    """``probs`` (B, V) with all but the ``top_k`` likeliest set to 0, then all but the smallest set of the
    likeliest that holds ``top_p`` of what is left. Not renormalised."""
    vocabulary = probs.shape[-1]
    if not 0 < top_k < vocabulary and top_p == 1:
        return probs
    top, where = probs.topk(min(top_k or NUCLEUS_GUESS, vocabulary))
    if not top_k and bool((top.sum(-1) < top_p).any()):
        top, where = probs.sort(-1, descending=True)
    if top_p < 1:
        mass = top.sum(-1, keepdim=True) if top_k else probs.sum(-1, keepdim=True)
        before = top.cumsum(-1) - top
        top = top.masked_fill(before >= top_p * mass, 0)
    return torch.zeros_like(probs).scatter_(-1, where, top)


def _inverse_cdf(probs: Tensor, draws: Tensor) -> Tensor:
    """The token at which the running sum of ``probs`` (B, V), in vocabulary order, passes ``draws`` (B,).

    Vocabulary order, not sorted order: two nearly equal tokens may swap places in a sort when rounding
    differs between batches, and the draw would land on the other one.
    """
    running = probs.cumsum(-1, dtype=torch.float64)
    target = draws[:, None] * running[:, -1:]
    return torch.searchsorted(running, target, right=True)[:, 0].clamp_(max=probs.shape[-1] - 1)
