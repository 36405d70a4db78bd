"""Bottleneck adapters on disk, in a format of our own, as PEFT has no such method.

    adapter_config.json          {"peft_type": "TUNEWRIGHT_BOTTLENECK", "version": 1,
                                  "base_model_name_or_path": "…", "style": "pfeiffer", "size": 64,
                                  "activation": "relu", "scale": 1.0, "dropout": 0.0}
    adapter_model.safetensors    layers.3.mlp.down.weight  (size, H) float32, .down.bias (size),
                                 layers.3.mlp.up.weight    (H, size), .up.bias (H); houlsby has the same of
                                 layers.3.attention

PEFT itself refuses the ``peft_type``, which it does not know.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewright.core.errors import ModelError
from tunewright.core.paths import write_json, written_atomically
from tunewright.models.bottleneck import NAME, Form, attach, bottlenecks_of, layers_of

KIND, VERSION = "TUNEWRIGHT_BOTTLENECK", 1
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def holds_bottlenecks(directory: Path) -> bool:
    """Whether the adapter in ``directory`` is of this kind."""
    facts = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    return bool(facts.get("peft_type") == KIND)


def write_bottlenecks(lm: Any, directory: Path) -> None:
    """Save the bottlenecks that the causal language model carries; the config is written last."""
    weights = {name: value.detach().cpu().contiguous() for name, value in _weights(lm).items()}
    with written_atomically(directory / WEIGHTS) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    base = {"base_model_name_or_path": lm.config.name_or_path or None}
    form = asdict(bottlenecks_of(lm)[0].form)
    write_json(directory / CONFIG, {"peft_type": KIND, "version": VERSION, **base, **form})


def read_bottlenecks(lm: Any, directory: Path) -> None:
    """Put the bottlenecks saved in ``directory`` on the causal language model.

    Raises ``ModelError`` for a file that is damaged, of a later version, or of another base.
    """
    form = _form(directory)
    try:
        saved = load_file(directory / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the adapter in {directory} cannot be read: {error}") from error
    attach(lm, form)
    own = _weights(lm)
    _check_shapes(directory, own, saved)
    for name, value in own.items():
        value.copy_(saved[name])
    for found in bottlenecks_of(lm):
        found.requires_grad_(False)


def _form(directory: Path) -> Form:
    facts = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    if facts.get("version") != VERSION:
        raise ModelError(
            f"{directory / CONFIG} has version {facts.get('version')!r}, and version {VERSION} is read here;"
            " update tunewright"
        )
    missing = [f.name for f in fields(Form) if f.name not in facts]
    if missing:
        raise ModelError(f"{directory / CONFIG} does not say {', '.join(missing)}; save the adapter again")
    form = Form(**{f.name: facts[f.name] for f in fields(Form)})
    for name, hint in get_type_hints(Form).items():
        if get_args(hint) and getattr(form, name) not in get_args(hint):
            raise ModelError(
                f"{directory / CONFIG}: {name} {facts[name]!r}, known: {', '.join(get_args(hint))}"
            )
    return form


def _weights(lm: Any) -> dict[str, Tensor]:
    """Name in the file -> weight in the model."""
    return {
        f"layers.{number}.{name}": value.detach()
        for number, layer in enumerate(layers_of(lm))
        for name, value in layer._modules[NAME].state_dict().items()
    }


def _check_shapes(directory: Path, own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    for name in sorted(own.keys() | saved.keys()):
        needed, found = (tuple(w[name].shape) if name in w else None for w in (own, saved))
        if needed != found:
            raise ModelError(
                f"{directory / WEIGHTS} is of another model or damaged: {name} should have the shape"
                f" {needed}, found {found}"
            )
