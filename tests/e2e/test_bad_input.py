"""Whatever is wrong is said in one clear sentence, with exit status 2, before anything is written."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.conftest import QUICK, pairs, rows_of, settings, write_messages
from tests.tiny import tiny_model
from tunewright.run.train import train
from tunewright.run.yaml_text import read_yaml


def refused(said, *parts):
    """One line that begins with ``error:`` and holds ``parts``; nothing on stdout."""
    assert said.status == 2, (said.out, said.err)
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said.err.splitlines()[-1] == lines[0], said.err
    for part in parts:
        assert str(part) in lines[0], lines[0]


@pytest.fixture
def go(tw, tiny, data, tmp_path):
    """``tunewright train`` with quick settings; checks that a refusal leaves no directory."""

    def call(*words, model=None, file=None):
        out = tmp_path / "run"
        existed = out.exists()
        said = tw(
            "train", "--model", model or tiny, "--data", file or data, "--out", out, "--json", *QUICK, *words
        )
        assert said.status == 0 or existed or not out.exists()
        return said

    return call


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train.epoch=3"], ["'train.epoch'", "Did you mean", "'epochs'"]),
        (["trian.epochs=3"], ["'trian'", "'train'"]),
        (["train.epochs=many"], ["train.epochs", "'many'"]),
        (["train.epochs=0"], ["train.epochs", "got 0"]),
        (["data.split={test: 0.6, validation: 0.6}"], ["leave no row to train on"]),
        (["evaluate.metrics=[exact_mach]"], ["'exact_mach'", "'exact_match'"]),
        (["evaluate.metrics=[]"], ["evaluate.metrics is empty"]),
        (["train.stop.metric=rouge"], ["'rouge'", "'rouge_l'"]),
        (["objective=stf"], ["objective 'stf'", "'sft'"]),
        (["adapt.method=loro"], ["adapter 'loro'", "Did you mean 'lora'"]),
        (["adapt.method=full", "adapt.rank=8"], ["full: unknown setting 'rank'"]),
        (["adapt.targets=[q_pro]"], ["'q_pro'", "'q_proj'"]),
        (["adapt.method=full", "output.final=merged"], ["output.final 'merged'", "no adapter to merge"]),
        (["evaluate.shots=2"], ["evaluate.shots has no effect", "few_shot"]),
        (["objective=text", "data.train_on=last"], ["data.train_on has no effect", "objective text"]),
        (["objective=text"], ["colours.jsonl:", "is a conversation row", "'text'"]),
        (["model.device=gpu0"], ["model.device", "'cuda' or 'mps'", "'gpu0'"]),
        (["model.device=meta"], ["model.device", "'meta'"]),
        (["model.device=xpu"], ["model.device", "'xpu'"]),
        (["train.epochs=true"], ["train.epochs", "a switch", "got True"]),
        (["data.split.test=yes"], ["data.split.test", "a switch"]),
        (["train.optim={warmup: 0.1, warmup: 0.2}"], ["train.optim", "'warmup' is given twice"]),
        (["model=other"], ["--model", "model=other", "both given"]),
        (["data.train=x.jsonl"], ["--data", "data.train=x.jsonl", "both given"]),
        (["output.dir=there"], ["--out", "output.dir=there", "both given"]),
        (["model.template=none.jinja"], ["'none.jinja'", "no such file"]),
        (["train.stop.metric=exact_match", "data.split.validation=0"], ["needs validation rows"]),
        (["data.columns={answer: x}"], ["unknown target 'answer'"]),
        (["data.columns={prompt: q, completion: a}"], ["no row is left to train on"]),
        (["data.max_length=8"], ["no token of", "training rows", "were cut and 0 left out"]),
        (["data.max_length=8", "data.over_long=drop"], [" 0 were cut and", "left out at data.max_length=8"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_settings(go, words, parts):
    refused(go(*words), *parts)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("missing.jsonl", None, ["missing.jsonl"]),
        ("empty.jsonl", "", ["empty.jsonl", "empty"]),
        ("bad.jsonl", '{"messages": []}\n{"messages": []}\n', ["no row is left to train on", "2 rejected"]),
        ("odd.jsonl", '{"a": 1, "b": 2}\n', ["odd.jsonl:1", "no known format", "columns"]),
        ("few.jsonl", '{"prompt": "a", "completion": "b"}\n', ["too few"]),
    ],
)
def test_files(go, tmp_path, name, content, parts):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    refused(go(file=file), *parts)


def test_words_of_the_command_line(tw, tiny, data, tmp_path):
    refused(tw("train"), "give a recipe, or --data FILE")
    refused(tw("train", "a.yaml", "b.yaml"), "one recipe at a time")
    refused(tw("train", tmp_path / "none.yaml"), "cannot read the recipe", "none.yaml")
    refused(tw("eval", tiny, "--data", data, "--column", "prompt"), "--column 'prompt'", "target=source")
    refused(tw("eval", tiny, "--data", data, "--metric", "exact"), "'exact'", "'exact_match'")
    refused(tw("eval", tiny, "--data", data, "--shots", 2), "--shots-from")
    refused(tw("compare", tiny, tiny, "--data", data), "at least two different models")
    refused(tw("data", "check", tmp_path / "none.jsonl"), "none.jsonl")
    refused(tw("resume", tmp_path), "has no recipe.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: {train: x\nmodel: [")
    refused(tw("train", broken), "broken.yaml:", "not valid YAML")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"data: {train: []}", ["data.train", "names no file"]),
        (b"data:\n  train: ''", ["data.train", "names no file"]),
        ("# ein\n# Men\u00fc\ndata: {train: x}".encode("latin-1"), [":2: byte 0xfc is not UTF-8"]),
        (b"data: {train: x}\ntrain:\n  epochs: 1\n  epochs: 2\n", [":4: ", "'epochs'", "twice", "line 3"]),
        (b"train: {}\ndata: {train: x}\ntrain: {}\n", [":3: ", "'train' is given twice, first in line 1"]),
        (b"data: {train: 2024-99-99}", ["not valid YAML", "month"]),
        (b"data: {train: x}\ntrain: {epochs: true}", ["train.epochs", "a switch"]),
    ],
)
def test_recipe_files(tw, tmp_path, content, parts):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    refused(tw("train", file), file, *parts)


def test_merge_keys_of_yaml_are_no_duplicates(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_yaml(file)["b"] == {"x": 3, "y": 2}


def test_a_damaged_result(tw, tmp_path):
    for name, content in (("a", '{"verdict": '), ("b", "[]"), ("c", '{"verdict": {"word": "SHIP"}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("data: {train: x}\n")
        (tmp_path / name / "result.json").write_text(content)
    for name in "ab":
        refused(tw("resume", tmp_path / name), f"{name}/result.json is damaged", "delete it")
    said = tw("runs", tmp_path)
    assert said.status == 0 and "SHIP" in said.out.splitlines()[2]
    assert all("result.json is damaged" in line for line in said.out.splitlines()[:2])
    assert ["error" in run for run in tw("runs", tmp_path, "--json").json] == [True, True, False]


def test_a_recipe_cannot_be_put_below_a_file(tw, tmp_path):
    (tmp_path / "filerun").write_text("x")
    said = tw("init", tmp_path / "filerun" / "x")
    refused(said, f"cannot write {tmp_path / 'filerun' / 'x' / 'recipe.yaml'}", "ot a directory")
    assert "Errno" not in said.err


def test_likelihood_is_not_compared_across_tokenizers(tw, tiny, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    test = write_messages(tmp_path / "test.jsonl", [(q, f"it is {q}") for q, _ in pairs(8)])
    words = ("--data", test, "--rows", 4)
    refused(
        tw("compare", tiny, other, *words, "--metric", "perplexity"),
        *("perplexity is per token", "test.jsonl:", "different tokenizers"),
    )
    assert tw("compare", tiny, other, *words, "--metric", "exact_match", "--json").status in {0, 1}


def test_few_shot_examples_are_not_among_the_questions(tw, tiny, data, tmp_path):
    asked = write_messages(tmp_path / "asked.jsonl", pairs(6))
    words = ("--data", asked, "--shots", 2, "--metric", "perplexity", "--json", "--shots-from")
    refused(tw("eval", tiny, *words, asked), "every few-shot example is also among the questions")
    said = tw("eval", tiny, *words, data)
    assert said.status == 0 and "6 rows are not used as few-shot examples" in said.err
    only = write_messages(tmp_path / "only.jsonl", pairs()[6:])
    again = tw("eval", tiny, *words, only)
    assert "not used" not in again.err and again.json["metrics"] == said.json["metrics"]
    only.write_text(only.read_text() + "not json\n")
    refused(tw("eval", tiny, *words, only), "1 row(s) of", "only.jsonl", "broken_json")


def test_a_directory_in_use(go, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    refused(go(), "is not empty", "tunewright resume", "--out")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_the_directory_named_after_the_data_may_exist(tw, tiny, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / data.stem).mkdir(parents=True)
    (tmp_path / "runs" / data.stem / "x").write_text("x")
    refused(tw("train", "--model", tiny, "--data", data), f"runs/{data.stem} is not empty", "--out")


def test_models(go, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(go(model=tiny.parent / "tini"), "no model", "'tiny'")
    refused(go(model="smollm2-135m-instruc"), "'smollm2-135m-instruct'")
    refused(go(model="someone/some-model"), "'someone/some-model'", "hub")
    refused(go(model=tmp_path), "holds no model")

    coded = tmp_path / "coded"
    shutil.copytree(tiny, coded)
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    refused(go(model=coded), "its own code", "auto_map", "never runs it")

    pickled = tmp_path / "pickled"
    shutil.copytree(tiny, pickled)
    weights = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    refused(go(model=pickled), "pickle (pytorch_model.bin)", "never read")


def test_adapters(go, tw, tiny, data, lora, tmp_path):
    refused(go(model=lora.path), "is an adapter", "output.final=merged")
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tiny_model(hidden_size=32, intermediate_size=48).save_pretrained(other)
    moved = tmp_path / "moved"
    shutil.copytree(lora.path / "adapter", moved)
    record = json.loads((moved / "base.json").read_text())
    (moved / "base.json").write_text(json.dumps({**record, "name": str(other)}))
    refused(tw("eval", moved, "--data", data), "trained on another base", "'hidden_size': 64")
    (moved / "base.json").write_text(json.dumps({**record, "name": str(tmp_path / "gone")}))
    refused(tw("eval", moved, "--data", data), "base model of the adapter", "gone")


def test_a_metric_that_compares_answers_on_documents(go, tw, tiny, tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("\n\f".join(f"{q} {a}" for q, a in pairs()))
    refused(go("objective=text", "evaluate.metrics=[exact_match]", file=file), "exact_match", "perplexity")
    refused(tw("eval", tiny, "--data", file, "--metric", "exact_match"), "exact_match", "perplexity")


def test_prompts_beyond_the_context(go, tmp_path):
    rows = [*pairs(), ("red " * 600, "RED")]
    test = write_messages(tmp_path / "test.jsonl", rows[-3:])
    words = (f"data.test={test}", "data.split.test=0", "train.max_steps=1")
    refused(go(*words), "test.jsonl:3", "takes", "room for 512")
    near = write_messages(tmp_path / "near.jsonl", [*rows[-3:-1], ("red " * 110, "RED")])
    said = go(*words, f"data.test={near}", "evaluate.max_new_tokens=300")
    assert said.status == 0, said.err
    assert any("1 of 3 test prompts leave room for fewer than 300" in w for w in said.json["warnings"])


def test_few_shot_prompts_beyond_the_context(go, tmp_path):
    long = [(f"{q} {'so ' * 60}", a) for q, a in pairs()]
    words = ("evaluate.baselines=[few_shot]", "evaluate.shots=6", "train.max_steps=1")
    said = go(*words, file=write_messages(tmp_path / "long.jsonl", long))
    assert said.status == 0, said.err
    [warning] = [w for w in said.json["warnings"] if "few-shot prompt" in w]
    assert "examples instead of 6" in warning and "context of 512" in warning
    longer = [(f"{q} {'so ' * 120}", a) for q, a in pairs()]
    shutil.rmtree(tmp_path / "run")
    refused(go(*words, file=write_messages(tmp_path / "longer.jsonl", longer)), "not even one example fits")


def test_no_test_rows_prove_nothing(go):
    said = go("data.split.test=0", "train.max_steps=1")
    assert said.status == 0, said.err
    assert said.json["verdict"]["word"] == "CAN'T TELL"
    assert "no test rows" in said.json["verdict"]["reason"]
    assert said.json["metrics"] == [] and any("no test rows" in w for w in said.json["warnings"])


def test_one_test_row_proves_nothing(go, tmp_path):
    test = write_messages(tmp_path / "test.jsonl", [("plum tree?", "PLUM")])
    said = go(f"data.test={test}", "data.split.test=0", "train.max_steps=1")
    assert said.status == 0, said.err
    assert said.json["verdict"]["word"] == "CAN'T TELL" and "One test row" in said.json["verdict"]["reason"]


def test_no_validation_rows_are_said(go, tmp_path):
    said = go("data.split.validation=0", "train.max_steps=2")
    assert said.status == 0, said.err
    assert said.json["training"]["best_step"] == 2
    assert sum("no validation rows" in w for w in said.json["warnings"]) == 1
    assert rows_of(tmp_path / "run" / "data" / "validation.jsonl") == []


def test_a_task_metric_needs_no_test_rows(tiny, data, tmp_path):
    words = ("train.stop.metric=exact_match", "data.split.test=0", "evaluate.max_new_tokens=auto")
    run = train(settings(tiny, data, tmp_path / "run", *words, "train.max_steps=1"))
    assert run.result["training"]["watched"]["metric"] == "exact_match"


def test_over_long_rows_are_counted(go, tmp_path):
    rows = [*pairs(38), ("a long one " * 9, "LONG"), ("another one " * 9, "LONG")]
    file = write_messages(tmp_path / "some.jsonl", rows)
    words = ("data.split.test=0", "data.split.validation=0", "train.max_steps=1", "data.max_length=48")
    dropped = go(*words, "data.over_long=drop", file=file)
    assert dropped.json["data"]["render"]["dropped"] == 2
    assert any(
        w.startswith("2 of 40 training ") and "are longer than 48 tokens" in w
        for w in dropped.json["warnings"]
    )
    shutil.rmtree(tmp_path / "run")
    refused(go(*words, "data.over_long=error", file=file), "some.jsonl:39", "more than the limit of 48")


def test_an_empty_answer_in_the_test_rows(go, tmp_path):
    test = tmp_path / "test.jsonl"
    write_messages(test, [("plum tree?", "PLUM"), ("gold ring?", ""), ("red ink?", "RED")])
    said = go(f"data.test={test}", "data.split.test=0", "train.max_steps=1")
    assert said.status == 0, said.err
    assert said.json["counts"]["test"] + said.json["counts"]["rejected"] == 3
