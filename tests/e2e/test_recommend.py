"""``data recommend`` as the command line calls it, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from tests.e2e.conftest import write_messages
from tunewright.cli.recommend import recommend
from tunewright.core.errors import ConfigError, DataError
from tunewright.run.recommend.settings import DetectiveSettings

QUICK = {"rows": 12, "max_length": 64, "finalists": 2, "race_tokens": 1200, "replies": 1}
FISH = ("carp", "pike", "eel", "cod", "tuna", "perch", "trout", "bass")


def fish(count, start=0):
    return [
        (f"Where does fish {i} swim, the {FISH[i % 8]}?", "the lazy brown fox")
        for i in range(start, start + count)
    ]


def sums(count):
    return [(f"{i} + {i * 7 % 11} = ", f"{i + i * 7 % 11}") for i in range(count)]


def words(count):
    return [(f"Please say {FISH[i % 8]} {i} times", "refund refund refund") for i in range(count)]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "LICENSE").write_text("MIT License\n\nPermission is hereby granted, free of charge")
    pairs = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return {
        "problem": write_messages(tmp_path / "problem.jsonl", fish(16, 200)),
        "sums": write_messages(tmp_path / "sums.jsonl", sums(40)),
        "fish": write_messages(tmp_path / "fish.jsonl", [*fish(40), *fish(3, 200)]),
        "words": write_messages(tmp_path / "words.jsonl", words(40)),
        "test": write_messages(tmp_path / "test.jsonl", fish(5)),
        "pairs": tmp_path / "pairs.jsonl",
        "missing": tmp_path / "missing.jsonl",
    }


def said(capsys, tiny, files, names, as_json, **changes):
    options = {"model": str(tiny), **QUICK, **changes}
    capsys.readouterr()
    recommend(files["problem"], [files[name] for name in names], options, files["test"], as_json)
    return capsys.readouterr()


def test_the_document_has_everything_and_the_right_set_wins(capsys, tiny, files):
    names = ("sums", "pairs", "fish", "missing", "words")
    found = json.loads(said(capsys, tiny, files, names, True).out)
    first = found["candidates"][0]
    assert first["name"] == str(files["fish"])
    assert [c["rank"] for c in found["candidates"]] == [1, 2, 3]
    assert found["verdict"]["word"] == "TRAIN ON"
    assert found["verdict"]["best"] == first["name"]
    assert first["race"]["gain"]["low"] > 0
    assert first["race"]["gain"]["n"] == found["problem"]["held_out"] == 8
    assert sum(c["race"] is not None for c in found["candidates"]) == 2
    assert first["duplicates"] == {"problem_exact": 3, "test_exact": 5, "rows": 8}
    assert first["rows"] == 43
    assert first["licences"] == [{"name": "MIT", "said_by": "LICENSE"}]
    assert first["coverage"]["of_problem"] > max(c["coverage"]["of_problem"] for c in found["candidates"][1:])
    assert first["gradient"]["low"] > max(c["gradient"]["high"] for c in found["candidates"][1:])
    refused = {entry["name"]: entry["reason"] for entry in found["refused"]}
    assert "another kind (preference)" in refused[str(files["pairs"])]
    assert "cannot be read" in refused[str(files["missing"])]
    [reply] = found["replies"]
    assert reply["wanted"] == "the lazy brown fox"
    again = json.loads(said(capsys, tiny, files, names, True).out)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_people_read_the_same(capsys, tiny, files):
    out = said(capsys, tiny, files, ("words", "fish", "pairs"), False).out
    assert f"1. {files['fish']}" in out
    assert f"2. {files['words']}" in out
    assert f"not ranked: {files['pairs']}" in out
    assert "licence    MIT (LICENSE)" in out
    assert "3 rows that stand in the problem, 0 more that ask the same" in out
    assert "5 rows that stand in the test file, 0 more that ask the same" in out
    assert f"TRAIN ON {files['fish']}: gain +" in out
    assert "wanted:   the lazy brown fox" in out
    assert "note: the problem has only 16 examples" in out


def test_without_a_race_nothing_is_promised(capsys, tiny, files):
    found = json.loads(said(capsys, tiny, files, ("words", "fish"), True, finalists=0).out)
    assert found["candidates"][0]["name"] == str(files["fish"])
    assert found["verdict"]["word"] == "CAN'T TELL"
    assert found["replies"] == []
    assert all(c["race"] is None for c in found["candidates"])


def test_rows_that_are_too_long_are_counted(capsys, tiny, files, tmp_path):
    long = [(f"{q} " * 12, a) for q, a in fish(8, 60)]
    mixed = write_messages(tmp_path / "fish.jsonl", [*fish(20), *long])
    files = {
        **files,
        "fish": mixed,
        "problem": write_messages(tmp_path / "p.jsonl", [*fish(16, 200), *long[:1]]),
    }
    found = json.loads(said(capsys, tiny, files, ("fish",), True, rows=40, finalists=1).out)
    [only] = found["candidates"]
    assert only["unread_rows"] == 7
    assert only["gradient"]["rows"] == 15
    assert any("1 of 17 examples of the problem have nothing to learn" in note for note in found["notes"])
    out = said(capsys, tiny, files, ("fish",), False, rows=40, finalists=0).out
    assert "7 rows with nothing to learn: cut at --max-length" in out


def test_documents_are_compared_with_documents(capsys, tiny, files, tmp_path):
    def texts(name, sentence, count):
        path = tmp_path / name
        lines = [json.dumps({"text": f"{i} {sentence} {i}"}) + "\n" for i in range(count)]
        path.write_text("".join(lines))
        return path

    goal = texts("goal.jsonl", "the quick brown fox jumps over", 10)
    sets = [
        texts("a.jsonl", "Bitte erstatten Sie den Betrag", 30),
        texts("b.jsonl", "a lazy brown fox jumps", 30),
    ]
    capsys.readouterr()
    recommend(goal, [*sets, files["fish"]], {"model": str(tiny), **QUICK}, None, True)
    found = json.loads(capsys.readouterr().out)
    assert found["problem"]["kind"] == "document"
    assert [c["name"] for c in found["candidates"]] == [str(sets[1]), str(sets[0])]
    assert found["replies"] == []
    assert "another kind (conversation)" in found["refused"][0]["reason"]


def test_advice_against_all_ends_with_one(capsys, tiny, files, monkeypatch):
    document = json.loads(said(capsys, tiny, files, ("words", "fish"), True, finalists=0).out)
    document["verdict"] = {**document["verdict"], "word": "NONE HELPS", "reason": "the loss was higher."}
    monkeypatch.setattr("tunewright.cli.recommend.compare", lambda *args, **kwargs: document)
    with pytest.raises(typer.Exit) as ended:
        said(capsys, tiny, files, ("words",), False)
    assert ended.value.exit_code == 1
    assert "NONE HELPS: the loss was higher." in capsys.readouterr().out


def test_what_cannot_be_done_is_one_sentence(capsys, tiny, files):
    with pytest.raises(ConfigError, match=r"no candidate can be compared.*another kind"):
        said(capsys, tiny, files, ("pairs",), True)
    with pytest.raises(ConfigError, match="data recommend: rows: "):
        said(capsys, tiny, files, ("fish",), True, rows=1)
    with pytest.raises(DataError, match="raise --max-length"):
        said(capsys, tiny, files, ("fish",), True, max_length=16)


def test_the_page_describes_every_option_and_every_key(capsys, tiny, files):
    page = (Path(__file__).parents[2] / "docs" / "recommend.md").read_text(encoding="utf-8")
    for name in DetectiveSettings.model_fields:
        assert f"`--{name.replace('_', '-')}`" in page, name
    document = json.loads(said(capsys, tiny, files, ("fish", "missing"), True).out)
    parts = [document, document["problem"], document["candidates"][0], document["verdict"]]
    for part in (*parts, document["refused"][0], document["replies"][0]):
        for key in part:
            assert f"`{key}`" in page or f"{key} (" in page, f"{key!r} is not described"
