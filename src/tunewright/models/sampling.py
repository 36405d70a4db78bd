"""How the next token is picked: greedy or sampled, cut by top-k and top-p, seeded per row and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tunewright.core.errors import ConfigError
from tunewright.core.hashing import unit_interval
from tunewright.models.native import ops as native
from tunewright.models.native.decode import pick

NUCLEUS_GUESS = (
    1024  # likeliest tokens looked at first for top_p; four times as many where they hold too little
)
AT_ONCE = 2**20  # bytes of float32 logits worked on together: what a core keeps close to it
STRETCH = 256  # tokens whose probabilities are first added up together
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
    rows, vocabulary = logits.shape
    if sampling.temperature == 0:
        draws = None
    else:
        assert draws is not None and len(draws) == rows, "sampling needs one draw per row"
    uncut = sampling.top_p == 1 and not 0 < sampling.top_k < vocabulary
    if (draws is None or uncut) and native.known(logits):
        shares = None if draws is None else torch.tensor(draws, dtype=torch.float64)
        return pick(logits, shares, sampling.temperature)
    size = max(1, AT_ONCE // (4 * vocabulary)) if logits.device.type == "cpu" else max(1, rows)
    tokens = logits.new_empty(rows, dtype=torch.long)
    logprobs = logits.new_empty(rows, dtype=torch.float32)
    for start in range(0, rows, size):
        part = slice(start, start + size)
        given = (
            torch.tensor(draws[part], dtype=torch.float64, device=logits.device)
            if draws is not None
            else None
        )
        tokens[part], logprobs[part] = _chosen(logits[part].float(), given, sampling)
    return tokens, logprobs


def _chosen(logits: Tensor, draws: Tensor | None, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """``choose`` for a few rows, whose float32 ``logits`` (B, V) are overwritten where they are a copy."""
    top, tokens = logits.max(-1)
    below = logits - top[:, None]
    if sampling.temperature == 0:
        return tokens, -below.exp_().sum(-1).log()
    assert draws is not None
    mass = below.exp()
    norms = mass.sum(-1).log()
    if sampling.temperature != 1:
        mass = (below / sampling.temperature).exp_()
    tokens = _inverse_cdf(truncate(mass, sampling.top_k, sampling.top_p), draws)
    return tokens, below.gather(-1, tokens[:, None])[:, 0] - norms


def truncate(mass: Tensor, top_k: int, top_p: float) -> Tensor:
    """Probabilities ``mass`` (B, V), times any factor, with all but the ``top_k`` likeliest set to 0.

    Then all but the smallest set of the likeliest that holds ``top_p`` of what is left. Not renormalised.
    """
    vocabulary = mass.shape[-1]
    if not 0 < top_k < vocabulary and top_p == 1:
        return mass
    kept = min(top_k or NUCLEUS_GUESS, vocabulary)
    top, where = mass.topk(kept)
    wanted = top_p * (top if top_k else mass).sum(-1, keepdim=True)
    while kept < vocabulary and not top_k and bool((top.sum(-1, keepdim=True) < wanted).any()):
        kept = min(4 * kept, vocabulary)
        top, where = mass.topk(kept)
    if top_p < 1:
        before = top.cumsum(-1) - top
        top = top.masked_fill(before >= wanted, 0)
    return torch.zeros_like(mass).scatter_(-1, where, top)


def _inverse_cdf(mass: Tensor, draws: Tensor) -> Tensor:
    """The token at which the running sum of ``mass`` (B, V), in vocabulary order, passes its share ``draws``
    (B,) float64: first the stretch of the vocabulary, then the token in it.

    Vocabulary order, not sorted order: two nearly equal tokens may swap places in a sort when rounding
    differs between batches, and the draw would land on the other one.
    """
    vocabulary = mass.shape[-1]
    stretches = F.pad(mass, (0, -vocabulary % STRETCH)).view(len(mass), -1, STRETCH)
    which, share = _passed(stretches.sum(-1), draws)
    inside = stretches[torch.arange(len(mass), device=mass.device), which]
    return (which * STRETCH + _passed(inside, share)[0]).clamp_(max=vocabulary - 1)


def _passed(mass: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum of ``mass`` (B, n) passes ``share`` (B,) of all, and how far into that piece."""
    running = mass.cumsum(-1, dtype=torch.float64)
    target = share[:, None] * running[:, -1:]
    at = torch.searchsorted(running, target, right=True).clamp_(max=mass.shape[-1] - 1)
    piece = mass.gather(-1, at).double()
    into = 1 - (running.gather(-1, at) - target) / piece
    return at[:, 0], into[:, 0].clamp_(0, LARGEST_DRAW)
