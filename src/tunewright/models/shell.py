"""A model without weights: all that can be known of it from its config, in no time and next to no memory.

What it would weigh, how its layers are called, how a text is rendered for it. ``planning`` uses one, so that
a run can be planned that this machine could never hold.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import HfQuantizer

from tunewright.models.causal import number_of_parameters
from tunewright.models.changes import NONE, Changes, Quantise
from tunewright.models.load import Loaded, ModelRef, config_of, load_tokenizer, reading, resolve
from tunewright.models.precision import Precision, choose, computing_in
from tunewright.models.prepare import changed_loading, grow_vocabulary, refuse_known
from tunewright.models.quantised import settle
from tunewright.models.rope import remember
from tunewright.models.score_files import read_heads


def load_shell(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    template: str | None = None,
    weights: torch.dtype | None = None,
    changes: Changes = NONE,
) -> Loaded:
    """What ``load.load`` would give, with all weights on ``meta``; for a base model, not for an adapter."""
    ref = resolve(name)
    assert ref.adapter is None, "an adapter has no config of its own"
    precision = computing_in(weights, choose(device, dtype))
    model = build(ref, precision, weights, changes)
    parameters = number_of_parameters(model)
    tokenizer, note = load_tokenizer(name, template)
    refuse_known(tokenizer, changes)
    grow_vocabulary(model, tokenizer, changes)
    heads = read_heads(Path(ref.path))
    judges = heads is not None and not heads.writes
    return Loaded(model.eval(), tokenizer, ref, precision, (note,) if note else (), judges, parameters)


def build(ref: ModelRef, precision: Precision, weights: torch.dtype | None, changes: Changes) -> Any:
    """The model of ``ref`` on ``meta``, in the format and with the changes that a run would load it with.

    Raises ``ModelError`` for a config that cannot be read or changed so.
    """
    options = changed_loading(changes, precision, lambda: config_of(ref))
    make: Any = AutoModelForCausalLM.from_config
    config = options.get("config") or config_of(ref)
    with torch.device("meta"):
        model = reading(ref, lambda: make(config, dtype=options.get("dtype", weights or precision.dtype)))
    if changes.quantise is not None:
        quantise(model, options["quantization_config"], changes.quantise)
        settle(model, weights or precision.dtype)
    if changes.rope:
        remember(model, config_of(ref))
    folder = Path(ref.path)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def bytes_on_disk(ref: ModelRef) -> int | None:
    """Size of the weights as they are stored; None for a model of the hub."""
    path = Path(ref.path)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else None


def quantise(model: Any, config: Any, how: Quantise) -> None:
    """Give the linear layers of ``model``, on ``meta``, the form that bitsandbytes gives them."""
    functional = importlib.import_module("bitsandbytes.functional")
    kinds = importlib.import_module("bitsandbytes.nn")
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, kept, config)
    tables = dict(functional.name2qmap)  # bitsandbytes keeps them, and what is made here has no data
    functional.name2qmap.clear()
    for layer in model.modules():
        if isinstance(layer, kinds.Linear4bit):
            data, state = functional.quantize_4bit(
                layer.weight.data, compress_statistics=how.double, quant_type=how.format
            )
            layer.weight = kinds.Params4bit(
                data, requires_grad=False, quant_state=state, quant_type=how.format, bnb_quantized=True
            )
        elif isinstance(layer, kinds.Linear8bitLt):
            weight = kinds.Int8Params(layer.weight.data.to(torch.int8), requires_grad=False)
            weight.SCB = layer.weight.data.new_empty(len(layer.weight), dtype=torch.float32)
            layer.weight = weight
    functional.name2qmap.clear()
    functional.name2qmap.update(tables)
