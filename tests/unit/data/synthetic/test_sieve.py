"""Nothing of the test data, no real row and no row twice comes through."""

import pytest

from tunewright.core.records import Conversation, Message, Meta, Preference
from tunewright.data.keys import prompt_key
from tunewright.data.near import near_texts
from tunewright.data.synthetic.mark import Mark
from tunewright.data.synthetic.sieve import sift

TEST = "Where in the old town can I leave my bicycle over night?"


def chat(question, line=1, answer="There.", **meta):
    return Conversation(
        (Message("user", question), Message("assistant", answer)), Meta("x.jsonl", line, **meta)
    )


@pytest.mark.parametrize(
    ("question", "copied"),
    [
        (TEST.upper(), True),
        (f"Please tell me, dear. {TEST}", True),
        ("Where in the old town can I leave my car over night?", True),  # eight words
        ("Where in the old town may I leave my car over night?", False),
        ("May I park in town?", True),
        ("So, may i park in town? Thanks.", True),
        ("May I park in the town?", False),
    ],
)
def test_questions_of_the_test_are_refused(question, copied):
    kept, left = sift([chat(question)], [], [chat(TEST), chat("May I park in town?", 2)])
    assert [item.reason for item in left] == ["copies_test"] * copied and len(kept) == 1 - copied


def test_a_row_made_from_a_test_row_is_refused():
    origin = prompt_key(chat(TEST))
    made = chat("A bike?", synthetic=Mark("paraphrases", "m", origin=origin).text())
    assert [item.reason for item in sift([made], [], [chat(TEST)])[1]] == ["copies_test"]


def test_a_common_form_of_asking_says_nothing():
    form = "Classify the following message of a customer by its topic, please:"
    test = [chat(f"{form} {word} is broken here") for word in ("lamp", "door")]
    kept, left = sift([chat(f"{form} the roof leaks")], [], test)
    assert len(kept) == 1 and not left
    assert not sift([chat(f"{form} the roof leaks")], [], test[:1])[0]  # once, it is no common form


def test_duplicates():
    made = [chat("a?", 1), chat("B?", 2), chat("b?  ", 3, "Other."), chat("c?", 4)]
    kept, left = sift(made, [chat("A?", 9)], [])
    assert [e.meta.line for e in kept] == [2, 4]
    assert [(item.line, item.reason, item.detail) for item in left] == [
        (1, "duplicate", "equal to x.jsonl:9"),
        (3, "duplicate", "equal to one made from x.jsonl:2"),
    ]


def test_two_worse_answers_to_one_question_are_two_rows():
    prompt, good = (Message("user", "a?"),), (Message("assistant", "good"),)
    made = [Preference(prompt, good, (Message("assistant", t),), Meta("x", i)) for i, t in enumerate("uvu")]
    kept, left = sift(made, [chat("a?", answer="good")], [])
    assert [e.meta.line for e in kept] == [0, 1] and [item.line for item in left] == [2]


def test_near_duplicates_are_found_by_whoever_is_asked():
    def by_first_word(texts):
        words = [text.split()[0] for text in texts]
        return [words.index(word) for word in words]

    made = [chat("red a", 1), chat("blue b", 2), chat("blue c", 3), chat("green", 4)]
    kept, left = sift(made, [chat("red z", 9)], [], by_first_word)
    assert [e.meta.line for e in kept] == [2, 4]
    assert [(item.line, item.reason, item.detail) for item in left] == [
        (1, "near_duplicate", "nearly equal to x.jsonl:9"),
        (3, "near_duplicate", "nearly equal to x.jsonl:2"),
    ]


def test_near_texts():
    long = "If a parcel has been damaged on its way, may I send it back to you without paying for the postage"
    texts = [f"{long}?", "Where is my card?", f"{long} myself?", f"{long}!", "", "\x1e a \x1f"]
    assert near_texts(texts) == [0, 1, 0, 0, 4, 5]
    assert near_texts([]) == []
    kept, left = sift([chat(texts[2]), chat(texts[1])], [chat(texts[0], 9)], [], near_texts)
    assert [item.reason for item in left] == ["near_duplicate"] and len(kept) == 1
