"""Rewards that look at the answer as text: equal to the reference, or of the right length."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tunewright.core.errors import DataError
from tunewright.objectives.rewards.spec import Each, Reward, RewardSpec, column


def exact_match(prompt: str, answer: str, example: Mapping[str, Any], field: str = "answer") -> float:
    """1 if the answer equals the reference after ``normalised``, else 0; case matters."""
    reference = column(example, field)
    if isinstance(reference, bool) or not isinstance(reference, str | int):
        raise DataError(f"column {field!r} must be text to compare with (got {str(reference)[:60]!r})")
    return float(normalised(answer) == normalised(str(reference)))


def normalised(text: str) -> str:
    """Unicode NFC; each run of white space is one space, and there is none at either end."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class ExactMatch(RewardSpec):
    """1 if the answer is the reference, apart from white space."""

    field: str = Field(default="answer", description="Column of the row that holds the reference.")

    def make(self, folder: Path) -> Reward:
        return Each(partial(exact_match, field=self.field))


def length_score(size: int, low: float, high: float) -> float:
    """1 for low <= size <= high, falling linearly to 0 at size 0 below and at size 2 * high above.

    Below: ``size / low``. Above: ``max(0, 1 - (size - high) / high)``.
    """
    if size < low:
        return size / low
    return max(0.0, 1.0 - max(0.0, size - high) / high)


class Length(RewardSpec):
    """How near the answer's length is to ``target``, or to the stretch from ``target`` to ``most``.

    ``length_score`` has the formula. Only ``target``: both ends are the target. Only ``most``: no lower end.
    """

    target: int | None = Field(default=None, gt=0, description="Shortest length that scores 1.")
    most: int | None = Field(default=None, gt=0, description="Longest length that scores 1.")
    unit: Literal["words", "characters"] = Field(default="words", description="What is counted.")

    @model_validator(mode="after")
    def check_limits(self) -> Self:
        if self.target is None and self.most is None:
            raise ValueError("give `target`, `most` or both")
        if self.target and self.most and self.most < self.target:
            raise ValueError(f"`most` ({self.most}) is less than `target` ({self.target})")
        return self

    def make(self, folder: Path) -> Reward:
        return Each(self._score)

    def _score(self, prompt: str, answer: str, example: Mapping[str, Any]) -> float:
        size = len(answer.split()) if self.unit == "words" else len(answer)
        high = self.most or self.target
        assert high is not None, "checked when the settings were read"
        return length_score(size, self.target or 0, high)
