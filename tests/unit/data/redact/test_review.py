"""The review of uncertain findings: shown from the source, decided once for each value, never written out."""

import json

import pytest

from tunewright.cli.review import review
from tunewright.core.errors import ConfigError, DataError
from tunewright.data.redact.keys import redaction_key
from tunewright.data.redact.queue import decide, decisions, questions
from tunewright.data.redact.redactor import Redactor
from tunewright.data.redact.settings import RedactSettings

CARDS = ["4532015112830366", "6011000990139424"]
ROWS = [
    {"instruction": f"The order number is {CARDS[0]}.", "output": "ok"},
    {"instruction": "nothing", "output": f"see order {CARDS[1]}"},
    {"instruction": "again", "output": f"order number {CARDS[0]} it is"},
]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A directory with a review file, and the source that it asks about."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made = Redactor(RedactSettings(), redaction_key())
    asked = [
        json.dumps(q.to_dict(str(source), line)) + "\n"
        for line, done in enumerate(made.rows(ROWS, lambda key: True), 1)
        for q in done.questions
    ]
    out = tmp_path / "out"
    out.mkdir()
    (out / "review.jsonl").write_text("".join(asked))
    return out, source


def answers(*words):
    left = list(words)
    return lambda question: left.pop(0)


def test_each_value_is_asked_about_once_in_its_context(prepared, capsys):
    out, _ = prepared
    review(out, ask=answers("x", "m", "keep"))
    shown = capsys.readouterr().out
    assert "The order number is " in shown and "2 places" in shown and "2 questions, 0 open" in shown
    said = decisions(out)
    ids = list(dict.fromkeys(q.id for q in questions(out)))
    assert said == {ids[0]: "mask", ids[1]: "keep"}
    done = Redactor(RedactSettings(), redaction_key(), said).rows(ROWS, lambda key: True)
    assert done[0].row["instruction"] == "The order number is [CREDIT_CARD]."
    assert done[2].row["output"] == "order number [CREDIT_CARD] it is"
    assert done[1].row == ROWS[1] and not any(d.questions for d in done)


def test_no_file_holds_a_value(prepared):
    out, _ = prepared
    review(out, ask=answers("d", "p"))
    for path in out.iterdir():
        assert not any(card in path.read_text() for card in CARDS)


def test_quitting_keeps_what_was_said_and_the_rest_is_asked_next_time(prepared):
    out, _ = prepared
    review(out, ask=answers("s", "q"))
    assert decisions(out) == {}
    review(out, ask=answers("k", "q"))
    assert list(decisions(out).values()) == ["keep"]
    review(out, ask=answers("mask"))
    assert list(decisions(out).values()) == ["keep", "mask"]


def test_scripts_list_and_decide(prepared, capsys):
    out, _ = prepared
    ids = list(dict.fromkeys(q.id for q in questions(out)))
    review(out, [f"{ids[0]}=drop"], as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["questions"], document["open"]) == (2, 1)
    assert document["values"][0]["decision"] == "drop" and len(document["values"][0]["places"]) == 2
    for words, message in (
        (["zz=keep"], "no question has the id"),
        ([f"{ids[1]}=burn"], "of the form ID=action"),
    ):
        with pytest.raises(ConfigError, match=message):
            review(out, [f"{ids[1]}=keep", *words])
    assert list(decisions(out)) == [ids[0]]  # all or none
    review(out, listing=True)
    assert "2 questions, 1 open" in capsys.readouterr().out


def test_a_source_that_is_gone_or_changed_is_a_clear_error(prepared, tmp_path):
    out, source = prepared
    text = source.read_text()
    source.write_text(text.replace("The order", "That old order"))
    with pytest.raises(DataError, match=r"rows.jsonl:1: instruction has changed") as changed:
        review(out, ask=answers("m", "m"))
    assert not any(card in str(changed.value) for card in CARDS)
    source.unlink()
    with pytest.raises(DataError, match="the file is gone"):
        review(out, ask=answers("m", "m"))
    with pytest.raises(DataError, match="no such file"):
        review(tmp_path / "nowhere")


def test_without_a_terminal_it_says_what_to_do(prepared):
    with pytest.raises(ConfigError, match="--list"):
        review(prepared[0])


def test_a_line_cut_off_by_a_crash_is_no_loss(prepared):
    out, _ = prepared
    decide(out, "a" * 16, "mask")
    with (out / "decisions.jsonl").open("ab") as file:
        file.write(b'{"id": "bb')
    assert decisions(out) == {"a" * 16: "mask"}
