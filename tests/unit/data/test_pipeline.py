"""From files to prepared files: all rows accounted for, the same bytes each time, equal when read back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.core.config import build
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.hashing import file_digest
from tunewright.core.records import (
    Conversation,
    Labelled,
    Message,
    Meta,
    Preference,
    Prompt,
    Ranking,
    Text,
)
from tunewright.data.canonical import to_jsonl
from tunewright.data.formats_parts import said
from tunewright.data.load import load
from tunewright.data.pipeline import PrepareSettings, prepare, write

SETTINGS = PrepareSettings()


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def qa(i, answer="a"):
    return {"question": f"question {i}", "answer": f"{answer} {i}"}


def test_receipt_accounts_for_every_row(tmp_path):
    rows = [qa(i) for i in range(50)]
    path = lines(
        tmp_path / "a.jsonl", *rows, {"question": "question  3", "answer": "a 3 "}, "{", "", qa(4, "b")
    )
    prepared = prepare([path], [], [], SETTINGS)
    assert [(p.line, p.reason) for p in prepared.rejected] == [(52, "broken_json"), (51, "duplicate")]
    assert prepared.rejected[1].detail == f"equal to {path}:4"
    receipt = prepared.receipt
    assert (receipt["rows_in"], receipt["rows_out"], receipt["rejected"]) == (53, 51, 2)
    assert receipt["steps"] == [
        {"step": "read", "in": 53, "out": 52, "rejected": {"broken_json": 1}},
        {"step": "duplicates", "in": 52, "out": 51, "rejected": {"duplicate": 1}},
        {"step": "separate", "in": 51, "out": 51, "rejected": {}},
    ]
    parts = [prepared.train, prepared.validation, prepared.test]
    assert [receipt["splits"][side]["rows"] for side in ("train", "validation", "test")] == [*map(len, parts)]
    assert min(map(len, parts)) > 0
    assert receipt["files"][0]["sha256"] == file_digest(path)


def test_a_group_key_that_no_row_has_is_refused(tmp_path):
    rows = [{**qa(i), "user_id": f"u{i % 9}", "who": {"name": f"n{i % 9}"}} for i in range(60)]
    path = lines(tmp_path / "a.jsonl", *rows)
    with pytest.raises(ConfigError, match=r"none of 60 training rows has 'userid'.*user_id"):
        prepare([path], [], [], PrepareSettings(group="userid"))
    with pytest.raises(ConfigError, match=r"'who.nam'.*who\.name"):
        prepare([path], [], [], PrepareSettings(group="who.nam"))
    columns = {"prompt": "question", "completion": "answer", "group": "user"}
    with pytest.raises(ConfigError, match=r"'user'.*user_id"):
        prepare([path], [], [], PrepareSettings(columns=columns))
    for options in (
        PrepareSettings(group="user_id"),
        PrepareSettings(columns={**columns, "group": "user_id"}),
    ):
        prepared = prepare([path], [], [], options)
        groups = [
            {e.meta.group for e in side} for side in (prepared.train, prepared.validation, prepared.test)
        ]
        assert sum(map(len, groups)) == 9


def test_receipt_says_how_many_rows_lack_the_group_key_and_were_repaired(tmp_path):
    rows = [{**qa(i), "who": f"u{i}"} for i in range(20)] + [{**qa(20), "who": ""}, qa(21), qa(22)]
    repaired = [{"question": f"q\0{i}", "answer": "a", "who": "w", "hue": 1} for i in range(3)]
    path = lines(tmp_path / "a.jsonl", *rows, *repaired, "")
    assert prepare([path], [], [], PrepareSettings(group="who")).receipt["notes"] == [
        "3 row(s) repaired (control_chars): control characters (NUL …)",
        f"{path}: rows without the group key (no_group): 3 in all, the first in line 21",
        f"{path}: blank lines (blank_lines): 1 in all, the first in line 27",
        f"{path}: keys that the format does not use (ignored_keys): "
        "not used, with the number of rows: 'hue' (3)",
    ]


def chats(*answers):
    messages = [[{"role": "user", "content": "q"}, {"role": "assistant", **answer}] for answer in answers]
    return [{"messages": turns} for turns in messages]


def test_only_exact_duplicates_are_dropped(tmp_path):
    options = build(PrepareSettings, {"split": {"validation": 0, "test": 0}})
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows = chats(
        {"content": "us"}, {"content": "US"}, {"content": " us\n"}, {"content": "us", "weight": 0},
        {"content": "us", "reasoning_content": "a"}, {"content": "us", "reasoning_content": "b"},
        {"content": "us", "tool_calls": [call]}, {"content": "us", "reasoning_content": "b"},
    )  # fmt: skip
    prepared = prepare([lines(tmp_path / "a.jsonl", *rows)], [], [], options)
    assert [(p.line, p.reason) for p in prepared.rejected] == [(3, "duplicate"), (8, "duplicate")]


def test_written_files_are_identical_and_read_back_equal(tmp_path):
    path = lines(tmp_path / "a.jsonl", *({**qa(i), "id": i, "who": f"u{i % 9}"} for i in range(60)), "[]")
    options = PrepareSettings(group="who")
    for name in ("one", "two"):
        prepared = prepare([path], [], [], options)
        write(prepared, tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == ["receipt.json", "rejected.jsonl", "test.jsonl", "train.jsonl", "validation.jsonl"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    receipt = json.loads((tmp_path / "one" / "receipt.json").read_text())
    for side in ("train", "validation", "test"):
        loaded = load([tmp_path / "one" / f"{side}.jsonl"])
        assert loaded.problems == []
        assert loaded.examples == getattr(prepared, side)
        assert receipt["splits"][side]["sha256"] == loaded.files[0].sha256
    first = prepared.train[0].meta
    assert (first.source, first.group) == (str(path), f"u{(first.line - 1) % 9}")
    assert json.loads((tmp_path / "one" / "rejected.jsonl").read_text()) == {
        "source": str(path), "line": 61, "reason": "not_object", "detail": "the row is a list",
    }  # fmt: skip


def test_given_files_are_kept_out_of_train(tmp_path):
    train = lines(tmp_path / "train.jsonl", *(qa(i) for i in range(40)))
    validation = lines(tmp_path / "validation.jsonl", qa(5, "other"), qa(6), qa(100))
    test = lines(tmp_path / "test.jsonl", {"question": "QUESTION 7", "answer": "x"}, qa(100, "y"), qa(200))
    prepared = prepare([train], [validation], [test], SETTINGS)
    dropped = [(p.source, p.line, p.reason) for p in prepared.rejected]
    assert dropped == [
        (str(validation), 3, "in_test"),
        (str(train), 6, "in_validation"),
        (str(train), 7, "in_validation"),
        (str(train), 8, "in_test"),
    ]
    assert [len(x) for x in (prepared.train, prepared.validation, prepared.test)] == [37, 2, 3]
    assert prepared.receipt["notes"] == [
        "validation: the share 0.1 was not used, because files were given",
        "test: the share 0.1 was not used, because files were given",
    ]


def test_columns_format_and_seed_are_used(tmp_path):
    path = lines(tmp_path / "a.jsonl", *({"q": f"q{i}", "a": f"a{i}", "text": f"t{i}"} for i in range(50)))
    columns = {"prompt": "q", "completion": "a"}
    first = prepare([path], [], [], PrepareSettings(columns=columns))
    assert isinstance(first.train[0], Conversation)
    assert isinstance(prepare([path], [], [], PrepareSettings(format="text")).train[0], Text)
    other = prepare([path], [], [], build(PrepareSettings, {"columns": columns, "split": {"seed": 1}}))
    assert other.test != first.test
    none = prepare(
        [path], [], [], build(PrepareSettings, {"columns": columns, "split": {"validation": 0, "test": 0}})
    )
    assert (len(none.train), none.validation, none.test) == (50, [], [])


def test_impossible_input_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing to train on"):
        build(PrepareSettings, {"split": {"validation": 0.5, "test": 0.6}})
    a, b = lines(tmp_path / "a.jsonl", qa(1)), lines(tmp_path / "b.jsonl", {"text": "x"})
    with pytest.raises(DataError, match=r"different kinds.*a.jsonl:1.*b.jsonl:1"):
        prepare([a, b], [], [], SETTINGS)
    with pytest.raises(DataError, match="no row is left"):
        prepare([a], [], [a], SETTINGS)


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda t: t.strip()
)
JSON = st.dictionaries(
    WORDS, WORDS | st.integers(-(2**63), 2**63) | st.lists(st.booleans(), max_size=2), max_size=2
)
CALLS = st.lists(
    JSON.map(lambda a: {"type": "function", "function": {"name": "f", "arguments": a}}),
    min_size=1,
    max_size=2,
)
METAS = st.builds(Meta, WORDS, st.integers(0, 10**9), st.none() | WORDS, st.none() | WORDS)
WEIGHTS = st.none() | st.sampled_from([0, 1, 0.5])
USER = st.builds(Message, st.just("user"), WORDS, WEIGHTS, st.just({}) | st.just({"name": "kim"}))
ANSWER = st.builds(Message, st.just("assistant"), WORDS, WEIGHTS)
CALL = st.builds(Message, st.just("assistant"), st.just(""), WEIGHTS, CALLS.map(lambda c: {"tool_calls": c}))
TOOL = st.builds(Message, st.just("tool"), WORDS | st.just(""))
SYSTEM = st.lists(st.builds(Message, st.just("system"), WORDS), max_size=1).map(tuple)
ROUND = st.tuples(USER, ANSWER) | st.tuples(USER, CALL, TOOL, ANSWER)
TURNS = st.tuples(SYSTEM, st.lists(ROUND, min_size=1, max_size=3)).map(
    lambda p: (*p[0], *(m for r in p[1] for m in r))
)
PROMPT = st.tuples(SYSTEM, USER).map(lambda p: (*p[0], p[1]))
TOOLS = st.lists(JSON, max_size=2).map(tuple)
LABELS = (
    WORDS
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(WORDS, min_size=1).map(tuple)
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MARGINS = st.none() | st.floats(0, 1e300)
TAIL = st.tuples(ANSWER) | st.tuples(CALL, TOOL, ANSWER)


@st.composite
def rankings(draw):
    answers = draw(st.lists(TAIL, min_size=2, max_size=4, unique_by=said))
    scores = st.lists(FLOATS, min_size=len(answers), max_size=len(answers))
    several = scores.filter(lambda values: len(set(values)) > 1)
    return Ranking(draw(PROMPT), tuple(answers), tuple(draw(several)), draw(METAS), draw(TOOLS))


RANKINGS = rankings()
ASKED = PROMPT | st.tuples(TURNS, USER).map(lambda p: (*p[0], p[1])) | st.tuples(USER, CALL, TOOL)
NAMES = WORDS | st.sampled_from(["answer", "label", "fields", "meta", "prompt", "messages", "id", "group"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FLOATS | WORDS | st.just(""),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(NAMES, VALUES, max_size=4)
EXAMPLES = st.one_of(
    st.lists(st.builds(Conversation, TURNS, METAS, TOOLS), min_size=1, max_size=4),
    st.lists(st.builds(Labelled, PROMPT, LABELS, METAS), min_size=1, max_size=4),
    st.lists(st.builds(Labelled, TURNS, st.booleans(), METAS), min_size=1, max_size=4),
    st.lists(st.builds(Text, WORDS, METAS), min_size=1, max_size=4),
    st.lists(
        st.builds(Preference, PROMPT, st.tuples(ANSWER), st.tuples(ANSWER), METAS, TOOLS, MARGINS).filter(
            lambda pair: said(pair.chosen) != said(pair.rejected)
        ),
        min_size=1, max_size=4,
    ),
    st.lists(RANKINGS, min_size=1, max_size=3),
    st.lists(st.builds(Prompt, ASKED, FIELDS, METAS, TOOLS), min_size=1, max_size=4),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(EXAMPLES)
def test_any_example_survives_writing_and_reading(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("canonical") / "a.jsonl"
    path.write_bytes(to_jsonl(examples))
    loaded = load([path])
    assert loaded.examples == examples
    assert loaded.problems == []


def test_nothing_left_says_why_where_and_what_to_do(tmp_path):
    two_roles = {"messages": [{"role": "user", "content": "q"}, {"role": "robot", "content": "a"}]}
    file = lines(tmp_path / "bad.jsonl", {"messages": []}, two_roles, two_roles)
    with pytest.raises(DataError) as caught:
        prepare([file], [], [], SETTINGS)
    said = str(caught.value)
    assert "3 read, 3 rejected, 2 for unknown_role, the first at" in said
    assert f"{file}:2: " in said and "'robot'" in said
    assert said.endswith(f"See `tunewright data check {file}`")
