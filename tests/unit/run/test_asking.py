"""What is said about answers that were cut."""

from tunewright.evaluate.runner import Answers, Evaluator
from tunewright.models.generate import Sampling


def test_cut_answers_are_counted():
    judge = Evaluator(None, [], [], Sampling(max_new_tokens=64), lambda model: None)
    assert judge.remarks(Answers(texts=["a"] * 5)) == []
    [said] = judge.remarks(Answers(texts=["a"] * 5, unfinished=2))
    assert said == "2 of 5 answers were cut before they ended (evaluate.max_new_tokens is 64)"
