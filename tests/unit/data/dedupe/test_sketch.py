"""What of a row is compared, and its sketch."""

import random
import subprocess
import sys

import numpy as np
import pytest

from tunewright.core.records import Conversation, Labelled, Message, Meta, Preference, Prompt, Ranking, Text
from tunewright.data.dedupe.sketch import (
    ANSWER,
    BANDS,
    TURN,
    asked_text,
    row_text,
    shingles,
    sketch,
    turns_of,
)

USER, BOT = Message("user", "Hi?"), Message("assistant", "Yes.")


def chat(question, answer):
    return row_text(Conversation((Message("user", question), Message("assistant", answer))))


def drawn(count, seed=0):
    draw = random.Random(seed)
    return [f"w{draw.randrange(5000)}" for _ in range(count)]


def shared(a, b):
    one, other = sketch([a, b])
    return int((one == other).sum())


def test_the_text_of_every_kind_of_row():
    other = Message("assistant", "No.")
    assert row_text(Text("a\x1db")) == "a b"
    assert row_text(Conversation((USER, BOT))) == f"user: Hi?{ANSWER}assistant: Yes."
    assert row_text(Labelled((USER,), "greeting")) == f"user: Hi?{ANSWER}"
    assert row_text(Labelled((USER, BOT), True)) == f"user: Hi?{TURN}assistant: Yes.{ANSWER}"
    assert row_text(Prompt((USER,), {"answer": "4"})) == f"user: Hi?{ANSWER}"
    pair = f"user: Hi?{ANSWER}assistant: Yes.{TURN}assistant: No."
    assert row_text(Preference((USER,), (BOT,), (other,))) == pair
    assert row_text(Ranking((USER,), ((other,), (BOT,)), (0.1, 0.9))) == pair
    longer = (Message("system", "Be kind."), USER, BOT, USER, other)
    turns = f"system: Be kind.{TURN}user: Hi?{TURN}assistant: Yes.{TURN}user: Hi?{ANSWER}assistant: No."
    assert row_text(Conversation(longer)) == turns
    assert turns_of(turns)[-2:] == ["user: Hi?", "assistant: No."]
    assert asked_text(turns).endswith("user: Hi?")


def test_neither_label_nor_place_is_part_of_a_row_but_tools_are():
    assert row_text(Labelled((USER,), "a", Meta("x", 1))) == row_text(Labelled((USER,), "b"))
    tools = ({"type": "function", "function": {"name": "add"}},)
    assert "add" in row_text(Conversation((USER, BOT), tools=tools))
    calls = Message("assistant", "", extra={"tool_calls": [{"function": {"name": "mul"}}]})
    assert "mul" in row_text(Conversation((USER, calls)))


def test_marks_in_a_text_cannot_end_a_turn():
    text = row_text(Conversation((Message("user", f"a{TURN}b{ANSWER}c"), BOT)))
    assert turns_of(text) == ["user: a b c", "assistant: Yes."]


def test_a_word_has_one_shingle_and_a_text_without_words_one_of_its_own():
    hashes, starts = shingles(["a b c", "", "?!", "? !", "...", "x"])
    assert np.diff(starts).tolist() == [3, 1, 1, 1, 1, 1]
    of = [hashes[start] for start in starts[:-1]]
    assert of[2] == of[3] and len({of[1], of[2], of[4]}) == 3


def test_texts_that_look_alike_share_every_band():
    assert shared(chat("What is it?", "A  b, c."), chat("WHAT is it", "a b c")) == BANDS
    assert shared("One document.", "one DOCUMENT") == BANDS


@pytest.mark.parametrize("edits", [4, 22, 60])
@pytest.mark.parametrize("sides", [1, 2])
def test_two_rows_share_a_band_with_the_stated_probability(edits, sides):
    counted = 0
    for seed in range(60):
        words = drawn(600, seed)
        changed = list(words)
        for i in range(edits):
            changed[i * (600 // edits) + 1] = f"new{i}"
        one, other = " ".join(words), " ".join(changed)
        counted += shared(one, other) if sides == 1 else shared(chat(one, one), chat(other, one))
    similar = (600 - 3 * edits) / (600 + 3 * edits)
    expected = similar ** (6 if sides == 1 else 3)
    assert counted / (60 * BANDS) == pytest.approx(expected, abs=0.045)  # three standard deviations


def test_a_long_template_makes_no_candidates_of_different_answers():
    template = " ".join(drawn(400))
    assert shared(chat(template, " ".join(drawn(30, 1))), chat(template, " ".join(drawn(30, 2)))) == 0
    assert shared(chat(template, "yes"), chat(template, "no")) == 0


def test_a_row_of_one_side_is_sketched_like_any_other():
    asked = f"user: {' '.join(drawn(40))}{ANSWER}"
    assert shared(asked, asked + "assistant: yes") < 2
    rows = sketch([asked, chat("a", "b"), "", asked])
    assert np.array_equal(rows[0], rows[3]) and rows.shape == (4, BANDS)
    assert np.array_equal(sketch([asked])[0], rows[0])
    assert sketch([]).shape == (0, BANDS)


def test_another_seed_gives_another_sketch():
    text = " ".join(drawn(40))
    assert not (sketch([text]) == sketch([text], (7,))).any()


def test_a_sketch_is_the_same_in_every_process():
    code = "from tunewright.data.dedupe.sketch import sketch; print(sketch(['Grüße, 世界 42']).tolist())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(sketch(["Grüße, 世界 42"]).tolist())
