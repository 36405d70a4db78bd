"""What is said about answers that were cut."""

from tunewright.evaluate.runner import Answers
from tunewright.run.asking import cut_short


def test_cut_answers_are_counted():
    assert cut_short(Answers(texts=["a"] * 5), 64) is None
    said = cut_short(Answers(texts=["a"] * 5, unfinished=2), 64)
    assert said == "2 of 5 answers were cut before they ended (evaluate.max_new_tokens is 64)"
