"""Metrics whose value is not a mean over rows: BLEU, chrF and perplexity, each from sums of counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.helpers import extract_all_char_ngrams

from tunewright.core.errors import DataError
from tunewright.evaluate.metrics import Array, Metric

ORDER = 4  # BLEU reads n-grams of up to so many tokens
CHAR_ORDER, BETA = CHRF.CHAR_ORDER, CHRF.BETA


def _bleu_rows(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """(n, 2 + 2 * 4): lengths of answer and reference in tokens, matched n-grams, n-grams of the answer."""
    # effective_order changes the sentence's score, which is not used here, never its counts
    scorer = BLEU(effective_order=True)
    found = [scorer.sentence_score(p, [r]) for p, r in zip(predictions, references, strict=True)]
    return np.array([[f.sys_len, f.ref_len, *f.counts, *f.totals] for f in found], dtype=np.float64)


def _bleu(sums: Array, sizes: Array) -> Array:
    """Papineni et al. 2002 with the exponential smoothing that is sacrebleu's default."""
    return np.array([_bleu_of(row) for row in sums.astype(np.int64).tolist()])


def _bleu_of(counts: list[int]) -> float:
    answer, reference, correct, total = counts[0], counts[1], counts[2 : 2 + ORDER], counts[2 + ORDER :]
    return float(BLEU.compute_bleu(correct, total, answer, reference, smooth_method="exp").score)


def _chrf_rows(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """(n, 3 * 6): character n-grams of the answer, of the reference, and of both, for n = 1 to 6."""
    pairs = zip(predictions, references, strict=True)
    return np.array([_chrf_counts(p, r) for p, r in pairs], dtype=np.float64)


def _chrf_counts(prediction: str, reference: str) -> list[int]:
    given = extract_all_char_ngrams(prediction, CHAR_ORDER)
    wanted = extract_all_char_ngrams(reference, CHAR_ORDER)
    # sacrebleu leaves the answer's n-grams out where the reference is too short to have any
    answer = [g.total() if w else 0 for g, w in zip(given, wanted, strict=True)]
    return (
        answer + [w.total() for w in wanted] + [(g & w).total() for g, w in zip(given, wanted, strict=True)]
    )


def _chrf(sums: Array, sizes: Array) -> Array:
    """Popović 2015: F2 of the mean precision and mean recall over the orders that both sides have."""
    given, wanted, matched = np.split(sums, 3, axis=1)
    used = (given > 0) & (wanted > 0)
    orders = np.maximum(used.sum(axis=1), 1)
    precision = np.divide(matched, given, out=np.zeros_like(matched), where=used).sum(axis=1) / orders
    recall = np.divide(matched, wanted, out=np.zeros_like(matched), where=used).sum(axis=1) / orders
    below = BETA**2 * precision + recall
    above = (1 + BETA**2) * precision * recall
    # times 100 at the end, as sacrebleu does it: the same value to the last bit
    score: Array = 100 * np.divide(above, below, out=np.zeros_like(below), where=below > 0)
    return score


def _perplexity_rows(nll: Sequence[float], tokens: Sequence[int]) -> Array:
    """(n, 2): summed negative log-likelihood in nats, and number of tokens."""
    rows = np.column_stack([np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)])
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) | (rows[:, 1] < 1))
    if len(bad):
        i = int(bad[0])
        raise DataError(
            f"perplexity: row {i + 1} of {len(rows)} has a log-likelihood of {-rows[i, 0]} nats over "
            f"{rows[i, 1]:g} tokens; it needs a finite one over at least 1 token"
        )
    return rows


def _perplexity(sums: Array, sizes: Array) -> Array:
    """exp(summed negative log-likelihood / number of tokens); needs no tokenisation of its own."""
    return np.exp(sums[:, 0] / sums[:, 1])


bleu = Metric(
    name="bleu",
    description="BLEU of the corpus, as sacrebleu computes it",
    score=_bleu_rows,
    finish=_bleu,
    unit="points",
    bounds=(0.0, 100.0),
    signature=str(BLEU(references=[[""]]).get_signature()),
)
chrf = Metric(
    name="chrf",
    description="chrF (F-score of character n-grams) of the corpus, as sacrebleu computes it",
    score=_chrf_rows,
    finish=_chrf,
    unit="points",
    bounds=(0.0, 100.0),
    signature=str(CHRF(references=[[""]]).get_signature()),
)
perplexity = Metric(
    name="perplexity",
    description="how many equally likely tokens the model wavers between at each token of the reference",
    score=_perplexity_rows,
    finish=_perplexity,
    higher_is_better=False,
    needs="logprobs",
    unit="perplexity",
    bounds=None,
)
