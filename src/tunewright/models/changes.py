"""What an adapter needs the base model to be before it is attached; stored beside it in ``base.json``.

Whoever loads the adapter gets the same base: quantised, its rotary embedding stretched, its vocabulary grown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Quantise:
    """Linear layers of the base in 4 or 8 bits (bitsandbytes). ``double`` quantises the constants too."""

    bits: Literal[4, 8] = 4
    format: Literal["nf4", "fp4"] = "nf4"
    double: bool = True


@dataclass(frozen=True)
class Changes:
    """``rope`` holds the ``rope_type`` and ``factor`` by which the context is stretched, see ``rope.py``;
    ``new_tokens`` join the vocabulary."""

    quantise: Quantise | None = None
    rope: Mapping[str, Any] = field(default_factory=dict)
    new_tokens: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, only those that change anything."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Changes:
        """The inverse of ``to_dict``."""
        quantise = values.get("quantise")
        return cls(
            Quantise(**quantise) if quantise else None,
            dict(values.get("rope", {})),
            tuple(values.get("new_tokens", ())),
        )


NONE = Changes()
