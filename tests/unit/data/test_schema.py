"""Each format reads its rows, refuses what does not fit, and every repair is reported."""

import json

import pytest

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Conversation, Labelled, Message, Preference
from tunewright.data.load import load

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
OTHER = {"role": "assistant", "content": "b"}
BROKEN = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def gpt(value, who="gpt"):
    return {"from": who, "value": value}


def read(tmp_path, *rows, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load([path], **options)


def one(tmp_path, row, **options):
    loaded = read(tmp_path, row, **options)
    assert [p for p in loaded.problems if p.action == "rejected"] == []
    return loaded.examples[0]


def reason(tmp_path, row, fmt=None):
    problems = [p for p in read(tmp_path, row, format=fmt).problems if p.action == "rejected"]
    return problems[0].reason, problems[0].detail


def test_openai_messages_with_weights_parts_and_tools(tmp_path):
    named = {"name": "f", "arguments": '{"x": 1}'}
    row = {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "name": "kim", "content": [{"type": "text", "text": t} for t in "ab"]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": named}]},
            {"role": "tool", "tool_call_id": "c1", "content": ""},
            {"role": "assistant", "content": "done", "weight": 0},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "id": 7,
    }  # fmt: skip
    example = one(tmp_path, row)
    assert example.messages == (
        S("s"),
        Message("user", "ab", None, {"name": "kim"}),
        Message("assistant", "", None, {"tool_calls": [{"id": "c1", **CALL}]}),
        Message("tool", "", None, {"tool_call_id": "c1"}),
        Message("assistant", "done", 0),
    )
    assert example.tools == ({"type": "function", "function": {"name": "f"}},)
    assert (example.meta.id, example.meta.line) == ("7", 1)


def test_sharegpt_roles_tools_and_system(tmp_path):
    turns = [
        ("human", "q"),
        ("function_call", '{"name": "f", "arguments": {"x": 1}}'),
        ("observation", "r"),
        ("gpt", "a"),
    ]
    row = {
        "conversations": [{"from": f, "value": v} for f, v in turns],
        "system": "s",
        "tools": '[{"name": "f"}]',
    }
    example = one(tmp_path, row)
    call = Message("assistant", "", None, {"tool_calls": [CALL]})
    assert example.messages == (S("s"), U("q"), call, Message("tool", "r"), A("a"))
    assert example.tools == ({"name": "f"},)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "i", "input": "x", "output": "o"}, (U("i\n\nx"), A("o"))),
        ({"instruction": "i", "input": "", "output": "o", "system": "s"}, (S("s"), U("i"), A("o"))),
        ({"instruction": "i", "output": "o", "history": [["q", "a"]]}, (U("q"), A("a"), U("i"), A("o"))),
        ({"prompt": "p", "completion": "c"}, (U("p"), A("c"))),
        ({"prompt": "p", "response": "c", "input": None}, (U("p"), A("c"))),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, (U("q"), A("a"))),
        ({"question": "q", "answer": "a"}, (U("q"), A("a"))),
    ],
)
def test_conversations(tmp_path, row, messages):
    assert one(tmp_path, row) == Conversation(messages, one(tmp_path, row).meta)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
        {"question": "q", "chosen": "a", "rejected": "b"},
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [OTHER]},
        {"prompt": "q", "chosen": TURNS, "rejected": [TURNS[0], OTHER]},
        {"chosen": TURNS, "rejected": [TURNS[0], OTHER]},
        {"conversations": [gpt("q", "human")], "chosen": gpt("a"), "rejected": gpt("b")},
        {"input": {"messages": TURNS[:1]}, "preferred_output": TURNS[1:], "non_preferred_output": [OTHER]},
    ],
)  # fmt: skip
def test_preferences(tmp_path, row):
    example = one(tmp_path, row)
    assert example == Preference((U("q"),), (A("a"),), (A("b"),), example.meta)


@pytest.mark.parametrize(
    ("row", "messages", "label"),
    [
        ({"text": "t", "label": "x"}, (U("t"),), "x"),
        ({"text": "t", "category": 3}, (U("t"),), 3),
        ({"text": "t", "label": 0.5}, (U("t"),), 0.5),
        ({"text": "t", "labels": ["x", "y"]}, (U("t"),), ("x", "y")),
        ({"text": "t", "label": True}, (U("t"),), "true"),
        ({"text": "t", "labels": ["x"]}, (U("t"),), ("x",)),
        ({"text": "t", "target": "x"}, (U("t"),), "x"),
        ({"text": "t", "target": 0.5}, (U("t"),), 0.5),
        ({"text": "t", "label": "x", "target": "y"}, (U("t"),), "x"),
        ({"text": "t", "score": 4}, (U("t"),), 4.0),
        ({"messages": TURNS[:1], "label": ["x", "y"]}, (U("q"),), ("x", "y")),
        ({"messages": TURNS[:1], "label": 2.5}, (U("q"),), 2.5),
        ({"text": "t", "score": "1.5"}, (U("t"),), 1.5),
        ({"prompt": "q", "completion": "a", "label": False}, (U("q"), A("a")), False),
        ({"messages": TURNS, "kto_tag": True}, (U("q"), A("a")), True),
        ({"messages": TURNS, "label": False}, (U("q"), A("a")), False),
        ({"messages": TURNS[:1], "label": "x"}, (U("q"),), "x"),
    ],
)
def test_labels(tmp_path, row, messages, label):
    example = one(tmp_path, row)
    assert example == Labelled(messages, label, example.meta)
    assert type(example.label) is type(label)


@pytest.mark.parametrize(
    ("column", "columns", "labels"),
    [
        ("score", None, [3.0, 0.5]),
        ("label", None, ["3", "0.5"]),
        ("target", None, ["3", "0.5"]),
        ("target", {"text": "text", "score": "target"}, [3.0, 0.5]),
        ("rating", {"text": "text", "score": "rating"}, [3.0, 0.5]),
    ],
)
def test_cells_of_a_label_column_are_text_and_those_of_a_score_are_numbers(tmp_path, column, columns, labels):
    path = tmp_path / "a.csv"
    path.write_text(f"text,{column}\na,3\nb,0.5\n")
    found = [e.label for e in load([path], columns=columns).examples]
    assert found == labels and {type(x) for x in found} == {type(x) for x in labels}


def turns(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("row", "expected", "words"),
    [
        (turns(("user", "q"), ("asistant", "a")), "unknown_role", "Did you mean 'assistant'"),
        (turns(("user", "q"), ("assistant", " ")), "empty_answer", "turn 2"),
        (turns(("user", ""), ("assistant", "a")), "empty_turn", "turn 1"),
        ({**turns(("user", "q")), "answer": "4"}, "no_answer", "none of the assistant"),
        ({"messages": []}, "empty_turn", "no turns"),
        ({"messages": "q"}, "wrong_type", "messages is text"),
        ({"messages": ["q"]}, "wrong_type", "turn 1 is text"),
        ({"messages": [{"content": "q"}]}, "wrong_type", "no role"),
        (turns(("user", 5), ("assistant", "a")), "wrong_type", "a number"),
        (turns(("user", [{"type": "image_url"}]), ("assistant", "a")), "not_text", "'image_url'"),
        ({"messages": [*TURNS[:1], {**TURNS[1], "weight": -1}]}, "wrong_type", "weight"),
        ({"messages": [*TURNS[:1], {**TURNS[1], "weight": True}]}, "wrong_type", "weight"),
        ({"messages": [{**TURNS[0], "tool_calls": [CALL]}, TURNS[1]]}, "bad_tool_call", "only an assistant"),
        ({"messages": [*TURNS[:1], BROKEN]}, "bad_tool_call", "not JSON"),
        ({"conversations": [gpt("q", "human"), gpt("f(x)", "function_call")]}, "bad_tool_call", "not JSON"),
        ({**turns(("user", "q"), ("assistant", "a")), "tools": "x"}, "bad_tool_call", "tools"),
        ({"instruction": 5, "output": "x"}, "wrong_type", "instruction is a number"),
        ({"instruction": "i", "output": None}, "wrong_type", "output is null"),
        ({"instruction": "i", "output": "\n"}, "empty_answer", "output"),
        ({"prompt": [*TURNS], "completion": "x"}, "prompt_answered", "before completion"),
        ({"text": " "}, "empty_text", "text"),
        ({"text": "t", "label": None}, "empty_label", "label"),
        ({"text": "t", "label": ""}, "empty_label", "label"),
        ({"text": "t", "labels": ["a", 3]}, "wrong_type", "labels must be a list of texts"),
        ({"text": "t", "label": {}}, "wrong_type", "an object"),
        ({"text": "t", "score": "high"}, "wrong_type", "score is 'high', not a finite number"),
        ({"text": "t", "score": "1_000"}, "wrong_type", "score is '1_000'"),
        ({"text": "t", "score": None}, "wrong_type", "score is null"),
        ({"text": "t", "target": None}, "empty_label", "target"),
        ({"prompt": "q", "completion": "a", "label": "maybe"}, "wrong_type", "true or false"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "equal_answers", "equal"),
        ({"chosen": "a", "rejected": "b"}, "no_shared_prompt", "no prompt"),
        ({"chosen": TURNS, "rejected": [{**TURNS[0], "content": "z"}, TURNS[1]]}, "no_shared_prompt", ""),
        ({"chosen": TURNS, "rejected": TURNS[:1]}, "no_shared_prompt", ""),
        ({"text": "t", "id": ["x"]}, "wrong_type", "id is a list"),
    ],
)  # fmt: skip
def test_rejected_rows_say_why(tmp_path, row, expected, words):
    code, detail = reason(tmp_path, row)
    assert code == expected
    assert words in detail


@pytest.mark.parametrize(
    ("row", "messages", "repair"),
    [
        (turns(("user", "a"), ("user", "b"), ("assistant", "c")), (U("a\n\nb"), A("c")), "merged_turns"),
        (turns(("user", "a"), ("assistant", "c"), ("user", "b")), (U("a"), A("c")), "cut_after_answer"),
        (turns(("system", " "), ("user", "a"), ("assistant", "c")), (U("a"), A("c")), "empty_system"),
    ],
)
def test_repairs_are_reported_before_the_example(tmp_path, row, messages, repair):
    loaded = read(tmp_path, row)
    assert loaded.examples[0].messages == messages
    assert [(p.reason, p.action, p.line) for p in loaded.problems] == [(repair, "repaired", 1)]


def test_turns_with_different_weights_are_not_merged(tmp_path):
    row = {"messages": [*TURNS, {"role": "assistant", "content": "b", "weight": 0}]}
    assert len(one(tmp_path, row).messages) == 3


def test_a_file_has_one_format_and_other_rows_are_rejected(tmp_path):
    alpaca = {"instruction": "i", "output": "o"}
    loaded = read(tmp_path, {"prompt": "p", "completion": "c"}, alpaca, alpaca)
    assert loaded.files[0].format == "alpaca"
    assert [(p.line, p.reason) for p in loaded.problems] == [(1, "wrong_format")]
    assert "looks like prompt_completion" in loaded.problems[0].detail


def test_ambiguity_follows_the_table_and_the_other_key_is_reported(tmp_path):
    loaded = read(tmp_path, {"text": "t", "messages": TURNS})
    assert loaded.files[0].format == "messages"
    assert loaded.files[0].ignored_keys == {"text": 1}


def test_keys_inside_turns_are_reported_when_ignored(tmp_path):
    loaded = read(tmp_path, {"messages": [{**TURNS[0], "mood": "x"}, TURNS[1]]})
    assert loaded.files[0].ignored_keys == {"messages[].mood": 1}


def test_unknown_format_of_a_file_and_of_a_name(tmp_path):
    with pytest.raises(DataError, match=r"rows.jsonl:1: no known format has the keys 'a', 'b'.*columns"):
        read(tmp_path, {"a": 1, "b": 2})
    with pytest.raises(ConfigError, match="Did you mean 'alpaca'"):
        read(tmp_path, {"a": 1}, format="alpacca")


def test_columns_dotted_paths_and_indices(tmp_path):
    row = {
        "id": "x1",
        "q": {"en": "hello"},
        "instances": [{"input": "in", "output": "out"}],
        "a.b": "sys",
        "rest": 1,
    }
    columns = {
        "prompt": "q.en",
        "input": "instances.0.input",
        "completion": "instances.0.output",
        "system": "a.b",
    }
    loaded = read(tmp_path, row, columns=columns)
    assert loaded.examples[0].messages == (S("sys"), U("hello\n\nin"), A("out"))
    assert loaded.examples[0].meta.id == "x1"
    assert loaded.files[0].ignored_keys == {"rest": 1}


def test_columns_template(tmp_path):
    columns = {"prompt": "{{Q}} {q}\n\n{n.0.x}", "completion": "a"}
    rows = [{"q": "why", "n": [{"x": 3}], "a": "because"}, {"q": "why", "n": [{"x": ""}], "a": "b"}]
    prompts = [e.messages[0].content for e in read(tmp_path, *rows, columns=columns).examples]
    assert prompts == ["{Q} why\n\n3", "{Q} why"]


def test_columns_that_are_missing_or_unknown(tmp_path):
    good = {"q": "x", "a": "y"}
    loaded = read(
        tmp_path, good, {"q": "x"}, {"q": {}, "a": "y"}, columns={"prompt": "{q}", "completion": "a"}
    )
    assert [(p.line, p.reason) for p in loaded.problems] == [(2, "missing_column"), (3, "wrong_type")]
    with pytest.raises(ConfigError, match="Did you mean 'prompt'"):
        read(tmp_path, good, columns={"promt": "q"})
    loaded = read(tmp_path, good, good, columns={"text": "nothing"})
    assert [p.reason for p in loaded.problems] == ["missing_column"] * 2


def test_group_key_and_rows_without_it(tmp_path):
    rows = [{"text": "a", "user": {"id": 5}}, {"text": "b"}]
    loaded = read(tmp_path, *rows, group="user.id")
    assert [e.meta.group for e in loaded.examples] == ["5", None]
    assert [(p.line, p.reason, p.action) for p in loaded.problems] == [(2, "no_group", "noted")]
    assert loaded.files[0].ignored_keys == {}
