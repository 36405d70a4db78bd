"""Whole runs that end in a head: classes, several of them, ranks, numbers; resumed, judged again, refused."""

import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from tests import labelled
from tests.contract.small import write_rows
from tests.e2e.conftest import rows_of
from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.hashing import file_digest
from tunewright.evaluate.metrics import METRICS
from tunewright.models.load import load
from tunewright.models.quiet import quiet_loading
from tunewright.models.score import heads_of
from tunewright.run.judge import evaluate
from tunewright.run.recipe import parse_override
from tunewright.run.resolve import resolve
from tunewright.run.train import resume, train

QUICK = {
    "model.dtype": "float32",
    "data.split.validation": 0.2,
    "data.split.test": 0.25,
    "adapt.rank": 8,
    "train.tokens_per_step": 256,
    "train.learning_rate": 0.01,
    "train.epochs": 3,
    "evaluate.every": 3,
}
KINDS = {
    "single": (labelled.single, {"objective": {"name": "classify"}}),
    "multi": (labelled.multi, {"objective": {"name": "classify", "kind": "multi"}}),
    "ordinal": (
        labelled.ordinal,
        {"objective": {"name": "classify", "kind": "ordinal", "labels": list(labelled.SIZES)}},
    ),
    "numbers": (labelled.numbers, {"objective": {"name": "regress"}}),
    "head": (
        labelled.single,
        {"objective": {"name": "classify", "pooling": "mean"}, "adapt": {"method": "head"}}
        | {"train.learning_rate": 0.2, "train.epochs": 12, "evaluate.every": 9, "train.stop.patience": 0},
    ),
    "full": (labelled.numbers, {"objective": "regress", "adapt": {"method": "full"}}),
}


def values(tiny, kind, folder, out, *words):
    """The recipe of a quick run of one kind."""
    write, changes = KINDS[kind]
    data = folder / f"{kind}.jsonl"
    if not data.exists():
        write(data)
    base = {"model.name": str(tiny), "data.train": str(data), "output.dir": str(out), **QUICK, **changes}
    return resolve(None, None, base | dict(parse_override(w) for w in words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def run_of(tiny, folder):
    """A finished run of a kind; each is made once."""
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = train(values(tiny, kind, folder, folder / f"run-{kind}"))
        return made[kind]

    return run


def metrics_of(result):
    return {m["name"]: m for m in result["metrics"]}


def answers_of(run):
    return json.loads((run.path / "answers.json").read_text())


# --- the result


@pytest.mark.parametrize("kind", ["single", "multi", "ordinal"])
def test_classes_are_judged_by_what_was_named(run_of, kind):
    run = run_of(kind)
    labels = [row["label"] for row in rows_of(run.path / "data" / "test.jsonl")]
    answers, metrics = answers_of(run), metrics_of(run.result)
    names = {
        "single": ["accuracy", "macro_f1", "calibration_error"],
        "multi": ["label_f1", "label_macro_f1", "label_exact"],
        "ordinal": ["accuracy", "rank_error", "macro_f1", "calibration_error"],
    }[kind]
    assert list(metrics) == names and run.result["verdict"]["metric"] == names[0]
    assert run.result["model"]["judged"] == "labels"
    for system in ("majority", "naive_bayes", "tuned"):
        texts = answers[system]["texts"]
        shown = [", ".join(sorted(x)) if kind == "multi" else x for x in labels]
        right = np.mean([a == b for a, b in zip(texts, shown, strict=True)])
        exact = metrics["label_exact" if kind == "multi" else "accuracy"]["systems"][system]
        assert exact["value"] == pytest.approx(right) and exact["n"] == len(labels)
        assert len(answers[system]["notes"]) == len(labels) and all(answers[system]["notes"])
    if kind == "ordinal":
        rank = {size: i for i, size in enumerate(labelled.SIZES)}
        off = [abs(rank[a] - rank[b]) for a, b in zip(answers["tuned"]["texts"], labels, strict=True)]
        assert metrics["rank_error"]["systems"]["tuned"]["value"] == pytest.approx(np.mean(off))
    assert metrics[names[0]]["systems"]["naive_bayes"]["value"] > 0.8  # one word decides


def test_a_classifier_learns(tiny, folder, tmp_path):
    words = ("train.epochs=12", "train.learning_rate=0.006", "evaluate.every=12", "train.stop.patience=0")
    run = train(values(tiny, "single", folder, tmp_path / "run", *words, "evaluate.baselines=[majority]"))
    accuracy = metrics_of(run.result)["accuracy"]
    assert accuracy["systems"]["majority"]["value"] < 0.5 < 0.8 < accuracy["systems"]["tuned"]["value"]
    assert run.result["verdict"]["word"] == "SHIP"


@pytest.mark.parametrize("kind", ["numbers", "full"])
def test_numbers_are_judged_with_their_intervals(tw, run_of, kind):
    run = run_of(kind)
    labels = np.array([row["label"] for row in rows_of(run.path / "data" / "test.jsonl")])
    answers, metrics = answers_of(run), metrics_of(run.result)
    assert list(metrics) == ["mae", "rmse", "r2", "interval_coverage", "interval_width"]
    for system in ("mean", "ridge", "tuned"):
        said = np.array([float(text) for text in answers[system]["texts"]])
        error = metrics["mae"]["systems"][system]["value"]
        assert error == pytest.approx(np.abs(said - labels).mean(), abs=1e-4)
    where = run.path / ("adapter" if kind == "numbers" else "model")
    facts = json.loads((where / "heads.json").read_text())["heads"]["score"]["facts"]
    assert facts["level"] == 0.95 and facts["half_width"] > 0
    assert metrics["interval_width"]["systems"]["tuned"]["value"] == pytest.approx(2 * facts["half_width"])
    said = np.array([float(text) for text in answers["tuned"]["texts"]])
    inside = (np.abs(said - labels) <= facts["half_width"]).mean()
    assert metrics["interval_coverage"]["systems"]["tuned"]["value"] == pytest.approx(inside, abs=0.04)
    assert metrics["r2"]["systems"]["ridge"]["value"] > 0.8
    validation = run.path / "data" / "validation.jsonl"
    again = tw("eval", run.path, "--data", validation, "--metric", "interval_coverage", "--json").json
    k = math.ceil((again["n"] + 1) * 0.95)  # so many of the rows that it was made from lie inside
    assert again["metrics"][0]["value"] == pytest.approx(k / again["n"], abs=1.01 / again["n"])


def test_too_few_validation_rows_for_intervals_are_said_aloud(tiny, folder, tmp_path):
    words = ("data.split.validation=0.05", "train.max_steps=2", "evaluate.baselines=[mean]")
    run = train(values(tiny, "numbers", folder, tmp_path / "run", *words))
    assert any("no prediction intervals" in w and "too few" in w for w in run.result["warnings"])
    assert any("interval_coverage, interval_width could not be measured" in w for w in run.result["warnings"])
    assert list(metrics_of(run.result)) == ["mae", "rmse", "r2"]
    assert "half_width" not in heads_of(load(str(run.path)).model)["score"].facts


def test_the_untouched_model_writes_labels_if_asked(tiny, folder, tmp_path):
    words = ("train.max_steps=2", "evaluate.baselines=[zero_shot, few_shot]", "evaluate.shots=3")
    run = train(values(tiny, "single", folder, tmp_path / "run", *words))
    metrics = metrics_of(run.result)
    assert list(metrics["accuracy"]["systems"]) == ["zero_shot", "few_shot", "tuned"]
    assert list(metrics["calibration_error"]["systems"]) == ["tuned"]  # who writes says not how sure
    assert answers_of(run)["zero_shot"]["new_tokens"] > 0
    words = (*words, "evaluate.metrics=[calibration_error]")
    with pytest.raises(ConfigError, match="cannot be measured by calibration_error"):
        train(values(tiny, "single", folder, tmp_path / "other", *words))


def test_the_rate_of_a_head_goes_by_the_states(tiny, folder, tmp_path):
    words = ("train.learning_rate=auto", "train.max_steps=1", "evaluate.baselines=[]")
    run = train(values(tiny, "head", folder, tmp_path / "run", *words))
    [line] = [x for x in (run.path / "recipe.yaml").read_text().splitlines() if "learning_rate:" in x]
    assert line.endswith("# auto: prior for head for states of this size")
    rate = float(line.split(":")[1].split("#")[0])
    assert rate == pytest.approx(0.04 / 0.8, rel=0.15)  # 64 wide; states of size 0.8 after a plain RMS norm


def test_the_temperature_makes_probabilities_fit(tiny, folder, tmp_path):
    """The head is divided by it, so every program that reads the model has the probabilities."""
    words = ("train.epochs=8", "train.stop.patience=0", "evaluate.baselines=[]", "evaluate.every=50")
    runs = [
        train(values(tiny, "single", folder, tmp_path / how, *words, f"objective.temperature={how}"))
        for how in ("fitted", "none")
    ]
    fitted, raw = (heads_of(load(str(run.path)).model)["score"].weight for run in runs)
    ratio = (raw / fitted)[fitted.abs() > 1e-3]
    assert ratio.std() < 1e-3 and abs(ratio.mean() - 1) > 0.02
    assert answers_of(runs[0])["tuned"]["texts"] == answers_of(runs[1])["tuned"]["texts"]
    best = runs[1].result["training"]["best_step"]
    state = load_file(runs[1].path / "checkpoints" / f"step-{best}" / "weights.safetensors")
    assert torch.equal(state["base_model.model.score.weight"], raw.detach())


# --- judged again


@pytest.mark.parametrize("kind", list(KINDS))
def test_eval_tells_the_same_numbers(tw, run_of, kind):
    run = run_of(kind)
    said = tw("eval", run.path, "--data", run.path / "data" / "test.jsonl", "--json")
    assert said.status == 0, said.err
    known = metrics_of(run.result)
    assert [m["name"] for m in said.json["metrics"]] == list(known)
    for found in said.json["metrics"]:
        expected = known[found["name"]]["systems"]["tuned"]
        assert {k: found[k] for k in expected} == expected


def test_a_merged_classifier_still_judges(tw, run_of, tmp_path):
    run, data = run_of("single").path, run_of("single").path / "data" / "test.jsonl"
    assert tw("adapter", "merge", run, "--out", tmp_path / "merged").status == 0
    assert load(str(tmp_path / "merged")).judges
    before, after = (tw("eval", m, "--data", data, "--json").json for m in (run, tmp_path / "merged"))
    assert after["new_tokens"] == 0
    accuracies = [e["metrics"][0]["value"] for e in (before, after) if e["metrics"][0]["name"] == "accuracy"]
    assert len(accuracies) == 2 and accuracies[0] == accuracies[1] > 0


@pytest.mark.parametrize("method", ["adaption_prompt", "trainable_tokens"])
def test_methods_whose_files_have_no_place_for_a_head_are_read_again(tiny, folder, tmp_path, method):
    own = {"adaption_prompt": {"adapter_len": 2}, "trainable_tokens": {"token_indices": [5]}}[method]
    resolved = values(tiny, "single", folder, tmp_path / "run", "train.max_steps=2")
    recipe = resolved.recipe.model_dump(exclude_unset=True) | {"adapt": {"method": method, **own}}
    run = train(resolve(None, recipe, {}))
    again = evaluate(run.path, run.path / "data" / "test.jsonl")
    found = {m["name"]: m["value"] for m in again["metrics"]}
    assert found["accuracy"] == metrics_of(run.result)["accuracy"]["systems"]["tuned"]["value"]


def test_compare_two_classifiers_and_one_that_writes(tw, tiny, run_of):
    run, head = run_of("single"), run_of("head")
    test = run.path / "data" / "test.jsonl"
    both = tw("compare", head.path, run.path, "--data", test, "--json")
    assert both.status in (0, 1), both.err
    accuracy, known = metrics_of(both.json)["accuracy"], metrics_of(run.result)["accuracy"]
    assert accuracy["systems"][str(run.path)] == known["systems"]["tuned"]
    assert list(metrics_of(both.json)) == ["accuracy", "macro_f1", "calibration_error"]
    mixed = tw("compare", tiny, run.path, "--data", test, "--json")
    assert mixed.status in (0, 1), mixed.err
    metrics = metrics_of(mixed.json)
    assert list(metrics["accuracy"]["differences"]) == [str(tiny)]
    assert metrics["accuracy"]["systems"][str(run.path)] == known["systems"]["tuned"]
    assert metrics["calibration_error"]["differences"] == {}
    other = tw("compare", run_of("numbers").path, run.path, "--data", test)
    why = " ".join(other.err.split())
    assert other.status == 2 and "numbers" in why
    assert re.search(r"cannot be compared: \S+ gives numbers and \S+ gives labels", why)


def test_plain_transformers_reads_a_head_only_classifier(tiny, folder, tmp_path):
    words = (
        "objective.pooling=last",
        "train.max_steps=6",
        "evaluate.baselines=[]",
        "data.split.validation=0",
    )
    run = train(values(tiny, "head", folder, tmp_path / "run", *words))
    assert not (run.path / "adapter").exists()
    with quiet_loading():
        plain = AutoModelForSequenceClassification.from_pretrained(run.path / "model")
    assert list(plain.config.id2label.values()) == sorted(labelled.COLOURS)
    ours = load(str(run.path), dtype="float32")
    head = heads_of(ours.model)["score"]
    ids = torch.tensor([[7, 90, 33, 12]])
    with torch.no_grad():
        expected = head(ours.model.base_model(input_ids=ids).last_hidden_state[:, -1])
        torch.testing.assert_close(plain(ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert head.weight.abs().max() > 0
    before = load(str(tiny), dtype="float32").model.base_model.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in ours.model.base_model.state_dict().items())


# --- what does not fit


def refused(tw, *words):
    said = tw(*words)
    assert said.status == 2
    return " ".join(said.err.split())


def test_what_eval_and_chat_refuse(tw, run_of, tiny, tmp_path):
    run = run_of("single").path
    strange = write_rows(
        tmp_path / "strange.jsonl", [{"text": "a", "label": "red"}, {"text": "b", "label": "rod"}]
    )
    why = refused(tw, "eval", run, "--data", strange)
    assert "strange.jsonl:2: the label 'rod' is none of the 3 labels" in why and "Did you mean 'red'?" in why
    chats = write_rows(tmp_path / "chats.jsonl", [{"prompt": f"q{i}", "completion": "a"} for i in range(2)])
    assert "chats.jsonl:1 is a conversation row" in refused(tw, "eval", run, "--data", chats)
    several = write_rows(tmp_path / "several.jsonl", [{"text": f"{i}", "label": ["red"]} for i in range(2)])
    assert "several.jsonl:1: the label is ('red',), but this head names one label" in refused(
        tw, "eval", run, "--data", several
    )
    empty = write_rows(tmp_path / "empty.jsonl", [])
    assert "empty.jsonl" in refused(tw, "eval", run, "--data", empty)
    test = run / "data" / "test.jsonl"
    assert f"{run}: metric 'bleu' does not suit what this head says" in refused(
        tw, "eval", run, "--data", test, "--metric", "bleu"
    )
    assert "has no use for examples" in refused(
        tw, "eval", run, "--data", test, "--shots", 2, "--shots-from", test
    )
    assert "metric 'calibration_error' is about what a head says" in refused(
        tw, "eval", tiny, "--data", test, "--metric", "calibration_error"
    )
    assert "cannot answer; see `tunewright eval" in refused(tw, "chat", run)
    number = run_of("numbers").path
    why = refused(tw, "eval", number, "--data", test)
    assert re.search(r"single\.jsonl:\d+: the label is '\w+', but this head gives a number", why)


def test_what_train_refuses(tiny, folder, tmp_path, run_of):
    def why(kind, *words, error=ConfigError):
        with pytest.raises(error) as caught:
            train(values(tiny, kind, folder, tmp_path / "run", *words))
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    assert "use adapt.method lora or full, or an objective that judges" in why(
        "head", "objective={name: sft}", "objective.name=sft"
    )
    whole = run_of("full").path / "model"
    assert "was trained to judge text with a head" in why("full", f"model.name={whole}")
    assert "head: unknown setting 'alpha'" in why("head", "adapt.alpha=4")
    assert "data.train_on has no effect here" in why("single", "data.train_on=last")
    assert "evaluate.max_new_tokens has no effect here" in why("single", "evaluate.max_new_tokens=9")
    assert "metric 'rouge_l' does not suit" in why("single", "evaluate.metrics=[rouge_l]")
    assert "'ridge' does not suit this objective" in why("single", "evaluate.baselines=[ridge]")
    other = write_rows(
        tmp_path / "test.jsonl", [{"text": "a", "label": "red"}, {"text": "b", "label": "mauve"}]
    )
    unseen = why("single", f"data.test={other}", error=DataError)
    assert "test.jsonl:2: the label 'mauve' is none of the 3 labels" in unseen


# --- the report


def test_the_report_speaks_of_labels(run_of):
    report = (run_of("single").path / "report.html").read_text()
    assert "What was predicted" in report and "Answers, before and after" not in report
    assert "each with the label that was learnt" in report and "trained</p>" not in report
    assert "labelled <strong>" in report and "% sure" in report
    assert "Most frequent label" in report and "Naive Bayes on words" in report
    assert "tokens read" in report and "trained tokens" not in report
    numbers = (run_of("numbers").path / "report.html").read_text()
    assert "interval " in numbers and "<del>" not in numbers.split("What was predicted")[1]
    card = (run_of("single").path / "README.md").read_text()
    assert "tokens read" in card and "Naive Bayes on words" in card


# --- killed and resumed

MOMENTS = {
    "before the first step": lambda e: isinstance(e, events.EvalEnd) and e.step == 0,
    "while the states are collected": lambda e: isinstance(e, events.StepEnd) and e.step == 2,
    "after a checkpoint": lambda e: isinstance(e, events.StepEnd) and e.step == 12,
    "an evaluation": lambda e: isinstance(e, events.EvalEnd) and e.step == 9,
    "calibrating": lambda e: isinstance(e, events.Stage) and e.name == "calibrate",
    "after calibrating": lambda e: isinstance(e, events.StageEnd) and e.name == "calibrate",
    "saving": lambda e: isinstance(e, events.StageEnd) and e.name == "save",
    "scoring": lambda e: isinstance(e, events.StageEnd) and e.name == "score tuned",
}


class Killed(Exception):
    """Stands for a crash."""


def killing(hit):
    def observe(event):
        if hit(event):
            raise Killed

    return observe


def outcome(run):
    """Weights, answers and figures of a finished run."""
    where = run.path / ("model" if (run.path / "model").exists() else "adapter")
    answers = {name: (a["texts"], a["notes"], a["scores"]) for name, a in answers_of(run).items()}
    return (
        file_digest(where / "heads.safetensors"),
        (where / "heads.json").read_bytes(),
        answers,
        (
            run.result["metrics"],
            run.result["verdict"],
        ),
    )


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_head_only_run_that_is_killed_ends_in_the_same_bits(tiny, folder, tmp_path, run_of, moment):
    out = tmp_path / "run"
    assert run_of("head").result["training"]["best_step"] > 0
    with pytest.raises(Killed):
        train(values(tiny, "head", folder, out), killing(MOMENTS[moment]))
    assert not (out / "result.json").exists()
    if moment == "while the states are collected":
        [cache] = (out / "cache").iterdir()
        cache.write_bytes(cache.read_bytes()[:-100])  # torn off inside a record
    assert outcome(resume(out)) == outcome(run_of("head"))
    assert not (out / "cache").exists()


@pytest.mark.parametrize("moment", ["after a checkpoint", "calibrating", "saving"])
@pytest.mark.parametrize("kind", ["multi", "full"])
def test_other_heads_resume_too(tiny, folder, tmp_path, run_of, kind, moment):
    out = tmp_path / "run"
    hit = MOMENTS[moment]
    if moment == "after a checkpoint":
        hit = lambda e: isinstance(e, events.StepEnd) and e.step == 5  # noqa: E731
    with pytest.raises(Killed):
        train(values(tiny, kind, folder, out), killing(hit))
    assert outcome(resume(out)) == outcome(run_of(kind))


def test_the_cache_is_used(tiny, folder, tmp_path, monkeypatch):
    """From the second epoch on the trunk is not run; without the cache it is, to nearly the same head."""
    runs, seen = [], []
    model = type(load(str(tiny), dtype="float32").model.base_model)
    original = model.forward

    def counted(*args, **kwargs):
        runs.append(1)
        return original(*args, **kwargs)

    def observe(event):
        if isinstance(event, events.StepEnd | events.Started):
            seen.append((getattr(event, "epoch", 0.0), len(runs)))

    monkeypatch.setattr(model, "forward", counted)
    words = ("evaluate.every=1000", "train.epochs=4", "evaluate.baselines=[]", "evaluate.metrics=[accuracy]")
    kept = train(values(tiny, "head", folder, tmp_path / "kept", *words), observe)
    at = dict(seen)
    assert at[1.0] > at[0.0] and at[4.0] == at[1.0]
    seen.clear()
    words += ("train.layer_cache=off",)
    plain = train(values(tiny, "head", folder, tmp_path / "plain", *words), observe)
    at = dict(seen)
    assert at[4.0] - at[3.0] == at[1.0] - at[0.0] > 2
    first, second = (load_file(run.path / "model" / "heads.safetensors") for run in (kept, plain))
    torch.testing.assert_close(first["score.weight"], second["score.weight"], rtol=1e-3, atol=1e-4)
    assert METRICS["accuracy"].aggregate(np.array(answers_of(kept)["tuned"]["scores"]["accuracy"])) > 0.4
