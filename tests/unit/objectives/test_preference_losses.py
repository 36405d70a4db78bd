"""Every loss on pairs: worked numbers, all different, and gradients against finite differences."""

import math
from itertools import combinations

import pytest
import torch

from tunewright.objectives.base import OBJECTIVES
from tunewright.objectives.options.table import PAIRWISE
from tunewright.objectives.preference import Preferences
from tunewright.objectives.preference_losses import PREFERENCE_LOSSES, Pairs, kto, measured

# log p(y+), log p(y-), log q(y+), log q(y-), |y+|, |y-|, w(y+) w(y-)
ROWS = [
    (-4.0, -6.0, -5.0, -5.5, 4, 3, 0.5),
    (-2.5, -2.0, -3.0, -1.0, 2, 2, 0.8),
    (-20, -9, -18, -10, 10, 3, 0.1),
]
WORKED = [0, 1, 2]


def s(z):
    return 1 / (1 + math.exp(-z))


def log_s(z):
    return math.log(s(z))


def odds(mean_logp):
    return math.exp(mean_logp) / (1 - math.exp(mean_logp))


def supervised(c, n):
    return -c / n


# c, r: log-probabilities; qc, qr: of the reference; n, m: lengths; w: alignment
BY_HAND = {
    "dpo": lambda c, r, qc, qr, n, m, w: -log_s(0.1 * ((c - qc) - (r - qr))),
    "robust_dpo": lambda c, r, qc, qr, n, m, w: (
        (-0.9 * log_s(0.1 * (c - qc - r + qr)) + 0.1 * log_s(-0.1 * (c - qc - r + qr))) / 0.8
    ),
    "length_dpo": lambda c, r, qc, qr, n, m, w: -log_s(5 * ((c - qc) / n - (r - qr) / m)),
    "wpo": lambda c, r, qc, qr, n, m, w: -w * log_s(0.1 * (c - qc - r + qr)),
    "rpo": lambda c, r, qc, qr, n, m, w: -log_s(0.1 * (c - qc - r + qr)) + supervised(c, n),
    "hinge": lambda c, r, qc, qr, n, m, w: max(0.0, 1 - 0.1 * (c - qc - r + qr)),
    "apo_zero": lambda c, r, qc, qr, n, m, w: 1 - s(0.1 * (c - qc)) + s(0.1 * (r - qr)),
    "apo_down": lambda c, r, qc, qr, n, m, w: s(0.1 * (c - qc)) + 1 - s(0.1 * (c - qc - r + qr)),
    "ipo": lambda c, r, qc, qr, n, m, w: ((c - qc) / n - (r - qr) / m - 5) ** 2,
    "slic": lambda c, r, qc, qr, n, m, w: max(0.0, 1 - c + r) + supervised(c, n),
    "simpo": lambda c, r, qc, qr, n, m, w: -log_s(2 * (c / n - r / m) - 1),
    "cpo": lambda c, r, qc, qr, n, m, w: -log_s(0.1 * (c - r)) + supervised(c, n),
    "orpo": lambda c, r, qc, qr, n, m, w: supervised(c, n) - 0.1 * log_s(math.log(odds(c / n) / odds(r / m))),
}


def pairs_of(rows, dtype=torch.float64):
    return Pairs(*torch.tensor(rows, dtype=dtype).T)


def test_the_table_has_every_name_and_every_name_is_in_the_table():
    assert {*PAIRWISE, "ipo", "slic", "simpo", "cpo", "orpo"} == set(PREFERENCE_LOSSES) == set(BY_HAND)
    assert all(OBJECTIVES[name] is Preferences for name in PREFERENCE_LOSSES)


@pytest.mark.parametrize("row", WORKED)
@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_worked_numbers(name, row):
    found = PREFERENCE_LOSSES[name](pairs_of(ROWS))[row]
    assert float(found) == pytest.approx(BY_HAND[name](*ROWS[row]), abs=1e-12)


def test_four_numbers_on_paper():
    """r(y+) = 1 and r(y-) = -0.5 in the first row, so the lead is 1.5; the answers have 4 and 3 tokens."""
    first = pairs_of(ROWS[:1])
    assert float(PREFERENCE_LOSSES["dpo"](first)) == pytest.approx(math.log(1 + math.exp(-0.15)))
    assert float(PREFERENCE_LOSSES["hinge"](first)) == pytest.approx(0.85)
    assert float(PREFERENCE_LOSSES["ipo"](first)) == pytest.approx((1 / 4 + 1 / 6 - 5) ** 2)
    assert float(PREFERENCE_LOSSES["slic"](first)) == pytest.approx(0 + 1.0)


@pytest.mark.parametrize("row", WORKED)
def test_all_losses_differ_on_one_input(row):
    found = {name: float(loss(pairs_of(ROWS))[row]) for name, loss in PREFERENCE_LOSSES.items()}
    for one, other in combinations(found, 2):
        assert abs(found[one] - found[other]) > 1e-4, (one, other)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_gradients_against_finite_differences(name):
    given = torch.tensor(ROWS, dtype=torch.float64).T

    def loss(chosen, rejected):
        return PREFERENCE_LOSSES[name](Pairs(chosen, rejected, *given[2:]))

    inputs = tuple(column.clone().requires_grad_() for column in given[:2])
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-7)


CHANGED = {
    "beta": 0.3,
    "label_smoothing": 0.2,
    "sft_weight": 0.5,
    "margin": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
    "delta": 9.0,
    "gamma": 0.25,
}


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_every_setting_a_loss_reads_changes_it(name):
    loss = PREFERENCE_LOSSES[name]
    for setting in loss.reads:
        changed = loss(pairs_of(ROWS), **{setting: CHANGED[setting]})
        assert not torch.allclose(changed, loss(pairs_of(ROWS))), setting


def test_label_smoothing_margin_and_supervised_term_by_hand():
    row = pairs_of(ROWS[:1])
    z = 0.1 * 1.5
    smooth = PREFERENCE_LOSSES["dpo"](row, label_smoothing=0.2)
    assert float(smooth) == pytest.approx(-0.8 * log_s(z) - 0.2 * log_s(-z))
    offset = PREFERENCE_LOSSES["dpo"](row, margin=torch.tensor([0.5], dtype=torch.float64))
    assert float(offset) == pytest.approx(-log_s(z - 0.5))
    both = PREFERENCE_LOSSES["dpo"](row, sft_weight=3.0)
    assert float(both) == pytest.approx(-log_s(z) + 3 * 4 / 4)
    assert float(PREFERENCE_LOSSES["rpo"](row, sft_weight=3.0)) == pytest.approx(float(both))


def test_robust_loss_averages_to_the_clean_one():
    """With a share e of labels flipped, the mean of the robust loss is the loss of the true labels."""
    row = pairs_of(ROWS[:1])
    flipped = Pairs(
        row.rejected,
        row.chosen,
        row.reference_rejected,
        row.reference_chosen,
        row.rejected_length,
        row.chosen_length,
    )
    robust = PREFERENCE_LOSSES["robust_dpo"]
    e = 0.2
    mean = (1 - e) * robust(row, label_smoothing=e) + e * robust(flipped, label_smoothing=e)
    assert float(mean) == pytest.approx(float(PREFERENCE_LOSSES["dpo"](row)))


def test_the_weights_of_wpo_have_no_gradient():
    values = torch.tensor(ROWS, dtype=torch.float64).T.clone()
    alignment = values[6].clone().requires_grad_()
    chosen = values[0].clone().requires_grad_()
    PREFERENCE_LOSSES["wpo"](Pairs(chosen, *values[1:6], alignment)).sum().backward()
    assert alignment.grad is None and chosen.grad.abs().min() > 0


@pytest.mark.parametrize(("chosen", "rejected"), [(0.0, -3.0), (-1e-9, -900.0), (-900.0, 0.0)])
def test_odds_stay_finite_at_the_ends(chosen, rejected):
    values = [torch.tensor([v], requires_grad=True) for v in (chosen, rejected)]
    one = torch.ones(1)
    loss = PREFERENCE_LOSSES["orpo"](Pairs(*values, one, one, one, one))
    loss.sum().backward()
    assert loss.isfinite().all() and all(v.grad.isfinite().all() for v in values)


def test_what_is_measured():
    first = pairs_of(ROWS[:1])
    for basis, expected in {
        "ratio": (1.0, -0.5),
        "mean_ratio": (0.25, -0.5 / 3),
        "logp": (-4.0, -6.0),
        "mean_logp": (-1.0, -2.0),
    }.items():
        assert [float(v) for v in measured(first, basis)] == pytest.approx(expected)


# --- KTO


@pytest.mark.parametrize(
    ("ratio", "kl", "liked", "expected"),
    [
        (2.0, 0.5, True, 1.5 * (1 - s(0.2 * 1.5))),
        (2.0, 0.5, False, 0.7 * (1 - s(-0.2 * 1.5))),
        (-1.0, -3.0, True, 1.5 * (1 - s(-0.2))),  # a negative estimate of the KL counts as none
    ],
)
def test_kto_worked_numbers(ratio, kl, liked, expected):
    found = kto(
        torch.tensor([ratio], dtype=torch.float64),
        torch.tensor([kl], dtype=torch.float64),
        torch.tensor([liked]),
        beta=0.2,
        desirable_weight=1.5,
        undesirable_weight=0.7,
    )
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_kto_gradients_and_its_constant():
    ratios = torch.tensor([0.5, -1.0, 3.0], dtype=torch.float64, requires_grad=True)
    kl = torch.tensor([0.3, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    liked = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda r: kto(r, kl.detach(), liked), (ratios,), eps=1e-6, atol=1e-7)
    kto(ratios, kl, liked).sum().backward()
    assert kl.grad is None and (ratios.grad * torch.tensor([1, -1, 1]) < 0).all()
