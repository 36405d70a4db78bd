"""How deep in the model a parameter lies, read from its name."""

from __future__ import annotations

import re
from typing import Any

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|wpe|embeddings?)\.")


def layers_of(model: Any) -> int:
    """Number of layers of the model."""
    return int(model.config.get_text_config().num_hidden_layers)


def depth_of(name: str, layers: int) -> int:
    """0 for embeddings, 1 to ``layers`` for the layers from below, one more for what stands above them."""
    found = LAYER.search(name)
    if found:
        return int(found[1]) + 1
    return 0 if EMBEDDING.search(name) else layers + 1
