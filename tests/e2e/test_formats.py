"""``tunewright train`` on every kind of file: each row is accounted for, and the run is whole."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import QUICK, pairs, rows_of

ROWS = pairs(40)
DAMAGED = 2  # rows without an answer, put at the end of each file that has answers


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def messages(path):
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in ROWS]
    jsonl(path, [{"messages": c} for c in [*chats, *[[]] * DAMAGED]])


def sharegpt(path):
    chats = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in ROWS]
    jsonl(path, [{"conversations": c} for c in [*chats, *[[]] * DAMAGED]])


def alpaca(path):
    rows = [{"instruction": q, "input": "", "output": a} for q, a in ROWS]
    jsonl(path, [*rows, *[{"instruction": "why?", "input": "", "output": ""}] * DAMAGED])


def prompt_completion(path):
    rows = [{"prompt": q, "completion": a} for q, a in ROWS]
    jsonl(path, [*rows, *[{"prompt": "why?", "completion": 3}] * DAMAGED])


def csv(path):
    lines = [f"{q},{a}" for q, a in ROWS] + [f"why {i}?," for i in range(DAMAGED)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")


def parquet(path):
    rows = [*ROWS, *[("why?", None)] * DAMAGED]
    pq.write_table(pa.table({"prompt": [q for q, _ in rows], "completion": [a for _, a in rows]}), path)


def nested(path):
    rows = [{"instruction": "What colour?", "instances": [{"input": q, "output": a}]} for q, a in ROWS]
    jsonl(path, [*rows, *[{"instruction": "What colour?", "instances": []}] * DAMAGED])


COLUMNS = "data.columns={prompt: '{instruction} {instances.0.input}', completion: instances.0.output}"


@pytest.mark.parametrize(
    ("write", "name", "words"),
    [
        (messages, "chats.jsonl", ()),
        (sharegpt, "chats.jsonl", ()),
        (alpaca, "rows.jsonl", ()),
        (prompt_completion, "rows.jsonl", ()),
        (csv, "rows.csv", ()),
        (parquet, "rows.parquet", ()),
        (nested, "rows.jsonl", (COLUMNS,)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_row_is_accounted_for(tw, tiny, tmp_path, write, name, words):
    file, out = tmp_path / name, tmp_path / "run"
    write(file)
    quick = (*QUICK, "train.max_steps=1", "evaluate.baselines=[]", "data.split.validation=0.1")
    said = tw("train", "--model", tiny, "--data", file, "--out", out, "--json", *quick, *words)
    assert said.status == 0, said.err
    result, receipt = said.json, json.loads((out / "data" / "receipt.json").read_text())
    assert json.loads((out / "result.json").read_text()) == result
    kept = {side: len(rows_of(out / "data" / f"{side}.jsonl")) for side in ("train", "validation", "test")}
    rejected = rows_of(out / "data" / "rejected.jsonl")
    assert (receipt["rows_in"], receipt["rows_out"], receipt["rejected"]) == (42, 40, DAMAGED)
    assert sum(kept.values()) == 40 and len(rejected) == DAMAGED
    assert all(row["source"] == str(file) and row["line"] > 0 and row["reason"] for row in rejected)
    assert {k: result["counts"][k] for k in kept} == kept
    assert result["counts"]["rejected"] == DAMAGED
    assert any(f"{DAMAGED} row(s) left out" in warning for warning in result["warnings"])
    assert (out / "adapter" / "adapter_model.safetensors").exists()


def test_plain_text(tw, tiny, tmp_path):
    file, out = tmp_path / "book.txt", tmp_path / "run"
    file.write_text("\n\f".join(f"The {q} It is {a}." for q, a in ROWS), encoding="utf-8")
    words = ("objective=text", "train.max_steps=2", "train.tokens_per_step=128")
    said = tw("train", "--model", tiny, "--data", file, "--out", out, "--json", *QUICK, *words)
    assert said.status == 0, said.err
    [metric] = said.json["metrics"]
    assert metric["name"] == "perplexity" and metric["n"] == said.json["counts"]["test"]
    receipt = json.loads((out / "data" / "receipt.json").read_text())
    assert (receipt["kind"], receipt["rows_out"]) == ("text", 40)
    # every token but the first of each document is learnt
    facts = said.json["data"]["render"]
    assert facts["trained_tokens"] == facts["total_tokens"] - facts["rows"]
