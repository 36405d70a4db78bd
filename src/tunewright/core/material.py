"""Marks around text that a model is to read and not to obey."""

from __future__ import annotations

import hashlib
import json


def mark_for(*texts: str) -> str:
    """Sixteen hexadecimal digits that depend on the texts and stand in none of them.

    A closing mark that ends in them cannot be part of a text that was written before.
    """
    text = json.dumps(texts)
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    while mark in text:
        mark = hashlib.sha256((mark + text).encode()).hexdigest()[:16]
    return mark
