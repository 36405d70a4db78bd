"""Questions, readings and likelihoods against hand-made and plain-transformers values."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core.errors import DataError
from tunewright.core.records import Conversation, Labelled, Message, Meta, Text
from tunewright.data.render import Renderer
from tunewright.evaluate.baselines import choose_shots, with_shots
from tunewright.evaluate.runner import Evaluator, answer_likelihood, drawn, longest_answer, questions, reading
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling


def chat(question, answer, system=None, line=1):
    system = (Message("system", system),) if system else ()
    return Conversation(
        (*system, Message("user", question), Message("assistant", answer)), Meta("f.jsonl", line)
    )


ROWS = [chat("one?", "1", line=1), chat("two, please?", "it is 2", line=2), chat("three?", "", line=3)]


@pytest.fixture(scope="module")
def renderer():
    return Renderer(tiny_tokenizer(), max_length=512)


def plain_nll(model, renderer, row):
    """Summed -log p of the answer and its end, by transformers alone, without packing."""
    [tokens] = renderer.conversation(row)
    with torch.inference_mode():
        logprobs = model(torch.tensor([tokens.ids])).logits[0].log_softmax(-1)
    return -sum(
        float(logprobs[i - 1, token])
        for i, (token, weight) in enumerate(zip(tokens.ids, tokens.weights, strict=True))
        if weight
    ), sum(w != 0 for w in tokens.weights)


def test_questions_end_before_the_last_answer():
    labelled = Labelled((Message("user", "good?"),), "yes", Meta("f.jsonl", 4))
    asked = questions([*ROWS, labelled, Text("a document", Meta("f.txt", 1))])
    assert [q.reference for q in asked] == ["1", "it is 2", "", "yes", ""]
    assert [len(q.prompt) for q in asked] == [1, 1, 1, 1, 0]
    assert asked[3].where == "f.jsonl:4"
    unanswered = Conversation((Message("user", "well?"),), Meta("f.jsonl", 9))
    with pytest.raises(DataError, match=r"f\.jsonl:9: no final assistant turn"):
        questions([unanswered])


def test_likelihood_equals_plain_transformers_for_every_row(renderer):
    model = tiny_model()
    expected = np.array([plain_nll(model, renderer, row) for row in ROWS])
    sequences = [reading(renderer, q, 2048) for q in questions(ROWS)]
    for micro in (16, 2048):
        found = answer_likelihood(ModelForward(model), sequences, micro)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[2, 1] == 1  # an empty answer still has its end of turn


def test_only_the_last_answer_is_read(renderer):
    asked = questions([ROWS[1]])
    [alone] = reading(renderer, asked[0], 2048)
    [behind] = reading(renderer, asked[0], 2048, [ROWS[0]])
    assert sum(behind.weights) == sum(alone.weights) > 1
    assert len(behind.ids) > len(alone.ids)
    count = int(sum(alone.weights))
    written = [i for i, w in zip(behind.ids, behind.weights, strict=True) if w]
    assert (
        written == [i for i, w in zip(alone.ids, alone.weights, strict=True) if w] and len(written) == count
    )


def test_documents_are_read_in_pieces(renderer):
    [asked] = questions([Text("a longer document " * 8)])
    whole, pieces = reading(renderer, asked, 512), reading(renderer, asked, 16)
    assert len(whole) == 1 and len(pieces) > 2 and max(p.size for p in pieces) == 16
    read = [[i for i, w in zip(p.ids, p.weights, strict=True) if w] for p in pieces]
    assert [i for part in read for i in part] == whole[0].ids[
        1:
    ]  # each token once, but the first, which nothing predicts


def test_the_evaluator_scores_text_and_likelihood(renderer):
    model, seen = tiny_model(), []
    judge = Evaluator(
        renderer,
        questions(ROWS),
        ["exact_match", "perplexity"],
        Sampling(max_new_tokens=4, stop_ids=renderer.stop_ids),
        ModelForward,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    answers = judge(model)
    assert len(answers.texts) == 3 and answers.new_tokens <= 12 and seen[-1] == (3, 3)
    assert answers.scores["exact_match"].tolist() == [
        float(t.strip() == q.reference) for t, q in zip(answers.texts, judge.questions, strict=True)
    ]
    np.testing.assert_allclose(
        answers.scores["perplexity"], [plain_nll(model, renderer, row) for row in ROWS], rtol=1e-5
    )
    assert judge(model, ROWS[:1]).scores["perplexity"][1, 0] != answers.scores["perplexity"][1, 0]


def test_answers_may_be_a_quarter_longer_than_the_longest_reference(renderer):
    asked = questions(ROWS)
    longest = len(renderer.plain_ids("it is 2"))
    room, why = longest_answer(renderer, asked, 512)
    assert room == int(longest * 1.25) + 8 and why == "a quarter over the longest reference"
    assert longest_answer(renderer, asked, 512, ceiling=3)[0] == 3
    assert "the most that auto allows" in longest_answer(renderer, asked, 512, ceiling=3)[1]
    assert longest_answer(renderer, asked, 4)[0] == 4
    assert f"context; the longest reference has {longest} tokens" in longest_answer(renderer, asked, 4)[1]


def test_the_rows_that_are_asked_are_drawn_by_content_and_stay_in_order():
    rows = [chat(f"q{i}", f"a{i}", line=i) for i in range(30)]
    taken = drawn(rows, 10, seed=3)
    lines = [e.meta.line for e in taken]
    assert len(lines) == 10 and lines == sorted(lines) and lines != list(range(10))
    assert {e.meta.line for e in drawn(rows[::-1], 10, seed=3)} == set(lines)
    assert set(lines) <= {e.meta.line for e in drawn(rows, 20, seed=3)}
    assert [e.meta.line for e in drawn(rows, 10, seed=4)] != lines
    assert drawn(rows, None, seed=3) == drawn(rows, 99, seed=3) == rows


def test_shots_differ_in_their_answers_and_do_not_depend_on_order():
    rows = [chat(f"q{i}", "ab"[i % 2] if i < 8 else "c", line=i) for i in range(9)]
    shots = choose_shots(rows, 3, seed=1)
    assert sorted(s.messages[-1].content for s in shots) == ["a", "b", "c"]
    assert choose_shots(rows[::-1], 3, seed=1) == shots
    assert len(choose_shots(rows, 5, seed=1)) == 5 and len(choose_shots(rows, 99, seed=1)) == 9
    assert any(choose_shots(rows, 3, seed=s) != shots for s in range(2, 9))
    assert choose_shots([Text("x")], 3, seed=1) == []
    mixed = [replace(row, meta=replace(row.meta, mixed="g.jsonl")) for row in rows]
    assert choose_shots([*mixed[:7], *rows[7:]], 9, seed=1) == choose_shots(rows[7:], 9, seed=1)


def test_shots_stand_between_the_system_message_and_the_question():
    turns = with_shots([chat("a", "A", system="other")], chat("b", "B", system="be brief").messages[:-1])
    assert [(m.role, m.content) for m in turns] == [
        ("system", "be brief"),
        ("user", "a"),
        ("assistant", "A"),
        ("user", "b"),
    ]
