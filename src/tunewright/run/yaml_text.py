"""YAML in, plain values out; stricter than YAML itself where a slip would go unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tunewright.core.errors import ConfigError

MERGE = "tag:yaml.org,2002:merge"  # the key <<, which may stand more than once


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice in a mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if (name := (key.tag, key.value)) in first:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is given twice, first in line {first[name]}", key.start_mark
                )
            first[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """The value that ``text`` writes; raises ``yaml.YAMLError``, also for a date that does not exist."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ``ConfigError`` with the line of a syntax error."""
    try:
        values = parse(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise ConfigError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line_of = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line_of}: not valid YAML: {problem(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, not {type(values).__name__}")
    return values


def parse_override(text: str) -> tuple[str, Any]:
    """``"train.epochs=2"`` -> ``("train.epochs", 2)``; the value is read as YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{text!r} is not of the form section.setting=value")
    try:
        return name.strip(), parse(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {value!r} is not valid YAML: {problem(error)}") from error


def problem(error: yaml.YAMLError) -> str:
    """What is wrong, in one line."""
    return " ".join(str(getattr(error, "problem", None) or error).split())
