"""Topics of two sets of texts, found together, and which of them weigh differently in the two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.data.audit.features import directions, hashed
from tunewright.data.audit.intervals import Estimate, holm, share_difference
from tunewright.data.audit.result import share_text

TEXTS_PER_TOPIC = 40
MOST = 12
WIDTH = 40
RATIO = 1.5  # of the two shares, from which a topic is worth a word
WORDS = 4
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, slots=True)
class Topic:
    """``weight``: share in the second set over share in the first, by which its rows could be weighted."""

    words: tuple[str, ...]
    first: float
    second: float
    weight: float
    difference: Estimate
    p: float

    def sentence(self) -> str:
        """The finding in words; the first set is the data, the second production."""
        how = "too rare" if self.weight > 1 else "too frequent"
        gap = share_text(*self.difference)
        return (
            f"topic {', '.join(self.words)!r} is {how}: {100 * self.first:.1f} % of the rows,"
            f" {100 * self.second:.1f} % of production (difference {gap}; weight {self.weight:.1f})"
        )


def topics_of(one: Sequence[str], two: Sequence[str], seed: int = 0) -> list[Topic]:
    """Topics whose shares differ certainly (Holm over all topics, 0.01) and by half or more, the largest gap
    first. Clusters are found without knowing the side of a text, so the test is fair."""
    from sklearn.cluster import KMeans

    count = max(2, min(MOST, min(len(one), len(two)) // TEXTS_PER_TOPIC))
    places = directions(hashed([*one, *two]), WIDTH, seed)
    places = places / np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-12)
    cluster = KMeans(count, n_init=2, random_state=seed).fit_predict(places)
    mine, theirs = cluster[: len(one)], cluster[len(one) :]
    sizes = len(one), len(two)
    counts = [(int((theirs == c).sum()), int((mine == c).sum())) for c in range(count)]
    tests = [share_difference(pair, (sizes[1], sizes[0])) for pair in counts]
    adjusted = holm([p for _, p in tests])
    words = top_words([*one, *two], cluster.tolist(), count)
    found = []
    for c, ((second, first), (gap, _), p) in enumerate(zip(counts, tests, adjusted, strict=True)):
        weight = ((second + 0.5) / (sizes[1] + 1)) / ((first + 0.5) / (sizes[0] + 1))
        if p < 0.01 and max(weight, 1 / weight) >= RATIO:
            found.append(Topic(words[c], first / sizes[0], second / sizes[1], weight, gap, p))
    return sorted(found, key=lambda t: (-abs(t.difference.value), t.words))


def top_words(texts: Sequence[str], cluster: Sequence[int], count: int) -> list[tuple[str, ...]]:
    """The words that stand in the texts of each cluster more often than chance, the most telling first."""
    within = [Counter[str]() for _ in range(count)]
    for text, place in zip(texts, cluster, strict=True):
        within[place].update(set(_WORD.findall(text.casefold())))
    whole = sum(within, Counter[str]())
    sizes = Counter(cluster)

    def telling(word: str, c: int) -> float:
        expected = whole[word] * sizes[c] / len(texts)
        return float((within[c][word] - expected) / expected**0.5)

    return [
        tuple(sorted(within[c], key=lambda w: (-telling(w, c), w))[:WORDS]) or ("(no words)",)
        for c in range(count)
    ]
