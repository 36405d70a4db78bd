"""What a model is, whatever it is called and wherever it lies: a hash of its config and of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tunewright.core.hashing import canonical_json

_CHANCE = ("_name_or_path", "transformers_version")  # of a config: what says nothing about the numbers


def fingerprint(config: Any, weights: Iterable[Tensor]) -> str:
    """sha256 of a transformers config and of ``weights`` in their order, as hex; about a second per gigabyte.

    File names and times would be cheaper, but a download, a copy and a model of the hub have none to trust.
    """
    settings = {name: value for name, value in config.to_dict().items() if name not in _CHANCE}
    found = hashlib.sha256(canonical_json(settings))
    for tensor in weights:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found.update(content)
    return found.hexdigest()
