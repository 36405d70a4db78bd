"""Every parameter trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from tunewright.core.errors import ConfigError


class Full:
    """Full fine-tuning: float32 weights, all of them trained. ``dropout`` sets the model's own dropouts."""

    provides: frozenset[str] = frozenset()
    label = "full"

    def __init__(self, *, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def attach(self, model: Any) -> nn.Module:
        """Unfreeze everything. Raises ``ConfigError`` if dropout is asked of a model that has none."""
        model.requires_grad_(True)
        if self.dropout > 0:
            touched = [m for m in model.modules() if hasattr(m, "attention_dropout")]
            for module in touched:
                module.attention_dropout = self.dropout
            if not touched:
                raise ConfigError("adapt.dropout: this model has no dropout to set; use weight_decay instead")
        return model

    @contextmanager
    def disabled(self, model: Any) -> Iterator[None]:
        """There is nothing to switch off: the base is overwritten."""
        raise ConfigError("adapt.method 'full' keeps no untouched base; use lora or give a reference model")
        yield

    def merged(self, model: Any) -> nn.Module:
        """The model itself."""
        return model

    def save(self, model: Any, directory: Path) -> None:
        """All weights as safetensors."""
        model.save_pretrained(directory)
