"""Where each value came from, and the recipe file that says so and can be read back."""

import pytest
import yaml

from tunewright.core.errors import ConfigError
from tunewright.core.paths import RunDir
from tunewright.run.recipe import Recipe, parse_override, settings_in, value_at
from tunewright.run.resolve import read_recipe, resolve, write_recipe


def test_sources(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: some/dir\ndata: {train: [a.jsonl, b.jsonl]}\ntrain: {epochs: 2}\n")
    found = resolve(path, None, {"train.epochs": 5, "adapt.rank": 4}).pin("train.learning_rate", 0.1, "prior")
    assert (found.recipe.train.epochs, found.recipe.adapt.options.rank) == (5, 4)
    expected = {
        "model.name": "recipe",
        "data.train": "recipe",
        "train.epochs": "command line",
        "adapt.rank": "command line",
        "train.learning_rate": "auto: prior",
        "adapt.method": "default",
    }
    assert {name: found.sources[name] for name in expected} == expected
    assert found.sources.keys() == {name for name, _ in settings_in(found.recipe)}


def test_the_written_recipe_reads_back_whole(tmp_path):
    run = RunDir(tmp_path / "run")
    tricky = "with  # a mark: {and} 'quotes'.jsonl"
    given = resolve(None, None, {"data.train": [tricky, "b.jsonl"], "data.columns": {"prompt": "{a}\n\n{b}"}})
    given = given.pin("evaluate.metrics", ["json_field:a", "bleu"], "they\nfit")
    write_recipe(run, given)
    again = read_recipe(run)
    assert again.recipe == given.recipe == Recipe.load(run.recipe)
    assert again.sources["evaluate.metrics"] == "auto: they fit"
    assert again.sources["data.train"].startswith("command line: /")
    assert again.sources["train.seed"] == "default"
    assert yaml.safe_load(run.recipe.read_text())["data"]["train"] == [tricky, "b.jsonl"]


def test_what_is_mixed_in_reads_back(tmp_path):
    run = RunDir(tmp_path)
    mix = {"g, 1.jsonl": 0.2, "h.jsonl": {"weight": 0.1, "cap": 5, "columns": {"prompt": "q"}}}
    given = resolve(None, None, {"data.train": "x", "data.mix": mix})
    write_recipe(run, given)
    again = read_recipe(run)
    assert again.recipe == given.recipe
    assert value_at(again.recipe, "data.mix") == {**mix, "g, 1.jsonl": {"weight": 0.2}}
    assert again.sources["data.mix"].endswith("/h.jsonl")


def test_an_edited_recipe_is_still_read(tmp_path):
    run = RunDir(tmp_path)
    run.recipe.write_text("data: {train: a.jsonl}  # mine\n")
    assert read_recipe(run).sources["data.train"] == "recipe"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("train.epochs=2", "train.epochs", 2),
        ("evaluate.metrics=[bleu, chrf]", "evaluate.metrics", ["bleu", "chrf"]),
        ("train.learning_rate=3.0e-4", "train.learning_rate", 3e-4),
        ("model=a=b", "model.name", "a=b"),
    ],
)
def test_overrides(text, name, value):
    found = resolve(None, None, {"data.train": "x", **dict([parse_override(text)])})
    assert value_at(found.recipe, name) == value and found.sources[name] == "command line"


def test_malformed_overrides():
    with pytest.raises(ConfigError, match=r"section\.setting=value"):
        parse_override("epochs")
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_override("a=[1,")
