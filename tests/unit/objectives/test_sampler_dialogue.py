"""Dialogues with a tool: one sequence, in which only the model's own tokens count."""

import re

import pytest
import torch

from tests.tiny import template_text, tiny_model, tiny_tokenizer
from tunewright.core.errors import ConfigError, TrainError
from tunewright.core.records import Conversation, Message, Meta, Prompt, Tokens
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling
from tunewright.objectives.dialogue import Dialogue, Question
from tunewright.objectives.sampler import Sampled, TransformersSampler

CALL = re.compile(r"calc\((\d+)\+(\d+)\)")


def calculator(messages):
    """Replies to ``calc(a+b)`` with the sum; anything else is an answer."""
    found = CALL.search(messages[-1]["content"])
    return [{"role": "tool", "content": str(int(found[1]) + int(found[2]))}] if found else None


class Script:
    """A sampler that says what it is told, and notes what it was asked."""

    def __init__(self, renderer, *turns, finished=True):
        self.renderer, self.turns, self.finished, self.asked = renderer, list(turns), finished, []

    def sample(self, prompts, group, seed):
        self.asked.append(([list(p) for p in prompts], seed))
        texts = iter(self.turns.pop(0))
        return [[self.says(next(texts)) for _ in range(group)] for _ in prompts]

    def says(self, text):
        ids = [*self.renderer.plain_ids(text), *([self.renderer.end_of_turn] if self.finished else [])]
        logprobs = [-float(i + 1) for i in range(len(ids))]
        return Sampled(ids, logprobs, [1.0] * len(ids), self.finished, text)


@pytest.fixture(scope="module")
def renderer():
    return Renderer(tiny_tokenizer(), train_on="message")


def question(renderer, text="What is 2+40, and 1+1?"):
    prompt = Prompt((Message("user", text),), meta=Meta("rows.jsonl", 3))
    return Question(renderer.prompt(prompt.messages), prompt)


def dialogue(sampler, renderer, environment=calculator, max_turns=4, room=500):
    return Dialogue(sampler, renderer, environment, max_turns, room)


def test_a_tool_is_asked_until_the_model_answers(renderer):
    script = Script(renderer, ["calc(2+40)", "calc(1+1)"], ["It's 42.", "calc(2+2)"], ["4"])
    asked = question(renderer)
    [[first, second]] = dialogue(script, renderer)([asked], 2, seed=7)
    expected = [
        (first, ["calc(2+40)", "It's 42."], ["42"]),
        (second, ["calc(1+1)", "calc(2+2)", "4"], ["2", "4"]),
    ]
    for answer, said, results in expected:
        assert answer.finished and answer.text == said[-1]
        # The same ids and weights as the whole conversation has in supervised training.
        turns = [Message("assistant", said[0], 1.0)]
        for result, text in zip(results, said[1:], strict=True):
            turns += [Message("tool", result), Message("assistant", text, 1.0)]
        [whole] = renderer.conversation(Conversation((*asked.prompt.messages, *turns)))
        size = len(asked.ids)
        end = size + len(answer.ids)
        assert whole.ids[:end] == [*asked.ids, *answer.ids]
        assert whole.weights[size:end] == answer.weights
        assert not any(whole.weights[end:])
        assert sum(answer.weights) == sum(len(renderer.plain_ids(text)) + 1 for text in said)
        assert all(p == 0.0 for p, w in zip(answer.logprobs, answer.weights, strict=True) if not w)
        assert all(p < 0.0 for p, w in zip(answer.logprobs, answer.weights, strict=True) if w)
    assert [len(prompts) for prompts, _ in script.asked] == [1, 2, 1]
    assert len({seed for _, seed in script.asked}) == 3
    assert script.asked[2][0][0] == [*asked.ids, *second.ids][: len(script.asked[2][0][0])]


def test_the_environment_is_not_asked_after_the_last_turn(renderer):
    calls = []

    def endless(messages):
        calls.append([m["role"] for m in messages])
        return [{"role": "user", "content": "more"}]

    script = Script(renderer, ["one"], ["two"], ["three"])
    [[answer]] = dialogue(script, renderer, endless, max_turns=3)([question(renderer)], 1, seed=0)
    assert answer.finished and answer.text == "three"
    assert calls == [["user", "assistant"], ["user", "assistant", "user", "assistant"]]


def test_a_dialogue_ends_where_an_answer_was_cut_or_no_room_is_left(renderer):
    cut = Script(renderer, ["calc(1+1)"], finished=False)
    [[answer]] = dialogue(cut, renderer)([question(renderer)], 1, seed=0)
    assert not answer.finished and answer.text == "calc(1+1)" and len(cut.asked) == 1
    asked = question(renderer)
    wide = Script(renderer, ["calc(1+1)"], ["2"])
    dialogue(wide, renderer)([asked], 1, seed=0)
    second = len(wide.asked[1][0][0])  # tokens before the second answer
    for room, turns in ((second, 1), (second + 1, 2)):
        script = Script(renderer, ["calc(1+1)"], ["2"])
        [[answer]] = dialogue(script, renderer, room=room)([asked], 1, seed=0)
        assert len(script.asked) == turns and answer.finished == (turns == 2)
        assert all(answer.weights) == (turns == 1)


def test_unknown_log_probabilities_stay_unknown(renderer):
    script = Script(renderer, ["calc(1+1)"], ["2"])
    said = script.says
    script.says = lambda text: _untold(said(text)) if text != "2" else said(text)
    [[answer]] = dialogue(script, renderer)([question(renderer)], 1, seed=0)
    assert answer.logprobs is None and answer.finished


def _untold(answer):
    return Sampled(answer.ids, None, answer.weights, answer.finished, answer.text)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("text", "must return a list of messages"),
        ([], "must return a list of messages"),
        ([{"role": "assistant", "content": "x"}], "needs a role"),
        ([{"role": "tool", "content": 3}], "needs a role"),
        (["x"], "needs a role"),
    ],
)
def test_what_an_environment_may_not_say(renderer, reply, message):
    script = Script(renderer, ["one"])
    with pytest.raises(TrainError) as caught:
        dialogue(script, renderer, lambda messages: reply)([question(renderer)], 1, seed=0)
    assert "rows.jsonl:3" in str(caught.value) and message in str(caught.value)


def test_an_environment_that_fails_is_named(renderer):
    with pytest.raises(TrainError, match=r"rows.jsonl:3 after 'one': KeyError: 'lost'"):
        dialogue(Script(renderer, ["one"]), renderer, lambda messages: {}["lost"])(
            [question(renderer)], 1, seed=0
        )


def test_a_template_that_forgets_turns_is_refused():
    forgetful = "{% if messages|length > 2 %}(earlier: much){% endif %}" + template_text("chatml")
    renderer = Renderer(tiny_tokenizer(template=forgetful))
    with pytest.raises(ConfigError, match="rewrites earlier turns or does not end them"):
        dialogue(Script(renderer, ["calc(1+1)"]), renderer)([question(renderer)], 1, seed=0)


def test_a_model_in_dialogue_is_trained_on_what_it_read(renderer):
    """The trainer, on the packed sequence, finds the log-probabilities the sampler had turn by turn."""
    model = tiny_model("llama")
    sampling = Sampling(max_new_tokens=5, temperature=1.0, stop_ids=frozenset(range(150)))
    sampler = TransformersSampler(model, sampling, renderer.decode)
    asked = question(renderer)

    def echo(messages):
        return [{"role": "tool", "content": f"{len(messages)} so far"}]

    [answers] = dialogue(sampler, renderer, echo, max_turns=3)([asked], 6, seed=5)
    spoken = [a for a in answers if 0.0 in a.weights]
    assert len(spoken) >= 3
    branches = tuple(Tokens(a.ids, a.weights) for a in answers)
    batch = build_batch([Tokens(asked.ids, [0.0] * len(asked.ids), branches=branches)])
    for segment in batch.segments[1:]:
        positions = batch.positions[segment.start : segment.start + segment.length]
        assert positions.tolist() == list(range(len(asked.ids), len(asked.ids) + segment.length))
    with torch.no_grad():
        found = ModelForward(model).logprobs(batch)
    told = [p for a in answers for p, w in zip(a.logprobs, a.weights, strict=True) if w]
    assert len(told) == len(found)
    torch.testing.assert_close(found, torch.tensor(told), rtol=0, atol=5e-6)
