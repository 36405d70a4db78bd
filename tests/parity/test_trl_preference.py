"""Preference losses against TRL 1.16 on the same random logits: loss and gradient.

TRL's trainers are built without their constructors, and a model that returns given log-probabilities stands
for theirs. ``sigmoid_norm`` is our ``length_dpo``, ``robust`` our ``robust_dpo``, CPO's ``hinge`` our
``slic``. Where a supervised term is added TRL takes its mean over the tokens of a micro-batch (for ORPO with
those of the prompt), we over the tokens of each answer, so that term is compared on answers of one length.
"""

import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from tests import preferring
from tunewright.engine.batch import build_batch
from tunewright.objectives.base import per_segment
from tunewright.objectives.preference_losses import PREFERENCE_LOSSES, Pairs, kto

pytest.importorskip("trl")
VOCAB, PROMPT, BETA = 11, 3, 0.3
LENGTHS = [(4, 2), (1, 5), (3, 3), (6, 2), (2, 1)]  # of the chosen and the rejected answer


@pytest.fixture(scope="module")
def trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.cpo.cpo_trainer import CPOTrainer
        from trl.experimental.orpo.orpo_trainer import ORPOTrainer
        from trl.trainer.dpo_trainer import DPOTrainer
        from trl.trainer.kto_trainer import KTOTrainer
    return SimpleNamespace(dpo=DPOTrainer, kto=KTOTrainer, cpo=CPOTrainer, orpo=ORPOTrainer)


class Given:
    """A forward over given logits, one row per target."""

    def __init__(self, logits, ids):
        self.logits, self.ids = logits, ids

    def logprobs(self, batch):
        return self.logits.log_softmax(-1).gather(1, self.ids[:, None])[:, 0]

    def per_target(self, batch, fn, hidden=None):
        return fn(self.logits, torch.arange(len(self.logits)))


def random_pairs(lengths=LENGTHS):
    """Rows with references, their batch, and logits for its targets."""
    generator = torch.Generator().manual_seed(1)

    def ids(n):
        return torch.randint(0, VOCAB, (n,), generator=generator).tolist()

    rows = []
    for n, m in lengths:
        row = preferring.pair(ids(PROMPT), ids(n), ids(m))
        for answer in row.branches:
            answer.extras["reference"] = -2.5 * len(answer.ids) + float(torch.randn(1, generator=generator))
        rows.append(row)
    batch = build_batch(rows)
    logits = 0.7 * torch.randn(len(batch.targets.ids), VOCAB, generator=generator)
    return rows, batch, logits.requires_grad_()


def padded(values, batch, rows):
    """(N,) values of targets as TRL's (2 P, L - 1): all chosen, then all rejected, after their prompts."""
    answers = [row.branches[side] for side in (0, 1) for row in rows]
    segments = [3 * i + 1 + side for side in (0, 1) for i in range(len(rows))]
    out = values.new_zeros(len(answers), PROMPT + max(len(a.ids) for a in answers) - 1)
    for i, segment in enumerate(segments):
        found = values[batch.targets.segment == segment]
        out = out.index_put((torch.tensor(i), torch.arange(PROMPT - 1, PROMPT - 1 + len(found))), found)
    return out


ACCELERATOR = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


def close(ours, theirs):
    return torch.allclose(ours, theirs, rtol=0, atol=1e-5)


def bare(trainer, **facts):
    """A trainer without its constructor."""
    made = object.__new__(trainer)
    common = {
        "model": SimpleNamespace(training=True),
        "accelerator": ACCELERATOR,
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        "beta": BETA,
        "label_smoothing": 0.0,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in {**common, **facts}.items():
        object.__setattr__(made, name, value)
    return made


def dpo_of_trl(trl, kind, rows, batch, logits, **facts):
    """TRL's DPO loss of one batch."""
    ids = batch.targets.ids
    logp = logits.log_softmax(-1)
    chosen = padded(logp.gather(1, ids[:, None])[:, 0], batch, rows)
    outputs = SimpleNamespace(
        log_probs=chosen,
        log_sum_sq_probs=padded((2 * logp).logsumexp(-1), batch, rows),
        entropy=torch.zeros_like(chosen),
        mean_logits=torch.zeros_like(chosen),
        is_top1=torch.zeros_like(chosen, dtype=torch.bool),
    )
    mask = torch.nn.functional.pad(padded(torch.ones(len(ids)), batch, rows), (1, 0)).long()
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": torch.tensor([r.branches[0].extras["reference"] for r in rows]),
        "ref_rejected_logps": torch.tensor([r.branches[1].extras["reference"] for r in rows]),
    }
    usual = {"ld_alpha": None, "f_divergence_type": "reverse_kl", "use_weighting": False}
    trainer = bare(trl.dpo, loss_types=[kind], loss_weights=[1.0], **{**usual, **facts})
    return trainer._compute_loss(lambda **_: outputs, inputs, False), trainer._metrics["train"]


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("dpo", "sigmoid", {}),
        ("robust_dpo", "robust", {"label_smoothing": 0.2}),
        ("length_dpo", "sigmoid_norm", {}),
        ("ipo", "ipo", {}),
        ("hinge", "hinge", {}),
        ("apo_zero", "apo_zero", {}),
        ("apo_down", "apo_down", {}),
        ("wpo", "sigmoid", {"use_weighting": True}),
    ],
)
def test_losses_with_a_reference(trl, name, kind, options):
    rows, batch, logits = random_pairs()
    theirs, metrics = dpo_of_trl(trl, kind, rows, batch, logits, **options)
    mine = {k: v for k, v in options.items() if k != "use_weighting"}
    objective = preferring.objective(name, beta=BETA, **mine)
    out = objective.loss(Given(logits, batch.targets.ids), batch)
    ours = out.total / objective.count(batch)
    assert close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
    assert gradients[0].abs().max() > 1e-3
    if name in ("dpo", "hinge"):
        for found, expected in {
            "margin": "rewards/margins",
            "accuracy": "rewards/accuracies",
            "reward_chosen": "rewards/chosen",
            "logp_rejected": "logps/rejected",
        }.items():
            value = out.metrics[found].total / out.metrics[found].weight
            assert close(value, torch.tensor(metrics[expected][0]))


def test_the_supervised_term(trl):
    """On answers of one length the mean over answers is the mean over tokens."""
    rows, batch, logits = random_pairs([(3, 2), (3, 4)])
    parts = [dpo_of_trl(trl, kind, rows, batch, logits)[0] for kind in ("sigmoid", "sft")]
    objective = preferring.objective("rpo", beta=BETA, sft_weight=0.7)
    ours = objective.loss(Given(logits, batch.targets.ids), batch).total / 2
    assert close(ours, parts[0] + 0.7 * parts[1])


def sums_and_lengths(batch, logits):
    logp = logits.log_softmax(-1).gather(1, batch.targets.ids[:, None])[:, 0]
    sums, lengths = per_segment(logp, batch), per_segment(torch.ones(len(logp)), batch)
    return [sums[1::3], sums[2::3]], [lengths[1::3], lengths[2::3]]


@pytest.mark.parametrize(
    ("name", "options", "facts"),
    [
        ("cpo", {"beta": BETA, "label_smoothing": 0.1}, {"loss_type": "sigmoid", "label_smoothing": 0.1}),
        ("simpo", {"beta": BETA, "gamma": 0.7}, {"loss_type": "simpo", "simpo_gamma": 0.7}),
        ("slic", {"delta": 1.0}, {"loss_type": "hinge", "beta": 1.0}),
        ("orpo", {"beta": BETA}, {}),
    ],
)
def test_losses_without_a_reference(trl, name, options, facts):
    _, batch, logits = random_pairs()
    sums, lengths = sums_and_lengths(batch, logits)
    zeros = torch.zeros_like(sums[0])
    ours = PREFERENCE_LOSSES[name](Pairs(*sums, zeros, zeros, *lengths), sft_weight=0.0, **options)
    means = [s / n for s, n in zip(sums, lengths, strict=True)]
    if name == "orpo":
        theirs = -bare(trl.orpo).odds_ratio_loss(*means)[0]
    else:
        theirs = bare(trl.cpo, alpha=0.0, **facts).cpo_loss(*(means if name == "simpo" else sums))[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    assert ours.std() > 1e-3


@pytest.mark.parametrize("shift", [0.0, -9.0])
def test_kto_given_the_same_kl(trl, shift):
    """TRL's KL is one number per micro-batch; ours is given that number for each row."""
    rows, batch, logits = random_pairs()
    sums, _ = sums_and_lengths(batch, logits)
    logp = padded(logits.log_softmax(-1).gather(1, batch.targets.ids[:, None])[:, 0], batch, rows)
    count = len(rows)
    reference = torch.tensor([r.branches[side].extras["reference"] for side in (0, 1) for r in rows])
    liked = torch.tensor([True, False, False, True, True] * 2)
    other = torch.linspace(-1.0, 2.0, 2 * count) + shift
    mask = torch.nn.functional.pad((logp != 0).long(), (1, 0))
    trainer = bare(trl.kto, calculate_KL=True, loss_type="kto", desirable_weight=1.3, undesirable_weight=0.8)
    object.__setattr__(trainer, "_compute_kl_logps", lambda model, inputs: other)
    outputs = SimpleNamespace(
        log_probs=logp, entropy=torch.zeros_like(logp), mean_logits=torch.zeros_like(logp)
    )
    theirs = trainer._compute_loss(
        lambda **_: outputs,
        {
            "input_ids": torch.zeros_like(mask),
            "attention_mask": torch.ones_like(mask),
            "completion_mask": mask,
            "label": liked,
            "ref_logps": reference,
            "ref_KL_logps": torch.zeros(2 * count),
        },
        False,
    )
    ours = kto(
        torch.cat(sums) - reference,
        other.mean().expand(2 * count),
        liked,
        beta=BETA,
        desirable_weight=1.3,
        undesirable_weight=0.8,
    ).mean()
    assert close(ours, theirs)
    gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
