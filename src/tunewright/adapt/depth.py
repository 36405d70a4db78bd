"""How deep in the model a parameter lies, read from its name."""

from __future__ import annotations

import re

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|wpe|embeddings?)\.")


def depth_of(name: str, layers: int) -> int:
    """0 for embeddings, 1 to ``layers`` for the layers from below, one more for what stands above them."""
    found = LAYER.search(name)
    if found:
        return int(found[1]) + 1
    return 0 if EMBEDDING.search(name) else layers + 1


def decayed(name: str, layers: int, decay: float) -> float:
    """``decay`` once for every layer above the parameter's own: layer-wise decay of the learning rate."""
    return decay ** (layers + 1 - depth_of(name, layers))
