"""Labels that are probably wrong: confident learning (Northcutt, Jiang, Chuang 2021).

Each row gets class probabilities from models that did not see it (five folds; rows with the same text share
a fold). A class is *confident* for a row if its probability is at least the mean probability of that class
over the rows that carry it. Rows whose most probable confident class is not their label are the off-diagonal
of the confident joint: their number estimates how many labels are wrong.

Rows are ranked by p(own label) x (1 - p(best other label)), the lowest first. Self-confidence alone ranks
labels that are wrong at random as well, but fewer of those mistaken for a neighbouring class, whose own
probability is not quite zero; the second factor brings these forward (measured: benchmarks/label_errors.py).

The probabilities are the mean of two models that err differently: naive Bayes on hashed TF-IDF and logistic
regression on its 300 strongest directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from tunewright.data.audit.features import Matrix, directions, hashed
from tunewright.data.audit.intervals import share
from tunewright.data.audit.result import Part, share_text, shortened, skipped
from tunewright.data.audit.sample import Row, classes_of, drawn, within
from tunewright.data.keys import normalise

NAME = "label errors"
FOLDS = 5
FEWEST = 5  # rows of a class, so that each fold can learn it
ROWS, CHARACTERS = 20_000, 5_000_000  # what is looked at, at most
CLASSES = 300
WIDTH = 300
SMOOTHING = 0.03  # of naive Bayes on TF-IDF: sums of fractions need less than counts
LOOKED = 0.05  # of the rows are listed as suspects, at most
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row, the label it carries, what the other rows say it should be, and both probabilities."""

    place: str
    label: str
    instead: str
    confidence: float
    confidence_instead: float


def label_errors(rows: Sequence[Row], total: int, seed: int = 0) -> Part:
    """The part of the report; skipped where rows have no classes or too few."""
    rows = within(rows, CHARACTERS, ROWS)
    classes = classes_of(rows)
    sizes = Counter(c for c in classes if c is not None)
    known = sorted(c for c, n in sizes.items() if n >= FEWEST)
    if not 2 <= len(known) <= CLASSES:
        why = "Needs labels, or answers that are a few classes, with five rows each."
        return skipped(NAME, why, len(rows), total)
    place = {c: i for i, c in enumerate(known)}
    used = [(row, place[c]) for row, c in zip(rows, classes, strict=True) if c in place]
    labels = np.array([label for _, label in used])
    by_answer = all(row.label is None for row in rows)
    texts = [row.prompt if by_answer else row.text for row, _ in used]
    probabilities = out_of_fold(texts, labels, seed)
    right = float((probabilities.argmax(1) == labels).mean())
    if right <= max(np.bincount(labels)) / len(labels):
        why = "The words of these texts do not tell the classes apart, so no label can be doubted from them."
        return skipped(NAME, why, len(used), total)
    left_out = sum(n for n in sizes.values()) - len(used)
    return _part([row for row, _ in used], labels, probabilities, known, (total, right, left_out))


def _part(
    rows: list[Row], labels: Array, probabilities: Array, known: list[str], facts: tuple[int, float, int]
) -> Part:
    total, right, left_out = facts
    suspected = confident_errors(probabilities, labels)
    ranked = ranking(probabilities, labels, [row.place for row in rows])
    rivals = _best_other(probabilities, labels)
    most = max(min(int(suspected.sum()), len(rows)), round(LOOKED * len(rows)))
    suspects = [
        Suspect(
            rows[i].place,
            known[labels[i]],
            known[rivals[i]],
            round(float(probabilities[i, labels[i]]), 4),
            round(float(probabilities[i, rivals[i]]), 4),
        )
        for i in ranked[:most]
        if rivals[i] != labels[i] and probabilities[i, rivals[i]] > probabilities[i, labels[i]]
    ]
    rate = share(int(suspected.sum()), len(rows))
    left = f"; {left_out} rows of classes with fewer than {FEWEST} rows were left out" if left_out else ""
    measured = (
        f"about {share_text(*rate)} of the labels look wrong ({int(suspected.sum())} of {len(rows)} rows;"
        f" {drawn(len(rows) + left_out, total)} looked at, {len(known)} classes; models that had not seen"
        f" a row gave its label for {100 * right:.1f} %){left}"
    )
    lines = [
        f"{s.place}: labelled {s.label!r}, reads like {s.instead!r} ({s.confidence:.2f} against"
        f" {s.confidence_instead:.2f})"
        for s in suspects[: int(suspected.sum())]
    ]
    alarm = rate.low > 0.002
    return Part(
        NAME,
        "look" if alarm else "fine",
        measured,
        "Rows whose words belong to another class than their label; some are hard rows with a right label."
        if alarm
        else "Labels and texts agree.",
        "Read the suspects from the top (audit details in --json) and mend or drop the wrong ones."
        if alarm
        else "Nothing to do.",
        len(rows),
        total,
        shortened(lines) if alarm else (),
        {
            "estimated": int(suspected.sum()),
            "share": rate._asdict(),
            "accuracy": right,
            "score": "p(own label) x (1 - p(best other label)), out of fold, lowest first",
            "suspects": [asdict(s) for s in suspects],
        },
    )


def out_of_fold(texts: Sequence[str], labels: Array, seed: int = 0) -> Array:
    """Class probabilities (n, classes) of each text by models that did not see it. Deterministic."""
    matrix = hashed(texts)
    dense = directions(matrix, WIDTH, seed)
    folds = folds_of(texts, labels, seed)
    result = np.zeros((len(texts), int(labels.max()) + 1))
    for fold in range(FOLDS):
        asked = folds == fold
        if asked.any() and not asked.all():
            result[asked] = _probabilities(matrix, dense, labels, asked, result.shape[1])
    return result


def _probabilities(matrix: Matrix, dense: Array, labels: Array, asked: Array, classes: int) -> Array:
    """The mean of both models for the rows ``asked``, learnt from the others; a class that these lack gets
    0."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB

    known = labels[~asked]
    found = np.zeros((int(asked.sum()), classes))
    if len(np.unique(known)) < 2:
        found[:, known[0]] = 1.0
        return found
    bayes = MultinomialNB(alpha=SMOOTHING).fit(matrix[~asked], known)
    logistic = LogisticRegression(C=5.0, max_iter=60, tol=1e-3).fit(dense[~asked], known)
    both = bayes.predict_proba(matrix[asked]) + logistic.predict_proba(dense[asked])
    found[:, bayes.classes_] = both / 2
    return found


def folds_of(texts: Sequence[str], labels: Array, seed: int = 0) -> Array:
    """A fold for each row: classes are dealt out evenly, and equal texts share a fold, so that a row is never
    judged by its own copy. The order of the rows does not matter."""
    keys = [normalise(text) for text in texts]
    hashes = [
        blake2b(f"{seed} {key}".encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys
    ]
    fold: dict[bytes, int] = {}
    dealt: Counter[int] = Counter()
    for i in sorted(range(len(texts)), key=lambda i: (int(labels[i]), hashes[i])):
        if hashes[i] not in fold:
            fold[hashes[i]] = (dealt[int(labels[i])] + int(labels[i])) % FOLDS
            dealt[int(labels[i])] += 1
    return np.array([fold[h] for h in hashes])


def confident_errors(probabilities: Array, labels: Array) -> Array:
    """True for the off-diagonal rows of the confident joint, (n,)."""
    classes = probabilities.shape[1]
    thresholds = np.array([probabilities[labels == c, c].mean() for c in range(classes)])
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    found: Array = (confident.max(1) >= 0) & (confident.argmax(1) != labels)
    return found


def ranking(probabilities: Array, labels: Array, places: Sequence[str]) -> list[int]:
    """Indices of the rows, the most suspicious first; ties by place."""
    every = np.arange(len(labels))
    score = probabilities[every, labels] * (1 - probabilities[every, _best_other(probabilities, labels)])
    return sorted(range(len(labels)), key=lambda i: (round(float(score[i]), 9), places[i]))


def _best_other(probabilities: Array, labels: Array) -> Array:
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    found: Array = others.argmax(1)
    return found
