"""Cleaning twice is cleaning once, for any row; and no text makes it slow."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunewright.core.records import Conversation, Message, Preference, Text
from tunewright.data.clean import FILTERS, CleanSettings, Drop, Keep, clean, facts_of
from tunewright.data.clean.answers import breaks_off, copies, is_placeholder, shares_nothing
from tunewright.data.clean.characters import mend_mojibake, nfc, without_invisible
from tunewright.data.clean.language import language_of
from tunewright.data.clean.markup import html_to_text
from tunewright.data.clean.refusals import refuses
from tunewright.data.clean.repeats import without_loops
from tunewright.data.clean.residue import unfilled, without_edge_tokens, without_residue
from tunewright.data.clean.spacing import tidy

PLAIN = CleanSettings()
PIECES = (
    "<p>", "</p>", "<b>", "</b>", "<br/>", "<li>", "<pre>", "</pre>", "<code>", "</code>", "<!--",
    "-->", "<script>", "</script>", "&amp;", "&lt;", "&#8203;", "&nbsp;", "amp;", "`", "```",
    "~~~", "\n", "\n\n", "  ", " ", "\t", "\r", "Ã©", "â€™", "â€œ", "\ufffd", "\u200b", "\u200d",
    "\u202e", "\x00", "e\u0301", "👩", "می", "<|im_end|>", "[INST]", "<s>", "</s>", "\nHuman: ",
    "### Response:", "Assistant: ", "I cannot help with that request. ",
    "The same sentence again and again. ", "ha ha ha ", "{{name}}", "def f(x):\n", "x = 1\n",
    "| a | b |", "- item of a list\n", "        set in far too far for any line of prose here",
    "word ", "5 < 6", "{", "}",
)  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=14).map("".join)
MENDS = (mend_mojibake, without_invisible, nfc, html_to_text, without_residue, without_edge_tokens, tidy)


@pytest.mark.parametrize("mend", [*MENDS, lambda text: without_loops(text).text])
@given(text=TEXT)
@example(text="<s><p><s>")
def test_each_mending_of_a_text_is_idempotent(mend, text):
    once = mend(text)
    assert mend(once) == once


def rows(question, answer):
    ask, say = Message("user", question), Message("assistant", answer)
    return (
        Conversation((ask, say)),
        Text(answer),
        Preference((ask,), (say,), (Message("assistant", "Other."),)),
    )


@settings(max_examples=150)
@given(question=TEXT, answer=TEXT)
def test_cleaning_twice_is_cleaning_once(question, answer):
    for row in rows(question, answer):
        once = clean(row, PLAIN)
        if isinstance(once, Drop):
            continue
        again = clean(once.example, PLAIN)
        assert isinstance(again, Keep)
        assert again.example == once.example
        assert again.changes == () and again.notes == once.notes


@pytest.mark.parametrize("name", [f.name for f in FILTERS])
@settings(max_examples=40)
@given(question=TEXT, answer=TEXT)
def test_each_filter_of_the_table_is_idempotent(name, question, answer):
    [run, step] = next((f.run, f.steps[0]) for f in FILTERS if f.name == name)
    for row in rows(question, answer):
        once = run(row, step)
        if isinstance(once, Keep):
            assert run(once.example, step) == Keep(once.example, notes=once.notes)


UNITS = (
    "<", "<a ", "<p>", "<i>x</i>", "<!--", "&amp;", "amp;", "<script>", "<pre>", "<b x=", "</p>",
    "`", "`a", "```\n", "~~~\n", " ", "a ", "a  ", "\n", " \n", "a\t \t", "|<br>", "|", "\u200b",
    "a\u200d", "🏴\U000e0067", "ab ", "a", "a\n", ". ", "Ab cd. ", "é€", "\nHuman:", "<|im_end|>",
    "</s>", "### ", "Assistant: ", "{{ ", "[INSERT ", "I can't ", "leider kann ich nicht ", "x, ",
    "e\u0301", "word1 word2 word3 word4 ", "(", "{", "0 ", "\r", "&#", "=", "<x:y ",
    "\u00c3\u00a9 ",
)  # fmt: skip
READS = (breaks_off, refuses, language_of, is_placeholder, lambda t: unfilled("", t), lambda t: copies(t, t))
CHANGES = (*[m for m in MENDS if m is not mend_mojibake], lambda t: without_loops(t).text, *READS)
SIZE = 2**20


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_of_anything_is_read_at_once(unit):
    text = (unit * (SIZE // len(unit) + 1))[:SIZE]
    for change in CHANGES:
        start = time.process_time()
        change(text)
        assert time.process_time() - start < 2.0, change
    start = time.process_time()
    shares_nothing(text, text)
    facts_of(Text(text))
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("unit", ["Ã©", "Ã© word ", "â€™s ", "é€"])
def test_broken_characters_take_time_in_proportion(unit):
    text = unit * 20_000
    start = time.process_time()
    mend_mojibake(text)
    assert time.process_time() - start < 1.0
