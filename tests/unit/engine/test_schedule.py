"""Rates by hand."""

from itertools import pairwise

import pytest

from tunewright.engine.schedule import auto_rate, rate_at


def test_linear_by_hand():
    rates = [rate_at(s, 10, 1.0, "linear", 0.2) for s in range(1, 11)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_cosine_starts_at_the_peak_and_ends_near_zero():
    rates = [rate_at(s, 100, 2.0, "cosine", 0.0) for s in range(1, 101)]
    assert rates[0] == 2.0 and rates[50] == pytest.approx(1.0) and 0 < rates[-1] < 0.001
    assert all(a > b for a, b in pairwise(rates))


def test_constant_after_warmup():
    assert [rate_at(s, 4, 1.0, "constant", 0.5) for s in range(1, 5)] == [0.5, 1.0, 1.0, 1.0]


def test_the_last_step_of_every_schedule_still_learns():
    assert all(
        rate_at(n, n, 1.0, kind, 0.05) > 0 for kind in ("linear", "cosine", "constant") for n in (1, 2, 7)
    )


def test_auto_rate_falls_with_the_square_root_of_the_width():
    assert auto_rate(1024, 1.0) == pytest.approx(1e-4)
    assert auto_rate(4096, 10.0) == pytest.approx(5e-4)
