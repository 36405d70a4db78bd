"""Write the reference pages that the code itself knows: docs/recipe.md and docs/cli.md.

``python tools/make_docs.py`` writes both; with ``--freeze-cli`` it also writes the list of commands and
options that scripts rely on (tests/contract/cli_options.txt). ``tests/contract/test_exports.py`` fails when
a page or the list is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from tunewright.adapt.options.table import OPTIONS as METHODS
from tunewright.cli.main import app
from tunewright.core.config import settings_of
from tunewright.objectives.options.table import OPTIONS as OBJECTIVES
from tunewright.run.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPE, CLI = ROOT / "docs" / "recipe.md", ROOT / "docs" / "cli.md"
OPTIONS = ROOT / "tests" / "contract" / "cli_options.txt"
WIDTH = 100
CHOICES = {"adapt": METHODS, "objective": OBJECTIVES}
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false"}

RECIPE_HEAD = """# Recipe reference

A recipe is a YAML file with the sections below; only `data.train` is required. This page is made from the
code by `make docs`.

- `tunewright init` writes a commented recipe; `tunewright plan recipe.yaml` shows every setting with its
  value and where it came from.
- On the command line a setting is `section.setting=value`, and wins over the file:
  `tunewright train recipe.yaml train.epochs=1 adapt.rank=8`.
- `model: NAME`, `adapt: METHOD`, `objective: NAME` and `output: DIR` are short for the first setting of their
  section.
- `auto` is worked out from model and data when the run starts; the value and the reason stand in the run's
  own `recipe.yaml`.
- An unknown setting is an error that names the nearest known one. A setting that can have no effect beside
  the others is an error too.
"""
CLI_HEAD = """# Command line

What `--help` says, command by command. This page is made from the code by `make docs`.

Results go to standard output and progress to standard error, so `--json` gives exactly one JSON document to
the next program. Exit status: 0 fine, 1 the answer is no (unusable rows, a worse model), 2 wrong usage or
environment, 130 interrupted.
"""


def main(freeze: bool) -> None:
    """Write the pages, and the frozen list if asked to."""
    RECIPE.write_text(recipe_page(), encoding="utf-8")
    CLI.write_text(cli_page(), encoding="utf-8")
    if freeze:
        OPTIONS.write_text(cli_options(), encoding="utf-8")


def recipe_page() -> str:
    """The text of docs/recipe.md."""
    parts = [RECIPE_HEAD]
    for name, section in sections_of(Recipe):
        parts.append(f"## `{name}`\n\n{section.__doc__ or ''}\n\n{settings_table(name, section)}\n")
        if name in CHOICES:
            parts += options_of(name)
    return "\n".join(parts)


def options_of(choice: str) -> Iterator[str]:
    """The settings that belong to each thing that may be chosen, one table for those that share them."""
    names: dict[type[BaseModel], list[str]] = {}
    for name in CHOICES[choice]:
        names.setdefault(CHOICES[choice][name], []).append(f"`{name}`")
    for section, shared in names.items():
        table = table_of(settings_of(section, f"{choice}."))
        yield f"### {', '.join(shared)}\n\n{section.__doc__}\n\n{table}\n"


def sections_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section by dotted name, outer before inner."""
    for name, field in model.model_fields.items():
        if _is_section(field):
            assert field.annotation is not None
            yield prefix + name, field.annotation
            yield from sections_of(field.annotation, f"{prefix}{name}.")


def settings_table(prefix: str, section: type[BaseModel]) -> str:
    """A table of the settings that stand in ``section`` itself."""
    own = section.model_fields.items()
    return table_of((f"{prefix}.{name}", field) for name, field in own if not _is_section(field))


def table_of(settings: Iterable[tuple[str, FieldInfo]]) -> str:
    """A table of settings by dotted name."""
    lines = ["| setting | value | default | what it does |", "|---|---|---|---|"]
    for name, field in settings:
        cells = [f"`{name}`", values_of(field), default_of(field), field.description or ""]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def values_of(field: FieldInfo) -> str:
    """What may be written, in words: ``whole number ≥ 1, or `auto` ``."""
    return _words(field.annotation, _limits(field.metadata))


def default_of(field: FieldInfo) -> str:
    """The default as it would stand in YAML."""
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    text = yaml.safe_dump(field.default, default_flow_style=True, width=10**6).removesuffix("\n")
    return f"`{text.removesuffix('...').strip()}`"


def _words(annotation: Any, limits: str = "") -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = [m for m in args[1:] if isinstance(m, FieldInfo)]
        return _words(args[0], "".join(_limits(m.metadata) for m in found))
    if origin in {Union, UnionType}:
        return ", or ".join(_words(a, limits) for a in args if a is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in args)
    if origin is list:
        return "list" if args[0] is Any else f"list of {_words(args[0])}"
    if origin is dict:
        return "mapping" if args[1] is Any else f"mapping of text to {_words(args[1])}"
    if issubclass(annotation, BaseModel):
        return f"{{{', '.join(annotation.model_fields)}}}"
    return PLAIN[annotation] + limits


def _limits(metadata: list[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [(sign, getattr(m, key)) for m in metadata for key, sign in signs.items() if hasattr(m, key)]
    return " and".join(f" {sign} {value:g}" for sign, value in bounds)


def cli_page() -> str:
    """The text of docs/cli.md."""
    parts = [CLI_HEAD]
    for words, _ in commands():
        shown = CliRunner().invoke(
            app, [*words, "--help"], prog_name="tunewright", terminal_width=WIDTH, max_content_width=WIDTH
        )
        assert shown.exit_code == 0, shown.output
        lines = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
        parts.append(f"## {' '.join(['tunewright', *words])}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def cli_options() -> str:
    """One line per command: its words, its arguments in order, its options by name."""
    lines = []
    for words, command in commands():
        arguments = [f"<{p.name}>" for p in command.params if p.param_type_name == "argument"]
        options = sorted(o for p in command.params if p.param_type_name == "option" for o in p.opts)
        lines.append(" ".join(["tunewright", *words, *arguments, *options]))
    return "\n".join(lines) + "\n"


def commands() -> Iterator[tuple[list[str], Any]]:
    """Every command with its words, groups before what they hold."""

    def below(command: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
        yield words, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, [*words, name])

    yield from below(typer.main.get_command(app), [])


if __name__ == "__main__":
    main("--freeze-cli" in sys.argv[1:])
