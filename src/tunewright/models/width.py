"""How many rows are answered at once where the recipe leaves it open: as many as pay and as memory allows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tunewright.core.memory import all_bytes, free_bytes
from tunewright.core.settings import Auto
from tunewright.models.causal import causal_lm
from tunewright.models.kvcache import ROOM
from tunewright.models.token_rows import plain_layer

AtOnce = int | Auto  # rows, or as many as pay
# More rows than these make a row no cheaper: products of so many are as fast as they get.
MOST = {"cpu": 256}
MOST_ELSEWHERE = 512
SHARE = 16  # keys, values and logits may take up to this part of all memory, and half of what is free


def rows_at_once(model: nn.Module, columns: int) -> int:
    """For rows with ``columns`` keys and values of their own at the end.

    The free memory decides only where little is left, so that a run that is resumed takes the same number.
    """
    base = causal_lm(model)
    weight = plain_layer(base.get_input_embeddings()).weight
    device = weight.device
    if device.type == "cuda":
        free, everything = map(float, torch.cuda.mem_get_info(device))
    else:
        free, everything = free_bytes(), all_bytes()
    budget = min(everything / SHARE, free / 2)
    most = MOST.get(device.type, MOST_ELSEWHERE)
    return max(1, min(most, int(budget / row_bytes(base.config.get_text_config(), weight.dtype, columns))))


def row_bytes(config: Any, dtype: torch.dtype, columns: int) -> int:
    """Keys and values of all layers, with the room for more that is made ahead, and the logits."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = 2 * config.num_hidden_layers * heads * width * (columns + ROOM)
    return int((keys + config.vocab_size) * dtype.itemsize)
