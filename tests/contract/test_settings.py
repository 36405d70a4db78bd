"""Every setting is described, is read by a run, and changes what the run does."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.small import chats, save_small_model, small_train, small_values, write_rows
from tests.tiny import template_text
from tunewright.adapt.base import trained_state
from tunewright.adapt.options.lora import LoraOptions
from tunewright.core import events
from tunewright.core.config import Section, settings_of
from tunewright.core.errors import ConfigError, TunewrightError
from tunewright.core.paths import RunDir
from tunewright.data.pipeline import Prepared, write
from tunewright.data.redact.queue import decide
from tunewright.engine import updates
from tunewright.engine.lanes import Lanes
from tunewright.engine.plan import Planned, micro_batches, steps_in_order
from tunewright.models import savers
from tunewright.models.layer_cache import LayerCache
from tunewright.objectives.options.supervised import SftOptions
from tunewright.run import lanes, layer_cache
from tunewright.run import train as running
from tunewright.run.ready import Ready, make_ready
from tunewright.run.recipe import AdaptSection, ObjectiveSection, Recipe, settings_in, value_at
from tunewright.run.resolve import resolve
from tunewright.run.rows import prepare_rows
from tunewright.run.session import Session

NAMES = [name for name, _ in settings_in(Recipe.model_validate({"data": {"train": "x.jsonl"}}))]
MOST_SETTINGS, MOST_IN_SECTION = 70, 8


@dataclass(frozen=True)
class Place:
    """Where the runs of this module find their model and rows, and put their directories."""

    folder: Path
    model: Path
    rows: Path

    def values(self, **changes: Any) -> dict[str, Any]:
        """The small recipe with ``changes``, whose names are written with ``__`` for the dot."""
        number = len(list(self.folder.glob("run-*")))
        (self.folder / f"run-{number}").mkdir()
        out = self.folder / f"run-{number}" / "run"
        dotted = {name.replace("__", "."): value for name, value in changes.items()}
        values = {**small_values(self.model, self.rows, out), **dotted}
        if values.get("adapt.method", "lora") != "lora":
            del values["adapt.rank"]
        return values


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("settings")
    return Place(folder, save_small_model(folder / "model"), write_rows(folder / "chats.jsonl", chats(40)))


def ready(values: dict[str, Any]) -> tuple[Session, Ready]:
    """Everything up to the first step; nothing is written."""
    resolved, run = running.settled(resolve(None, None, values))
    running.compose.check_early(resolved.recipe)
    session = Session(resolved, run, events.silent)
    return session, make_ready(session, prepare_rows(session.recipe))


def fitted(values: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[events.Event], RunDir]:
    """The weights after training, the events of training, and the directory."""
    session, parts = ready(values)
    seen: list[events.Event] = []
    session.listener = seen.append
    supply, _ = running._fit(session, parts)
    return trained_state(supply.model), seen, session.run


# --- the list itself


def test_settings_are_few_and_described():
    assert len(NAMES) <= MOST_SETTINGS
    for name, field in settings_of(Recipe):
        assert field.description and field.description.endswith("."), f"{name} has no description"
    sections = [Recipe, *(f.annotation for f in Recipe.model_fields.values()), *_nested()]
    for section in sections:
        own = [f for f in section.model_fields.values() if not _is_section(f.annotation)]
        assert len(own) <= MOST_IN_SECTION, f"{section.__name__} has {len(own)} settings"


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _nested() -> list[Any]:
    sections = [f.annotation for f in Recipe.model_fields.values()]
    return [f.annotation for s in sections for f in s.model_fields.values() if _is_section(f.annotation)]


# --- read by a run

# Code that handles every setting alike, or only checks it, does not count as a reader.
NO_READERS = ("/run/recipe.py", "/run/resolve.py", "/core/config.py", "/pydantic/")


def paths_of(section: type[Section], prefix: str = "") -> dict[type[Section], str]:
    """The dotted beginning of the settings of each section class."""
    found = {section: prefix}
    if section is ObjectiveSection:
        found[SftOptions] = prefix
    if section is AdaptSection:
        found[LoraOptions] = prefix
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            found |= paths_of(field.annotation, f"{prefix}{name}.")
    return found


class Reads:
    """Notes which settings are read, and by whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: set[str] = set()
        prefixes, original = paths_of(Recipe), Section.__getattribute__

        def probe(section: Section, name: str) -> Any:
            prefix = prefixes.get(type(section))
            if prefix is not None and name in type(section).__pydantic_fields__:
                code = sys._getframe(1).f_code
                counts = not any(part in code.co_filename for part in NO_READERS)
                if counts and not code.co_name.startswith("check_"):
                    self.names.add(prefix + name)
            return original(section, name)

        monkeypatch.setattr(Section, "__getattribute__", probe)


def test_the_probe_tells_reading_from_printing(monkeypatch):
    reads = Reads(monkeypatch)
    recipe = Recipe.model_validate({"data": {"train": "x.jsonl"}})
    recipe.model_dump()
    resolve(None, {"data": {"train": "x.jsonl"}}, {}).settings()
    assert not reads.names & set(NAMES)
    _ = recipe.train.optim.beta1
    assert "train.optim.beta1" in reads.names and "train.optim.beta2" not in reads.names


def test_every_setting_is_read_by_a_run(place, monkeypatch):
    """Two runs: LoRA with everything switched on, and full training without a test."""
    reads = Reads(monkeypatch)
    small_train(
        place.values(
            evaluate__baselines=["zero_shot", "few_shot"],
            evaluate__shots=1,
            output__final="merged",
            train__stop__metric="exact_match",
            data__prepare__compare__near="group",
        )
    )
    small_train(place.values(**{"adapt.method": "full", "data.split.test": 0.0}))
    assert sorted(set(NAMES) - reads.names) == []


# --- changes the weights

WEIGHTS: dict[str, Any] = {
    "train.learning_rate": 0.02,
    "train.seed": 5,
    "train.tokens_per_step": 150,
    "train.max_steps": 2,
    "train.optim.schedule": "linear",
    "train.optim.warmup": 0.5,
    "train.optim.weight_decay": 0.5,
    "train.optim.beta1": 0.5,
    "train.optim.beta2": 0.5,
    "train.optim.clip_norm": 0.05,
    "adapt.alpha": 32,
    "adapt.dropout": 0.3,
    "adapt.init": "gaussian",
    "adapt.b_rate": 8.0,
    "adapt.patterns": {"q_proj": {"alpha": 32}},
    "objective.neftune": 5.0,
    "data.train_on": "last",
    "data.max_length": 45,
    "model.dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def plain(place) -> dict[str, torch.Tensor]:
    """The weights of the small recipe, without validation or test."""
    return fitted(place.values(data__split__validation=0.0, data__split__test=0.0))[0]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of any weight; the two must have the same names and shapes."""
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_setting_that_changes_the_weights(place, plain, name):
    changes = {"data.split.validation": 0.0, "data.split.test": 0.0, name: WEIGHTS[name]}
    weights, _, _ = fitted(place.values(**changes))
    assert distance(weights, plain) > 1e-5


def test_micro_tokens_changes_how_but_not_what(place, plain):
    """Memory, not results: equal to rounding, which would not hold for any setting of the table above."""
    changes = {"data.split.validation": 0.0, "data.split.test": 0.0, "train.micro_tokens": 64}
    weights, seen, _ = fitted(place.values(**changes))
    assert distance(weights, plain) < 1e-5
    session, parts = ready(place.values(**changes))
    plan = steps_of(session, parts)
    rows = [[parts.sequences.train[row] for row in step.rows] for step in plan]
    assert all(len(micro_batches(step, 64)) > 1 for step in rows) and len(seen) > 0


def test_lanes_change_how_but_not_what(place, plain, monkeypatch):
    """As above; and what hinders lanes is named."""
    count = []
    run = Lanes.run
    monkeypatch.setattr(Lanes, "run", lambda self, *a: (count.append(self.count), run(self, *a))[1])
    changes = {"data.split.validation": 0.0, "data.split.test": 0.0, "train.micro_tokens": 1024}
    weights, _, _ = fitted(place.values(**changes, train__lanes=2))
    assert distance(weights, plain) < 1e-5 and set(count) == {2}

    def found(**more: Any) -> tuple[Any, str]:
        session, _ = ready(place.values(**{**NO_JUDGING, "train.micro_tokens": 2048, **more}))
        return session.recipe.train.lanes, session.resolved.sources["train.lanes"]

    monkeypatch.setattr(lanes.torch, "get_num_threads", lambda: 3)
    value, source = found()
    assert value == 3 and re.fullmatch(r"auto: 3 core\(s\), 2048 tokens at once, rows of up to \d+", source)
    assert found(train__micro_tokens=1024)[0] == 2 and found(train__micro_tokens=1000)[0] == 1
    assert found(train__lanes=1)[0] == 1
    in_backward = {"train.memory.update": "in_backward", "train.optim.clip_norm": 0.0}
    for hinders, because in (
        (in_backward, "moves weights while other micro-batches"),
        ({**TOP, "train.max_steps": None}, "written in the order of the micro-batches"),
    ):
        value, source = found(**hinders)
        assert value == 1 and because in source
        with pytest.raises(ConfigError, match=f"train.lanes is 2, but .*{because}.*; set train.lanes=auto"):
            found(**hinders, train__lanes=2)
    for unwise, because in (
        ({"objective.neftune": 5.0}, "noise would depend on which"),
        ({"adapt.dropout": 0.1}, "noise would depend on which"),
        ({"adapt.method": "ia3"}, "ia3 may keep state"),
    ):
        value, source = found(**unwise)
        assert value == 1 and because in source, source


def steps_of(session: Session, parts: Ready) -> list[Planned]:
    settings = running.compose.fit_settings(session.recipe, parts.parts.objective)
    return steps_in_order([t.size for t in parts.sequences.train], settings.pace)


# --- changes what is trained


def test_method_rank_and_targets(place, plain):
    assert all("lora_" in name for name in plain)
    assert {min(p.shape) for p in plain.values()} == {4}
    none = {"data.split.validation": 0.0, "data.split.test": 0.0}
    wide, _, _ = fitted(place.values(**none, **{"adapt.rank": 8, "adapt.targets": ["q_proj"]}))
    assert {min(p.shape) for p in wide.values()} == {8}
    assert wide and all(".q_proj." in name for name in wide)
    full, _, _ = fitted(place.values(**none, **{"adapt.method": "full"}))
    assert not any("lora_" in name for name in full) and len(full) > len(wide)
    grown, _, _ = fitted(place.values(**none, **{"adapt.new_tokens": ["<a>", "<b>"]}))
    assert {tuple(grown[name].shape) for name in grown.keys() - plain.keys()} == {(2, 64)}


def test_epochs_and_max_steps(place):
    def steps(**changes: Any) -> int:
        return len(steps_of(*ready(place.values(**changes))))

    one, two = steps(train__epochs=1, train__max_steps=None), steps(train__epochs=2, train__max_steps=None)
    assert one > 3 and two >= 2 * one - 1
    assert steps(train__max_steps=2) == 2
    assert steps(train__epochs=1, train__max_steps=None, train__tokens_per_step=10**6) == 1


NO_JUDGING = {"data.split.validation": 0.0, "data.split.test": 0.0}


def test_optimizer_and_projection(place):
    """Matrices of 64 rows; every setting of the projection leads to other weights."""
    base = {**NO_JUDGING, "adapt.method": "full", "train.optim.name": "galore"}
    changes = {
        "train.optim.projection.rank": 8,
        "train.optim.projection.every": 1,
        "train.optim.projection.scale": 0.1,
    }
    small = {**base, "train.optim.projection.rank": 16}
    usual = fitted(full_values(place, small))[0]
    assert distance(fitted(full_values(place, {**base, "train.optim.name": "adamw"}))[0], usual) > 1e-5
    for name, value in changes.items():
        other = fitted(full_values(place, {**small, name: value}))[0]
        assert distance(other, usual) > 1e-5, name
    with pytest.raises(ConfigError, match=r"train\.optim\.projection\.every has no effect here"):
        ready(place.values(train__optim__projection__every=7))


def full_values(place: Place, changes: dict[str, Any]) -> dict[str, Any]:
    """The small recipe, trained fully."""
    values = {**place.values(), **changes}
    del values["adapt.rank"]
    return values


def test_memory_savers(place, monkeypatch):
    """They change what is kept, never the weights."""
    unclipped = {**NO_JUDGING, "train.optim.clip_norm": 0.0}
    plain, _, _ = fitted(place.values(**unclipped))
    runs = []
    original = savers._again
    monkeypatch.setattr(savers, "_again", lambda *args, **kw: (runs.append(1), original(*args, **kw))[1])
    again, _, _ = fitted(place.values(**unclipped, train__memory__checkpoint_layers=1))
    assert distance(again, plain) == 0 and len(runs) >= 3
    moved = []
    move = updates.InBackward._move
    monkeypatch.setattr(
        updates.InBackward, "_move", lambda self, name, p: (moved.append(name), move(self, name, p))[1]
    )
    early, _, _ = fitted(place.values(**unclipped, train__memory__update="in_backward"))
    assert distance(early, plain) == 0 and len(moved) == 3 * len(plain)
    for name, value, because in (
        ("train.memory.checkpoint_layers", 3, "this model has 2 layers"),
        ("train.memory.update", "in_backward", "cannot be clipped"),
        ("train.memory.offload", "optimizer", "needs a GPU"),
    ):
        with pytest.raises(ConfigError, match=because):
            ready(place.values(**{name: value}))


TOP = {**NO_JUDGING, "adapt.targets": ["layers.1.mlp.down_proj", "layers.1.self_attn.q_proj"]}


def test_layer_cache(place, monkeypatch):
    """It changes how often the first layer runs, and the weights by rounding alone."""
    runs = []
    kept = LayerCache._kept
    monkeypatch.setattr(LayerCache, "_kept", lambda self, *args: (runs.append(1), kept(self, *args))[1])
    many = {**TOP, "train.max_steps": None, "train.epochs": 3}
    plain, _, _ = fitted(place.values(**many, train__layer_cache=False))  # as YAML reads the word off
    assert not runs
    once, seen, run = fitted(place.values(**many))
    steps = sum(isinstance(e, events.StepEnd) for e in seen)
    assert steps / 3 <= len(runs) < steps / 2 and [p.suffix for p in run.cache.iterdir()] == [".bin"]
    assert distance(once, plain) < 1e-5


def test_layer_cache_is_worked_out_and_refused(place, monkeypatch):
    def found(**changes: Any) -> tuple[str, str, list[str]]:
        session, _ = ready(place.values(**{**NO_JUDGING, "train.max_steps": None, **changes}))
        return session.recipe.train.layer_cache, session.resolved.sources[name], session.warnings

    name = "train.layer_cache"
    assert found()[:2] == ("off", "auto: the first layer trains")
    value, source, _ = found(**TOP)
    assert value == "on" and re.fullmatch(
        r"auto: 1 of 2 layers never train; at most \d+\.\d MB on disk", source
    )
    for changes, because in (
        ({"adapt.targets": "all-linear"}, "the first layer trains"),
        ({"train.epochs": 1}, "no text is seen a second time"),
        ({"objective.neftune": 5.0}, "objective.neftune adds noise"),
    ):
        value, _, warned = found(**{**TOP, **changes, name: True})
        assert value == "on" and f"train.layer_cache on has no effect: {because}" in "".join(warned)
        assert found(**{**TOP, **changes})[0] == "off"
    small = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(layer_cache.shutil, "disk_usage", lambda path: small)
    value, source, warned = found(**TOP)
    assert (value, source) == ("off", "auto: no room on the disk") and "has room for 0.0 MB" in "".join(
        warned
    )
    with pytest.raises(ConfigError, match=r"take \d+\.\d MB, and .* set train\.layer_cache=off"):
        found(**TOP, train__layer_cache="on")
    value, _, warned = found(**TOP, train__layer_cache="off")
    assert value == "off" and "has room" not in "".join(warned)


# --- when it evaluates, saves and stops


def test_every_save_every_and_keep(place):
    _, seen, run = fitted(
        place.values(
            evaluate__every=4,
            output__save_every=1,
            output__keep=3,
            train__max_steps=5,
            train__stop__patience=0,
        )
    )
    assert [e.step for e in seen if isinstance(e, events.EvalEnd)] == [0, 4, 5]
    assert [e.step for e in seen if isinstance(e, events.Saved)] == [0, 1, 2, 3, 4, 5]
    [best] = {e.best_step for e in seen if isinstance(e, events.Ended)}
    kept = {int(p.name.removeprefix("step-")) for p in run.checkpoints.iterdir()}
    assert kept == {3, 4, 5, best}


def test_metric_patience_and_min_improvement_of_stop(place):
    stop = {"train.stop.min_improvement": 100.0, "train.stop.patience": 2, "evaluate.every": 1}
    _, seen, _ = fitted(place.values(**stop, **{"train.max_steps": 5}))
    [ended] = [e for e in seen if isinstance(e, events.Ended)]
    assert (ended.step, ended.best_step) == (2, 0)
    assert ended.reason.startswith("validation_loss has not improved for 2 evaluations")
    _, seen, _ = fitted(place.values(train__stop__metric="token_f1", evaluate__every=3))
    assert [set(e.metrics) for e in seen if isinstance(e, events.EvalEnd)] == [
        {"validation_loss", "token_f1"}
    ] * 2


# --- what is read


def test_split_shares_and_group(place):
    _, parts = ready(place.values(data__split__validation=0.3, data__split__test=0.0))
    assert not parts.splits.test and 8 <= len(parts.splits.validation) <= 16
    _, parts = ready(place.values(data__split__validation=0.0, data__split__test=0.3))
    assert not parts.splits.validation and 8 <= len(parts.splits.test) <= 16

    def straddling(**changes: Any) -> set[str | None]:
        _, parts = ready(place.values(data__split__test=0.3, **changes))
        train, test = ({e.meta.group for e in rows} for rows in (parts.splits.train, parts.splits.test))
        return train & test

    assert straddling(data__split__group="group") == set()
    assert straddling() == {None}


def test_split_time(place):
    rows = [{**row, "on": f"2024-01-{1 + i:02}"} for i, row in enumerate(chats(30))]
    dated = write_rows(place.folder / "dated.jsonl", rows)
    _, parts = ready(place.values(data__train=str(dated), data__split__time="on", data__split__test=0.1))
    assert [e.meta.line for e in parts.splits.test] == [28, 29, 30]


def chat(question: str, answer: str) -> dict[str, Any]:
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def test_prepare_clean_redact_and_decisions(place, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(place.folder / "home"))
    row = chat("Say it to jane.roe@mail.example.org or 10.1.2.3 now.", "cafÃ© â€“ naÃ¯ve")
    messy = write_rows(place.folder / "messy.jsonl", [*chats(30), row])
    values = {
        "data__train": str(messy),
        "data__prepare__clean": {},
        "data__prepare__redact": {"action": "mask"},
    }

    def texts(**more: Any) -> tuple[str, Prepared]:
        prepared = prepare_rows(resolve(None, None, place.values(**values, **more)).recipe)
        rows = [e for side in (prepared.train, prepared.validation, prepared.test) for e in side]
        return str([m.content for e in rows if e.meta.line == 31 for m in e.messages]), prepared

    text, prepared = texts()
    assert "café – naïve" in text and "[EMAIL]" in text and "10.1.2.3" in text
    directory = place.folder / "decided"
    write(prepared, directory)
    [question] = prepared.found["review"]
    decide(directory, question["id"], "mask")
    text, _ = texts(data__prepare__decisions=str(directory))
    assert "[IP_ADDRESS]" in text and "10.1.2.3" not in text


def test_prepare_compare(place):
    words = (
        "one two three four five six seven eight nine ten eleven twelve is a row of words to be said aloud"
    )
    exam = write_rows(place.folder / "exam.jsonl", [chat(f"Which of these is long: {words}?", "x")])
    rows = [chat("say it", words), chat("say it", f"{words} now")]
    rows += [chat("What happens to you if you eat watermelon seeds?", "nothing")]
    rows += [chat(f"Which of these is long: {words}?", "this one")]
    file = write_rows(place.folder / "alike.jsonl", [*chats(30), *rows])

    def reasons(**compare: Any) -> set[str]:
        values = {f"data__prepare__compare__{name}": value for name, value in compare.items()}
        recipe = resolve(None, None, place.values(data__train=str(file), **values)).recipe
        return {p.reason for p in prepare_rows(recipe).rejected} - {"duplicate"}

    assert reasons() == set()
    assert reasons(near="drop", threshold=0.8) == {"near_duplicate"}
    assert reasons(near="drop", threshold=0.99) == set()
    assert reasons(benchmarks={"exam": str(exam)}) == {"in_benchmark"}
    assert reasons(known="drop") == {"in_public_set"}


def test_files_for_validation_and_test(place):
    rows = chats(60)
    validation = write_rows(place.folder / "validation.jsonl", rows[40:47])
    test = write_rows(place.folder / "test.jsonl", rows[50:55])
    _, parts = ready(place.values(data__validation=str(validation), data__test=str(test)))
    splits = parts.splits
    assert {e.meta.source for e in splits.validation} == {str(validation)}
    assert {e.meta.source for e in splits.test} == {str(test)}
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 7, 5)


def test_columns_and_train(place):
    odd = write_rows(place.folder / "odd.jsonl", [{"ask": f"number {i}?", "say": f"{i}"} for i in range(20)])
    changes = {"data.train": str(odd), "data.columns": {"prompt": "ask", "completion": "say"}}
    _, parts = ready(place.values(**changes))
    assert parts.splits.train[0].messages[0].content.startswith("number ")
    assert {e.meta.source for e in parts.splits.train} == {str(odd)}


def test_mix(place):
    other = write_rows(
        place.folder / "other.jsonl", [{"prompt": f"{i}?", "completion": "x"} for i in range(50)]
    )
    source = {"weight": 0.5, "cap": 9}
    session, parts = ready(place.values(data__mix={str(other): source}))
    mixed = [e for e in parts.splits.train if e.meta.mixed == str(other)]
    assert len(mixed) == 9 and {t.meta.mixed for t in parts.sequences.train} == {None, str(other)}
    assert not any(e.meta.mixed for e in (*parts.splits.validation, *parts.splits.test))
    assert value_at(session.recipe, "data.mix") == {str(other): source}


def test_over_long(place):
    def rows(how: str) -> int:
        return len(ready(place.values(data__max_length=52, data__over_long=how))[1].sequences.train)

    kept = rows("cut")
    assert 0 < rows("drop") < kept
    with pytest.raises(TunewrightError, match=r"chats\.jsonl:\d+"):
        rows("error")


def test_model_template_and_device(place, tmp_path):
    other = tmp_path / "llama2.jinja"
    other.write_text(template_text("dropsystem"), encoding="utf-8")
    _, parts = ready(place.values(model__template=str(other)))
    _, usual = ready(place.values())
    assert parts.sequences.train[0].ids != usual.sequences.train[0].ids
    assert usual.parts.loaded.precision.device.type == "cpu"
    with pytest.raises(ConfigError, match=r"model\.device: .* \(got 'abacus'\)"):
        ready(place.values(model__device="abacus"))


def test_model_name_and_objective(place, tmp_path):
    wider = save_small_model(tmp_path / "wider", hidden_size=96)
    _, parts = ready(place.values(model__name=str(wider)))
    assert parts.parts.loaded.model.config.hidden_size == 96
    texts = write_rows(
        tmp_path / "texts.jsonl", [{"text": f"The quick brown fox, number {i}."} for i in range(20)]
    )
    changes = {"data.train": str(texts), "objective.name": "text", "evaluate.metrics": ["perplexity"]}
    _, parts = ready(place.values(**changes))
    tokens = parts.sequences.train[0]
    assert tokens.weights[1:] == [1.0] * (len(tokens.ids) - 1)


# --- how it is judged


def test_how_questions_are_asked(place):
    _, parts = ready(
        place.values(
            evaluate__baselines=["few_shot"],
            evaluate__shots=2,
            evaluate__rows=3,
            evaluate__batch_size=5,
            evaluate__max_new_tokens=7,
            evaluate__metrics=["token_f1", "perplexity"],
        )
    )
    assert parts.judge is not None
    assert list(parts.baselines) == ["few_shot"]
    assert len(parts.baselines["few_shot"].args[1]) == 2
    assert len(parts.judge.questions) == 3
    assert parts.judge.batch_size == 5
    assert parts.judge.sampling.max_new_tokens == 7
    assert list(parts.judge.metrics) == ["token_f1", "perplexity"]
    assert list(ready(place.values())[1].baselines) == ["zero_shot"]


def test_baselines_level_final_and_dir_of_a_whole_run(place):
    values = place.values(
        evaluate__baselines=["few_shot"], evaluate__shots=1, evaluate__level=0.8, output__final="merged"
    )
    run, _ = small_train(values)
    [metric] = run.result["metrics"]
    assert set(metric["systems"]) == {"few_shot", "tuned"}
    assert metric["systems"]["tuned"]["level"] == 0.8
    assert run.path == Path(values["output.dir"])
    assert (run.path / "adapter" / "adapter_model.safetensors").exists()
    assert (run.path / "model" / "model.safetensors").exists()


# --- nothing is left out

TESTED: dict[Callable[..., None], tuple[str, ...]] = {
    test_micro_tokens_changes_how_but_not_what: ("train.micro_tokens",),
    test_split_time: ("data.split.time",),
    test_prepare_clean_redact_and_decisions: (
        "data.prepare.clean",
        "data.prepare.redact",
        "data.prepare.decisions",
    ),
    test_prepare_compare: (
        "data.prepare.compare.near",
        "data.prepare.compare.threshold",
        "data.prepare.compare.benchmarks",
        "data.prepare.compare.known",
    ),
    test_method_rank_and_targets: (
        "adapt.method",
        "adapt.rank",
        "adapt.targets",
        "adapt.new_tokens",
    ),
    test_epochs_and_max_steps: ("train.epochs",),
    test_optimizer_and_projection: (
        "train.optim.name",
        "train.optim.projection.rank",
        "train.optim.projection.every",
        "train.optim.projection.scale",
    ),
    test_memory_savers: (
        "train.memory.checkpoint_layers",
        "train.memory.update",
        "train.memory.offload",
    ),
    test_layer_cache: ("train.layer_cache",),
    test_lanes_change_how_but_not_what: ("train.lanes",),
    test_every_save_every_and_keep: ("evaluate.every", "output.save_every", "output.keep"),
    test_metric_patience_and_min_improvement_of_stop: (
        "train.stop.metric",
        "train.stop.patience",
        "train.stop.min_improvement",
    ),
    test_split_shares_and_group: ("data.split.validation", "data.split.test", "data.split.group"),
    test_files_for_validation_and_test: ("data.validation", "data.test"),
    test_columns_and_train: ("data.columns", "data.train"),
    test_mix: ("data.mix",),
    test_over_long: ("data.over_long",),
    test_model_template_and_device: ("model.template", "model.device"),
    test_model_name_and_objective: ("model.name", "objective.name"),
    test_how_questions_are_asked: (
        "evaluate.shots",
        "evaluate.rows",
        "evaluate.batch_size",
        "evaluate.max_new_tokens",
        "evaluate.metrics",
    ),
    test_baselines_level_final_and_dir_of_a_whole_run: (
        "evaluate.baselines",
        "evaluate.level",
        "output.final",
        "output.dir",
    ),
}


def test_every_setting_has_a_test_of_its_effect():
    tested = {*WEIGHTS, *(name for names in TESTED.values() for name in names)}
    assert sorted(tested ^ set(NAMES)) == [], "add a test of the new setting's effect to this file"
