"""Which labels are classes, so that a split can deal each of them out by its shares.

What a label means is seen from the label itself, never from other rows: that keeps a split stable when rows
are appended. Text is a class. A number with a fraction is a point on a scale, also where a table holds it as
text. A whole number may be either, a class or a quantity, so it is treated as a class, but only the first
``WHOLE_CLASSES`` of them may claim a place in train.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tunewright.core.records import Conversation, Example, Labelled
from tunewright.data.keys import answer_of, normalise

WHOLE_CLASSES = 20
Class = tuple[str, ...]
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
_SCALE = re.compile(r"\s*[+-]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?\s*")


def class_of(example: Example) -> Class | None:
    """What a row is stratified by, or ``None``: its label, "several labels", or the answer of a chat."""
    if isinstance(example, Conversation):
        return ("answer", normalise(answer_of(example)))
    if not isinstance(example, Labelled):
        return None
    if isinstance(example.label, tuple):
        return ("labels",)
    return next(iter(labels_of(example)), None)


def labels_of(example: Example) -> tuple[Class, ...]:
    """Every class that a labelled row stands for; none for a number on a scale."""
    if not isinstance(example, Labelled):
        return ()
    if isinstance(example.label, tuple):
        return tuple(("str", label) for label in example.label)
    return () if _on_a_scale(example.label) else ((type(example.label).__name__, str(example.label)),)


def unseen(classes: Iterable[tuple[Class, int]]) -> Iterator[tuple[Class, int]]:
    """The first place of each class that must be in train, from ``(class, place)`` in file order."""
    seen: set[Class] = set()
    whole = 0
    for known, place in classes:
        if known not in seen:
            seen.add(known)
            whole += (counted := _is_whole(known))
            if not counted or whole <= WHOLE_CLASSES:
                yield known, place


def _on_a_scale(label: object) -> bool:
    return isinstance(label, float) or (isinstance(label, str) and _SCALE.fullmatch(label) is not None)


def _is_whole(known: Class) -> bool:
    return known[0] in ("int", "str") and _WHOLE.fullmatch(known[-1]) is not None
