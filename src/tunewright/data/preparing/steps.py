"""From settings to the steps for single rows: the one place that knows every step."""

from __future__ import annotations

from tunewright.data.preparing.settings import PrepareSettings
from tunewright.data.preparing.stage import Stage


def stage_of(settings: PrepareSettings) -> Stage:
    """The steps that ``settings`` switch on."""
    return Stage()
