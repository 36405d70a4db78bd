"""Representativeness: how well the rows cover what the model will be asked, seen from a sample of production.

Three looks, each with its own error rate: can the two be told apart at all (AUC), which production inputs are
farther from every row than rows are from each other, and which topics are too rare or too frequent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tunewright.data.audit.features import Matrix, hashed
from tunewright.data.audit.intervals import Estimate, share, share_difference
from tunewright.data.audit.result import Part, share_text, shortened, skipped
from tunewright.data.audit.sample import Row, drawn, within
from tunewright.data.audit.topics import Topic, topics_of
from tunewright.data.audit.two_sample import FEWEST, differs, in_words, told_apart
from tunewright.data.keys import normalise

NAME = "representativeness"
ROWS, CHARACTERS = 4_000, 3_000_000
FAR = 0.95  # of rows have a nearer neighbour among the rows than this; beyond it an input is far
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Far:
    """Production inputs with no row near them; ``expected`` is the share of rows that are as alone."""

    share: Estimate
    expected: float
    p: float
    places: tuple[str, ...]


def representativeness(rows: Sequence[Row], production: Sequence[Row], total: int, seed: int = 0) -> Part:
    """Compare the inputs of the rows with production's; skipped with fewer than 40 different ones on a
    side."""
    rows, production = (within(r, CHARACTERS, ROWS, inputs=True) for r in (rows, production))
    ours, theirs = _different(rows), _different(production)
    if min(len(ours), len(theirs)) < FEWEST:
        why = (
            f"Needs {FEWEST} different inputs on each side; here {len(ours)} and {len(theirs)} of production."
        )
        return skipped(NAME, why, len(rows), total, "Collect more production inputs.")
    texts = [row.prompt for row in rows], [row.prompt for row in production]
    apart = told_apart(*texts, seed)
    far = far_share([r.prompt for r in ours], [r.prompt for r in theirs], [r.place for r in theirs])
    topics = topics_of(*texts, seed)
    alarm = differs(apart) or (far.share.value >= 2 * far.expected and far.p < 0.01) or bool(topics)
    return _part((rows, production), total, (apart, far, topics), alarm)


def _part(
    both: tuple[list[Row], list[Row]], total: int, looks: tuple[Estimate, Far, list[Topic]], alarm: bool
) -> Part:
    (rows, production), (apart, far, topics) = both, looks
    missing = [t for t in topics if t.weight > 1]
    lines = [
        f"{share_text(*far.share)} of production inputs have no row near them (expected"
        f" {100 * far.expected:.0f} %)" + (f", first {', '.join(far.places[:3])}" if far.places else "")
    ]
    lines += [t.sentence() for t in topics]
    measured = (
        f"inputs of {drawn(len(rows), total)} against {len(production):,} production inputs: they"
        f" {in_words(apart)} (AUC {apart.value:.2f} [{apart.low:.2f}, {apart.high:.2f}]; 0.5 = alike)"
    )
    meaning = (
        "The rows were not drawn as production's inputs are (selection bias): what is rare here is"
        " learnt badly,"
        " and a test from these rows does not measure what users will see."
    )
    advice = "Collect rows like the far inputs" + (
        f" and of the rare topics; or weight rows by topic"
        f" ({', '.join(f'x{t.weight:.1f}' for t in missing[:3])})."
        if missing
        else "; draw the test set from production."
    )
    return Part(
        NAME,
        "look" if alarm else "fine",
        measured,
        meaning
        if alarm
        else "The rows look like what production asks; none of the three looks found a bias.",
        advice if alarm else "Nothing to do.",
        len(rows),
        total,
        shortened(lines) if alarm else (),
        {
            "production": len(production),
            "auc": apart._asdict(),
            "far": {**asdict(far), "share": far.share._asdict()},
            "topics": [asdict(t) for t in topics],
        },
    )


def far_share(ours: Sequence[str], theirs: Sequence[str], places: Sequence[str]) -> Far:
    """Share of ``theirs`` whose nearest of ``ours`` (cosine of TF-IDF) is farther than 95 % of ``ours`` are
    from their nearest other. Texts of ``ours`` must differ, else copies would make everything else look
    far."""
    matrix = hashed([*ours, *theirs])
    own, other = matrix[: len(ours)], matrix[len(ours) :]
    among = _nearest(own, own, leave_out=True)
    beside = _nearest(other, own)
    limit = float(np.quantile(among, 1 - FAR))
    expected = float((among < limit).mean())
    far = beside < limit
    _, p = share_difference((int(far.sum()), int((among < limit).sum())), (len(theirs), len(ours)))
    order = np.argsort(beside, kind="stable")
    named = tuple(places[i] for i in order[: min(20, int(far.sum()))])
    return Far(share(int(far.sum()), len(theirs)), expected, p, named)


def _nearest(asked: Matrix, known: Matrix, leave_out: bool = False, block: int = 256) -> Array:
    """Cosine of each row of ``asked`` with the most similar row of ``known`` (its own place left out)."""
    found = np.zeros(asked.shape[0])
    turned = known.T.tocsr()
    for begin in range(0, asked.shape[0], block):
        close = (asked[begin : begin + block] @ turned).toarray()
        if leave_out:
            close[np.arange(len(close)), begin + np.arange(len(close))] = -1.0
        found[begin : begin + block] = close.max(1)
    return found


def _different(rows: Sequence[Row]) -> list[Row]:
    """The first row of each text."""
    return list({normalise(row.prompt): row for row in reversed(rows)}.values())[::-1]
