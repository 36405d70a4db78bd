"""Prompts without answers: when a file is read so, what becomes a field, and what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewright.core.errors import DataError
from tunewright.core.records import Conversation, Message, Meta, Prompt
from tunewright.data.canonical import to_jsonl
from tunewright.data.load import load

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))
ASK, HI = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "content": "r"}


def read(tmp_path, *rows, name="rows.jsonl", **options):
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return load([path], **options)


def one(tmp_path, row, **options):
    loaded = read(tmp_path, row, **options)
    assert loaded.problems == []
    return loaded.examples[0]


@pytest.mark.parametrize(
    ("row", "messages", "fields"),
    [
        ({"prompt": "q"}, (U("q"),), {}),
        ({"prompt": "q", "nums": [1, 2], "x": None}, (U("q"),), {"nums": [1, 2], "x": None}),
        ({"question": "q", "deep": {"a": [{"b": 0.5}]}}, (U("q"),), {"deep": {"a": [{"b": 0.5}]}}),
        ({"instruction": "q", "input": "i", "system": "s", "k": "v"}, (S("s"), U("q\n\ni")), {"k": "v"}),
        ({"instruction": "q", "history": [["x", "y"]]}, (U("x"), A("y"), U("q")), {}),
        ({"prompt": [ASK], "input": "kept"}, (U("q"),), {"input": "kept"}),
        ({"prompt": "q", "question": "r"}, (U("q"),), {"question": "r"}),
        ({"prompt": "q", "meta": {"from": "web"}, "id": "x"}, (U("q"),), {"meta": {"from": "web"}}),
        ({"prompt": "q", "fields": {"label": 1}, "k": 2}, (U("q"),), {"label": 1, "k": 2}),
        ({"messages": [ASK], "target": 3}, (U("q"),), {"target": 3}),
        ({"conversations": [{"from": "human", "value": "q"}], "system": "s"}, (S("s"), U("q")), {}),
    ],
)  # fmt: skip
def test_prompts_and_their_fields(tmp_path, row, messages, fields):
    example = one(tmp_path, row)
    assert example == Prompt(messages, fields, example.meta)
    assert example.meta.id == row.get("id")


def test_cells_of_a_csv_stay_text(tmp_path):
    loaded = read(tmp_path, "question,target,id", "q,11,7", name="a.csv")
    meta = Meta(str(tmp_path / "a.csv"), 2, "7")
    assert loaded.examples == [Prompt((U("q"),), {"target": "11"}, meta)]


def test_tools_belong_to_the_row_and_a_tool_turn_may_be_last(tmp_path):
    row = {"prompt": [ASK, CALL, RESULT], "tools": [{"name": "f"}]}
    example = one(tmp_path, row)
    assert [m.role for m in example.messages] == ["user", "assistant", "tool"]
    assert (example.tools, example.fields) == (({"name": "f"},), {})


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "q", "completion": "a"}, "prompt_completion"),
        ({"question": "q", "answer": "a"}, "question_answer"),
        ({"prompt": "q", "text": "t"}, "text"),
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"messages": [ASK], "label": "x"}, "chat_label"),
        ({"messages": [ASK, HI]}, "messages"),
        ({"messages": [ASK, HI, ASK]}, "messages"),
        ({"messages": [ASK, CALL, RESULT]}, "messages"),
        ({"messages": [ASK], "answer": "4"}, "messages"),
    ],
)
def test_other_formats_are_found_first(tmp_path, row, name):
    assert read(tmp_path, row).files[0].format == name


def test_a_file_with_some_answers_is_no_file_of_prompts(tmp_path):
    loaded = read(tmp_path, *[{"messages": [ASK]}] * 5, {"messages": [ASK, HI]})
    assert loaded.files[0].format == "messages"
    assert [(p.line, p.reason) for p in loaded.rejected] == [(n, "no_answer") for n in range(1, 6)]
    loaded = read(tmp_path, *[{"prompt": "q"}] * 5, {"prompt": "q", "completion": "a"})
    assert [(p.line, p.reason) for p in loaded.rejected] == [(n, "wrong_format") for n in range(1, 6)]
    assert "the row looks like prompt" in loaded.rejected[0].detail


def test_an_answer_in_a_file_of_prompts_is_another_format(tmp_path):
    rows = [{"prompt": f"q{i}"} for i in range(25)]
    loaded = read(tmp_path, *rows, {"prompt": "q", "completion": "a"}, {"prompt": "q", "label": True})
    assert [(p.where(), p.reason) for p in loaded.rejected] == [
        (f"{tmp_path / 'rows.jsonl'}:{line}", "wrong_format") for line in (26, 27)
    ]
    assert "looks like prompt_completion" in loaded.rejected[0].detail


def test_what_looks_like_an_answer_must_be_named(tmp_path):
    row = {"prompt": "q", "answer": "4"}
    with pytest.raises(DataError, match=r"rows.jsonl:1: no known .* 'prompt', 'answer'.*'prompt' to keep"):
        read(tmp_path, row)
    assert one(tmp_path, row, format="prompt").fields == {"answer": "4"}
    assert one(tmp_path, {"question": "q", "answer": "4"}, format="prompt").fields == {"answer": "4"}
    assert one(tmp_path, {"messages": [ASK, HI, ASK]}, format="prompt").messages == (U("q"), A("a"), U("q"))
    assert isinstance(one(tmp_path, {"question": "q", "answer": "4"}), Conversation)


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({"prompt": ""}, "empty_turn", "prompt has no text"),
        ({"prompt": 5}, "wrong_type", "prompt is a number, not text"),
        ({"prompt": None, "k": 1}, "wrong_type", "prompt is null"),
        ({"prompt": [ASK, HI]}, "prompt_answered", "prompt ends in an assistant turn"),
        ({"prompt": [{"role": "system", "content": "s"}]}, "no_question", "prompt ends in a system turn"),
        ({"prompt": "q", "fields": "x"}, "wrong_type", "fields is text, not an object"),
        ({"prompt": "q", "fields": {"k": 1}, "k": 2}, "wrong_type", "'k' stands both in fields and in a"),
        ({"prompt": "q", "tools": 3}, "bad_tool_call", "tools"),
    ],
)  # fmt: skip
def test_wrong_prompts_say_why(tmp_path, row, reason, words):
    loaded = read(tmp_path, {"prompt": "good"}, row)
    [bad] = loaded.rejected
    assert (bad.where(), bad.reason) == (f"{tmp_path / 'rows.jsonl'}:2", reason)
    assert words in bad.detail and len(loaded.examples) == 1


def test_a_mapping_keeps_the_columns_that_it_does_not_rename(tmp_path):
    row = {"id": 4, "q": "q", "nums": [1, 2], "goal": 3, "who": "kim"}
    template = {"prompt": "Make {goal} of {nums.0} and {nums.1}", "group": "who"}
    example = one(tmp_path, row, columns=template)
    assert example.messages == (U("Make 3 of 1 and 2"),)
    assert example.fields == {"q": "q", "nums": [1, 2], "goal": 3}
    assert (example.meta.id, example.meta.group) == ("4", "kim")
    assert one(tmp_path, row, columns={"prompt": "q"}).fields == {"nums": [1, 2], "goal": 3, "who": "kim"}
    loaded = read(tmp_path, {"q": "q", "f": {"goal": 3}, "rest": 1, "g": "x"},
                  columns={"prompt": "q", "fields": "f", "group": "g"})  # fmt: skip
    assert loaded.examples[0].fields == {"goal": 3}
    assert loaded.files[0].ignored_keys == {"rest": 1}
    named = one(tmp_path, {"q": "q", "a": "4"}, columns={"prompt": "q", "label": "a"}, format="prompt")
    assert named.fields == {"label": "4"}


def test_the_group_key_stays_a_field(tmp_path):
    example = one(tmp_path, {"prompt": "q", "who": "kim"}, group="who")
    assert (example.meta.group, example.fields) == ("kim", {"who": "kim"})


def test_values_of_a_table_that_json_lacks_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    table = {"prompt": ["a", "b", "c"], "x": [[1.5], [float("nan")], None], "y": [None, None, b"z"]}
    pq.write_table(pa.table(table), path)
    loaded = load([path])
    assert [e.fields for e in loaded.examples] == [{"x": [1.5], "y": None}]
    assert [(p.line, p.reason) for p in loaded.rejected] == [(2, "not_finite"), (3, "wrong_type")]
    assert "'y' holds bytes" in loaded.rejected[1].detail


def test_the_deepest_field_that_is_read_can_be_written_and_read_again(tmp_path):
    deep = [json.loads(f'{{"prompt": "q", "x": {"[" * n}{"]" * n}}}') for n in (62, 63)]
    loaded = read(tmp_path, *deep)
    assert [(p.line, p.reason) for p in loaded.rejected] == [(2, "too_deep")]
    again = tmp_path / "again.jsonl"
    again.write_bytes(to_jsonl(loaded.examples))
    assert load([again]).examples == loaded.examples
