"""Do two sets of texts come from the same source? A classifier is asked to tell them apart.

Classifier two-sample test (Lopez-Paz and Oquab 2017): learn on one half of each set, judge on the other half.
AUC 0.5 means that they cannot be told apart; the rows judged were never seen, so the interval is honest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewright.data.audit.features import hashed
from tunewright.data.audit.intervals import Estimate, auc

FEWEST = 40  # texts on each side: with fewer the interval says nothing
DIFFERENT = 0.6  # AUC from which a difference matters in practice
CLEARLY = 0.75


def told_apart(one: Sequence[str], two: Sequence[str], seed: int = 0) -> Estimate:
    """AUC of telling ``two`` from ``one`` on the halves not learnt from; both need ``FEWEST`` texts. A text
    that stands in both sets is kept in both: it belongs to what they share."""
    from sklearn.linear_model import LogisticRegression

    texts = [*one, *two]
    side = np.array([0] * len(one) + [1] * len(two))
    learnt = _halves(len(one), len(two), seed)
    matrix = hashed(texts)
    model = LogisticRegression(C=1.0, max_iter=100, class_weight="balanced")
    model.fit(matrix[learnt], side[learnt])
    scores = model.decision_function(matrix[~learnt])
    judged = side[~learnt]
    return auc(scores[judged == 1], scores[judged == 0])


def _halves(one: int, two: int, seed: int) -> np.ndarray[Any, Any]:
    """True for the half of each side to learn from."""
    rng, learnt = random.Random(seed), np.zeros(one + two, dtype=bool)
    learnt[rng.sample(range(one), one // 2)] = True
    learnt[[one + i for i in rng.sample(range(two), two // 2)]] = True
    return learnt


def in_words(found: Estimate) -> str:
    """What an AUC means."""
    if found.low <= 0.5 or found.value < 0.55:
        return "cannot be told apart"
    if found.value < DIFFERENT:
        return "differ a little"
    return "differ clearly" if found.value >= CLEARLY else "differ"


def differs(found: Estimate) -> bool:
    """True if the difference is certain and large enough to matter."""
    return found.low > 0.5 and found.value >= DIFFERENT
