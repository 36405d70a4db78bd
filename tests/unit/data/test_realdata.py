"""The reader, the check and the preparation on published data sets, against what is known about them."""

import json
from pathlib import Path

import pytest

from tunewright.core.records import Conversation, Labelled, Preference, Prompt
from tunewright.data.check import check
from tunewright.data.load import load
from tunewright.data.pipeline import PrepareSettings, prepare, write
from tunewright.data.split import Split, leaks

DATA = Path(__file__).parents[4] / "shared" / "data"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not at ../shared/data"),
]
SEED_TASKS = {"prompt": "instruction", "input": "instances.0.input", "completion": "instances.0.output"}


@pytest.mark.parametrize(
    ("path", "columns", "kind", "rows", "name"),
    [
        ("sft_chat_tinker/conversations.jsonl", None, Conversation, 128, "messages"),
        ("sft_seed_tasks/seed_tasks.jsonl", SEED_TASKS, Conversation, 175, "prompt_completion"),
        ("pref_demo/dpo_en_demo.json", None, Preference, 300, "preference_sharegpt"),
        ("pref_demo/kto_en_demo.json", None, Labelled, 300, "chat_label"),
        ("pref_demo/glaive_toolcall_en_demo.json", None, Conversation, 300, "sharegpt"),
        ("domainqa_medquad/medquad_dev.jsonl", None, Conversation, 2191, "question_answer"),
        ("cls_banking77/train.csv", None, Labelled, 10003, "text_label"),
        ("reward_countdown/dev_train_3num.jsonl", None, Prompt, 600, "prompt"),
        ("reward_gsm8k_train/train.jsonl", None, Conversation, 7473, "question_answer"),
    ],
)
def test_every_row_of_the_published_sets_is_read(path, columns, kind, rows, name):
    loaded = load([DATA / path], columns=columns)
    assert loaded.rejected == []
    assert len(loaded.examples) == loaded.files[0].rows == rows
    assert loaded.files[0].format == name
    assert {type(example) for example in loaded.examples} == {kind}


def test_tool_calls_of_sharegpt_are_read():
    examples = load([DATA / "pref_demo/glaive_toolcall_en_demo.json"]).examples
    calls = [m.extra["tool_calls"] for e in examples for m in e.messages if "tool_calls" in m.extra]
    assert len(calls) == 211
    assert all(isinstance(call["function"]["arguments"], dict) for group in calls for call in group)


def truth():
    return [json.loads(line) for line in (DATA / "messy_raw/truth.jsonl").read_bytes().splitlines()]


def test_every_malformed_line_of_the_messy_file_is_reported_and_no_other():
    malformed = {t["line"] for t in truth() if t["kind"] in ("bad_json", "bad_schema", "nonstandard_json")}
    empty = {t["line"] for t in truth() if t["kind"] == "empty_output"}
    loaded = load([DATA / "messy_raw/messy.jsonl"])
    rejected = {p.line for p in loaded.rejected}
    assert len(malformed) == 9
    assert malformed <= rejected <= malformed | empty
    assert all(p.reason == "empty_answer" for p in loaded.rejected if p.line in empty)
    assert len(loaded.examples) + len(rejected) == loaded.files[0].rows == 1348
    assert [p.line for p in loaded.problems if p.reason == "blank_lines"] == [337]
    controls = {t["line"] for t in truth() if t["kind"] == "control_chars"}
    assert {p.line for p in loaded.problems if p.reason == "control_chars"} == controls


def test_findings_in_the_messy_file_agree_with_what_was_planted():
    report = check([DATA / "messy_raw/messy.jsonl"])
    counts = {f.code: f.count for f in report.findings}
    planted = {t["line"]: t["kind"] for t in truth()}
    kinds = list(planted.values())
    assert counts["mojibake"] == kinds.count("mojibake")
    assert counts["html"] == kinds.count("html")
    assert counts["refusal"] == kinds.count("refusal")
    assert counts["repeated_text"] == kinds.count("too_long_repeat")
    assert counts["invisible_chars"] == kinds.count("control_chars")
    assert counts["duplicate"] >= kinds.count("exact_dup")
    assert counts["contradiction"] >= kinds.count("contradictory_dup_prompt")
    assert not report.usable


def test_seven_banking_texts_stand_in_train_and_test():
    paths = [DATA / "cls_banking77" / name for name in ("train.csv", "test.csv")]
    findings = {f.code: f.count for f in check(paths).findings}
    assert findings["contamination"] == 7
    prepared = prepare([paths[0]], [], [paths[1]], PrepareSettings())
    assert sum(p.reason == "in_test" for p in prepared.rejected) == 7
    assert leaks(Split(prepared.train, prepared.validation, prepared.test)) == []
    assert len({e.label for e in prepared.train}) == 77


def test_the_columns_of_countdown_are_the_fields_of_its_prompts(tmp_path):
    path = DATA / "reward_countdown" / "dev_train_3num.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    loaded = load([path])
    assert loaded.problems == []
    assert [(e.messages[0].content, e.fields) for e in loaded.examples] == [
        (row.pop("prompt"), row) for row in rows
    ]
    assert {tuple(e.fields) for e in loaded.examples} == {("nums", "target", "one_solution")}
    prepared = prepare([path], [], [], PrepareSettings())
    write(prepared, tmp_path)
    assert load([tmp_path / "train.jsonl"]).examples == prepared.train
    assert prepared.receipt["kind"] == "prompt"
    assert prepared.receipt["rows_out"] + prepared.receipt["rejected"] == 600


def test_the_answers_of_gsm8k_can_be_fields():
    path = DATA / "reward_gsm8k_train" / "train.jsonl"
    examples = load([path], format="prompt").examples
    assert len(examples) == 7473 and all("####" in e.fields["answer"] for e in examples)
