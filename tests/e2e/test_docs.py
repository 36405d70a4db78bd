"""The pages tell the truth: their commands run, their links lead somewhere, and what they name exists.

A block that begins with three backquotes and ``sh run`` is executed line by line, in order, in a folder that
holds nothing but a small ``tickets.jsonl``; a tiny model stands for the embedded one, and training is short.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from tests.e2e.conftest import pairs, settings, write_messages
from tunewright.adapt.base import adapter_of
from tunewright.adapt.options.table import OPTIONS as METHODS
from tunewright.core import events
from tunewright.core.config import settings_of
from tunewright.engine.schedule import auto_rate
from tunewright.objectives.options.table import OPTIONS
from tunewright.run.recipe import Recipe
from tunewright.run.train import train

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
RUN_BLOCK = re.compile(r"^```sh run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
FILES = (".py", ".jsonl", ".json", ".safetensors")
EMBEDDED = "smollm2-135m-instruct"


def commands_of(page: Path) -> list[list[str]]:
    """The words of every command in the blocks to run."""
    lines = [
        line for block in RUN_BLOCK.findall(page.read_text(encoding="utf-8")) for line in block.splitlines()
    ]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def made_small(words: list[str], model: Path) -> list[str]:
    """The same command with the tiny model and a short training."""
    words = [str(model) if w == EMBEDDED else w for w in words]
    if words[:1] in (["train"], ["plan"]):
        words += [
            f"model.name={model}",
            "model.dtype=float32",
            "train.max_steps=2",
            "evaluate.max_new_tokens=4",
        ]
    if words[:2] == ["data", "show"]:
        words += ["--model", str(model)]
    return words


@pytest.mark.parametrize("page", [p for p in PAGES if p.exists() and commands_of(p)], ids=lambda p: p.name)
def test_commands(page, tw, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda prompt="": "")  # an empty line ends a chat
    write_messages(tmp_path / "tickets.jsonl", pairs())
    for words in commands_of(page):
        assert words[0] == "tunewright", f"{page.name}: only tunewright commands are run, not {words}"
        said = tw(*made_small(words[1:], tiny))
        allowed = {0, 1} if words[1] in {"train", "resume", "compare"} else {0}  # 1: the model is worse
        assert said.status in allowed, f"{page.name}: {' '.join(words)}\n{said.err}"
    if page.name == "start.md":
        kept_promises_of_start(tmp_path)


def kept_promises_of_start(folder: Path) -> None:
    """What the page says is there afterwards, and nothing else."""
    assert (folder / "runs" / "tickets" / "report.html").exists()
    assert (folder / "runs" / "tickets" / "adapter" / "adapter_config.json").exists()
    assert (folder / "runs" / "tickets-rank-8" / "result.json").exists()
    assert {p.name for p in folder.iterdir()} == {"tickets.jsonl", "recipe.yaml", "runs"}


def test_start_has_commands():
    assert len(commands_of(ROOT / "docs" / "start.md")) >= 8


# --- what the pages name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name} links to {target}, which is not there"
        if anchor and path.suffix == ".md":
            assert anchor[1:] in anchors_of(path), (
                f"{page.name} links to {target}{anchor}, a heading that is not there"
            )


def anchors_of(page: Path) -> set[str]:
    """The headings as they appear in links."""
    heads = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_settings_and_paths_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    sections = "|".join(Recipe.model_fields)
    known = {name for name, _ in settings_of(Recipe)}
    known |= {name for kind in OPTIONS for name, _ in settings_of(OPTIONS[kind], "objective.")}
    known |= {name for kind in METHODS for name, _ in settings_of(METHODS[kind], "adapt.")}
    known |= {name.rpartition(".")[0] for name in known}  # a whole section may be named, too
    for name in re.findall(rf"`((?:{sections})\.[a-z_.0-9]+)[=`]", text):
        assert name in known or (ROOT / name).exists() or name.endswith(FILES), name
    for name in re.findall(r"`((?:src|tests|docs|tools|examples|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}, which is not there"
    for name in re.findall(
        r"`((?:core|data|models|adapt|objectives|engine|evaluate|run|cli)/[\w/]+\.py)`", text
    ):
        assert (ROOT / "src" / "tunewright" / name).exists(), f"{page.name} names {name}, which is not there"


def test_the_stated_learning_rates_are_those_of_the_code():
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    [full] = re.findall(r"full training: +(\S+) · √\(1024 / hidden size\)", page)
    [embedded] = re.findall(r"\(576 wide\) it gives (\S+) with", page)
    rate = adapter_of("lora").rate
    assert float(full) == auto_rate(1024, 1.0)
    assert "LoRA:            ten times that" in page and rate == 10
    assert float(embedded) == float(f"{auto_rate(576, rate):.2g}")


# --- the run directory


@pytest.fixture(scope="module")
def finished(tiny, data, tmp_path_factory) -> Path:
    """A run that saves adapter and merged model, so that every file is made."""
    return train(
        settings(tiny, data, tmp_path_factory.mktemp("documented") / "run", "output.final=merged")
    ).path


def test_every_file_of_a_run_is_described(finished):
    page = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")
    for path in finished.rglob("*"):
        name = re.sub(r"^step-\d+$", "step-N", path.name)
        beside = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
        if path.parent.name in {"adapter", "model"} and name in {
            *beside,
            "generation_config.json",
            "README.md",
        }:
            continue
        assert name in page, f"{path.relative_to(finished)} is not described"


def test_every_key_of_the_result_is_described(finished):
    page = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8").partition("## `result.json`")[2]
    result = json.loads((finished / "result.json").read_text(encoding="utf-8"))
    [metric, *_] = result["metrics"]
    [system, *_], [difference, *_] = metric["systems"].values(), metric["differences"].values()
    answers = next(iter(result["answers"].values()))
    parts = [
        result,
        result["data"]["render"],
        metric,
        system,
        difference,
        answers,
        result["training"]["watched"],
    ]
    parts += [result[name] for name in ("model", "data", "counts", "cost", "training", "verdict")]
    for part in parts:
        for key in part:
            assert f"`{key}`" in page, f"result.json has {key!r}, which is not described"


def test_every_event_is_described():
    page = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8").partition("## `events.jsonl`")[2]
    kinds = [k for k in vars(events).values() if isinstance(k, type) and issubclass(k, events.Event)]
    for kind in {*kinds} - {events.Event, events.Progress}:  # progress is for the eye, not written
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{kind.__name__}` |")]
        for field in fields(kind):
            assert field.name == "time" or f"`{field.name}`" in row, f"{kind.__name__}.{field.name}"
