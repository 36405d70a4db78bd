"""White space: what goes, and the layouts that stay."""

import pytest

from tunewright.data.clean.spacing import tidy

PROSE = "The parasites  are found  in the West  and in many  countries of Central Africa."


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  Yes \n", "Yes"),
        ("\n\nHow do I unblock it?\n", "How do I unblock it?"),
        ("a \n\nb\t\nc", "a\n\nb\nc"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\n\n\n\n\nb", "a\n\n\nb"),
        (PROSE, " ".join(PROSE.split())),
        (
            "First line of it.\n" + " " * 20 + "Then a line of prose that is set in for no reason at all.",
            "First line of it.\nThen a line of prose that is set in for no reason at all.",
        ),
        (
            "You may have one of these signs:    - a strong fever    - a very bad headache    - a rash",
            "You may have one of these signs:\n- a strong fever\n- a very bad headache\n- a rash",
        ),
    ],
)
def test_stray_white_space_goes(text, clean):
    assert tidy(text) == clean
    assert tidy(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "One.  Two.  Three.  Four.  Five words of the very last sentence.",
        "A doubled  space in one place of a sentence is nothing to mend at all.",
        "Rhyme one,  \nrhyme two,  \nrhyme three.",
        "def f(x):\n    if x:\n        return  1\n",
        "```\na   =   b    \n\n\n\n\nc\n```",
        "- a\n  - b\n    - c",
        "    The shape\n  of a poem\nsets it in",
        "Name      Age   Town of birth of the person in question\n"
        "Anna      31    Paris in the north of France and so on",
        "| a  | b   | c    | and quite a few more words here |",
        "  355,909\n-     746\n---------",
        "",
    ],
)
def test_layouts_stay(text):
    assert tidy(text).rstrip() == text.rstrip()
