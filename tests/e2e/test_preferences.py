"""Learning from pairs and from liked answers, through whole runs: reference, training, proof, and after."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.e2e.conftest import COLOURS, THINGS, rows_of, settings
from tests.e2e.test_resume import Killed, killer, same
from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError, RunError
from tunewright.core.hashing import file_digest
from tunewright.models.forward import ModelForward
from tunewright.run.judge import compare, evaluate
from tunewright.run.train import resume, train

MORE = (*THINGS, "bed", "log", "egg", "key")
COMMON = (
    "model.dtype=float32",
    "evaluate.max_new_tokens=auto",
    "train.tokens_per_step=512",
    "train.stop.patience=0",
    "data.split.validation=0.15",
    "data.split.test=0.3",
)
RATES = {"lora": "train.learning_rate=0.01", "full": "train.learning_rate=0.004"}


def judged():
    """(question, right answer, wrong answer): the first word decides which is which."""
    answers = (("yes", "no"), ("no", "yes"))
    return [(f"{c} {t}?", *answers[i % 2]) for i, c in enumerate(COLOURS) for t in MORE]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [{"prompt": q, "chosen": good, "rejected": bad} for q, good, bad in judged()]
    return write(tmp_path_factory.mktemp("preferences") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def liked(tmp_path_factory):
    rows = [
        {"prompt": q, "completion": good if i % 2 else bad, "label": bool(i % 2)}
        for i, (q, good, bad) in enumerate(judged())
    ]
    return write(tmp_path_factory.mktemp("preferences") / "liked.jsonl", rows)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user cache of this test's own."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "reference"


def recipe(tiny, data, out, method="lora", *words):
    return settings(tiny, data, out, *COMMON, f"adapt.method={method}", RATES[method], *words)


def values(result):
    """Metric -> system -> estimate."""
    return {m["name"]: m["systems"] for m in result["metrics"]}


# --- learning


@pytest.mark.parametrize(
    ("objective", "method"),
    [("dpo", "lora"), ("dpo", "full"), ("ipo", "lora"), ("simpo", "full"), ("orpo", "lora")],
)
def test_pairs_raise_the_margin_on_held_out_pairs(tiny, pairs, tmp_path, objective, method):
    words = (f"objective={objective}", "train.epochs=8")
    run = train(recipe(tiny, pairs, tmp_path / "run", method, *words))
    found = values(run.result)
    assert list(found) == ["prefers_chosen", "reward_margin", "reward_accuracy", "perplexity"]
    assert 0.3 < found["prefers_chosen"]["zero_shot"]["value"] < 0.7
    assert found["prefers_chosen"]["tuned"]["value"] > 0.85
    assert found["reward_margin"]["zero_shot"]["value"] == 0
    assert found["reward_margin"]["tuned"]["low"] > 0.5
    assert found["reward_accuracy"]["zero_shot"]["value"] == 0.5
    assert found["reward_accuracy"]["tuned"]["low"] > 0.6
    assert run.result["metrics"][0]["n"] >= 20
    assert run.result["verdict"]["word"] == "SHIP"
    assert (run.path / "reference.json").exists() == (objective in ("dpo", "ipo"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_liked_answers_become_likelier_than_others(tiny, liked, tmp_path, method):
    run = train(recipe(tiny, liked, tmp_path / "run", method, "objective=kto", "train.epochs=8"))
    found = values(run.result)
    assert list(found) == ["liked_auc", "liked_margin", "reward_auc"]
    assert 0.25 < found["liked_auc"]["zero_shot"]["value"] < 0.75
    assert found["liked_auc"]["tuned"]["value"] > 0.9
    assert found["liked_margin"]["zero_shot"]["value"] == 0
    assert found["liked_margin"]["tuned"]["low"] > 0.5
    assert found["reward_auc"]["zero_shot"]["value"] == 0.5
    assert run.result["verdict"]["word"] == "SHIP"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_metric_of_pairs_decides_when_to_stop(tiny, pairs, tmp_path, method):
    words = ("objective=dpo", "train.epochs=4", "train.stop.metric=reward_margin", "evaluate.every=6")
    run = train(recipe(tiny, pairs, tmp_path / "run", method, *words))
    ends = [e for e in rows_of(run.path / "events.jsonl") if e["event"] == "EvalEnd"]
    margins = {e["step"]: e["metrics"]["reward_margin"] for e in ends}
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[run.result["training"]["best_step"]] == max(margins.values()) > 0.1
    for end in ends:  # the objective's own margin is beta = 0.1 times as large
        assert end["metrics"]["validation_margin"] == pytest.approx(
            0.1 * end["metrics"]["reward_margin"], abs=1e-4
        )


# --- what is left behind


SHORT = (
    "objective=dpo",
    "train.epochs=3",
    "train.tokens_per_step=900",
    "evaluate.every=3",
    "output.save_every=1",
)
WATCHED = (*SHORT, "train.stop.metric=reward_margin")


@pytest.fixture(scope="module")
def whole(tiny, pairs, tmp_path_factory):
    """A finished DPO run of a few steps, with LoRA."""
    folder = tmp_path_factory.mktemp("dpo")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TUNEWRIGHT_HOME", str(folder / "home"))
        return train(recipe(tiny, pairs, folder / "run", "lora", *SHORT))


@pytest.fixture(scope="module")
def whole_full(tiny, pairs, tmp_path_factory):
    """The same with all weights, its best step chosen by the margin on validation pairs."""
    folder = tmp_path_factory.mktemp("dpo")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TUNEWRIGHT_HOME", str(folder / "home"))
        return train(recipe(tiny, pairs, folder / "run", "full", *WATCHED))


def test_the_report_shows_pairs_with_both_margins(whole):
    report = (whole.path / "report.html").read_text()
    answers = json.loads((whole.path / "answers.json").read_text())
    assert "Judged answers, before and after" in report and "Answers, as they were judged" in report
    assert "Chosen:" in report and "Rejected:" in report
    assert "reward margin +0.00 nats" in report
    margins = answers["tuned"]["scores"]["reward_margin"]
    assert answers["tuned"]["notes"] == [f"reward margin {m:+.2f} nats" for m in margins]
    assert any(f"reward margin {m:+.2f} nats" in report for m in margins if abs(m) > 0.05)
    assert all(text.startswith(("prefers the ", "finds both")) for text in answers["tuned"]["texts"])


@pytest.mark.parametrize("name", ["whole", "whole_full"])
def test_eval_gives_the_numbers_of_the_run_again(tw, name, request):
    run = request.getfixturevalue(name)
    said = tw("eval", run.path, "--data", run.path / "data" / "test.jsonl", "--json")
    assert said.status == 0, said.err
    again = {m["name"]: m["value"] for m in said.json["metrics"]}
    assert again == {n: pytest.approx(s["tuned"]["value"], rel=1e-5) for n, s in values(run.result).items()}
    assert said.json["unfinished"] == 0 and said.json["n"] == run.result["counts"]["test"]


def test_eval_of_a_model_of_unknown_origin_says_what_can_be_said(tiny, whole, tw):
    test = whole.path / "data" / "test.jsonl"
    said = tw("eval", tiny, "--data", test)
    assert said.status == 0 and "prefers_chosen" in said.out and "reward_margin" not in said.out
    found = {m["name"]: m["value"] for m in evaluate(tiny, test)["metrics"]}
    assert found["prefers_chosen"] == values(whole.result)["prefers_chosen"]["zero_shot"]["value"]
    said = tw("eval", tiny, "--data", test, "--metric", "prefers_chosen", "--metric", "reward_margin")
    assert said.status == 0
    assert "reward_margin could not be measured: it is not known what this model was trained from" in said.err


def test_compare_proves_the_same_as_the_run(tiny, whole, tw):
    test = whole.path / "data" / "test.jsonl"
    result = compare([tiny, whole], test)
    table = {m["name"]: m for m in result["metrics"]}
    [own] = [m for m in whole.result["metrics"] if m["name"] == "prefers_chosen"]
    assert table["prefers_chosen"]["differences"][str(tiny)] == own["differences"]["zero_shot"]
    assert table["reward_margin"]["systems"].keys() == {str(whole.path)}
    assert result["verdict"]["word"] == whole.result["verdict"]["word"]
    said = tw("compare", whole.path, tiny, "--data", test)
    assert said.status in (0, 1) and "prefers_chosen" in said.out


def test_prompts_answers_and_weights_are_shown(tw, tiny, pairs):
    rows = tw("data", "show", pairs, "--model", tiny, "-n", "1", "--json").json
    assert [row["part"] for row in rows] == ["prompt", "chosen", "rejected"]
    assert not any(w for _, w, _ in rows[0]["tokens"])
    assert "".join(text for text, weight, _ in rows[1]["tokens"] if weight) == "yes<|im_end|>"
    assert "".join(text for text, weight, _ in rows[2]["tokens"] if weight) == "no<|im_end|>"
    text = tw("data", "show", pairs, "--model", tiny, "-n", "1").out
    assert "pairs.jsonl:1: chosen, " in text


# --- the reference within a run


def counted(monkeypatch):
    """How many batches go through the model."""
    calls, real = [], ModelForward.logprobs
    monkeypatch.setattr(
        ModelForward, "logprobs", lambda self, b, h=None: (calls.append(b.size), real(self, b, h))[1]
    )
    return calls


def test_a_second_run_reads_the_reference_from_disk(tiny, pairs, tmp_path, monkeypatch, cache):
    calls = counted(monkeypatch)
    first = train(recipe(tiny, pairs, tmp_path / "a", "lora", *SHORT))
    forward_passes = len(calls)
    files = sorted(cache.glob("*.json"))
    assert len(files) == 2, "one piece of training and one of validation rows"
    calls.clear()
    second = train(recipe(tiny, pairs, tmp_path / "b", "lora", *SHORT))
    assert len(calls) < forward_passes
    assert sorted(cache.glob("*.json")) == files
    assert weights(first) == weights(second)
    half = recipe(tiny, pairs, tmp_path / "c", "lora", *SHORT, "model.dtype=bfloat16", "train.max_steps=1")
    train(half)
    assert len(list(cache.glob("*.json"))) == 4, "another number format is another reference"


def test_another_template_is_another_reference(tiny, pairs, tmp_path, cache):
    template = tmp_path / "other.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
    )
    words = (*SHORT, "train.max_steps=1")
    train(recipe(tiny, pairs, tmp_path / "a", "lora", *words))
    train(recipe(tiny, pairs, tmp_path / "b", "lora", *words, f"model.template={template}"))
    assert len(list(cache.glob("*.json"))) == 4


# --- nothing lost


def weights(run):
    """The trained weights, as a hash."""
    [path] = [*run.path.glob("adapter/adapter_model.safetensors"), *run.path.glob("model/model.safetensors")]
    return file_digest(path)


MOMENTS = {
    "while the reference is computed": lambda e: isinstance(e, events.Progress) and e.name == "reference",
    "before the first step": lambda e: isinstance(e, events.Started),
    "a step after a checkpoint": lambda e: isinstance(e, events.StepEnd) and e.step == 3,
    "while scoring what was trained": lambda e: isinstance(e, events.Stage) and e.name == "score tuned",
}


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_killed_run_ends_in_the_same_bits(tiny, pairs, tmp_path, whole, moment):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(recipe(tiny, pairs, out, "lora", *SHORT), killer(MOMENTS[moment]))
    same(resume(out), whole)


@pytest.mark.parametrize("moment", ["while the reference is computed", "a step after a checkpoint"])
def test_a_killed_run_of_all_weights_ends_in_the_same_bits(tiny, pairs, tmp_path, whole_full, moment):
    """At the second start the cache is gone, so the reference is computed again, from the model on disk."""
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(recipe(tiny, pairs, out, "full", *WATCHED), killer(MOMENTS[moment]))
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    again = resume(out)
    assert weights(again) == weights(whole_full)
    assert values(again.result) == values(whole_full.result)
    assert again.result["training"] == whole_full.result["training"]
    ends = [
        [e["metrics"] for e in rows_of(r.path / "events.jsonl") if e["event"] == "EvalEnd"]
        for r in (again, whole_full)
    ]
    assert ends[0] == ends[1]


def test_a_run_does_not_go_on_with_another_base(tiny, pairs, tmp_path):
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny, base)
    with pytest.raises(Killed):
        train(recipe(base, pairs, out, "lora", *SHORT), killer(MOMENTS["a step after a checkpoint"]))
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if "q_proj" in name)
    tensors[name][0, 0] += 0.25
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="the weights or the config of the base model are not those"):
        resume(out)


def test_a_run_does_not_go_on_with_another_tokenizer(tiny, pairs, tmp_path):
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny, base)
    with pytest.raises(Killed):
        train(recipe(base, pairs, out, "lora", *SHORT), killer(MOMENTS["a step after a checkpoint"]))
    state = json.loads((base / "tokenizer.json").read_text())
    vocabulary = state["model"]["vocab"]
    vocabulary["y"], vocabulary["n"] = vocabulary["n"], vocabulary["y"]  # as many tokens, but others
    (base / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(RunError, match="its rows are read as other tokens"):
        resume(out)


# --- what cannot work


def test_metrics_that_do_not_fit_are_refused_before_training(tiny, pairs, liked, data, tmp_path):
    for rows, objective, metric, message in (
        (pairs, "dpo", "exact_match", "'exact_match' does not suit preference rows"),
        (pairs, "dpo", "liked_auc", "'liked_auc' does not suit preference rows"),
        (liked, "kto", "prefers_chosen", "'prefers_chosen' does not suit labelled rows"),
        (data, "sft", "prefers_chosen", "'prefers_chosen' is about pairs"),
    ):
        words = (f"objective={objective}", f"evaluate.metrics=[{metric}]")
        with pytest.raises(ConfigError, match=message):
            train(recipe(tiny, rows, tmp_path / "run", "lora", *words))
        assert not (tmp_path / "run").exists()


def test_settings_without_effect_are_refused(tiny, pairs, tmp_path):
    with pytest.raises(ConfigError, match=r"evaluate\.max_new_tokens has no effect here"):
        train(recipe(tiny, pairs, tmp_path / "run", "lora", "objective=dpo", "evaluate.max_new_tokens=9"))
    with pytest.raises(ConfigError, match="'few_shot' does not suit this objective"):
        train(recipe(tiny, pairs, tmp_path / "run", "lora", "objective=dpo", "evaluate.baselines=[few_shot]"))


def test_rows_that_do_not_fit_are_refused(tiny, pairs, data, tmp_path, whole):
    with pytest.raises(
        ConfigError, match="is a conversation row, but objective 'dpo' learns from preference"
    ):
        train(recipe(tiny, data, tmp_path / "run", "lora", "objective=dpo"))
    liked = [{"prompt": q, "completion": good, "label": True} for q, good, _ in judged()]
    with pytest.raises(DataError, match="rows are liked, but kto learns from the difference"):
        train(recipe(tiny, write(tmp_path / "l.jsonl", liked), tmp_path / "run", "lora", "objective=kto"))
    with pytest.raises(
        DataError,
        match=r"answers to judge are liked \(the first at .*l\.jsonl:1\), and liked_auc.*add disliked",
    ):
        evaluate(tiny, tmp_path / "l.jsonl")
    liked[::2] = [{**row, "label": False} for row in liked[::2]]
    held = write(tmp_path / "h.jsonl", [{**row, "prompt": f"z {i}"} for i, row in enumerate(liked[::2])])
    with pytest.raises(DataError, match=r"answers to judge are disliked .*data\.split"):
        words = ("objective=kto", f"data.test={held}")
        train(recipe(tiny, write(tmp_path / "m.jsonl", liked), tmp_path / "run", "lora", *words))
    long = [{"prompt": "word " * 600, "chosen": "yes", "rejected": "no"}] * 2
    with pytest.raises(DataError, match=r"x\.jsonl:1: the model has room for 512 tokens"):
        evaluate(whole, write(tmp_path / "x.jsonl", long))


def test_equal_answers_are_left_out_with_a_reason(tiny, tmp_path):
    rows = [{"prompt": q, "chosen": good, "rejected": bad} for q, good, bad in judged()]
    rows[5]["rejected"] = rows[5]["chosen"]
    file = write(tmp_path / "pairs.jsonl", rows)
    run = train(recipe(tiny, file, tmp_path / "run", "lora", "objective=simpo", "train.max_steps=1"))
    [left_out] = rows_of(run.path / "data" / "rejected.jsonl")
    assert left_out["line"] == 6 and left_out["reason"] == "equal_answers"
    assert any("1 row(s) left out (equal_answers)" in w for w in run.result["warnings"])
