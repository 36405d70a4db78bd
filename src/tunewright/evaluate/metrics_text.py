"""Metrics that compare one answer with one reference as text."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunewright.evaluate.metrics import Array, Metric
from tunewright.evaluate.metrics_json import canonical, parse_container


def normalise(text: str) -> str:
    """What ``exact_match`` compares: Unicode NFC, without white space at either end; case matters."""
    return unicodedata.normalize("NFC", text).strip()


def _same_answer(prediction: str, reference: str) -> bool:
    wanted = parse_container(reference)
    if wanted is None:
        return normalise(prediction) == normalise(reference)
    given = parse_container(prediction)
    return given is not None and canonical(given) == canonical(wanted)


def _exact_match(predictions: Sequence[str], references: Sequence[str]) -> Array:
    pairs = zip(predictions, references, strict=True)
    return np.array([_same_answer(p, r) for p, r in pairs], dtype=np.float64)


_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def squad_tokens(text: str) -> list[str]:
    """Words as SQuAD 1.1 compares them: lower case, without ASCII punctuation and English articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def f1(matched: int, given: int, wanted: int) -> float:
    """Harmonic mean of precision matched/given and recall matched/wanted; 0 if nothing matches."""
    return 2 * matched / (given + wanted) if matched else 0.0


def _token_f1(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """Rajpurkar et al. 2016, section 6.1. An empty side matches only an empty side (SQuAD 2.0)."""
    scores = []
    for prediction, reference in zip(predictions, references, strict=True):
        given, wanted = squad_tokens(prediction), squad_tokens(reference)
        matched = (Counter(given) & Counter(wanted)).total()
        scores.append(f1(matched, len(given), len(wanted)) if given and wanted else float(given == wanted))
    return np.array(scores)


def rouge_tokens(text: str) -> list[str]:
    """Runs of a-z and 0-9 of the lower-cased text, as in the rouge-score package without stemming."""
    return re.findall(r"[a-z0-9]+", text.lower())


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    One bit per element of ``first``: a zero in ``state`` marks where the subsequence grows (Hyyrö 2004,
    "Bit-parallel LCS-length computation revisited"), so each element of ``second`` costs a few big-integer
    operations.
    """
    places: dict[str, int] = {}
    for i, item in enumerate(first):
        places[item] = places.get(item, 0) | (1 << i)
    all_ones = (1 << len(first)) - 1
    state = all_ones
    for item in second:
        hit = state & places.get(item, 0)
        state = ((state + hit) | (state - hit)) & all_ones
    return len(first) - state.bit_count()


def _rouge_l(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """Lin 2004, section 3, with beta = 1. A side without tokens scores 0, as in rouge-score."""
    scores = []
    for prediction, reference in zip(predictions, references, strict=True):
        given, wanted = rouge_tokens(prediction), rouge_tokens(reference)
        scores.append(f1(common_length(given, wanted), len(given), len(wanted)))
    return np.array(scores)


exact_match = Metric(
    name="exact_match",
    description="share of answers equal to the reference (as text, or as parsed values if it is JSON)",
    score=_exact_match,
)
token_f1 = Metric(
    name="token_f1",
    description="mean F1 of the words that answer and reference share, as in SQuAD",
    score=_token_f1,
    signature="case:lower|punctuation:removed|articles:removed",
)
rouge_l = Metric(
    name="rouge_l",
    description="mean F1 of the longest common subsequence of words (ROUGE-L)",
    score=_rouge_l,
    signature="tokens:[a-z0-9]+|case:lower|stemming:no|beta:1",
)
