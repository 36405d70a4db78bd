"""Reward models through whole runs: they learn an order, are judged for it, and score answers for others."""

from __future__ import annotations

import json
import random

import pytest

from tests.e2e.conftest import COLOURS, THINGS, settings
from tests.e2e.test_preferences import write
from tests.e2e.test_resume import Killed, killer
from tunewright.core import events
from tunewright.core.errors import ConfigError
from tunewright.core.hashing import file_digest
from tunewright.core.records import Message
from tunewright.models.load import load
from tunewright.run.judge import Judging, compare, evaluate
from tunewright.run.scoring import load_scorer, score_answers
from tunewright.run.train import resume, train

GOOD, BAD = ("glad", "warm", "kind", "calm"), ("grim", "rude", "cold", "mean")
QUESTIONS = [f"{colour} {thing}?" for colour in COLOURS for thing in (*THINGS, "bed", "log", "egg", "key")]
COMMON = (
    "objective=reward",
    "model.dtype=float32",
    "evaluate.max_new_tokens=auto",
    "train.tokens_per_step=600",
    "train.stop.patience=0",
    "data.split.validation=0.15",
    "data.split.test=0.3",
)
RATES = {"lora": "train.learning_rate=0.01", "full": "train.learning_rate=0.004"}


def pair_rows():
    """Kind words are better than unkind ones, however many there are."""
    draw = random.Random(0)
    texts = [
        [" ".join(draw.choices(words, k=draw.randint(1, 4))) for words in (GOOD, BAD)] for _ in QUESTIONS
    ]
    return [
        {"prompt": question, "chosen": good, "rejected": bad}
        for question, (good, bad) in zip(QUESTIONS, texts, strict=True)
    ]


def ranking_rows():
    """The more kind words out of three, the better."""
    draw, rows = random.Random(1), []
    for question in QUESTIONS:
        levels = draw.sample(range(4), 3)
        answers = [draw.sample([*draw.choices(GOOD, k=n), *draw.choices(BAD, k=3 - n)], 3) for n in levels]
        rows.append({"prompt": question, "answers": [" ".join(a) for a in answers], "scores": levels})
    return rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rewards") / "pairs.jsonl", pair_rows())


@pytest.fixture(scope="module")
def rankings(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rewards") / "rankings.jsonl", ranking_rows())


def recipe(tiny, data, out, method="lora", *words):
    return settings(tiny, data, out, *COMMON, f"adapt.method={method}", RATES[method], *words)


@pytest.fixture(scope="module")
def scorer(tiny, pairs, tmp_path_factory):
    """A reward model that has learnt the pairs, as an adapter."""
    return train(recipe(tiny, pairs, tmp_path_factory.mktemp("reward") / "run", "lora", "train.epochs=5"))


@pytest.fixture(scope="module")
def whole(tiny, pairs, tmp_path_factory):
    """The same with all weights."""
    return train(recipe(tiny, pairs, tmp_path_factory.mktemp("reward") / "run", "full", "train.epochs=5"))


def systems(result):
    return {m["name"]: m["systems"] for m in result["metrics"]}


@pytest.mark.parametrize("name", ["scorer", "whole"])
def test_separable_pairs_are_learnt(name, request):
    run = request.getfixturevalue(name)
    found = systems(run.result)
    assert list(found) == ["pair_accuracy", "pair_calibration", "shorter_accuracy", "length_correlation"]
    accuracy = found["pair_accuracy"]
    assert set(accuracy) == {"longer", "likelihood", "tuned"}
    assert accuracy["tuned"]["value"] > 0.9 and accuracy["tuned"]["low"] > 0.75
    assert accuracy["longer"]["value"] < 0.7 and accuracy["likelihood"]["value"] < 0.7
    assert found["pair_calibration"].keys() == {"tuned"}
    assert found["shorter_accuracy"]["longer"]["value"] == 0
    assert found["length_correlation"]["longer"]["value"] == pytest.approx(1)
    assert found["shorter_accuracy"]["tuned"]["value"] > 0.8
    assert run.result["verdict"]["word"] == "SHIP"
    assert run.result["counts"]["test"] >= 20


def test_rankings_are_learnt(tiny, rankings, tmp_path):
    run = train(recipe(tiny, rankings, tmp_path / "run", "full", "train.epochs=6"))
    accuracy = systems(run.result)["pair_accuracy"]
    assert accuracy["tuned"]["value"] > 0.9
    assert accuracy["likelihood"]["value"] < 0.75
    answers = json.loads((run.path / "answers.json").read_text())["tuned"]
    assert all(text.startswith("from best to worst: answer ") for text in answers["texts"])
    assert run.result["verdict"]["word"] == "SHIP"


def test_the_rewards_of_a_run_are_those_that_others_get(scorer, tiny):
    """As a reward of a policy, say: text in, numbers out, the same as in the run's own judgement."""
    loaded = load_scorer(str(scorer.path), device="cpu", dtype="float32")
    rows = [json.loads(line) for line in (scorer.path / "data" / "test.jsonl").read_text().splitlines()]
    notes = json.loads((scorer.path / "answers.json").read_text())["tuned"]["notes"]
    prompts = [[Message("user", row["prompt"][0]["content"])] for row in rows for _ in (0, 1)]
    texts = [row[side][0]["content"] for row in rows for side in ("chosen", "rejected")]
    found = score_answers(loaded, prompts, texts)
    pairs = zip(found[::2], found[1::2], strict=True)
    assert notes == [f"rewards {good:+.3g}, {bad:+.3g}" for good, bad in pairs]
    kind, unkind = score_answers(loaded, [prompts[0]] * 2, ["warm kind glad", "rude grim cold"])
    assert kind > unkind + 1
    with pytest.raises(ConfigError, match="is no reward model: it has no score head"):
        score_answers(load(str(tiny), device="cpu", dtype="float32"), prompts, texts)


@pytest.mark.parametrize("name", ["scorer", "whole"])
def test_eval_gives_the_numbers_of_the_run_again(tw, name, request):
    run = request.getfixturevalue(name)
    said = tw("eval", run.path, "--data", run.path / "data" / "test.jsonl", "--json")
    assert said.status == 0, said.err
    again = {m["name"]: m["value"] for m in said.json["metrics"]}
    assert again == {n: pytest.approx(s["tuned"]["value"], abs=1e-6) for n, s in systems(run.result).items()}


def test_two_reward_models_are_compared(scorer, whole, tw):
    said = tw("compare", whole.path, scorer.path, "--data", scorer.path / "data" / "test.jsonl", "--json")
    assert said.status in (0, 1), said.err
    table = {m["name"]: m for m in said.json["metrics"]}
    assert set(table["pair_accuracy"]["systems"]) == {str(whole.path), str(scorer.path)}
    assert set(table["pair_calibration"]["differences"]) == {str(whole.path)}


def test_a_reward_model_and_a_language_model_have_nothing_in_common(scorer, tiny):
    with pytest.raises(
        ConfigError, match=r"cannot be compared: .*tiny gives text and .* gives rewards of answers"
    ):
        compare([tiny, scorer], scorer.path / "data" / "test.jsonl")


def test_a_taste_for_length_is_said_in_plain_words(tiny, tmp_path):
    """In training the longer answer is nearly always the better one; on the test rows every second time."""
    draw = random.Random(2)

    def row(question, longer_wins):
        short, long = (" ".join(draw.choices(GOOD + BAD, k=k)) for k in (1, 6))
        better, worse = (long, short) if longer_wins else (short, long)
        return {"prompt": question, "chosen": better, "rejected": worse}

    train_file = write(tmp_path / "train.jsonl", [row(q, True) for q in QUESTIONS[:70]])
    test_file = write(tmp_path / "test.jsonl", [row(q, i % 2 == 0) for i, q in enumerate(QUESTIONS[70:])])
    words = (f"data.test={test_file}", "data.split.test=0.1", "train.epochs=3")
    run = train(recipe(tiny, train_file, tmp_path / "run", "full", *words))
    found = systems(run.result)
    assert found["length_correlation"]["tuned"]["value"] > 0.6
    assert found["shorter_accuracy"]["tuned"]["value"] == 0
    assert found["pair_accuracy"]["tuned"]["value"] == pytest.approx(0.5, abs=0.05)
    [warning] = [w for w in run.result["warnings"] if w.startswith("the rewards follow length")]
    assert (
        "where the better answer is the shorter one, 0% of 13 pairs are in order, against 50% of all"
        in warning
    )
    report = (run.path / "report.html").read_text()
    assert "the rewards follow length" in report
    assert "who only counts tokens has 0" in report and "The longer answer" in report
    assert run.result["verdict"]["word"] != "SHIP"


def test_no_taste_for_length_is_no_warning(scorer):
    assert not [w for w in scorer.result["warnings"] if "length" in w]


def test_too_few_shorter_answers_to_measure_it(tiny, tmp_path):
    rows = [{"prompt": q, "chosen": "warm and kind", "rejected": "no"} for q in QUESTIONS]
    file = write(tmp_path / "long.jsonl", rows)
    run = train(recipe(tiny, file, tmp_path / "run", "lora", "train.max_steps=1"))
    assert list(systems(run.result)) == ["pair_accuracy", "pair_calibration"]
    with pytest.raises(
        ConfigError, match="shorter_accuracy: in no pair is the better answer the shorter one"
    ):
        evaluate(run, run.path / "data" / "test.jsonl", Judging(metrics=["shorter_accuracy"]))


def trained(run):
    """Hashes of all that was trained."""
    return [file_digest(path) for path in sorted(run.path.glob("*/*.safetensors"))]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_run_ends_in_the_same_bits(tiny, pairs, tmp_path, scorer, whole, method):
    out, expected = tmp_path / "run", {"lora": scorer, "full": whole}[method]
    killed = killer(lambda e: isinstance(e, events.StepEnd) and e.step == 9)
    with pytest.raises(Killed):
        train(recipe(tiny, pairs, out, method, "train.epochs=5"), killed)
    run = resume(out)
    assert trained(run) == trained(expected) and len(trained(run)) >= 2
    assert systems(run.result) == systems(expected.result)


def test_metrics_that_do_not_fit_are_refused_before_training(tiny, pairs, tmp_path):
    for metric, message in (
        ("exact_match", "'exact_match' does not suit a reward model"),
        ("prefers_chosen", "'prefers_chosen' does not suit a reward model"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(recipe(tiny, pairs, tmp_path / "run", "lora", f"evaluate.metrics=[{metric}]"))
    with pytest.raises(ConfigError, match="'zero_shot' does not suit this objective"):
        train(recipe(tiny, pairs, tmp_path / "run", "lora", "evaluate.baselines=[zero_shot]"))
    assert not (tmp_path / "run").exists()
