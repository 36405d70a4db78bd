"""Mixing in: which rows, how many, and which never."""

from dataclasses import replace

import pytest

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Conversation, Message, Meta, Text
from tunewright.data.mix import Sides, Source, drawn, portions, shares
from tunewright.data.near import near_rows


def chat(question, answer="yes", line=0, source="a.jsonl", **meta):
    turns = (Message("user", question), Message("assistant", answer))
    return Conversation(turns, Meta(source, line, **meta))


def chats(name, count, start=0):
    return [chat(f"{name} {i}?", line=i + 1, source=f"{name}.jsonl") for i in range(start, start + count)]


MAIN = Sides(chats("main", 80), chats("val", 10), chats("test", 10))


def take(*sources, main=MAIN, seed=0):
    return portions(main, sources, seed)


@pytest.mark.parametrize(
    ("weight", "size", "cap", "repeat", "rows", "distinct"),
    [
        (0.2, 100, None, 1, 20, 20),  # 20 of 100
        (0.5, 100, None, 1, 80, 80),
        (0.2, 100, 7, 1, 7, 7),
        (0.2, 12, None, 1, 12, 12),  # too few, and not repeated
        (0.2, 8, None, 2, 16, 8),
        (0.2, 8, None, 3, 20, 8),  # 8, 8 and 4 of them
        (0.2, 8, 10, 3, 10, 8),
        (0.001, 100, None, 1, 0, 0),
    ],
)
def test_how_many(weight, size, cap, repeat, rows, distinct):
    [portion] = take(Source("g.jsonl", chats("g", size), weight, cap, repeat))
    assert (len(portion.rows), portion.distinct) == (rows, distinct)
    assert len({e.messages[0].content for e in portion.rows}) == distinct
    assert portion.wanted == round(80 * weight / (1 - weight))
    assert {e.meta.mixed for e in portion.rows} <= {"g.jsonl"}
    assert [e.meta.line for e in portion.rows] == sorted(e.meta.line for e in portion.rows)


def test_two_sources_share_what_the_main_rows_leave():
    first, second = take(Source("g", chats("g", 500), 0.2), Source("h", chats("h", 500), 0.3))
    assert (len(first.rows), len(second.rows)) == (32, 48)  # 80 + 32 + 48 = 160
    short, same = take(Source("g", chats("g", 5), 0.2), Source("h", chats("h", 500), 0.3))
    assert len(short.rows) == 5 and same.rows == second.rows  # nobody makes up for it


def test_weights_must_leave_a_share():
    with pytest.raises(ConfigError, match=r"the weights sum to 1; leave a share"):
        take(Source("g", [], 0.5), Source("h", [], 0.5))


def test_appended_rows_change_little_and_a_larger_share_holds_a_smaller_one():
    rows = chats("g", 200)
    few, more = ({e.meta.line for e in drawn(rows, count, 1)} for count in (40, 60))
    assert few < more and len(few) == 40
    longer = {e.meta.line for e in drawn([*rows, *chats("g", 20, start=200)], 40, 1)}
    new = {line for line in longer if line > 200}
    assert longer - new <= few and 0 < len(new) < 15
    assert {e.meta.line for e in drawn(rows, 40, 2)} != few


def test_rows_that_ask_what_is_judged_stay_out():
    rows = [
        chat("TEST  3?", "another answer", 1),
        chat("val 4?", "no", 2),
        chat("main 5?", "yes", 3),  # equal to a main row
        chat("main 5?", "no", 4),
        chat("new?", "yes", 5),
        chat("new?", "yes", 6),
    ]
    earlier = Conversation((Message("user", "test 7?"), Message("assistant", "x"), *chat("and?").messages))
    [portion] = take(Source("g", [*rows, replace(earlier, meta=Meta("a.jsonl", 7))], 0.5))
    assert [e.meta.line for e in portion.rows] == [4, 5]
    assert {(p.line, p.reason, p.detail) for p in portion.dropped} == {
        (1, "in_test", "shares a group with test.jsonl:4"),
        (2, "in_validation", "shares a group with val.jsonl:5"),
        (7, "in_test", "shares a group with test.jsonl:8"),
        (3, "duplicate", "equal to main.jsonl:6"),
        (6, "duplicate", "equal to a.jsonl:5"),
    }


def test_equal_rows_are_duplicates_even_if_they_name_the_same_place():
    [portion] = take(Source("g", [chat("main 5?", line=6, source="main.jsonl")], 0.5))
    assert not portion.rows and portion.dropped[0].reason == "duplicate"


def test_a_row_of_two_sources_is_taken_from_the_first():
    first, second = take(Source("g", chats("g", 5), 0.3), Source("h", chats("g", 6), 0.3))
    assert len(first.rows) == 5 and [e.meta.line for e in second.rows] == [6]


def test_groups_of_judging_rows_stay_out():
    main = Sides(MAIN.train, [], [chat("q?", group="anna")])
    [portion] = take(Source("g", [chat("other?", group="anna"), chat("third?", group="bo")], 0.5), main=main)
    assert [e.meta.group for e in portion.rows] == ["bo"]


def test_another_kind_is_refused():
    with pytest.raises(
        DataError, match=r"g holds text rows \(d\.txt:3\), but data\.train holds conversation"
    ):
        take(Source("g", [Text("words", Meta("d.txt", 3))], 0.5))


def test_shares_count_rows_and_characters():
    found = shares({"main": [chat("12345", "12345")] * 3, "g": [chat("1" * 65, "12345")]})
    assert found["g"] == {"rows": 1, "share": 0.25, "characters": 70, "share_of_characters": 0.7}
    assert shares({"main": []})["main"]["share"] == 0


def test_near_duplicates_of_judging_rows_stay_out():
    long = "If a parcel has been damaged on its way, may I send it back to you without paying for the postage"
    main = Sides(MAIN.train, [chat(f"{long} at all?", "Of course.", 3)], [chat("Short question?")])
    rows = [chat(f"{long} at all, then?", "Of course.", 5), chat("Where is the harbour?", "There.", 6)]
    for near, kept in ((near_rows, [6]), (None, [5, 6])):
        [portion] = portions(main, [Source("g", rows, 0.5)], 0, near)
        assert [e.meta.line for e in portion.rows] == kept
        told = [(p.line, p.reason, p.detail) for p in portion.dropped]
        assert told == ([(5, "in_validation", "nearly equal to a.jsonl:3")] if near else [])
