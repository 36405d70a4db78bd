"""Heads on disk: ``heads.safetensors`` with the weights, ``heads.json`` with what they mean.

    {"writes": false, "sha256": "…", "heads": {"score": {"outputs": 3, "pooling": "last", "bias": false,
     "facts": {"task": "classify", "kind": "single", "labels": ["a", "b", "c"], "threshold": 0.5}}}}

They stand beside an adapter, or in the folder of a whole model. The JSON file is written last and carries the
hash of the weights, so a pair that was torn apart is noticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tunewright.core.errors import ModelError
from tunewright.core.hashing import file_digest
from tunewright.core.paths import write_json, written_atomically
from tunewright.models.score import StoredHeads, StoredSpec, heads_of

WEIGHTS, FACTS = "heads.safetensors", "heads.json"


def write_heads(model: Any, directory: Path, *, writes: bool) -> None:
    """Save every head that ``model`` carries; ``writes`` says whether it can still write text."""
    heads = heads_of(model)
    weights = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, head in heads.items()
        for key, value in head.state_dict().items()
    }
    with written_atomically(directory / WEIGHTS) as temporary:
        save_file(weights, temporary)
    facts = {
        name: {
            "outputs": head.weight.shape[0],
            "pooling": head.pooling,
            "bias": head.bias is not None,
            "facts": head.facts,
        }
        for name, head in heads.items()
    }
    record = {"writes": writes, "sha256": file_digest(directory / WEIGHTS), "heads": facts}
    write_json(directory / FACTS, record)


def read_heads(directory: Path) -> StoredHeads | None:
    """What ``write_heads`` wrote into ``directory``; ``None`` where there is nothing.

    Raises ``ModelError`` for a file that is missing, damaged or of another pair.
    """
    record = directory / FACTS
    if not record.is_file():
        return None
    try:
        stored: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        specs = {name: StoredSpec(**facts) for name, facts in stored["heads"].items()}
        if file_digest(directory / WEIGHTS) != stored["sha256"]:
            raise ModelError(f"{directory / WEIGHTS} is not the file that {FACTS} describes; save both again")
        return StoredHeads(specs, load_file(directory / WEIGHTS), bool(stored["writes"]))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ModelError(f"the head in {directory} cannot be read: {why}") from error
