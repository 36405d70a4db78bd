"""Several tasks: what the combined loss is, in numbers, and what a task may not change in another."""

import math
from dataclasses import replace

import pytest
import torch

from tests.heads import Numbers as Reader
from tests.heads import labelled, objective
from tests.tiny import tiny_model
from tunewright.adapt.base import adapter_of
from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Conversation, Message, Meta, Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.engine.step import backward
from tunewright.models.forward import ModelForward
from tunewright.models.score import attach
from tunewright.objectives.base import HeadSpec, Objective
from tunewright.objectives.multi import of_task, tasks_of

VOCAB = 40


class Fixed:
    """A forward with given log-probabilities, scores by head, and numbers."""

    def __init__(self, logprobs=(), scores=None, numbers=()):
        self._logprobs = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
        self.heads = {
            n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in (scores or {}).items()
        }
        self._numbers = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)

    def logprobs(self, batch, hidden=None):
        return self._logprobs

    def scores(self, batch, hidden=None, name="score"):
        return self.heads[name]

    def numbers(self, name):
        assert name == "balance"
        return self._numbers


class Written(Reader):
    """Also renders chats whose turns are numbers; the answer has weight 1."""

    def conversation(self, example):
        prompt, answer = (self.reading([m]) for m in example.messages)
        return [Tokens([*prompt, *answer], [0.0] * len(prompt) + [1.0] * len(answer), meta=example.meta)]


def marked(example, task):
    return replace(example, meta=replace(example.meta, task=task))


def chat(prompt, answer, line=1):
    turns = Message("user", prompt), Message("assistant", answer)
    return marked(Conversation(turns, Meta("chats.jsonl", line)), "support")


def text(words, label, task="intent"):
    return marked(labelled(words, label), task)


def two(**options):
    """support: sft, intent: classify of two labels with weight 0.5."""
    tasks = {"support": "sft", "intent": {"objective": "classify", "weight": 0.5, "pooling": "last"}}
    return objective("multi", **({"tasks": tasks} | options)).fitted(ROWS)


ROWS = [chat("3 4", "5 6"), chat("7 8", "9 10 11", 2), text("12 13", "ham"), text("14 15 16", "spam")]


def batches(what, rows=ROWS):
    sequences = [t for row in rows for t in what.encode(row, Written())]
    tasks = dict.fromkeys(t.task for t in sequences)
    return [build_batch([t for t in sequences if t.task == task]) for task in tasks]


def test_it_is_an_objective_of_both_kinds_of_rows():
    what = two()
    assert isinstance(what, Objective) and what.judged == "tasks" and what.rows_per_step is None
    assert what.accepts == {"conversation", "labelled"} and what.requires == frozenset()
    assert what.heads == {
        "score__intent": HeadSpec(
            2,
            "last",
            facts={"task": "classify", "kind": "single", "labels": ["ham", "spam"], "threshold": 0.5},
        )
    }
    assert list(tasks_of(what)) == ["support", "intent"] and tasks_of(objective("sft")) == {}
    assert what.shares == {"support": 1.0, "intent": 1.0}


def test_sequences_and_branches_know_their_task():
    assert [t.task for row in ROWS for t in two().encode(row, Written())] == ["support"] * 2 + ["intent"] * 2
    branches = Tokens([1], [0.0], branches=(Tokens([2], [1.0]), Tokens([3], [1.0])))
    [found] = of_task([branches], "pairs")
    assert [found.task, *(b.task for b in found.branches)] == ["pairs"] * 3


def test_the_fixed_loss_in_numbers():
    """support: -(log .5 + log .25 + ...) over 5 tokens, weight 1. intent: two rows, weight 0.5."""
    what = two()
    support, intent = batches(what)
    said = [math.log(p) for p in (0.5, 0.25, 0.5, 0.5, 0.125)]  # 1 + 2 + 1 + 1 + 3 = 8 halvings
    found = what.loss(Fixed(said), support)
    assert found.total.item() == pytest.approx(8 * math.log(2)) and float(what.count(support)) == 5
    scores = {"score__intent": [[0.0, 0.0], [0.0, math.log(3)]]}  # p = 1/2 and 3/4
    found = what.loss(Fixed(scores=scores), intent)
    assert found.total.item() == pytest.approx(0.5 * (math.log(2) + math.log(4 / 3)))
    mean = found.metrics["intent_loss"]  # before it is weighed
    assert float(mean.total / mean.weight) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    accuracy = found.metrics["intent_accuracy"]
    assert float(accuracy.total) == 2 and float(accuracy.weight) == 2


def test_the_loss_with_uncertainty_in_numbers():
    """w (exp(-s) L + s n): weight 0.5, s = 0.3, two rows of loss log 2 and log 4/3."""
    what = two(balance="uncertainty")
    _, intent = batches(what)
    losses = math.log(2) + math.log(4 / 3)
    forward = Fixed(scores={"score__intent": [[0.0, 0.0], [0.0, math.log(3)]]}, numbers=[9.0, 0.3])
    found = what.loss(forward, intent)
    assert found.total.item() == pytest.approx(0.5 * (math.exp(-0.3) * losses + 0.3 * 2))
    found.total.backward()
    assert forward._numbers.grad.tolist() == pytest.approx([0.0, 0.5 * (2 - math.exp(-0.3) * losses)])
    assert what.heads["balance"] == HeadSpec(2, "none", rate=10.0, facts={"tasks": ["support", "intent"]})


def test_uncertainty_begins_as_fixed_weights_do():
    rows = batches(two())
    given = {
        "logprobs": [-1.0, -2.0, -0.5, -0.1, -3.0],
        "scores": {"score__intent": [[0.2, 0.1], [1.0, -1.0]]},
    }
    for batch in rows:
        one = two().loss(Fixed(**given), batch).total
        other = two(balance="uncertainty").loss(Fixed(**given, numbers=[0.0, 0.0]), batch).total
        assert one.item() == other.item()


def test_weights_of_uncertainty_go_to_the_log_of_the_loss():
    """With losses that stay 4 and 0.25 per token, s must come to log 4 and log 0.25."""
    tasks = {"big": "sft", "small": "sft"}
    what = objective("multi", tasks=tasks, balance="uncertainty")
    s = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    sequences = [of_task([Tokens([1, 2, 3], [0.0, 1.0, 1.0])], task)[0] for task in tasks]
    forward = Fixed()
    forward._numbers = s
    for _ in range(200):
        for sequence, loss in zip(sequences, (4.0, 0.25), strict=True):
            forward._logprobs = torch.full((2,), -loss, dtype=torch.float64)
            batch = build_batch([sequence])
            (what.loss(forward, batch).total / what.count(batch)).backward()
        with torch.no_grad():
            s -= 0.2 * s.grad
            s.grad = None
    assert s.tolist() == pytest.approx([math.log(4), math.log(0.25)], abs=1e-6)


def trained(what, sequences, folder, heads=None, **changes):
    """The weights of a tiny model after a few steps."""
    torch.manual_seed(0)
    model = tiny_model("llama", VOCAB)
    attach(model, what.heads)
    forward = ModelForward(adapter_of("full").attach(model))
    settings = FitSettings(
        **({"epochs": 3, "learning_rate": 1e-2, "tokens_per_step": 12, "micro_tokens": 12} | changes)
    )
    seen = []
    Fit(Job(model, forward, what, sequences), settings, folder, seen.append).run()
    return {n: p.detach() for n, p in model.named_parameters()}, [
        e for e in seen if isinstance(e, events.StepEnd)
    ]


def test_one_task_is_that_task_alone(tmp_path):
    rows = [text("12 13 3", "ham"), text("14 15 16", "spam"), text("1 2 3 4", "ham")]
    alone = objective("classify").fitted(rows)
    several = objective("multi", tasks={"intent": "classify"}).fitted(rows)
    one, steps = trained(alone, [t for r in rows for t in alone.encode(r, Written())], tmp_path / "one")
    two_, steps_of_task = trained(
        several, [t for r in rows for t in several.encode(r, Written())], tmp_path / "two"
    )
    assert [s.loss for s in steps] == [s.loss for s in steps_of_task] and len(steps) == 3
    renamed = {name.replace("score__intent", "score"): value for name, value in two_.items()}
    assert one.keys() == renamed.keys()
    assert all(torch.equal(one[name], renamed[name]) for name in one)
    assert float(one["score.weight"].abs().sum()) > 0.01


def gradient(what, rows):
    torch.manual_seed(0)
    model = tiny_model("llama", VOCAB)
    attach(model, what.heads)
    with torch.no_grad():
        model.get_parameter("score__intent.weight").normal_()
    forward = ModelForward(adapter_of("full").attach(model))
    tally = backward(batches(what, rows), what, forward, str)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), tally


def test_more_rows_of_one_task_do_not_change_the_share_of_another():
    """Rows written twice change no mean, so neither the losses nor the gradient of either task move."""
    what = two()
    once, one = gradient(what, ROWS)
    twice, other = gradient(what, [*ROWS, *ROWS[2:], *ROWS[2:]])
    assert other.counts["intent"] == 3 * one.counts["intent"]
    assert other.counts["support"] == 5
    assert other.losses == pytest.approx(one.losses)
    torch.testing.assert_close(once, twice, rtol=1e-3, atol=1e-5)
    assert one.metrics.keys() == {"support_loss", "intent_loss", "intent_accuracy"}
    assert one.loss == pytest.approx(one.metrics["support_loss"] + 0.5 * one.metrics["intent_loss"])


def test_two_tasks_with_heads_keep_them_apart(tmp_path):
    tasks = {"a": "classify", "b": {"objective": "classify", "head_rate": 5.0}, "c": "regress"}
    rows = [text("1 2", "x", "a"), text("3 4", "y", "a"), text("5 6", "p", "b"), text("7 8", "q", "b")]
    rows += [text("7 7", "r", "b"), text("9 9", 1.5, "c"), text("9 8", 2.5, "c")]
    what = objective("multi", tasks=tasks).fitted(rows)
    assert {name: (spec.outputs, spec.rate) for name, spec in what.heads.items()} == {
        "score__a": (2, 1.0),
        "score__b": (3, 5.0),
        "score__c": (1, 1.0),
    }
    weights, _ = trained(
        what, [t for r in rows for t in what.encode(r, Written())], tmp_path, tokens_per_step=99
    )
    assert all(float(weights[f"score__{task}.weight"].abs().sum()) > 0 for task in tasks)


def test_a_share_decides_how_often_rows_are_seen(tmp_path):
    tasks = {"support": {"objective": "sft", "share": 0.5}, "intent": {"objective": "classify", "share": 2}}
    rows = [*(chat(f"{i} 2", "3", i) for i in range(1, 9)), text("1 1", "ham"), text("2 2", "spam")]
    what = objective("multi", tasks=tasks).fitted(rows)
    sequences = [t for r in rows for t in what.encode(r, Written())]
    _, steps = trained(what, sequences, tmp_path, epochs=2, tokens_per_step=1000, micro_tokens=1000)
    assert len(steps) == 2  # an epoch is one step: 4 of 8 chats of 3 tokens, 2 texts of 2 tokens twice
    assert [s.tokens for s in steps] == [4 * 3 + 4 * 2, 2 * (4 * 3 + 4 * 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": {}}, "at least 1"),
        ({"tasks": {"a b": "sft"}}, "'a b' is no name for a task"),
        ({"tasks": {"validation": "sft"}}, "'validation' is taken"),
        ({"tasks": {"a": "sfd"}}, "unknown objective 'sfd'. Did you mean 'sft'"),
        (
            {"tasks": {"a": {"objective": "classify", "pool": "last"}}},
            "unknown setting 'pool'. Did you mean 'pooling'",
        ),
        (
            {"tasks": {"a": {"objective": "sft", "wieght": 2}}},
            "unknown setting 'wieght'. Did you mean 'weight'",
        ),
        ({"tasks": {"a": {"objective": "sft", "shore": 2}}}, "'share'"),
        ({"tasks": {"a": {"weight": 2}}}, "objective"),
        ({"tasks": {"a": {"objective": "sft", "share": 0}}}, "share"),
        ({"tasks": {"a": {"objective": "sft", "weight": -1}}}, "weight"),
        ({"tasks": {"a": {"objective": "multi", "tasks": {"b": "sft"}}}}, "several objectives itself"),
        ({"tasks": {"a": "rlhf"}}, "several objectives itself"),
        (
            {"tasks": {"a": {"objective": "grpo", "rewards": ["length"]}, "b": "sft"}},
            "samples answers while it trains",
        ),
        ({"tasks": {"a": {"objective": "sft", "neftune": 5}}}, "sets neftune"),
        ({"tasks": {"a": "sft"}, "balance_rate": 3}, "read with balance 'uncertainty' only"),
        ({"tasks": {"a": "sft"}, "balance": "equal"}, "balance"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ConfigError) as error:
        objective("multi", **options)
    assert message in str(error.value)


def test_a_long_value_is_not_repeated_at_every_level():
    with pytest.raises(ConfigError) as error:
        objective("multi", tasks={"a": {"objective": "sft", "neftune": "x" * 500}})
    assert str(error.value).count("(got ") == 1 and len(str(error.value)) < 250


def test_rows_must_have_a_task_and_every_task_rows():
    what = objective("multi", tasks={"support": "sft", "intent": "classify"})
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: the row is for the task 'intend'\. Did you mean 'intent'"
    ):
        what.fitted([*ROWS, text("1", "ham", "intend")])
    with pytest.raises(DataError, match="task 'intent' has no training row left"):
        what.fitted(ROWS[:2])
    with pytest.raises(ConfigError, match="learns from labelled rows"):
        what.fitted([*ROWS, marked(chat("1", "2"), "intent")])
