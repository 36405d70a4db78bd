"""Replay does what it is for: with some old rows mixed in, learning something new forgets less."""

import json

import pytest

from tests.e2e.conftest import COLOURS, THINGS, settings, write_messages
from tunewright.core.errors import ConfigError
from tunewright.core.events import silent
from tunewright.run.judge import Judging, evaluate
from tunewright.run.planning import lines, plan
from tunewright.run.resolve import resolve
from tunewright.run.rlhf import phases
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
    assert main["share_of_tokens"] + mixed["share_of_tokens"] == pytest.approx(1, abs=1e-5)
    assert mixed["share_of_tokens"] < mixed["share"]  # its answers are shorter
    text = [line for line in lines(facts) if "of the tokens" in line]
    assert text[0].startswith("mixture         main: ") and f"{first}: 9 rows, " in text[1]
    assert "weight 0.4" in text[1]


def test_every_objective_knows_the_source_of_its_rows(tiny, tmp_path):
    """A head learns no token, so those that are read are counted; pairs have branches."""
    folder = tmp_path

    def put(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return folder / name

    kinds = {
        "classify": lambda i: {"text": f"text {i}", "label": "ab"[i % 2]},
        "dpo": lambda i: {"prompt": f"{i}?", "chosen": f"good {i}", "rejected": f"bad {i}"},
        "text": lambda i: {"text": f"The document of number {i}."},
    }
    for objective, row in kinds.items():
        main = put(f"{objective}.jsonl", [row(i) for i in range(40)])
        more = put(f"{objective}-more.jsonl", [row(i) for i in range(100, 150)])
        values = {"model.name": str(tiny), "data.train": str(main), "data.mix": {str(more): 0.5}}
        facts = plan(resolve(None, None, {**values, "objective.name": objective}), silent)
        own, mixed = facts["mix"]
        assert own["rows"] == mixed["rows"] and 0.4 < mixed["share_of_tokens"] < 0.65, objective


def test_rlhf_takes_it_in_one_phase(tiny, tmp_path):
    data = {name: f"{name}.jsonl" for name in ("demonstrations", "comparisons", "prompts")}
    words = ("objective.name=rlhf", "data.mix={g.jsonl: 0.2}", "data.train=" + json.dumps(data))
    whole = settings(tiny, "x.jsonl", tmp_path / "run", *words)
    with pytest.raises(ConfigError, match=r"give it to one of them, as in objective\.sft="):
        phases(whole.recipe, tmp_path)
    words = (words[0], words[2], "objective.sft={data.mix: {g.jsonl: 0.2}}")
    found = phases(settings(tiny, "x.jsonl", tmp_path / "run", *words).recipe, tmp_path)
    assert found["sft"].recipe.data.mix and not found["reward"].recipe.data.mix
