"""Liked or not: borrowed answers, worked numbers, micro-batches, learning."""

import math
from dataclasses import replace

import pytest
import torch

from tests import preferring
from tests.tiny import chat_tokenizer
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Labelled, Message, Meta
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.objectives.base import Objective


def row(question, answer, liked, line=1):
    return Labelled((Message("user", question), Message("assistant", answer)), liked, Meta("kto.jsonl", line))


TRAIN = [row(f"q{i}", f"answer {i}", i % 2 == 0, i) for i in range(8)]


class Stub:
    def __init__(self, *logprobs):
        self.given = torch.tensor(logprobs)

    def logprobs(self, batch):
        return self.given


def test_keeps_the_protocol():
    objective = preferring.objective("kto")
    assert isinstance(objective, Objective)
    assert objective.accepts == {"labelled"} and objective.requires == {"reference"}


def test_a_row_stands_beside_answers_of_other_rows():
    tokenizer = chat_tokenizer("chatml")
    renderer = Renderer(tokenizer)
    objective = preferring.objective("kto", kl_samples=3).fitted(TRAIN)
    [tokens] = objective.encode(TRAIN[1], renderer)
    texts = [renderer.decode(b.ids).strip() for b in tokens.branches]
    assert tokens.ids == renderer.prompt(TRAIN[1].messages[:1])
    assert texts[0] == "answer 1" and set(texts[1:]) <= {f"answer {i}" for i in range(8)} - {"answer 1"}
    assert [b.extras for b in tokens.branches] == [{"liked": 0.0}] + [{"borrowed": 1.0}] * 3
    again = preferring.objective("kto", kl_samples=3).fitted(TRAIN)
    assert again.encode(TRAIN[1], renderer) == [tokens], "what is borrowed is a function of the data alone"
    drawn = {renderer.decode(objective.encode(r, renderer)[0].branches[1].ids) for r in TRAIN}
    assert len(drawn) > 2, "rows borrow from different rows"


def test_an_answer_never_borrows_its_own_twin():
    renderer = Renderer(chat_tokenizer("chatml"))
    rows = [row(f"q{i}", "same", i % 2 == 0, i) for i in range(20)] + [row("q", "other", True, 20)]
    objective = preferring.objective("kto").fitted(rows)
    [tokens] = objective.encode(rows[0], renderer)
    assert renderer.decode(tokens.branches[1].ids).strip() == "other"


@pytest.mark.parametrize("rule", ["cut", "drop", "error"])
def test_a_long_borrowed_answer_is_shortened_and_never_costs_the_row(rule):
    tokenizer = chat_tokenizer("chatml")
    rows = [row("q", "no", False), row("p", "yes " * 50, True)]
    size = Renderer(tokenizer).branches(rows[0])[0].size
    renderer = Renderer(tokenizer, max_length=size, over_long=rule)
    [tokens] = preferring.objective("kto").fitted(rows).encode(rows[0], renderer)
    assert [len(b.ids) for b in tokens.branches] == [size - len(tokens.ids)] * 2
    assert renderer.dropped == 0 and not tokens.extras


def test_without_samples_nothing_is_borrowed_and_kl_is_zero():
    renderer = Renderer(chat_tokenizer("chatml"))
    objective = preferring.objective("kto", kl_samples=0)
    [tokens] = objective.encode(TRAIN[0], renderer)
    assert len(tokens.branches) == 1
    branch = replace(tokens.branches[0], ids=[5], weights=[1.0], extras={"liked": 1.0, "reference": -1.0})
    out = objective.loss(Stub(-3.0), build_batch([replace(tokens, branches=(branch,))]))
    assert float(out.total) == pytest.approx(1 - 1 / (1 + math.exp(0.2)))


def with_numbers(liked, reference, *borrowed):
    """A row of one-token answers."""
    branches = (
        preferring.branch([5], liked=liked, reference=reference),
        *(preferring.branch([6], borrowed=1.0, reference=r) for r in borrowed),
    )
    return replace(preferring.pair([1, 2], [3], [4]), branches=branches)


def test_loss_and_metrics_by_hand():
    """Ratios 2 and -1; KLs (1 + 2) / 2 and (-4 + 1) / 2, of which the second counts as 0."""
    batch = build_batch([with_numbers(1.0, -3.0, -2.0, -3.0), with_numbers(0.0, -1.0, 0.0, -2.0)])
    objective = preferring.objective(
        "kto", kl_samples=2, beta=0.5, desirable_weight=1.5, undesirable_weight=0.5
    )
    out = objective.loss(Stub(-1.0, -1.0, -1.0, -2.0, -4.0, -1.0), batch)

    def s(z):
        return 1 / (1 + math.exp(-z))

    assert float(out.total) == pytest.approx(1.5 * (1 - s(0.25)) + 0.5 * (1 - s(0.5)))
    assert float(objective.count(batch)) == 2
    found = {name: float(mean.total / mean.weight) for name, mean in out.metrics.items()}
    assert found == pytest.approx(
        {"margin": 0.375, "accuracy": 1.0, "reward_liked": 1.0, "reward_disliked": -0.5, "kl": 0.0}
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("q", "a", True), row("q", "b", True)], "all 2 training rows are liked, .*or use sft"),
        ([row("q", "a", False)], "all 1 training rows are disliked, .*rows of the other kind$"),
        ([row("q", "a", True), row("p", "a", False)], "same answer.*kl_samples to 0"),
    ],
)
def test_rows_that_cannot_be_learnt_from(rows, message):
    with pytest.raises(DataError, match=message):
        preferring.objective("kto").fitted(rows)


@pytest.mark.parametrize(
    "bad",
    [
        Labelled((Message("user", "hi"),), True, Meta("kto.jsonl", 4)),
        Labelled((Message("user", "hi"), Message("assistant", "ho")), "good", Meta("kto.jsonl", 4)),
    ],
)
def test_rows_that_judge_no_answer(bad):
    for use in (
        lambda: preferring.objective("kto").fitted([bad]),
        lambda: preferring.objective("kto").encode(bad, Renderer(chat_tokenizer("chatml"))),
    ):
        with pytest.raises(ConfigError, match=r"label true or false; kto.jsonl:4 is none"):
            use()


def test_the_gradient_does_not_depend_on_micro_batches():
    forward, objective = preferring.forward(), preferring.objective("kto", beta=0.5)
    rows = preferring.with_reference(preferring.judged(7, seed=2), preferring.forward(seed=5))
    whole = preferring.step_gradient(objective, forward, [build_batch(rows)])
    assert whole.abs().max() > 1e-3
    for size in (1, 3):
        parts = [build_batch(rows[i : i + size]) for i in range(0, len(rows), size)]
        torch.testing.assert_close(
            preferring.step_gradient(objective, forward, parts), whole, rtol=1e-5, atol=1e-6
        )


def test_borrowed_answers_have_no_gradient_of_their_own():
    """Moving the borrowed answer's log-probability changes the loss, but no gradient flows through it."""
    batch = build_batch([with_numbers(1.0, -1.0, -2.0)])
    given = torch.tensor([-1.5, -1.0], requires_grad=True)
    stub = Stub()
    stub.given = given
    preferring.objective("kto").loss(stub, batch).total.backward()
    assert given.grad[1] == 0 and given.grad[0] < 0


def test_learns_which_answers_are_liked():
    forward, objective, reference = preferring.forward(), preferring.objective("kto"), preferring.forward()
    train = preferring.with_reference(preferring.judged(160, seed=3), reference)
    held_out = preferring.with_reference(preferring.judged(100, seed=4), reference)
    pairs = preferring.with_reference(preferring.pairs(100, seed=5), reference)
    dpo = preferring.objective("dpo")
    assert 0.3 <= preferring.measure(objective, forward, held_out, "accuracy") <= 0.7
    assert 0.3 <= preferring.measure(dpo, forward, pairs, "accuracy") <= 0.7
    preferring.train(objective, forward, train, steps=30, rate=5e-3)
    assert preferring.measure(objective, forward, held_out, "margin") > 0.1
    assert preferring.measure(objective, forward, held_out, "accuracy") > 0.9
    assert preferring.measure(dpo, forward, pairs, "accuracy") > 0.9, "held-out pairs are in order as well"
