"""One way to load any model: embedded name, local directory, adapter, run directory, ``.gguf`` or hub id.

Code that comes with a model is never run and pickled weights are never read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tunewright.core.errors import ModelError
from tunewright.core.names import nearest
from tunewright.core.paths import RunDir
from tunewright.models.embedded import EMBEDDED, embedded_path
from tunewright.models.precision import Precision, choose
from tunewright.models.quiet import quiet_peft

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

Source = Literal["embedded", "directory", "adapter", "gguf", "hub"]
BASE_RECORD = (
    "base.json"  # beside an adapter: which base it was trained on, by name and by hash of its config
)

# For base models that come without a chat template: plain text, ended by the end-of-text token.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}### Response:\n{{ m['content'] }}{{ eos_token }}\n\n"
    "{% elif m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% else %}### Instruction:\n{{ m['content'] }}\n\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)


@dataclass(frozen=True)
class ModelRef:
    """What a model name means. ``path`` is what transformers loads; ``adapter`` lies on top of it."""

    name: str
    source: Source
    path: str
    adapter: Path | None = None


@dataclass(frozen=True)
class Loaded:
    """A model ready to use. ``notes`` are things the user should be told."""

    model: nn.Module
    tokenizer: Any
    ref: ModelRef
    precision: Precision
    notes: tuple[str, ...] = field(default=())


def resolve(name: str) -> ModelRef:
    """Find out what ``name`` is without loading it; raises ``ModelError`` with the nearest known name."""
    if name in EMBEDDED:
        return ModelRef(name, "embedded", str(embedded_path(name)))
    path = Path(name).expanduser()
    if path.is_dir():
        return _resolve_directory(name, path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{name}: no such .gguf file")
        return ModelRef(name, "gguf", str(path))
    if path.exists():
        raise ModelError(f"{name} is a file, not a model; give a directory, a .gguf file or a name")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return ModelRef(name, "hub", name)
    raise ModelError(
        f"no model {name!r}: neither a directory nor an embedded name. {nearest(name, EMBEDDED)}"
    )


def _resolve_directory(name: str, path: Path) -> ModelRef:
    run = RunDir(path)
    if (run.adapter / "adapter_config.json").exists():
        return replace(_resolve_directory(name, run.adapter), name=name)
    if (run.model / "config.json").exists():
        return replace(_resolve_directory(name, run.model), name=name)
    if (path / "adapter_config.json").exists():
        base = _base_of(path)
        if base.adapter is not None:
            raise ModelError(f"{name}: its base {base.name} is itself an adapter; merge that one first")
        return ModelRef(name, "adapter", base.path, adapter=path)
    if (path / "config.json").exists():
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if "auto_map" in config:
            raise ModelError(
                f"{name} brings its own code (auto_map in config.json); Tunewright never runs it"
            )
        return ModelRef(name, "directory", str(path))
    raise ModelError(f"{path} holds no model: neither config.json, adapter_config.json, adapter/ nor model/")


def _base_of(adapter: Path) -> ModelRef:
    record = adapter / BASE_RECORD
    if record.exists():
        return resolve(json.loads(record.read_text(encoding="utf-8"))["name"])
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{adapter}/adapter_config.json names no base model (base_model_name_or_path)")
    return resolve(base)


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    template: str | None = None,
    weights: torch.dtype | None = None,
) -> Loaded:
    """Load model and tokenizer. ``weights`` overrides the format weights are kept in (training keeps float32)."""
    ref = resolve(name)
    precision = choose(device, dtype)
    notes: list[str] = []
    kwargs: dict[str, Any] = {"dtype": weights or precision.dtype, "use_safetensors": True}
    folder = ref.path
    if ref.path.endswith(".gguf"):
        folder, kwargs["gguf_file"] = str(Path(ref.path).parent), Path(ref.path).name
        kwargs.pop("use_safetensors")
    model = _reading(
        name, lambda: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **kwargs)
    )
    tokenizer, note = load_tokenizer(name, template)
    notes += [note] if note else []
    if ref.adapter is not None:
        _check_base(ref.adapter, model)
        with quiet_peft():
            model = _reading(name, lambda: PeftModel.from_pretrained(model, str(ref.adapter)))
    model.to(precision.device).eval()
    return Loaded(model, tokenizer, ref, precision, tuple(notes))


def load_tokenizer(name: str, template: str | None = None) -> tuple[Any, str | None]:
    """The tokenizer alone, with its chat template settled, and a note if that is not the model's own."""
    ref = resolve(name)
    folder, extra = ref.path, {}
    if ref.adapter is not None and (ref.adapter / "tokenizer_config.json").exists():
        folder = str(ref.adapter)
    elif ref.path.endswith(".gguf"):
        folder, extra = str(Path(ref.path).parent), {"gguf_file": Path(ref.path).name}
    tokenizer = _reading(
        name, lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **extra)
    )
    tokenizer.chat_template, note = _template(tokenizer, template)
    return tokenizer, note


def base_record(name: str, model: Any) -> dict[str, Any]:
    """What ``base.json`` holds beside an adapter."""
    return {"name": name, "shape": _shape_of(model)}


def _shape_of(model: Any) -> dict[str, Any]:
    config = model.config.get_text_config()
    keys = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    return {key: getattr(config, key, None) for key in keys}


def _check_base(adapter: Path, model: Any) -> None:
    record = adapter / BASE_RECORD
    if not record.exists():
        return
    expected = json.loads(record.read_text(encoding="utf-8"))["shape"]
    if expected != _shape_of(model):
        raise ModelError(
            f"{adapter} was trained on another base: expected {expected}, found {_shape_of(model)}"
        )


def _template(tokenizer: Any, override: str | None) -> tuple[str, str | None]:
    if override is not None:
        path = Path(override)
        if not path.is_file():
            raise ModelError(f"model.template {override!r}: no such file")
        return path.read_text(encoding="utf-8"), f"chat template taken from {override}"
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        return template, None
    return PLAIN_TEMPLATE, "the model has no chat template; using plain '### Instruction / ### Response' text"


def _reading(name: str, read: Any) -> Any:
    """Call ``read``; what the libraries raise about a bad model becomes one clear sentence."""
    try:
        return read()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load {name!r}: {first}") from error
