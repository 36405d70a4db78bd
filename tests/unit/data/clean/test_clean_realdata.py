"""Cleaning on published data: what was planted in a messy file is found, and good data is left alone."""

import json
from pathlib import Path

import pytest

from tunewright.data.clean import CleanSettings, Drop, clean, counted, decide, facts_of, judge
from tunewright.data.load import load

DATA = Path(__file__).parents[5] / "shared" / "data"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not at ../shared/data"),
]
PLAIN = CleanSettings()
SEED_TASKS = {"prompt": "instruction", "input": "instances.0.input", "completion": "instances.0.output"}
SPACING = {"white_space", "unicode_form"}
FOUND_BY = {
    "mojibake": {"mojibake"},
    "html": {"html"},
    "control_chars": {"invisible_chars"},
    "empty_output": {"empty_answer", "placeholder_answer"},
    "refusal": {"refusal"},
    "too_long_repeat": {"repeated_text"},
}


def cleaned(name, columns=None):
    """``(file, line) -> reasons that changed or dropped the row``, and the same of what was noted."""
    loaded = load([DATA / name], columns=columns)
    outcomes = [clean(example, PLAIN) for example in loaded.examples]
    facts = [None if isinstance(o, Drop) else facts_of(o.example) for o in outcomes]
    found = decide(counted(fact for fact in facts if fact), PLAIN)
    touched = {p.line: {p.reason} for p in loaded.rejected}
    noted, dropped = {}, {p.line for p in loaded.rejected}
    for example, outcome, fact in zip(loaded.examples, outcomes, facts, strict=True):
        line = example.meta.line
        results = [outcome] if fact is None else [outcome, judge(outcome.example, fact, found, PLAIN)]
        for result in results:
            if isinstance(result, Drop):
                touched.setdefault(line, set()).add(result.reason)
                dropped.add(line)
            else:
                touched.setdefault(line, set()).update(reason for reason, _ in result.changes)
                noted.setdefault(line, set()).update(reason for reason, _ in result.notes)
    return touched, noted, dropped


def test_what_was_planted_is_found_and_clean_rows_stay():
    planted = [json.loads(t) for t in (DATA / "messy_raw/truth.jsonl").read_bytes().splitlines()]
    touched, noted, _ = cleaned("messy_raw/messy.jsonl")
    for kind, reasons in FOUND_BY.items():
        lines = [t["line"] for t in planted if t["kind"] == kind]
        found = sum(bool(touched[line] & reasons) for line in lines)
        assert found >= 0.95 * len(lines) and len(lines) >= 11, (kind, found, len(lines))
    good = [t["line"] for t in planted if t["kind"] in ("clean", "pii", "pii_trap")]
    assert len(good) == 1101
    assert sum(bool(touched[line]) for line in good) <= 0.01 * len(good)
    assert sum(bool(noted.get(line)) for line in good) <= 0.01 * len(good)


@pytest.mark.parametrize(
    ("name", "columns", "changed", "reshaped"),
    [
        ("sft_chat_tinker/conversations.jsonl", None, 0, 0),
        ("sft_seed_tasks/seed_tasks.jsonl", SEED_TASKS, 22, 0),
        ("cls_banking77/train.csv", None, 14, 0),
        ("reward_gsm8k_train/train.jsonl", None, 5, 2),
        ("reward_countdown/dev_train_3num.jsonl", None, 0, 0),
        ("pref_demo/dpo_en_demo.json", None, 103, 3),
        ("pref_demo/kto_en_demo.json", None, 80, 5),
        ("pref_demo/glaive_toolcall_en_demo.json", None, 32, 0),
        ("domainqa_medquad/medquad_dev.jsonl", None, 1790, 2),
    ],
)
def test_good_data_loses_no_row_and_hardly_a_character(name, columns, changed, reshaped):
    """At most ``changed`` rows are touched at all, ``reshaped`` in more than white space; none is dropped."""
    touched, _, dropped = cleaned(name, columns)
    assert dropped == set()
    assert sum(bool(reasons) for reasons in touched.values()) <= changed
    assert sum(bool(reasons - SPACING) for reasons in touched.values()) <= reshaped
