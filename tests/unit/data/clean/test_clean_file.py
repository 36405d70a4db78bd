"""What the whole file decides: language, boiler-plate, and whether N/A is a label."""

import pytest

from tunewright.core.records import Conversation, Labelled, Message, Preference, Text
from tunewright.data.clean import CleanSettings, Drop, Keep, counted, decide, facts_of, judge, language_of

PLAIN = CleanSettings()
ENGLISH = "The kidneys take the waste out of the blood, and what is left of it goes back to the heart."
GERMAN = "Die Nieren filtern das Blut und scheiden Abfallstoffe aus, die der Körper nicht mehr braucht."
FRENCH = "Les reins filtrent le sang et éliminent les déchets dont le corps n'a plus besoin pour vivre."


def chat(question, answer):
    return Conversation((Message("user", question), Message("assistant", answer)))


def outcomes(rows, settings=PLAIN):
    facts = [facts_of(row) for row in rows]
    found = decide(counted(facts[:3]) + counted(facts[3:]), settings)
    return [judge(row, fact, found, settings) for row, fact in zip(rows, facts, strict=True)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        (FRENCH, "fr"),
        ("Yes, of course.", None),
        ("3 + 4 * 5 = 23 " * 9, None),
        ("def f(x):\n    return x + 1\n\nfor i in range(9):\n    print(f(i))\n", None),
        ("腎臓は血液から老廃物を取り除きます。" * 4, "ja"),
        ("", None),
        ("?!" * 100, None),
    ],
)
def test_a_language_is_said_only_where_it_is_sure(text, language):
    assert language_of(text) == language


def test_a_row_in_another_language_than_most_is_noted_and_one_than_named_is_dropped():
    rows = [chat(f"{ENGLISH} {n}", f"{ENGLISH} {n}") for n in range(45)]
    rows += [
        chat(GERMAN, GERMAN),
        chat(ENGLISH, GERMAN),
        chat("Translate to German: hello", GERMAN),
        Text(GERMAN),
    ]
    results = outcomes(rows)
    assert [n for n, o in enumerate(results) if o.notes] == [45, 48]
    assert results[45].notes == (("wrong_language", "de, expected en"),)
    named = outcomes(rows, CleanSettings(language="de"))
    assert sum(isinstance(o, Drop) for o in named) == 45
    assert named[0] == Drop("wrong_language", "en, expected de")
    assert not any(o.notes for o in outcomes(rows, CleanSettings(language="any")))
    assert isinstance(outcomes(rows, CleanSettings(steps={"wrong_language": "drop"}))[45], Drop)


def test_a_file_without_a_clear_majority_expects_nothing():
    mixed = [chat("q", f"{text} {n}") for n in range(20) for text in (ENGLISH, GERMAN)]
    assert not any(o.notes for o in outcomes(mixed))
    few = [chat("q", f"{ENGLISH} {n}") for n in range(10)] + [chat("q", GERMAN)]
    assert not any(o.notes for o in outcomes(few))


@pytest.mark.parametrize("placeholder", ["N/A", "none", "TODO", "..."])
def test_placeholders_go_from_a_file_of_texts_and_stay_as_labels(placeholder):
    texts = [chat(f"What is {n}?", f"{ENGLISH} {n}") for n in range(8)]
    bad = chat("What to do for gout?", placeholder)
    assert outcomes([*texts, bad])[-1] == Drop(
        "placeholder_answer", "the last answer only holds the place of one"
    )
    labels = [chat(f"Intent of text {n}?", "refund") for n in range(8)]
    assert outcomes([*labels, bad])[-1] == Keep(bad)


@pytest.mark.parametrize(
    "row",
    [
        chat("Give the name, or N/A.", "N/A"),
        chat("How many legs has a snake?", "None."),
        chat("What does print() return?", "None"),
        Labelled((Message("user", "x"),), "N/A"),
        Preference((Message("user", "q"),), (Message("assistant", "Fine."),), (Message("assistant", "N/A"),)),
    ],
)
def test_placeholders_that_are_answers_stay(row):
    assert not facts_of(row).placeholder


def test_one_long_answer_in_many_rows_is_boilerplate():
    same = "Please contact our support team, they are glad to help you."
    rows = [chat(f"Question {n}?", same if n % 2 else f"{ENGLISH} {n}") for n in range(40)]
    assert [bool(o.notes) for o in outcomes(rows)] == [bool(n % 2) for n in range(40)]
    assert not any(o.notes for o in outcomes(rows, CleanSettings(boilerplate=21)))
    dropped = outcomes(rows, CleanSettings(steps={"boilerplate_answer": "drop"}))
    assert sum(isinstance(o, Drop) for o in dropped) == 20
    short = [chat(f"Question {n}?", "Yes, of course.") for n in range(40)]
    assert not any(o.notes for o in outcomes(short))


def test_the_goodbye_at_the_end_of_a_longer_chat_is_no_boilerplate():
    bye = "You're welcome! If you have any other questions, feel free to ask."
    row = Conversation((*chat("a", "b").messages, *chat("Thanks!", bye).messages))
    assert facts_of(row).answer is None and facts_of(chat("Thanks!", bye)).answer is not None
