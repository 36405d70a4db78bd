"""The reward objective against TRL 1.16: its loss, its metrics, and training of the same tiny model."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.heads import VOCAB, Given, encoded, objective, pair
from tests.tiny import tiny_model
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.score import attach

pytest.importorskip("trl")

CLOSE = {"rtol": 0, "atol": 1e-5}
MARGINS = (0.5, 0.0, 1.25, 0.3, 2.0)
ROWS = [
    pair("1 2 3", "4 5 6 7", "8 9"),
    pair("10", "11", "12 13 14"),
    pair("15 16", "17 18", "19 20 21 22 23"),
    pair("24 25 26 27", "28", "29"),
    pair("30 31", "32 33 34", "35 36"),
]


@pytest.fixture(scope="module")
def trl_reward():
    """TRL's module; importing it warns of what is optional."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.trainer import reward_trainer
    return reward_trainer


class Alone:
    """The accelerator of one process."""

    def gather(self, values):
        return values

    gather_for_metrics = gather


def trainer(trl_reward, centre):
    """A trainer made without a model, which keeps its metrics by name."""
    made = object.__new__(trl_reward.RewardTrainer)
    made.model, made.accelerator = SimpleNamespace(training=False), Alone()
    made.args = SimpleNamespace(center_rewards_coefficient=centre)
    names = ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")
    made._metrics, made._total_train_tokens = {"eval": {name: [] for name in names}}, 0
    return made


def theirs(trl_reward, model, inputs, centre):
    """Their loss and metrics: chosen sequences first, then the rejected ones."""
    made = trainer(trl_reward, centre)
    loss = made.compute_loss(model, dict(inputs))
    return loss, {name: values[0] for name, values in made._metrics["eval"].items() if name != "num_tokens"}


def ours(what, forward, rows):
    """Our mean loss and metrics."""
    batch = build_batch(encoded(what, rows))
    found = what.loss(forward, batch)
    return found.total / what.count(batch), {n: float(m.total / m.weight) for n, m in found.metrics.items()}


def with_margins(margin):
    rows = zip(ROWS, MARGINS, strict=True)
    return [replace(row, margin=value) for row, value in rows] if margin == "data" else ROWS


def options_and_inputs(centre, margin):
    what = objective("reward", centre=centre or 0.0, margin=margin)
    return what, {"margin": torch.tensor(MARGINS)} if margin == "data" else {}


SETTINGS = pytest.mark.parametrize(
    ("centre", "margin"), [(None, "none"), (0.01, "none"), (None, "data"), (0.5, "data")]
)


@SETTINGS
def test_loss_metrics_and_gradient_of_given_rewards(trl_reward, centre, margin):
    what, inputs = options_and_inputs(centre, margin)
    rewards = torch.randn(10, 1, generator=torch.Generator().manual_seed(0)) * 3
    logits = rewards.clone().requires_grad_()
    expected, numbers = theirs(trl_reward, lambda **_: SimpleNamespace(logits=logits), inputs, centre)
    expected.backward()

    chosen, rejected = rewards[:5, 0].tolist(), rewards[5:, 0].tolist()
    table = [[r] for pairs in zip([0.0] * 5, chosen, rejected, strict=True) for r in pairs]
    given = Given(table, dtype=torch.float32)
    found, metrics = ours(what, given, with_margins(margin))
    found.backward()

    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(given.table.grad[1::3], logits.grad[:5], **CLOSE)
    torch.testing.assert_close(given.table.grad[2::3], logits.grad[5:], **CLOSE)
    assert metrics == {
        "accuracy": pytest.approx(numbers["accuracy"]),
        "margin": pytest.approx(numbers["margin"], abs=1e-5),
        "reward": pytest.approx(numbers["mean_reward"], abs=1e-5),
    }


def classifier(forward):
    """transformers' sequence classifier that shares trunk and head with ``forward``, on plain attention."""
    from transformers import AutoModelForSequenceClassification

    own = forward.model
    config = own.config.__class__(**own.config.to_dict())
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    model.model.load_state_dict(own.model.state_dict())
    model.score.load_state_dict({"weight": own.score.weight})
    return model


def padded(rows):
    """Each pair twice in full, chosen answers first, padded on the right."""
    sequences = [
        [*t.ids, *t.branches[side].ids] for side in (0, 1) for t in encoded(objective("reward"), rows)
    ]
    ids = [torch.tensor(s) for s in sequences]
    masks = [torch.ones_like(i) for i in ids]
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True, padding_value=VOCAB),
        "attention_mask": pad(masks, batch_first=True, padding_value=0),
    }


@SETTINGS
def test_loss_and_gradient_of_a_model(trl_reward, centre, margin):
    """Ours reads each prompt once and pads nothing."""
    what, inputs = options_and_inputs(centre, margin)
    base = tiny_model("llama", VOCAB + 1, pad_token_id=VOCAB)
    attach(base, what.heads)
    # Small scores: of a loss near 100 float32 knows nothing beyond the fifth digit behind the point.
    nn.init.normal_(base.score.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    forward = ModelForward(base)
    model = classifier(forward)
    expected, _ = theirs(trl_reward, model, {**padded(ROWS), **inputs}, centre)
    expected.backward()
    found, _ = ours(what, forward, with_margins(margin))
    found.backward()
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(base.score.weight.grad, model.score.weight.grad, **CLOSE)
    mine, other = dict(base.model.named_parameters()), dict(model.model.named_parameters())
    assert mine.keys() == other.keys()
    for name, parameter in mine.items():
        largest = float(parameter.grad.abs().max())  # up to hundreds, at random embeddings of size 0.02
        torch.testing.assert_close(parameter.grad, other[name].grad, rtol=0, atol=1e-5 * max(largest, 1))


def test_the_centring_term_differs_from_none(trl_reward):
    """TRL leaves the term out unless asked; ours is on by default, with the weight it recommends."""
    logits = torch.tensor([[2.0], [1.0], [0.5], [1.5]])
    without, with_term = (
        theirs(trl_reward, lambda **_: SimpleNamespace(logits=logits), {}, c)[0] for c in (None, 0.01)
    )
    given = Given([[0.0], [2.0], [0.5], [0.0], [1.0], [1.5]], dtype=torch.float32)
    found, _ = ours(objective("reward"), given, ROWS[:2])
    torch.testing.assert_close(found, with_term, **CLOSE)
    assert float(found.detach() - without) == pytest.approx(0.01 * (2.5**2 + 2.5**2) / 2, abs=1e-6)
