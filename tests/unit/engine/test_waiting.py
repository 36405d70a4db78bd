"""A GPU is waited for once in an update, however many micro-batches it has."""

from dataclasses import replace

import pytest
import torch

from tests import preferring
from tests.tiny import tiny_model
from tests.training import rows as sequences
from tests.waiting import Waits
from tunewright.adapt.base import adapter_of
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.step import Tally, backward
from tunewright.models.forward import ModelForward
from tunewright.models.score import attach
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of

VOCAB = preferring.VOCAB


def referred(rows, **extras):
    """Every branch with a log-probability under the reference and further marks."""
    return [
        replace(
            row,
            branches=tuple(
                replace(b, extras={**b.extras, "reference": -3.0, **extras}) for b in row.branches
            ),
        )
        for row in rows
    ]


def rolled():
    """Prompts with two answers each, as a roll-out leaves them for the second of two updates."""

    def answer(ids, advantage):
        numbers = [-1.0] * len(ids)
        tracks = {"sampled": numbers, "old": numbers, "reference": numbers}
        return Tokens(ids, [1.0] * len(ids), extras={"advantage": advantage}, tracks=tracks)

    return [
        Tokens([i, i + 1, i + 2], [0.0] * 3, branches=(answer([7, 8, 9], 1.0), answer([5, 4], -1.0)))
        for i in range(4)
    ]


def ranked():
    marks = ({"rank": 0.0, "margin": 0.0}, {"rank": 1.0, "margin": 0.5})
    return [
        replace(row, branches=tuple(replace(b, extras=m) for b, m in zip(row.branches, marks, strict=True)))
        for row in preferring.pairs(4, 0)
    ]


def labelled():
    return [Tokens([i, i + 1, 9], [0.0] * 3, extras={"label": float(i % 2)}) for i in range(4)]


CASES = {
    "sft": ({}, lambda: sequences(4)),
    "dpo": ({}, lambda: referred(preferring.pairs(4, 0))),
    "dpo with margins": ({"margin": "data"}, lambda: referred(preferring.pairs(4, 0), margin=0.1)),
    "grpo": ({"kl": 0.1, "rewards": ["exact_match"]}, rolled),
    "kto": ({"kl_samples": 1}, lambda: referred(preferring.judged(4, 0))),
    "reward": ({}, ranked),
    "classify": ({"labels": ["a", "b"]}, labelled),
    "regress": ({"pooling": "mean"}, labelled),
}


def prepared(name):
    """The objective of a case, a model with LoRA and its heads, and four rows."""
    options, rows = CASES[name]
    what = make_objective(name.split()[0], options_of(name.split()[0], options))
    what.weights = (1.0, 2.0)  # of classes, as ``fitted`` gives them
    model = tiny_model("llama", VOCAB)
    attach(model, what.heads)
    model = adapter_of("lora", rank=4).attach(model)
    model.train()
    return what, ModelForward(model), rows()


@pytest.mark.parametrize("name", CASES)
def test_nothing_waits_for_a_gpu_in_a_micro_batch(name, monkeypatch):
    what, forward, rows = prepared(name)
    batches = [build_batch([row]) for row in rows]
    check, waits = Tally.check, Waits(monkeypatch)

    def at_the_end(self, where):
        waits.on = False  # the one place of an update where numbers are read
        check(self, where)
        waits.on = True

    monkeypatch.setattr(Tally, "check", at_the_end)
    with waits:
        tally = backward(batches, what, forward, str)
    assert waits.found == {}
    assert torch.isfinite(torch.tensor(tally.loss)) and tally.loss != 0


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo"])
def test_all_numbers_of_an_update_are_read_at_once(name, monkeypatch):
    what, forward, rows = prepared(name)
    batches = [build_batch([row]) for row in rows]
    waits = Waits(monkeypatch)
    with waits:
        tally = backward(batches, what, forward, str)
        numbers = tally.loss, tally.losses, tally.metrics
    assert waits.found == {"tolist": 1}
    whole = backward([build_batch(rows)], what, forward, str)
    assert numbers[0] == pytest.approx(whole.loss, abs=1e-5)
    assert numbers[2] == pytest.approx(whole.metrics, abs=1e-5)


def test_the_counter_sees_what_waits(monkeypatch):
    """Each of these is one wait on a GPU; what stays there is none."""
    x = torch.arange(4.0)
    waits = Waits(monkeypatch)
    with waits:
        x[x > 1], torch.nonzero(x), x.sum().item(), x.unique(), x.tolist(), bool(x[0] == 0)
        x.new_tensor(1.0), torch.tensor([1.0], device="cpu"), x.cpu()
        x[torch.tensor([1, 2])], x.new_full((), 2.0), x.where(x > 1, 0.0).sum()
    assert {"aten::index", "aten::nonzero", "item", "aten::_unique2", "tolist", "__bool__"} < set(waits.found)
    assert {"new_tensor", "torch.tensor on a device", "cpu"} < set(waits.found)
    assert waits.found["aten::index"] == 1, "an index of numbers does not wait"
