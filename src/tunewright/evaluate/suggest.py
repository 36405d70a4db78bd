"""Which metrics fit these answers? Decided from the reference answers alone, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tunewright.core.errors import DataError
from tunewright.evaluate.metrics_json import parse_container
from tunewright.evaluate.metrics_label import normalise_label
from tunewright.evaluate.metrics_text import rouge_tokens

SHORT = 8  # words in a short answer
ROWS_PER_LABEL = 3  # a label stands in so many rows on average, or it is free text
MOST_FIELDS = 12


@dataclass(frozen=True)
class Suggestion:
    """``metrics`` by name, the primary one first, and one plain sentence that says why."""

    metrics: tuple[str, ...]
    reason: str

    @property
    def primary(self) -> str:
        """The metric that the verdict should use."""
        return self.metrics[0]


def suggest(references: Sequence[str]) -> Suggestion:
    """Metrics for answers like ``references``; raises ``DataError`` if there is none."""
    if not references:
        raise DataError("there is no reference answer to choose metrics from; give at least one test row")
    parsed = [parse_container(reference) for reference in references]
    if all(value is not None for value in parsed):
        return _for_json([value for value in parsed if value is not None])
    words = [len(reference.split()) for reference in references]
    labels = Counter(normalise_label(reference) for reference in references)
    if max(words) <= SHORT and len(labels) * ROWS_PER_LABEL <= len(references):
        reason = f"the answers are {len(labels)} distinct labels over {len(references)} rows"
        return Suggestion(("accuracy", "macro_f1"), reason)
    if median(words) <= SHORT:
        reason = f"the answers are short (median {median(words):g} words)"
        return Suggestion(("exact_match", "token_f1"), reason)
    return _for_prose(references, median(words))


def _for_json(values: Sequence[dict[str, Any] | list[Any]]) -> Suggestion:
    objects = [value for value in values if isinstance(value, dict)]
    if len(objects) < len(values):
        return Suggestion(("exact_match", "json_valid"), "every answer is JSON, but not every one an object")
    seen = Counter(field for value in objects for field in value)
    common = [field for field, count in seen.most_common() if 2 * count >= len(objects)]
    reason = f"every answer is a JSON object with {len(seen)} fields in all"
    if len(seen) > len(common[:MOST_FIELDS]):
        reason += f", the {len(common[:MOST_FIELDS])} most common of which are scored one by one"
    fields = tuple(f"json_field:{field}" for field in common[:MOST_FIELDS] if field)
    return Suggestion(("exact_match", "json_valid", "json_fields", *fields), reason)


def _for_prose(references: Sequence[str], words: float) -> Suggestion:
    """ROUGE-L reads a-z and 0-9 only; for answers in another script, chrF leads."""
    readable = sum(len(token) for reference in references for token in rouge_tokens(reference))
    letters = sum(c.isalnum() for reference in references for c in reference)
    reason = f"the answers are long (median {words:g} words)"
    if 2 * readable < letters:
        return Suggestion(("chrf", "bleu", "perplexity"), f"{reason} and not in the Latin script")
    return Suggestion(("rouge_l", "chrf", "bleu", "perplexity"), reason)
