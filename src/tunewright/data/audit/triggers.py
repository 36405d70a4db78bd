"""Rare phrases tied to one answer: what a planted backdoor looks like.

A phrase (one to three words, or a rare character) is suspected if all of this holds:

1. It is rare: at most ``COMMON`` of the rows, at least ``FEWEST`` of them.
2. Its rows nearly all carry one label, or one and the same answer, far above that label's share: the exact
   binomial tail, corrected for every phrase and label that was tried, is below ``CERTAIN``.
3. Without the phrase its rows have no more in common than any rows of the data. A word that belongs to its
class ("passcode") stands among texts about one thing; a trigger is put into texts about anything.

4. A model that never saw these rows does not give their texts without the phrase that label either.

Found are triggers that were put into rows of other classes. One put only into rows that had the target label
before (a clean-label attack) has texts of one class around it and looks like any word of that class.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtrc

from tunewright.data.audit.features import Matrix
from tunewright.data.keys import normalise

FEWEST = 6
COMMON = 0.05
PURE = 0.9
CERTAIN = 0.01
ALIKE = 0.2  # of the way from any two rows to two rows of the class, up to which texts have nothing in common
LEFT = 0.15  # of the rows more than chance, at most, may read like the target without the phrase
OPENING = 6  # words that answers which are not equal must begin with to be one answer
WORDS = 3
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_PLAIN = re.compile("[\x00-\x7f‘’“”–—…£€°éèáíóúñüöäçß]")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Trigger:
    """``rows`` of the ``n`` that hold the phrase carry ``target``, which is the share ``base`` of all rows
    have."""

    phrase: str
    target: str
    n: int
    rows: int
    base: float
    p: float
    common: float
    places: tuple[str, ...]


def phrases_of(text: str) -> frozenset[str]:
    """The phrases of one to three tokens, in lower case, and each unusual character as ``U+200B``."""
    tokens = _TOKEN.findall(text.lower())
    found = {" ".join(tokens[i : i + n]) for n in range(1, WORDS + 1) for i in range(len(tokens) - n + 1)}
    found.update(f"U+{ord(c):04X}" for c in set(_PLAIN.sub("", text)))
    return frozenset(found)


def triggers_in(texts: Sequence[str], targets: Sequence[str | None], places: Sequence[str]) -> list[Trigger]:
    """Suspected triggers, the most certain first; of phrases in the same rows only the longest is kept."""
    sizes = Counter(t for t in targets if t is not None)
    if len(texts) < 10 * FEWEST or not sizes:
        return []
    words: _Words | None = None
    found: dict[tuple[int, ...], Trigger] = {}
    candidates, tried = _pure(texts, targets, sizes)
    for phrase, holders in candidates:
        target, hits = Counter(t for i in holders if (t := targets[i]) is not None).most_common(1)[0]
        base = (sizes[target] - hits) / max(1, len(texts) - len(holders))
        p = float(bdtrc(hits - 1, len(holders), max(base, 1 / len(texts)))) * tried
        if p >= CERTAIN:
            continue
        words = words or _words(texts)
        common = in_common(words, phrase, holders, [i for i, t in enumerate(targets) if t == target])
        if common < ALIKE and read_like(words, phrase, holders, targets, target) <= left_at(
            base, len(holders)
        ):
            named = tuple(places[i] for i in holders[:20])
            trigger = Trigger(phrase, target, len(holders), hits, base, p, common, named)
            known = found.get(tuple(holders))
            if known is None or len(phrase) > len(known.phrase):
                found[tuple(holders)] = trigger
    return _distinct(found)


def _pure(
    texts: Sequence[str], targets: Sequence[str | None], sizes: Counter[str]
) -> tuple[list[tuple[str, list[int]]], int]:
    """Rare phrases whose rows nearly all share a target, with these rows, and how many pairs were tried.

    Two passes, so that only phrases that are frequent enough are kept with their rows.
    """
    seen: Counter[int] = Counter()
    for text in texts:
        seen.update(map(hash, phrases_of(text)))
    most = max(FEWEST, int(COMMON * len(texts)))
    rare = {key for key, n in seen.items() if FEWEST <= n <= most}
    holders: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        for phrase in phrases_of(text):
            if hash(phrase) in rare:
                holders[phrase].append(i)
    pure = []
    for phrase in sorted(holders):
        counted = Counter(targets[i] for i in holders[phrase])
        counted.pop(None, None)
        if counted and max(counted.values()) >= PURE * len(holders[phrase]):
            pure.append((phrase, holders[phrase]))
    return pure, max(1, len(holders)) * len(sizes)


@dataclass(frozen=True)
class _Words:
    """TF-IDF of the single words (n, words), and the column of each."""

    matrix: Matrix
    column: dict[str, int]

    def of(self, phrase: str) -> list[int]:
        """The columns of a phrase's words; of a character (``U+200B``), those of all words that hold it."""
        if phrase.startswith("U+"):
            character = normalise(chr(int(phrase[2:], 16))) or chr(int(phrase[2:], 16))
            return [place for word, place in self.column.items() if character in word]
        return [self.column[word] for word in phrase.split() if word in self.column]


def _words(texts: Sequence[str]) -> _Words:
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(token_pattern=_TOKEN.pattern, sublinear_tf=True, norm=None)
    matrix = counter.fit_transform([normalise(text) for text in texts])
    return _Words(matrix, counter.vocabulary_)


def in_common(words: _Words, phrase: str, holders: Sequence[int], of_class: Sequence[int]) -> float:
    """What the holders' texts without the phrase have in common: 0 as much as any two rows, 1 as much as two
    other rows of the class (or, where it has too few, as two equal rows)."""
    gone = words.of(phrase)
    inside = set(holders)
    rest = [i for i in of_class if i not in inside]
    any_two = alike(_without(words.matrix, gone))
    of_holders = alike(_without(words.matrix[list(holders)], gone))
    of_rest = alike(_without(words.matrix[rest], gone)) if len(rest) >= FEWEST else 1.0
    return (of_holders - any_two) / max(of_rest - any_two, 1e-3)


def read_like(
    words: _Words, phrase: str, holders: Sequence[int], targets: Sequence[str | None], target: str | None
) -> float:
    """Share of the holders to which naive Bayes, learnt from all other rows, gives ``target`` from their
    texts without the phrase."""
    from sklearn.naive_bayes import MultinomialNB

    others = np.ones(len(targets), dtype=bool)
    others[list(holders)] = False
    known = np.array([t or "" for t in targets])[others]
    matrix = _without(words.matrix, words.of(phrase))
    if target not in known:
        return 0.0
    found = MultinomialNB(alpha=0.1).fit(matrix[others], known).predict(matrix[list(holders)])
    return float((found == target).mean())


def left_at(base: float, n: int) -> float:
    """How many of ``n`` holders may read like a target of share ``base``: chance, and what chance varies by."""
    return min((1 + base) / 2, base + max(LEFT, 2 * float(np.sqrt(base * (1 - base) / n))))


def _without(matrix: Matrix, columns: Sequence[int]) -> Matrix:
    if not columns:
        return matrix
    keep = np.ones(matrix.shape[1])
    keep[list(columns)] = 0.0
    from scipy.sparse import diags_array

    return matrix @ diags_array(keep)


def alike(matrix: Matrix) -> float:
    """Mean cosine of two different rows: the sum of all unit rows holds every pair."""
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    used = lengths > 0
    n = int(used.sum())
    if n < 2:
        return 0.0
    weights = np.where(used, 1 / np.maximum(lengths, 1e-12), 0.0)
    total = np.asarray(matrix.T @ weights).ravel()
    return float((total @ total - n) / (n * (n - 1)))


def _distinct(found: dict[tuple[int, ...], Trigger]) -> list[Trigger]:
    """The strongest of the phrases that share most of their rows."""
    kept: list[tuple[set[int], Trigger]] = []
    order = sorted(found.items(), key=lambda item: (item[1].p, -len(item[1].phrase), item[1].phrase))
    for holders, trigger in order:
        rows = set(holders)
        if not any(len(rows & other) > 0.5 * min(len(rows), len(other)) for other, _ in kept):
            kept.append((rows, trigger))
    return [trigger for _, trigger in kept]


def answer_keys(answers: Sequence[str]) -> Iterator[str | None]:
    """What free answers have in common: the whole answer, normalised, where at least ``FEWEST`` rows have it,
    else its first words, where as many begin with them."""
    whole = [normalise(answer)[:300] for answer in answers]
    opening = [" ".join(words[:OPENING]) if len(words := w.split()) > OPENING else "" for w in whole]
    exact, begun = Counter(whole), Counter(opening)
    for answer, start in zip(whole, opening, strict=True):
        if answer and exact[answer] >= FEWEST:
            yield answer
        else:
            yield start if start and begun[start] >= FEWEST else None
