"""exact_match, length and numeric, against values worked by hand and against answers made to hurt."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest

from tunewright.core.errors import DataError
from tunewright.objectives.rewards.numeric import answer_number, numeric
from tunewright.objectives.rewards.text import Length, exact_match, length_score

GSM8K = Path(__file__).parents[4] / "shared/data/reward_gsm8k_train/train.jsonl"


# --- exact_match


@pytest.mark.parametrize(
    ("answer", "reference", "wanted"),
    [
        ("Paris", "Paris", 1.0),
        ("  the\n\tcat ", "the cat", 1.0),
        ("paris", "Paris", 0.0),
        ("Paris.", "Paris", 0.0),
        ("cafe\u0301", "caf\u00e9", 1.0),  # the same letter, composed and decomposed
        ("", "", 1.0),
        ("ab", "a b", 0.0),
        ("7", 7, 1.0),
        ("x" * 1_000_000, "x", 0.0),
    ],
)
def test_exact_match(answer, reference, wanted):
    assert exact_match("", answer, {"answer": reference}) == wanted


def test_exact_match_reads_another_field():
    assert exact_match("", "b", {"answer": "a", "label": "b"}, field="label") == 1.0


@pytest.mark.parametrize("reference", [None, True, 1.5, ["a"]])
def test_exact_match_needs_text_to_compare_with(reference):
    with pytest.raises(DataError, match="column 'answer' must be text"):
        exact_match("", "a", {"answer": reference})


# --- length


@pytest.mark.parametrize(
    ("options", "size", "wanted"),
    [
        ({"most": 10}, 0, 1.0),
        ({"most": 10}, 10, 1.0),
        ({"most": 10}, 13, 0.7),
        ({"most": 10}, 20, 0.0),
        ({"most": 10}, 1000, 0.0),
        ({"target": 8}, 8, 1.0),
        ({"target": 8}, 6, 0.75),
        ({"target": 8}, 10, 0.75),
        ({"target": 8}, 0, 0.0),
        ({"target": 4, "most": 10}, 3, 0.75),
        ({"target": 4, "most": 10}, 7, 1.0),
        ({"target": 4, "most": 10}, 15, 0.5),
    ],
)
def test_length_in_words_and_characters(options, size, wanted):
    words = Length(name="length", **options).make(Path())
    assert list(words.many([("", "ab " * size, {})])) == [pytest.approx(wanted)]
    characters = Length(name="length", unit="characters", **options).make(Path())
    assert list(characters.many([("", "é" * size, {})])) == [pytest.approx(wanted)]


def test_length_score_has_no_jump_at_its_corners():
    assert length_score(4, 4, 10) == 1.0 and length_score(3.999, 4, 10) == pytest.approx(1, abs=1e-3)
    assert length_score(10, 4, 10) == 1.0 and length_score(10.001, 4, 10) == pytest.approx(1, abs=1e-3)


# --- numeric


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 7\nwait\n#### 8 and 9", "8"),  # the last mark, not the last number
        ("#### $1,234.50", "1234.5"),
        ("#### -5", "-5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### \u22125", "-5"),
        ("#### **72**", "72"),
        ("####72", "72"),
        ("#### \\$72", "72"),
        ("#### 72.", "72"),
        ("#### none, but 3", "3"),
        ("####\n3", "3"),  # no number on the line of the mark: the last number
        ("He has 1,000,000 apples.", "1000000"),
        ("1,2,3", "3"),
        ("1,2345", "2345"),
        ("12,345,67", "67"),
        ("a range of 5-6", "6"),
        ("x = -3", "-3"),
        ("(4)-3", "3"),
        ("10 - 3", "3"),
        ("+7", "7"),
        ("50%", "50"),
        ("\u20ac3.50", "3.5"),
        (".5", "0.5"),
        ("1/2", "1/2"),
        ("-7/2 metres", "-7/2"),
        ("1.5e3", "1500"),
        ("2E-2", "0.02"),
        ("48/2 = <<48/2=24>>24 clips", "24"),
        ("\\boxed{12} was my 3rd try", "12"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{1{,}000}", "1000"),
        ("\\boxed{50\\%}", "50"),
        ("\\boxed{x = 4} then \\boxed{-\\dfrac{3}{4}}", "-3/4"),
        ("\\boxed{5", "5"),  # never closed: the last number
        ("\\boxed{} 5", None),  # an empty box is the answer
        ("#### 7 \\boxed{8}", "7"),
        ("2/0", None),
        ("no number", None),
        ("", None),
        ("\u00bd \u0663", None),  # a half and an Arabic three: neither is written in plain digits
    ],
)
def test_the_number_of_an_answer(answer, wanted):
    assert answer_number(answer) == (None if wanted is None else Fraction(wanted))


@pytest.mark.parametrize(
    ("answer", "wanted"), [("#### 7", 1.0), ("it is 7", 0.0), ("\\boxed{7}", 0.0), ("####\n7", 0.0)]
)
def test_strict_wants_the_mark(answer, wanted):
    assert numeric("", answer, {"answer": "6 + 1\n#### 7"}, strict=True) == wanted


@pytest.mark.parametrize(
    ("answer", "reference", "wanted"),
    [
        ("0.1", 0.1, 1.0),
        ("0.10000000000000001", "0.1", 0.0),  # equal as floats, not as decimals
        ("1/3", "0.3333333333333333", 0.0),
        ("0.50", "1/2", 1.0),
        ("7", "7.0", 1.0),
        ("7", 7, 1.0),
        ("1,000", "$1000", 1.0),
        ("-7", "7", 0.0),
        ("50", "50 %", 1.0),
        ("3", "\\boxed{3}", 1.0),
        ("nothing", "0", 0.0),
    ],
)
def test_numbers_are_compared_exactly(answer, reference, wanted):
    assert numeric("", answer, {"answer": reference}) == wanted
    assert numeric("", answer, {"answer": "1", "gold": reference}, field="gold") == wanted


@pytest.mark.parametrize(
    "reference", ["about 7", "", "nan", float("nan"), float("inf"), None, True, [7], "1/0"]
)
def test_a_reference_without_a_number_is_a_data_error(reference):
    with pytest.raises(DataError, match="column 'answer' holds no number"):
        numeric("", "7", {"answer": reference})


@pytest.mark.parametrize(
    "answer",
    [
        "9" * 1_000_000,
        "1e999999999",
        "1e" + "9" * 10_000,
        "#### 1e-99999",
        "1," * 500_000,
        "1,111" * 200_000,
        "#" * 1_000_000,
        "####" + " " * 1_000_000,
        "\\boxed{" * 100_000,
        "-" * 1_000_000,
        "." * 1_000_000,
        "1/" * 300_000,
        "\ud800 \x00 nan inf",
    ],
)
def test_numeric_is_not_held_up(answer):
    start = time.perf_counter()
    assert numeric("", answer, {"answer": "-77"}) == 0.0
    assert time.perf_counter() - start < 2.0


@pytest.mark.realdata
def test_each_gsm8k_solution_scores_1_and_its_neighbours_score_0():
    if not GSM8K.exists():
        pytest.skip(f"{GSM8K.name} is not here")
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 7473
    assert all(numeric("", row["answer"], row, strict=True) == 1.0 for row in rows)
    for row in rows:
        number = answer_number(row["answer"], strict=True)
        assert numeric("", f"The answer is {number}.", row) == 1.0
        assert numeric("", f"#### {number + 1}", row) == 0.0
