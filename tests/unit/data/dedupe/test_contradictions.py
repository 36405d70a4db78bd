"""Rows that ask the same and say different things."""

import numpy as np

from tunewright.core.records import Conversation, Labelled, Message, Preference, Prompt, Ranking, Text
from tunewright.data.dedupe.clusters import InMemory, clusters
from tunewright.data.dedupe.contradictions import (
    SHOWN,
    Contradiction,
    Contradictions,
    contradictions,
    label_conflicts,
    label_hash,
    said,
)
from tunewright.data.dedupe.ordered import Space
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.sketch import row_text, sketch


def chat(*turns):
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)))


def labelled(text, label):
    return Labelled((Message("user", text),), label)


def pair(chosen, rejected):
    turns = [(Message("assistant", text),) for text in (chosen, rejected)]
    return Preference((Message("user", "Which?"),), *turns)


def found(examples, chunk=1000, **settings):
    texts = [row_text(example) for example in examples]
    parts = [
        (np.arange(start, min(start + chunk, len(examples))), said(examples[start : start + chunk]))
        for start in range(0, len(examples), chunk)
    ]
    flags = np.array([isinstance(example, Labelled) for example in examples])
    return contradictions(parts, Comparer(texts.__getitem__), flags, **settings)


def rows(examples, **settings):
    return [one.rows for one in found(examples, **settings).found]


def test_look_alike_questions_with_different_answers():
    examples = [
        chat("Is it open?", "Yes."),
        chat("is it open", "Closed today."),
        chat("Is it shut?", "No."),
        chat("IS IT OPEN ??", "yes"),
    ]
    assert found(examples).found == [Contradiction((0, 1, 3), 3, 2)]
    assert rows(examples[2:]) == []


def test_answers_that_are_near_each_other_agree_unless_a_number_or_a_negation_differs():
    long = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(60))
    assert rows([chat("Why?", long), chat("why", f"{long} indeed")]) == []
    assert rows([chat("Why?", long), chat("why", f"{long} not")]) == [(0, 1)]
    assert rows([chat("Why?", f"{long} 12"), chat("why", f"{long} 13")]) == [(0, 1)]


def test_the_whole_conversation_before_the_answer_is_the_question():
    assert rows([chat("Hi", "Hello", "Well?", "Yes"), chat("Hi", "Hello", "Well?", "Never")]) == [(0, 1)]
    assert rows([chat("Hi", "Hello", "Well?", "Yes"), chat("Hi", "Hey", "Well?", "Never")]) == []


def test_labels_pairs_and_rankings():
    assert rows([labelled("My card!", "lost"), labelled("my card", "stolen")]) == [(0, 1)]
    assert rows([labelled("My card!", "lost"), labelled("my card", "lost")]) == []
    assert rows([labelled("My card!", 1.5), labelled("my card", 2.5)]) == [(0, 1)]
    assert rows([labelled("My card!", True), labelled("my card", False)]) == [(0, 1)]
    assert rows([pair("A cat", "A dog"), pair("a dog", "a cat")]) == [(0, 1)]
    assert rows([pair("A cat", "A dog"), pair("a cat", "a dog")]) == []
    assert rows([pair("A cat", "A dog"), pair("a cat", "a bird")]) == []
    answers = ((Message("assistant", "x"),), (Message("assistant", "y"),))
    ranked = [Ranking((Message("user", "Which?"),), answers, scores) for scores in ((1, 2), (2, 1))]
    assert rows(ranked) == [(0, 1)] and rows(ranked[:1] * 2) == []


def test_prompts_and_documents_contradict_nothing():
    prompts = [Prompt((Message("user", "Go"),), {"answer": n}) for n in ("1", "2")]
    assert found(prompts).rows == 0
    assert rows([*prompts, Text("a"), Text("a"), chat("Go", "1")]) == []


def test_different_answers_without_words_are_told_apart_and_so_are_questions():
    assert rows([chat("Smile", ":)"), chat("Smile", ":(")]) == [(0, 1)]
    assert rows([chat("?", "yes"), chat("!", "no")]) == []


def test_several_answers_on_purpose_are_called_so():
    samples = [chat(f"Question {n}", answer) for n in range(5) for answer in ("red", "green", "blue")]
    result = found(samples)
    assert len(result.found) == 5 and result.rows == 15 and result.on_purpose
    lone = [chat(f"Other {n}", "fine") for n in range(50)]
    assert not found([*samples, *lone]).on_purpose
    assert not Contradictions([], 0).on_purpose


def test_a_question_with_very_many_answers_is_reported_once():
    result = found([chat("Tell me a name", f"name{'abcdefghij'[n % 10]}{n}") for n in range(500)])
    assert [(one.count, one.answers, len(one.rows)) for one in result.found] == [(500, 500, SHOWN)]


def test_chunks_and_memory_do_not_matter(tmp_path):
    examples = [chat(f"Question {n % 40}", f"answer {n % 3}") for n in range(200)]
    whole = found(examples)
    assert len(whole.found) == 40
    for chunk, limit in ((7, 9), (1, 1), (64, 50)):
        assert found(examples, chunk=chunk, space=Space(tmp_path, limit)) == whole


def test_near_identical_texts_with_different_labels():
    text = " ".join(f"w{i}" for i in range(60))
    examples = [labelled(text, "a"), labelled(f"{text} more", "b"), labelled(f"{text} else", "a")]
    examples += [labelled("another", "a"), labelled("another", "a"), Text("no label")]
    texts = [row_text(example) for example in examples]
    clustered = clusters(InMemory(sketch(texts)), texts.__getitem__)
    labels = np.array([label_hash(example) for example in examples], np.uint64)
    assert labels[-1] == 0
    assert label_conflicts(clustered, labels) == [Contradiction((0, 1, 2), 3, 2)]
