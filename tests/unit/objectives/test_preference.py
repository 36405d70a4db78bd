"""Pairs from row to gradient: rendering, what is refused, shared prompts, micro-batches, learning."""

import math
from dataclasses import replace

import pytest
import torch

from tests import preferring
from tests.tiny import chat_tokenizer
from tunewright.core.errors import ConfigError, DataError, RenderError
from tunewright.core.records import Conversation, Message, Meta, Preference, Tokens
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.objectives.base import Objective
from tunewright.objectives.options.table import options_of
from tunewright.objectives.preference_losses import PREFERENCE_LOSSES

WHERE = Meta("pairs.jsonl", 7)
PROMPT = (Message("user", "2+2"),)
ROW = Preference(PROMPT, (Message("assistant", "4"),), (Message("assistant", "5, I think"),), WHERE)
FREE = ("slic", "simpo", "cpo", "orpo")


class Stub:
    """A forward whose log-probabilities are given."""

    def __init__(self, *logprobs, logits=None):
        self.given, self.logits = torch.tensor(logprobs), logits

    def logprobs(self, batch):
        return self.given

    def per_target(self, batch, fn, hidden=None):
        return fn(self.logits, torch.arange(len(self.logits)))


def referenced(tokens, *values):
    branches = zip(tokens.branches, values, strict=True)
    return replace(
        tokens, branches=tuple(replace(b, extras={**b.extras, "reference": v}) for b, v in branches)
    )


TWO = build_batch(
    [
        referenced(preferring.pair([1, 2], [3, 4], [5]), -3.0, -1.0),
        referenced(preferring.pair([1], [6], [7, 8, 9]), -0.5, -6.0),
    ]
)
LOGPS = (
    -1.0,
    -1.5,
    -2.0,
    -0.25,
    -2.0,
    -2.0,
    -1.0,
)  # sums: chosen -2.5, rejected -2; chosen -0.25, rejected -5


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_every_name_keeps_the_protocol(name):
    objective = preferring.objective(name)
    assert isinstance(objective, Objective) and objective.accepts == {"preference"}
    assert objective.requires == (frozenset() if name in FREE else {"reference"})


def test_a_row_becomes_one_prompt_with_two_marked_branches():
    renderer = Renderer(chat_tokenizer("chatml"))
    [tokens] = preferring.objective("dpo").encode(ROW, renderer)
    assert tokens.ids == renderer.prompt(PROMPT) and not any(tokens.weights) and tokens.meta == WHERE
    assert [b.extras for b in tokens.branches] == [{"chosen": 1.0}, {"chosen": 0.0}]
    assert [renderer.decode(b.ids).strip() for b in tokens.branches] == ["4", "5, I think"]
    with pytest.raises(ConfigError, match=r"'dpo' learns from preference rows, but pairs.jsonl:7"):
        preferring.objective("dpo").encode(Conversation(PROMPT, WHERE), renderer)
    same = replace(ROW, rejected=(Message("assistant", " 4 "),))
    with pytest.raises(RenderError, match=r"pairs.jsonl:7: answers 1 and 2 read the same"):
        preferring.objective("dpo").encode(same, Renderer(chat_tokenizer("gemma")))


def test_loss_and_metrics_by_hand():
    """Leads: (-2.5 + 3) - (-2 + 1) = 1.5 and (-0.25 + 0.5) - (-5 + 6) = -0.75."""
    objective = preferring.objective("dpo", beta=0.2)
    out = objective.loss(Stub(*LOGPS), TWO)
    assert float(out.total) == pytest.approx(math.log1p(math.exp(-0.3)) + math.log1p(math.exp(0.15)))
    assert float(objective.count(TWO)) == 2
    found = {name: float(mean.total / mean.weight) for name, mean in out.metrics.items()}
    assert found == pytest.approx(
        {
            "margin": 0.2 * 0.375,
            "accuracy": 0.5,
            "reward_chosen": 0.2 * 0.375,
            "reward_rejected": 0.0,
            "logp_chosen": -1.375,
            "logp_rejected": -3.5,
        },
        abs=1e-6,
    )


def test_rewards_are_those_the_loss_implies():
    out = preferring.objective("simpo").loss(Stub(*LOGPS), TWO)
    margins = 2 * (-2.5 / 2 + 2 / 1), 2 * (-0.25 + 5 / 3)
    assert float(out.metrics["margin"].total) == pytest.approx(sum(margins))
    assert float(out.metrics["accuracy"].total) == 2
    tied = preferring.objective("dpo").loss(Stub(-3.0, 0.0, -1.0, -0.5, -6.0, 0.0, 0.0), TWO)
    assert float(tied.metrics["accuracy"].total) == 1, "an untouched model is right in half of the pairs"


def test_margins_of_the_rows():
    objective = preferring.objective("dpo", margin="data")
    renderer = Renderer(chat_tokenizer("chatml"))
    [tokens] = objective.encode(replace(ROW, margin=0.5), renderer)
    assert tokens.branches[0].extras == {"chosen": 1.0, "margin": 0.5}
    for margin in (None, math.nan):
        with pytest.raises(DataError, match=r"pairs.jsonl:7: margin is 'data', but"):
            objective.encode(replace(ROW, margin=margin), renderer)
    pair = referenced(preferring.pair([1, 2], [3], [5]), -1.0, -2.0)
    chosen = replace(pair.branches[0], extras={**pair.branches[0].extras, "margin": 0.5})
    batch = build_batch([replace(pair, branches=(chosen, pair.branches[1]))])
    loss = objective.loss(Stub(-1.0, -2.5), batch).total
    assert float(loss) == pytest.approx(math.log1p(math.exp(-(0.1 * 0.5 - 0.5))))


def test_weights_of_wpo_from_logits():
    """w(y) = exp(mean_t [log p(y_t) - log sum_v p(v)^2]), with p from two logits by hand."""
    p = [0.8, 0.5, 0.25]  # probability of the target; two-token answer chosen, one-token rejected
    logits = torch.tensor([[math.log(q), math.log(1 - q)] for q in p])
    pair = referenced(preferring.pair([1], [0, 0], [0]), -1.0, -2.0)
    batch = build_batch([pair])
    found = preferring.objective("wpo").loss(Stub(logits=logits), batch)
    concentration = [q * q + (1 - q) ** 2 for q in p]
    ratio = [q / c for q, c in zip(p, concentration, strict=True)]
    weight = math.sqrt(ratio[0] * ratio[1]) * ratio[2]
    lead = (math.log(0.8 * 0.5) + 1) - (math.log(0.25) + 2)
    assert float(found.total) == pytest.approx(weight * math.log1p(math.exp(-0.1 * lead)), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "hinge",
            {"label_smoothing": 0.1},
            "'hinge' has no use for label_smoothing .got 0.1.; it is read by",
        ),
        ("apo_zero", {"margin": "data"}, "'apo_zero' has no use for margin"),
        ("dpo", {"label_smoothing": 0.5}, "label_smoothing"),
        ("dpo", {"beta": 0}, "beta"),
        ("orpo", {"sft_weight": 1.0}, "sft_weight"),
        ("ipo", {"bta": 1.0}, "Did you mean 'beta'"),
    ],
)
def test_settings_without_effect_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        preferring.objective(name, **options)
    preferring.objective("hinge", label_smoothing="auto", margin="none", beta=0.3)


CHANGED = {"beta": 0.33, "label_smoothing": 0.2, "sft_weight": 0.5, "delta": 3.0, "gamma": 0.1}


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_every_setting_is_read(name):
    logits = torch.tensor([[v, 0.0] for v in LOGPS])
    batch = replace(TWO, targets=TWO.targets._replace(ids=torch.zeros(len(LOGPS), dtype=torch.long)))
    usual = preferring.objective(name).loss(Stub(*LOGPS, logits=logits), batch).total
    fields = set(type(options_of(name, {})).model_fields) - {"margin"}
    for setting in fields & PREFERENCE_LOSSES[name].reads:
        changed = preferring.objective(name, **{setting: CHANGED[setting]})
        assert float(changed.loss(Stub(*LOGPS, logits=logits), batch).total) != pytest.approx(float(usual)), (
            setting
        )


def test_a_missing_reference_is_noticed():
    batch = build_batch([preferring.pair([1], [2], [3])])
    with pytest.raises(AssertionError, match="without its log-probability under the reference"):
        preferring.objective("dpo").loss(Stub(-1.0, -1.0), batch)


def apart(tokens: Tokens) -> list[Tokens]:
    """The same pair as two sequences, each with a copy of the prompt."""
    return [
        Tokens([*tokens.ids, *b.ids], [*tokens.weights, *b.weights], extras=b.extras) for b in tokens.branches
    ]


@pytest.mark.parametrize("name", ["dpo", "wpo", "orpo", "ipo"])
def test_a_shared_prompt_gives_what_two_copies_give(name, monkeypatch):
    forward, objective = preferring.forward(), preferring.objective(name)
    rows = preferring.with_reference(preferring.pairs(6, seed=1), preferring.forward(seed=5))
    shared, copied = build_batch(rows), build_batch([one for row in rows for one in apart(row)])
    assert shared.size < 0.8 * copied.size
    # sequences have no parent, so the reference of every segment is taken
    monkeypatch.setattr("tunewright.objectives.preference.reference_of", lambda b: b.extras["reference"])
    together = preferring.step_gradient(objective, forward, [shared])
    separate = preferring.step_gradient(objective, forward, [copied])
    losses = [float(objective.loss(forward, batch).total.detach()) for batch in (shared, copied)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert together.abs().max() > 1e-3
    torch.testing.assert_close(together, separate, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_the_gradient_does_not_depend_on_micro_batches(name):
    forward, objective = preferring.forward(), preferring.objective(name)
    rows = preferring.with_reference(preferring.pairs(7, seed=2), preferring.forward(seed=5))
    whole = preferring.step_gradient(objective, forward, [build_batch(rows)])
    for size in (1, 3):
        parts = [build_batch(rows[i : i + size]) for i in range(0, len(rows), size)]
        torch.testing.assert_close(
            preferring.step_gradient(objective, forward, parts), whole, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_learns_which_answer_is_better(name):
    forward, objective = preferring.forward(), preferring.objective(name)
    reference = preferring.forward()
    train = preferring.with_reference(preferring.pairs(80, seed=3), reference)
    held_out = preferring.with_reference(preferring.pairs(100, seed=4), reference)
    before = preferring.measure(objective, forward, held_out, "accuracy")
    start = preferring.measure(objective, forward, held_out, "margin")
    assert 0.3 <= before <= 0.7
    preferring.train(objective, forward, train, steps=20, rate=5e-3)
    assert preferring.measure(objective, forward, held_out, "accuracy") > 0.9
    assert preferring.measure(objective, forward, held_out, "margin") > start + 0.1
