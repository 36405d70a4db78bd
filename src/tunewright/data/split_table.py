"""What a split needs to know of rows: keys, classes and labels as arrays of numbers, no texts.

The same function describes one row, whether all rows lie in memory or each process describes its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tunewright.core.records import Example, Labelled
from tunewright.data.classes import WHOLE_CLASSES, Class, class_of, is_whole, labels_of
from tunewright.data.dedupe.union import Rows
from tunewright.data.grouping import key_array
from tunewright.data.keys import Key, earlier_prompt_keys, group_key, prompt_key, text_key
from tunewright.data.synthetic.mark import read_mark

CLASS = np.dtype([("id", "<u8"), ("labelled", "u1"), ("whole", "u1")])
LABEL = np.dtype([("row", "<i8"), ("id", "<u8"), ("whole", "u1")])


@dataclass(frozen=True, slots=True)
class SplitTable:
    """``leaders (n, 2)``: the key that draws for a row; ``keys``: what joins rows (``KEY``, several a row);
    ``classes (n,)``: what it is stratified by (id 0: nothing); ``labels``: every label it stands for."""

    leaders: NDArray[np.uint64]
    keys: NDArray[np.void]
    classes: NDArray[np.void]
    labels: NDArray[np.void]


def table_of(examples: Sequence[Example]) -> SplitTable:
    """The table of some rows, numbered from 0."""
    keys = [(row, key) for row, example in enumerate(examples) for _, key in keys_of(example)]
    labels = [
        (row, class_id(label), is_whole(label))
        for row, example in enumerate(examples)
        for label in labels_of(example)
    ]
    leaders = b"".join(group_key(example) or prompt_key(example) for example in examples)
    return SplitTable(
        np.frombuffer(leaders, "<u8").reshape(-1, 2),
        key_array([key for _, key in keys], [row for row, _ in keys]),
        np.array([_class(example) for example in examples], CLASS),
        np.array(labels, LABEL),
    )


def keys_of(example: Example) -> Iterator[tuple[str, Key]]:
    """What keeps a row with others, with its kind: the user's group, what is asked, the whole text.

    A synthetic row also asks what the row asks that it was made from.
    """
    group = group_key(example)
    if group is not None:
        yield "group", group
    yield "prompt", prompt_key(example)
    for earlier in earlier_prompt_keys(example):
        yield "prompt", earlier
    yield "text", text_key(example)
    made = read_mark(example.meta.synthetic)
    if made and made.origin:
        yield "prompt", made.origin


def class_id(known: Class) -> int:
    """A number from 1 that stands for a class in every process."""
    text = "\x1f".join(known).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") or 1


def unseen(ids: NDArray[np.uint64], whole: NDArray[np.uint8]) -> Rows:
    """The first place of each class that must be in train, in order; the ``whole`` ones are whole numbers,
    and only the first ``WHOLE_CLASSES`` of those may claim a place."""
    first = np.sort(np.unique(ids, return_index=True)[1])
    counted = whole[first] == 1
    return first[~counted | (np.cumsum(counted) <= WHOLE_CLASSES)]


def _class(example: Example) -> tuple[int, bool, bool]:
    known = class_of(example)
    if known is None:
        return 0, False, False
    return class_id(known), isinstance(example, Labelled), is_whole(known)
