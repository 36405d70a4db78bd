"""How candidates are compared; one description per setting, which the command line's options follow."""

from __future__ import annotations

from pydantic import Field

from tunewright.core.config import Section


class DetectiveSettings(Section):
    """How much of each data set is looked at, and how long the race is."""

    model: str = Field(
        "smollm2-135m-instruct", description="Language model that is to learn: a name, directory or hub id."
    )
    rows: int = Field(32, ge=4, description="Rows of each candidate whose gradients are compared.")
    max_length: int = Field(192, ge=16, description="Tokens of a text that are read; the rest is cut off.")
    finalists: int = Field(3, ge=0, description="Best candidates that are raced; 0 leaves the race out.")
    race_tokens: int = Field(6144, ge=256, description="Tokens that each finalist may train on.")
    replies: int = Field(1, ge=0, description="Held-out questions that are answered before and after.")
    seed: int = Field(0, description="Decides the rows drawn, the halves, the projection and the start.")
