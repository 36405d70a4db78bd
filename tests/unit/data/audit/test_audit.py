"""The audit as ``data check`` runs it: the sample, the statistics, the report, the files."""

import json
import random

import numpy as np
import pytest

from tunewright.core.errors import DataError
from tunewright.core.records import Labelled, Message, Meta
from tunewright.data.audit.intervals import auc, chi_square, holm, share, share_difference, stability_index
from tunewright.data.audit.profiles import label_balance, language_of, languages, lengths
from tunewright.data.audit.sample import CHARACTERS, Reservoir, Row, classes_of, row_of, within
from tunewright.data.audit.settings import AuditSettings
from tunewright.data.check import check
from tunewright.data.check_view import check_lines
from tunewright.data.keys import row_key
from tunewright.data.load import load


def examples(count):
    return [Labelled((Message("user", f"text {i}"),), "ab"[i % 2], Meta("a", i)) for i in range(count)]


def filled(rows, limit, seed=0):
    reservoir = Reservoir(limit, seed)
    for example in rows:
        reservoir.add(example, row_key(example))
    return reservoir


def test_the_sample_is_bounded_even_and_independent_of_order():
    rows = examples(2000)
    sample = filled(rows, 200)
    assert (sample.seen, len(sample.rows())) == (2000, 200)
    places = {r.place for r in sample.rows()}
    assert places == {r.place for r in filled(rows[::-1], 200).rows()}
    assert places != {r.place for r in filled(rows, 200, seed=1).rows()}
    assert [r.arrived for r in sample.rows()] == sorted(r.arrived for r in sample.rows())
    assert abs(np.mean([int(p.split(":")[1]) for p in places]) - 1000) < 150
    assert len(filled(rows[:50], 200).rows()) == 50


def test_rows_are_cut_and_parts_read_within_a_budget():
    long = Labelled((Message("system", "be kind"), Message("user", "x" * 9000)), "a", Meta("a", 1))
    assert row_of(long).prompt == "x" * CHARACTERS
    rows = [Row(i % 7, i, f"a:{i}", "x" * 100, "y" * 100, None, "conversation") for i in range(100)]
    assert len(within(rows, 2000, 99)) == 10 and len(within(rows, 2000, 99, inputs=True)) == 20
    assert len(within(rows, 10**9, 7)) == 7
    assert [r.arrived for r in within(rows, 2000, 99)] == sorted(r.arrived for r in within(rows, 2000, 99))


def test_classes_of_chats():
    def chat(answer):
        return Row(0, 0, "a", "q", answer, None, "conversation")

    few = [chat(("Yes", "no ")[i % 2]) for i in range(40)]
    assert set(classes_of(few)) == {"yes", "no"}
    assert set(classes_of([chat(f"answer {i}") for i in range(40)])) == {None}
    assert set(classes_of([chat("always the same") for _ in range(40)])) == {None}


def test_intervals_against_published_values():
    # Newcombe 1998, table II, 56/70 against 48/80: method 10 gives 0.0524 to 0.3339
    gap, p = share_difference((56, 48), (70, 80))
    assert (gap.low, gap.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))
    assert p == pytest.approx(0.0136, abs=2e-3)
    assert share(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert chi_square([10, 20], [20, 10]) == pytest.approx(0.0098, abs=1e-4)
    assert stability_index([50, 50], [50, 50]) == 0 and stability_index([500, 500], [800, 200]) > 0.25


def test_auc_and_its_coverage():
    assert auc([3, 4], [1, 2]).value == 1 and auc([3, 4], [1, 2]).low < 0.5
    assert auc([1, 1, 2], [1, 2, 2]).value == pytest.approx((0.5 * 2 + 1 + 2 * 0.5) / 9)
    rng = np.random.default_rng(0)
    found = [auc(rng.normal(size=60), rng.normal(size=80)) for _ in range(400)]
    assert 0.92 <= np.mean([f.low <= 0.5 <= f.high for f in found]) <= 0.98


def test_languages_and_doubt():
    english = "I have not received my new card yet, and I have been waiting for more than two weeks now."
    german = "Ich habe meine neue Karte noch nicht erhalten und warte inzwischen seit mehr als zwei Wochen."
    assert (language_of(english), language_of(german)) == ("en", "de")
    assert (
        language_of("card") is None
        and language_of("SELECT 1, 2, 3 FROM a WHERE 4 = 5 AND 6 < 7 " * 3) is None
    )
    rows = [Row(i, i, f"a:{i}", german if i in (3, 7) else english, "", None, "text") for i in range(60)]
    part = languages(rows, 60)
    assert part.verdict == "look" and part.details["others"] == ["a:3", "a:7"]
    assert languages([r for r in rows if r.prompt == english], 58).verdict == "fine"
    assert languages([Row(0, 0, "a", "short", "", None, "text")] * 60, 60).verdict == "skipped"


def test_lengths_and_balance():
    rows = [Row(i, i, f"a:{i}", "w " * (10 if i else 900), "", None, "text") for i in range(100)]
    assert lengths(rows, 100).verdict == "look" and lengths([*rows[1:], rows[1]], 100).verdict == "fine"
    assert label_balance({"a": 50, "b": 50}, 100).details["equal_classes"] == pytest.approx(2)
    part = label_balance({"a": 90, "b": 8, "c": 2}, 100)
    assert part.verdict == "look" and part.details["rare"] == ["b", "c"]
    assert label_balance({}, 100).verdict == "skipped"


def file_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled_rows(count, seed=0, words=("card", "rate")):
    rng = random.Random(seed)
    said = ["please", "my", "the", "is", "a", "can", "you", "help", "how", "when", "what", "today"]
    return [
        {"text": f"{words[i % 2]} {' '.join(rng.choices(said, k=6))} {i}", "label": words[i % 2],
         "made": {"at": f"2024-{1 + i * 11 // count:02d}-01"}}
        for i in range(count)
    ]  # fmt: skip


def test_check_audits_only_when_asked_and_keeps_what_it_said_before(tmp_path):
    path = file_of(tmp_path / "a.jsonl", labelled_rows(500))
    plain, audited = check([path]), check([path], audit=AuditSettings())
    assert plain.audit == [] and plain.to_dict()["audit"] == []
    before = {k: v for k, v in audited.to_dict().items() if k != "audit"}
    assert before == {k: v for k, v in plain.to_dict().items() if k != "audit"}
    assert [p.name for p in audited.audit] == [
        "lengths", "languages", "label balance", "label errors", "groups of people", "counterfactual pairs",
        "poisoning",
    ]  # fmt: skip
    again = check([path], audit=AuditSettings())
    assert json.dumps(audited.to_dict()) == json.dumps(again.to_dict())
    assert check([file_of(tmp_path / "b.jsonl", labelled_rows(19))], audit=AuditSettings()).audit == []


def test_production_time_and_pairs(tmp_path):
    path = file_of(tmp_path / "a.jsonl", labelled_rows(500))
    sample = file_of(
        tmp_path / "s.jsonl", [{"prompt": r["text"]} for r in labelled_rows(300, 5, ("card", "loan"))]
    )
    swapped = tmp_path / "swapped.jsonl"
    settings = AuditSettings(production=str(sample), time="made.at", pairs=str(swapped))
    report = check([path], audit=settings)
    parts = {p.name: p for p in report.audit}
    assert parts["representativeness"].verdict == "look"
    assert parts["drift over time"].verdict == "fine" and parts["drift over time"].n == 500
    assert "ignored_keys" not in {p.reason for p in report.problems}
    assert swapped.read_bytes() == b""
    text = "\n".join(check_lines(report))
    assert "audit: representativeness: look. Inputs of all 500 rows" in text
    assert parts["representativeness"].advice in text
    file_of(tmp_path / "c.jsonl", [{"text": f"he said {i}", "label": "a"} for i in range(3)])
    check([tmp_path / "c.jsonl"], audit=AuditSettings(pairs=str(swapped)))
    assert [e.messages[0].content for e in load([swapped]).examples] == [f"she said {i}" for i in range(3)]


def test_a_time_column_that_no_row_has_and_an_empty_sample_are_refused(tmp_path):
    path = file_of(tmp_path / "a.jsonl", labelled_rows(50))
    with pytest.raises(DataError, match="time column 'when'"):
        check([path], audit=AuditSettings(time="when"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x"\n')
    with pytest.raises(DataError, match=r"bad\.jsonl has no usable row"):
        check([path], audit=AuditSettings(production=str(bad)))


def test_the_report_says_when_it_looked_at_a_sample(tmp_path):
    path = file_of(tmp_path / "a.jsonl", labelled_rows(500))
    report = check([path], audit=AuditSettings(rows=200))
    errors = next(p for p in report.audit if p.name == "label errors")
    assert (errors.n, errors.total) == (200, 500) and "a random 200 of 500 rows" in errors.measured
