"""Settings of small modules between the layers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewright.core.settings import Settings


class BottleneckOptions(Settings):
    """Two thin layers with a nonlinearity between them, beside or behind what the model has."""

    style: Literal["houlsby", "pfeiffer", "parallel"] = Field(
        "pfeiffer",
        description="houlsby: behind attention and behind the MLP; pfeiffer: behind the MLP; parallel: beside"
        " the MLP.",
    )
    size: int = Field(64, ge=1, description="Width of the bottleneck.")
    activation: Literal["relu", "gelu", "silu"] = Field(
        "gelu",
        description="The nonlinearity; where states are small, units of relu can fall silent for good.",
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout inside the bottleneck.")
    scale: float | None = Field(
        None, gt=0.0, description="What the output is multiplied by; default 1, parallel: 4."
    )
