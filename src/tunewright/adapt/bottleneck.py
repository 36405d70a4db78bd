"""Bottleneck adapters: Houlsby, Pfeiffer, parallel. The modules are in ``models.bottleneck``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from tunewright.adapt.base import Method
from tunewright.adapt.options.modules import BottleneckOptions
from tunewright.core.errors import ConfigError, ModelError
from tunewright.models.bottleneck import Form, attach, switched_off
from tunewright.models.bottleneck_files import write_bottlenecks

# Loss on ten held-out answers of MedQuAD (SmolLM2 135M, 24 updates of 256 tokens, one seed; 2.40 before):
# Pfeiffer 1.86 at 10 times the full rate (relu), 1.78 at 30, 1.92 at 100; Houlsby 1.75, parallel 1.80 at 30;
# LoRA 1.81 at its 10. Longer runs want lower rates than so short ones, so it is not the 30.
BOTTLENECK_OVER_FULL = 20.0
PARALLEL_SCALE = 4.0  # He et al. 2021, arXiv 2110.04366


class Bottleneck(Method):
    """Only the bottlenecks train, in float32. Of the norms, which Houlsby et al. train as well, nothing is
    changed, so that the base is there whenever the bottlenecks are switched off."""

    provides = frozenset({"reference"})
    rate = BOTTLENECK_OVER_FULL
    library = "tunewright"
    merges = False

    def __init__(self, method: str, options: BottleneckOptions) -> None:
        self.options = options
        self.label = f"{options.style.capitalize()} adapters of size {options.size}"

    def attach(self, model: Any) -> nn.Module:
        """Freeze ``model`` and put a bottleneck into every layer.

        Raises ``ConfigError`` if the size exceeds the model's width, or for layers of an unknown form.
        """
        options, width = self.options, model.config.get_text_config().hidden_size
        if options.size > width:
            raise ConfigError(
                f"adapt.size {options.size} is no bottleneck: this model is {width} wide; use at most {width}"
            )
        scale = PARALLEL_SCALE if options.style == "parallel" else 1.0
        scale = scale if options.scale is None else options.scale
        model.requires_grad_(False)
        try:
            attach(model, Form(options.style, options.size, options.activation, scale, options.dropout))
        except ModelError as error:
            raise ConfigError(f"adapt.method 'bottleneck': {error}") from error
        return model  # type: ignore[no-any-return]

    @contextmanager
    def disabled(self, model: Any) -> Iterator[None]:
        """The base answers, bit for bit."""
        with switched_off(model):
            yield

    def merged(self, model: Any) -> nn.Module:
        """There is nothing to fold a nonlinear function into."""
        raise ConfigError(
            "adapt.method 'bottleneck' cannot be merged: between its layers is a nonlinearity; save the"
            " adapter, or use lora"
        )

    def save(self, model: Any, directory: Path) -> None:
        """As ``models.bottleneck_files`` describes."""
        write_bottlenecks(model, directory)
