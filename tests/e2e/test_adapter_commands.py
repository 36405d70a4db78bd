"""`tunewright adapter combine | extract | merge` on finished runs: what they write answers as it should."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tunewright.models.load import load

IDS = torch.tensor([[0, 3, 40, 50, 60, 7]])


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def of(path):
    return logits(load(str(path), dtype="float32").model)


def test_merge_writes_a_plain_model_that_answers_as_the_adapter(tw, lora, tmp_path):
    facts = tw("adapter", "merge", lora.path, "--out", tmp_path / "merged", "--json").json
    assert facts["logit_error"] < 1e-5
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(plain), of(lora.path), rtol=1e-4, atol=1e-4)


def test_a_merged_model_ends_where_the_adapter_did(tw, lora, tmp_path):
    assert tw("adapter", "merge", lora.path, "--out", tmp_path / "merged").status == 0
    folders = (lora.path / "adapter", tmp_path / "merged")
    ends = [json.loads((f / "generation_config.json").read_text())["eos_token_id"] for f in folders]
    assert ends[0] == ends[1] and len(ends[0]) == 2  # end of turn and end of text


def test_extract_undoes_merge(tw, lora, tiny, tmp_path):
    assert tw("adapter", "merge", lora.path, "--out", tmp_path / "merged").status == 0
    words = ("--out", tmp_path / "adapter", "--rank", 16)
    facts = tw("adapter", "extract", tmp_path / "merged", tiny, *words, "--json").json
    assert facts["rank"] <= 16 and facts["kept"] > 0.999
    torch.testing.assert_close(of(tmp_path / "adapter"), of(lora.path), rtol=1e-3, atol=1e-3)


def test_a_whole_model_is_extracted_with_what_no_low_rank_holds(tw, full, tiny, tmp_path):
    words = ("adapter", "extract", full.path, tiny, "--rank", 64)
    refused = tw(*words, "--out", tmp_path / "no")
    assert refused.status == 2 and "rest=keep" in refused.err and not (tmp_path / "no").exists()
    facts = tw(*words, "--out", tmp_path / "kept", "--rest", "keep", "--json").json
    assert facts["kept"] > 0.99
    tuned = logits(load(str(full.path), dtype="float32", weights=torch.float32).model)
    torch.testing.assert_close(of(tmp_path / "kept"), tuned, rtol=1e-2, atol=2e-2)


def test_half_and_half_of_one_is_that_one(tw, lora, tmp_path):
    facts = tw("adapter", "combine", lora.path, lora.path, "--out", tmp_path / "sum", "--json").json
    assert facts["kept"] == 1.0
    torch.testing.assert_close(of(tmp_path / "sum"), of(lora.path), rtol=1e-4, atol=1e-4)
    taken = tw(
        *("adapter", "combine", lora.path, lora.path, "--out", tmp_path / "none"),
        *("--weight", 1, "--weight", -1, "--how", "linear", "--rank", 1, "--json"),
    ).json
    base = load(str(lora.path), dtype="float32").model
    with base.disable_adapter():
        torch.testing.assert_close(of(tmp_path / "none"), logits(base), rtol=1e-5, atol=1e-5)
    assert Path(taken["path"]).name == "none"
