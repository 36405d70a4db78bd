"""Any method of PEFT: its config is made from the recipe, its file format is what is saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from torch import nn

from tunewright.adapt.base import LORA_OVER_FULL, Method, trainable
from tunewright.adapt.options.lora import PeftOptions
from tunewright.adapt.peft_kinds import UNMERGED, UNREAD, USUAL, config_class, rate_prior
from tunewright.adapt.targets import conv_layers, last_of_mlp, norm_layers, resolved
from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.models.causal import number_of_layers
from tunewright.models.copies import widen_copies
from tunewright.models.quantised import is_quantised
from tunewright.models.quiet import quiet_peft
from tunewright.models.token_rows import lean_rows

OWN = frozenset({"peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision"})
RAISED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    ImportError,
)  # what PEFT answers bad values with

IGNORED = (  # in what PEFT warns of: a setting has no effect, or another one than was asked for
    "will be ignored",
    "no modules were excluded",
    "no module was matched",
    "no parameter was matched",
    "Adjusted",
)


class PeftMethod(Method):
    """A method of PEFT by its name there; further settings are fields of its config class.

    ``stands_for`` are fields of that class that a setting of ours fills in.
    """

    provides = frozenset({"reference"})
    library = "peft"
    rate = LORA_OVER_FULL
    stands_for: Mapping[str, str] = {"target_modules": "adapt.targets"}

    def __init__(self, method: str, options: PeftOptions) -> None:
        passed_on = options.model_extra or {}
        self.method, self.options = method, options
        self.kind = config_class(method)
        self.label = method
        self.rate = rate_prior(method)
        self.merges = method not in UNMERGED and not passed_on.get("lora_bias")  # which needs a bias to go to
        self.virtual = int(passed_on.get("num_virtual_tokens") or 0)
        self._check_fields(passed_on)
        if passed_on.get("bias", "none") != "none":
            self.provides = frozenset()  # the base's own biases train and stay when it is switched off

    def attach(self, model: Any) -> nn.Module:
        """Wrap ``model``; raises ``ConfigError`` for what does not fit it.

        A shell without numbers is returned as it is where the method's start needs the numbers.
        """
        config = self.config(model)
        try:
            with quiet_peft(), self._nothing_ignored():
                wrapped: nn.Module = get_peft_model(model, config)
        except RAISED as error:
            if isinstance(error, ConfigError):
                raise
            if isinstance(error, NotImplementedError) and next(model.parameters()).is_meta:
                return model  # type: ignore[no-any-return]
            raise ConfigError(f"adapt.method {self.method!r} does not fit this model: {error}") from error
        if not any(parameter.numel() for parameter in trainable(wrapped).values()):
            raise ConfigError(f"adapt.method {self.method!r} finds nothing to train in this model")
        widen_copies(wrapped)
        lean_rows(wrapped)
        self._check_formats(wrapped)
        return wrapped

    def config(self, model: Any) -> PeftConfig:
        """PEFT's config for ``model``."""
        values = {**USUAL.get(self.method, {}), **self._targets(model), **(self.options.model_extra or {})}
        if self.method == "adaption_prompt":
            values.setdefault("adapter_layers", number_of_layers(model))
        return self._make(values)

    @contextmanager
    def disabled(self, model: Any) -> Iterator[None]:
        """The base answers, bit for bit."""
        if "reference" not in self.provides:
            raise ConfigError(
                f"adapt.method {self.method!r} with adapt.bias trains biases of the base, which stay when the"
                " adapter is switched off; use bias none or give a reference model"
            )
        with model.disable_adapter():
            yield

    def merged(self, model: Any) -> nn.Module:
        """The difference folded into the weights; the adapter is gone afterwards."""
        if is_quantised(model):
            raise ConfigError(
                "weights in 4 or 8 bits are too coarse to fold a trained difference into; attach the adapter"
                " by adapt.method qlora, which merges into the dequantised base"
            )
        if not self.merges or not hasattr(model, "merge_and_unload"):
            because = f": {UNMERGED[self.method]}" if self.method in UNMERGED else ""
            raise ConfigError(f"adapt.method {self.method!r} cannot be merged{because}; save the adapter")
        try:
            merged: nn.Module = model.merge_and_unload()
        except RAISED as error:
            raise ConfigError(f"adapt.method {self.method!r} cannot be merged: {error}") from error
        return merged

    def save(self, model: Any, directory: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors``, as PEFT writes them.

        Never with the embedding beside it: whatever of it trains is part of the adapter.
        """
        with quiet_peft():
            model.save_pretrained(directory, save_embedding_layers=False)

    def _targets(self, model: Any) -> dict[str, Any]:
        """The fields that say where the adapter sits, as far as the method has them."""
        known = self._fields()
        found: dict[str, Any] = {}
        if not self._chooses_layers():
            return {}
        if self.method == "ln_tuning":
            found["target_modules"] = norm_layers(model, self.options.targets)
            return found
        found["target_modules"], layers = resolved(model, self.options.targets)
        self._check_layers(model, layers)
        if "fan_in_fan_out" in known:
            found["fan_in_fan_out"] = bool(conv_layers(layers))
        if "feedforward_modules" in known:
            found["feedforward_modules"] = last_of_mlp(model, layers)
            # PEFT wants every one of them among the targets, by the same words
            found["target_modules"] = [
                *dict.fromkeys([*found["target_modules"], *found["feedforward_modules"]])
            ]
        return found

    def _chooses_layers(self) -> bool:
        """Whether the method sits on layers of one's choice; ``ConfigError`` for a choice that it ignores."""
        field = next((f for f in fields(self.kind) if f.name == "target_modules"), None)
        if field is not None and "list" in str(field.type).lower() and self.method != "trainable_tokens":
            return True
        if self.options.targets != type(self.options).model_fields["targets"].default:
            raise ConfigError(f"adapt.targets has no effect with adapt.method {self.method!r}; remove it")
        return False

    def _check_layers(self, model: Any, layers: Mapping[str, nn.Module]) -> None:
        """Raise ``ConfigError`` for a layer number that the model has not."""
        chosen = (self.options.model_extra or {}).get("layers_to_transform")
        count = number_of_layers(model)
        for number in [chosen] if isinstance(chosen, int) else chosen or []:
            if not isinstance(number, int) or not 0 <= number < count:
                raise ConfigError(
                    f"adapt.layers_to_transform {number!r}: this model has the layers 0 to {count - 1}"
                )

    def _check_formats(self, wrapped: nn.Module) -> None:
        """Raise ``ConfigError`` where something would train in a format that loses small updates."""
        for name, parameter in trainable(wrapped).items():
            if parameter.dtype != torch.float32:
                raise ConfigError(
                    f"adapt.method {self.method!r} keeps {name} in {str(parameter.dtype).split('.')[-1]},"
                    " as the base, where small updates are lost; set model.dtype=float32"
                )

    def _make(self, values: dict[str, Any]) -> PeftConfig:
        try:
            with self._nothing_ignored():
                config: PeftConfig = self.kind(task_type="CAUSAL_LM", **values)
        except RAISED as error:
            raise ConfigError(f"adapt.method {self.method!r}: {error}") from error
        return config

    @contextmanager
    def _nothing_ignored(self) -> Iterator[None]:
        """Where PEFT would only warn that a setting has no effect, ``ConfigError`` is raised."""
        with warnings.catch_warnings():
            for words in IGNORED:
                warnings.filterwarnings("error", message=f".*{words}")
            try:
                yield
            except UserWarning as warning:
                raise ConfigError(f"adapt.method {self.method!r}: {warning}") from warning

    def _fields(self) -> frozenset[str]:
        return frozenset(field.name for field in fields(self.kind))

    def _check_fields(self, values: Mapping[str, Any]) -> None:
        """Raise ``ConfigError`` for what is no setting, is set by one of ours, or is read by nothing."""
        ours = {**self.stands_for, **dict.fromkeys(OWN, "the program itself")}
        known = {*self._fields() - ours.keys(), *type(self.options).model_fields}
        for name, value in values.items():
            if name in ours and name in self._fields():
                raise ConfigError(f"adapt.{name} is set by {ours[name]}; use that instead")
            if name not in known:
                raise ConfigError(f"unknown setting 'adapt.{name}' of {self.method}. {nearest(name, known)}")
            if value and name in UNREAD:
                raise ConfigError(f"adapt.{name} cannot be used: {UNREAD[name]}")
