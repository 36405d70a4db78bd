"""How much of the problem a candidate talks about, and how much of the candidate is about the problem.

Texts are compared by their words alone: hashed TF-IDF (Salton & Buckley 1988) in few dimensions (latent
semantic analysis, Deerwester et al. 1990). No model reads them, so this takes a second for thousands of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

from tunewright.core.records import Example
from tunewright.data.keys import answer_of, texts_of

Array = NDArray[np.float64]
ROWS = 500  # rows of each data set that are looked at
DIMENSIONS = 64
BUCKETS = 2**15  # words are hashed to so many
CHANCE = 0.99  # share of all pairs of rows that are less alike than what may be called near
LEAST = 0.2  # cosine below which two rows are never near
CHARACTERS = 4000  # of a text that are read


@dataclass(frozen=True)
class Coverage:
    """``of_problem``: share of the problem's examples with a near row in the candidate. ``of_candidate``: the
    reverse. ``nearest``: mean cosine of a problem's example to its nearest row. ``near`` is the cosine from
    which on two rows count as near, the same for all candidates."""

    of_problem: float
    of_candidate: float
    nearest: float
    near: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def coverages(
    problem: Sequence[Example], candidates: Mapping[str, Sequence[Example]], seed: int
) -> dict[str, Coverage]:
    """The coverage by each candidate, from its first ``ROWS`` rows.

    Two rows are near if they are as alike as half of the problem's examples are to their nearest fellow, and
    more alike than chance: than 99 % of all pairs of an example and a row of any candidate.
    """
    drawn = {name: rows[:ROWS] for name, rows in candidates.items()}
    everything = [*problem, *(row for rows in drawn.values() for row in rows)]
    vectors = embedded([text_of(example) for example in everything], seed)
    own, rest = vectors[: len(problem)], vectors[len(problem) :]
    alike = own @ own.T
    np.fill_diagonal(alike, -1.0)
    near = max(LEAST, float(np.median(alike.max(axis=1))), float(np.quantile(own @ rest.T, CHANCE)))
    found: dict[str, Coverage] = {}
    start = 0
    for name, rows in drawn.items():
        pairs = own @ rest[start : start + len(rows)].T
        start += len(rows)
        best, back = pairs.max(axis=1), pairs.max(axis=0)
        least = near - 1e-9  # equal texts differ by rounding
        shares = float((best >= least).mean()), float((back >= least).mean())
        found[name] = Coverage(*shares, float(best.mean()), near)
    return found


def embedded(texts: Sequence[str], seed: int) -> Array:
    """Unit vectors (texts, at most ``DIMENSIONS``); a text without words is the zero vector."""
    words = make_pipeline(
        HashingVectorizer(n_features=BUCKETS, alternate_sign=False, norm=None, stop_words="english"),
        TfidfTransformer(sublinear_tf=True),
    ).fit_transform([text[:CHARACTERS] for text in texts])
    size = min(DIMENSIONS, len(texts) - 1)
    reduced = TruncatedSVD(size, random_state=seed % 2**32).fit_transform(words)
    found: Array = normalize(reduced)
    return found


def text_of(example: Example) -> str:
    """All that a row says, its label among it."""
    texts = list(texts_of(example))
    answer = answer_of(example)
    return "\n".join(texts if not answer or answer in texts else [*texts, answer])
