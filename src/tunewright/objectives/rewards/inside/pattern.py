"""A regular expression, whose time can grow without bounds with the answer."""

from __future__ import annotations

import re
from typing import Any


def matches(prompt: str, answer: str, example: dict[str, Any], pattern: str, full: bool) -> float:
    """1 if ``pattern`` is found in the answer (``full``: if it matches the whole answer), else 0."""
    found = re.fullmatch(pattern, answer) if full else re.search(pattern, answer)
    return float(found is not None)
