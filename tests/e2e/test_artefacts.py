"""What a run leaves: whole, consistent, readable by other programs, and telling the same numbers again."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.conftest import rows_of, settings
from tunewright.evaluate.metrics import METRICS
from tunewright.models.load import load
from tunewright.models.quiet import quiet_peft
from tunewright.run.train import train

PROMPT = torch.tensor([[0, 3, 40, 50, 60, 70, 4]])


def logits(model):
    with torch.inference_mode():
        return model.eval()(PROMPT).logits.float()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_result_agrees_with_the_answers(method, request):
    run = request.getfixturevalue(method)
    result, answers = run.result, json.loads((run.path / "answers.json").read_text())
    assert result == json.loads((run.path / "result.json").read_text())
    assert result["status"] == "finished"
    systems = ["zero_shot", "few_shot", "tuned"] if method == "lora" else ["zero_shot", "tuned"]
    assert list(answers) == systems
    asked = rows_of(run.path / "data" / "test.jsonl")
    references = [row["messages"][-1]["content"] for row in asked]
    assert result["counts"]["test"] == len(asked) > 5
    for metric in result["metrics"]:
        assert metric["n"] == len(asked)
        assert list(metric["systems"]) == systems and list(metric["differences"]) == systems[:-1]
        values = {}
        for system, estimate in metric["systems"].items():
            scores = np.array(answers[system]["scores"][metric["name"]])
            rows = scores
            if metric["name"] == "exact_match":
                rows = METRICS["exact_match"].rows(answers[system]["texts"], references)
                assert rows.tolist() == scores.tolist()
            values[system] = METRICS[metric["name"]].aggregate(rows)
            assert estimate["value"] == pytest.approx(values[system], abs=1e-12)
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
        for system, change in metric["differences"].items():
            assert change["value"] == pytest.approx(values["tuned"] - values[system], abs=1e-12)
    assert result["verdict"]["metric"] == "exact_match"
    seconds = result["cost"]["seconds"]
    assert {"check data", "load model", "render", "train", "save", "score tuned"} <= seconds.keys()
    assert seconds["train"] > 0 and min(seconds.values()) >= 0


def test_the_run_directory_is_complete(lora):
    found = {p.name for p in lora.path.iterdir()}
    expected = {"recipe.yaml", "data", "checkpoints", "adapter", "events.jsonl", "answers.json"}
    assert found == expected | {"result.json", "report.html", "README.md"}
    report = (lora.path / "report.html").read_text()
    card = (lora.path / "README.md").read_text()
    word = lora.result["verdict"]["word"]
    assert word.replace("'", "&#39;") in report and f"**{word}.**" in card
    assert "http-equiv" in report and "src=" not in report
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"
    events = rows_of(lora.path / "events.jsonl")
    assert [e["step"] for e in events if e["event"] == "StepEnd"] == [1, 2, 3, 4]
    assert [e["event"] for e in events].count("Ended") == 1


def test_the_recipe_runs_again_to_the_same_bits(tw, lora, tmp_path):
    out = tmp_path / "again"
    said = tw("train", lora.path / "recipe.yaml", f"output.dir={out}", "--json")
    assert said.status == 0, said.err
    first, second = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (lora.path, out))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert said.json["metrics"] == lora.result["metrics"]
    assert said.json["verdict"] == lora.result["verdict"]


def test_the_recipe_says_where_each_value_came_from(lora, data):
    lines = (lora.path / "recipe.yaml").read_text().splitlines()
    assert f"  train: {data}  # command line: {data}" in lines
    assert "  rank: 16  # default" in lines
    assert any(line.startswith("  every: 1  # auto: 4 times an epoch") for line in lines)
    judged = yaml.safe_load("\n".join(lines))["evaluate"]
    assert judged.pop("batch_size") == "auto"  # by the memory that is free whenever answers are written
    assert "auto" not in {str(s) for s in judged.values()}


def test_plain_peft_reads_the_adapter(lora, tiny):
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    before = logits(base)
    with quiet_peft():
        model = PeftModel.from_pretrained(base, str(lora.path / "adapter"))
    trained = load(str(lora.path), dtype="float32").model
    assert torch.allclose(logits(model), logits(trained), atol=1e-5)
    assert (logits(model) - before).abs().max() > 1e-3
    saved = load_file(lora.path / "adapter" / "adapter_model.safetensors")
    best = lora.result["training"]["best_step"]
    checkpoint = load_file(lora.path / "checkpoints" / f"step-{best}" / "weights.safetensors")
    assert {k.replace(".default.", "."): v.sum() for k, v in checkpoint.items()} == {
        k: v.sum() for k, v in saved.items()
    }


def test_plain_transformers_reads_the_full_model(full, tiny):
    model = AutoModelForCausalLM.from_pretrained(full.path / "model")
    best = full.result["training"]["best_step"]
    checkpoint = load_file(full.path / "checkpoints" / f"step-{best}" / "weights.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name].float(), weight) for name, weight in checkpoint.items())
    assert not torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(tiny)))


def test_generation_stops_at_the_end_of_turn(lora, full):
    for folder in (lora.path / "adapter", full.path / "model"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        config = json.loads((folder / "generation_config.json").read_text())
        assert end in config["eos_token_id"] and tokenizer.eos_token_id in config["eos_token_id"]
        assert "<|im_start|>" in tokenizer.chat_template


def test_merged_equals_the_adapter(tiny, data, tmp_path):
    words = ("model.dtype=float32", "output.final=merged", "train.max_steps=3", "evaluate.baselines=[]")
    run = train(settings(tiny, data, tmp_path / "run", *words))
    merged = AutoModelForCausalLM.from_pretrained(run.path / "model")
    assert not any("lora" in name for name in merged.state_dict())
    adapted = load(str(run.path / "adapter"), dtype="float32").model
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_eval_tells_the_same_numbers(tw, method, request):
    run = request.getfixturevalue(method)
    said = tw("eval", run.path, "--data", run.path / "data" / "test.jsonl", "--json")
    assert said.status == 0, said.err
    assert [m["name"] for m in said.json["metrics"]] == ["exact_match", "perplexity"]
    known = run.result["answers"]["tuned"]
    assert (said.json["unfinished"], said.json["new_tokens"]) == (known["unfinished"], known["new_tokens"])
    assert method == "lora" or known["new_tokens"] > 30
    for found, known in zip(said.json["metrics"], run.result["metrics"], strict=True):
        expected = known["systems"]["tuned"]
        assert {k: found[k] for k in expected} == expected


@pytest.mark.parametrize("method", ["lora", "full"])
def test_compare_tells_the_same_differences(tw, tiny, method, request):
    run = request.getfixturevalue(method)
    said = tw("compare", tiny, run.path, "--data", run.path / "data" / "test.jsonl", "--json")
    for found, known in zip(said.json["metrics"], run.result["metrics"], strict=True):
        assert found["differences"][str(tiny)] == known["differences"]["zero_shot"]
    if method == "full":  # the run had this one baseline, so the verdict is the same
        known = run.result["verdict"]
        assert said.json["verdict"]["word"] == known["word"]
        assert said.json["verdict"]["difference"] == known["difference"]
        assert said.json["verdict"]["against"] == str(tiny)


def test_compare_exits_1_if_the_candidate_is_worse(tw, tiny, full):
    test = full.path / "data" / "test.jsonl"
    words = ("--data", test, "--metric", "perplexity")
    better = tw("compare", tiny, full.path, *words, "--json")
    assert (better.status, better.json["verdict"]["word"]) == (0, "SHIP")
    worse = tw("compare", full.path, tiny, *words)
    assert worse.status == 1
    assert "DON'T SHIP: perplexity is worse than" in worse.out


def test_few_shot_numbers_come_again_from_eval(tw, tiny, lora):
    data = lora.path / "data"
    words = ("--shots", 4, "--shots-from", data / "train.jsonl", "--metric", "perplexity")
    said = tw("eval", tiny, "--data", data / "test.jsonl", *words, "--json")
    known = next(m for m in lora.result["metrics"] if m["name"] == "perplexity")["systems"]["few_shot"]
    # the base is loaded in the machine's own format here, the run computed in float32
    assert said.json["metrics"][0]["value"] == pytest.approx(known["value"], rel=0.02)


def test_a_run_directory_can_be_moved(tw, lora, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere"
    shutil.copytree(lora.path, moved)
    monkeypatch.chdir(tmp_path)
    said = tw("eval", "elsewhere", "--data", "elsewhere/data/test.jsonl", "--json")
    assert said.json["metrics"][0]["value"] == lora.result["metrics"][0]["systems"]["tuned"]["value"]


def test_the_resume_of_a_finished_run_changes_nothing(tw, lora):
    before = {p: p.stat().st_mtime_ns for p in lora.path.rglob("*")}
    said = tw("resume", lora.path, "--json")
    assert said.status == 0 and said.json == lora.result
    assert {p: p.stat().st_mtime_ns for p in lora.path.rglob("*")} == before
