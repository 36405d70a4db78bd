"""Ranks are those of scipy."""

import numpy as np
import pytest
from scipy.stats import rankdata

from tunewright.evaluate.ranks import mean_ranks, places


@pytest.mark.parametrize("values", [[], [2.0], [3.0, 1.0, 3.0, 2.0, 3.0], [0.0, -0.0, 1.0]])
def test_worked_values(values):
    assert mean_ranks(values).tolist() == rankdata(values).tolist()
    assert places(values).tolist() == (rankdata(values, method="dense") - 1).tolist()


def test_many_ties():
    values = np.random.default_rng(0).integers(0, 9, 200) / 3
    assert mean_ranks(values).tolist() == rankdata(values).tolist()
    assert places(values).tolist() == (rankdata(values, method="dense") - 1).tolist()
