"""Virtual tokens: what prompt tuning, P-tuning and prefix tuning of PEFT put before every text.

Embeddings run through the model like words do. Keys and values of a prefix enter each layer as they are.
Either way the text behind them begins at a later position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers.cache_utils import Cache

from tunewright.core.errors import ModelError

KNOWN = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE")


@dataclass(frozen=True, slots=True)
class Front:
    """``count`` virtual tokens: their ``embeddings`` (count, H), or of each layer their keys and values,
    both (1, Hk, count, D), as ``states``; of no virtual tokens neither."""

    count: int = 0
    embeddings: Tensor | None = None
    states: tuple[tuple[Tensor, Tensor], ...] | None = None

    @property
    def rows(self) -> int:
        """How many of a packed batch's tokens they are."""
        return 0 if self.embeddings is None else self.count

    def ahead(self, segments: Sequence[tuple[int, int, int | None]]) -> Sequence[Any]:
        """``segments`` behind one of the embeddings, which every text continues."""
        if not self.rows:
            return segments
        return (
            (0, self.rows, None),
            *((start + self.rows, n, 0 if parent is None else parent + 1) for start, n, parent in segments),
        )


def is_virtual(model: Any) -> bool:
    """Whether ``model`` is PEFT's wrapper of a method with virtual tokens, switched off or not."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def virtual_tokens(model: Any) -> int:
    """How many positions the virtual tokens of ``model`` take; 0 where it has none."""
    config: Any = model.active_peft_config if is_virtual(model) else None
    return int(config.num_virtual_tokens) if config is not None else 0


def front_of(model: Any) -> Front:
    """What stands before every text now, with its gradient: nothing where the adapter is switched off.

    Raises ``ModelError`` for a method of PEFT whose virtual tokens are not the same for every text.
    """
    if not is_virtual(model) or model._adapters_disabled:
        return Front()
    config = model.active_peft_config
    if config.peft_type not in KNOWN:
        raise ModelError(
            f"virtual tokens of {config.peft_type.value} are not the same for every text, which only PEFT's"
            " own forward knows; use prompt, prefix or ptuning"
        )
    made = model.get_prompt(batch_size=1)
    if isinstance(made, Cache):
        return Front(config.num_virtual_tokens, states=_of_all_layers(made, config))
    return Front(config.num_virtual_tokens, embeddings=made[0])


def check_reach(config: Any, count: int, segments: Sequence[tuple[int, int, int | None]]) -> None:
    """Raise ``ModelError`` where a text behind ``count`` virtual tokens is so long that other rotary
    frequencies hold for it: the virtual tokens would have to be turned anew for that text alone.

    ``segments`` are those of the texts by themselves.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    limits = {
        "dynamic": getattr(text, "max_position_embeddings", None),
        "longrope": rope.get("original_max_position_embeddings"),
    }
    limit = limits.get(rope.get("rope_type", "default"))
    if limit is None:
        return
    ends: list[int] = []  # of each segment, behind all that it continues
    for _, length, parent in segments:
        ends.append(length + (0 if parent is None else ends[parent]))
    if count + max(ends) > limit:
        raise ModelError(
            f"a text of {max(ends)} tokens and {count} virtual ones reach past position"
            f" {limit}, where the {rope['rope_type']} RoPE of this model changes; set"
            f" data.max_length={limit - count}"
        )


def cached_states(cache: Any, count: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Keys and values, (1, Hk, count, D), of each layer of a cache of ``count`` tokens.

    A layer with a sliding window has dropped those that no further token sees; there zeros stand for them.
    """
    missing = [count - layer.keys.shape[2] for layer in cache.layers]
    return tuple(
        (F.pad(layer.keys, (0, 0, gap, 0)), F.pad(layer.values, (0, 0, gap, 0)))
        for layer, gap in zip(cache.layers, missing, strict=True)
    )


def _of_all_layers(cache: Any, config: Any) -> tuple[tuple[Tensor, Tensor], ...]:
    held = [layer for layer in cache.layers if layer.keys is not None]
    if len(held) != config.num_layers:
        raise ModelError(
            f"PEFT makes a prefix for {len(held)} of the {config.num_layers} layers of this model; use prompt"
            " or ptuning"
        )
    return cached_states(cache, config.num_virtual_tokens)
