"""Divergences against TRL 1.16: GKD's generalised JS, the tail bucket of its top-k losses, and GOLD's ULD.

TRL's ``beta`` is our ``js_weight``, with 0 for forward KL and 1 for reverse KL. TRL divides logits by the
temperature but does not multiply the loss by its square.
"""

import warnings
from types import SimpleNamespace

import pytest
import torch

from tunewright.objectives.divergences import DIVERGENCES, absolute, matched, ranked, top_k

pytest.importorskip("trl")
NAMES = {0.0: "forward", 1.0: "reverse"}


@pytest.fixture(scope="module")
def trl():
    """The functions under comparison."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gkd.gkd_trainer import GKDTrainer
        from trl.experimental.gold.gold_trainer import ULDLoss
        from trl.experimental.server_distillation import server_distillation_trainer as server
    return SimpleNamespace(jsd=GKDTrainer.generalized_jsd_loss, uld=ULDLoss, server=server)


def logits(rows, tokens, seed):
    return 3 * torch.randn(rows, tokens, generator=torch.Generator().manual_seed(seed))


def ours(beta, teacher, student):
    if beta in NAMES:
        return DIVERGENCES[NAMES[beta]](teacher, student)
    return DIVERGENCES["js"](teacher, student, beta)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_generalised_js_and_its_gradient(trl, beta, temperature):
    teacher = logits(40, 97, 1)
    mine, theirs = (logits(40, 97, 2).requires_grad_() for _ in range(2))
    found = ours(beta, (teacher / temperature).log_softmax(-1), (mine / temperature).log_softmax(-1))
    expected = trl.jsd(theirs[None], teacher[None], beta=beta, temperature=temperature, reduction="none")[
        0
    ].sum(-1)
    assert torch.allclose(found, expected, atol=1e-5) and expected.std() > 0.01
    gradients = [torch.autograd.grad(x.sum(), at)[0] for x, at in ((found, mine), (expected, theirs))]
    assert torch.allclose(*gradients, atol=1e-5)


def test_the_mean_over_labelled_tokens(trl):
    """``batchmean`` divides by the number of labelled positions, as our count does with weights of 1."""
    teacher, student = logits(30, 50, 3), logits(30, 50, 4)
    labels = torch.where(torch.arange(30) % 3 == 0, -100, 1)
    expected = trl.jsd(student[None], teacher[None], labels[None], beta=0.3)
    kept = labels != -100
    found = ours(0.3, teacher.log_softmax(-1), student.log_softmax(-1))[kept].sum() / kept.sum()
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("k", [1, 8])
def test_all_other_tokens_as_one(trl, beta, k):
    teacher, student = logits(40, 60, 5).log_softmax(-1), logits(40, 60, 6).log_softmax(-1)
    top = top_k(teacher, k)
    known = torch.ones(40, k, dtype=torch.bool)
    p, mask = trl.server._add_tail_bucket(top.logprobs, known)
    q, _ = trl.server._add_tail_bucket(student.gather(1, top.ids), known)
    expected = trl.server._jsd_divergence(q, p, beta, mask).sum(-1)
    assert torch.allclose(ours(beta, *matched(top, student)), expected, atol=1e-5)


@pytest.mark.parametrize(("student_tokens", "teacher_tokens"), [(50, 50), (50, 80), (80, 50)])
def test_uld(trl, student_tokens, teacher_tokens):
    """GOLD with its original alignment; it averages over the positions that both answers have."""
    config = SimpleNamespace(
        uld_crossentropy_weight=0.0,
        uld_distillation_weight=1.0,
        uld_student_temperature=1.0,
        uld_teacher_temperature=1.0,
        uld_skip_student_eos=False,
        uld_skip_teacher_eos=False,
        use_extended_uld=False,
        uld_token_merge_strategy="observed",
    )
    student, teacher = logits(9, student_tokens, 7), logits(12, teacher_tokens, 8)
    ids = [torch.zeros(1, n, dtype=torch.long) for n in (9, 12)]
    expected = trl.uld(config)._compute_distillation_loss(student[None], teacher[None], *ids, *ids)
    top = top_k(teacher[:9].log_softmax(-1), 80)
    found = absolute(*ranked(top, student.log_softmax(-1)))
    assert found.mean().item() == pytest.approx(expected.item(), abs=1e-5)
