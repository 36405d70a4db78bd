"""Settings: frozen, typed, and strict. One description per setting feeds YAML, help, schema and docs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest

S = TypeVar("S", bound="Section")
SHOWN = 80  # characters of a wrong value that a message repeats


class Section(BaseModel):
    """Base of every group of settings: immutable, and an unknown key is an error with the nearest name."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def build(section: type[S], values: dict[str, Any], where: str = "recipe", beside: Sequence[str] = ()) -> S:
    """Validate ``values`` into ``section``; raises ``ConfigError`` that lists every problem at once.

    ``beside`` names settings that stand next to these in a recipe, to be offered for an unknown one.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = [_explain(section, problem, beside) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from None


def _explain(section: type[Section], problem: Any, beside: Sequence[str]) -> str:
    path = [str(p) for p in problem["loc"]]
    if (
        problem["type"] != "extra_forbidden"
    ):  # a union adds the names of its branches; they mean nothing to people
        while path and not _fields_at(section, path[:-1]).count(path[-1]):
            path.pop()
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = [*_fields_at(section, path[:-1]), *(beside if len(path) == 1 else ())]
        return (
            f"unknown setting {name!r}. {nearest(path[-1], known)}" if known else f"unknown setting {name!r}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem.get("ctx", {}).get("error"), ConfigError):  # it shows the part that is wrong
        return f"{name or 'value'}: {message}"
    return f"{name or 'value'}: {message} (got {_shown(problem.get('input'))})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _fields_at(section: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the settings of the section that ``path`` leads to."""
    for part in path:
        found = section.model_fields.get(part)
        annotation = found.annotation if found else None
        nested = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        nested = [a for a in nested if issubclass(a, BaseModel)]
        if not nested:
            return []
        section = nested[0]
    return list(section.model_fields)


def settings_of(section: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    """Every leaf setting as ``(dotted name, pydantic field)``, depth first, in order of declaration."""
    found: list[tuple[str, Any]] = []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += settings_of(annotation, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", field))
    return found
