"""Which rows the student answers itself, what it is asked, and what becomes of its answer."""

import pytest
import torch
from torch import nn

from tests.tiny import chat_tokenizer, tiny_tokenizer
from tunewright.core.records import Conversation, Message, Meta, Tokens
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.objectives.sampler import Sampled
from tunewright.objectives.student_answers import StudentAnswers, asked, continued

CHAT = (
    Message("user", "What is the capital?"),
    Message("assistant", "It's Paris."),
    Message("user", "And the order?"),
    Message("assistant", "A refund, thank you."),
)


class Says:
    """A sampler that answers every prompt with its number, and remembers what it was asked."""

    def __init__(self, tokens=3):
        self.calls, self.tokens = [], tokens

    def sample(self, prompts, group, seed):
        self.calls.append((tuple(map(tuple, prompts)), group, seed))
        return [
            [Sampled([7] * self.tokens, None, [1.0] * self.tokens, i % 2 == 0, "")]
            for i in range(len(prompts))
        ]


def source(share, sampler=None, rows=40, limit=512, seed=0):
    renderer = Renderer(tiny_tokenizer())
    chats = [
        Conversation((Message("user", f"order {i}"), Message("assistant", "yes")), Meta("f", i))
        for i in range(rows)
    ]
    stored = [renderer.conversation(chat)[0] for chat in chats]
    return StudentAnswers(stored, nn.Linear(1, 1), sampler or Says(), (share, seed), limit)


@pytest.mark.parametrize("template", ["chatml", "llama3", "gemma", "phi3", "mistral", "alpaca", "qwen3"])
@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_it_is_asked_with_the_prompt_of_the_last_answer(template, train_on):
    renderer = Renderer(chat_tokenizer(template), train_on=train_on)
    tokens = renderer.conversation(Conversation(CHAT, Meta("rows.jsonl", 3)))[-1]
    prompt = asked(tokens)
    assert prompt.ids == renderer.prompt(CHAT[:-1])
    assert set(prompt.weights) == {0.0} and prompt.meta.line == 3
    if template != "qwen3":  # it rewrites earlier turns, so they stand in sequences of their own
        assert any(tokens.weights[: len(prompt.ids)]) is (train_on != "last")  # now they are context


def test_what_has_no_answer_has_no_question():
    renderer = Renderer(tiny_tokenizer(), train_on="message")
    muted = [Message(m.role, m.content, 1.0 if i == 1 else None) for i, m in enumerate(CHAT)]
    assert asked(renderer.document_chunks("The capital of France")[0]) is None
    assert asked(renderer.conversation(Conversation(CHAT))[0]) is None
    first = asked(renderer.conversation(Conversation(tuple(muted)))[0])  # the last turn is not learnt
    assert first.ids == renderer.prompt(CHAT[:1])


def test_a_share_of_the_rows_is_drawn_anew_in_every_step():
    half = source(0.5)
    counts = []
    for step in range(1, 51):
        drawn = half.draw(step, range(40))
        own = [bool(tokens.branches) for tokens in drawn.sequences]
        counts.append(tuple(own))
        assert drawn.metrics["on_policy"] == sum(own) / 40
        for row, tokens in enumerate(drawn.sequences):
            assert tokens.meta.line == row
            assert tokens.branches or tokens is half.stored[row]
    assert 0.45 < sum(map(sum, counts)) / 2000 < 0.55  # 4.5 standard deviations
    assert len(set(counts)) == 50
    assert not any(t.branches for t in source(0.0).draw(1, range(40)).sequences)
    assert all(t.branches for t in source(1.0).draw(1, range(40)).sequences)


def test_a_draw_depends_on_seed_step_and_rows_only():
    sampler, again, other = Says(), Says(), Says()
    first = source(0.5, sampler).draw(3, [5, 2, 9, 30])
    late = source(0.5, again)
    late.draw(1, [4, 5])
    late.restore(source(0.5).state())
    assert late.draw(3, [5, 2, 9, 30]) == first
    assert sampler.calls[0] == again.calls[-1]
    assert len({call[2] for call in again.calls}) == 2  # steps draw other numbers
    source(0.5, other, seed=1).draw(3, [5, 2, 9, 30])
    assert other.calls[0][2] != sampler.calls[0][2]
    assert source(0.5).rows(7) == range(40) and source(0.5).sizes == [t.size for t in source(0.5).stored]


def test_the_answer_has_weight_and_the_prompt_has_none():
    own = source(1.0, Says(tokens=4))
    [tokens] = own.draw(1, [6]).sequences
    [branch] = tokens.branches
    assert (branch.ids, branch.weights) == ([7] * 4, [1.0] * 4) and tokens.trained == 4
    assert tokens.ids == asked(own.stored[6]).ids
    batch = build_batch([tokens])
    assert batch.targets.ids.tolist() == [7] * 4
    assert batch.targets.source[0] == len(tokens.ids) - 1  # predicted from the last token of the prompt
    assert own.draw(1, [6, 7, 8]).metrics == {
        "on_policy": 1.0,
        "answer_tokens": 4.0,
        "finished": pytest.approx(2 / 3),
    }


def test_an_answer_is_cut_at_the_limit():
    prompt = Tokens([1, 2, 3], [0.0] * 3, task="a")
    answer = Sampled([4, 5, 6, 7], None, [1.0] * 4, True, "")
    assert continued(prompt, answer, 5).branches[0].ids == [4, 5]
    assert continued(prompt, answer, 7).branches[0].ids == [4, 5, 6, 7]
    assert continued(prompt, answer, 3).branches[0].ids == [4]  # something must be learnt
    assert continued(prompt, answer, 7).task == continued(prompt, answer, 7).branches[0].task == "a"


def test_the_student_samples_in_evaluation_mode_and_without_gradient():
    own = source(1.0)
    own.model.train()

    class Looks(Says):
        def sample(self, prompts, group, seed):
            assert not own.model.training and not torch.is_grad_enabled() and group == 1
            return super().sample(prompts, group, seed)

    own.sampler = Looks()
    own.draw(1, [0])
    assert own.model.training and own.sampler.calls
