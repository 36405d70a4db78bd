"""Groups are named by precise words, and a difference of outcome is found only where there is one."""

import random

import pytest

from tunewright.data.audit.groups import groups_in, groups_of_people
from tunewright.data.audit.sample import Row
from tunewright.data.audit.tone import is_negative, is_toxic, tone
from tunewright.data.check_rules import refuses


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("She asked her doctor.", {"female"}),
        ("My husband and my daughter", {"male", "female"}),
        ("A Muslim neighbour", {"muslim"}),
        ("a blind person asks", {"disability"}),
        ("an elderly Nigerian", {"old", "nigerian"}),
        ("Black women and white men", {"black", "white", "female", "male"}),
        ("a same-sex couple", {"homosexual or bisexual"}),
        ("African-American students", {"black"}),
    ],
)
def test_words_that_name_a_group(text, groups):
    assert {g for _, g in groups_in(text)} & groups == groups


@pytest.mark.parametrize(
    "text",
    [
        "my card is disabled, and there is a blind spot in the black box",
        "go straight to the Polish shop; the Chinese menu; a French kiss of the white wall",
        "the theory, others, another, sheer heritage, human, mankind, mandate, this",
        "American Express, English breakfast, old card, young company",
        "gay-lussac's law",
    ],
)
def test_look_alikes_name_none(text):
    assert groups_in(text) == frozenset()


def rows(count, biased, seed=0):
    """Half of the rows are about her, half about him; with ``biased`` loans are refused to her more often."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        who = ("She", "He")[i % 2]
        granted = rng.random() < (0.4 if biased and who == "She" else 0.7)
        answer = "Yes, the loan is granted today." if granted else "No, it is not."
        made.append(
            Row(i, i, f"a:{i}", f"{who} asks for loan {i}", answer, "yes" if granted else "no", "labelled")
        )
    return made


def test_a_label_that_goes_with_gender_is_found_with_its_interval():
    part = groups_of_people(rows(400, True), 400, refuses)
    assert part.verdict == "look"
    label = next(d for d in part.details["differences"] if d["outcome"] == "label 'yes'")
    assert (label["group"], label["against"], label["n"], label["n_other"]) == (
        "female",
        "rows that name 'male'",
        200,
        200,
    )
    assert label["difference"]["high"] < 0 and label["difference"]["low"] > -0.5
    assert {d["outcome"] for d in part.details["differences"]} >= {
        "label 'yes'",
        "label 'no'",
        "answer length",
    }
    assert any("label 'yes'" in line and "female" in line for line in part.lines)


def test_no_difference_gives_no_alarm_more_often_than_stated():
    alarms = sum(groups_of_people(rows(400, False, s), 400, refuses).verdict == "look" for s in range(20))
    assert alarms <= 3


def test_refusals_and_abuse_of_one_group_are_found():
    made = []
    for i in range(120):
        who, answer = ("a muslim", "I cannot help with that.") if i % 2 else ("a hindu", "You are an idiot.")
        made.append(
            Row(i, i, f"a:{i}", f"{who} asks {i}", answer if i % 3 else "Gladly done.", None, "conversation")
        )
    part = groups_of_people(made, 120, refuses)
    assert {d["outcome"] for d in part.details["differences"]} >= {"refused", "abusive words in the answer"}
    assert part.details["counts"] == {"religion: hindu": 60, "religion: muslim": 60}


def test_rows_that_name_both_are_on_no_side():
    made = [Row(i, i, f"a:{i}", f"he and she {i}", "x" * (i % 9), None, "conversation") for i in range(100)]
    part = groups_of_people(made, 100, refuses)
    assert part.verdict == "fine" and part.details["comparisons"] == 0


def test_a_group_alone_is_compared_with_rows_that_name_none():
    made = [
        Row(
            i,
            i,
            f"a:{i}",
            f"is {'she' if i % 2 else 'it'} there",
            "so " * (5 if i % 2 else 1),
            None,
            "prompt",
        )
        for i in range(100)
    ]
    (only,) = groups_of_people(made, 100, refuses).details["differences"]
    assert (only["against"], only["outcome"]) == ("rows that name none", "answer length")
    assert (only["value"], only["other"]) == (5, 1)


def test_tone():
    assert tone("A kind and helpful person") == 2
    assert tone("not helpful, and never rude") == 0  # both turned
    assert is_negative("What a terrible, useless answer") and not is_negative("It is not bad at all")
    assert not is_negative("The patient has cancer and pain.")
    assert is_toxic("You are an IDIOT.") and is_toxic("please shut up now")
    assert not is_toxic("Scunthorpe, shuttle up, the crapaud, assess the class")
