"""The list of rewards in a recipe, and what it makes: a weighted sum of scores for a batch of answers.

An entry of the list is a name (``numeric``), a mapping with options (``{name: regex, pattern: "^Yes", weight:
0.2}``), a function in a file (``{file: my_rewards.py, function: is_even}``) or, from Python, a function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from tunewright.core.config import build
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.names import Registry, nearest
from tunewright.objectives.rewards.spec import (
    BatchFunction,
    Each,
    Reward,
    RewardError,
    RewardSpec,
    Row,
    RowFunction,
    Whole,
)

Entry = str | Mapping[str, Any] | RowFunction
LARGEST = 1e6  # so that means and variances of groups keep their digits in float32


class ModelReward(RewardSpec):
    """A trained reward model. Whoever composes the run loads it and supplies the scorer."""

    path: str = Field(min_length=1, description="Run directory or model of the reward model.")


class Supplied(RewardSpec):
    """A scorer that is supplied from outside under its own name."""


_HERE = "tunewright.objectives.rewards"
REWARDS: Registry[type[RewardSpec]] = Registry(
    "reward",
    {
        "exact_match": f"{_HERE}.text:ExactMatch",
        "length": f"{_HERE}.text:Length",
        "regex": f"{_HERE}.limited:Regex",
        "json_schema": f"{_HERE}.limited:JsonSchema",
        "numeric": f"{_HERE}.numeric:Numeric",
        "countdown": f"{_HERE}.countdown:Countdown",
        "countdown_format": f"{_HERE}.countdown:CountdownFormat",
        "judge": f"{_HERE}.judge:Judge",
        "code": f"{_HERE}.limited:UserCode",
        "model": ModelReward,
    },
)


@dataclass(frozen=True)
class Scored:
    """The scores of n answers. ``parts`` holds each reward unweighted, ``total`` the weighted sum, (n,) both.

    ``errors`` says why a score is 0 under ``on_error: zero``, one message per failure.
    """

    total: list[float]
    parts: dict[str, list[float]]
    errors: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """How many scores are 0 because the reward failed."""
        return len(self.errors)


@dataclass(frozen=True)
class RewardSet:
    """Rewards with their settings; close it, or use it in a ``with`` statement."""

    rewards: tuple[tuple[RewardSpec, Reward], ...]

    def score(
        self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Mapping[str, Any]]
    ) -> Scored:
        """The scores of n answers; raises ``RewardError`` (see there for the rule) and ``DataError``."""
        if not len(prompts) == len(answers) == len(examples):
            raise DataError(
                f"rewards: {len(prompts)} prompts, {len(answers)} answers and {len(examples)} examples; "
                "give one of each per answer"
            )
        rows = [Row(*row) for row in zip(prompts, answers, examples, strict=True)]
        parts: dict[str, list[float]] = {}
        errors: list[str] = []
        for spec, reward in self.rewards:
            parts[spec.name] = _scores(spec, reward, rows, errors)
        weights = [spec.weight for spec, _ in self.rewards]
        total = [
            sum(w * value for w, value in zip(weights, values, strict=True))
            for values in zip(*parts.values(), strict=True)
        ]
        for row, value in enumerate(total):
            if not abs(value) <= LARGEST:
                raise RewardError(
                    self._too_large(row, value, {name: found[row] for name, found in parts.items()})
                )
        return Scored(total, parts, tuple(errors))

    def _too_large(self, row: int, total: float, scores: Mapping[str, float]) -> str:
        """Names the reward that adds most."""
        most = max((spec for spec, _ in self.rewards), key=lambda spec: abs(spec.weight * scores[spec.name]))
        return (
            f"the sum of the rewards of answer {row + 1} is {total:g}, beyond {LARGEST:g} in size; the most"
            f" comes from reward {most.name!r}, which gave {scores[most.name]:g} with weight {most.weight:g};"
            " lower the weights"
        )

    def close(self) -> None:
        """Release the processes and connections of all rewards."""
        with ExitStack() as stack:
            for _, reward in self.rewards:
                stack.callback(reward.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _scores(spec: RewardSpec, reward: Reward, rows: Sequence[Row], errors: list[str]) -> list[float]:
    """The scores of one reward; failures are raised, or noted in ``errors``, as the settings say."""
    scores: list[float] = []
    where = f"reward {spec.name!r}"
    try:
        for value in reward.many(rows):
            if len(scores) == len(rows):
                raise RewardError(f"{where} gave more than {len(rows)} scores; it must give one per answer")
            where = _where(spec, rows, len(scores))
            found = _checked(value)
            if isinstance(found, RewardError):
                found = RewardError(f"{where}: {' '.join(str(found).split())}")
                if spec.on_error == "stop":
                    raise found
                errors.append(str(found))
                found = 0.0
            scores.append(found)
            where = _where(spec, rows, len(scores))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except Exception as error:
        if not isinstance(error, RewardError):
            error.add_note(f"while scoring with {where}")
        raise
    if len(scores) != len(rows):
        raise RewardError(f"reward {spec.name!r} gave {len(scores)} scores for {len(rows)} answers")
    return scores


def _where(spec: RewardSpec, rows: Sequence[Row], index: int) -> str:
    if index >= len(rows):
        return f"reward {spec.name!r}"
    prompt = " ".join(rows[index].prompt[:200].split())
    return f"reward {spec.name!r}, answer {index + 1} of {len(rows)} (prompt {prompt[:60]!r})"


def _checked(value: Any) -> float | RewardError:
    """The score as a float; a ``RewardError`` if it is none, not finite or beyond ``LARGEST``."""
    if isinstance(value, RewardError):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        return RewardError(
            f"returned {type(value).__name__} {str(value)[:60]!r}; a reward is a finite number"
        )
    try:
        number = float(value)
    except OverflowError:  # an integer may have any size
        number = math.inf
    if abs(number) <= LARGEST:
        return number
    return RewardError(f"returned {number}; a reward is a finite number of at most {LARGEST:g} in size")


def reward_specs(
    entries: Sequence[Entry], supply: Mapping[str, BatchFunction] | None = None
) -> tuple[RewardSpec, ...]:
    """The settings of each entry, under unique names: the second ``regex`` is ``regex_2``.

    Names in ``supply`` are known beside those of ``REWARDS``. Raises ``ConfigError`` for what is not known.
    """
    if isinstance(entries, str | Mapping) or not entries:
        raise ConfigError(f"rewards: give a list of at least one reward, such as [numeric] (got {entries!r})")
    specs: list[RewardSpec] = []
    for number, entry in enumerate(entries, start=1):
        spec = _parsed(entry, f"rewards, entry {number}", supply or {})
        specs.append(spec.model_copy(update={"name": _unique(spec.name, [s.name for s in specs])}))
    return tuple(specs)


def _parsed(entry: Entry, where: str, supply: Mapping[str, BatchFunction]) -> RewardSpec:
    if callable(entry):
        return RewardSpec(name=getattr(entry, "__name__", type(entry).__name__))
    values = {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
    name = values.get("name")
    if "file" in values:
        return _parsed_code(values, name, where)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where}: give a name, or `file` and `function` of your own code (got {entry!r})")
    if name in REWARDS:
        return build(REWARDS[name], values, f"{where} ({name})")
    if name in supply:
        return build(Supplied, values, f"{where} ({name})")
    raise ConfigError(f"{where}: unknown reward {name!r}. {nearest(name, [*REWARDS, *supply])}")


def _parsed_code(values: dict[str, Any], name: Any, where: str) -> RewardSpec:
    """User code goes by the name it is given, else by that of the function."""
    if name in REWARDS and name != "code":
        raise ConfigError(f"{where}: {name!r} is built in and has no `file`; give your function another name")
    spec = build(REWARDS["code"], values, where)
    return spec if spec.name else spec.model_copy(update={"name": values["function"]})


def _unique(name: str, taken: Sequence[str]) -> str:
    number, label = 1, name
    while label in taken:
        number += 1
        label = f"{name}_{number}"
    return label


def make_rewards(
    entries: Sequence[Entry],
    base_dir: Path | None = None,
    supply: Mapping[str, BatchFunction] | None = None,
) -> RewardSet:
    """The rewards of a recipe's list; relative paths in it start at ``base_dir`` (default: here).

    ``supply`` gives the scorers that are composed elsewhere, under the names of ``reward_specs``: a function
    ``(prompts, answers, examples) -> scores`` for each ``{name: model, path: …}``, or under a name of your
    own. User code is loaded here, so that a mistake in it shows before training. Raises ``ConfigError``.
    """
    supply = supply or {}
    specs = reward_specs(entries, supply)
    with ExitStack() as opened:
        rewards: list[Reward] = []
        for entry, spec in zip(entries, specs, strict=True):
            rewards.append(_made(entry, spec, base_dir or Path(), supply))
            opened.callback(rewards[-1].close)
        opened.pop_all()
    return RewardSet(tuple(zip(specs, rewards, strict=True)))


def _made(entry: Entry, spec: RewardSpec, folder: Path, supply: Mapping[str, BatchFunction]) -> Reward:
    if callable(entry):
        return Each(entry)
    outside = isinstance(spec, ModelReward | Supplied)
    if outside and spec.name in supply:
        return Whole(supply[spec.name])
    if outside:
        raise ConfigError(
            f"reward {spec.name!r}: its scorer is made elsewhere and was not supplied; pass "
            f"make_rewards(…, supply={{{spec.name!r}: function}})"
        )
    if spec.name in supply:
        raise ConfigError(f"reward {spec.name!r} is built in, so it cannot be supplied; use another name")
    return spec.make(folder)


def constant_groups(scores: Sequence[float], group: int) -> list[int]:
    """Indices of the groups whose scores are all equal; such a group teaches nothing (its advantages are 0).

    ``scores`` (n,) holds ``group`` answers to the first prompt, then ``group`` to the second, and so on.
    """
    if group < 1 or len(scores) % group:
        raise ConfigError(f"{len(scores)} scores do not divide into groups of {group}")
    groups = [scores[start : start + group] for start in range(0, len(scores), group)]
    return [index for index, values in enumerate(groups) if all(v == values[0] for v in values)]
