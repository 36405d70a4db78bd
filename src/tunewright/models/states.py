"""Hidden states on disk, by what they depend on: appended as they are computed, each text with a checksum.

A file that was cut off anywhere holds whole records and at most one broken one, which is left out. A file
that has grown to ``GROUP`` bytes is followed by another; all are mapped into memory to be read.

    states-DIGEST.bin, states-DIGEST-1.bin, …
        header: magic, width, number format; then records: key | states | checksum | states themselves
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tunewright.core.errors import RunError
from tunewright.core.paths import written_atomically

MAGIC = b"tunewright-states-2\n"
HEADER = struct.Struct("<20sI16s")  # magic, width of a state, its number format
RECORD_HEAD = struct.Struct("<16sII")  # key, number of states, crc32 of all that and the states
CHECKED = struct.Struct("<16sI")  # what of it goes into the checksum
DTYPES = {str(d): d for d in (torch.float32, torch.bfloat16, torch.float16)}
GROUP = 256 * 2**20


class Place(NamedTuple):
    """Where the states of a text lie: which file, from which byte, how many."""

    group: int
    start: int
    number: int


class StateStore:
    """States by key in one or several files; what is already known is never written again."""

    def __init__(self, path: Path, width: int, dtype: torch.dtype) -> None:
        """A new, empty store; the first bytes of a file appear together with its name."""
        self.path, self.width, self.dtype = path, width, dtype
        self.places: dict[bytes, Place] = {}
        self._sizes: list[int] = []  # bytes of each file
        self._views: dict[int, np.ndarray] = {}
        self._open()

    @classmethod
    def reopened(cls, path: Path) -> StateStore:
        """The whole records of files that were written before; what comes after them is cut off."""
        with path.open("rb") as f:
            magic, width, dtype = HEADER.unpack(f.read(HEADER.size))
        assert magic == MAGIC, f"{path} holds no states"
        store = cls(path, width, DTYPES[dtype.rstrip(b"\0").decode()])
        while store._path(len(store._sizes)).exists():
            store._open()
        for group in range(len(store._sizes)):
            store._index(group)
        return store

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    def read(self, keys: Sequence[bytes]) -> Tensor:
        """The states of ``keys`` one after the other, (n, width), a copy; every key must be known."""
        places, row = [self.places[key] for key in keys], self.width * self.dtype.itemsize
        found = np.empty(sum(place.number for place in places) * row, np.uint8)
        end = 0
        for place in places:
            size = place.number * row
            found[end : end + size] = self._view(place.group)[place.start : place.start + size]
            end += size
        return torch.from_numpy(found).view(self.dtype).view(-1, self.width)

    def add(self, keys: Sequence[bytes], states: Tensor, counts: Sequence[int] | None = None) -> None:
        """Append the states of those ``keys`` that are not known yet, so that a crash does not lose them.

        ``states`` (n, width) hold those of all keys in order, ``counts`` of each; without it one of each.
        Raises ``RunError`` where the disk is full.
        """
        raw = states.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy()
        counts = [1] * len(keys) if counts is None else counts
        assert sum(counts) == len(raw), f"{len(raw)} states for {sum(counts)} tokens"
        if self._sizes[-1] >= GROUP:
            self._open()
        group, first, pieces = len(self._sizes) - 1, 0, []
        end = self._sizes[group]
        for key, count in zip(keys, counts, strict=True):
            if key not in self.places:
                body = raw[first : first + count].tobytes()
                pieces += [RECORD_HEAD.pack(key, count, _checksum(key, count, body)), body]
                self.places[key] = Place(group, end + RECORD_HEAD.size, count)
                end += RECORD_HEAD.size + len(body)
            first += count
        self._append(group, b"".join(pieces))

    def _append(self, group: int, content: bytes) -> None:
        path = self._path(group)
        try:
            with path.open("ab") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RunError(
                f"{path}: no room for the states of layers that do not train; make room and resume, or start"
                " anew with train.layer_cache=off"
            ) from error
        self._sizes[group] += len(content)
        self._views.pop(group, None)

    def _path(self, group: int) -> Path:
        return self.path.with_stem(f"{self.path.stem}-{group}") if group else self.path

    def _open(self) -> None:
        """The next file, made if it is not there."""
        path = self._path(len(self._sizes))
        if not path.exists():
            with written_atomically(path) as temporary:
                temporary.write_bytes(HEADER.pack(MAGIC, self.width, str(self.dtype).encode()))
        self._sizes.append(path.stat().st_size)

    def _view(self, group: int) -> np.ndarray:
        if group not in self._views:
            self._views[group] = np.memmap(self._path(group), np.uint8, "r")
        return self._views[group]

    def _index(self, group: int) -> None:
        """Find the whole records of a file; it ends before the first that is not."""
        end, row = HEADER.size, self.width * self.dtype.itemsize
        with self._path(group).open("rb") as f:
            f.seek(end)
            while len(head := f.read(RECORD_HEAD.size)) == RECORD_HEAD.size:
                key, count, check = RECORD_HEAD.unpack(head)
                size = count * row
                if end + RECORD_HEAD.size + size > self._sizes[group]:
                    break
                if _checksum(key, count, f.read(size)) != check:
                    break
                self.places[key] = Place(group, end + RECORD_HEAD.size, count)
                end += RECORD_HEAD.size + size
        os.truncate(self._path(group), end)
        self._sizes[group] = end


def _checksum(key: bytes, count: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(CHECKED.pack(key, count)))


def bytes_needed(texts: int, states: int, width: int, dtype: torch.dtype) -> int:
    """What ``states`` states of ``texts`` different texts take on disk."""
    return texts * RECORD_HEAD.size + states * width * dtype.itemsize


def segment_keys(batch: Any) -> list[bytes]:
    """A hash of what the states of each segment depend on: its tokens and those of its prefix."""
    ids = batch.ids.cpu().numpy()
    own = [ids[start : start + length].tobytes() for start, length, _ in batch.segments]
    before = [b"" if parent is None else own[parent] for _, _, parent in batch.segments]
    return [
        hashlib.blake2b(len(b).to_bytes(8, "little") + b + o, digest_size=16).digest()
        for b, o in zip(before, own, strict=True)
    ]
