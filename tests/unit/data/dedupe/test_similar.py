"""Exact similarity of two rows, against worked values."""

import pytest

from tunewright.data.dedupe.similar import Comparer, compared, interchangeable, similarity, similarity_of
from tunewright.data.dedupe.sketch import ANSWER, TURN

WORDS = [f"w{'abcdefghij'[i // 10]}{'abcdefghij'[i % 10]}" for i in range(60)]


def text(count, **replaced):
    words = WORDS[:count]
    for place, word in replaced.items():
        words[int(place[1:])] = word
    return " ".join(words)


def chat(asked, answered):
    return f"user: {asked}{ANSWER}assistant: {answered}"


def may_go(a, b):
    return interchangeable(*compared([a, b]))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (text(10), text(10), 1.0),
        (text(10), text(10).upper() + " !", 1.0),
        (text(27), text(27, _9="new"), 24 / 30),
        (text(26), text(26, _9="new"), 23 / 29),
        (text(10), text(10) + " new", 9 / 12),
        (text(9), text(9).replace(WORDS[8], ""), 7 / 10),
        (text(10), text(10, _0="new"), 8 / 12),
        (text(3), "nothing of it here", 0.0),
        ("", "", 1.0),
        ("", "a", 0.0),
        ("?", "!", 0.0),
        ("? !", "?!", 1.0),
        ("a", "a", 1.0),
        ("yes", "no", 0.0),
    ],
)
def test_worked_values_of_documents(a, b, expected):
    assert similarity_of(a, b) == pytest.approx(expected)
    assert similarity_of(b, a) == similarity_of(a, b)


def test_rows_are_as_similar_as_their_least_similar_turn():
    long = text(60)
    assert similarity_of(chat(long, "yes"), chat(long, "yes")) == 1.0
    assert similarity_of(chat(long, "yes"), chat(long, "no")) == 0.0  # all shingles hold the other word
    assert similarity_of(chat("why", long), chat("how", long)) < 0.5
    assert similarity_of(chat(long, text(27)), chat(long, text(27, _9="new"))) == pytest.approx(24 / 30)
    assert similarity_of(chat(long, ":)"), chat(long, ":(")) == 0.0


def test_turns_must_face_turns_of_the_same_role_on_the_same_side():
    assert similarity_of(chat("a", "b"), f"system: a{ANSWER}assistant: b") == 0.0
    assert similarity_of(chat("a", "b"), f"user: a{TURN}assistant: b{ANSWER}") == 0.0
    assert similarity_of(chat("a", "b"), f"user: a{TURN}user: a{ANSWER}assistant: b") == 0.0
    assert similarity_of(f"user: a{ANSWER}", "user: a") == 0.0
    assert similarity_of(ANSWER, ANSWER) == 1.0


def test_a_question_with_another_number_is_another_question():
    one, other = (chat(f"{text(60)} {n} apples", "fine") for n in (12, 13))
    assert similarity_of(one, other) == 0.0
    assert similarity_of(*(chat("why", f"{text(60)} {n} apples") for n in (12, 13))) > 0.9
    assert similarity_of(*(f"{text(60)} {n} apples" for n in (12, 13))) > 0.9
    long = " ".join([text(60)] * 4)
    assert similarity_of(*(chat(f"{long} {n} apples", "fine") for n in (12, 13))) > 0.9


@pytest.mark.parametrize("word", ["not", "12", "Never", "nicht", "isn't"])
def test_an_answer_with_another_number_or_a_negation_may_not_go(word):
    a, b = chat("why", text(60)), chat("why", text(60, _30=word))
    assert similarity_of(a, b) > 0.8
    assert not may_go(a, b)
    assert may_go(chat("why", text(60, _30="new")), a)
    assert may_go(text(60), text(60, _30=word))


def test_rows_are_read_again_after_they_were_put_out_of_memory():
    read = []

    def text_of(row):
        read.append(row)
        return text(10 + row)

    comparer = Comparer(text_of, kept=30)
    comparer.load([0, 1, 2, 3])
    assert comparer.similarity(0, 1) == pytest.approx(similarity_of(text(10), text(11)))
    assert comparer.interchangeable(0, 1)
    assert read.count(3) == 1 and read.count(0) == 2


def test_long_loads_come_in_pieces():
    big = "word " * 500_000
    comparer = Comparer(lambda row: big + str(row % 2))
    comparer.load([0, 1, 2])
    assert comparer.similarity(0, 2) == 1.0
    assert similarity(*compared(["a b c"] * 2)) == 1.0
