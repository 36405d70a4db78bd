"""How personal data is treated: one section of settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tunewright.core.config import Section
from tunewright.core.names import nearest
from tunewright.data.redact.findings import TYPES, Action

FLOOR = 0.4  # below it a finding is not even a question
# Organisations are public more often than not, and masking them costs answers their meaning.
OFF_UNLESS_NAMED = frozenset({"ORGANIZATION"})


class RedactSettings(Section):
    """What is looked for in rows, and what is done about it."""

    action: Action = Field("mask", description="What happens to personal data and secrets that are found.")
    types: dict[str, Action] = Field({}, description="Type -> action, where it differs from ``action``.")
    names: Literal["off", "cues", "full"] = Field(
        "cues", description="People: not at all, by words around them, or with a language model as well."
    )
    regions: tuple[str, ...] = Field(("US", "GB"), description="Countries whose local phone numbers count.")
    threshold: float = Field(0.7, gt=FLOOR, le=1, description="From this certainty on a finding is acted on.")
    uncertain: Literal["ask", "act", "ignore"] = Field(
        "ask", description="Less certain findings: left in place and asked about, acted on, or ignored."
    )
    allow: tuple[str, ...] = Field((), description="Values that are left alone, such as your own hotline.")
    key_file: str | None = Field(None, description="The key of pseudonyms; one of your own by default.")

    @field_validator("types")
    @classmethod
    def _known_types(cls, types: dict[str, Action]) -> dict[str, Action]:
        for name in types:
            if name not in TYPES:
                raise ValueError(f"unknown type {name!r}. {nearest(name, list(TYPES))}")
        return types

    @field_validator("regions")
    @classmethod
    def _countries(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for region in regions:
            if len(region) != 2 or not region.isascii() or not region.isupper():
                raise ValueError(f"{region!r} is not a country code of two capital letters, such as GB")
        return regions

    def action_for(self, kind: str) -> Action:
        """What happens to a finding of this type."""
        return self.types.get(kind) or ("off" if kind in OFF_UNLESS_NAMED else self.action)

    @property
    def active(self) -> bool:
        """Whether anything is looked for at all."""
        return any(self.action_for(kind) != "off" for kind in TYPES)
