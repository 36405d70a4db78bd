"""Whole runs in bfloat16 that train a part of the model's own weights."""

import pytest

from tests.contract.small import chats, save_small_model, small_train, small_values, write_rows
from tunewright.run.judge import evaluate

PARTS = ({"train": "layers", "layers": 1}, {"train": "norms"}, {"train": "embeddings"})


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part["train"])
def test_a_frozen_model_writes_and_comes_back_with_the_same_numbers(tmp_path, part):
    model, data = save_small_model(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl", chats(40))
    values = small_values(model, data, tmp_path / "run")
    del values["adapt.rank"]
    values |= {"model.dtype": "bfloat16", "evaluate.metrics": ["perplexity", "exact_match"]}
    run, _ = small_train({**values, "adapt": {"method": "freeze", **part}})
    again = evaluate(run.path, run.path / "data" / "test.jsonl")
    told = {m["name"]: m["systems"]["tuned"]["value"] for m in run.result["metrics"]}
    assert {m["name"]: m["value"] for m in again["metrics"]} == told
    assert told["perplexity"] != run.result["metrics"][0]["systems"]["zero_shot"]["value"]
