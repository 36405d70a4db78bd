"""Whole rows of every kind through all filters: what is changed, noted, dropped, and what must survive."""

import pickle
from dataclasses import replace

import pytest

from tunewright.core.config import build
from tunewright.core.errors import ConfigError
from tunewright.core.records import (
    Conversation,
    Labelled,
    Message,
    Meta,
    Preference,
    Prompt,
    Ranking,
    Text,
)
from tunewright.data.clean import FILTERS, STEPS, CleanSettings, Drop, Keep, clean, problems_of
from tunewright.data.problems import RULES

PLAIN = CleanSettings()
S, U, A, T = (
    lambda text, role=role, **extra: Message(role, text, extra=extra)
    for role in ("system", "user", "assistant", "tool")
)
REFUSES = "I cannot help with that request."


def chat(question, answer, **more):
    return Conversation((U(question), A(answer)), Meta("f.jsonl", 3), **more)


def reasons(outcome):
    return [reason for reason, _ in outcome.changes], [reason for reason, _ in outcome.notes]


DIRTY = {
    "mojibake": "Itâ€™s here.",
    "invisible_chars": "It is\u200b here.",
    "unicode_form": "cafe\u0301",
    "html": "<p>It is</p>",
    "template_residue": "It is.<|im_end|>",
    "white_space": "It is. ",
    "repeated_text": "It is as it is here. " * 9,
}
BAD = {
    "refusal": ("Why?", REFUSES),
    "copied_question": ("Why is the sky so blue?", "Why is the sky so blue?"),
    "unfilled_template": ("Write to Ann.", "Dear {{name}}, hello."),
    "truncated": ("Why?", "It is so because the light of the sun comes down through the"),
    "ignores_input": (
        "The kidney filters blood. " * 20 + "Why?",
        "Football players train every morning before breakfast, "
        "while coaches prepare tactical drills nearby and watch.",
    ),
}


@pytest.mark.parametrize(("name", "text"), DIRTY.items())
def test_each_filter_mends_and_counts_its_own(name, text):
    outcome = clean(chat("Why?", text), PLAIN)
    assert isinstance(outcome, Keep)
    assert name in reasons(outcome)[0]
    assert outcome.example.messages[0] == U("Why?")
    assert outcome.example.messages[1].content not in (text, "")
    assert clean(outcome.example, PLAIN) == Keep(outcome.example)
    assert name not in reasons(clean(chat("Why?", text), CleanSettings(steps={name: "off"})))[0]
    dropped = clean(chat("Why?", text), CleanSettings(steps={name: "drop"}))
    assert isinstance(dropped, Drop) and dropped.reason == name
    noted = clean(chat("Why?", text), CleanSettings(steps={name: "note"}))
    assert name in reasons(noted)[1] and name not in reasons(noted)[0]


@pytest.mark.parametrize(("name", "texts"), BAD.items())
def test_each_filter_that_cannot_mend_drops_or_notes(name, texts):
    row = chat(*texts)
    assert clean(row, CleanSettings(steps={name: "drop"})).reason == name
    assert reasons(clean(row, CleanSettings(steps={name: "note"}))) == ([], [name])
    assert clean(row, CleanSettings(steps={name: "off"})) == Keep(row)
    assert isinstance(clean(row, PLAIN), Drop) == (RULES[name].action == "rejected")


def test_every_filter_is_tested_here_and_has_its_reason():
    assert {*DIRTY, *BAD} == {f.name for f in FILTERS}
    action = {"repair": "repaired", "drop": "rejected", "note": "noted"}
    assert all(RULES[name].action == action[steps[0]] for name, steps in STEPS.items())


@pytest.mark.parametrize(
    "row",
    [
        chat("Is it?", "Yes"),
        chat("Which one?", "B"),
        chat("6 x 7?", "42"),
        chat("Write HTML for a link.", '<a href="x">y</a>'),
        chat("Write a song.", "La la la.\n" * 12 + "End"),
        chat("Translate: I cannot help with that.", REFUSES),
        chat("Book a flight.", REFUSES, tools=({"name": "bmi"},)),
        Labelled((U("N/A"),), "N/A"),
        Labelled((U("text"),), ("a", "b")),
        Labelled((U("text"),), 3.5),
        Labelled((U("q"), A(REFUSES)), False),
        Labelled((U("q"), A("ha " * 40 + "ha")), False),
        Preference((U("q"),), (A("Fine."),), (A("N/A"),)),
        Preference((U("How do I rob a bank?"),), (A(REFUSES),), (A("So:"),)),
        Preference((U("q"),), (A("Fine."),), (A("ha " * 40 + "ha"),)),
        Ranking((U("q"),), ((A("Yes"),), (A(REFUSES),)), (1.0, 0.0)),
        Prompt((U("Reach 24."),), {"nums": ["  ", "<b>x</b>"]}),
        Text("A document.\n\nIt ends in the"),
        Conversation(
            (
                S("  You are  {{bot}}. \n"),
                U("Hi"),
                A("", tool_calls=[{"function": {"name": "f", "arguments": {"x": " <b>a</b> "}}}]),
                T('{"html": "<p>1</p> "}  '),
                A("One."),
            )
        ),
    ],
)
def test_rows_that_are_fine_stay_as_they_are(row):
    outcome = clean(row, PLAIN)
    assert isinstance(outcome, Keep)
    assert outcome.example is row
    assert outcome.changes == ()


def test_both_sides_of_a_pair_are_mended_alike_and_reasoning_too():
    row = Preference((U("a\u200bb"),), (A("<p>x</p>", reasoning_content="hm\u200b"),), (A("y.<|im_end|>"),))
    kept = clean(row, PLAIN).example
    assert (kept.prompt[0].content, kept.chosen[0].content, kept.rejected[0].content) == ("ab", "x", "y.")
    assert kept.chosen[0].extra == {"reasoning_content": "hm"}


def test_what_cleaning_empties_or_makes_equal_is_dropped_with_the_reason_of_the_reader():
    zero = "\u200b"
    assert clean(chat("q", zero), PLAIN).reason == "empty_answer"
    assert clean(chat(zero, "a"), PLAIN).reason == "empty_turn"
    assert clean(Text(zero), PLAIN).reason == "empty_text"
    assert clean(Preference((U("q"),), (A("a"),), (A(f"a{zero}"),)), PLAIN).reason == "equal_answers"
    assert clean(Preference((U("q"),), (A("a"),), (A(zero),)), PLAIN).reason == "empty_answer"
    pair = Ranking((U("q"),), ((A("a"),), (A("a "),)), (1.0, 0.0))
    assert clean(pair, PLAIN).reason == "equal_answers"
    system = Conversation((S(zero), U("q"), A("a")))
    assert clean(system, PLAIN).example.messages == (U("q"), A("a"))


def test_a_loop_that_never_ends_is_dropped_and_one_of_weight_zero_stays():
    looping = "It begins. " + "and then he said that " * 9
    assert clean(chat("Why?", looping), PLAIN).reason == "repeated_text"
    context = Conversation((U("a"), Message("assistant", looping.strip(), 0.0), U("b"), A("c")))
    assert clean(context, PLAIN) == Keep(context)
    assert reasons(clean(Text(looping), PLAIN))[0] == ["white_space", "repeated_text"]


def test_an_earlier_refusal_is_noted():
    row = Conversation((U("Rob a bank?"), A(REFUSES), U("Sorry. Who are you?"), A("A bot.")))
    assert reasons(clean(row, PLAIN)) == ([], ["refusal"])


def test_html_goes_from_documents_and_stays_in_system_turns():
    assert clean(Text("<p>One</p><p>Two</p>"), PLAIN).example.text == "One\n\nTwo"
    row = Conversation((S("<b>Be brief</b>  "), U("q"), A("a")))
    assert clean(row, PLAIN) == Keep(row)


def test_filters_uncover_work_for_each_other():
    outcome = clean(chat("Why?", "So&#8203; <\u200bi>it</i> is.&lt;|im_end|&gt;"), PLAIN)
    assert outcome.example.messages[1].content == "So it is."
    assert reasons(outcome)[0] == ["invisible_chars", "html", "template_residue"]


def test_outcomes_become_problems_with_the_action_that_was_taken():
    row = chat("Why?", "It is. ")
    [repaired] = problems_of(row, clean(row, PLAIN))
    assert str(repaired) == (
        "f.jsonl:3: repaired (white_space): 1 text changed. To keep it, set the step white_space: off."
    )
    settings = CleanSettings(steps={"white_space": "note"})
    assert [p.action for p in problems_of(row, clean(row, settings))] == ["noted"]
    [rejected] = problems_of(row, clean(row, CleanSettings(steps={"white_space": "drop"})))
    assert (rejected.action, rejected.reason, rejected.line) == ("rejected", "white_space", 3)


def test_details_never_hold_text_of_the_row():
    row = chat(
        "Secret 4111 why?", "Secret 4111.\u200b <b>Secret</b> 4111 " + "Secret 4111 is a number here. " * 5
    )
    outcome = clean(row, PLAIN)
    assert outcome.changes and "4111" not in str(outcome.changes) + str(outcome.notes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": {"htlm": "off"}}, "no filter is called 'htlm'"),
        ({"steps": {"refusal": "repair"}}, "refusal cannot repair; it can be drop, note, off"),
        ({"language": "German"}, "language"),
        ({"boilerplate": 1}, "boilerplate"),
        ({"step": {}}, "unknown setting 'step'"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build(CleanSettings, values)


def test_rows_outcomes_and_settings_travel_between_processes():
    settings = CleanSettings(steps={"html": "note"})
    row = replace(chat("a", "b\u200b"), meta=Meta("x", 1))
    for value in (settings, clean(row, settings)):
        assert pickle.loads(pickle.dumps(value)) == value
