"""Settings of the methods that train the model's own weights, or a head alone."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunewright.core.settings import Settings, Share

DECAY = (
    "Learning rate of each layer as a multiple of that of the layer above it; 1 is the same for all,"
    " 0.9 is usual where lower layers shall stay."
)


class FullOptions(Settings):
    """Every weight trains."""

    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="The model's own dropout on attention.")
    weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Format the trained weights are kept in; bfloat16 takes half the memory and rounds"
        " every update at random, so that small ones are not lost.",
    )
    layer_decay: float = Field(1.0, gt=0.0, le=1.0, description=DECAY)
    sample_layers: int = Field(
        0, ge=0, description="Layers that move at a time, drawn anew as training goes on (LISA); 0 is all."
    )
    sample_every: int = Field(20, ge=1, description="Steps after which other layers are drawn.")

    @model_validator(mode="after")
    def _one_use(self) -> Self:
        if not self.sample_layers and self.sample_every != 20:
            raise ValueError("sample_every has no effect without sample_layers; set sample_layers=2, say")
        return self


class FreezeOptions(Settings):
    """A part of the model's own weights trains, the rest stays."""

    train: Literal["layers", "modules", "embeddings", "norms", "biases"] = Field(
        "layers",
        description="Which part: the last layers, modules by name, token embeddings, normalisations alone, or"
        " biases alone (BitFit).",
    )
    layers: int = Field(2, ge=1, description="train=layers: how many of the last layers.")
    modules: list[str] = Field([], description="train=modules: names of the modules, or ends of names.")
    unfreeze: Share = Field(
        0.0,
        description="train=layers: share of the steps over which the layers begin to move one by one, from"
        " the last down; 0 is all from the start.",
    )
    layer_decay: float = Field(1.0, gt=0.0, le=1.0, description=DECAY)

    @model_validator(mode="after")
    def _of_one_part(self) -> Self:
        if self.train == "modules" and not self.modules:
            raise ValueError("train 'modules' needs modules: the names of those that train")
        fields = type(self).model_fields
        for name, part in (("layers", "layers"), ("unfreeze", "layers"), ("modules", "modules")):
            if self.train != part and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} is read with train {part!r} only, not with {self.train!r}")
        return self


class HeadOptions(Settings):
    """A new head alone."""
