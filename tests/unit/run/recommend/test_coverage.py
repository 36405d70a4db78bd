"""Coverage by words: topics that meet, and those that do not."""

from itertools import combinations

import pytest

from tunewright.core.records import Conversation, Labelled, Message, Text
from tunewright.run.recommend.coverage import coverages, embedded, text_of

TOPICS = {
    "doctor": ("fever", "doctor", "patient", "cough", "tablet", "nurse", "surgery", "symptom"),
    "bank": ("card", "transfer", "account", "payment", "cash", "refund", "balance", "deposit"),
}


def rows(topic, count, start=0):
    words = TOPICS[topic]
    found = []
    for i in range(start, start + count):
        a, b, c = (words[(i * step + i // 8) % 8] for step in (1, 3, 5))
        found.append(
            Conversation((Message("user", f"The {a} and the {b}?"), Message("assistant", f"{c} {a}")))
        )
    return found


def test_the_topic_of_the_problem_is_covered_and_the_other_is_not():
    both = [*rows("doctor", 10, 40), *rows("bank", 10, 40)]
    sets = {"bank": rows("bank", 30), "doctor": rows("doctor", 30), "both": both}
    found = coverages(rows("doctor", 20, 100), sets, 0)
    assert found["doctor"].of_problem > 0.5
    assert found["doctor"].of_candidate > 0.5
    assert found["bank"].of_problem == found["bank"].of_candidate == 0.0
    assert 0.25 <= found["both"].of_candidate <= 0.5 < found["doctor"].of_candidate + 0.01
    assert found["doctor"].nearest > 0.9 > 0.2 > found["bank"].nearest
    assert len({c.near for c in found.values()}) == 1


def test_an_example_is_not_its_own_nearest_fellow():
    """All texts differ, so nothing may be as near as equal texts are."""
    texts = [Text(" ".join(words)) for words in combinations(TOPICS["doctor"], 3)]
    found = coverages(texts[::4], {"doctor": texts[1::4], "bank": rows("bank", 30)}, 0)
    assert 0.3 < found["doctor"].near < 0.98
    assert found["doctor"].of_problem > 0.4 > found["bank"].of_problem


def test_unrelated_sets_are_not_near_whatever_the_problem_is_like():
    """Examples that have nothing in common are not near to their fellows, so chance must set the bar."""
    problem = [Text(word) for word in TOPICS["doctor"]]
    found = coverages(problem, {"bank": rows("bank", 40)}, 0)["bank"]
    assert found.of_problem < 0.3


def test_vectors_are_units_and_a_text_without_words_is_zero():
    vectors = embedded(["card transfer", "fever doctor", "the and of", "card cash"], 0)
    assert (vectors**2).sum(1).tolist() == pytest.approx([1, 1, 0, 1])
    assert vectors[0] @ vectors[3] > vectors[0] @ vectors[1] + 0.2


def test_the_text_of_a_row_has_its_label():
    row = Labelled((Message("user", "where is it?"),), "card_arrival")
    assert text_of(row) == 'where is it?\n"card_arrival"'
    assert text_of(Conversation((Message("user", "q"), Message("assistant", "a")))) == "q\na"
