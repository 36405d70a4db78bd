"""``base.json``, which stands beside an adapter: what base it was trained on, and how to know that base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunewright.core.errors import ModelError
from tunewright.models.causal import decoder_layers
from tunewright.models.changes import NONE, Changes

BASE_RECORD = "base.json"


def base_record(loaded: Any, changes: Changes) -> dict[str, Any]:
    """What the file holds for a ``Loaded`` base; a local path is kept whole, to be found from anywhere."""
    ref = loaded.ref
    local = ref.source in {"directory", "gguf"}
    name = str(Path(ref.name).expanduser().resolve()) if local else ref.name
    shape = {"shape": _shape_of(loaded.model), "weights": dict(loaded.prints)}
    return {"name": name, **shape, **changes.to_dict()}


def recorded_changes(adapter: Path) -> Changes:
    """What the base of a saved adapter must be; nothing special where another program wrote it."""
    record = adapter / BASE_RECORD
    return Changes.from_dict(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else NONE


def check_base(adapter: Path, model: Any, prints: Mapping[str, str]) -> None:
    """Raise ``ModelError`` if ``model`` has another form or other ``prints`` than the adapter's base."""
    record = adapter / BASE_RECORD
    if not record.exists():
        return
    told = json.loads(record.read_text(encoding="utf-8"))
    if told["shape"] != _shape_of(model):
        raise ModelError(
            f"{adapter} was trained on another base: expected {told['shape']}, found {_shape_of(model)}"
        )
    expected = told.get("weights", {})
    if other := [kind for kind in expected.keys() & prints.keys() if expected[kind] != prints[kind]]:
        raise ModelError(
            f"{adapter} was trained on another base: {told['name']} had the same form, but other weights"
            f" ({', '.join(sorted(other))}). Give it the base it was trained on; if the change is meant,"
            f" delete 'weights' from {record}"
        )


def fingerprints(model: nn.Module) -> dict[str, str]:
    """What tells the weights of the first, middle and last layer from others: sha256 by kind.

    ``vectors`` are norms and biases, ``matrices`` the first row of every matrix; a model in few
    bits has none. Numbers are rounded to bfloat16: the format that a model was read in makes no difference.
    """
    layers = decoder_layers(model)  # none of a model of another build: its form alone tells it from others
    found: dict[str, Any] = {}
    few_bits = False
    for place in sorted({0, len(layers) // 2, len(layers) - 1} if layers else ()):
        for name, weight in sorted(layers[place].named_parameters()):
            kind = "vectors" if weight.dim() == 1 else "matrices"
            few_bits |= not weight.is_floating_point()
            row = weight.detach().reshape(-1, weight.shape[-1])[0].to("cpu", torch.bfloat16)
            said = name.encode() + row.contiguous().view(torch.uint8).numpy().tobytes()
            found.setdefault(kind, hashlib.sha256()).update(said)
    kinds = found.keys() - ({"matrices"} if few_bits else set())
    return {kind: found[kind].hexdigest() for kind in sorted(kinds)}


def _shape_of(model: Any) -> dict[str, Any]:
    config = model.config.get_text_config()
    keys = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    return {key: getattr(config, key, None) for key in keys}
