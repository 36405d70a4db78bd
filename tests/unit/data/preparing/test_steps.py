"""All steps together: what is mended, what goes and why, what is only reported, and that nothing leaks."""

import json
import random

from tunewright.core.config import build
from tunewright.data.load import load
from tunewright.data.pipeline import PrepareSettings, prepare_to
from tunewright.data.preparing import near as near_module
from tunewright.data.split import SIDES

WORDS = [
    *("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "harbor", "island", "jungle", "kettle"),
    *(
        "lagoon",
        "meadow",
        "nectar",
        "orchid",
        "pebble",
        "quarry",
        "ridge",
        "saddle",
        "timber",
        "umber",
        "zephyr",
    ),
]


def sentence(seed, words=40):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def rows(count=60):
    return [
        {"question": f"What about {sentence(i, 12)}?", "answer": sentence(1000 + i)} for i in range(count)
    ]


def write(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def prepared(tmp_path, items, files=None, name="out", workers=None, **settings):
    given = {"train": [write(tmp_path / "train.jsonl", items)], **(files or {})}
    receipt = prepare_to(tmp_path / name, given, build(PrepareSettings, settings), workers=workers)
    rejected = [json.loads(line) for line in (tmp_path / name / "rejected.jsonl").read_text().splitlines()]
    return receipt, {entry["line"]: entry for entry in rejected}


def sides(directory):
    return {
        row.meta.line: side
        for side in SIDES
        if (directory / f"{side}.jsonl").stat().st_size
        for row in load([directory / f"{side}.jsonl"]).examples
    }


def like(row, change="pebble"):
    """The same row with one word of the answer replaced."""
    words = row["answer"].split()
    words[20] = change + "x"
    return {**row, "answer": " ".join(words)}


NEAR = {"near": "drop"}


def test_the_best_of_near_duplicates_stays(tmp_path):
    items = rows()
    items += [like(items[3]), {**items[5], "answer": items[5]["answer"] + " and more of it"}]
    receipt, rejected = prepared(tmp_path, items, compare=NEAR)
    assert {line: entry["reason"] for line, entry in rejected.items()} == {
        61: "near_duplicate",
        6: "near_duplicate",  # the longer answer is the better one
    }
    assert rejected[61]["detail"].startswith(f"like {tmp_path / 'train.jsonl'}:4 (0.8")
    assert receipt["near_duplicates"]["clusters"] == 2


def test_near_duplicates_that_stay_stand_on_one_side(tmp_path):
    items = [row for i, row in enumerate(rows(40)) for row in (row, like(row), like(row, f"ridge{i}"))]
    receipt, rejected = prepared(tmp_path, items, compare={"near": "group"})
    assert not rejected and receipt["near_duplicates"]["clusters"] == 40
    where = sides(tmp_path / "out")
    assert set(where.values()) == set(SIDES)
    for first in range(1, 120, 3):
        assert where[first] == where[first + 1] == where[first + 2]
    proof = receipt["split_proof"]
    assert proof["near_duplicate_clusters"] == 40
    assert proof["near_duplicate_clusters_on_two_sides"] == proof["near_duplicate_pairs_on_two_sides"] == 0


def test_a_pair_that_the_clusters_missed_is_found_by_looking_afresh(tmp_path, monkeypatch):
    """Without the first search every group stands by itself; the second look joins what crosses."""
    find_near = near_module.clusters

    def blind(*words, **more):
        found = find_near(*words, **more)
        found.leaders[:] = range(len(found.leaders))
        return found

    monkeypatch.setattr(near_module, "clusters", blind)
    items = [{**row, "question": row["question"] + mark} for row in rows(40) for mark in ("", " Say it")]
    receipt, _ = prepared(tmp_path, items, compare={"near": "group", "threshold": 0.7})
    where = sides(tmp_path / "out")
    assert all(where[line] == where[line + 1] for line in range(1, 80, 2))
    assert receipt["split_proof"]["looked_afresh"] > 1
    assert receipt["split_proof"]["near_duplicate_pairs_on_two_sides"] == 0


def test_rows_like_those_of_a_given_test_file_are_not_trained_on(tmp_path):
    items = rows()
    test = write(tmp_path / "test.jsonl", [like(items[7]), *rows(63)[60:]])
    receipt, rejected = prepared(tmp_path, items, {"test": [test]}, compare=NEAR)
    assert {line: entry["reason"] for line, entry in rejected.items()} == {8: "near_test"}
    assert receipt["splits"]["test"]["rows"] == 4


def test_rows_of_different_tasks_are_no_duplicates_but_stand_on_one_side(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", rows()) for name in ("one", "two")]
    write(files[1], [like(row) for row in rows()])
    tasks = {str(file): file.stem for file in files}
    receipt = prepare_to(
        tmp_path / "out", {"train": files}, build(PrepareSettings, {"tasks": tasks, "compare": NEAR})
    )
    assert receipt["rejected"] == 0 and receipt["near_duplicates"]["clusters"] == 60
    assert receipt["split_proof"]["near_duplicate_clusters_on_two_sides"] == 0


def test_a_row_with_more_findings_than_sixteen_bits_count_gives_way(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    mails = " ".join(f"a{i}@mail.example.org" for i in range(65_536))
    items = rows()
    items += [{**items[3], "answer": f"{items[3]['answer']} {mails}"}]
    receipt, rejected = prepared(tmp_path, items, redact={}, compare=NEAR)
    assert receipt["personal_data"]["found"] == {"EMAIL": {"mask": 65_536}}
    assert {line: entry["reason"] for line, entry in rejected.items()} == {61: "near_duplicate"}


def test_contradictions_are_reported_and_stay(tmp_path):
    items = rows()
    items += [{**items[9], "answer": sentence(5)}, {**items[9], "question": items[9]["question"].upper()}]
    receipt, rejected = prepared(tmp_path, items, compare=NEAR)
    assert 61 not in rejected
    [found] = [
        json.loads(line) for line in (tmp_path / "out" / "contradictions.jsonl").read_text().splitlines()
    ]
    assert [int(place.rsplit(":", 1)[1]) for place in found["places"]][:2] == [10, 61]
    assert receipt["contradictions"]["questions"] == 1 and not receipt["contradictions"]["on_purpose"]


def test_rows_with_items_of_a_benchmark_are_named_and_left_out(tmp_path):
    items = rows()
    exam = write(tmp_path / "exam.jsonl", [rows(80)[70], items[12], rows(80)[71]])
    compare = {"benchmarks": {"exam": str(exam)}}
    receipt, rejected = prepared(tmp_path, items, compare=compare)
    assert {line: (e["reason"], e["detail"]) for line, e in rejected.items()} == {
        13: ("in_benchmark", "item 1 of exam (1.00 of it)")
    }
    [first] = receipt["contamination"]["exam"]["first"]
    assert first == {"place": f"{tmp_path / 'train.jsonl'}:13", "item": 1, "coverage": 1.0}


def test_items_of_public_test_sets_are_noted_or_dropped(tmp_path):
    items = [*rows(), {"question": "What happens to you if you eat watermelon seeds?", "answer": "Nothing."}]
    receipt, rejected = prepared(tmp_path, items, compare={"known": "note"}, name="note")
    assert receipt["contamination"]["truthfulqa"]["rows"] == 1
    assert not rejected
    _, rejected = prepared(tmp_path, items, compare={"known": "drop"}, name="drop")
    assert rejected[61]["reason"] == "in_public_set"


def test_cleaning_mends_drops_and_asks_the_whole_file(tmp_path):
    items = rows()
    items[2]["answer"] += " cafÃ© â€“ naÃ¯ve"
    items[4]["answer"] = "I cannot help with that request."
    items[6]["answer"] = "N/A"
    for i in range(20, 45):
        items[i]["answer"] = "Please contact our support team and they will be glad to help you with it."
    receipt, rejected = prepared(
        tmp_path, items, clean={"boilerplate": 20, "steps": {"boilerplate_answer": "drop"}}
    )
    reasons = {line: entry["reason"] for line, entry in rejected.items()}
    assert reasons[5] == "refusal" and reasons[7] == "placeholder_answer"
    assert {line for line, reason in reasons.items() if reason == "boilerplate_answer"} == set(range(21, 46))
    assert receipt["repaired"]["mojibake"] == 1
    written = "".join((tmp_path / "out" / f"{side}.jsonl").read_text() for side in SIDES)
    assert "café – naïve" in written
    assert [step["step"] for step in receipt["steps"]] == [
        "read", "clean", "duplicates", "whole_file", "separate",
    ]  # fmt: skip


def test_without_settings_texts_stay_as_they_are(tmp_path):
    items = rows()
    items[2]["answer"] += " cafÃ© <br>"
    items.append(like(items[3]))
    receipt, rejected = prepared(tmp_path, items)
    assert not rejected and not receipt["repaired"] and "near_duplicates" not in receipt


def test_every_step_gives_the_same_bytes_however_it_is_shared(tmp_path):
    items = rows(200)
    items += [like(items[i]) for i in range(0, 60, 3)]
    items += [{**items[i], "answer": sentence(-i)} for i in range(1, 20, 3)]
    random.Random(0).shuffle(items)
    settings = {"clean": {}, "compare": {"near": "drop", "known": "note"}}
    for name, workers in (("one", 1), ("two", 2)):
        prepared(tmp_path, items, name=name, workers=workers, **settings)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
