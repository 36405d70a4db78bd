"""countdown and countdown_format."""

import json
import time
from pathlib import Path

import pytest

from tunewright.core.errors import DataError
from tunewright.objectives.rewards.countdown import countdown, countdown_format

ROWS = Path(__file__).parents[4] / "shared/data/reward_countdown/dev_train_3num.jsonl"
ROW = {"nums": [5, 19, 25], "target": 11}


@pytest.mark.parametrize(
    ("answer", "value", "form"),
    [
        ("(5 + 25) - 19", 1, 1),
        ("5+25-19", 1, 1),
        ("  25 - (19 - 5)\n", 1, 1),
        ("(5 + 25) - 19 = 11", 1, 1),
        ("(5 + 25) - 19 = 12", 0, 1),  # the claim is false
        ("5 + 19 + 25 = 11", 0, 1),
        ("25 \u2212 (19 \u2212 5)", 1, 1),
        ("5 * 19 - 25", 0, 1),
        ("5 \u00d7 19 \u00f7 25", 0, 1),
        ("5 / (19 - 25)", 0, 1),
        ("25.0 - 19 + 5", 1, 1),
        ("11", 0, 0),
        ("5 + 6", 0, 0),
        ("25 + 5 - 19 + 0", 0, 0),
        ("25 - 19 + 5 + 5 - 5", 0, 0),
        ("-19 + 5 + 25", 0, 0),  # a sign is not one of the operations
        ("25 - (-5) - 19", 0, 0),
        ("+5 + 25 - 19", 0, 0),
        ("5 ** 19 - 25", 0, 0),
        ("19 // 5 + 25", 0, 0),
        ("(5, 25, 19)", 0, 0),
        ("5 + 25 - 19 = 11 = 11", 0, 0),
        ("11 = 5 + 25 - 19", 0, 0),
        ("The answer is 5 + 25 - 19", 0, 0),
        ("`5 + 25 - 19`", 0, 0),
        ("5 + 25 - 19.", 0, 0),
        ("25. - 19 + 5", 0, 0),
        ("(5 + 25 - 19", 0, 0),
        ("5 25 19", 0, 0),
        ("5(25)-19", 0, 0),
        ("05 + 25 - 19", 0, 0),
        ("5 + 25\n- 19", 0, 0),
        ("", 0, 0),
        ("__import__('os').getpid()", 0, 0),
    ],
)
def test_values_and_forms(answer, value, form):
    assert (countdown("", answer, ROW), countdown_format("", answer, ROW)) == (value, form)


@pytest.mark.parametrize(
    ("nums", "target", "answer", "value"),
    [
        ([1, 3, 3, 9], 1, "9 / 3 / 3 * 1", 1),
        ([1, 3, 3], 1, "1 / 3 * 3", 1),  # exact: in floats 1/3*3 happens to be 1, (1/49)*49 does not
        ([1, 49, 49], 1, "1 / 49 * 49", 1),
        ([0.1, 0.2], 0.3, "0.1 + 0.2", 1),  # the decimals as they are written
        ([2.5, 2], 5, "2.5 * 2", 1),
        ([5, 5], 10, "5 + 5", 1),
        ([5, 5], 5, "5", 0),
        ([-3, 5], 2, "5 + -3", 1),
        ([-3, 5], 2, "-3 + 5", 1),
        ([-3, 5], 2, "5 - 3", 0),
        ([4, 0], 0, "4 / 0", 0),
        ([4, 2, 2], 1, "4 / (2 - 2)", 0),
        ([7], 7, "7", 1),
        ([7], 7, "((7))", 1),
        ([3, 4], -1, "3 - 4 = -1", 1),
        ([1, 2], 0.5, "1 / 2 = 0.5", 1),
    ],
)
def test_other_numbers(nums, target, answer, value):
    assert countdown("", answer, {"nums": nums, "target": target}) == value


@pytest.mark.parametrize(
    "answer",
    [
        "(" * 999,
        "(" * 100_000 + "5" + ")" * 100_000,
        "-" * 999 + "5",
        "1+" * 499 + "1",
        "9" * 1_000_000,
        "9" * 999,
        "9" * 400 + ".0",
        "9**9**9**9",
        "5" + " " * 990 + "x",
        "5+25-19" + " " * 2_000_000,
        "1e9999",
        "\x00",
        "\ud800",
        "0x5 + 25 - 19",
        "5_0",
        "5j",
    ],
)
def test_hostile_answers_score_0_at_once(answer):
    start = time.perf_counter()
    assert countdown("", answer, ROW) == 0.0 and countdown_format("", answer, ROW) == 0.0
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"target": 1}, "no column 'nums'"),
        ({"nums": [1]}, "no column 'target'"),
        ({"nums": [], "target": 1}, "must be a list of numbers"),
        ({"nums": "1 2", "target": 1}, "must be a list of numbers"),
        ({"nums": [1, "2"], "target": 1}, "'2' is not a number"),
        ({"nums": [1, True], "target": 1}, "'True' is not a number"),
        ({"nums": [1, float("nan")], "target": 1}, "'nan' is not a number"),
        ({"nums": [1], "target": "1"}, "'1' is not a number"),
        ({"nums": [1], "target": float("inf")}, "'inf' is not a number"),
    ],
)
def test_rows_that_are_no_game(row, message):
    with pytest.raises(DataError) as caught:
        countdown("", "1", row)
    assert message in str(caught.value)


@pytest.mark.realdata
def test_each_known_solution_scores_1():
    if not ROWS.exists():
        pytest.skip(f"{ROWS.name} is not here")
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 600
    for row in rows:
        assert countdown("", row["one_solution"], row) == 1.0, row
        assert countdown_format("", row["one_solution"], row) == 1.0, row
        assert countdown("", row["one_solution"], {**row, "target": row["target"] + 1}) == 0.0
        assert countdown_format("", row["one_solution"], {**row, "nums": row["nums"][1:]}) == 0.0
