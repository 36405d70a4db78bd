"""One way to load any model: embedded name, local directory, adapter, run directory, ``.gguf`` or hub id.

Code that comes with a model is never run and pickled weights are never read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tunewright.core.errors import ModelError
from tunewright.core.names import nearest
from tunewright.core.paths import RunDir
from tunewright.models.base_record import BASE_RECORD, check_base, fingerprints, recorded_changes
from tunewright.models.bottleneck_files import holds_bottlenecks, read_bottlenecks
from tunewright.models.causal import number_of_parameters
from tunewright.models.changes import NONE, Changes
from tunewright.models.classifier import refuse_foreign
from tunewright.models.copies import widen_copies
from tunewright.models.embedded import EMBEDDED, embedded_path
from tunewright.models.precision import Precision, choose, computing_in
from tunewright.models.prepare import changed_loading, grow_vocabulary, refuse_known
from tunewright.models.quantised import is_quantised, settle
from tunewright.models.quiet import quiet_loading, quiet_peft
from tunewright.models.rope import remember
from tunewright.models.score import restore
from tunewright.models.score_files import read_heads
from tunewright.models.token_rows import lean_rows
from tunewright.models.virtual import virtual_tokens

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

Source = Literal["embedded", "directory", "adapter", "gguf", "hub"]
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

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
    """A model ready to use. ``notes`` are things the user should be told; ``prints`` identify its weights.

    ``judges`` says that it was trained to judge text with a head and cannot be asked to write any more.
    ``parameters`` counts those of the language model, without heads and adapter. ``virtual`` are positions of
    its context that virtual tokens take before every text.
    """

    model: nn.Module
    tokenizer: Any
    ref: ModelRef
    precision: Precision
    notes: tuple[str, ...] = field(default=())
    judges: bool = False
    parameters: int = 0
    virtual: int = 0
    prints: Mapping[str, str] = field(default_factory=dict)


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
    if HUB_ID.fullmatch(name):
        return ModelRef(name, "hub", name)
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    close = nearest(path.name, [*EMBEDDED, *beside])
    raise ModelError(f"no model {name!r}: neither a directory nor an embedded name. {close}")


def _resolve_directory(name: str, path: Path) -> ModelRef:
    run = RunDir(path)
    if (run.adapter / "adapter_config.json").exists():
        return replace(_resolve_directory(name, run.adapter), name=name)
    if (run.model / "config.json").exists():
        return replace(_resolve_directory(name, run.model), name=name)
    if (path / "adapter_config.json").exists():
        _refuse_pickles(name, path)
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
        _refuse_pickles(name, path)
        return ModelRef(name, "directory", str(path))
    raise ModelError(f"{path} holds no model: neither config.json, adapter_config.json, adapter/ nor model/")


def _refuse_pickles(name: str, directory: Path) -> None:
    """A pickle can run any program when it is read, so only safetensors count as weights."""
    if any(directory.glob("*.safetensors")):
        return
    pickled = sorted(p.name for ending in PICKLED for p in directory.glob(f"*{ending}"))
    if pickled:
        raise ModelError(
            f"{name} holds its weights only as a pickle ({pickled[0]}), which is never read because it can"
            " run code; convert it to safetensors where you trust it"
        )
    raise ModelError(f"{name} has a config but no weights (*.safetensors)")


def _base_of(adapter: Path) -> ModelRef:
    try:
        return resolve(_base_name(adapter))
    except ModelError as error:
        raise ModelError(f"the base model of the adapter {adapter} cannot be used: {error}") from None


def _base_name(adapter: Path) -> str:
    record = adapter / BASE_RECORD
    if record.exists():
        return str(json.loads(record.read_text(encoding="utf-8"))["name"])
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ModelError("its adapter_config.json names none (base_model_name_or_path)")
    return str(base)


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    template: str | None = None,
    weights: torch.dtype | None = None,
    changes: Changes = NONE,
) -> Loaded:
    """Load model and tokenizer; ``weights`` overrides the format weights are kept in (training: float32).

    ``changes`` are made to the base; an adapter's own are read from what stands beside it.
    """
    ref = resolve(name)
    precision = computing_in(weights, choose(device, dtype))
    notes: list[str] = []
    if ref.adapter is not None:
        assert changes == NONE, "an adapter says itself what its base must be"
        changes = recorded_changes(ref.adapter)
    kwargs: dict[str, Any] = {"dtype": weights or precision.dtype, "use_safetensors": True}
    folder, extra = files_of(ref)
    if extra:
        kwargs = kwargs | extra
        kwargs.pop("use_safetensors")
    if changes.quantise is not None:
        _refuse_quantised(ref)
    kwargs |= changed_loading(changes, precision, lambda: config_of(ref))
    heads = read_heads(ref.adapter or Path(ref.path))
    if heads is None:
        refuse_foreign(ref.name, ref.adapter or Path(ref.path))
    with quiet_loading() if heads else nullcontext():  # a classifier may have no output layer of words
        model = reading(
            ref, lambda: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **kwargs)
        )
    if changes.quantise is not None or is_quantised(model):
        settle(model, weights or precision.dtype)
    if changes.rope:
        remember(model, config_of(ref))
    parameters = number_of_parameters(model)
    tokenizer, note = load_tokenizer(name, template)
    notes += [note] if note else []
    if ref.adapter is None:
        refuse_known(tokenizer, changes)
    grow_vocabulary(model, tokenizer, changes)
    prints = fingerprints(model)
    if ref.adapter is not None:
        check_base(ref.adapter, model, prints)
    if heads is not None:
        restore(model, heads)
    if ref.adapter is not None:
        model = _with_adapter(ref, model)
    if not is_quantised(model):  # a quantised one lies where it was read to
        model.to(precision.device)
    model.eval()
    judges = heads is not None and not heads.writes
    virtual = virtual_tokens(model)
    return Loaded(model, tokenizer, ref, precision, tuple(notes), judges, parameters, virtual, prints)


def _with_adapter(ref: ModelRef, model: Any) -> Any:
    """The adapter on top. What it says of a head is left out: the model has its heads already."""
    assert ref.adapter is not None, "only for a model with an adapter"
    if holds_bottlenecks(ref.adapter):
        read_bottlenecks(model, ref.adapter)
        return model
    with quiet_peft():
        config: Any = reading(ref, lambda: PeftConfig.from_pretrained(str(ref.adapter)))
        if config.task_type == "SEQ_CLS":
            config.task_type = "CAUSAL_LM"
            if getattr(config, "modules_to_save", None):  # not every method of PEFT has it
                config.modules_to_save = [name for name in config.modules_to_save if name != "score"] or None
        wrapped = reading(ref, lambda: PeftModel.from_pretrained(model, str(ref.adapter), config=config))
        if widen_copies(wrapped):  # PEFT has just rounded them to the format of the base
            set_peft_model_state_dict(wrapped, load_peft_weights(str(ref.adapter), device="cpu"))
    lean_rows(wrapped)
    return wrapped


def load_tokenizer(name: str, template: str | None = None) -> tuple[Any, str | None]:
    """The tokenizer alone, with its chat template settled, and a note if that is not the model's own."""
    ref = resolve(name)
    folder, extra = files_of(ref)
    if ref.adapter is not None and (ref.adapter / "tokenizer_config.json").exists():
        folder, extra = str(ref.adapter), {}
    tokenizer = reading(ref, lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **extra))
    tokenizer.chat_template, note = _template(tokenizer, template)
    return tokenizer, note


def files_of(ref: ModelRef) -> tuple[str, dict[str, str]]:
    """What transformers' ``from_pretrained`` is given to find the files of ``ref``: a place, and options."""
    if ref.path.endswith(".gguf"):
        return str(Path(ref.path).parent), {"gguf_file": Path(ref.path).name}
    return ref.path, {}


def config_of(ref: ModelRef) -> Any:
    """The config of ``ref``, read anew."""
    folder, extra = files_of(ref)
    return reading(ref, lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False, **extra))


def _refuse_quantised(ref: ModelRef) -> None:
    """Raise ``ModelError`` for a model whose file holds few bits already: what is gone does not come back."""
    if ref.path.endswith(".gguf"):
        kind = "a .gguf file"
    elif getattr(config_of(ref), "quantization_config", None):
        kind = "stored in few bits"
    else:
        return
    raise ModelError(
        f"{ref.name} is {kind} and cannot be quantised while it is read; give the model's own weights as"
        " safetensors, or use adapt.method lora"
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


def reading(ref: ModelRef, read: Any) -> Any:
    """Call ``read``; what the libraries raise about a bad model becomes one clear sentence."""
    try:
        return read()
    except OSError as error:
        if ref.source != "hub":
            raise ModelError(f"cannot load {ref.name!r}: {_first_line(error)}") from error
        raise ModelError(
            f"cannot load {ref.name!r}: there is no such directory, and as a model of the hub it is neither"
            f" in the local cache nor within reach, or has no safetensors weights ({_first_line(error)})"
        ) from error
    except (ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"cannot load {ref.name!r}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
