"""The messy file, prepared with every step on, against what is known about each of its lines."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tunewright.core.config import build
from tunewright.data.load import load
from tunewright.data.pipeline import PrepareSettings, prepare_to
from tunewright.data.split import SIDES

DATA = Path(__file__).parents[5] / "shared" / "data"
MESSY = DATA / "messy_raw" / "messy.jsonl"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not MESSY.is_file(), reason="the real data sets are not at ../shared/data"),
]
SETTINGS = {"clean": {}, "redact": {"names": "full"}, "compare": {"near": "drop", "known": "note"}}
MENDED = {"mojibake": "mojibake", "html": "html", "control_chars": "invisible_chars"}
MALFORMED = ("bad_json", "bad_schema", "nonstandard_json")


class Outcome:
    """What became of each line of the messy file."""

    def __init__(self, directory):
        self.receipt = prepare_to(directory, {"train": [MESSY]}, build(PrepareSettings, SETTINGS))
        truth = [json.loads(line) for line in (MESSY.parent / "truth.jsonl").read_text().splitlines()]
        self.truth = {entry["line"]: entry for entry in truth}
        self.raw = dict(enumerate(MESSY.read_bytes().decode("utf-8-sig", "replace").split("\n"), 1))
        self.reasons = {entry["line"]: entry["reason"] for entry in rows(directory / "rejected.jsonl")}
        self.kept = {
            row.meta.line: row for side in SIDES for row in load([directory / f"{side}.jsonl"]).examples
        }
        self.found = rows(directory / "redactions.jsonl")
        places = [place for entry in rows(directory / "contradictions.jsonl") for place in entry["places"]]
        self.contradicting = {int(place.rpartition(":")[2]) for place in places}

    def of(self, *kinds):
        return [line for line, entry in self.truth.items() if entry["kind"] in kinds]

    def share(self, kind, reasons):
        """Of the lines of a kind, the share that was left out for one of ``reasons``."""
        lines = self.of(kind)
        return sum(self.reasons.get(line) in reasons for line in lines) / len(lines)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return Outcome(tmp_path_factory.mktemp("messy") / "out")


def test_every_line_is_accounted_for_and_every_malformed_one_named(outcome):
    blank = outcome.of("blank_line")
    assert outcome.kept.keys() | outcome.reasons.keys() | set(blank) == outcome.truth.keys()
    assert not outcome.kept.keys() & outcome.reasons.keys()
    assert all(line in outcome.reasons for line in outcome.of(*MALFORMED))


def test_duplicates_go_and_nothing_clean_goes_with_them(outcome):
    assert outcome.share("exact_dup", {"duplicate", "near_duplicate"}) == 1.0
    assert outcome.share("near_dup", {"near_duplicate", "duplicate"}) >= 0.95
    lost = [line for line in outcome.of("clean") if line in outcome.reasons]
    assert len(lost) <= 0.01 * len(outcome.of("clean"))


def test_rows_that_teach_nothing_go(outcome):
    assert outcome.share("empty_output", {"empty_answer", "placeholder_answer"}) >= 0.95
    assert outcome.share("refusal", {"refusal"}) >= 0.95


@pytest.mark.parametrize(
    ("kind", "marks"),
    [
        ("mojibake", ("â€", "Ã", "\ufffd")),
        ("html", ("<div", "<p>", "&nbsp;", "&amp;")),
        ("control_chars", ("\u200b", "\u202e", "\0")),
    ],
)
def test_broken_characters_and_markup_are_mended(outcome, kind, marks):
    lines = [line for line in outcome.of(kind) if line in outcome.kept]
    texts = [" ".join(m.content for m in outcome.kept[line].messages) for line in lines]
    mended = sum(not any(mark in text for mark in marks) for text in texts)
    assert len(lines) >= 0.95 * len(outcome.of(kind)) and mended >= 0.95 * len(lines)
    assert outcome.receipt["repaired"][MENDED[kind]] >= 0.95 * len(lines)


def test_loops_are_cut(outcome):
    lines = outcome.of("too_long_repeat")
    cut = [
        line
        for line in lines
        if line in outcome.reasons
        or len(outcome.kept[line].messages[-1].content) * 2 < len(json.loads(outcome.raw[line])["output"])
    ]
    assert len(cut) >= 0.95 * len(lines)


def test_clean_rows_are_not_touched(outcome):
    named = {entry["line"] for entry in outcome.found}
    touched = []
    for line in outcome.of("clean", "pii_trap"):
        row = json.loads(outcome.raw[line])
        said = [m.content for m in outcome.kept[line].messages] if line in outcome.kept else []
        if said != [row["instruction"], row["output"]] and line not in named:
            touched.append(line)
    assert len(touched) <= 0.01 * len(outcome.of("clean", "pii_trap"))


def test_contradictions_are_reported_and_kept(outcome):
    lines = outcome.of("contradictory_dup_prompt")
    assert all(line in outcome.contradicting and line in outcome.kept for line in lines)


def test_personal_data_in_the_questions(outcome):
    wanted = {
        (line, span["start"], span["end"], span["type"])
        for line, entry in outcome.truth.items()
        for span in entry.get("spans", [])
    }
    found = {
        (entry["line"], entry["start"], entry["end"], entry["type"])
        for entry in outcome.found
        if entry["field"] == "instruction"
    }
    hit, names = defaultdict(int), [span for span in wanted if span[3] == "PERSON"]
    for span in wanted:
        hit[span[3]] += span in found
    structured = [span for span in wanted if span[3] != "PERSON"]
    acted = [span for span in found if span[3] != "PERSON"]
    assert sum(span in found for span in structured) >= 0.98 * len(structured)
    assert sum(span in wanted for span in acted) >= 0.97 * len(acted)
    assert hit["PERSON"] >= 0.85 * len(names)
    assert not {span[0] for span in found} & set(outcome.of("pii_trap"))


def test_no_value_stands_in_what_was_written(outcome, tmp_path):
    out = tmp_path / "again"
    prepare_to(out, {"train": [MESSY]}, build(PrepareSettings, SETTINGS))
    written = "".join(path.read_text(encoding="utf-8") for path in sorted(out.iterdir()))
    kept = [
        span["value"]
        for line, entry in outcome.truth.items()
        for span in entry.get("spans", [])
        if span["type"] not in ("PERSON", "DATE_OF_BIRTH") and line in outcome.kept
    ]
    standing = [value for value in kept if value in written]
    assert len(standing) <= 0.02 * len(kept)


def test_texts_of_both_sides_of_banking77_are_found(tmp_path):
    files = {"train": [DATA / "cls_banking77" / "train.csv"]}
    compare = {"benchmarks": {"banking": str(DATA / "cls_banking77" / "test.csv")}}
    receipt = prepare_to(tmp_path / "out", files, build(PrepareSettings, {"compare": compare}))
    asked = {}
    for side in ("train", "test"):
        examples = load([DATA / "cls_banking77" / f"{side}.csv"]).examples
        asked[side] = {" ".join(e.messages[-1].content.casefold().split()): e.meta.line for e in examples}
    both = {asked["train"][text] for text in asked["train"].keys() & asked["test"].keys()}
    dropped = {e["line"] for e in rows(tmp_path / "out" / "rejected.jsonl") if e["reason"] == "in_benchmark"}
    assert len(both) == 7 and both <= dropped
    assert len(dropped) <= 60 and receipt["contamination"]["banking"]["rows"] == len(dropped)
