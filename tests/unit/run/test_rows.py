"""Stored rows are those the run was begun with, or the run does not go on."""

import json

import pytest

from tunewright.core.config import build
from tunewright.core.errors import RunError
from tunewright.core.paths import RunDir
from tunewright.data.pipeline import write
from tunewright.run.recipe import Recipe
from tunewright.run.rows import prepare_rows, reasons, stored_rows, suspicions


@pytest.fixture
def stored(tmp_path):
    rows = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(30)]
    rows += [rows[0], {"prompt": "question 1", "completion": "another answer"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    recipe = build(Recipe, {"data": {"train": str(file)}})
    prepared = prepare_rows(recipe)
    run = RunDir(tmp_path / "run")
    write(prepared, run.data)
    return recipe, prepared, run


def test_round_trip(stored):
    _, prepared, run = stored
    back = stored_rows(run)
    assert (back.train, back.validation, back.test) == (prepared.train, prepared.validation, prepared.test)
    assert reasons(back.rejected) == reasons(prepared.rejected) == {"duplicate": 1}
    assert len(back.train) + len(back.validation) + len(back.test) == 31


@pytest.mark.parametrize("damage", ["edit", "drop", "remove"])
@pytest.mark.parametrize("side", ["train", "test"])
def test_changed_rows_are_refused(stored, side, damage):
    run = stored[2]
    file = run.data / f"{side}.jsonl"
    if damage == "remove":
        file.unlink()
    else:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text(
            "".join(lines[1:]) if damage == "drop" else "".join(lines).replace("answer", "reply", 1),
            encoding="utf-8",
        )
    with pytest.raises(RunError, match="is not the file that this run was begun with"):
        stored_rows(run)


def test_no_receipt_means_start_again(tmp_path):
    with pytest.raises(RunError, match=r"has no data/receipt\.json"):
        stored_rows(RunDir(tmp_path))


def test_suspicions_are_sentences_with_a_place(stored):
    [sentence] = suspicions(stored[0])
    assert (
        sentence.startswith("1 x prompts that were answered differently before, first at ")
        and ":32" in sentence
    )
