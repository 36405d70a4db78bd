"""What the audit is told: the sample of production inputs, the time column, how many rows it holds."""

from __future__ import annotations

from pydantic import Field

from tunewright.core.config import Section


class AuditSettings(Section):
    """Settings of the audit of quality and bias."""

    production: str | None = Field(
        None, description="File with inputs as users send them; coverage is measured against it."
    )
    time: str | None = Field(
        None, description="Key or dotted path of a row with its time; drift is measured along it."
    )
    rows: int = Field(
        20_000, ge=100, description="Rows held in memory, drawn by hash; the report says of how many."
    )
    seed: int = Field(0, ge=0, description="Seed of the draw, the folds and the clusters.")
    pairs: str | None = Field(
        None, description="File for the rows whose gender can be swapped, swapped, as JSON lines."
    )
