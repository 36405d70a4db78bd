"""Replay does what it is for: with some old rows mixed in, learning something new forgets less."""

import json

import pytest

from tests.e2e.conftest import COLOURS, THINGS, settings, write_messages
from tunewright.core.events import silent
from tunewright.run.judge import Judging, evaluate
from tunewright.run.planning import lines, plan
from tunewright.run.train import train

UNSEEN = ("bed", "log", "egg", "key")
NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hal", "ivy", "jon", "kim", "lea", "max", "nina")
FULL = (
    "adapt.method=full",
    "model.dtype=float32",
    "train.tokens_per_step=512",
    "train.stop.patience=0",
    "evaluate.metrics=[perplexity]",
    "evaluate.baselines=[zero_shot]",
    "train.learning_rate=0.004",
)


def old(things):
    return [(f"{colour} {thing}?", colour[::-1].upper()) for thing in things for colour in COLOURS]


def new():
    return [(f"Where is {name} {word}?", f"It is {word}.") for name in NAMES for word in ("in", "out", "up")]


@pytest.fixture(scope="module")
def learnt(tiny, tmp_path_factory):
    """A model that knows the old task, with the files of both."""
    folder = tmp_path_factory.mktemp("replay")
    first = write_messages(folder / "old.jsonl", old(THINGS))
    judged = write_messages(folder / "old-test.jsonl", old(UNSEEN))
    second = write_messages(folder / "new.jsonl", new())
    words = (*FULL, "train.epochs=25", "data.split.validation=0", "data.split.test=0")
    run = train(settings(tiny, first, folder / "base", *words))
    return run.path, first, judged, second


def perplexity(run, system):
    [metric] = run.result["metrics"]
    return metric["systems"][system]["value"]


def on_new(run, file):
    return evaluate(str(run.path), file, Judging(metrics=["perplexity"]))["metrics"][0]["value"]


def test_replay_forgets_less(learnt, tmp_path):
    """Perplexity on unseen rows of the old task: 1.24 before, 122 after the new one, 1.11 with replay."""
    base, first, judged, second = learnt
    words = (*FULL, "train.epochs=20", "data.split.validation=0", f"data.test={judged}")
    alone = train(settings(base, second, tmp_path / "alone", *words))
    mix = "data.mix=" + json.dumps({str(first): {"weight": 0.4}})
    replayed = train(settings(base, second, tmp_path / "replayed", *words, mix))
    before = perplexity(alone, "zero_shot")
    forgotten, kept = perplexity(alone, "tuned"), perplexity(replayed, "tuned")
    assert before < 1.5 and forgotten > 20 and kept < 1.5
    assert on_new(alone, second) < 1.4 and on_new(replayed, second) < 1.4  # both learnt the new one

    receipt = json.loads((replayed.path / "data" / "receipt.json").read_text())
    [source] = receipt["mix"]["sources"]
    assert (source["source"], source["rows"], source["share"]) == (str(first), 28, 0.4)


def test_plan_shows_the_mixture(learnt, tmp_path):
    base, first, _, second = learnt
    mix = "data.mix=" + json.dumps({str(first): {"weight": 0.4, "cap": 9}})
    facts = plan(settings(base, second, tmp_path / "run", *FULL, mix, "data.split.test=0"), silent)
    main, mixed = facts["mix"]
    assert (mixed["rows"], mixed["weight"], main["source"]) == (9, 0.4, "main")
    assert main["share_of_trained_tokens"] + mixed["share_of_trained_tokens"] == pytest.approx(1, abs=1e-5)
    assert mixed["share_of_trained_tokens"] < mixed["share"]  # its answers are shorter
    text = [line for line in lines(facts) if "of the trained tokens" in line]
    assert text[0].startswith("mixture         main: ") and f"{first}: 9 rows, " in text[1]
    assert "weight 0.4" in text[1]
