"""Cross-entropy by worked numbers, and what each objective accepts."""

import math

import pytest
import torch

from tunewright.core.errors import ConfigError
from tunewright.core.records import Conversation, Labelled, Message, Meta, Text, Tokens
from tunewright.engine.batch import build_batch
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import ContinuedPretraining, SupervisedFineTuning

SFT = SupervisedFineTuning("sft", SftOptions())


class Stub:
    """A forward whose log-probabilities are given."""

    def __init__(self, *probabilities):
        self.values = torch.tensor(probabilities).log()

    def logprobs(self, batch):
        return self.values


@pytest.mark.parametrize(
    ("weights", "probabilities", "total", "count"),
    [
        ([0.0, 1.0, 1.0], (0.5, 0.25), math.log(8), 2.0),
        ([0.0, 0.0, 2.0], (0.1,), 2 * math.log(10), 2.0),
        ([5.0, 0.5, 1.5], (0.5, 0.125), 0.5 * math.log(2) + 1.5 * math.log(8), 2.0),
    ],
)
def test_three_worked_numbers(weights, probabilities, total, count):
    batch = build_batch([Tokens([7, 8, 9], weights)])
    out = SFT.loss(Stub(*probabilities), batch)
    assert float(out.total) == pytest.approx(total, rel=1e-6) and float(SFT.count(batch)) == count


class Recorder:
    """A renderer that says what it was asked for."""

    def conversation(self, example):
        return [Tokens([1, len(example.messages)], [0.0, 1.0], meta=example.meta)]

    def documents(self, example):
        return [Tokens([2, len(example.text)], [0.0, 1.0], meta=example.meta)]


USER, ANSWER = Message("user", "hi"), Message("assistant", "yes")


def test_sft_takes_conversations_and_class_labels():
    sft = SFT
    assert sft.encode(Conversation((USER, ANSWER)), Recorder())[0].ids == [1, 2]
    assert sft.encode(Labelled((USER,), "spam"), Recorder())[0].ids == [1, 2]
    with pytest.raises(ConfigError, match=r"a.jsonl:3 is a text row"):
        sft.encode(Text("x", Meta("a.jsonl", 3)), Recorder())
    with pytest.raises(ConfigError, match="is no text; use classify"):
        sft.encode(Labelled((USER,), True), Recorder())


def test_text_takes_documents_only():
    text = ContinuedPretraining("text", SftOptions())
    assert text.encode(Text("abc"), Recorder())[0].ids == [2, 3]
    with pytest.raises(ConfigError, match="conversation row"):
        text.encode(Conversation((USER, ANSWER)), Recorder())
