"""How files become prepared rows: one section of settings for each thing that is decided."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from tunewright.core.config import Section
from tunewright.core.errors import ConfigError
from tunewright.core.hashing import file_digest
from tunewright.data.clean.settings import CleanSettings
from tunewright.data.contamination.known import known_table
from tunewright.data.dedupe.sketch import version as sketch_version
from tunewright.data.redact.findings import Action
from tunewright.data.redact.keys import redaction_key
from tunewright.data.redact.queue import decisions
from tunewright.data.redact.settings import RedactSettings


class SplitSettings(Section):
    """How rows are divided where no file of its own is given."""

    validation: float = Field(default=0.1, ge=0, lt=1, description="Share of groups that watch training.")
    test: float = Field(default=0.1, ge=0, lt=1, description="Share of groups that judge the result.")
    seed: int = Field(default=0, description="Seed of the hash that decides the side of each group.")
    stratify: bool = Field(default=True, description="Deal each class out by its shares.")
    time: str | None = Field(
        default=None,
        description="Key with the time of a row: the latest rows test, those before them validate.",
    )

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> SplitSettings:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


class CompareSettings(Section):
    """What happens to rows that resemble other rows, or the items of a benchmark."""

    near: Literal["off", "group", "drop"] = Field(
        default="off",
        description="Near-duplicates: off, kept on one side of the split (group), or the best of each kept.",
    )
    threshold: float = Field(
        default=0.8, gt=0, le=1, description="Similarity (Jaccard) from which two rows are near-duplicates."
    )
    benchmarks: dict[str, str] = Field(
        default={}, description="Name -> file of a benchmark; rows that hold its items are left out."
    )
    known: Literal["off", "note", "drop"] = Field(
        default="off", description="What happens to rows that hold items of well-known public test sets."
    )

    @property
    def looks_for(self) -> bool:
        """Whether rows are compared with benchmarks."""
        return bool(self.benchmarks) or self.known != "off"


class PrepareSettings(Section):
    """How files are read, cleaned, compared and divided. Steps are off unless they are asked for."""

    columns: dict[str, str] | None = Field(None, description="Target -> column, dotted path or template.")
    format: str | None = Field(default=None, description="Format, instead of recognising it.")
    group: str | None = Field(default=None, description="Key whose rows must stay on one side of the split.")
    split: SplitSettings = SplitSettings()
    clean: CleanSettings | None = Field(
        default=None, description="Mending of texts; nothing: left as they are."
    )
    redact: RedactSettings | None = Field(
        default=None, description="Search for personal data and secrets; nothing: none is made."
    )
    decisions: str | None = Field(
        default=None, description="Prepared directory whose decisions (data review) are obeyed."
    )
    compare: CompareSettings = CompareSettings()
    tasks: dict[str, str] = Field({}, description="File -> task; empty where all rows are for one thing.")
    task_columns: dict[str, dict[str, str]] = Field(
        {}, description="Task -> columns, where its files have others than ``columns`` says."
    )

    def outside(self) -> list[Any]:
        """What the result depends on beside settings and files of rows: digests of the files they name."""
        key = redaction_key(self.redact.key_file) if self.redact and self.redact.active else b""
        return [
            sketch_version(),
            known_table() if self.compare.known != "off" else [],
            [file_digest(Path(file)) for file in self.compare.benchmarks.values()],
            self.decided(),
            sha256(b"identity" + key).hexdigest(),
        ]

    def decided(self) -> dict[str, Action]:
        """What people decided about values of which it was not sure whether they are personal.

        Raises ``ConfigError`` for a directory that is not there: its decisions would be passed over.
        """
        if not self.decisions:
            return {}
        if not Path(self.decisions).is_dir():
            raise ConfigError(f"decisions: {self.decisions} is no directory; name one that was prepared")
        return decisions(Path(self.decisions))

    def row_steps(self) -> tuple[str, ...]:
        """The steps that rows go through one by one, in order."""
        on = {"redact": self.redact is not None and self.redact.active, "clean": self.clean is not None}
        return ("read", *(step for step, is_on in on.items() if is_on))
