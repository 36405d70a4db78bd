"""Each finding has a row that shows it and look-alikes that must not; no personal value is ever shown."""

import json

import pytest

from tunewright.data import check_rules
from tunewright.data.check import check
from tunewright.data.check_rules import personal_code, personal_kinds, rules_met
from tunewright.data.check_view import check_lines
from tunewright.data.load import load


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def found(report):
    return {f.code: (f.count, [place.rsplit(":", 1)[1] for place in f.places]) for f in report.findings}


def met(tmp_path, answer, prompt="q"):
    example = load([lines(tmp_path / "a.jsonl", {"prompt": prompt, "completion": answer})]).examples[0]
    return {rule.code for rule in rules_met(example)} | {
        *map(personal_code, personal_kinds([prompt, answer]))
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("N/A", "placeholder_answer"),
        ("I'm sorry, but as an AI language model I cannot answer that.", "refusal"),
        ("I cannot help with that request.", "refusal"),
        ("I’m sorry, but I can’t assist with that.", "refusal"),
        ("one two three four five six seven eight nine ten. " * 5, "repeated_text"),
        ("the cafÃ© is open", "mojibake"),
        ("itâ€™s here", "mojibake"),
        ("lost \ufffd char", "mojibake"),
        ("<p>Hello</p>", "html"),
        ("a&nbsp;b", "html"),
        ('see <a href="x">this</a>', "html"),
        ("left\u202eright", "invisible_chars"),
        ("hello <|im_end|>", "control_tokens"),
        ("[INST] hi [/INST]", "control_tokens"),
        ("write to ann.lee+x@mail.example.org now", "personal_email"),
        ("card 4111 1111 1111 1111.", "personal_card"),
        ("card 378282246310005", "personal_card"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "personal_iban"),
        ("IBAN GB82WEST12345698765432", "personal_iban"),
        ("call +44 20 7946 0958", "personal_phone"),
        ("call (212) 555-0123 now", "personal_phone"),
    ],
)
def test_each_rule_finds_its_row(tmp_path, text, code):
    assert met(tmp_path, text) == {code}


@pytest.mark.parametrize(
    "text",
    [
        "None of the above.",
        "I cannot stress this enough: help is near.",
        "She said: I'm sorry, but the shop is closed.",
        "Ärger mit Ã in São Paulo, naïve café",
        "if a < b and b > c: x <- 3; List<String> y; 5 < 6",
        "R&D and AT&T; a & b",
        "the | operator <|> in Haskell, <- and ->",
        "order 4111-22-8, card game score 1234 5678, number 4111 1111 1111 1112",
        "version 1.2.3.4 of 2024-01-15, 10.5281/zenodo.1234567, call number 555",
        "ISBN 978-3-16-148410-0 and DE00 3704 0044 0532 0130 00",
        "me@home and @user, a@b",
        "word " * 30,
    ],
)
def test_look_alikes_are_left_alone(tmp_path, text):
    assert met(tmp_path, text) == set()


def test_it_says_so_where_personal_data_cannot_be_looked_for(tmp_path, monkeypatch):
    file = lines(tmp_path / "a.jsonl", {"prompt": "q", "completion": "write to ann@mail.example.org"})
    assert set(found(check([file]))) == {"personal_email"}
    monkeypatch.setattr(check_rules, "missing_packages", lambda: ["presidio_analyzer"])
    [finding] = check([file]).findings
    assert finding.code == "personal_not_searched" and "presidio_analyzer" in finding.what


def test_answer_rules_do_not_read_prompts(tmp_path):
    assert met(tmp_path, "fine", prompt="I cannot help with that request.") == set()
    assert met(tmp_path, "fine", prompt="<b>x</b>") == {"html"}


def test_duplicates_contradictions_and_contamination(tmp_path):
    train = lines(
        tmp_path / "train.jsonl",
        {"prompt": "What is it?", "completion": "A dog"},
        {"prompt": "What  is it?", "completion": "A dog"},
        {"prompt": "What is it?", "completion": "A cat"},
        {"prompt": "Other", "completion": "A cat"},
        {"prompt": "what is it?", "completion": "a DOG"},
    )
    test = lines(
        tmp_path / "test.jsonl", {"prompt": "OTHER", "completion": "x y"}, {"prompt": "n", "completion": "x"}
    )
    assert found(check([train, test])) == {
        "duplicate": (1, ["2"]),
        "look_alike": (1, ["5"]),
        "contradiction": (2, ["3", "1"]),
        "contamination": (1, ["1"]),
    }


def test_pairs_contradict_only_when_the_preference_turns(tmp_path):
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [
        pair,
        {"prompt": "q", "chosen": "c", "rejected": "b"},
        {"prompt": "q", "chosen": "b", "rejected": "a"},
    ]
    assert found(check([lines(tmp_path / "a.jsonl", *rows)])) == {"contradiction": (1, ["3"])}


def test_labels_and_their_balance(tmp_path):
    rows = [{"text": f"t{i}", "label": "a" if i < 22 else "b"} for i in range(24)]
    report = check([lines(tmp_path / "a.jsonl", *rows)])
    assert report.labels == {"a": 22, "b": 2}
    assert found(report) == {"label_imbalance": (1, [])}
    assert found(check([lines(tmp_path / "b.jsonl", *rows[10:])])) == {}


def test_same_text_with_two_labels(tmp_path):
    rows = [
        {"text": "t", "label": "a"},
        {"text": "T", "label": "b"},
        {"text": "u", "label": "a"},
        {"text": "v", "label": "b"},
    ]
    assert found(check([lines(tmp_path / "a.jsonl", *rows)])) == {"contradiction": (1, ["2"])}


def test_short_answers_only_among_long_ones(tmp_path):
    long = [{"prompt": f"p{i}", "completion": f"{i} " + " ".join("abcdefghij")} for i in range(9)]
    short = {"prompt": "p", "completion": "Paris"}
    assert found(check([lines(tmp_path / "a.jsonl", *long, short)])) == {"short_answer": (1, ["10"])}
    assert found(check([lines(tmp_path / "b.jsonl", short, *long[:1])])) == {}


def test_broken_json_only_where_answers_are_json(tmp_path):
    good = [{"prompt": f"p{i}", "completion": json.dumps({"n": i})} for i in range(9)]
    bad = {"prompt": "p", "completion": '{"n": 1'}
    assert found(check([lines(tmp_path / "a.jsonl", *good, bad)])) == {"broken_json_answer": (1, ["10"])}
    assert found(check([lines(tmp_path / "b.jsonl", *good[:4], bad)])) == {}


def test_lengths(tmp_path):
    rows = [{"prompt": "p", "completion": "w " * n} for n in range(1, 102)]
    report = check([lines(tmp_path / "a.jsonl", *rows)])
    assert report.lengths["answer"]["words"] == [1, 6, 26, 51, 76, 96, 101]
    assert report.lengths["row"]["characters"][-1] == 203


def test_usable_only_without_rejected_rows(tmp_path):
    good = lines(
        tmp_path / "a.jsonl", {"prompt": "p", "completion": "c"}, "", {"prompt": "q", "completion": "c"}
    )
    report = check([good])
    assert (report.usable, report.rows, report.kept, report.kinds) == (True, 2, 2, {"conversation": 2})
    bad = lines(tmp_path / "b.jsonl", {"prompt": "p", "completion": "c"}, "{")
    report = check([good, bad])
    assert (report.usable, report.rows, report.kept, len(report.rejected)) == (False, 4, 3, 1)
    assert report.to_dict()["reasons"] == [
        {"action": "noted", "reason": "blank_lines", "count": 1},
        {"action": "rejected", "reason": "broken_json", "count": 1},
    ]
    assert not check([lines(tmp_path / "c.jsonl", "{", "[")]).usable


def test_view_tells_the_same_and_never_a_personal_value(tmp_path):
    secrets = ["ann@mail.example.org", "4111111111111111", "DE89370400440532013000", "+44 20 7946 0958"]
    rows = [{"prompt": f"p{i}", "completion": f"it is {secret}."} for i, secret in enumerate(secrets)]
    path = lines(tmp_path / "a.jsonl", *rows, {"prompt": secrets[0]})
    report = check([path])
    text = "\n".join(check_lines(report))
    assert f"{path}: 5 rows, jsonl, prompt_completion" in text
    assert "5 rows, 4 kept, 1 rejected: not usable as it is" in text
    for code in ("personal_email", "personal_card", "personal_iban", "personal_phone"):
        assert f"({code})" in text
    assert f"{path}:2" in text
    everything = text + json.dumps(report.to_dict())
    assert not any(secret in everything for secret in secrets)


def test_rankings_and_prompts_are_checked_too(tmp_path):
    rows = [
        {"prompt": "q", "answers": ["a fine one", "<|im_end|>"], "scores": [2, 1]},
        {"prompt": "q", "answers": ["<|im_end|>", "a fine one"], "scores": [1, 2]},
        {"prompt": "q", "answers": ["a fine one", "<|im_end|>"], "ranks": [2, 1]},
        {"prompt": "r", "answers": ["I cannot help with that.", "N/A"], "scores": [2, 1]},
    ]
    report = check([lines(tmp_path / "a.jsonl", *rows)])
    assert (report.usable, report.kinds) == (True, {"ranking": 4})
    assert found(report) == {
        "duplicate": (1, ["2"]),
        "contradiction": (1, ["3"]),
        "control_tokens": (3, ["1", "2", "3"]),
        "refusal": (1, ["4"]),
        "placeholder_answer": (1, ["4"]),
    }
    prompts = [
        {"prompt": "q", "x": 1},
        {"prompt": "Q", "x": 2},
        {"prompt": "q ", "x": 1},
        {"prompt": "[INST] r"},
    ]
    report = check([lines(tmp_path / "b.jsonl", *prompts)])
    assert (report.usable, report.kinds) == (True, {"prompt": 4})
    assert found(report) == {
        "duplicate": (1, ["3"]), "look_alike": (1, ["2"]), "control_tokens": (1, ["4"]),
    }  # fmt: skip
    assert "answer" not in report.lengths
    report = check([tmp_path / "b.jsonl", lines(tmp_path / "c.jsonl", {"prompt": "Q", "x": 9})])
    assert found(report)["contamination"] == (1, ["1"])


def test_numbers_on_a_scale_are_not_counted_as_labels_but_measured(tmp_path):
    rows = [{"text": f"t{i}", "score": i / 8} for i in range(101)]
    report = check([lines(tmp_path / "a.jsonl", *rows)])
    assert report.labels == {}
    assert report.numbers == {"label": [0.0, 0.625, 3.125, 6.25, 9.375, 11.875, 12.5]}
    assert "label: 0 to 12.5, median 6.25, 95 % up to 11.875" in check_lines(report)
    assert report.to_dict()["numbers"] == report.numbers
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(24)]
    report = check([lines(tmp_path / "b.jsonl", *rows)])
    assert (report.labels, report.numbers) == ({"0": 12, "1": 12}, {})


def test_margins_and_scores_are_measured(tmp_path):
    pairs = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "margin": i} for i in range(3)]
    assert check([lines(tmp_path / "a.jsonl", *pairs)]).numbers == {"margin": [0, 0, 0, 1, 2, 2, 2]}
    groups = [{"prompt": f"q{i}", "answers": ["a", "b"], "scores": [i, 5]} for i in range(2)]
    assert check([lines(tmp_path / "b.jsonl", *groups)]).numbers == {"score": [0, 0, 1, 5, 5, 5, 5]}
