"""Loops are cut back to the first time; lists, numbers, songs and short words are no loops."""

import pytest

from tunewright.data.clean.repeats import Cut, may_repeat, repeats_itself, without_loops

LONG = (
    "A text of some twenty words or more that says one thing after another and"
    " never the same thing two times over."
)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ((LONG + " ") * 40, Cut(LONG, True)),
        (f"{LONG}\n\n{LONG}", Cut(LONG, True)),
        (
            "It begins. " + "The loop goes on and on. " * 6 + "The loop",
            Cut("It begins. The loop goes on and on.", True),
        ),
        ("It begins. " + "and then he said that " * 9, Cut("It begins. and then he said that", False)),
        ("One. " + "The same thing here. " * 3 + "The end.", Cut("One. The same thing here. The end.", True)),
        ("ha " * 30, Cut("ha", True)),
        ("- an item of it\n" * 5 + "- the last", Cut("- an item of it\n- the last", True)),
    ],
)
def test_loops_are_cut(text, cut):
    assert without_loops(text) == cut
    assert without_loops(cut.text) == Cut(cut.text, True)


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
        "Hello my friend! Hello my friend!",
        "First of all. I will go home now. I will go home now. Then I sleep.",
        "Row, row, row your boat",
        "| - | - | - |\n" * 6,
        "```\n" + "step(1, 2, 3, 4)\n" * 9 + "```",
        "x = 1\n" * 8,
        "Yes",
        "The cat sat. The dog sat. The cat sat. The dog sat down.",
    ],
)
def test_what_is_no_loop_stays(text):
    assert without_loops(text) == Cut(text, True)


def test_songs_may_repeat():
    assert may_repeat("Write a song about rain.") and not may_repeat("What is rain?")


def test_repeats_itself_counts_windows():
    assert repeats_itself((LONG + " ") * 3) and not repeats_itself(LONG * 1)
