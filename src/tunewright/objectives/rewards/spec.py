"""What every reward is made of: the row it sees, its settings, and the error it may answer with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import Field

from tunewright.core.config import Section
from tunewright.core.errors import DataError, TrainError
from tunewright.core.names import nearest


class RewardError(TrainError):
    """An answer could not be scored.

    By default training stops with this error, because a reward that is quietly wrong teaches the wrong thing.
    With ``on_error: zero`` the answer gets 0 and is counted in ``Scored.failed``. A row without the column a
    reward needs is a ``DataError`` and always stops.
    """


class Row(NamedTuple):
    """One answer to score. ``prompt`` is the last user turn, ``example`` the row's own columns."""

    prompt: str
    answer: str
    example: Mapping[str, Any]


class Reward(Protocol):
    """Scores a whole batch, so that a model or a server can work on many answers at once."""

    def many(self, rows: Sequence[Row]) -> Iterable[float | RewardError]:
        """One score per row, in order; a ``RewardError`` in place of a score that could not be found.

        May be lazy: whoever reads it stops at the first error unless told to go on.
        """
        ...

    def close(self) -> None:
        """Release processes and connections; the reward is not used afterwards."""
        ...


RowFunction = Callable[[str, str, Mapping[str, Any]], float]
BatchFunction = Callable[[Sequence[str], Sequence[str], Sequence[Mapping[str, Any]]], Iterable[float]]


@dataclass(frozen=True)
class Each:
    """A reward made of a function that scores one row."""

    function: RowFunction

    def many(self, rows: Sequence[Row]) -> Iterator[float]:
        return (self.function(*row) for row in rows)

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True)
class Whole:
    """A reward made of a function that scores a batch: ``(prompts, answers, examples) -> scores``."""

    function: BatchFunction

    def many(self, rows: Sequence[Row]) -> Iterable[float]:
        return self.function([r.prompt for r in rows], [r.answer for r in rows], [r.example for r in rows])

    def close(self) -> None:
        """Nothing to release."""


class RewardSpec(Section):
    """The settings that all rewards share. ``name`` is the reward's column in ``Scored.parts``."""

    name: str = Field(default="", description="Which reward; see the list of rewards.")
    weight: float = Field(
        default=1.0, allow_inf_nan=False, description="Factor in the sum; 0 only records it."
    )
    on_error: Literal["stop", "zero"] = Field(
        default="stop", description="What an answer that cannot be scored does: stop training, or count as 0."
    )

    def make(self, folder: Path) -> Reward:
        """The reward with these settings; paths are relative to ``folder``. Raises ``ConfigError``."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is made")


def column(example: Mapping[str, Any], field: str) -> Any:
    """The value of a column the reward cannot do without; raises ``DataError`` with the nearest name."""
    if field not in example:
        hint = nearest(field, map(str, example)) if example else "The row has no columns."
        raise DataError(f"the row has no column {field!r}, which the reward reads. {hint}")
    return example[field]
