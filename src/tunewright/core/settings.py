"""What the sections of a recipe are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tunewright.core.config import Section

Auto = Literal["auto"]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


def shorthand(key: str) -> Any:
    """A section written as a plain value stands for its first setting."""

    def expand(value: Any) -> Any:
        return {key: value} if isinstance(value, str) else value

    return model_validator(mode="before")(expand)


class Settings(Section):
    """A section of the recipe. No setting is a switch, and ``true`` must not pass for the number 1."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a switch (true or false) is no value of this setting")
        return value
