"""Metrics of answers that a program reads: is it JSON, and does each field say the right thing?

Two JSON values are the same if they are equal as values: the order of keys, spaces, escapes, Unicode
composition (NFC) and the spelling of a number (1, 1.0, 1e0) do not matter; ``true`` is not 1, "1" is not 1.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tunewright.core.errors import DataError
from tunewright.core.names import nearest
from tunewright.evaluate.metrics import Array, Metric


def parse_container(text: str) -> dict[str, Any] | list[Any] | None:
    """The JSON object or array that is the whole of ``text`` (RFC 8259), or ``None``.

    A bare number, string or ``null`` is an answer in words, not a document: ``None``. So are a code fence
    around the JSON and text before or after it, because the program that reads the answer would fail on them.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_fields, parse_float=_number, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):  # RecursionError: a model that repeats "[" without end
        return None
    return value if isinstance(value, (dict, list)) else None


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {unicodedata.normalize("NFC", name): value for name, value in pairs}


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def canonical(value: Any) -> str:
    """One spelling for all equal JSON values."""
    return unicodedata.normalize("NFC", json.dumps(value, sort_keys=True, ensure_ascii=False))


def _valid(predictions: Sequence[str], references: Sequence[str]) -> Array:
    return np.array([parse_container(p) is not None for p in predictions], dtype=np.float64)


def _share_of_fields(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """A reference without fields ({}) is matched by an object without fields only."""
    scores = []
    for prediction, wanted in zip(predictions, _objects(references, "json_fields"), strict=True):
        given = parse_container(prediction)
        if not isinstance(given, dict):
            scores.append(0.0)
        elif wanted:
            scores.append(sum(_same_field(given, wanted, field) for field in wanted) / len(wanted))
        else:
            scores.append(float(not given))
    return np.array(scores)


def _one_field(field: str) -> Callable[[Sequence[str], Sequence[str]], Array]:
    def score(predictions: Sequence[str], references: Sequence[str]) -> Array:
        objects = _objects(references, f"json_field:{field}")
        known = {name for wanted in objects for name in wanted}
        if field not in known:
            hint = nearest(field, known) if known else "The references have no fields."
            raise DataError(f"json_field:{field}: no reference has the field {field!r}. {hint}")
        given = [parse_container(p) for p in predictions]
        hits = [isinstance(g, dict) and _same_field(g, w, field) for g, w in zip(given, objects, strict=True)]
        return np.array(hits, dtype=np.float64)

    return score


def _same_field(given: dict[str, Any], wanted: dict[str, Any], field: str) -> bool:
    """Whether both have the field with equal values, or neither has it."""
    if field not in given or field not in wanted:
        return field not in given and field not in wanted
    return canonical(given[field]) == canonical(wanted[field])


def _objects(references: Sequence[str], name: str) -> list[dict[str, Any]]:
    """All references as JSON objects; raises ``DataError`` that names the first that is none."""
    objects = [parse_container(reference) for reference in references]
    for number, value in enumerate(objects, start=1):
        if not isinstance(value, dict):
            raise DataError(
                f"{name}: reference {number} of {len(objects)} is not a JSON object: "
                f"{references[number - 1][:60]!r}; mend the row or choose another metric"
            )
    return [value for value in objects if isinstance(value, dict)]


json_valid = Metric(
    name="json_valid",
    description="share of answers that are, as a whole, a JSON object or array",
    score=_valid,
)
json_fields = Metric(
    name="json_fields",
    description="mean share of the reference's top-level fields that the answer reproduces exactly",
    score=_share_of_fields,
)


def json_field(field: str) -> Metric:
    """The metric ``json_field:<field>``: accuracy of one top-level field."""
    field = unicodedata.normalize("NFC", field)
    return Metric(
        name=f"json_field:{field}",
        description=f"share of answers whose field {field!r} equals the reference's",
        score=_one_field(field),
    )
