"""Hashes of the words of many texts at a time, in numpy: what sketches, similarities and benchmarks compare.

A text is folded first (NFKC, case folded). A *word* is a run of letters, digits and their marks.
Characters of scripts that are written without spaces, and symbols that mean something (``+ = < % $`` and
emoji) are words of their own. Punctuation is none, but a minus or an asterisk before a digit is: ``-5``
is not ``5``.

A hash depends on nothing but the word, so it is the same in every process and on every machine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]

_TOGETHER = 1 << 17  # characters that are hashed at a time: their arrays fit into the cache of a core
_PIECE = 1 << 20  # characters of a long text that are hashed at a time
_JOINT = "\n"
_IN_WORD, _ALONE, _DIGIT = 1, 2, 4
_UNSPACED = (  # Thai to Tibetan and Burmese, Khmer, Chinese and Japanese
    (0x0E00, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0x312F),
    (0x31A0, 0xA4CF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)
_SIZES = (0x80, 0x3100, 0x20000, 0x110000)  # of tables: most texts need a small one, which is made at once
_SIGNS = "/%&"  # punctuation by its category, but it means something
_MARKUP = "`|~"  # symbols by their category, but they only lay a text out
_MULTIPLIER = 0x9E6C63D0876A9A99  # odd; a word is a polynomial of it, modulo 2**64
_LONGEST = 1024  # powers that are kept; they begin again in longer words


class Words(NamedTuple):
    """Word hashes of n texts in a row. Those of text i are ``hashes[starts[i]:starts[i + 1]]``.

    ``numeric`` tells which of the words hold a digit.
    """

    hashes: Hashes
    starts: Offsets
    numeric: NDArray[np.bool_]


def folded(text: str) -> str:
    """NFKC and case folded: texts that look alike become equal."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words(texts: Sequence[str]) -> Words:
    """The words of each text, hashed."""
    found = [_hashed(group) for group in _grouped(texts)]
    if not found:
        return Words(np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.bool_))
    counts: Offsets = np.concatenate([np.diff(part.starts) for part in found])
    starts = offsets_of(counts)
    return Words(
        np.concatenate([p.hashes for p in found]), starts, np.concatenate([p.numeric for p in found])
    )


def offsets_of(counts: Offsets) -> Offsets:
    """Where each of some stretches begins, and at the end where the last one ends."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def mixed(values: Hashes) -> Hashes:
    """Each value scattered over all 64 bits, one to one (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _grouped(texts: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > _TOGETHER:
            yield group
            group, size = [], 0
        group.append(folded(text))
        size += len(text) + 1
    if group:
        yield group


def _hashed(texts: list[str]) -> Words:
    if len(texts) == 1 and len(texts[0]) > _PIECE:
        parts = [_hashed([piece]) for piece in _pieces(texts[0])]
        hashes = np.concatenate([part.hashes for part in parts])
        return Words(
            hashes, np.array([0, len(hashes)], np.int64), np.concatenate([part.numeric for part in parts])
        )
    points = _code_points(_JOINT.join(texts))
    begins = offsets_of(np.array([len(text) + 1 for text in texts], np.int64))
    classes = _classes(points)
    opens = classes & _ALONE > 0
    inside = classes & _IN_WORD > 0
    opens[:1] |= inside[:1]
    opens[1:] |= inside[1:] & ~inside[:-1]
    used = np.flatnonzero(classes)
    first = np.flatnonzero(opens[used])
    if not len(first):
        return Words(np.empty(0, np.uint64), np.zeros(len(texts) + 1, np.int64), np.empty(0, np.bool_))
    lengths = np.diff(first, append=len(used))
    place = np.arange(len(used)) - np.repeat(first, lengths)
    terms = (points[used].astype(np.uint64) + np.uint64(1)) * _powers()[place & (_LONGEST - 1)]
    numeric = np.bitwise_or.reduceat(classes[used], first) & _DIGIT > 0
    starts = np.searchsorted(used[first], begins)
    return Words(mixed(np.add.reduceat(terms, first)), starts.astype(np.int64), numeric)


def _pieces(text: str) -> Iterator[str]:
    """A long text in pieces that end at white space where there is some."""
    start = 0
    while start < len(text):
        end = start + _PIECE // 2
        spaces = (text.find(mark, end, end + _PIECE // 2) for mark in (" ", "\n"))
        end = min((found for found in spaces if found >= 0), default=end)
        yield text[start:end]
        start = end


def _code_points(text: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _classes(points: NDArray[np.uint8] | NDArray[np.uint32]) -> NDArray[np.uint8]:
    """``_IN_WORD`` (with ``_DIGIT``), ``_ALONE``, or 0 for what stands between words."""
    most = int(points.max(initial=0))
    classes: NDArray[np.uint8] = _table(next(size for size in _SIZES if most < size))[points]
    for sign in (ord("-"), ord("*")):
        at = np.flatnonzero(points[:-1] == sign)
        if len(at):
            before = np.where(at > 0, classes[at - 1], 0)
            signed = (classes[at + 1] & _DIGIT > 0) & ((before & _IN_WORD == 0) | (sign == ord("*")))
            classes[at[signed]] = _ALONE
    return classes


@cache
def _table(size: int) -> NDArray[np.uint8]:
    """The class of each of the first ``size`` characters."""
    table = np.zeros(size, np.uint8)
    of_category = {"L": _IN_WORD, "M": _IN_WORD, "N": _IN_WORD, "S": _ALONE}
    for point in range(size):
        category = unicodedata.category(chr(point))
        table[point] = _IN_WORD | _DIGIT if category == "Nd" else of_category.get(category[0], 0)
    for first, last in _UNSPACED:
        block = table[first : last + 1]
        block[(block & (_IN_WORD | _DIGIT)) == _IN_WORD] = _ALONE
    for sign in _SIGNS:
        table[ord(sign)] = _ALONE
    for mark in _MARKUP:
        table[ord(mark)] = 0
    return table


@cache
def _powers() -> Hashes:
    return np.array([pow(_MULTIPLIER, n, 2**64) for n in range(1, _LONGEST + 1)], np.uint64)
