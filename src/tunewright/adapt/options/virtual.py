"""Settings of the methods that train what stands before the text."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunewright.core.settings import Settings

TOKENS = "Virtual tokens; they take as many positions of the model's context."
TEXT = "Text that they start from, repeated to their number; default random words of the vocabulary."


class PromptOptions(Settings):
    """Prompt tuning: trained embeddings before the text."""

    tokens: int = Field(20, ge=1, description=TOKENS)
    text: str | None = Field(None, description=TEXT)


class PrefixOptions(Settings):
    """Prefix tuning: trained keys and values before the text, in every layer."""

    tokens: int = Field(20, ge=1, description=TOKENS)
    text: str | None = Field(None, description=TEXT)
    width: int = Field(
        0, ge=0, description="Width of a network that makes them in training; 0 trains them as they are."
    )

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.width and self.text is not None:
            raise ValueError("a network (width) starts at random, so text has no effect; set width=0")
        return self


class PTuningOptions(Settings):
    """P-tuning: embeddings before the text, made by a small trained network."""

    tokens: int = Field(20, ge=1, description=TOKENS)
    encoder: Literal["mlp", "lstm"] = Field("mlp", description="The network.")
    width: int = Field(128, ge=1, description="Its width.")
