"""Which file is for which task, and what is said where the recipe does not make sense of it."""

from pathlib import Path

import pytest

from tunewright.core.errors import ConfigError
from tunewright.core.paths import RunDir
from tunewright.run.compose import check_early, default_directory, losses_of, objective_of
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import read_recipe, resolve, write_recipe
from tunewright.run.task_files import files_of, train_files

TASKS = {"support": "sft", "intent": {"objective": "classify", "weight": 0.5}}
FILES = {"support": "tickets.jsonl", "intent": ["a.csv", "b.csv"]}


def recipe(data, objective=None, **rest):
    chosen = {"name": "multi", "tasks": TASKS} if objective is None else objective
    return Recipe.model_validate({"data": data, "objective": chosen, **rest})


def test_every_file_has_its_task():
    found = files_of(recipe({"train": FILES, "test": {"support": "t.jsonl", "intent": "i.csv"}}))
    assert found.sides == {
        "train": [Path("tickets.jsonl"), Path("a.csv"), Path("b.csv")],
        "validation": [],
        "test": [Path("t.jsonl"), Path("i.csv")],
    }
    assert found.tasks["a.csv"] == found.tasks["i.csv"] == "intent" and found.tasks["t.jsonl"] == "support"
    assert default_directory(recipe({"train": FILES})) == Path("runs/tickets")


def test_without_tasks_there_are_none():
    found = files_of(recipe({"train": ["a.jsonl", "b.jsonl"], "validation": "v.jsonl"}, "sft"))
    assert found.sides["train"] == [Path("a.jsonl"), Path("b.jsonl")] and found.tasks == {}


def test_columns_for_all_or_for_each():
    assert files_of(recipe({"train": FILES, "columns": {"text": "body"}})).columns == {"text": "body"}
    found = files_of(recipe({"train": FILES, "columns": {"intent": {"text": "body"}}}))
    assert found.columns is None and found.task_columns == {"intent": {"text": "body"}}


@pytest.mark.parametrize(
    ("data", "objective", "message"),
    [
        ({"train": FILES}, "sft", "data.train names files by task, but objective 'sft' is for one"),
        ({"train": "a.jsonl"}, None, "needs data.train by task: {support: FILE, intent: FILE}"),
        (
            {"train": {**FILES, "intend": "c.csv"}},
            None,
            "files for 'intend', which objective.tasks does not name. Did",
        ),
        ({"train": {"support": "a.jsonl"}}, None, "data.train has no file for the task 'intent'"),
        ({"train": FILES, "test": "t.jsonl"}, None, "needs data.test by task"),
        (
            {"train": FILES, "validation": {"intent": "v.csv"}},
            None,
            "data.validation has no file for the task 'support'",
        ),
        (
            {"train": {"support": "a.csv", "intent": "./a.csv"}},
            None,
            "a.csv is named for two tasks, 'support' and",
        ),
        ({"train": "a.jsonl", "test": {"x": "b"}}, "sft", "data.test names files by task"),
        (
            {"train": FILES, "columns": {"intent": {"text": "b"}, "text": "c"}},
            None,
            "mixes a mapping for the task",
        ),
        (
            {"train": FILES, "columns": {"intend": {"text": "b"}}},
            None,
            "for 'intend', which is no task. Did you mean",
        ),
        ({"train": "a.jsonl", "columns": {"x": {"text": "b"}}}, "sft", "Only objective multi has tasks"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said(data, objective, message):
    with pytest.raises(ConfigError) as error:
        files_of(recipe(data, objective))
    assert message in str(error.value)


@pytest.mark.parametrize("files", [{}, {"support": ""}, {"support": []}])
def test_a_task_must_name_a_file(files):
    with pytest.raises(ValueError, match="names no file"):
        recipe({"train": files})


def watching(metric, objective=None, **evaluate):
    return recipe({"train": FILES}, objective, train={"stop": {"metric": metric}}, evaluate=evaluate)


def test_what_may_be_watched():
    assert losses_of(objective_of(recipe({"train": FILES}))) == (
        "validation_loss",
        "validation_support_loss",
        "validation_intent_loss",
    )
    for metric in (
        "validation_loss",
        "validation_intent_loss",
        "intent/accuracy",
        "support/json_field:queue",
    ):
        check_early(watching(metric))
    check_early(watching("exact_match", "sft"))


@pytest.mark.parametrize(
    ("metric", "objective", "message"),
    [
        (
            "validation_intend_loss",
            None,
            "unknown loss 'validation_intend_loss'. Did you mean 'validation_intent_loss'",
        ),
        ("validation_intent_loss", "sft", "unknown loss"),
        ("accuracy", None, "must name one of the tasks, as TASK/METRIC. Write support/accuracy"),
        ("intend/accuracy", None, "must name one of the tasks, as TASK/METRIC. Did you mean 'intent'"),
        ("intent/acuracy", None, "Did you mean 'accuracy'"),
        ("intent/accuracy", "sft", "names the task 'intent', but this objective has no tasks"),
    ],
)
def test_what_may_not_be_watched(metric, objective, message):
    with pytest.raises(ConfigError) as error:
        check_early(watching(metric, objective))
    assert message in str(error.value)


def test_metrics_need_a_task_too():
    with pytest.raises(ConfigError, match=r"evaluate\.metrics: 'accuracy' must name one of the tasks"):
        check_early(watching("validation_loss", metrics=["support/exact_match", "accuracy"]))


def test_the_written_recipe_keeps_the_order_of_tasks(tmp_path):
    """The first task decides the verdict, so sorting them by name would change the run."""
    values = {"data": {"train": FILES}, "objective": {"name": "multi", "tasks": {"z": "sft", "a": "sft"}}}
    resolved = resolve(None, values, {})
    write_recipe(RunDir(tmp_path), resolved)
    again = read_recipe(RunDir(tmp_path))
    assert list(again.recipe.objective.options.tasks) == ["z", "a"] and again.recipe == resolved.recipe
    text = (tmp_path / "recipe.yaml").read_text()
    assert f"# recipe: {Path('tickets.jsonl').absolute()}, {Path('a.csv').absolute()}" in text


def test_training_files_are_said_in_words():
    assert (
        train_files(recipe({"train": {"a": ["x.jsonl", "y.jsonl"], "b": "z.csv"}}))
        == "x.jsonl, y.jsonl, z.csv"
    )
    assert train_files(recipe({"train": "x.jsonl"}, "sft")) == "x.jsonl"
