"""``docs/adapters.md`` names every method and paper, and its recipes are recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tunewright.adapt.base import ADAPTERS, PEFT, adapter_of
from tunewright.adapt.options.table import OPTIONS
from tunewright.run.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
RECIPES = [r for r in re.findall(r"`((?:adapt|train|train\.\w+\.?\w*): [^`]*)`", PAGE) if "NAME" not in r]
ARXIV = re.compile(r"\b[0-9]{4}\.[0-9]{5}\b")


@pytest.mark.parametrize("text", RECIPES)
def test_recipes_of_the_page_are_recipes(text):
    name, _, value = text.partition(": ")
    recipe = Recipe.model_validate({"data": {"train": "rows.jsonl"}, **nested(name, yaml.safe_load(value))})
    assert adapter_of(recipe.adapt.method, **(recipe.adapt.model_extra or {})).label


def nested(name, value):
    """``a.b.c`` and a value as mappings within each other."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def test_every_method_is_described():
    assert len(RECIPES) >= 12 and {*OPTIONS} == {*ADAPTERS} - {PEFT}
    for name in OPTIONS:
        assert f"`{name}`" in PAGE, name


def test_every_paper_of_the_code_is_named():
    files = [*(ROOT / "src" / "tunewright" / "adapt").glob("*.py")]
    files += [*(ROOT / "src" / "tunewright" / "engine").glob("*.py")]
    cited = {paper for file in files for paper in ARXIV.findall(file.read_text(encoding="utf-8"))}
    assert len(cited) > 12
    assert sorted(paper for paper in cited if paper not in PAGE) == []
