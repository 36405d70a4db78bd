"""Broken, invisible and unnormalised characters: what is mended, and what looks alike and must stay."""

import pytest

from tunewright.data.clean.characters import (
    has_invisible,
    has_mojibake,
    mend_mojibake,
    nfc,
    without_invisible,
)


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("Itâ€™s a cafÃ© â€“ naÃ¯ve.", "It’s a café – naïve."),
        ("It is â€œcommonâ€\ufffd here.", "It is “common” here."),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("РџСЂРёРІРµС‚", "Привет"),
        ("l‚Äôheure", "l’heure"),
        ("fine\ncafÃ©\nfine", "fine\ncafé\nfine"),
        ("run `cafÃ©` or cafÃ©", "run `cafÃ©` or café"),
    ],
)
def test_mojibake_is_read_again(broken, mended):
    assert mend_mojibake(broken) == mended
    assert has_mojibake(broken) and not has_mojibake(mended)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "São Paulo, été, naïve, 5 °C ± 2 µg",
        "VOILÀ «été»",
        "2 × 3 – 4 …",
        "Ελληνικά",
        "日本語",
        "IL Y MARQUÉ…",
        "The mojibake cafÃ© comes from reading UTF-8 as Latin-1.",
        "```\ncafÃ©\n```",
        "√2 ≈ 1.41",
    ],
)
def test_text_that_is_right_or_shows_mojibake_on_purpose_stays(text):
    assert mend_mojibake(text) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\x00b\x07", "ab"),
        ("so\u200b\u202e\x00", "so"),
        ("\ufeffhi\u2060", "hi"),
        ("co\u00adop", "coop"),
        ("a\u2028b\u2029c", "a\nb\n\nc"),
        ("a\u200db", "ab"),
        ("hi\u200f!", "hi!"),
        ("שלום \u202eאב", "שלום אב"),
        ("x\U000e0041", "x"),
        ("`a\u200b`", "`a`"),
    ],
)
def test_invisible_characters_go(text, clean):
    assert without_invisible(text) == clean
    assert has_invisible(text) and not has_invisible(clean)


@pytest.mark.parametrize(
    "text",
    [
        "tab\tline\nend\r\n",
        "می\u200cخواهم",
        "क्\u200dष",
        "👩\u200d💻",
        "🚣\u200d♀\ufe0f",
        "שלום\u200f!",
        "ไทย\u200bไทย",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "10\u00a0km",
    ],
)
def test_invisible_characters_that_carry_meaning_stay(text):
    assert without_invisible(text) == text


def test_normal_form_is_composed_outside_code():
    assert nfc("e\u0301 `e\u0301`") == "é `e\u0301`"
    assert nfc("é") == "é"
