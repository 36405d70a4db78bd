"""JSON Schema, with patterns and recursion whose time nobody can bound beforehand."""

from __future__ import annotations

import json
from typing import Any

from jsonschema.validators import validator_for
from referencing import Registry


def fits_schema(
    prompt: str, answer: str, example: dict[str, Any], schema: dict[str, Any] | bool, partial: bool
) -> float:
    """1 if the whole answer is JSON (RFC 8259) that fits the JSON Schema, else 0.

    ``partial``: JSON that does not fit gets 0.5. ``format`` is not checked, and no ``$ref`` is fetched.
    """
    try:
        value = json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError):  # RecursionError: an answer that repeats "[" without end
        return 0.0
    try:
        fits = validator_for(schema)(schema, registry=Registry()).is_valid(value)
    except RecursionError:  # a schema that refers to itself, and an answer too deep to follow
        fits = False
    return 1.0 if fits else 0.5 * partial


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
