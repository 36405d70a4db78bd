"""What cleaning does to the rows of a run."""

from __future__ import annotations

from pydantic import Field, field_validator

from tunewright.core.config import Section
from tunewright.core.names import nearest
from tunewright.data.clean.filters import DROPS, FILTERS, NOTES, Step

FILE_STEPS: dict[str, tuple[Step, ...]] = {
    "placeholder_answer": DROPS,
    "boilerplate_answer": NOTES,
    "wrong_language": NOTES,
}
STEPS: dict[str, tuple[Step, ...]] = {**{f.name: f.steps for f in FILTERS}, **FILE_STEPS}
NAMED_LANGUAGE_STEP: Step = "drop"


class CleanSettings(Section):
    """Which filters run, what they do, and what is expected of the file as a whole."""

    steps: dict[str, Step] = Field(
        {}, description="Filter -> repair, drop, note or off, where it is not what `docs/clean.md` says."
    )
    language: str = Field(
        "majority",
        pattern=r"^(majority|any|[a-z]{2,3})$",
        description="Expected language (ISO 639); majority: that of nine in ten rows; any: no matter.",
    )
    boilerplate: int = Field(20, ge=2, description="Rows with one long answer that make it boiler-plate.")

    @field_validator("steps")
    @classmethod
    def _known(cls, steps: dict[str, Step]) -> dict[str, Step]:
        for name, step in steps.items():
            if name not in STEPS:
                raise ValueError(f"no filter is called {name!r}. {nearest(name, list(STEPS))}")
            if step not in STEPS[name]:
                raise ValueError(f"{name} cannot {step}; it can be {', '.join(STEPS[name])}")
        return steps

    def step(self, name: str) -> Step:
        """What happens to a row that the filter ``name`` meets. A language that was named is insisted on."""
        if name in self.steps:
            return self.steps[name]
        if name == "wrong_language" and self.language not in ("majority", "any"):
            return NAMED_LANGUAGE_STEP
        return STEPS[name][0]
