"""An index of benchmarks by hashes alone: which rows hold which of their items.

An item of ``LONG`` words or more is *contaminated* by a row that holds at least ``COVERED`` of its
distinct n-grams of eight words (the share that PaLM used). A shorter item must be a whole line or turn of
the row, and one of fewer than ``LEAST`` words is left out, because such a line proves nothing. N-grams
that many items of a benchmark share are its template and count for none of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.core.errors import DataError
from tunewright.core.paths import written_atomically
from tunewright.data.contamination.ngrams import LEAST, LONG, grams_of, ngrams, whole
from tunewright.data.dedupe.words import Hashes, words

COVERED = 0.7
_SHARED, _SHARED_LEAST = 0.01, 10  # an n-gram of more items than both is part of a template
_FORMAT = "tunewright-benchmark-1"
_SIEVE = 1 << 20
_SCATTER, _SIEVE_SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(44)


class Match(NamedTuple):
    """A row that holds an item of a benchmark; ``coverage`` is the share of the item that was found."""

    row: int
    benchmark: str
    item: int
    coverage: float


@dataclass(frozen=True)
class Index:
    """Items of one benchmark or several. ``hashes`` are sorted; ``items[i]`` is the item that holds the i-th.

    Of each item: ``sizes``, how many hashes it has; ``numbers``, its number; ``owners``, whose it is.
    """

    names: tuple[str, ...]
    hashes: Hashes
    items: NDArray[np.uint32]
    sizes: NDArray[np.uint32]
    numbers: NDArray[np.uint32]
    owners: NDArray[np.uint16]
    _sieve: NDArray[np.bool_] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sieve = np.zeros(_SIEVE, np.bool_)
        sieve[_sieved(self.hashes)] = True
        object.__setattr__(self, "_sieve", sieve)

    @classmethod
    def build(cls, name: str, items: Sequence[tuple[int, str]], most: int | None = None) -> Index:
        """Index ``(number, text)`` of each item; ``most`` keeps no more than so many hashes of one."""
        hashes, ends, _ = words([text for _, text in items])
        counts = np.diff(ends)
        grams, owner = ngrams(hashes, ends)
        grams, owner = _distinct(grams, owner)
        grams, owner = _without_template(grams, owner, len(items))
        kept = counts[owner] >= LONG
        grams, owner = grams[kept], owner[kept]
        bare = np.setdiff1d(np.flatnonzero(counts >= LEAST), owner)
        grams = np.concatenate((grams, whole(hashes, ends)[bare]))
        owner = np.concatenate((owner, bare))
        grams, owner = _at_most(grams, owner, most)
        used, place = np.unique(owner, return_inverse=True)
        order = np.argsort(grams, kind="stable")
        numbers = np.array([number for number, _ in items], np.uint32)[used]
        sizes = np.bincount(place, minlength=len(used)).astype(np.uint32)
        return cls(
            (name,),
            grams[order],
            place[order].astype(np.uint32),
            sizes,
            numbers,
            np.zeros(len(used), np.uint16),
        )

    @classmethod
    def merged(cls, parts: Sequence[Index]) -> Index:
        """All items of ``parts`` in one index."""
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        first = np.cumsum([0, *(len(part.sizes) for part in parts)])
        places = [np.array([names.index(n) for n in part.names], np.uint16)[part.owners] for part in parts]
        hashes = _joined([part.hashes for part in parts], np.uint64)
        shifted = [part.items.astype(np.int64) + start for part, start in zip(parts, first[:-1], strict=True)]
        items = _joined(shifted, np.int64)
        order = np.argsort(hashes, kind="stable")
        return cls(
            names,
            hashes[order],
            items[order].astype(np.uint32),
            _joined([part.sizes for part in parts], np.uint32),
            _joined([part.numbers for part in parts], np.uint32),
            _joined(places, np.uint16),
        )

    def hits(self, texts: Sequence[str], covered: float = COVERED) -> list[Match]:
        """The items that texts made by ``row_text`` hold, by row, benchmark and number."""
        if not len(self.hashes):
            return []
        grams = grams_of(texts)
        likely = np.flatnonzero(self._sieve[_sieved(grams.hashes)])
        hashes, rows = _distinct(grams.hashes[likely], grams.rows[likely])
        begin = np.searchsorted(self.hashes, hashes, "left")
        lengths = np.searchsorted(self.hashes, hashes, "right") - begin
        at = np.repeat(begin, lengths) + _counting(lengths)
        pairs = np.repeat(rows, lengths) * len(self.sizes) + self.items[at]
        found, counts = np.unique(pairs, return_counts=True)
        rows, items = np.divmod(found, len(self.sizes))
        coverage = counts / self.sizes[items]
        best: dict[tuple[int, str, int], float] = {}
        for i in np.flatnonzero(coverage >= covered).tolist():
            item = int(items[i])
            key = int(rows[i]), self.names[self.owners[item]], int(self.numbers[item])
            best[key] = max(best.get(key, 0.0), float(coverage[i]))
        return [Match(*key, share) for key, share in sorted(best.items())]

    def save(self, path: Path) -> None:
        """Write the index to one file: a line of JSON, then the arrays. No text is in it."""
        arrays = [self.hashes, *(_small(a) for a in (self.items, self.sizes, self.numbers, self.owners))]
        shapes = [[array.dtype.str, len(array)] for array in arrays]
        head = {"format": _FORMAT, "names": self.names, "arrays": shapes}
        with written_atomically(path) as temporary, temporary.open("wb") as out:
            out.write(json.dumps(head).encode() + b"\n")
            for array in arrays:
                out.write(array.tobytes())

    @classmethod
    def load(cls, path: Path) -> Index:
        """Read what ``save`` wrote; raises ``DataError`` for anything else."""
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline(1 << 16))
                shapes = _shapes(head)
                size = file.tell() + sum(dtype.itemsize * count for dtype, count in shapes)
                if size != path.stat().st_size:
                    raise ValueError(f"{size} bytes expected")
                arrays = [np.fromfile(file, dtype, count) for dtype, count in shapes]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: no index of benchmarks, or a damaged one; build it again") from error
        hashes, items, sizes, numbers, owners = arrays
        index = cls(
            tuple(head["names"]),
            hashes,
            items.astype(np.uint32),
            sizes.astype(np.uint32),
            numbers.astype(np.uint32),
            owners.astype(np.uint16),
        )
        index._check(path)
        return index

    def _check(self, path: Path) -> None:
        """Refuse an index whose arrays do not fit each other."""
        fits = len(self.hashes) == len(self.items) and len(self.sizes) == len(self.numbers) == len(
            self.owners
        )
        for places, held in ((self.items, self.sizes), (self.owners, self.names)):
            fits = fits and (not len(places) or int(places.max()) < len(held))
        fits = fits and bool((self.sizes > 0).all())
        if not fits or not (self.hashes[1:] >= self.hashes[:-1]).all():
            raise DataError(f"{path}: its arrays do not fit each other; build it again")


def _shapes(head: dict[str, Any]) -> list[tuple[np.dtype[Any], int]]:
    if (
        head["format"] != _FORMAT
        or len(head["arrays"]) != 5
        or not all(isinstance(n, str) for n in head["names"])
    ):
        raise ValueError("another format")
    shapes = [(np.dtype(code), int(size)) for code, size in head["arrays"]]
    if any(dtype.kind != "u" or size < 0 for dtype, size in shapes):
        raise ValueError("another format")
    return shapes


def _sieved(hashes: Hashes) -> NDArray[np.uint64]:
    """A place in the sieve for each hash; most of what is in no benchmark falls through it."""
    return (hashes * _SCATTER) >> _SIEVE_SHIFT


def _distinct(hashes: Hashes, owner: NDArray[np.int64]) -> tuple[Hashes, NDArray[np.int64]]:
    """Each pair once, in order of owner and hash."""
    order = np.lexsort((hashes, owner))
    hashes, owner = hashes[order], owner[order]
    new = np.ones(len(hashes), np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    return hashes[new], owner[new]


def _without_template(
    grams: Hashes, owner: NDArray[np.int64], items: int
) -> tuple[Hashes, NDArray[np.int64]]:
    _, place, counts = np.unique(grams, return_inverse=True, return_counts=True)
    kept = counts[place] <= max(_SHARED_LEAST, _SHARED * items)
    return grams[kept], owner[kept]


def _at_most(grams: Hashes, owner: NDArray[np.int64], most: int | None) -> tuple[Hashes, NDArray[np.int64]]:
    """The ``most`` smallest hashes of each owner: a sample that depends on nothing else."""
    order = np.lexsort((grams, owner))
    grams, owner = grams[order], owner[order]
    if most is None:
        return grams, owner
    rank = _counting(np.bincount(owner))
    return grams[rank < most], owner[rank < most]


def _counting(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2 … for each of some lengths, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)


def _joined(arrays: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(arrays).astype(dtype) if arrays else np.empty(0, dtype)


def _small(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in the smallest unsigned type that holds them."""
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))
