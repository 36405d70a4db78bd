"""Which labels are classes, so that a split can deal each of them out by its shares.

What a label means is seen from the label itself, never from other rows: that keeps a split stable when rows
are appended. Text is a class. A number with a fraction is a point on a scale, also where a table holds it as
text. A whole number may be either, a class or a quantity, so it is treated as a class, but only the first
``WHOLE_CLASSES`` of them may claim a place in train.

Classes of different tasks are different classes, and a task is dealt out by its shares even without classes.
"""

from __future__ import annotations

import re

from tunewright.core.records import Conversation, Example, Labelled
from tunewright.data.keys import answer_of, normalise

WHOLE_CLASSES = 20
Class = tuple[str, ...]
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
_SCALE = re.compile(r"\s*[+-]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?\s*")


def class_of(example: Example) -> Class | None:
    """What a row is stratified by: its label, "several labels", a chat's answer, its task, or ``None``."""
    if isinstance(example, Conversation):
        return _of_task(("answer", normalise(answer_of(example))), example)
    if isinstance(example, Labelled) and isinstance(example.label, tuple):
        return _of_task(("labels",), example)
    without = ("task", example.meta.task) if example.meta.task else None
    return next(iter(labels_of(example)), without)


def labels_of(example: Example) -> tuple[Class, ...]:
    """Every class that a labelled row stands for; none for a number on a scale."""
    if not isinstance(example, Labelled):
        return ()
    if isinstance(example.label, tuple):
        return tuple(_of_task(("str", label), example) for label in example.label)
    if _on_a_scale(example.label):
        return ()
    return (_of_task((type(example.label).__name__, str(example.label)), example),)


def _of_task(known: Class, example: Example) -> Class:
    """``known`` of this task alone; its first and its last part stay what they are."""
    return (known[0], example.meta.task, *known[1:]) if example.meta.task else known


def _on_a_scale(label: object) -> bool:
    return isinstance(label, float) or (isinstance(label, str) and _SCALE.fullmatch(label) is not None)


def is_whole(known: Class) -> bool:
    """True for a class whose label is a whole number, and so perhaps a quantity."""
    return known[0] in ("int", "str") and _WHOLE.fullmatch(known[-1]) is not None
