"""Distillation through whole runs: a student learns a rule from its teacher, though its rows say otherwise.

The rule: the colour in a question decides the letter of the answer. The teacher was tuned on it. The training
rows of the student have other letters, wrong ones, so whatever it knows in the end it has from its teacher.
"""

from __future__ import annotations

import json
import random
import weakref
from dataclasses import replace

import pytest

from tests.e2e.conftest import COLOURS, THINGS, rows_of, settings, write_messages
from tests.e2e.test_resume import Killed, killer, stable
from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError, ModelError, RunError
from tunewright.core.hashing import file_digest
from tunewright.models.load import load
from tunewright.run import teacher_text, teaching
from tunewright.run.resolve import resolve
from tunewright.run.train import resume, train

LETTERS = "ABCDEFGH"
MORE = ("bed", "log", "egg", "key", "lamp", "book", "door", "ring", "coat", "shoe", "tree", "bird")
COMMON = (
    "adapt.method=full",
    "model.dtype=float32",
    "train.tokens_per_step=512",
    "train.learning_rate=0.01",
    "train.optim.warmup=0.1",
    "train.stop.patience=0",
    "evaluate.every=40",
    "evaluate.metrics=[exact_match]",
)
SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48, "seed": 3}


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path_factory.mktemp("home")))


def save(folder, kind="bytelevel", **overrides):
    tokenizer = tiny_tokenizer(kind)
    tiny_model("llama", len(tokenizer.get_vocab()), **overrides).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Rows with the right letters (``true``), the same with wrong ones (``wrong``), and rows held out."""
    folder = tmp_path_factory.mktemp("rows")
    things = (*THINGS, *MORE)
    pairs = zip(COLOURS, LETTERS, strict=True)
    rows = [(f"{colour} {thing}?", letter) for colour, letter in pairs for thing in things]
    random.Random(0).shuffle(rows)
    wrong = [(question, "XYZW"[i % 4]) for i, (question, _) in enumerate(rows[:96])]
    parts = {"true": rows[:96], "wrong": wrong, "validation": rows[96:110], "test": rows[110:], "all": rows}
    return {name: write_messages(folder / f"{name}.jsonl", part) for name, part in parts.items()}


@pytest.fixture(scope="module")
def recipe(files, tmp_path_factory):
    """(model, data, words) -> a recipe on these rows, in a directory of its own."""

    def make(model, data, *words, out=None):
        held_out = (f"data.validation={files['validation']}", f"data.test={files['test']}")
        out = out or tmp_path_factory.mktemp("runs") / "run"
        return settings(model, files[data], out, *COMMON, *held_out, *words)

    return make


@pytest.fixture(scope="module")
def teacher(files, tmp_path_factory):
    """A run that knows the rule, and has seen all questions."""
    folder = tmp_path_factory.mktemp("big")
    words = ("train.epochs=15", "train.learning_rate=0.004", "data.split.test=0", "data.split.validation=0")
    return train(settings(save(folder / "base"), files["all"], folder / "run", *COMMON, *words)).path


@pytest.fixture(scope="module")
def student(recipe, tmp_path_factory):
    """Half the layers and half the width, tuned for too short a time: it is often wrong."""
    run = train(recipe(save(tmp_path_factory.mktemp("small"), **SMALL), "true", "train.epochs=7"))
    assert 0.1 < score(run, "tuned") < 0.8
    return run.path / "model"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A student with another kind of tokenizer."""
    return save(tmp_path_factory.mktemp("stranger"), "metaspace", **SMALL)


def distil(teacher, *words):
    return ("objective.name=distill", f"objective.teacher={teacher}", *words)


def score(run, system, metric=0):
    return run.result["metrics"][metric]["systems"][system]["value"]


def evaluations(run):
    return [e["metrics"] for e in rows_of(run.path / "events.jsonl") if e["event"] == "EvalEnd"]


def notes(run):
    return [
        e["detail"]
        for e in rows_of(run.path / "events.jsonl")
        if e["event"] == "Stage" and e["name"] == "note"
    ]


def test_the_rows_alone_teach_nothing_that_is_right(recipe, student):
    run = train(recipe(student, "wrong", "train.epochs=20"))
    assert run.result["training"]["best_step"] == 0 and run.result["training"]["final_step"] > 30
    assert score(run, "tuned") == score(run, "zero_shot") < 0.8


@pytest.mark.parametrize("how", ["cached", "live", "on_policy", "lora"])
def test_the_student_comes_within_two_points_of_its_teacher(recipe, student, teacher, how):
    words = {
        "cached": (),
        "live": ("objective.top_k=0", "objective.divergence=js"),
        "on_policy": ("objective.on_policy=1.0",),
        "lora": ("adapt.method=lora", "adapt.rank=16", "train.epochs=20"),
    }[how]
    run = train(recipe(student, "wrong", *distil(teacher, "train.epochs=14", *words)))
    assert score(run, "zero_shot") < 0.8 and score(run, "teacher") >= 0.98
    assert score(run, "tuned") >= score(run, "teacher") - 0.02
    [metric] = run.result["metrics"]
    found = metric["differences"]["teacher"]
    assert found["value"] == pytest.approx(score(run, "tuned") - score(run, "teacher"))
    assert found["low"] <= found["value"] <= found["high"]
    assert (run.result["verdict"]["word"], run.result["verdict"]["against"]) == ("SHIP", "zero_shot")
    supplied = run.result["supplied"]["teacher"]
    assert supplied["vocabulary"] == "same" and supplied["name"] == str(teacher)
    assert "| Teacher |" in (run.path / "README.md").read_text()
    assert "Teacher" in (run.path / "report.html").read_text()
    first, *rest = [m["validation_divergence"] for m in evaluations(run)]
    assert min(rest) < first
    [step, *_] = [e["metrics"] for e in rows_of(run.path / "events.jsonl") if e["event"] == "StepEnd"]
    assert step.get("on_policy") == (1.0 if how == "on_policy" else None)


def test_a_teacher_with_another_tokenizer(recipe, stranger, teacher):
    words = ("objective.sft_weight=0.8", "train.epochs=25", "evaluate.metrics=[exact_match, perplexity]")
    run = train(recipe(stranger, "true", *distil(teacher, *words)))
    assert run.result["supplied"]["teacher"]["vocabulary"] == "uld"
    assert score(run, "tuned") >= score(run, "teacher") - 0.02
    first, *_, last = evaluations(run)
    assert first["validation_aligned"] == 1.0
    assert first["validation_divergence"] > 1.5 and last["validation_divergence"] < 0.3
    assert run.result["metrics"][1]["name"] == "perplexity"
    assert any("by their sorted probabilities" in note for note in notes(run))


def test_the_teacher_writes_the_answers(recipe, stranger, teacher):
    run = train(recipe(stranger, "wrong", *distil(teacher, "objective.vocabulary=text", "train.epochs=16")))
    assert score(run, "tuned") >= score(run, "teacher") - 0.02
    answers = run.result["supplied"]["teacher"]["answers"]
    file = run.path / answers["file"]
    assert answers == {
        "file": "teacher.jsonl",
        "sha256": file_digest(file),
        "rows": 110,
        "kept": 110,
        "cut": 0,
    }
    known = dict(zip(COLOURS, LETTERS, strict=True))
    stored = rows_of(run.path / "data" / "train.jsonl") + rows_of(run.path / "data" / "validation.jsonl")
    right = [
        line["answer"] == known[row["messages"][0]["content"].split()[0]]
        for row, line in zip(stored, rows_of(file), strict=True)
    ]
    assert sum(right) >= 106
    page = (run.path / "report.html").read_text()
    assert ">X<" not in page.replace(" ", "")  # the first batch shows what was learnt, not what was stored


def test_a_teacher_that_never_ends_teaches_nothing(recipe, stranger, tmp_path):
    rambling = save(tmp_path / "rambling", "metaspace", **{**SMALL, "seed": 5})
    with pytest.raises(DataError, match="gave no usable answer to any training row"):
        train(recipe(stranger, "wrong", *distil(rambling, "objective.vocabulary=text")))


def test_answers_of_no_use_are_left_out(recipe, stranger, teacher, monkeypatch):
    real = teacher_text.generate

    def sometimes(model, prompts, *args, **kwargs):
        found = real(model, prompts, *args, **kwargs)
        if len(found) == 64:  # the first of two pieces
            for i in (3, 4, 60):
                found[i].ids.clear()
            found[7] = replace(found[7], finished=False)
        return found

    monkeypatch.setattr(teacher_text, "generate", sometimes)
    run = train(recipe(stranger, "wrong", *distil(teacher, "objective.vocabulary=text", "train.max_steps=1")))
    answers = run.result["supplied"]["teacher"]["answers"]
    assert (answers["rows"], answers["kept"], answers["cut"]) == (110, 106, 1)
    said = " ".join(run.result["warnings"])
    assert "1 of 110 answers of the teacher" in said and "3 of 110 answers of the teacher" in said
    started = [e for e in rows_of(run.path / "events.jsonl") if e["event"] == "StepEnd"]
    assert len(started) == 1


# --- resuming

RESUMED = {
    "cached": ("objective.temperature=2",),
    "live": ("objective.top_k=0",),
    "on_policy": ("objective.on_policy=0.5",),
    "text": ("objective.vocabulary=text",),
}
MOMENTS = {
    "while the teacher is asked": lambda e: (
        isinstance(e, events.Progress) and e.name == "teacher" and e.done > 1
    ),
    "a step after a checkpoint": lambda e: isinstance(e, events.StepEnd) and e.step == 3,
    "after training": lambda e: isinstance(e, events.Stage) and e.name == "score tuned",
}


@pytest.mark.parametrize("how", RESUMED)
def test_a_killed_run_ends_in_the_same_bits(recipe, student, teacher, tmp_path, monkeypatch, how):
    monkeypatch.setattr(teacher_text, "PIECE", 16)
    words = distil(teacher, *RESUMED[how], "evaluate.every=2", "train.max_steps=4", "train.micro_tokens=256")
    whole = train(recipe(student, "wrong", *words))
    for number, (name, moment) in enumerate(MOMENTS.items()):
        monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / f"home{number}"))
        out = tmp_path / f"run{number}"
        if how in ("live", "on_policy") and "asked" in name:
            continue  # it is asked in every step
        with pytest.raises(Killed):
            train(recipe(student, "wrong", *words, out=out), killer(moment))
        again = resume(out)
        weights = [file_digest(run.path / "model" / "model.safetensors") for run in (again, whole)]
        assert weights[0] == weights[1], name
        assert stable(again.result) == stable(whole.result)
        if how == "text":
            assert (out / "teacher.jsonl").read_bytes() == (whole.path / "teacher.jsonl").read_bytes()


def test_a_run_does_not_go_on_with_another_teacher(recipe, student, teacher, tmp_path):
    copy = tmp_path / "teacher"
    loaded = load(str(teacher), dtype="float32")
    loaded.model.save_pretrained(copy)
    loaded.tokenizer.save_pretrained(copy)
    words = distil(copy, "train.max_steps=3", "evaluate.every=1")
    with pytest.raises(Killed):
        train(
            recipe(student, "wrong", *words, out=tmp_path / "run"),
            killer(lambda e: isinstance(e, events.StepEnd)),
        )
    loaded.model.model.norm.weight.data += 0.01
    loaded.model.save_pretrained(copy)
    with pytest.raises(RunError, match=r"the teacher .* is not the one that the run was begun with"):
        resume(tmp_path / "run")


# --- what it costs


def test_what_the_teacher_said_is_not_asked_twice(recipe, student, teacher):
    words = distil(teacher, "train.max_steps=1")
    first, again = train(recipe(student, "wrong", *words)), train(recipe(student, "wrong", *words))
    asked = [next(note for note in notes(run) if "the teacher was asked" in note) for run in (first, again)]
    assert "asked about 220 tokens, 0 of them" in asked[0] and "220 tokens, 220 of them" in asked[1]


@pytest.mark.parametrize(("how", "kept"), [("cached", False), ("live", True), ("text", False)])
def test_a_teacher_that_is_not_needed_is_given_back(recipe, student, teacher, monkeypatch, how, kept):
    held = []

    def remembered(*args, **kwargs):
        loaded = load(*args, **kwargs)
        held.append(weakref.ref(loaded.model))
        return loaded

    alive = []
    monkeypatch.setattr(teaching, "load", remembered)
    words = distil(teacher, *RESUMED[how], "train.max_steps=1")
    train(
        recipe(student, "wrong", *words),
        lambda e: alive.append(held[0]() is not None) if isinstance(e, events.StepEnd) else None,
    )
    assert len(held) == 1 and alive == [kept]


# --- teachers of every kind


def test_a_run_with_an_adapter_teaches(recipe, student):
    words = ("adapt.method=lora", "adapt.rank=8", "train.epochs=10")
    tuned = train(recipe(student, "true", *words))
    run = train(recipe(student, "wrong", *distil(tuned.path, "train.max_steps=1")))
    assert score(run, "teacher") == score(tuned, "tuned") > score(run, "zero_shot") + 0.1
    config = tuned.path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1}))
    weaker = train(recipe(student, "wrong", *distil(tuned.path, "train.max_steps=1")))
    identity = [found.result["supplied"]["teacher"]["identity"] for found in (run, weaker)]
    assert identity[0] != identity[1]  # the same weights say something else


def test_a_teacher_of_which_little_can_be_expected_is_warned_of(recipe, student, teacher, tmp_path):
    itself = train(recipe(student, "wrong", *distil(student, "train.max_steps=1")))
    assert any("is the student itself" in w for w in itself.result["warnings"])
    smaller = train(recipe(teacher / "model", "wrong", *distil(student, "train.max_steps=1")))
    assert any("is smaller than the student" in w for w in smaller.result["warnings"])
    other = save(tmp_path / "other")
    tokenizer = tiny_tokenizer(template=None)
    tokenizer.save_pretrained(other)
    (other / "chat_template.jinja").unlink(missing_ok=True)
    unlike = train(recipe(student, "wrong", *distil(other, "train.max_steps=1")))
    assert any("made for another chat template" in w for w in unlike.result["warnings"])
    assert any("has no chat template" in note for note in notes(unlike))


def test_a_wrong_recipe_fails_before_anything_is_written(recipe, student, stranger, teacher, tmp_path):
    short = (f"objective.teacher={save(tmp_path / 'short', max_position_embeddings=20)}",)
    for words, error, message in (
        (("objective.teacher=nowhere",), ModelError, "no model 'nowhere'"),
        (short, ConfigError, r"reads at most 20 tokens, but .*wrong\.jsonl:\d+ takes 2\d"),
        ((f"objective.teacher={stranger}", "objective.vocabulary=same"), ConfigError, "vocabulary=same, but"),
        (
            (f"objective.teacher={stranger}", "objective.on_policy=0.5"),
            ConfigError,
            "needs a teacher that can read",
        ),
        (("evaluate.baselines=[teachers]",), ConfigError, "'teachers' does not suit"),
    ):
        with pytest.raises(error, match=message):
            train(recipe(student, "wrong", *distil(teacher, *words), out=tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_documents(recipe, files, student, stranger, teacher, tmp_path):
    """They are distilled too, but have no question to ask; in pieces they cannot be set side by side."""
    file = tmp_path / "texts.jsonl"
    words = ("refund", "order", "ticket", "customer", "capital", "morning")
    file.write_text("".join(json.dumps({"text": " ".join((a, b) * 20)}) + "\n" for a in words for b in words))
    given = ("evaluate.metrics=auto", "train.max_steps=2", "data.max_length=64")

    def go(model, *more, out):
        return train(settings(model, file, tmp_path / out, *COMMON, *given, *distil(teacher, *more)))

    run = go(student, out="same")
    assert set(run.result["metrics"][0]["systems"]) == {"zero_shot", "teacher", "tuned"}
    with pytest.raises(ConfigError, match="is a document: there is no question"):
        go(student, "objective.vocabulary=text", out="text")
    with pytest.raises(ConfigError, match=r"in \d pieces and the teacher in 1"):
        go(stranger, out="uld")
    whole = go(stranger, "data.max_length=512", out="whole")
    assert set(whole.result["metrics"][0]["systems"]) == {"zero_shot", "tuned"}
    assert any("perplexity is per token" in note for note in notes(whole))
    with pytest.raises(ConfigError, match="no training row has a question"):
        go(student, "objective.on_policy=0.5", out="own")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["same", "whole"]


@pytest.mark.parametrize("vocabulary", ["same", "text"])
def test_one_of_two_tasks(files, student, teacher, tmp_path, vocabulary):
    things = write_messages(
        tmp_path / "things.jsonl", [(f"a {t} of {c}?", t.upper()) for t in THINGS for c in COLOURS]
    )
    taught = {"objective": "distill", "teacher": str(teacher), "vocabulary": vocabulary}
    values = {
        "model.name": str(student),
        "data.train": {"own": str(things), "taught": str(files["wrong"])},
        "data.split.validation": 0.1,
        "data.split.test": 0.1,
        "objective": {"name": "multi", "tasks": {"own": {"objective": "sft"}, "taught": taught}},
        "adapt.method": "full",
        "train.max_steps": 2,
        "output.dir": str(tmp_path / "run"),
    }
    run = train(resolve(None, None, values))
    facts = run.result["supplied"]["teacher taught"]
    assert facts["vocabulary"] == vocabulary
    if vocabulary == "text":
        assert facts["answers"]["file"] == "teacher-taught.jsonl" and facts["answers"]["kept"] > 70
        assert {line["answer"] for line in rows_of(run.path / "teacher-taught.jsonl")} <= set(LETTERS)
    systems = {m["name"]: set(m["systems"]) for m in run.result["metrics"]}
    assert systems["taught/exact_match"] == {"zero_shot", "teacher", "tuned"}
    assert systems["own/exact_match"] == {"zero_shot", "tuned"}
    step = next(e for e in rows_of(run.path / "events.jsonl") if e["event"] == "StepEnd")
    assert ("taught_divergence" in step["metrics"]) is (vocabulary == "same")


def test_from_the_command_line(tw, recipe, files, student, teacher, tmp_path):
    path, out = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(
        f"model: {student}\n"
        f"data: {{train: {files['wrong']}, validation: {files['validation']}, test: {files['test']}}}\n"
        f"objective: {{name: distill, teacher: {teacher}, top_k: 8}}\n"
        "adapt: {method: full}\ntrain: {max_steps: 2}\n"
    )
    assert "objective.teacher" in tw("plan", path).out
    said = tw("train", path, "--out", out, "--json")
    assert said.status in (0, 1) and set(said.json["metrics"][0]["systems"]) == {
        "zero_shot",
        "teacher",
        "tuned",
    }
    assert tw("eval", out, "--data", files["test"], "--json").json["n"] == 50
    compared = tw("compare", teacher, out, "--data", files["test"], "--json").json
    assert compared["metrics"][0]["systems"][str(teacher)]["value"] >= 0.98
