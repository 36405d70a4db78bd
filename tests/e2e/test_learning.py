"""A model from random weights learns what can be learnt, and is never shipped for what cannot."""

import random

import pytest

from tests.e2e.conftest import COLOURS, THINGS, rows_of, settings, write_messages
from tunewright.core.errors import TrainError
from tunewright.run.train import resume, train

FULL = (
    "adapt.method=full",
    "train.tokens_per_step=512",
    "train.optim.warmup=0.1",
    "evaluate.metrics=[exact_match]",
    "data.split.validation=0.15",
    "data.split.test=0.3",
)


@pytest.fixture(scope="module")
def mapping(tmp_path_factory):
    """The answer is decided by the first word; the second word is noise."""
    rows = [(f"{c} {t}?", c[::-1].upper()) for c in COLOURS for t in (*THINGS, "bed", "log", "egg", "key")]
    return write_messages(tmp_path_factory.mktemp("learn") / "mapping.jsonl", rows)


def test_a_learnable_task_is_learnt_and_shipped(tiny, mapping, tmp_path):
    words = (
        *FULL,
        "train.epochs=30",
        "train.learning_rate=0.004",
        "evaluate.every=20",
        "train.stop.patience=0",
    )
    run = train(settings(tiny, mapping, tmp_path / "run", *words))
    [metric] = run.result["metrics"]
    assert metric["systems"]["zero_shot"]["value"] == 0.0
    assert metric["systems"]["tuned"]["value"] > 0.9
    assert metric["n"] >= 20
    assert run.result["verdict"]["word"] == "SHIP"
    assert "percentage points" in run.result["verdict"]["reason"]


def test_random_answers_never_ship(tiny, tmp_path):
    letters = random.Random(0)
    rows = [(f"{c} {t}?", "".join(letters.choices("abcdefghijklmnop", k=5))) for c in COLOURS for t in THINGS]
    file = write_messages(tmp_path / "random.jsonl", rows)
    run = train(settings(tiny, file, tmp_path / "run", *FULL, "train.epochs=3", "train.learning_rate=0.003"))
    assert run.result["metrics"][0]["systems"]["tuned"]["value"] < 0.1
    assert run.result["verdict"]["word"] != "SHIP"


def test_a_task_metric_stops_training(tiny, mapping, tmp_path):
    words = (
        *FULL,
        "train.epochs=40",
        "train.learning_rate=0.004",
        "evaluate.every=15",
        "train.stop.metric=exact_match",
        "train.stop.patience=2",
    )
    run = train(settings(tiny, mapping, tmp_path / "run", *words))
    training = run.result["training"]
    points = {
        e["step"]: e["metrics"]["exact_match"]
        for e in rows_of(run.path / "events.jsonl")
        if e["event"] == "EvalEnd"
    }
    assert training["watched"] == {"metric": "exact_match", "best": max(points.values())}
    assert points[training["best_step"]] == max(points.values())
    assert "exact_match has not improved for 2 evaluations" in training["stop_reason"]
    assert training["final_step"] == training["best_step"] + 30 < 40 * 5


def test_a_huge_learning_rate_stops_at_the_step_that_broke(tw, tiny, mapping, tmp_path):
    out = tmp_path / "run"
    words = ("train.learning_rate=1e30", "train.optim.clip_norm=0", "train.epochs=3", "model.dtype=float32")
    recipe = settings(tiny, mapping, out, *FULL, *words)
    with pytest.raises(TrainError, match=r"is (nan|inf).* step \d+"):
        train(recipe)
    steps = [e["step"] for e in rows_of(out / "events.jsonl") if e["event"] == "StepEnd"]
    assert steps == list(range(1, len(steps) + 1))
    assert not (out / "result.json").exists()
    with pytest.raises(TrainError):
        resume(out)  # it can be taken up again, to the same end
    said = tw("resume", out)
    assert said.status == 2
    assert said.err.splitlines()[-1].startswith("error: ")
    assert "step" in said.err.splitlines()[-1]
