"""What a head has to beat without any language model: the most frequent answer, and models of words.

A classifier that does not beat naive Bayes is not worth its cost. Every function learns from training texts
and gives one ``Prediction`` for each of ``texts``, so that they are scored like the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from tunewright.core.errors import DataError
from tunewright.objectives.predict import Prediction, half_width

SMOOTHING = 0.1  # of naive Bayes: better than 1 on short texts with many classes
ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of ridge regression, chosen by leave-one-out error
FOLDS = 5
HALF = 0.5
Labels = tuple[str, ...]


class Known(NamedTuple):
    """Training rows: texts, and the label, labels or number of each."""

    texts: Sequence[str]
    answers: Sequence[Any]


def majority(train: Known, texts: Sequence[str], labels: Sequence[str]) -> list[Prediction]:
    """The most frequent label for every text; its share is how sure.

    Of sets of labels it is the most frequent that is not empty: one that names nothing would be no rival.
    """
    counts = Counter(answer for answer in train.answers if answer) or Counter(train.answers)
    best = max(sorted(counts), key=counts.__getitem__)
    several = isinstance(best, tuple)
    shares = Counter(label for a in train.answers for label in (a if several else (a,)))
    probabilities = tuple(shares[label] / len(train.answers) for label in labels)
    return [Prediction(best, probabilities)] * len(texts)


def naive_bayes(train: Known, texts: Sequence[str], labels: Sequence[str]) -> list[Prediction]:
    """Multinomial naive Bayes on counts of words and pairs of words; with several labels, one for each."""
    counter = CountVectorizer(ngram_range=(1, 2))
    known, asked = _counted(counter, train.texts, texts)
    if not isinstance(train.answers[0], tuple):
        model = MultinomialNB(alpha=SMOOTHING).fit(known, train.answers)
        place = {label: i for i, label in enumerate(model.classes_)}
        order = [place[label] for label in labels]
        rows = model.predict_proba(asked)[:, order]
        return [Prediction(labels[int(row.argmax())], tuple(map(float, row))) for row in rows]
    columns = [_presence(known, [label in a for a in train.answers], asked) for label in labels]
    rows = np.stack(columns, axis=1)
    named = [tuple(x for x, p in zip(labels, row, strict=True) if p >= HALF) for row in rows]
    return [Prediction(n, tuple(map(float, row))) for n, row in zip(named, rows, strict=True)]


def mean(train: Known, texts: Sequence[str], level: float) -> list[Prediction]:
    """The mean of the training rows for every text."""
    values = np.asarray(train.answers, dtype=np.float64)
    without = (values.sum() - values) / max(1, len(values) - 1)
    half = _half_width(values - without, level)
    return [_number(values.mean(), half)] * len(texts)


def ridge(train: Known, texts: Sequence[str], level: float) -> list[Prediction]:
    """Ridge regression on TF-IDF of words and pairs of words; intervals from errors on rows left out."""
    values = np.asarray(train.answers, dtype=np.float64)
    residuals = np.zeros(len(values))
    if len(values) >= FOLDS:
        for kept, left in KFold(FOLDS, shuffle=True, random_state=0).split(values):
            model = _ridge([train.texts[i] for i in kept], values[kept])
            residuals[left] = values[left] - model.predict([train.texts[i] for i in left])
    half = _half_width(residuals, level) if len(values) >= FOLDS else None
    return [_number(value, half) for value in _ridge(train.texts, values).predict(list(texts))]


def _counted(counter: Any, train: Sequence[str], texts: Sequence[str]) -> tuple[Any, Any]:
    try:
        known = counter.fit_transform(train)
    except ValueError as error:  # no word of two characters in any text
        raise DataError(f"naive_bayes: the training texts hold no words to count ({error})") from None
    return known, counter.transform(texts)


def _presence(known: Any, present: Sequence[bool], asked: Any) -> np.ndarray:
    """Probability that one label is present; where training rows agree, they are believed."""
    if len(set(present)) == 1:
        return np.full(asked.shape[0], float(present[0]))
    found: np.ndarray = MultinomialNB(alpha=SMOOTHING).fit(known, present).predict_proba(asked)[:, 1]
    return found


def _ridge(texts: Sequence[str], values: np.ndarray) -> Any:
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), RidgeCV(alphas=ALPHAS))
    try:
        return model.fit(list(texts), values)
    except ValueError as error:
        raise DataError(f"ridge: the training texts hold no words to count ({error})") from None


def _number(value: float, half: float | None) -> Prediction:
    value = float(value)
    return Prediction(value, interval=None if half is None else (value - half, value + half))


def _half_width(residuals: np.ndarray, level: float) -> float | None:
    """``None`` where there are too few rows for an interval of this level."""
    try:
        return half_width(residuals.tolist(), level)
    except DataError:
        return None
