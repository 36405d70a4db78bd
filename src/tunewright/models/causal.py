"""The language model behind whatever wraps it."""

from __future__ import annotations

from typing import Any


def causal_lm(model: Any) -> Any:
    """The transformers model inside an adapter's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
