"""When two rows are the same: exact duplicates, look-alikes and contradictions."""

from time import process_time

import pytest

from tunewright.core.records import Conversation, Labelled, Message, Meta, Preference, Prompt, Ranking
from tunewright.data.check_rules import answers_in
from tunewright.data.keys import (
    answer_of,
    earlier_prompt_keys,
    look_alike_key,
    prompt_key,
    prompt_of,
    question_key,
    row_key,
    text_key,
    texts_of,
)

ASK = (Message("user", "q"),)
TOOLS = ({"name": "f"},)


def says(text):
    return (Message("assistant", text),)


def pair(chosen="a", rejected="b", **more):
    return Preference(ASK, says(chosen), says(rejected), **more)


def ranked(*answers, scores=(3.0, 2.0, 1.0), prompt=ASK, **more):
    return Ranking(prompt, tuple(map(says, answers)), scores, **more)


def asked(text="q", **fields):
    return Prompt((Message("user", text),), fields)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (pair(), pair(" a", meta=Meta("x", 1)), True),
        (pair(), pair(margin=1.0), False),
        (pair(margin=1.0), pair(margin=2.0), False),
        (pair(), pair(tools=TOOLS), False),
        (ranked("a", "b", "c"), ranked("a ", "b", "c"), True),
        (ranked("a", "b", "c"), ranked("b", "a", "c", scores=(2.0, 3.0, 1.0)), True),
        (ranked("a", "b", "c"), ranked("b", "a", "c"), False),
        (ranked("a", "b", "c"), ranked("a", "b", "c", scores=(4.0, 2.0, 1.0)), False),
        (ranked("a", "b", "c"), ranked("a", "b", "C"), False),
        (ranked("a", "b", "c"), ranked("a", "b", "c", tools=TOOLS), False),
        (asked(x=1, y=[2]), asked(" q", y=[2], x=1), True),
        (asked(x=1), asked(x=2), False),
        (asked(x=1), asked(x="1"), False),
        (asked(x=1), asked(), False),
        (asked(), asked("Q"), False),
        (asked(), Prompt((Message("user", "q"),), {}, tools=TOOLS), False),
        (Labelled(ASK, 1), Labelled(ASK, 1.0), False),
        (Labelled(ASK, ("a", "b")), Labelled(ASK, ("a",)), False),
    ],
)  # fmt: skip
def test_exact_duplicates(one, other, same):
    assert (row_key(one) == row_key(other)) is same


def test_prompts_that_differ_in_fields_look_alike_and_contradict_nothing():
    assert look_alike_key(asked(x=1)) == look_alike_key(asked("Q", x=2))
    assert look_alike_key(asked()) != look_alike_key(asked("r"))
    assert answer_of(asked(x=1)) == answer_of(asked(x=2)) == ""
    assert prompt_key(asked(x=1)) == prompt_key(asked("Q ", x=2)) != prompt_key(asked("r"))


def test_rankings_of_the_same_answers_contradict_each_other_if_their_order_differs():
    first, shuffled = ranked("a", "b", "c"), ranked("c", "A", "b", scores=(0.1, 9.0, 0.2))
    turned = ranked("a", "b", "c", scores=(1.0, 2.0, 3.0))
    assert question_key(first) == question_key(shuffled) == question_key(turned)
    assert question_key(first) != question_key(ranked("a", "b", "d"))
    assert question_key(first) != question_key(ranked("a", "b", "c", prompt=(Message("user", "r"),)))
    assert answer_of(first) == answer_of(shuffled) != answer_of(turned)
    assert look_alike_key(first) == look_alike_key(shuffled) != look_alike_key(turned)
    tied = [ranked(*names, scores=(2.0, 2.0, 1.0)) for names in ("abc", "bac")]
    assert answer_of(tied[0]) == answer_of(tied[1]) != answer_of(first)


def test_texts_of_a_ranking_and_of_a_prompt():
    assert list(texts_of(ranked("a", "b", "c"))) == ["q", "a", "b", "c"]
    assert answers_in(ranked("a", "b", "c")) == ["a", "b", "c"]
    assert prompt_of(ranked("a", "b", "c")) == ASK
    assert text_key(ranked("a", "b", "c")) == text_key(ranked("C", "b", "a"))
    chat = Prompt((*ASK, *says("a"), Message("user", "r")), {"secret": "z"})
    assert (list(texts_of(chat)), answers_in(chat)) == (["q", "a", "r"], [])
    assert prompt_of(chat) == chat.messages


def test_earlier_prompts_are_those_of_rows_that_end_there():
    turns = [Message("system", "Be  brief.")]
    for i in range(4):
        turns += [Message("user", f"Q {i}"), Message("assistant", f"A {i}")]
    chat = Conversation(tuple(turns))
    ends = [Conversation(tuple(turns[:end])) for end in (3, 5, 7)]
    assert earlier_prompt_keys(chat) == [prompt_key(end) for end in ends]


def test_earlier_prompts_of_a_very_long_chat_are_made_in_one_pass():
    turns = [Message("assistant" if i % 2 else "user", f"turn {i}") for i in range(100_000)]
    begun = process_time()
    assert len(earlier_prompt_keys(Conversation(tuple(turns)))) == 49_999
    assert process_time() - begun < 5
