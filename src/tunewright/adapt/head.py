"""Transfer learning: the model stays as it is, only a new head on its states trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from tunewright.core.errors import ConfigError


class HeadOnly:
    """Nothing of the model trains. The objective brings the head, so it must be one that has a head."""

    provides: frozenset[str] = frozenset()
    label = "head only"

    def attach(self, model: Any) -> nn.Module:
        """Freeze everything that is there."""
        model.requires_grad_(False)
        return model

    @contextmanager
    def disabled(self, model: Any) -> Iterator[None]:
        """There is nothing to switch off, and no objective with a head alone needs a reference."""
        raise ConfigError("adapt.method 'head' has no adapter to switch off; use lora")
        yield

    def merged(self, model: Any) -> nn.Module:
        """The model itself."""
        return model

    def save(self, model: Any, directory: Path) -> None:
        """All weights as safetensors."""
        model.save_pretrained(directory)
