"""LongLoRA (Chen et al. 2023, arXiv 2309.12307): a model learns texts longer than it was made for.

Three parts, each of which can be left out: stretched rotary positions (``models/rope.py``), attention within
shifted groups while training (``models/shifted.py``), and norms and embeddings that train beside the low-rank
updates. At inference attention is dense, so the result is an ordinary model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from peft import LoraConfig, PeftConfig
from torch import nn

from tunewright.adapt.lora import Lora
from tunewright.adapt.options.lora import LongLoraOptions
from tunewright.core.errors import ConfigError, ModelError
from tunewright.models.rope import as_before, check_rotary
from tunewright.models.shifted import dense, shift

COPY = ".modules_to_save."  # in the name of a parameter: PEFT trains and saves a copy of the whole module


class LongLora(Lora):
    """LoRA with a longer context. The base is loaded stretched, see ``changes``."""

    options: LongLoraOptions
    stands_for: Mapping[str, str] = {**Lora.stands_for, "ensure_weight_tying": "adapt.also_train"}

    def __init__(self, method: str, options: LongLoraOptions) -> None:
        super().__init__(method, options)
        if options.factor > 1:
            kind = "default" if options.rope == "none" else options.rope
            self.changes = replace(self.changes, rope={"rope_type": kind, "factor": options.factor})

    def attach(self, model: Any) -> nn.Module:
        """Wrap ``model``; raises ``ConfigError`` for one without rotary positions or with a single head."""
        try:
            check_rotary(model.config)
        except ModelError as error:
            raise ConfigError(f"adapt.method 'longlora': {error}") from error
        text = model.config.get_text_config()
        if self.options.group and text.num_attention_heads < 2:
            raise ConfigError("adapt.group: this model has one attention head, no half to shift; set it to 0")
        wrapped = super().attach(model)
        found = shift(wrapped, self.options.group)
        if self.options.group and found != text.num_hidden_layers:
            raise ConfigError(
                f"adapt.group: {found} of the {text.num_hidden_layers} layers of {type(model).__name__} have"
                " attention of the usual form; set it to 0"
            )
        return wrapped

    def config(self, model: Any) -> PeftConfig:
        """PEFT's config for ``model``."""
        config = super().config(model)
        if self.options.also_train == "nothing":
            return config
        assert isinstance(config, LoraConfig), "longlora is LoRA"
        if "trainable_token_indices" in (self.options.model_extra or {}):
            raise ConfigError(
                "adapt.trainable_token_indices has no effect: the whole embedding trains; remove it, or set"
                " adapt.also_train=nothing"
            )
        config.trainable_token_indices = None  # those of new tokens are part of the whole
        config.modules_to_save = sorted({*(config.modules_to_save or ()), *_norms_and_embedding(model)})
        config.ensure_weight_tying = bool(model.config.get_text_config().tie_word_embeddings)
        return config

    def rate_of(self, name: str) -> float:
        """Norms and embeddings learn at the rate of full training, the low-rank updates as in LoRA."""
        return 1 / self.rate if COPY in name else super().rate_of(name)

    @contextmanager
    def disabled(self, model: Any) -> Iterator[None]:
        """The base answers, bit for bit: its own positions, and dense attention also in training mode."""
        with super().disabled(model), dense(model), as_before(model):
            yield


def _norms_and_embedding(model: Any) -> set[str]:
    """Last parts of the names of all normalisations and of the token embedding."""
    embedding = model.get_input_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if module is embedding or ("norm" in type(module).__name__.lower() and not list(module.children()))
    }
